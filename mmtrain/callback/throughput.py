"""How fast the run is, by one stated formula, and how much of the time it waits for data."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
import torch
from torch import Tensor

from mmtrain import distributed
from mmtrain.callback.recorder import is_log_step, log_row

# Dense bf16 matrix FLOP/s of one device, from NVIDIA's data sheets, whose figures with sparsity are twice as high. The
# first name that is part of the device's counts: the PCIe card is slower than "NVIDIA H100 80GB HBM3".
PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
}


@runtime_checkable
class CountsFlops(Protocol):
    """A LightningModule that knows its cost."""

    flops_per_sample: float
    """Floating-point operations of one sample's forward and backward pass, without recomputation: for a Transformer
    6 (weights of matrices) + 12 (layers) (width) (tokens seen) a token, with no discount for causality."""


class Throughput(pl.Callback):
    """Writes, every ``trainer.log_every_n_steps``, averages over the steps since the last row.

    ``throughput/samples_per_second``: global batch x steps / time, evaluation and checkpoints excluded.
    ``throughput/tokens_per_second``: the same for tokens, padding left out, where the batch tells of them.
    ``throughput/data_wait``: share of the time between the end of a step and the start of the next.
    ``throughput/tflops_per_device``: ``flops_per_sample`` x samples per second / devices / 1e12, where it is known.
    ``throughput/mfu``: the same as a share of the device's peak, where that is known too.

    The device is waited for once a row, not once a step. No other columns differ between two identical runs.

    Args:
        global_batch_size: Samples in a step, over all ranks.
    """

    def __init__(self, global_batch_size: int) -> None:
        self.global_batch_size = global_batch_size
        self._steps = 0
        self._tokens: list[Tensor] = []
        self._waited = 0.0
        self._paused = 0.0
        self._started_at: float | None = None
        self._ended_at = 0.0
        self._paused_at: float | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Ends the wait for data, or the pause; what the loader did during a pause is not known."""
        now = time.perf_counter()
        if self._paused_at is None:
            self._waited += now - self._ended_at
        else:
            self._paused += now - self._paused_at
            self._paused_at = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the step and writes the row where one is due. The first step, which compiles, is left out."""
        if self._started_at is None:
            self._start_window(trainer)
            return
        self._steps += 1
        if (tokens := real_tokens(batch)) is not None:
            self._tokens.append(tokens)
        if is_log_step(trainer, trainer.global_step):
            _synchronize(trainer)
            seconds = time.perf_counter() - self._started_at - self._paused
            log_row(trainer, self._row(trainer, pl_module, seconds), trainer.global_step)
            self._start_window(trainer)
        else:
            self._ended_at = time.perf_counter()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops the clock until the next step."""
        self._pause(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Stops the clock until the next step."""
        self._pause(trainer)

    def _pause(self, trainer: pl.Trainer) -> None:
        if self._paused_at is None:
            _synchronize(trainer)
            self._paused_at = time.perf_counter()

    def _start_window(self, trainer: pl.Trainer) -> None:
        _synchronize(trainer)
        self._steps, self._waited, self._paused, self._tokens = 0, 0.0, 0.0, []
        self._started_at = self._ended_at = time.perf_counter()

    def _row(self, trainer: pl.Trainer, pl_module: pl.LightningModule, seconds: float) -> dict[str, float]:
        samples_per_second = self.global_batch_size * self._steps / seconds
        row = {
            "throughput/samples_per_second": samples_per_second,
            "throughput/seconds_per_step": seconds / self._steps,
            "throughput/data_wait": self._waited / seconds,
        }
        if self._tokens:
            own = torch.stack(self._tokens).sum().to(trainer.strategy.root_device)
            tokens = distributed.all_reduce_sum(own, distributed.data_parallel_group())
            row["throughput/tokens_per_second"] = float(tokens) / seconds
        if isinstance(pl_module, CountsFlops):
            flops = pl_module.flops_per_sample * samples_per_second / trainer.world_size
            row["throughput/tflops_per_device"] = flops / 1e12
            if (peak := peak_flops(trainer.strategy.root_device)) is not None:
                row["throughput/mfu"] = flops / peak
        return row


def real_tokens(batch: Any) -> Tensor | None:
    """Tokens of a batch without padding and filler, as a scalar on the device; None for a batch of other things.

    Args:
        batch: Of text: with ``document`` (B, T + 1), -1 for padding, of which the last token is a target only; or with
            ``length`` (B,). ``weight`` (B,) is 0 for filler.
    """
    if not isinstance(batch, Mapping) or "weight" not in batch:
        return None
    if "document" in batch:
        length_B = (batch["document"][:, :-1] >= 0).sum(dim=1)
    elif "length" in batch:
        length_B = batch["length"]
    else:
        return None
    return (length_B * (batch["weight"] > 0)).sum()


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 FLOP/s of ``device``; None for a CPU or an unknown GPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)


def _synchronize(trainer: pl.Trainer) -> None:
    if trainer.strategy.root_device.type == "cuda":
        torch.cuda.synchronize(trainer.strategy.root_device)
