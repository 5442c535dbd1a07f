"""Fully sharded data parallelism by PyTorch's FSDP2 (Zhao et al. 2023, arXiv:2304.11277), on GPUs and CPUs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.optim import Optimizer

from mmtrain import distributed, sharded
from mmtrain.errors import ConfigError, RunError
from mmtrain.strategy.numerics import autocast, require_known
from mmtrain.strategy.sharding import Policy, shard
from mmtrain.strategy.tensor_parallel import share_blocks

_NUMERICS = ("32-true", "bf16-mixed")


def fsdp(
    *,
    shard_size: int | None = None,
    reshard_after_forward: bool = True,
    gather_bf16: bool = True,
    offload: bool = False,
    tensor_parallel: int = 1,
    timeout_minutes: float = 30.0,
) -> FullyShard:
    """FSDP2; a run is the same as under any other strategy, see `FullyShard`.

    Args:
        shard_size: Ranks that a model is spread over, such as those of a node; groups of so many ranks hold a copy
            each. None spreads it over all. With tensor parallelism, ranks are counted as its groups.
        reshard_after_forward: Whether a block's weights are given back between its forward and backward pass, as in
            ZeRO-3. Without, as in ZeRO-2, they are gathered once a step, and all of them are held at the end of the
            forward pass.
        gather_bf16: Whether ``bf16-mixed`` gathers the weights of blocks in bf16, which autocast would round them to
            anyway. It halves what is sent.
        offload: Whether weights, gradients and the optimizer's state are kept, and its step made, on the CPU.
        tensor_parallel: Consecutive ranks, such as those of a node, that share the heads and hidden units of blocks,
            and work on the same samples; see `share_blocks`.
        timeout_minutes: How long a collective may wait for the slowest rank.
    """
    return FullyShard(
        shard_size,
        reshard_after_forward,
        gather_bf16,
        offload,
        tensor_parallel,
        timeout=timedelta(minutes=timeout_minutes),
    )


class FullyShard(ModelParallelStrategy):
    """Each rank keeps and steps its shards of all parameters; blocks are gathered for their own time.

    Numerics are those of the precision, as under DDP: weights, moments and sums of gradients over ranks in fp32. A
    checkpoint is a folder that each rank writes its shards into; any number of ranks of any strategy can read it.

    Args:
        shard_size: See `fsdp`.
        reshard_after_forward: See `fsdp`.
        gather_bf16: See `fsdp`.
        offload: See `fsdp`.
        tensor_parallel: See `fsdp`.
        timeout: How long a collective may wait.
    """

    def __init__(
        self,
        shard_size: int | None,
        reshard_after_forward: bool,
        gather_bf16: bool,
        offload: bool,
        tensor_parallel: int,
        timeout: timedelta,
    ) -> None:
        # Gloo beside NCCL reduces what is kept on the CPU.
        backend = "cuda:nccl,cpu:gloo" if offload and torch.cuda.is_available() else None
        super().__init__(process_group_backend=backend, timeout=timeout)
        self.shard_size = shard_size
        self.reshard_after_forward = reshard_after_forward
        self.gather_bf16 = gather_bf16
        self.offload = offload
        self.tensor_parallel = tensor_parallel
        self._whole: list[nn.Parameter] = []

    @property
    def precision_plugin(self) -> Precision:
        """How numbers are computed."""
        return super().precision_plugin

    @precision_plugin.setter
    def precision_plugin(self, plugin: Precision | None) -> None:
        self._precision_plugin = None if plugin is None else Autocast(plugin.precision)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Whether Lightning hands the optimizer's state back: yes, as of any other strategy."""
        return True

    def setup_environment(self) -> None:
        """Joins the ranks.

        Raises:
            ConfigError: The ranks do not divide into groups of ``tensor_parallel``, or these of ``shard_size``.
        """
        assert self.accelerator is not None
        self.accelerator.setup_device(self.root_device)
        self._setup_ranks()
        self._device_mesh = self._mesh()
        distributed.join_tensor_parallel(self.tensor_parallel, self._timeout)

    def setup(self, trainer: pl.Trainer) -> None:
        """Shards the model, then builds its optimizer over the shards."""
        assert self.accelerator is not None and self.lightning_module is not None
        self.accelerator.setup(trainer)
        gather = torch.bfloat16 if self.gather_bf16 and self.precision_plugin.precision == "bf16-mixed" else None
        policy = Policy(self.reshard_after_forward, gather, self.offload)
        model = self.lightning_module.get_submodule("model")
        *data_parallel, last = self.device_mesh.mesh_dim_names or ()
        if last == "tensor":
            share_blocks(model, self.device_mesh["tensor"])
            self._whole = shard(model, self.device_mesh[tuple(data_parallel)], policy)
        else:
            self._whole = shard(model, self.device_mesh, policy)
        self._move_rest()
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def teardown(self) -> None:
        """Leaves the ranks as they were."""
        distributed.join_tensor_parallel(1)
        super().teardown()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Has the parameters be shards, as the step before left them, also after an evaluation."""
        assert self.lightning_module is not None
        sharded.reshard(self.lightning_module)

    def post_backward(self, closure_loss: Tensor) -> None:
        """Averages over ranks the gradients of the parameters that cannot be sharded."""
        for parameter in self._whole:
            if parameter.grad is not None:
                parameter.grad = distributed.all_reduce_sum(parameter.grad) / self.world_size

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """All weights by name; those of this rank are its shards."""
        assert self.lightning_module is not None
        sharded.reshard(self.lightning_module)
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state by parameter, in shards."""
        return optimizer.state_dict()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads a file or a folder; of what is sharded, each rank its shards."""
        assert self.lightning_module is not None
        parameters = dict(self.lightning_module.named_parameters(remove_duplicate=False))
        content: dict[str, Any] = self.checkpoint_io.load_checkpoint(checkpoint_path, map_location=parameters)
        return content

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Sets this rank's shards."""
        assert self.lightning_module is not None
        self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Sets the moments of this rank's shards."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(state)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Refuses ``trainer.save_checkpoint``, by which Lightning would write a folder in a form of its own.

        Raises:
            RunError: Always.
        """
        raise RunError(
            "Lightning's way to write a checkpoint would make one that no run goes on from",
            where="trainer.save_checkpoint, strategy=fsdp",
            mend="save by callback.checkpoint: every_n_steps, every_n_minutes, monitor; or Checkpoint.save(trainer)",
        )

    def _setup_ranks(self) -> None:
        from lightning.fabric.utilities.distributed import _init_dist_connection
        from lightning.fabric.utilities.seed import reset_seed

        reset_seed()
        self.set_world_ranks()
        assert self.cluster_environment is not None
        self._process_group_backend = self._get_process_group_backend()
        device = None if self.root_device.type == "cpu" else self.root_device
        _init_dist_connection(
            self.cluster_environment, self._process_group_backend, timeout=self._timeout, device_id=device
        )

    def _mesh(self) -> DeviceMesh:
        replicas = _groups(self.world_size, self.tensor_parallel, "strategy.tensor_parallel", "or 1")
        size = self.shard_size or replicas
        copies = _groups(replicas, size, "strategy.shard_size", "or null")
        dims = {"replicate": copies, "shard": size, "tensor": self.tensor_parallel}
        used = {name: size for name, size in dims.items() if name == "shard" or size > 1}
        return init_device_mesh(self.root_device.type, tuple(used.values()), mesh_dim_names=tuple(used))

    def _move_rest(self) -> None:
        """Buffers, and parameters that stay whole: shards are where they belong."""
        assert self.lightning_module is not None
        rest = [*self._whole, *self.lightning_module.buffers()]
        for tensor in rest:
            tensor.data = tensor.data.to(self.root_device)


def _groups(ranks: int, size: int, where: str, none: str) -> int:
    if size < 1 or ranks % size:
        raise ConfigError(
            f"{ranks} ranks do not divide into groups of {size}",
            where=where,
            mend=f"set a divisor of {ranks}, such as the ranks of a node; {none}",
        )
    return ranks // size


class Autocast(Precision):
    """Numerics of `FullyShard`.

    Args:
        precision: ``32-true`` or ``bf16-mixed``.

    Raises:
        ConfigError: It is another one.
    """

    def __init__(self, precision: str) -> None:
        require_known(precision, _NUMERICS, "FSDP")
        self.precision: Any = precision

    def forward_context(self) -> AbstractContextManager[Any]:
        """What the forward pass runs under."""
        return autocast(self.precision)

    def clip_grad_by_norm(self, optimizer: Optimizer, clip_val: int | float) -> None:
        """Shrinks all gradients together to a norm of ``clip_val``, if theirs is larger."""
        parameters = list(self.main_params(optimizer))
        norm = sharded.total_norm(parameter.grad for parameter in parameters if parameter.grad is not None)
        for group in sharded.by_mesh(parameters):
            torch.nn.utils.clip_grads_with_norm_(group, clip_val, norm)
