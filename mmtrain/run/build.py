"""From a validated config to the objects that train: the one place that says what the program passes to which node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.loggers.logger import Logger

from mmtrain.callback.checkpoint_io import AtomicCheckpointIO
from mmtrain.callback.final_evaluation import FinalEvaluation
from mmtrain.callback.recorder import Recorder
from mmtrain.callback.rng import StepSeed, seed_everything, stable_seed
from mmtrain.config import Root, derive_batch, instantiate, total_steps
from mmtrain.errors import ConfigError
from mmtrain.logger.jsonl import JsonlLogger
from mmtrain.nn.cross_entropy import LogitGradient
from mmtrain.nn.transformer import Block
from mmtrain.run.cluster import cluster_environment
from mmtrain.run.datamodule import Data


@dataclass(frozen=True)
class Plan:
    """What a run will do, known before the first step.

    Attributes:
        world_size: Ranks.
        total_steps: Optimizer steps of the whole run.
        eval_every: Optimizer steps between two evaluations.
    """

    world_size: int
    total_steps: int
    eval_every: int


def world_size(config: Root) -> int:
    """Ranks of the job: devices of a node times nodes."""
    devices = config.trainer.devices
    if devices == "auto":
        on_gpu = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
        devices = torch.cuda.device_count() if on_gpu else 1
    return devices * config.trainer.num_nodes


def data_parallel_size(config: Root) -> int:
    """Shares that a global batch is cut into: the ranks of the job, those that share a model's blocks counted as one.

    Raises:
        ConfigError: The ranks do not divide into groups that share blocks.
    """
    ranks, sharing = world_size(config), config.strategy.get("tensor_parallel", 1)
    if sharing < 1 or ranks % sharing:
        raise ConfigError(
            f"{ranks} ranks do not divide into groups of {sharing}",
            where="strategy.tensor_parallel",
            mend=f"set a divisor of {ranks}; or trainer.devices to a multiple of {sharing}",
        )
    return ranks // sharing


def build_data(config: Root) -> Data:
    """The data node. Nothing is fetched or opened.

    Raises:
        ConfigError: The global batch does not divide over ranks and micro-batches.
    """
    derive_batch(config.data["global_batch_size"], data_parallel_size(config), config.data["micro_batch_size"])
    data: Data = instantiate(config.data, "data", seed=config.seed)
    return data


def build_objective(config: Root) -> pl.LightningModule:
    """The objective with its model and optimizer; the weights are a function of the seed alone."""
    seed_everything(stable_seed(config.seed, "init"))
    model = instantiate(config.model, "model")
    optim = instantiate(config.optim, "optim")
    objective: pl.LightningModule = instantiate(
        config.objective,
        "objective",
        model=model,
        optim=optim,
        micro_batch_size=config.data["micro_batch_size"],
    )
    if config.trainer.compile:
        compile_blocks(objective)
    return objective


def compile_blocks(module: torch.nn.Module) -> None:
    """Has each block of each Transformer, and the softmax of a large vocabulary, compiled at its first call.

    Blocks of one shape share what is compiled, so that it takes no longer for more of them; and what is compiled in
    place keeps its names in the state dict.
    """
    for part in module.modules():
        if isinstance(part, Block | LogitGradient):
            part.compile()


def plan_run(config: Root, steps_per_epoch: int, tokens_per_sample: int | None = None) -> Plan:
    """Steps of the run, from its budget.

    Args:
        config: The config.
        steps_per_epoch: Steps of one pass over the data.
        tokens_per_sample: Tokens of a sample, where all have as many.

    Raises:
        ConfigError: A budget of tokens for data without tokens.
    """
    steps = total_steps(
        config.budget,
        global_batch_size=config.data["global_batch_size"],
        steps_per_epoch=steps_per_epoch,
        tokens_per_sample=tokens_per_sample,
    )
    return Plan(world_size(config), steps, min(config.trainer.eval_every_n_steps or steps_per_epoch, steps))


def build_loggers(config: Root, plain: Mapping[str, Any], directory: Path, resume_step: int) -> list[Logger]:
    """The record of truth, and the loggers of the config.

    Args:
        config: The config.
        plain: The same as plain dicts and values, for the loggers to keep.
        directory: The run directory.
        resume_step: The step that the run goes on from, 0 for its beginning.
    """
    chosen = [
        instantiate(node, f"logger.{name}", directory=directory, config=plain, resume_step=resume_step)
        for name, node in config.logger.items()
        if node is not None
    ]
    return [JsonlLogger(directory, resume_step), *chosen]


def build_trainer(config: Root, plan: Plan, directory: Path, loggers: list[Logger], *own: pl.Callback) -> pl.Trainer:
    """Lightning's trainer, with everything off that mmtrain does itself or that would change a trajectory.

    Args:
        config: The config.
        plan: What the run will do.
        directory: The run directory.
        loggers: Of the run.
        own: Callbacks of the program, besides those of the config.
    """
    callbacks = [instantiate(node, f"callback.{name}") for name, node in config.callback.items() if node is not None]
    global_batch_size: int = config.data["global_batch_size"]
    return pl.Trainer(
        accelerator=config.trainer.accelerator,
        devices=plan.world_size // config.trainer.num_nodes,
        num_nodes=config.trainer.num_nodes,
        precision=resolve_precision(config),  # type: ignore[arg-type]
        strategy=instantiate(config.strategy, "strategy"),
        max_steps=plan.total_steps,
        max_epochs=-1,
        gradient_clip_val=config.trainer.gradient_clip_norm,
        log_every_n_steps=config.trainer.log_every_n_steps,
        val_check_interval=plan.eval_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        # Where the config has none, Lightning would bring its own.
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_model_summary=False,
        default_root_dir=directory,
        logger=loggers,
        callbacks=[StepSeed(config.seed), Recorder(global_batch_size), FinalEvaluation(), *own, *callbacks],
        plugins=[AtomicCheckpointIO(), cluster_environment()],
    )


def resolve_precision(config: Root) -> str:
    """The numerics that ``auto`` stands for."""
    if config.trainer.precision != "auto":
        return config.trainer.precision
    on_gpu = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu else "32-true"
