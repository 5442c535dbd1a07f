from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from numbers_maker import ROWS, Counting, Numbers, die, expected, fail

import mmtrain
from mmtrain.data.loader.loader import EvalLoader, Loader
from mmtrain.data.loader.processes import ProcessStream
from mmtrain.errors import DataError

HERE = Path(__file__).parent
KINDS = [(0, "process"), (1, "process"), (3, "process"), (2, "thread")]


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Any, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(condition())


def program(text: str) -> subprocess.Popen[str]:
    """Python, in a session of its own, on this folder and this checkout."""
    search = os.pathsep.join([str(HERE), str(Path(mmtrain.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": search, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", textwrap.dedent(text)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipes)  # type: ignore[call-overload]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has small batches shared out among workers, as large ones are."""
    monkeypatch.setattr("mmtrain.data.loader.stream.MIN_PIECE", 8)


@pytest.fixture
def loaders() -> Iterator[Any]:
    made: list[Loader] = []

    def make(maker: Numbers, **options: Any) -> Loader:
        made.append(Loader(maker, Counting(), **options))
        return made[-1]

    yield make
    for loader in made:
        loader.close()


@pytest.mark.parametrize(("num_workers", "kind"), KINDS)
@pytest.mark.parametrize("prefetch", [1, 4])
def test_batches_come_whole_and_in_order(loaders: Any, num_workers: int, kind: Any, prefetch: int) -> None:
    loader = loaders(Numbers(), num_workers=num_workers, workers=kind, prefetch=prefetch)
    for epoch in range(3):
        for step, batch in enumerate(loader):
            assert batch["number"].tolist() == expected(epoch, step)
            assert batch["key"] == [str(number) for number in expected(epoch, step)]
            assert torch.equal(batch["image"][:, 2, 7, 7], batch["number"] % 251)
            assert batch["weight"].tolist() == [1.0] * ROWS


@pytest.mark.parametrize(("num_workers", "kind"), KINDS)
def test_batches_that_are_kept_stay_as_they_were(loaders: Any, num_workers: int, kind: Any) -> None:
    loader = loaders(Numbers(), num_workers=num_workers, workers=kind, prefetch=2)
    batches = [batch for _ in range(2) for batch in loader]
    loader.close()
    gc.collect()
    for step, batch in enumerate(batches):
        assert batch["number"].tolist() == expected(step // 10, step % 10)
        assert torch.equal(batch["image"][:, 0, 0, 0], batch["number"] % 251)


def test_a_view_of_a_batch_keeps_its_slot(loaders: Any) -> None:
    loader = loaders(Numbers(), num_workers=2, prefetch=1)
    rows, before = None, None
    for _ in range(2):
        for batch in loader:
            if rows is None:
                rows, before = batch["image"][5:7, 1], batch["image"][5:7, 1].clone()
            del batch
    assert rows is not None and before is not None
    assert torch.equal(rows, before)


def test_workers_share_out_the_rows_of_each_batch_and_start_once(loaders: Any) -> None:
    loader = loaders(Numbers(), num_workers=3)
    pids = [set(batch["pid"]) for _ in range(3) for batch in loader]
    assert len(pids[0]) == 3
    assert os.getpid() not in pids[0]
    assert all(batch == pids[0] for batch in pids)


def test_small_batches_go_round_the_workers_whole(loaders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmtrain.data.loader.stream.MIN_PIECE", ROWS)
    pids = [set(batch["pid"]) for batch in loaders(Numbers(), num_workers=2)]
    assert all(len(batch) == 1 for batch in pids)
    assert [batch == pids[0] for batch in pids] == [True, False] * 5


def test_what_comes_beside_the_slots_may_be_larger_than_a_pipe(loaders: Any) -> None:
    loader = loaders(Numbers(text=20_000), num_workers=2, prefetch=4)  # some 400 kB a batch, four ahead
    time.sleep(0.1)
    for step, batch in enumerate(loader):
        assert batch["key"][3] == str(expected(0, step)[3]) * 20_000


def test_no_more_is_prepared_than_there_are_slots_for(loaders: Any, tmp_path: Path) -> None:
    def note() -> None:
        (tmp_path / "reached").touch()

    far = ROWS * (2 + 2 + 3)  # one handed out, prefetch and held ones beside it, and some
    loader = loaders(Numbers({far: note}), num_workers=2, prefetch=2)
    iterator = iter(loader)
    next(iterator)
    time.sleep(0.5)
    assert not (tmp_path / "reached").exists()
    list(iterator)
    assert (tmp_path / "reached").exists()


def test_a_dead_worker_is_named_with_what_it_was_at(loaders: Any) -> None:
    loader = loaders(Numbers({50: die}), num_workers=2)
    with pytest.raises(DataError, match="a data worker died .signal SIGKILL. while it prepared this sample") as caught:
        list(loader)
    assert caught.value.where == "shard 0, key 50"
    assert "num_workers=0" in str(caught.value.mend)


def test_a_worker_that_dies_idle_is_told_too(loaders: Any) -> None:
    loader = loaders(Numbers(), num_workers=2, prefetch=1)
    iterator = iter(loader)
    pid = next(iterator)["pid"][0]
    time.sleep(0.3)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(DataError, match="a data worker died .signal SIGKILL. while it waited for work"):
        list(iterator)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_an_error_in_a_worker_keeps_its_type_and_says_where_it_rose(loaders: Any, num_workers: int) -> None:
    with pytest.raises(ZeroDivisionError, match="a mistake in encode") as caught:
        list(loaders(Numbers({50: fail}), num_workers=num_workers))
    assert any("numbers_maker.py" in note for note in caught.value.__notes__)


def test_no_process_outlives_its_loader() -> None:
    before = children()
    for end in ("close", "exception", "garbage", "evaluation broken off"):
        if end == "evaluation broken off":
            passes = iter(EvalLoader(Numbers(), Counting(), num_workers=2))
            next(passes)
            assert len(children() - before) == 2
            passes.close()  # type: ignore[attr-defined]
        else:
            loader = Loader(Numbers({100: fail}) if end == "exception" else Numbers(), Counting(), num_workers=2)
            iterator = iter(loader)
            next(iterator)
            assert len(children() - before) == 2
            if end == "close":
                loader.close()
            elif end == "exception":
                with pytest.raises(ZeroDivisionError):
                    list(iterator)
            del loader, iterator
            gc.collect()
        assert wait_for(lambda: children() == before), end


def test_a_slow_sample_does_not_hold_up_the_end() -> None:
    loader = Loader(Numbers({30: lambda: time.sleep(60)}), Counting(), num_workers=2)
    next(iter(loader))
    start = time.monotonic()
    loader.close()
    assert time.monotonic() - start < 10


def test_workers_outlive_the_signals_of_a_scheduler(loaders: Any) -> None:
    loader = loaders(Numbers(delay=0.001), num_workers=2)
    iterator = iter(loader)
    for pid in set(next(iterator)["pid"]):
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            os.kill(pid, number)
    assert [batch["number"].tolist() for batch in iterator] == [expected(0, step) for step in range(1, 10)]


START = """
    import sys
    from numbers_maker import Counting, Numbers
    from mmtrain.data.loader import stream
    from mmtrain.data.loader.loader import Loader
    stream.MIN_PIECE = 8
    loader = Loader(Numbers(delay=0.001), Counting(), num_workers=2)
    iterator = iter(loader)
    print(*set(next(iterator)["pid"]), flush=True)
"""


@pytest.mark.parametrize("end", ["exit", "exception", "interrupt", "kill"])
def test_a_program_ends_with_workers_at_work_and_leaves_nothing(end: str) -> None:
    segments = set(os.listdir("/dev/shm"))
    last = {
        "exit": "",
        "exception": "raise ValueError('no more')",
        "interrupt": "while True:\n        for batch in loader: pass",
        "kill": "while True:\n        for batch in loader: pass",
    }[end]
    with program(START + "    " + last) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            pids = [int(pid) for pid in process.stdout.readline().split()]
            assert len(pids) == 2
            if end == "interrupt":
                os.killpg(process.pid, signal.SIGINT)  # as a terminal does: every process of the group
            elif end == "kill":
                process.kill()
            assert process.wait(timeout=60) == {"exit": 0, "exception": 1, "interrupt": -signal.SIGINT, "kill": -9}[end]
            errors = process.stderr.read()
            assert ("Traceback" in errors) == (end in ("exception", "interrupt")), errors
            assert wait_for(lambda: not any(alive(pid) for pid in pids))
            assert set(os.listdir("/dev/shm")) <= segments
        finally:
            process.kill()


def test_a_stream_ends_after_its_last_place() -> None:
    stream = ProcessStream(Numbers(), Counting(), iter([(0, 0), (0, 1)]), num_workers=1, prefetch=4)
    assert [next(stream).batch["number"][0].item() for _ in range(2)] == [0, ROWS]
    with pytest.raises(StopIteration):
        next(stream)
    stream.close()
