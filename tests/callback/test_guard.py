"""A bad step is not made, on any rank; the run goes on, or ends with an error that says where to look."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from gloo_ranks import RunRanks
from toy_run import differences, rows_of, train

from mmtrain import distributed
from mmtrain.callback.guard import Guard
from mmtrain.errors import ConfigError, RunError

NAN = float("nan")


class States(pl.Callback):
    """Parameters, moments and average after each step."""

    def __init__(self) -> None:
        self.after: dict[int, Any] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        optimizer = pl_module.optimizers().optimizer.state_dict()["state"]  # type: ignore[union-attr]
        averages = [c.state_dict()["average"] for c in trainer.callbacks if type(c).__name__ == "Ema"]  # type: ignore[attr-defined]
        state = {"model": pl_module.state_dict(), "optimizer": optimizer, "average": averages}
        self.after[trainer.global_step] = _copied(state)


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value.clone() if isinstance(value, torch.Tensor) else value


def states(directory: Path, poisoned: list[int], *, max_steps: int = 6, **options: Any) -> dict[int, Any]:
    recorded = States()
    options["module"] = {"poisoned": poisoned} | options.get("module", {})
    train(directory, max_steps=max_steps, extra=[recorded], **options)
    return recorded.after


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("poison", [NAN, math.inf])
def test_a_step_that_is_not_finite_changes_nothing(tmp_path: Path, fused: bool, poison: float) -> None:
    options: dict[str, Any] = {"module": {"fused": fused, "poison": poison}, "guard": {}, "ema": {"decay": 0.5}}
    after = states(tmp_path, [1, 4], gradient_clip_val=1.0, **options)
    assert not differences(after[4], after[3])
    for step in (2, 3, 5, 6):
        assert differences(after[step]["model"], after[step - 1]["model"])
        assert differences(after[step]["average"], after[step - 1]["average"])
    assert all(state["step"] == 4 for state in after[6]["optimizer"].values())
    assert all(tensor.isfinite().all() for tensor in after[6]["model"].values())


def test_without_the_guard_such_a_step_ruins_the_model(tmp_path: Path) -> None:
    assert states(tmp_path, [4])[4]["model"]["net.0.weight"].isnan().all()


@pytest.mark.parametrize("fused", [False, True])
def test_a_healthy_run_is_the_same_with_the_guard(tmp_path: Path, fused: bool) -> None:
    guarded = states(tmp_path / "guarded", [], module={"fused": fused}, guard={})
    assert not differences(guarded, states(tmp_path / "free", [], module={"fused": fused}))
    assert rows_of(tmp_path / "guarded") == rows_of(tmp_path / "free")


def test_a_spike_is_skipped_and_kept_out_of_the_median(tmp_path: Path) -> None:
    options: dict[str, Any] = {"guard": {"spike_factor": 50.0, "window": 4}, "max_steps": 13}
    after = states(tmp_path, [2, 7, 8, 9, 10], module={"poison": 1e4}, **options)
    assert differences(after[2]["model"], after[1]["model"]), "too few steps to tell a spike"
    for step in range(3, 14):
        same = not differences({**after[step], "average": 0}, {**after[step - 1], "average": 0})
        assert same == (step in (7, 8, 9, 10)), step


def test_skipped_steps_are_counted_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tmp_path, max_steps=8, module={"poisoned": [3, 4, 7]}, guard={}, eval_every=None)
    counts = {row["step"]: row["train/skipped_steps"] for row in rows_of(tmp_path) if "train/skipped_steps" in row}
    assert counts == {4: 2, 6: 2, 8: 3}
    assert "skipped 2 steps up to step 4, 2 in all; the last: step 4, loss nan, gradient norm nan, samples 0/3" in (
        caplog.text
    )
    assert "skipped 1 steps up to step 8, 3 in all; the last: step 7" in caplog.text


@pytest.mark.parametrize(
    ("limits", "poisoned", "step", "message"),
    [
        ({"consecutive_limit": 2}, [2, 3, 5, 6, 7], 8, "3 steps in a row were skipped"),
        ({"total_limit": 2}, [2, 5, 7], 8, "3 steps were skipped, more than callback.guard.total_limit = 2"),
    ],
)
def test_too_many_end_the_run(
    tmp_path: Path, limits: dict[str, int], poisoned: list[int], step: int, message: str
) -> None:
    with pytest.raises(RunError, match=message) as error:
        train(tmp_path, max_steps=20, module={"poisoned": poisoned}, guard=limits)
    assert error.value.where == "step 7, loss nan, gradient norm nan, samples 1/2"
    assert rows_of(tmp_path)[-1]["step"] == step


def test_a_factor_that_skips_healthy_steps_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"spike_factor=1\.0"):
        Guard(spike_factor=1.0)


def on_two_ranks(run: Callable[..., Any], *arguments: Any) -> Any:
    rank = str(distributed.rank())
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    return run(*arguments, devices=2, strategy="ddp")


def states_on_two_ranks(directory: Path, fused: bool) -> Any:
    options: dict[str, Any] = {"guard": {"spike_factor": 50.0, "window": 4}, "ema": {"decay": 0.5}}
    options["module"] = {"fused": fused}

    def run(**ranks: Any) -> Any:
        return states(directory / "run", [3, 5], **options, **ranks)

    return on_two_ranks(run)


@pytest.mark.parametrize("fused", [False, True])
def test_one_ranks_nan_skips_the_step_of_all_ranks(run_ranks: RunRanks, tmp_path: Path, fused: bool) -> None:
    first, second = run_ranks(2, states_on_two_ranks, tmp_path, fused)
    assert not differences(first, second)
    for step in range(2, 7):
        same = not differences(first[step], first[step - 1])
        assert same == (step in (3, 5)), step


def error_on_two_ranks(directory: Path) -> Any:
    def run(**ranks: Any) -> None:
        own = directory / "run"
        train(own, max_steps=9, module={"poisoned": range(2, 9)}, guard={"consecutive_limit": 1}, **ranks)

    with pytest.raises(RunError) as error:
        on_two_ranks(run)
    return error.value.message, error.value.where


def test_all_ranks_end_with_the_samples_of_the_rank_at_fault(run_ranks: RunRanks, tmp_path: Path) -> None:
    first, second = run_ranks(2, error_on_two_ranks, tmp_path)
    assert first == second
    message, where = first
    assert message == "3 steps in a row were skipped, more than callback.guard.consecutive_limit = 1"
    assert where == "step 4, loss nan, gradient norm nan, samples 0/3"
