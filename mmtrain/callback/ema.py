"""Weights averaged over the steps of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from mmtrain import sharded
from mmtrain.callback.guard import step_skipped
from mmtrain.errors import ConfigError


class Ema(pl.Callback):
    """Keeps an exponential moving average of the trained parameters, and has the model evaluated with it.

    ``average += (1 - d) (parameters - average)`` after every step that was made, in fp32 or better. With warmup,
    ``d = min(decay, (1 + step) / (10 + step))``, as of TensorFlow's ``ExponentialMovingAverage``: the first, random
    weights are soon forgotten.

    Training goes on from the live parameters, which come back bit for bit after an evaluation. A checkpoint holds
    both: the live ones as the model's, the average as this callback's; `averaged_weights` reads the latter.

    Args:
        decay: d; the average looks back over about ``1 / (1 - d)`` steps.
        warmup: Whether d grows to ``decay`` from 2/11 at the first step.

    Raises:
        ConfigError: The decay is not in [0, 1).
    """

    def __init__(self, decay: float = 0.9999, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(
                f"decay={decay} averages nothing", where="callback.ema", mend="set a number from 0 to below 1"
            )
        self.decay = decay
        self.warmup = warmup
        self._average: dict[str, Tensor] = {}
        self._live: dict[str, Tensor] = {}
        self._tied: dict[str, str] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins with the parameters, or goes on with the average of the checkpoint.

        Raises:
            ConfigError: The strategy takes the parameters away between their uses.
        """
        trained = _trained(pl_module)
        if any(parameter.numel() == 0 for parameter in trained.values()):
            raise ConfigError(
                "there is nothing to average: ZeRO-3 empties the parameters between their uses",
                where="callback.ema, strategy",
                mend="set strategy=fsdp or strategy=deepspeed_zero2, or callback.ema=null",
            )
        self._average = {
            name: self._average[name].to(parameter.device) if self._average else _copy(parameter)
            for name, parameter in trained.items()
        }
        names = {parameter: name for name, parameter in trained.items()}
        every = pl_module.named_parameters(remove_duplicate=False)
        self._tied = {alias: names[p] for alias, p in every if p in names and names[p] != alias}

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the average to the parameters, unless the step was skipped."""
        step = trainer.global_step
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        skipped = step_skipped(trainer)
        # A skipped step left the parameters finite, so that a weight of 0 changes no bit.
        weight = None if skipped is None else torch.where(skipped, 0.0, 1 - decay)
        for name, parameter in _trained(pl_module).items():
            average = self._average[name]
            average.lerp_(parameter.to(average.dtype), 1 - decay if weight is None else weight.to(average.dtype))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Puts the average in the place of the parameters."""
        if trainer.state.fn == TrainerFn.FITTING:
            trained = _trained(pl_module)
            self._live = {name: parameter.detach().clone() for name, parameter in trained.items()}
            _assign(trained, self._average)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Puts the parameters back."""
        if trainer.state.fn == TrainerFn.FITTING:
            sharded.reshard(pl_module)
            _assign(_trained(pl_module), self._live)
            self._live = {}

    def state_dict(self) -> dict[str, Any]:
        """The average, by the parameters' names in the checkpoint; a tied parameter has several."""
        assert not self._live, "a checkpoint of an evaluation in progress would take the average for the parameters"
        return {"average": self._average | {alias: self._average[name] for alias, name in self._tied.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the average until the model is on its device."""
        self._average = state_dict["average"]


def averaged_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The state dict of the model with averaged parameters; None where the run kept no average.

    Args:
        checkpoint: The content of a checkpoint file.
    """
    state = checkpoint["callbacks"].get(Ema.__qualname__)
    if state is None:
        return None
    weights: dict[str, Tensor] = checkpoint["state_dict"]
    average: dict[str, Tensor] = state["average"]
    return {name: average[name].to(weight.dtype) if name in average else weight for name, weight in weights.items()}


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def _copy(parameter: Tensor) -> Tensor:
    return parameter.detach().clone().to(torch.promote_types(parameter.dtype, torch.float32))


@torch.no_grad()
def _assign(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
