"""A checkpoint of any hook and step goes on as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint as RunsLast
from toy_run import ToyData, ToyModule, differences, quiet, rows_of, trainer_of

from mmtrain.callback.checkpoint import Checkpoint
from mmtrain.callback.ema import Ema
from mmtrain.callback.guard import Guard
from mmtrain.run.datamodule import DataModule

MAX_STEPS = 14
STEPS_PER_EPOCH = 4
HOOKS = ("on_train_batch_end", "on_validation_end", "on_train_epoch_end", "on_train_end")


class SaveEverywhere(RunsLast):
    """Saves at every step in every hook in which a user may save."""

    def _save(self, hook: str, trainer: pl.Trainer, *_: Any) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / f"{hook}.{trainer.global_step}.ckpt")

    def __getattribute__(self, name: str) -> Any:
        if name in HOOKS:
            return lambda trainer, *rest: self._save(name, trainer)
        return super().__getattribute__(name)


def fit(directory: Path, eval_every: int | None, checkpoint: Path | None = None, guarded: bool = False) -> ToyModule:
    quiet()
    step = int(checkpoint.stem.split(".")[1]) if checkpoint else 0
    module = ToyModule(poisoned=(3, 9) if guarded else (), fused=guarded)
    guards = [Guard(spike_factor=3.0, window=4), Ema(decay=0.8)] if guarded else []
    trainer = trainer_of(
        directory,
        max_steps=MAX_STEPS,
        eval_every=eval_every,
        callbacks=[*guards, Checkpoint(), SaveEverywhere()],
        resume_step=step,
        log_every=1,
    )
    trainer.fit(module, datamodule=DataModule(ToyData(STEPS_PER_EPOCH)), ckpt_path=checkpoint)
    return module


@pytest.mark.parametrize("eval_every", [None, 1, 3, 4, 6, 7, 8])
def test_resume_is_bit_exact_from_every_save_point(tmp_path: Path, eval_every: int | None) -> None:
    whole = fit(tmp_path / "whole", eval_every)
    assert len(whole.seen) == MAX_STEPS
    assert whole.validated == ([s for s in range(1, MAX_STEPS + 1) if s % eval_every == 0] if eval_every else [])
    points = sorted((tmp_path / "whole").glob("on_*.ckpt"))
    assert len(points) >= MAX_STEPS + 3 + len(whole.validated)

    for point in points:
        step = int(point.stem.split(".")[1])
        pending = point.name.startswith("on_train_batch_end") and step in whole.validated
        resumed_in = tmp_path / point.stem
        resumed = fit(resumed_in, eval_every, point)
        assert resumed.seen == whole.seen[step:], point.name
        if step == MAX_STEPS:
            continue
        assert resumed.validated == [s for s in whole.validated if s > step - pending], point.name
        expected = [row for row in rows_of(tmp_path / "whole") if row["step"] > step]
        if pending:
            expected = [r for r in rows_of(tmp_path / "whole") if r["step"] == step and "eval/new/mean" in r] + expected
        assert rows_of(resumed_in) == expected, point.name
        assert resumed.trainer.fit_loop.epoch_loop._batches_that_stepped == MAX_STEPS, point.name
        # Every checkpoint written afterwards is the same too, whatever hook it was written in.
        for later in sorted(resumed_in.glob("on_*.ckpt")):
            if "epoch_end" in later.name and int(later.stem.split(".")[1]) == step:
                continue
            a = torch.load(tmp_path / "whole" / later.name, weights_only=True)
            b = torch.load(later, weights_only=True)
            assert not differences(a, b), f"{later.name} after {point.name}"


def test_a_validation_between_step_and_kill_is_not_lost(tmp_path: Path) -> None:
    fit(tmp_path / "whole", 3)
    resumed = fit(tmp_path / "resumed", 3, tmp_path / "whole" / "on_train_batch_end.3.ckpt")
    assert resumed.validated[0] == 3


def test_resume_is_bit_exact_with_skipped_steps_and_averaged_weights(tmp_path: Path) -> None:
    fit(tmp_path / "whole", 3, guarded=True)
    for point in sorted((tmp_path / "whole").glob("on_train_batch_end.*.ckpt")):
        step = int(point.stem.split(".")[1])
        if step == MAX_STEPS:
            continue
        fit(tmp_path / point.stem, 3, point, guarded=True)
        name = f"on_train_end.{MAX_STEPS}.ckpt"
        a, b = (torch.load(folder / name, weights_only=True) for folder in (tmp_path / "whole", tmp_path / point.stem))
        assert a["callbacks"]["Guard"]["counts"][0] >= 2
        assert not differences(a, b), point.name
        rows = [row for row in rows_of(tmp_path / "whole") if row["step"] > step]
        assert [row for row in rows_of(tmp_path / point.stem) if row["step"] > step] == rows, point.name
