"""Checkpoints are whole or not used, and the right ones stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from toy_run import ToyData, ToyModule, differences, quiet, train, trainer_of

from mmtrain.callback.checkpoint import Checkpoint, read_best
from mmtrain.callback.checkpoint_io import (
    AtomicCheckpointIO,
    checkpoint_path,
    latest_checkpoint,
    list_checkpoints,
    read_record,
    record_path,
    seal,
    why_torn,
)
from mmtrain.errors import ConfigError, RunError
from mmtrain.run.datamodule import DataModule


def write(directory: Path, step: int, content: bytes = b"weights", metrics: dict[str, float] | None = None) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "unsealed").write_bytes(content * step)
    path = checkpoint_path(directory, step)
    seal(directory / "unsealed", path, step=step, metrics=metrics or {})
    return path


def write_shards(directory: Path, step: int) -> Path:
    folder = directory / "unsealed"
    folder.mkdir()
    for name in ("a.distcp", "b.distcp"):
        (folder / name).write_bytes(name.encode())
    seal(folder, checkpoint_path(directory, step), step=step, metrics={})
    return checkpoint_path(directory, step)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lose_record(path: Path) -> None:
    record_path(path).unlink()


def tear_record(path: Path) -> None:
    record_path(path).write_text(record_path(path).read_text()[:20])


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, lose_record, tear_record])
def test_a_torn_checkpoint_is_named_and_the_one_before_is_used(tmp_path: Path, damage: Any) -> None:
    paths = [write(tmp_path, step) for step in (9, 10, 11)]
    assert latest_checkpoint(tmp_path) == paths[2]
    damage(paths[2])
    with pytest.warns(UserWarning, match="step_00000011.ckpt is torn"):
        assert latest_checkpoint(tmp_path) == paths[1]


def test_no_checkpoint_is_none_and_only_torn_ones_are_an_error(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "absent") is None
    truncate(write(tmp_path, 1))
    with pytest.warns(UserWarning, match="torn"), pytest.raises(RunError, match="every checkpoint"):
        latest_checkpoint(tmp_path)


def test_a_sharded_checkpoint_is_checked_in_every_file_and_name(tmp_path: Path) -> None:
    path = write_shards(tmp_path, 3)
    assert write_shards(tmp_path, 3) == path
    assert latest_checkpoint(tmp_path) == path
    (path / "b.distcp").rename(path / "c.distcp")
    assert why_torn(path) == "b.distcp is missing"
    write_shards(tmp_path, 3)
    flip_a_bit(path / "b.distcp")
    assert why_torn(path) == "the hash of b.distcp differs from what was written"
    truncate(path / "a.distcp")
    assert why_torn(path) == "a.distcp has 7 bytes, and 8 were written"
    record_path(path).write_text(record_path(path).read_text().replace("b.distcp", "c.distcp"))
    assert why_torn(path) == "its record does not belong to it"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    io = AtomicCheckpointIO()
    io.save_checkpoint({"step": 1}, tmp_path / "a.ckpt")
    with pytest.raises(Exception, match="pickle"):
        io.save_checkpoint({"step": lambda: None}, tmp_path / "a.ckpt")
    assert io.load_checkpoint(tmp_path / "a.ckpt") == {"step": 1}


def test_a_checkpoint_that_needs_code_is_refused(tmp_path: Path) -> None:
    torch.save({"path": Path("x")}, tmp_path / "a.ckpt")
    with pytest.raises(Exception, match="weights_only|Weights only"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=False)


def test_two_identical_runs_write_identical_files_without_paths_or_timings(tmp_path: Path) -> None:
    contents = []
    for place in ("here", "somewhere/else"):
        train(tmp_path / place, max_steps=7, save_every=3)
        paths = list_checkpoints(tmp_path / place / "checkpoints")
        assert [path.name for path in paths] == ["step_00000006.ckpt", "step_00000007.ckpt"]
        contents.append([path.read_bytes() for path in paths])
        assert [read_record(path) for path in paths] == [read_record(path) for path in paths]
        assert str(tmp_path).encode() not in contents[-1][1]
    assert contents[0] == contents[1]


class Scores(ToyModule):
    """Logs a score of each validation."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = scores

    def on_validation_epoch_end(self) -> None:
        self.log("eval/score", self.scores[len(self.validated)], logger=False)


def fit(
    directory: Path, module: pl.LightningModule, *callbacks: pl.Callback, max_steps: int = 8, **options: Any
) -> None:
    quiet()
    trainer = trainer_of(directory, max_steps=max_steps, callbacks=callbacks, **options)
    trainer.fit(module, datamodule=DataModule(ToyData(4)))


@pytest.mark.parametrize(("mode", "best"), [("max", 4), ("min", 2)])
def test_the_best_and_the_newest_stay(tmp_path: Path, mode: Any, best: int) -> None:
    policy = Checkpoint(every_n_steps=1, keep_last=1, monitor="eval/score", mode=mode)
    fit(tmp_path, Scores([0.1, 0.9, 0.9, 0.5]), policy, eval_every=2)
    kept = [path.name for path in list_checkpoints(tmp_path / "checkpoints")]
    assert kept == [checkpoint_path(Path(), best).name, "step_00000008.ckpt"]
    record = read_best(tmp_path / "checkpoints")
    assert record is not None and record.step == best
    assert record.metrics["eval/score"] == pytest.approx({4: 0.9, 2: 0.1}[best])
    assert {path.suffix for path in (tmp_path / "checkpoints").iterdir()} == {".ckpt", ".json"}


def test_a_better_validation_is_saved_where_no_checkpoint_was_due(tmp_path: Path) -> None:
    policy = Checkpoint(keep_last=5, monitor="eval/score")
    fit(tmp_path, Scores([0.1, 0.3, 0.2, float("nan")]), policy, eval_every=2)
    steps = [json.loads(record_path(p).read_text())["step"] for p in list_checkpoints(tmp_path / "checkpoints")]
    assert steps == [2, 4, 8]


def test_an_unknown_monitor_is_told_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'eval/score'"):
        fit(tmp_path, Scores([0.1] * 9), Checkpoint(monitor="eval/scores"), eval_every=2)


def test_saving_by_the_clock_alone(tmp_path: Path) -> None:
    fit(tmp_path, ToyModule(), Checkpoint(every_n_minutes=1e-9, keep_last=99), eval_every=None, log_every=3)
    assert [int(p.stem[5:]) for p in list_checkpoints(tmp_path / "checkpoints")] == [1, 3, 6, 8]


def test_a_step_is_saved_once_and_after_its_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[str, int]] = []
    save = Checkpoint.save

    def saved(self: Checkpoint, trainer: pl.Trainer) -> None:
        events.append(("save", trainer.global_step))
        save(self, trainer)

    class Watch(ToyModule):
        def on_validation_epoch_end(self) -> None:
            events.append(("validate", self.global_step))

    monkeypatch.setattr(Checkpoint, "save", saved)
    fit(tmp_path, Watch(), Checkpoint(every_n_steps=2), eval_every=4)
    assert events == [("save", 2), ("validate", 4), ("save", 4), ("save", 6), ("validate", 8), ("save", 8)]


def test_a_run_stopped_early_saves_where_it_stopped(tmp_path: Path) -> None:
    stop = EarlyStopping("eval/score", patience=1, mode="max")
    fit(tmp_path, Scores([0.5, 0.4, 0.3, 0.2]), Checkpoint(), stop, eval_every=2)
    assert [int(p.stem[5:]) for p in list_checkpoints(tmp_path / "checkpoints")] == [4]


def test_a_run_that_is_asked_to_stop_is_saved_before_the_training_ends(tmp_path: Path) -> None:
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer.should_stop = trainer.global_step == 3

        def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            assert latest_checkpoint(tmp_path / "checkpoints") == checkpoint_path(tmp_path / "checkpoints", 3)

    fit(tmp_path, ToyModule(), Stop(), Checkpoint(), eval_every=None)


def test_a_torn_newest_checkpoint_costs_steps_and_no_exactness(tmp_path: Path) -> None:
    train(tmp_path / "whole", max_steps=9, save_every=4)
    train(tmp_path / "torn", max_steps=9, save_every=4)
    last = checkpoint_path(tmp_path / "torn" / "checkpoints", 9)
    truncate(last)
    with pytest.warns(UserWarning, match="torn"):
        module, _ = train(tmp_path / "torn", max_steps=9, save_every=4)
    assert len(module.seen) == 1
    whole = torch.load(checkpoint_path(tmp_path / "whole" / "checkpoints", 9), weights_only=True)
    assert why_torn(last) is None and not differences(whole, torch.load(last, weights_only=True))


@pytest.mark.parametrize("wrong", [{"keep_last": 0}, {"mode": "best"}])
def test_senseless_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Checkpoint(**wrong)
