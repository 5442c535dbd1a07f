"""A disk that is really full: what was saved before stays, the training goes on, and only the last one must succeed."""

from __future__ import annotations

import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed as dist
from gloo_ranks import RunRanks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from toy_run import train

from mmtrain.callback.checkpoint_io import checkpoint_path, latest_checkpoint, list_checkpoints, why_torn
from mmtrain.callback.checkpoint_writer import Save, Writer
from mmtrain.errors import RunError

SIZE = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a MiB. Skips where this process may not mount one."""
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("file systems can be mounted by root only")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(disk: Path) -> None:
    with (disk / "other").open("wb", buffering=0) as file:
        while True:
            try:
                file.write(b"x" * 4096)
            except OSError:
                return


class Filler(pl.Callback):
    """Fills the disk at one step, and frees it at another."""

    def __init__(self, disk: Path, full: int, free: int | None) -> None:
        self.disk, self.full, self.free = disk, full, free

    def on_train_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if trainer.global_step == self.full:
            fill(self.disk)
        if trainer.global_step == self.free:
            (self.disk / "other").unlink()


def steps(disk: Path) -> list[int]:
    assert not list(disk.glob(".step_*")), "nothing unfinished is left"
    assert all(why_torn(path) is None for path in list_checkpoints(disk))
    return sorted(int(path.stem[5:]) for path in list_checkpoints(disk))


def test_a_run_goes_on_without_the_checkpoints_that_do_not_fit(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[list[int]] = []

    class Look(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
            if trainer.global_step == 6:
                seen.append(steps(disk))

    train(disk.parent, max_steps=8, eval_every=None, extra=[Look(), Filler(disk, full=3, free=6)])
    assert seen == [[2]], "step 4 and step 6 did not fit, and step 2 is whole"
    assert steps(disk) == [2, 8]
    told = [record.getMessage() for record in caplog.records if "could not be saved" in record.getMessage()]
    assert [message.split(" could")[0] for message in told] == ["step 4", "step 6"]
    assert "No space left on device" in told[0] or "write" in told[0]


def test_a_run_whose_last_checkpoint_does_not_fit_says_so_and_can_be_resumed(disk: Path) -> None:
    with pytest.raises(RunError, match="step 8 could not be saved") as caught:
        train(disk.parent, max_steps=8, eval_every=None, extra=[Filler(disk, full=7, free=None)])
    assert "free some space" in str(caught.value)
    assert steps(disk) == [4, 6]
    (disk / "other").unlink()
    train(disk.parent, max_steps=8, eval_every=None)
    assert steps(disk) == [6, 8]


def write_shards(disk: Path) -> list[str | None]:
    """Three saves of two ranks, the second of which does not fit."""
    torch.manual_seed(0)
    model = nn.Linear(128, 256)
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    writer, errors = Writer(lambda *_: None, background=True), []
    for step in (1, 2, 3):
        if dist.get_rank() == 0 and step == 2:
            fill(disk)
        if dist.get_rank() == 0 and step == 3:
            (disk / "other").unlink()
        dist.barrier()
        writer.start({"state_dict": model.state_dict()}, Save(checkpoint_path(disk, step), step, {}, best=False))
        written = writer.wait()
        assert written is not None
        errors.append(written.error)
    return errors


def test_all_ranks_learn_that_a_folder_of_shards_does_not_fit(disk: Path, run_ranks: RunRanks) -> None:
    first, second = run_ranks(2, write_shards, disk)
    assert first == second
    assert first[0] is None and first[2] is None
    assert first[1] is not None
    assert steps(disk) == [1, 3]
    assert latest_checkpoint(disk) == checkpoint_path(disk, 3)


def write_over_a_limit(directory: Path) -> str | None:
    """A save of two ranks, of which the second one may not write its shards."""
    torch.manual_seed(0)
    model = nn.Linear(128, 256)
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    writer = Writer(lambda *_: None, background=True)
    if dist.get_rank() == 1:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    writer.start({"state_dict": model.state_dict()}, Save(checkpoint_path(directory, 1), 1, {}, best=False))
    written = writer.wait()
    if dist.get_rank() == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert written is not None
    return written.error


def test_a_folder_that_lacks_another_ranks_shards_is_not_named(tmp_path: Path, run_ranks: RunRanks) -> None:
    first, second = run_ranks(2, write_over_a_limit, tmp_path)
    assert first == second
    assert "rank 1" in first
    assert list(tmp_path.iterdir()) == []
