"""What the batch scripts decide and call, with stand-ins for SLURM's commands: no cluster is needed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny_run import ROOT

SLURM = ROOT / "slurm"
# Of an array, scontrol shows all elements.
SCONTROL = f"""#!/bin/bash
case "$*" in
  "show hostnames "*) printf '%s\\n' alpha beta ;;
  "--oneliner show node alpha") echo "NodeName=alpha Arch=x86_64 NodeAddr=10.9.8.7 NodeHostName=alpha " ;;
  "--oneliner show job "*) printf "JobId=%s Command={SLURM}/train.sbatch a b WorkDir=/\\n" 7 8 ;;
  requeue*) echo "$@" >>requeued ;;
esac
"""
PRINTS = '#!/bin/bash\nprintf "%s\\n" "$MASTER_ADDR" "${0##*/}" "$@" >called\n'


@dataclass(frozen=True)
class Site:
    """A folder whose ``bin`` stands before all other programs."""

    home: Path

    def command(self, name: str, text: str) -> None:
        path = self.home / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def start(self, *words: object, **environment: str) -> subprocess.Popen[str]:
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "MASTER_", "MMTRAIN_"))
        }
        job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "alpha,beta"}
        variables = kept | job | {"PATH": f"{self.home / 'bin'}:{os.environ['PATH']}"} | environment
        return subprocess.Popen(
            list(map(str, words)),
            cwd=self.home,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: object, **environment: str) -> tuple[int, str]:
        process = self.start(*words, **environment)
        said, _ = process.communicate(timeout=60)
        return process.returncode, said

    def requeued(self) -> list[str]:
        path = self.home / "requeued"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "bin").mkdir()
    made = Site(tmp_path)
    made.command("scontrol", SCONTROL)
    return made


def job(begin: str, *, status: int = 0, end: str = "") -> list[str]:
    """A job whose training leaves a checkpoint of step 10, after ``begin`` and before ``end``."""
    checkpoint = "mkdir -p run/checkpoints; echo {} >run/checkpoints/step_00000010.json"
    training = f"{begin}; {checkpoint}; {end or ':'}; exit {status}"
    return ["bash", "-c", f"source {SLURM}/requeue.sh; run_and_requeue bash -c '{training}'"]


def from_step(step: int) -> str:
    return f'printf "%s\\n" "$PWD/run" {step} >"$MMTRAIN_JOB_FILE"'


@pytest.mark.parametrize("status", [0, 75, 85, 143])
def test_a_marker_queues_the_job_again_whatever_the_status(site: Site, status: int) -> None:
    ended, said = site.run(*job(from_step(3), status=status, end="touch run/REQUEUE"))
    assert (ended, site.requeued()) == (0, ["requeue 7"])
    assert "at step 10, after step 3: queued again" in said


def test_a_failure_after_progress_queues_the_job_again_and_one_without_ends_it(site: Site) -> None:
    ended, _ = site.run(*job(from_step(9), status=1))
    assert (ended, site.requeued()) == (0, ["requeue 7"])
    for end in (":", "touch run/REQUEUE"):
        ended, said = site.run(*job(from_step(10), status=1, end=end))
        assert (ended, site.requeued()) == (1, ["requeue 7"]), "still the one of before"
        assert "at step 10, where it began: not queued again" in said


def test_a_preemption_without_progress_is_a_failure_although_the_training_ended_well(site: Site) -> None:
    ended, _ = site.run(*job(from_step(10), end="touch run/REQUEUE"))
    assert (ended, site.requeued()) == (1, [])


def test_a_finished_run_and_a_mistake_are_not_queued_again(site: Site) -> None:
    assert site.run(*job(from_step(0)))[0] == 0
    assert site.run(*job(from_step(0), end="touch run/DONE", status=1))[0] == 1
    ended, said = site.run(*job(":", status=2))
    assert ended == 2
    assert "before it trained" in said
    assert site.requeued() == []
    assert not list(site.home.glob(".mmtrain-job*"))


def test_an_element_of_an_array_is_queued_again_by_itself(site: Site) -> None:
    element = {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "3"}
    site.run(*job(from_step(0), end="touch run/REQUEUE", status=75), **element)
    assert site.requeued() == ["requeue 5_3"]


def test_a_cancelled_job_waits_for_its_training_and_does_not_come_back(site: Site) -> None:
    process = site.start(*job(f"{from_step(0)}; touch began; sleep 1", end="touch run/REQUEUE"))
    while not (site.home / "began").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert (site.home / "run" / "REQUEUE").exists()
    assert site.requeued() == []


def test_training_gets_the_nodes_the_devices_and_the_address_of_the_first_node(site: Site) -> None:
    site.command("srun", PRINTS)
    ended, said = site.run("bash", SLURM / "train.sbatch", "experiment=clip_base", "name=a b", SLURM_GPUS_ON_NODE="8")
    assert ended == 0, said
    address, program, *words = (site.home / "called").read_text().splitlines()
    assert (address, program) == ("10.9.8.7", "srun")
    assert words[:3] == ["--nodes=2", "--ntasks-per-node=8", "--kill-on-bad-exit=1"]
    assert words[3:] == [
        *("python", "-m", "mmtrain", "experiment=clip_base", "name=a b"),
        *("trainer.num_nodes=2", "trainer.devices=8"),
    ]


def test_a_container_wraps_the_same_training(site: Site) -> None:
    site.command("srun", PRINTS)
    options = {"SLURM_NTASKS_PER_NODE": "4", "MMTRAIN_MOUNTS": "/data,/scratch"}
    script = [SLURM / "container.sbatch", "experiment=clip_base"]
    site.run("bash", *script, MMTRAIN_IMAGE="mm.sif", **options)
    words = (site.home / "called").read_text().splitlines()[2:]
    bound = f"{site.home},/data,/scratch"
    start = words.index("apptainer")
    assert words[start : words.index("python")] == [
        *("apptainer", "exec", "--nv", "--pwd", str(site.home), "--bind", bound, "mm.sif"),
    ]
    site.run("bash", *script, MMTRAIN_IMAGE="lab/mm:1", **options)
    words = (site.home / "called").read_text().splitlines()[2:]
    assert words[3:6] == [
        "--container-image=lab/mm:1",
        f"--container-mounts={site.home}:{site.home},/data:/data,/scratch:/scratch",
        f"--container-workdir={site.home}",
    ]
    assert words[6:10] == ["python", "-m", "mmtrain", "experiment=clip_base"]
    ended, said = site.run("bash", *script, **options)
    assert ended != 0
    assert "MMTRAIN_IMAGE" in said


def segment(home: Path, run: str, name: str, content: str) -> Path:
    folder = home / "runs" / run / "wandb" / name
    folder.mkdir(parents=True)
    (folder / "run-abc.wandb").write_text(content)
    return folder


def test_offline_runs_are_sent_once_in_order_and_what_fails_is_sent_again(site: Site) -> None:
    site.command("wandb", '#!/bin/bash\necho "$@" >>sent\n[[ ! -e down || "$*" != *first* ]]\n')
    later = segment(site.home, "first", "offline-run-20260102_000000-abc", "two")
    sooner = segment(site.home, "first", "offline-run-20260101_000000-abc", "one")
    other = segment(site.home, "second run", "offline-run-20260103_000000-abc", "three")
    (site.home / "down").touch()
    ended, said = site.run("bash", SLURM / "sync.sbatch")
    assert ended == 1
    assert "runs/first: not sent" in said

    def sent() -> list[str]:
        lines = (site.home / "sent").read_text().splitlines()
        (site.home / "sent").write_text("")
        return [line.removeprefix("sync --yes --include-synced ") for line in lines]

    def relative(*folders: Path) -> str:
        return " ".join(str(folder.relative_to(site.home)) for folder in folders)

    assert sent() == [relative(sooner, later), relative(other)]
    (site.home / "down").unlink()
    assert site.run("bash", SLURM / "sync.sbatch", "runs")[0] == 0
    assert sent() == [relative(sooner, later)]
    receipt = (other.parent / "synced.tsv").read_text().split("\t")
    assert len(receipt) == 3 and receipt[2].strip() == other.name
    (later / "run-abc.wandb").write_text("two, and more")
    assert site.run("bash", SLURM / "sync.sbatch", "runs/first")[0] == 0
    assert sent() == [relative(later)]
    assert site.run("bash", SLURM / "sync.sbatch")[0] == 0
    assert sent() == []


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    scripts = [*SLURM.rglob("*.sbatch"), *SLURM.rglob("*.sh"), ROOT / ".ci" / "run"]
    done = subprocess.run(["shellcheck", "-x", *scripts], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
