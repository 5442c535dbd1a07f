# shellcheck shell=bash
# What the batch scripts beside this file share: how a job finds its first node, and when it is queued again.

# The address by which SLURM itself reaches the first node: a name need not resolve, or may lead to another network.
first_address() {
  local node address
  node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  address=$(scontrol --oneliner show node "$node" | sed -n 's/.* NodeAddr=\([^ ]*\) .*/\1/p')
  echo "${address:-$node}"
}

# The step of the newest checkpoint in a run directory, 0 where there is none.
newest_step() {
  local record number=0
  for record in "$1"/checkpoints/step_*.json; do
    [[ -e $record ]] && number=${record##*/step_}
  done
  echo "$((10#${number%.json}))"
}

# Runs a command, and has SLURM run this job again if its training was asked to stop (it left REQUEUE) or failed, and
# came further than where this start began. A job that comes no further would be started for ever.
# The status of the command does not tell: of a preempted job it is 0, 75, 85 or 143, as srun, torchrun and luck have it.
run_and_requeue() {
  local status=0 run start step job=$SLURM_JOB_ID cancelled=
  [[ -n ${SLURM_ARRAY_JOB_ID:-} ]] && job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
  export MMTRAIN_JOB_FILE=$PWD/.mmtrain-job-$job # rank 0 writes there in which directory and from which step it trains
  rm -f "$MMTRAIN_JOB_FILE"

  # Only scancel, and a preemption after which SLURM queues the job itself, send SIGTERM to this script.
  trap 'cancelled=yes' TERM
  "$@" &
  wait $! || status=$?
  if [[ -n $cancelled ]]; then
    wait # for the training to save
    rm -f "$MMTRAIN_JOB_FILE"
    say "asked to end: not queued again"
    return 143
  fi

  run=$(sed -n 1p "$MMTRAIN_JOB_FILE" 2>/dev/null)
  start=$(sed -n 2p "$MMTRAIN_JOB_FILE" 2>/dev/null)
  rm -f "$MMTRAIN_JOB_FILE"
  if [[ -z $run ]]; then
    [[ $status -eq 0 ]] || say "ended with status $status before it trained: not queued again"
    return "$status"
  fi
  if [[ -e $run/DONE || ($status -eq 0 && ! -e $run/REQUEUE) ]]; then
    return "$status"
  fi
  step=$(newest_step "$run")
  if ((step <= start)); then
    say "ended with status $status at step $step, where it began: not queued again; see above, and $run/log.txt"
    return "$((status > 0 ? status : 1))"
  fi
  say "ended with status $status at step $step, after step $start: queued again, to go on in $run"
  scontrol requeue "$job"
}

say() {
  echo "$(date +%FT%T) job $SLURM_JOB_ID: $*"
}
