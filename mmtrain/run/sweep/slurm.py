"""A sweep on a cluster: one array for all the jobs that are to run."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmtrain.config import config_dir
from mmtrain.errors import ConfigError, RunError
from mmtrain.run.sweep.plan import Sweep

_OURS = ("--array", "-a", "--parsable")


def array_script() -> Path:
    """``slurm/array.sbatch``, beside the configs.

    Raises:
        RunError: It is not there.
    """
    path = config_dir().parent / "slurm" / "array.sbatch"
    if not path.is_file():
        raise RunError("the batch script is missing", where=str(path), mend="give one with --script FILE")
    return path


def sbatch_command(
    sweep: Sweep, indices: Iterable[int], options: Sequence[str], script: Path, at_a_time: int | None = None
) -> list[str]:
    """The command that submits the jobs of ``indices``, with a task for each of their devices.

    Args:
        sweep: The sweep.
        indices: Of its plan.
        options: Of sbatch, which win over those set here and in the script.
        script: The batch script; its argument is the sweep's directory.
        at_a_time: Most tasks that run at once; None for no limit.

    Raises:
        ConfigError: An option is the sweep's own.
    """
    for option in options:
        if (name := option.partition("=")[0]) in _OURS:
            mend = "--jobs N bounds how many run at a time" if name != "--parsable" else "remove it"
            raise ConfigError(f"a sweep sets {name} itself", where="the command line, after --", mend=mend)
    limit = f"%{at_a_time}" if at_a_time is not None else ""
    return [
        "sbatch",
        "--parsable",
        f"--job-name={sweep.path.name}",
        f"--array={index_list(indices)}{limit}",
        f"--output={sweep.logs / 'slurm_%A_%a.out'}",
        *_ranks(sweep),
        *options,
        str(script),
        str(sweep.path),
    ]


def submit(sweep: Sweep, command: Sequence[str]) -> str:
    """Submits an array, adds it to the sweep's submissions, and returns its job id.

    Raises:
        RunError: There is no sbatch, or it refuses.
    """
    said = _said(command)
    if said is None:
        raise RunError("there is no sbatch here", mend="submit from a login node, or run here: --local")
    if said.returncode != 0:
        raise RunError(f"sbatch refuses: {said.stderr.strip()}", where=" ".join(command))
    job = said.stdout.strip().partition(";")[0]
    with sweep.submissions.open("a") as file:
        file.write(json.dumps({"job": job, "command": list(command)}) + "\n")
    return job


def queued(sweep: Sweep) -> dict[int, str]:
    """What to say of each task, by index, that SLURM has not ended yet; nothing where there is no SLURM.

    Raises:
        RunError: SLURM does not answer.
    """
    if not sweep.submissions.exists() or shutil.which("squeue") is None:
        return {}
    jobs = {json.loads(line)["job"] for line in sweep.submissions.read_text().splitlines()}
    # All jobs: asked for some, squeue refuses all of them for one that it has forgotten.
    command = ["squeue", "--noheader", "--array", "--format=%F %K %T"]
    said = _said(command)
    if said is None or said.returncode != 0:
        reason = said.stderr.strip() if said is not None else "it is not there"
        raise RunError(
            f"SLURM does not tell which jobs wait: {reason}", where=" ".join(command), mend="try again later"
        )
    found = {}
    for job, index, state in (line.split() for line in said.stdout.splitlines()):
        if job in jobs and index.isdigit():
            found[int(index)] = f"job {job}_{index} {state.lower()}"
    return found


def index_list(indices: Iterable[int]) -> str:
    """``0-3,7``."""
    ranges = []
    for _, group in itertools.groupby(enumerate(sorted(indices)), key=lambda pair: pair[1] - pair[0]):
        run = [index for _, index in group]
        ranges.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ",".join(ranges)


def _ranks(sweep: Sweep) -> list[str]:
    """Options for jobs of several ranks, as the first job's config has them."""
    trainer = sweep.base_config()["trainer"]
    nodes, devices = trainer["num_nodes"], trainer["devices"]
    several = [f"--nodes={nodes}"] if nodes > 1 else []
    return [*several, f"--ntasks-per-node={devices}"] if isinstance(devices, int) and devices > 1 else several


def _said(command: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
