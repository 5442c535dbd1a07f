"""Rows are exact, in the right places, and cost nothing in between."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gloo_ranks import RunRanks
from toy_run import BATCH, ToyModule, rows_of, train

from mmtrain import distributed, sharded
from mmtrain.callback.rng import StepSeed, stable_seed
from mmtrain.callback.throughput import Throughput, peak_flops
from mmtrain.logger.rows import read_rows


def test_rows_hold_what_the_step_returned_and_was_made_with(tmp_path: Path) -> None:
    train(tmp_path, max_steps=7, steps_per_epoch=4, eval_every=3)
    rows = rows_of(tmp_path)
    training = {row["step"]: row for row in rows if "train/loss" in row}
    assert list(training) == [1, 2, 4, 6, 7]
    for step, row in training.items():
        assert row["train/double"] == pytest.approx(2 * row["train/loss"])
        assert row["train/learning_rate"] == pytest.approx(
            0.1 / step
        )  # of this step: the schedule gives 1 / (1 + steps before it)
        assert row["epoch"] == step / 4 and row["samples"] == step * BATCH
        assert row["train/gradient_norm"] > 0
    evaluation = {row["step"]: row for row in rows if "eval/new/mean" in row}
    assert list(evaluation) == [3, 6] and "eval/seen/mean" in evaluation[3]


@pytest.mark.parametrize("guarded", [False, True])
def test_nothing_is_read_off_the_device_between_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    reads: list[str] = []

    def watch(name: str) -> None:
        original = getattr(torch.Tensor, name)

        def watched(self: torch.Tensor, *args: Any) -> Any:
            caller = sys._getframe(1).f_code.co_filename
            if "mmtrain" in caller:  # AdamW on a CPU and Lightning read scalars of their own
                reads.append(f"{Path(caller).stem}.{name}")
            return original(self, *args)

        monkeypatch.setattr(torch.Tensor, name, watched)

    for name in ("item", "tolist", "__float__", "__int__", "__bool__", "cpu", "numpy"):
        watch(name)
    guards: dict[str, Any] = {"guard": {"spike_factor": 9.0}, "ema": {}, "module": {"fused": True}} if guarded else {}
    train(tmp_path, max_steps=6, eval_every=None, save_every=None, **guards)
    # Rows after steps 1, 2, 4 and 6.
    row, saved = (["recorder.tolist", "guard.tolist"], ["guard.cpu"] * 2) if guarded else (["recorder.tolist"], [])
    assert reads == row * 4 + saved


def test_the_gradient_norm_is_that_of_all_gradients_together() -> None:
    module = ToyModule()
    module.net(torch.ones(2, 8)).sum().backward()
    expected = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]).norm()
    assert torch.allclose(sharded.total_norm(p.grad for p in module.parameters()), expected)


def test_the_gradient_norm_is_recorded_before_clipping(tmp_path: Path) -> None:
    train(tmp_path / "free", max_steps=1)
    train(tmp_path / "clipped", max_steps=1, gradient_clip_val=1e-4)
    norms = [rows_of(tmp_path / name)[0]["train/gradient_norm"] for name in ("free", "clipped")]
    assert norms[0] == norms[1] > 1e-4


def draws(step: int, rank: int = 0, seed: int = 0, stage: str = "train") -> tuple[float, float, float]:
    trainer: Any = SimpleNamespace(global_step=step)
    callback = StepSeed(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANK", str(rank))
        if stage == "train":
            callback.on_train_batch_start(trainer, None, None, 0)  # type: ignore[arg-type]
        else:
            callback.on_validation_start(trainer, None)  # type: ignore[arg-type]
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_draws_are_a_function_of_seed_step_and_rank() -> None:
    first = draws(5)
    draws(6)
    assert draws(5) == first
    others = [draws(6), draws(5, rank=1), draws(5, seed=1), draws(5, stage="eval")]
    for other in others:
        assert all(a != b for a, b in zip(first, other, strict=True))


def test_the_seed_never_changes_between_versions() -> None:
    assert stable_seed(0, "train", 17, 3) == 4925300148700939884


def test_throughput_counts_steps_and_waiting_and_leaves_pauses_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("mmtrain.callback.throughput.time.perf_counter", lambda: now[0])
    rows: list[dict[str, float]] = []
    monkeypatch.setattr("mmtrain.callback.throughput.log_row", lambda trainer, row, step: rows.append(dict(row)))
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer: Any = SimpleNamespace(strategy=strategy, log_every_n_steps=4, max_steps=99, global_step=0, world_size=1)
    callback, module = Throughput(32), ToyModule()
    texts = {"length": torch.tensor([5, 6, 9]), "weight": torch.tensor([1.0, 1.0, 0.0])}
    for step in range(1, 10):
        now[0] += 1.0  # waits for data
        callback.on_train_batch_start(trainer, module, None, 0)
        now[0] += 3.0  # computes
        trainer.global_step = step
        callback.on_train_batch_end(trainer, module, None, texts, 0)
        if step == 6:
            callback.on_validation_start(trainer, module)
            now[0] += 100.0
            callback.on_save_checkpoint(trainer, module, {})
            now[0] += 100.0
    assert len(rows) == 2
    assert rows[0] == {
        "throughput/samples_per_second": 32 * 3 / 12,
        "throughput/seconds_per_step": 4.0,
        "throughput/data_wait": 3 / 12,
        "throughput/tokens_per_second": 11 * 3 / 12,
    }
    assert rows[1]["throughput/seconds_per_step"] == 15 / 4  # the second of waiting that fell into the pause is unknown


def tokens_of_a_step(sharing: int) -> float:
    """Of two ranks that meet the same eleven tokens."""
    distributed.join_tensor_parallel(sharing)
    rows: list[dict[str, float]] = []
    trainer: Any = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        log_every_n_steps=1,
        max_steps=9,
        global_step=0,
        world_size=2,
        is_global_zero=True,
        loggers=[SimpleNamespace(log_metrics=lambda row, step: rows.append(row))],
    )
    callback, module = Throughput(32), ToyModule()
    texts = {"length": torch.tensor([5, 6, 9]), "weight": torch.tensor([1.0, 1.0, 0.0])}
    for step in (1, 2):
        callback.on_train_batch_start(trainer, module, None, 0)
        trainer.global_step = step
        callback.on_train_batch_end(trainer, module, None, texts, 0)
    return rows[0]["throughput/tokens_per_second"] * rows[0]["throughput/seconds_per_step"]


@pytest.mark.parametrize(("sharing", "tokens"), [(1, 22), (2, 11)])
def test_tokens_are_counted_once_for_ranks_that_share_blocks(run_ranks: RunRanks, sharing: int, tokens: int) -> None:
    assert run_ranks(2, tokens_of_a_step, sharing) == pytest.approx([tokens] * 2)


def test_mfu_is_recorded_where_the_peak_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert peak_flops(torch.device("cpu")) is None
    names = {
        "NVIDIA H100 80GB HBM3": 989e12,
        "NVIDIA H100 PCIe": 756e12,
        "NVIDIA A100-SXM4-80GB": 312e12,
        "Other": None,
    }
    for name, peak in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_flops(torch.device("cuda", 0)) == peak
    monkeypatch.setattr("mmtrain.callback.throughput.peak_flops", lambda device: 1e12)
    monkeypatch.setattr(ToyModule, "flops_per_sample", 1e9, raising=False)
    train(tmp_path, max_steps=4)
    row = next(row for row in read_rows(tmp_path / "metrics.jsonl") if "throughput/mfu" in row)
    assert row["throughput/tflops_per_device"] == pytest.approx(1e9 * row["throughput/samples_per_second"] / 1e12)
    assert row["throughput/mfu"] == pytest.approx(row["throughput/tflops_per_device"])
