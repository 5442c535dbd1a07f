"""Tasks in worker processes: a worker's error or death is the caller's error, and none outlives its caller for long."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import cv2

from mmtrain.errors import RunError, UserError

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Failure:
    error: UserError | None
    report: str


def run_tasks(make: Callable[[Task], Result], tasks: Iterable[Task], num_workers: int) -> Generator[Result, None, None]:
    """Yields ``make(task)`` of each task, in the order in which they are done.

    A worker whose caller was killed ends its task and leaves.

    Args:
        make: Is sent to each worker once.
        tasks: Taken one by one, as workers come free.
        num_workers: Processes; with one or none, the tasks run in this process.

    Raises:
        UserError: What ``make`` raised in a worker.
        RunError: A worker was killed, or met an error that is not the user's.
    """
    if num_workers <= 1:
        yield from map(make, tasks)
        return
    # Neither threads nor file descriptors of this process come along, as they would with a plain fork.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    workers: list[BaseProcess] = []
    busy: dict[Connection, BaseProcess] = {}
    rest = iter(tasks)
    try:
        for task in islice(rest, num_workers):
            ours, theirs = context.Pipe()
            worker: BaseProcess = context.Process(target=_work, args=(make, theirs), daemon=True)
            worker.start()
            theirs.close()  # so that its death ends the pipe
            workers.append(worker)
            busy[ours] = worker
            _send(ours, task, worker)
        while busy:
            for pipe in wait(list(busy)):
                assert isinstance(pipe, Connection)
                result: Result = _receive(pipe, busy[pipe])
                for task in rest:
                    _send(pipe, task, busy[pipe])
                    break
                else:
                    del busy[pipe]
                    pipe.close()
                yield result
    finally:
        for process in workers:
            process.terminate()
        for process in workers:
            process.join()


def _send(pipe: Connection, task: object, worker: BaseProcess) -> None:
    try:
        pipe.send(task)
    except OSError:
        raise _killed(worker) from None


def _receive(pipe: Connection, worker: BaseProcess) -> Any:
    try:
        result = pipe.recv()
    except (EOFError, OSError):
        raise _killed(worker) from None
    if not isinstance(result, _Failure):
        return result
    if result.error is not None:
        raise result.error
    raise RunError(f"a worker failed:\n{result.report}")


def _killed(worker: BaseProcess) -> RunError:
    worker.join(5)
    mend = "was it short of memory? run the command again, with fewer workers: finished shards are kept"
    return RunError(f"a worker was killed (exit code {worker.exitcode})", where=f"process {worker.pid}", mend=mend)


def _work(make: Callable[[Task], Result], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the caller ends its workers
    cv2.setNumThreads(0)
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            result: Result | _Failure = make(task)
        except UserError as error:
            result = _Failure(error, "")
        except Exception:
            result = _Failure(None, traceback.format_exc())
        try:
            pipe.send(result)
        except OSError:  # the caller is gone
            return
