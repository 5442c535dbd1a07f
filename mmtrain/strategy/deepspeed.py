"""ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054) by DeepSpeed: optimizer state, gradients and weights in parts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.precision import DeepSpeedPrecision, Precision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from mmtrain.errors import ConfigError
from mmtrain.nn.transformer import Block
from mmtrain.objective.base import Objective
from mmtrain.objective.clip import ClipObjective
from mmtrain.optim.named import by_index, by_name
from mmtrain.strategy.deepspeed_library import (
    import_deepspeed,
    require_accelerator,
    scalars_broadcast,
)
from mmtrain.strategy.deepspeed_state import (
    clamp_,
    give_optimizer_state,
    give_weights,
    gradient_norm,
    take_optimizer_state,
    take_weights,
)
from mmtrain.strategy.numerics import autocast, require_known

Stage = Literal[1, 2, 3]
_LOG = logging.getLogger(__name__)
_NUMERICS = ("32-true", "bf16-mixed", "bf16-true")


@runtime_checkable
class Bounded(Protocol):
    """An objective some of whose parameters stay within bounds, whatever the optimizer does."""

    def bounds(self) -> Mapping[nn.Parameter, tuple[float, float]]:
        """Least and greatest value of every element of a parameter."""


def deepspeed(
    *,
    stage: Stage,
    offload_optimizer: bool = False,
    offload_parameters: bool = False,
    bucket_elements: int = 50_000_000,
    whole_below: int = 100_000,
    timeout_minutes: float = 30.0,
) -> Zero:
    """ZeRO of a stage; a run is the same as under any other strategy, see `Zero`.

    Args:
        stage: What is in parts: 1 the optimizer's state, 2 also gradients, 3 also weights.
        offload_optimizer: Whether the optimizer's state is kept, and its step made, on the CPU.
        offload_parameters: Whether stage 3 keeps the weights on the CPU between their uses.
        bucket_elements: Gradients that are reduced at once, and weights that are gathered at once.
        whole_below: Stage 3 does not partition parameters of up to so many elements, such as gains and biases.
        timeout_minutes: How long a collective may wait for the slowest rank.

    Raises:
        ConfigError: DeepSpeed is missing, or the stage has no such offloading.
    """
    import_deepspeed()
    if offload_parameters and stage < 3:
        raise ConfigError(
            f"ZeRO-{stage} has the weights whole on every device",
            where="strategy.offload_parameters",
            mend="set strategy=deepspeed_zero3, or offload_parameters=false",
        )
    zero: dict[str, Any] = {
        "stage": stage,
        "reduce_bucket_size": bucket_elements,
        "allgather_bucket_size": bucket_elements,
        "stage3_prefetch_bucket_size": bucket_elements,
        "stage3_param_persistence_threshold": whole_below,
    }
    for key, offloads in (("offload_optimizer", offload_optimizer), ("offload_param", offload_parameters)):
        if offloads:
            zero[key] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return Zero(stage, zero, timeout=timedelta(minutes=timeout_minutes))


class Zero(DeepSpeedStrategy):
    """Lightning's DeepSpeed strategy, on CPUs too, with the numerics that the precision says.

    - ``32-true`` and ``bf16-mixed`` are what they are under DDP: weights, gradients and their sum over ranks in fp32,
      the latter with bf16 autocast. ``bf16-true`` is what DeepSpeed calls bf16: weights, activations and gradients in
      bf16, and an fp32 copy of the weights in parts beside the moments, which the optimizer steps.
    - Stage 3 partitions the weights of the Transformer's blocks. All others stay whole between steps, so that heads,
      tied embeddings and the temperature can be used outside of a ``forward``.
    - ZeRO's optimizer sees flat parts of the parameters: only elementwise optimizers are exact.

    Args:
        stage: 1, 2 or 3.
        zero: DeepSpeed's ``zero_optimization``.
        timeout: How long a collective may wait.
    """

    def __init__(self, stage: Stage, zero: Mapping[str, Any], timeout: timedelta) -> None:
        self.stage = stage
        config = {"zero_optimization": dict(zero), "zero_force_ds_cpu_optimizer": False}
        super().__init__(config={"train_micro_batch_size_per_gpu": 1, **config}, timeout=timeout)
        self._linear = torch.nn.functional.linear
        self._groups: list[list[nn.Parameter]] = []

    @property
    def root_device(self) -> torch.device:
        """The device of this rank, by its number, which DeepSpeed asks for."""
        device = super().root_device
        return device if device.index is not None else torch.device(device.type, self.local_rank)

    @property
    def precision_plugin(self) -> Precision:
        """How numbers are computed."""
        return super().precision_plugin

    @precision_plugin.setter
    def precision_plugin(self, plugin: Precision | None) -> None:
        self._precision_plugin = None if plugin is None else ZeroPrecision(plugin.precision)

    def setup_environment(self) -> None:
        """Joins the ranks.

        Raises:
            ConfigError: DeepSpeed was imported for another kind of device.
        """
        require_accelerator(self.root_device)
        if self.root_device.type != "cpu":
            return super().setup_environment()
        assert self.accelerator is not None
        self.accelerator.setup_device(self.root_device)
        self.set_world_ranks()
        return self._init_deepspeed_distributed()

    def init_deepspeed(self) -> None:
        """Partitions the model and its optimizer.

        Raises:
            ConfigError: The optimizer needs whole matrices, or the objective gradients between its parts.
        """
        self._check_parts()
        with scalars_broadcast():
            super().init_deepspeed()
        if self.stage == 3:
            self._keep_whole()

    def teardown(self) -> None:
        """Gives ``torch.nn.functional.linear`` back, which ZeRO-3 replaces for the whole process."""
        torch.nn.functional.linear = self._linear
        super().teardown()

    def gradient_norm(self) -> Tensor:
        """The 2-norm of the whole gradient, between the backward pass and the step; ``inf`` where it is not finite."""
        return gradient_norm(self.deepspeed_engine.optimizer)

    def hold_bounds(self) -> None:
        """Brings the parameters that have bounds back to them: those that are computed with and those that step."""
        if isinstance(self.lightning_module, Bounded):
            for parameter, (low, high) in self.lightning_module.bounds().items():
                clamp_(parameter, low, high)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Whether Lightning hands the optimizer's state back: yes, as of any other strategy."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """All weights by name, in fp32, on rank 0's CPU; they are gathered one by one."""
        assert self.lightning_module is not None
        named = give_weights(self.lightning_module)
        return {name: tensor.cpu() for name, tensor in named if self.is_global_zero}

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """What PyTorch's optimizer over whole parameters would hold, on rank 0's CPU."""
        return by_name(give_optimizer_state(self.deepspeed_engine.optimizer, self._groups), self._names())

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Writes one file, as DDP does."""
        DDPStrategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads one file, as DDP does, on every rank."""
        return DDPStrategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Gives each rank its part of the weights."""
        assert self.lightning_module is not None
        take_weights(self.lightning_module, checkpoint["state_dict"])

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Gives each rank its part of the moments."""
        (state,) = checkpoint["optimizer_states"]
        take_optimizer_state(self.deepspeed_engine.optimizer, self._groups, by_index(state, self._names()))

    def _format_config(self) -> None:
        assert isinstance(self.config, dict)
        if self.precision_plugin.precision == "bf16-mixed":
            self.config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
            self.config["bf16"] = {"enabled": False}
        super()._format_config()

    def _init_optimizers(self) -> tuple[Optimizer, LRSchedulerConfig | None]:
        optimizer, schedule = super()._init_optimizers()
        if not isinstance(optimizer, AdamW):
            raise ConfigError(
                f"ZeRO hands the optimizer flat parts of the parameters, and {type(optimizer).__name__} needs matrices",
                where="optim, strategy",
                mend="set optim=adamw, or strategy=fsdp",
            )
        self._groups = [list(group["params"]) for group in optimizer.param_groups if group["params"]]
        return optimizer, schedule

    def _names(self) -> list[list[str]]:
        assert self.lightning_module is not None
        names = {parameter: name for name, parameter in self.lightning_module.named_parameters()}
        return [[names[parameter] for parameter in group] for group in self._groups]

    def _check_parts(self) -> None:
        module = self.lightning_module
        if self.stage < 3 or not isinstance(module, Objective) or isinstance(module, ClipObjective):
            return  # CLIP encodes its chunks again in the one backward pass
        if module.micro_batch_size is not None:
            raise ConfigError(
                "ZeRO-3 has no gradients of whole parameters, which micro-batches add up",
                where="data.micro_batch_size, strategy",
                mend="set data.micro_batch_size=null and model.checkpoint=true, or strategy=fsdp or deepspeed_zero2",
            )

    def _keep_whole(self) -> None:
        """Has stage 3 gather all parameters outside of blocks after each step."""
        optimizer, model = self.deepspeed_engine.optimizer, self.deepspeed_engine.module
        of_blocks = {p for block in model.modules() if isinstance(block, Block) for p in block.parameters()}
        whole: list[nn.Parameter] = optimizer.persistent_parameters
        whole += [p for p in model.parameters() if p not in of_blocks and not p.ds_persist]
        for parameter in whole:
            parameter.ds_persist = True  # type: ignore[attr-defined]  # gathered after each step
            parameter.is_external_param = True  # type: ignore[attr-defined]  # released by no module's forward
        whole[0].all_gather(whole)  # type: ignore[attr-defined]


class ZeroPrecision(DeepSpeedPrecision):
    """Numerics of `Zero`.

    Args:
        precision: ``32-true``, ``bf16-mixed`` or ``bf16-true``.

    Raises:
        ConfigError: It is another one.
    """

    def __init__(self, precision: str) -> None:
        require_known(precision, _NUMERICS, "DeepSpeed")
        super().__init__(precision)  # type: ignore[arg-type]

    def convert_input(self, data: Any) -> Any:
        """Leaves a batch as it is: weights and soft labels keep their precision, and models cast pixels themselves."""
        return data

    def forward_context(self) -> AbstractContextManager[Any]:
        """For what runs outside of DeepSpeed's engine, which has its own."""
        return autocast(self.precision)

    def optimizer_step(  # type: ignore[override]
        self, optimizer: Any, model: pl.LightningModule, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        """Steps. Callbacks meet the optimizer inside of ZeRO's: its learning rates, and its way to skip a step."""
        result = closure()
        self._after_closure(model, optimizer.optimizer)
        strategy = model.trainer.strategy
        assert isinstance(strategy, Zero)
        strategy.deepspeed_engine.step(**kwargs)
        if optimizer.overflow:
            _LOG.warning("DeepSpeed left out step %d: its gradient is not finite", model.trainer.global_step + 1)
        strategy.hold_bounds()
        return result
