"""A real SLURM cluster of two nodes on this machine, in a folder of its own: no systemd, no cgroups, no fixed port."""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from tiny_run import ROOT

DAEMONS = ("munged", "slurmctld", "slurmd")
SYSTEM_PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
KILL_WAIT_S = 5


@dataclass(frozen=True)
class Node:
    """A node, and the words that run a command there."""

    name: str
    address: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()


def missing_programs() -> list[str]:
    """The programs of SLURM that are not installed here."""
    return [name for name in (*DAEMONS, "sbatch") if shutil.which(name, path=SYSTEM_PATH) is None]


class Cluster:
    """``munged``, ``slurmctld`` and two ``slurmd``, from :meth:`start` to :meth:`stop`.

    Args:
        home: Of sockets, keys, spools and logs; the path of a socket in it must stay below 108 characters.
        nodes: The first one also has the controller, and jobs are submitted there.
    """

    def __init__(self, home: Path, nodes: Sequence[Node] = (Node("n1"), Node("n2"))) -> None:
        self.home = home
        self.nodes = nodes
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Starts the daemons, and waits until both nodes take jobs."""
        self.home.chmod(0o755)
        key = self.home / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        (self.home / "slurm.conf").write_text(self._config())
        # No cgroup is used, but slurmd looks for a mount of them unless it is told which.
        (self.home / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        files = [f"--{name}-file={self.home}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        first = self.nodes[0]
        self._launch(first, "munged", "--foreground", "--force", f"--socket={self._socket}", *files)
        wait_until(self._socket.exists, "munged opens its socket", 20)
        self._launch(first, "slurmctld", "-D", "-i")
        for node in self.nodes:
            self._launch(node, "slurmd", "-D", "-N", node.name)
        try:
            wait_until(self._is_idle, "both nodes are idle", 60)
        except AssertionError as error:
            logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(self.home.glob("*.out")))
            raise AssertionError(f"{error}\n{logs}") from error

    def stop(self) -> None:
        """Ends all jobs and daemons, whatever state they are in."""
        self.run("scancel", "--user", getpass.getuser(), check=False)
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def run(self, *command: object, cwd: Path | None = None, check: bool = True, **environment: str) -> str:
        """What a command of SLURM prints."""
        done = subprocess.run(
            [*self.nodes[0].prefix, *map(str, command)],
            cwd=cwd,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, *arguments: object, cwd: Path, **environment: str) -> str:
        """Submits a batch script from ``cwd``; returns the job's id."""
        return self.run("sbatch", "--parsable", *arguments, cwd=cwd, **environment).strip()

    def state(self, job: str) -> str:
        """State of a job or of an array's element, e.g. ``RUNNING``."""
        return self.field(job, "JobState")

    def field(self, job: str, name: str) -> str:
        """A field of ``scontrol show job``."""
        words = self.run("scontrol", "--oneliner", "show", "job", job).split()
        return next(word.partition("=")[2] for word in words if word.startswith(f"{name}="))

    def start_now(self, job: str) -> None:
        """Has a requeued job start, which would wait for two minutes."""

        def has_ended() -> bool:
            eligible = self.field(job, "EligibleTime")
            return eligible != "Unknown" and datetime.fromisoformat(eligible) > datetime.now() + timedelta(seconds=10)

        wait_until(has_ended, f"the last start of job {job} has ended", 60)
        time.sleep(
            2
        )  # slurmd, which tells the credentials of two starts apart by their seconds, would refuse the second
        self.run("scontrol", "update", f"jobid={job}", "StartTime=now")
        wait_until(lambda: self.state(job) != "PENDING", f"job {job} starts again", 60)

    @property
    def environment(self) -> dict[str, str]:
        """That of whoever submits jobs here."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_", "WANDB_"))}
        path = f"{Path(sys.executable).parent}:{SYSTEM_PATH}"
        ours = {"SLURM_CONF": str(self.home / "slurm.conf"), "PATH": path, "PYTHONPATH": str(ROOT)}
        return kept | ours | {"OMP_NUM_THREADS": "1"}

    @property
    def _socket(self) -> Path:
        return self.home / "munge.socket"

    def _config(self) -> str:
        controller, *ports = free_ports(1 + len(self.nodes))
        user = getpass.getuser()
        lines = [
            "ClusterName=mmtrain",
            f"SlurmctldHost=localhost({self.nodes[0].address})",
            f"SlurmctldPort={controller}",
            f"SlurmUser={user}",
            f"SlurmdUser={user}",
            f"AuthInfo=socket={self._socket}",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core",
            "ReturnToService=2",
            "JobRequeue=1",
            f"KillWait={KILL_WAIT_S}",
            "MpiDefault=none",
            f"FirstJobId={1 + secrets.randbelow(9000)}",  # from which Lightning takes its port
            "SchedulerParameters=sched_min_interval=0,sched_interval=5",
            f"StateSaveLocation={self.home}/state",
            f"SlurmdSpoolDir={self.home}/spool.%n",
            f"SlurmctldPidFile={self.home}/slurmctld.pid",
            f"SlurmdPidFile={self.home}/slurmd.%n.pid",
        ]
        lines += [
            f"NodeName={node.name} NodeHostname=localhost NodeAddr={node.address} Port={port} CPUs=2 RealMemory=1000"
            for node, port in zip(self.nodes, ports, strict=True)
        ]
        names = ",".join(node.name for node in self.nodes)
        return "\n".join([*lines, f"PartitionName=all Nodes={names} Default=YES State=UP", ""])

    def _launch(self, node: Node, *command: str) -> None:
        path = shutil.which(command[0], path=SYSTEM_PATH)
        assert path is not None
        log = self.home / f"{len(self._processes)}.{command[0]}.out"
        with log.open("wb") as file:
            # A session of its own: Ctrl-C in the tests' terminal is not theirs.
            process = subprocess.Popen(
                [*node.prefix, path, *command[1:]],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self._processes.append(process)

    def _is_idle(self) -> bool:
        return self.run("sinfo", "-h", "-N", "-o", "%T", check=False).split() == ["idle"] * len(self.nodes)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_until(holds: Callable[[], bool], what: str, seconds: float) -> None:
    """Waits, and fails with ``what`` was waited for."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
