"""A toy run made of the real parts: loader, module, callbacks, loggers. Also a script, for tests that kill it."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from mmtrain.callback.checkpoint import Checkpoint
from mmtrain.callback.checkpoint_io import AtomicCheckpointIO, latest_checkpoint, read_record
from mmtrain.callback.ema import Ema
from mmtrain.callback.guard import Guard
from mmtrain.callback.preemption import Preemption
from mmtrain.callback.recorder import Recorder
from mmtrain.callback.rng import StepSeed
from mmtrain.callback.throughput import Throughput
from mmtrain.logger.jsonl import JsonlLogger
from mmtrain.logger.wandb import WandbLogger
from mmtrain.run.datamodule import DataModule
from mmtrain.run.directory import open_run

BATCH = 4


class ToyLoader:
    """Batches are a pure function of (epoch, position); the state counts batches handed out."""

    def __init__(self, steps: int, rank: int, world: int) -> None:
        self.steps, self.rank, self.world = steps, rank, world
        self.epoch, self.batches = 0, 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self.batches == self.steps:
            self.epoch, self.batches = self.epoch + 1, 0
        while self.batches < self.steps:
            index, self.batches = self.batches, self.batches + 1
            x = torch.randn(BATCH, 8, generator=torch.Generator().manual_seed(1000 * self.epoch + index))
            share = BATCH // self.world
            yield {"x": x[self.rank * share : (self.rank + 1) * share], "key": f"{self.epoch}/{index}"}

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "batches": self.batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.batches = state["epoch"], state["batches"]


class ToyEvalLoader:
    def __init__(self, batches: int) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return iter([{"x": torch.full((2, 8), float(i))} for i in range(self.batches)])


@dataclass
class ToyEvalSet:
    name: str
    loader: ToyEvalLoader


class ToyData:
    def __init__(self, steps_per_epoch: int) -> None:
        self.steps_per_epoch = steps_per_epoch

    def prepare(self) -> None:
        pass

    def train_loader(self, rank: int, world: int) -> ToyLoader:
        return ToyLoader(self.steps_per_epoch, rank, world)

    def eval_loaders(self, rank: int, world: int) -> dict[str, ToyEvalSet]:
        return {"seen": ToyEvalSet("seen", ToyEvalLoader(2)), "new": ToyEvalSet("new", ToyEvalLoader(3))}


class ToyModule(pl.LightningModule):
    """A net with dropout; the loss of ``poisoned`` steps (from 1) is multiplied by ``poison`` on the last rank."""

    def __init__(
        self,
        seconds_per_step: float = 0.0,
        poisoned: Sequence[int] = (),
        poison: float = float("nan"),
        fused: bool = False,
    ) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.net = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.seconds_per_step = seconds_per_step
        self.poisoned, self.poison = poisoned, poison
        self.fused = fused
        self.seen: list[str] = []
        self.validated: list[int] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        time.sleep(self.seconds_per_step)
        self.seen.append(batch["key"])
        loss = self.net(batch["x"]).square().mean()
        if self.global_step + 1 in self.poisoned and self.trainer.global_rank == self.trainer.world_size - 1:
            loss = loss * self.poison
        return {"loss": loss, "double": 2 * loss.detach()}

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        name = ("seen", "new")[dataloader_idx]
        mean = self.net(batch["x"]).mean()
        self.log(f"eval/{name}/mean", mean, logger=False, add_dataloader_idx=False, batch_size=2, sync_dist=True)

    def on_validation_end(self) -> None:
        self.validated.append(self.global_step)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1, fused=self.fused)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def quiet() -> None:
    """Keeps Lightning's advice about small toys off the output."""
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")


def trainer_of(
    directory: Path,
    *,
    max_steps: int,
    eval_every: int | None,
    callbacks: Sequence[pl.Callback],
    resume_step: int = 0,
    log_every: int = 2,
    wandb: bool = False,
    **trainer: Any,
) -> pl.Trainer:
    directory.mkdir(parents=True, exist_ok=True)
    loggers: list[Any] = [JsonlLogger(directory, resume_step)]
    if wandb:
        loggers.append(WandbLogger(directory, {"lr": 0.1}, resume_step))
    common = [StepSeed(0), Recorder(BATCH), Throughput(BATCH), *callbacks]
    options: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "plugins": [AtomicCheckpointIO()]}
    options |= {"enable_progress_bar": False, **trainer}
    return pl.Trainer(
        default_root_dir=directory,
        max_steps=max_steps,
        max_epochs=-1,
        val_check_interval=eval_every or max_steps + 1,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=log_every,
        logger=loggers,
        callbacks=common,
        enable_model_summary=False,
        **options,
    )


def train(
    directory: Path,
    *,
    max_steps: int,
    steps_per_epoch: int = 4,
    eval_every: int | None = 3,
    save_every: int | None = 2,
    seconds_per_step: float = 0.0,
    wandb: bool = False,
    module: Mapping[str, Any] | None = None,
    guard: Mapping[str, Any] | None = None,
    ema: Mapping[str, Any] | None = None,
    extra: Sequence[pl.Callback] = (),
    **trainer: Any,
) -> tuple[ToyModule, pl.Trainer]:
    """Trains from the latest checkpoint of ``directory``, or from the beginning."""
    quiet()
    run = open_run(directory, {"max_steps": max_steps, "eval_every": eval_every})
    checkpoint = latest_checkpoint(run.checkpoints)
    record = read_record(checkpoint) if checkpoint else None
    toy = ToyModule(seconds_per_step, **(module or {}))
    chosen: list[pl.Callback] = [*extra] if guard is None else [Guard(**guard), *extra]
    chosen = chosen if ema is None else [Ema(**ema), *chosen]
    callbacks = [*chosen, Preemption(every_n_steps=2), Checkpoint(every_n_steps=save_every, keep_last=2)]
    fitter = trainer_of(
        directory,
        max_steps=max_steps,
        eval_every=eval_every,
        callbacks=callbacks,
        resume_step=record.step if record else 0,
        wandb=wandb,
        **trainer,
    )
    fitter.fit(toy, datamodule=DataModule(ToyData(steps_per_epoch)), ckpt_path=checkpoint)
    run.close()
    return toy, fitter


def rows_of(directory: Path) -> list[dict[str, Any]]:
    """The rows of the record without timings."""
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    rows = [{k: v for k, v in row.items() if not k.startswith("throughput/")} for row in rows]
    return [row for row in rows if len(row) > 1]


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Where two checkpoints differ in any bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return [f"{where}: keys {a.keys() ^ b.keys()}"]
        return [line for key in a for line in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list | tuple):
        pairs = enumerate(zip(a, b, strict=True))
        return [line for index, (x, y) in pairs for line in differences(x, y, f"{where}/{index}")]
    same = torch.equal(a, b) if isinstance(a, Tensor) else a == b
    return [] if same else [f"{where}: {a} != {b}"]


if __name__ == "__main__":
    options = json.loads(sys.argv[2])
    train(Path(sys.argv[1]), **options)
