"""What of DeepSpeed 0.19 has to be set right before it serves: its logger, its start on a CPU, its weights as bytes."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn

from mmtrain.errors import ConfigError


def import_deepspeed() -> None:
    """Imports the library for the devices of this machine, before anything else does.

    Raises:
        ConfigError: It is not installed.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            "DeepSpeed is not installed",
            where="strategy",
            mend="pip install 'mmtrain[deepspeed]', or train with strategy=fsdp",
        )
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    # A kernel for inference, which it would compile for a minute at the first start on a CPU.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logger = logging.getLogger("DeepSpeed")
    logger.handlers.clear()  # one writes to the standard output
    logger.propagate = True


def require_accelerator(device: torch.device) -> None:
    """Refuses a device that DeepSpeed was not imported for.

    Raises:
        ConfigError: It was imported for another one: it takes a GPU where the machine has one.
    """
    from deepspeed.accelerator import get_accelerator

    if (imported := get_accelerator().device_name()) != device.type:
        raise ConfigError(
            f"DeepSpeed is to train on {device.type}, and was imported for {imported}",
            where="trainer.accelerator",
            mend=f"set DS_ACCELERATOR={device.type} in the environment",
        )


@contextmanager
def scalars_broadcast() -> Iterator[None]:
    """Inside, a model may have parameters of no dimension, such as CLIP's temperature.

    DeepSpeed sends rank 0's weights to the others as bytes, and PyTorch has no view of such a tensor as bytes.
    """
    from deepspeed import DeepSpeedEngine
    from deepspeed.runtime.zero.partition_parameters import Init

    def broadcast_model(engine: DeepSpeedEngine) -> None:
        for parameter in engine.module.parameters():
            dist.broadcast(parameter.data, src=0)

    def partition(init: Init, parameter: nn.Parameter) -> None:
        init._convert_to_deepspeed_param(parameter)
        parameter.partition()  # type: ignore[attr-defined]

    with (
        mock.patch.object(DeepSpeedEngine, "_broadcast_model", broadcast_model),
        mock.patch.object(Init, "_zero_init_param", partition),
    ):
        yield
