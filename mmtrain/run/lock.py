"""One job a run directory: who holds it, whether that job lives, and how its other ranks learn that it may begin.

Where the file system has locks the kernel is asked: it knows, and gives up the lock of a dead process. Elsewhere the
holder's record is judged: on its own machine by its process, from another one by the age of the record, which the
holder touches every minute. An age is the difference of two times that the same file server wrote; no clock of one host
is compared with another's.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from mmtrain.errors import RunError
from mmtrain.run.process import Process, is_alive, this_process

_LOG = logging.getLogger(__name__)

_TOUCH_S = 60.0
_STALE_S = 300.0
_SETTLE_S = 1.0
_ROUNDS_S = 0.2
_RANK_0_S = 600.0
_TAKEN = (errno.EACCES, errno.EAGAIN)


@dataclass(frozen=True)
class Holder:
    """Who holds a run directory.

    Attributes:
        host: Its host.
        pid: Process of rank 0.
        job: SLURM job.
        restart: How often SLURM has started that job again.
        attempt: What all ranks of this start of the job have in common; None where rank 0 starts the others.
        process: To tell the process from a later one of the same number.
        token: Of this very taking.
    """

    host: str
    pid: int
    job: str | None
    restart: str | None
    attempt: str | None
    process: Process
    token: str

    def __str__(self) -> str:
        return json.dumps({"host": self.host, "pid": self.pid, "job": self.job})


class Lock:
    """A lock that is held until it is released or the process ends. A thread gives signs of life meanwhile."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path = path
        self._file = file
        self._released = threading.Event()
        threading.Thread(target=self._touch, name="mmtrain-lock", daemon=True).start()

    def release(self) -> None:
        """Gives the directory up."""
        self._released.set()
        self._file.truncate(0)
        self._file.close()

    def _touch(self) -> None:
        while not self._released.wait(_TOUCH_S):
            try:
                os.utime(self._path)  # by name: to open and close the file would give up the lock
            except OSError as error:
                _LOG.info("no sign of life could be given in %s: %s", self._path, error)


def take_lock(directory: Path) -> Lock:
    """Takes the lock of a run directory, which is made where there is none.

    A POSIX record lock: unlike one of ``flock`` it is not shared with forked workers, which may outlive a killed run by
    seconds, and it works over NFS.

    Raises:
        RunError: Another job holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "lock"
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locks = True
    except OSError as error:
        if error.errno in _TAKEN:
            file.close()
            raise _held(directory, read_holder(directory)) from error
        _LOG.warning("the file system of %s has no locks (%s): a job is told from its signs of life", path, error)
        locks = False
    mine = _myself()
    if not locks and (holder := read_holder(directory)) is not None and _lives(holder, mine, path):
        file.close()
        raise _held(directory, holder)
    file.seek(0)
    file.truncate()
    file.write(json.dumps(asdict(mine)) + "\n")
    file.flush()
    if not locks:
        time.sleep(_SETTLE_S)  # of two that came at the same moment, the one who wrote last stays
        if (holder := read_holder(directory)) != mine:
            file.close()
            raise _held(directory, holder)
    return Lock(path, file)


def read_holder(directory: Path) -> Holder | None:
    """Who holds the directory, or did when it ended. Not for the holder itself: reading gives up its lock."""
    try:
        fields = json.loads((directory / "lock").read_text(encoding="utf-8"))
        return Holder(**{**fields, "process": Process(**fields["process"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def attempt() -> str | None:
    """What the ranks of one start of a job have in common, where a launcher starts them all; else None."""
    get = os.environ.get
    if "SLURM_STEP_ID" in os.environ and "LOCAL_RANK" not in os.environ:
        return f"slurm-{get('SLURM_JOB_ID')}.{get('SLURM_STEP_ID')}.{get('SLURM_RESTART_COUNT', '0')}"
    if "RANK" in os.environ and "MASTER_ADDR" in os.environ:
        restarts = f"{get('TORCHELASTIC_RUN_ID', '')}-{get('TORCHELASTIC_RESTART_COUNT', '0')}"
        return f"{get('MASTER_ADDR')}-{get('MASTER_PORT', '')}-{restarts}"
    return None


def refuse_all(directory: Path) -> None:
    """Has the other ranks of this job end: rank 0 may not begin."""
    if (mine := attempt()) is not None and directory.is_dir():
        _refusal(directory, mine).touch()


def forget_refusals(directory: Path) -> None:
    """Clears away what refused jobs left."""
    for note in directory.glob(".refused-*"):
        note.unlink(missing_ok=True)


def await_rank_0(directory: Path) -> None:
    """Waits, in another rank, until rank 0 has the directory.

    Raises:
        SystemExit: Rank 0 was refused, and says why.
        RunError: Rank 0 does not come.
    """
    if (mine := attempt()) is None:
        return
    deadline = time.monotonic() + _RANK_0_S
    while time.monotonic() < deadline:
        holder = read_holder(directory)
        if holder is not None and holder.attempt == mine:
            return
        if _refusal(directory, mine).exists():
            raise SystemExit(1)
        time.sleep(_ROUNDS_S)
    raise RunError(
        f"rank 0 did not open the run directory in {_RANK_0_S / 60:.0f} minutes",
        where=str(directory),
        mend="see what it said; all ranks must see the same file system",
    )


def _refusal(directory: Path, attempt: str) -> Path:
    return directory / f".refused-{attempt.replace('/', '_')}"


def _held(directory: Path, holder: Holder | None) -> RunError:
    where, mend = f"{directory}, held by an unknown process", "wait for it, stop it, or choose another name=..."
    if holder is not None:
        age = _age(directory / "lock")
        where = f"{directory}, held by {holder}, last sign of life {age:.0f} s ago"
        if not holder.process.is_here:
            stale = f"where {holder.host} is down, try again {_STALE_S / 60:.0f} minutes after its last sign of life"
            silent = f"if {holder.host} is down and the file server does not notice, delete {directory / 'lock'}"
            mend += f"; {silent if age > _STALE_S else stale}"
    return RunError("another job is running in this run directory", where=where, mend=mend)


def _myself() -> Holder:
    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        job=os.environ.get("SLURM_JOB_ID"),
        restart=os.environ.get("SLURM_RESTART_COUNT"),
        attempt=attempt(),
        process=this_process(),
        token=uuid.uuid4().hex,
    )


def _lives(holder: Holder, mine: Holder, path: Path) -> bool:
    if holder.job is not None and holder.job == mine.job and holder.restart != mine.restart:
        return False  # SLURM starts a job again when all of it has ended
    return is_alive(holder.pid, holder.process) if holder.process.is_here else _age(path) < _STALE_S


def _age(path: Path) -> float:
    """Seconds since ``path`` was touched, by the clock that wrote its time."""
    probe = path.with_name(f".clock-{uuid.uuid4().hex}")
    probe.touch()
    try:
        return max(0.0, probe.stat().st_mtime - path.stat().st_mtime)
    finally:
        probe.unlink()
