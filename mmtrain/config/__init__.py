"""Configuration: compose it from files and overrides, validate it against signatures, build what it describes."""

from mmtrain.config.budget import BatchSize, derive_batch, total_steps
from mmtrain.config.compose import Composed, compose
from mmtrain.config.directory import config_dir
from mmtrain.config.instantiate import allow_targets, instantiate
from mmtrain.config.provenance import Source
from mmtrain.config.schema import Budget, Root, Run, Trainer, typed
from mmtrain.config.validate import validate

__all__ = [
    "BatchSize",
    "Budget",
    "Composed",
    "Root",
    "Run",
    "Source",
    "Trainer",
    "allow_targets",
    "compose",
    "config_dir",
    "derive_batch",
    "instantiate",
    "total_steps",
    "typed",
    "validate",
]
