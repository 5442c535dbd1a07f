"""The plain keys of the root configuration, and what the program itself passes to each node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NewType

from pydantic import PositiveFloat, PositiveInt

Node = NewType("Node", dict[str, Any])
"""A mapping with a ``_target_``: the signature of the target is its schema."""

Nodes = NewType("Nodes", dict[str, Any])
"""A mapping of free names to nodes; null switches a name off."""

# The arguments that the program passes when it builds a group's node. A target of the group must accept all of them,
# and a configuration may set none of them. For groups of named nodes they are passed to each of the nodes.
PROVIDED: Mapping[str, frozenset[str]] = {
    "objective": frozenset({"model", "optim", "micro_batch_size"}),
    "model": frozenset(),
    "data": frozenset({"seed"}),
    "optim": frozenset(),
    "strategy": frozenset(),
    "callback": frozenset(),
    "logger": frozenset({"directory", "config", "resume_step"}),
}


@dataclass(frozen=True)
class Run:
    """Where the run is kept.

    Attributes:
        dir: Directory of the run, relative to the working directory.
        fresh: Start over; the directory of an earlier run is moved aside, never deleted.
    """

    dir: str
    fresh: bool


@dataclass(frozen=True)
class Budget:
    """How long to train. Exactly one is set.

    Attributes:
        epochs: Passes over the training data.
        samples: Samples handed to the model, over all ranks.
        tokens: Tokens handed to the model, over all ranks, padding included.
    """

    epochs: PositiveInt | None
    samples: PositiveInt | None
    tokens: PositiveInt | None


@dataclass(frozen=True)
class Trainer:
    """The machine, and how often to look.

    Attributes:
        accelerator: Kind of device.
        devices: Processes on each node, one a device.
        num_nodes: Nodes of the job.
        precision: Numerics of the forward pass; auto is bf16-mixed on a GPU and 32-true on a CPU.
        gradient_clip_norm: Largest L2 norm of the gradient of all parameters; null does not clip.
        log_every_n_steps: Optimizer steps between two records of the training metrics.
        eval_every_n_steps: Optimizer steps between two evaluations; null evaluates at the end of each epoch.
        threads: Intra-op threads of a process; null leaves PyTorch's own choice.
        compile: Whether each block of a Transformer is compiled by PyTorch: minutes at the start, then faster steps.
    """

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"]
    devices: PositiveInt | Literal["auto"]
    num_nodes: PositiveInt
    precision: Literal[
        "auto", "32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true", "transformer-engine"
    ]
    gradient_clip_norm: PositiveFloat | None
    log_every_n_steps: PositiveInt
    eval_every_n_steps: PositiveInt | None
    threads: PositiveInt | None
    compile: bool


@dataclass(frozen=True)
class Root:
    """The whole configuration.

    Attributes:
        name: Name of the run; an experiment sets it.
        seed: Seed of everything random in the run.
        run: Where the run is kept.
        budget: How long to train.
        trainer: The machine, and how often to look.
        objective: The LightningModule: batch to loss and metrics.
        model: The network that the objective trains.
        data: What is trained and evaluated on, and the batch sizes.
        optim: The optimizer and its schedule.
        strategy: How ranks share the work.
        callback: Lightning callbacks by name.
        logger: Lightning loggers by name.
    """

    name: str
    seed: int
    run: Run
    budget: Budget
    trainer: Trainer
    objective: Node
    model: Node
    data: Node
    optim: Node
    strategy: Node
    callback: Nodes = field(default_factory=lambda: Nodes({}))
    logger: Nodes = field(default_factory=lambda: Nodes({}))


def typed(config: Mapping[str, Any]) -> Root:
    """Returns a validated configuration as its dataclass, so that a reader of it is checked by the type checker."""
    sections = {
        "run": Run(**config["run"]),
        "budget": Budget(**config["budget"]),
        "trainer": Trainer(**config["trainer"]),
    }
    return Root(**{**config, **sections})
