"""Worker processes: each prepares batches, or some rows of large ones, in the very memory that they are handed out in.

The trainer's process says which batch is next and in which slot; a worker plans it by itself, so that no message to a
worker grows with the batch, and none can block. What does not fit a slot comes back through a pipe: strings, and arrays
whose shape varies. Workers hold no state: one that dies is named, with the sample it was at, and ends the stream.
"""

from __future__ import annotations

import atexit
import itertools
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import traceback
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from mmap import mmap
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import cv2
import numpy as np
import torch

from mmtrain.data.loader.batch import Maker, Rows, Status, piece_edges
from mmtrain.data.loader.ring import Ring
from mmtrain.data.loader.stream import Finished, Place, finish, pieces_of
from mmtrain.data.plan.share import Plan
from mmtrain.errors import DataError

_HELD = 2  # batches whose slots may stay in use: the one at work, and the one on its way to the device
_PATIENCE = 5.0  # seconds that workers get to end by themselves, and between looks whether the trainer is alive
_IDLE = -1


class _Task(NamedTuple):
    """Prepare the rows ``start`` to ``stop`` of a batch, into ``slot``."""

    place: Place
    slot: int
    start: int
    stop: int


class _Worker(NamedTuple):
    process: BaseProcess
    pipe: Connection
    status: Status


class ProcessStream:
    """Batches prepared ahead of time by worker processes.

    Args:
        maker: Prepares rows.
        plan: What each batch holds; all batches have the same number of rows.
        places: The batches, in order.
        num_workers: Processes.
        prefetch: Batches prepared ahead.
        pin_memory: Whether the slots are page-locked for copies to a GPU.

    Raises:
        DataError: At the next batch: a sample cannot be used, or a worker died.
    """

    def __init__(
        self,
        maker: Maker,
        plan: Plan,
        places: Iterator[Place],
        *,
        num_workers: int,
        prefetch: int,
        pin_memory: bool = False,
    ) -> None:
        self._maker = maker
        self._pending: deque[tuple[int, list[tuple[int, int]]]] = deque()  # slot; worker and first row of each piece
        self._turn = 0
        first = next(places)
        self._places = itertools.chain([first], places)
        share = plan.share(*first)
        self._rows = len(share)
        self._ring = Ring(maker.fields(share), self._rows, slots=prefetch + _HELD)
        status = np.frombuffer(mmap(-1, max(1, num_workers) * 16), np.int64).reshape(-1, 2)
        self._workers = _start(maker, plan, self._ring, status, num_workers)
        stop = _Stop(
            [worker.process for worker in self._workers], [worker.pipe for worker in self._workers], self._ring
        )
        # Before the hook of multiprocessing, which would send SIGTERM, which workers ignore, and wait.
        atexit.register(stop)
        self._close = weakref.finalize(self, stop)
        if pin_memory:
            self._ring.pin()

    def __next__(self) -> Finished:
        self._dispatch()
        if not self._pending:
            raise StopIteration
        slot, pieces = self._pending.popleft()
        parts = [(start, self._receive(self._workers[worker])) for worker, start in pieces]
        tensors = self._ring.lend(slot)
        if self._ring.lent > _HELD:  # someone keeps batches: give a copy, and go on
            tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        finished = finish(tensors, parts)
        self._dispatch()
        return finished

    def close(self) -> None:
        """Ends the workers; batches that were handed out stay valid."""
        self._close()

    def _dispatch(self) -> None:
        """Sends out every batch that has a free slot."""
        while (slot := self._ring.take()) is not None:
            place = next(self._places, None)
            if place is None:
                self._ring.give(slot)
                return
            pieces = []
            for start, stop in piece_edges(self._rows, pieces_of(self._rows, len(self._workers))):
                pieces.append((self._turn, start))
                self._send(self._workers[self._turn], _Task(place, slot, start, stop))
                self._turn = (self._turn + 1) % len(self._workers)
            self._pending.append((slot, pieces))

    def _send(self, worker: _Worker, task: _Task) -> None:
        try:
            worker.pipe.send(task)
        except (BrokenPipeError, ConnectionResetError):
            raise self._died(worker) from None

    def _receive(self, worker: _Worker) -> Rows:
        multiprocessing.connection.wait([worker.pipe, worker.process.sentinel])
        try:
            answer = worker.pipe.recv() if worker.pipe.poll() else None
        except (EOFError, ConnectionResetError):
            answer = None
        if answer is None:
            raise self._died(worker)
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, Rows)
        return answer

    def _died(self, worker: _Worker) -> DataError:
        worker.process.join(_PATIENCE)
        code = worker.process.exitcode
        how = f"exit code {code}" if code is None or code >= 0 else f"signal {signal.Signals(-code).name}"
        source, sample = worker.status.tolist()
        if source == _IDLE:
            where, what = f"process {worker.process.pid}", "while it waited for work"
        else:
            where, what = self._maker.where(source, sample), "while it prepared this sample"
        mend = "look for the out-of-memory killer in the system's log (dmesg), or debug it with data.num_workers=0"
        return DataError(f"a data worker died ({how}) {what}", where=where, mend=mend)


class _Stop:
    """Ends workers. Holds no reference to the stream, whose end calls it."""

    def __init__(self, processes: Sequence[BaseProcess], pipes: Sequence[Connection], ring: Ring) -> None:
        self._processes = processes
        self._pipes = pipes
        self._ring = ring

    def __call__(self) -> None:
        atexit.unregister(self)
        for pipe in self._pipes:
            pipe.close()  # a waiting worker reads the end of its pipe and returns
        multiprocessing.connection.wait([process.sentinel for process in self._processes], 0.05)
        for process in self._processes:
            process.kill()  # one that is at work has nothing to lose
            process.join()
        self._ring.close()


def _start(maker: Maker, plan: Plan, ring: Ring, status: Status, count: int) -> list[_Worker]:
    context = multiprocessing.get_context("fork")  # the ring's memory and the plan are inherited
    workers: list[_Worker] = []
    for number in range(count):
        here, there = context.Pipe()
        others = [worker.pipe for worker in workers] + [here]
        arguments = (maker, plan, ring, status[number], there, others, os.getpid())
        process = context.Process(target=_work, args=arguments, name=f"mmtrain-data-{number}", daemon=True)
        status[number] = _IDLE
        process.start()
        there.close()
        workers.append(_Worker(process, here, status[number]))
    return workers


def _work(
    maker: Maker,
    plan: Plan,
    ring: Ring,
    status: Status,
    pipe: Connection,
    others: Sequence[Connection],
    parent: int,
) -> None:
    # A scheduler signals every process of a job; workers live on until the trainer has saved and ends them.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    for other in others:  # else the trainer's end of a pipe would stay open here after its death
        other.close()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    try:
        while (task := _next_task(pipe, parent)) is not None:
            pipe.send(_prepare(maker, plan, ring, status, task))
            status[:] = _IDLE
    except (BrokenPipeError, ConnectionResetError):
        pass  # the trainer is gone, and so is all need for this batch


def _next_task(pipe: Connection, parent: int) -> _Task | None:
    while not pipe.poll(_PATIENCE):
        if os.getppid() != parent:
            return None
    try:
        task: _Task = pipe.recv()
    except (EOFError, ConnectionResetError):
        return None
    return task


def _prepare(maker: Maker, plan: Plan, ring: Ring, status: Status, task: _Task) -> Rows | BaseException:
    try:
        share = plan.share(*task.place).rows(task.start, task.stop)
        arrays = {name: array[task.start : task.stop] for name, array in ring.arrays(task.slot).items()}
        return maker.fill(share, arrays, status)
    except Exception as error:
        return _portable(error)


def _portable(error: Exception) -> Exception:
    """The error as it can be sent: with where it came from as a note, if it is not one for users."""
    if not isinstance(error, DataError):
        error.add_note("in a data worker:\n" + "".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error
