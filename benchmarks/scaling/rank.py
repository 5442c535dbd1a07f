"""Trains and measures a task in this process and the ranks that Lightning starts: ``python -m scaling.rank TASK OUT``.

Rank 0 writes what came out as JSON.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from mmtrain import distributed
from mmtrain.callback.checkpoint_io import AtomicCheckpointIO, CheckpointRecord, checkpoint_path, delete_checkpoint
from mmtrain.callback.checkpoint_writer import Save, Writer
from mmtrain.nn.transformer import Block
from mmtrain.strategy.ddp import auto, ddp
from scaling import memory
from scaling.task import WARMUP, Data, Task, objective_of


class Clock(pl.Callback):
    """Time of every step, and of its end, clipping and the optimizer: by the clock, and of this rank's processor."""

    def __init__(self, device: str) -> None:
        self._on_gpu = device == "cuda"
        self._start = self._update_start = (0.0, 0.0)
        self.steps: list[tuple[float, float]] = []
        self.updates: list[tuple[float, float]] = []

    def _now(self) -> tuple[float, float]:
        if self._on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self._start = self._now()

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        self._update_start = self._now()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        clock, cpu = self._now()
        self.steps.append((clock - self._start[0], cpu - self._start[1]))
        self.updates.append((clock - self._update_start[0], cpu - self._update_start[1]))


class Held(pl.Callback):
    """What this rank holds after the backward pass of the step after the timed ones, and its peak until then."""

    def __init__(self, task: Task, peak: memory.Peak) -> None:
        self._last = WARMUP + task.steps
        self._peak = peak
        self.result: dict[str, int] = {}

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARMUP - 1:
            gc.collect()
            self._peak.restart()

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        if trainer.global_step == self._last:
            (outer,) = trainer.strategy.optimizers
            self.result = {"pss": memory.proportional_bytes(), **memory.held(module, outer)}

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self._last:
            self.result["peak"] = self._peak.bytes()


class Saves(pl.Callback):
    """Saves as `Checkpoint` does after the timed steps, and lets training go on for some steps after each."""

    def __init__(self, task: Task, folder: Path) -> None:
        self._save_after = task.save_after
        self._folder = folder
        self._sealed_at = 0.0
        self._sealed_bytes = 0
        self._writers = {background: Writer(self._sealed, background) for background in (False, True)}
        self._current: Writer | None = None
        self._began = self._step_began = 0.0
        self.results: list[dict[str, Any]] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self._step_began = time.monotonic()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._current is not None:
            self.results[-1]["after"].append((self._step_began, time.monotonic()))
        if batch_idx in self._save_after:
            self._settle()
            self._save(trainer, self._save_after[batch_idx])

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self._settle()

    def _save(self, trainer: Any, background: bool) -> None:
        distributed.barrier()
        writer, path = self._writers[background], checkpoint_path(self._folder, trainer.global_step)
        self._began = time.monotonic()
        content = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        writer.start(content, Save(path, trainer.global_step, {}, best=False))
        if not background:
            self._current = writer
            self._wait()
        paused = time.monotonic() - self._began
        self._current = writer
        self.results.append({"background": background, "pause": paused, "after": []})

    def _wait(self) -> None:
        assert self._current is not None
        written = self._current.wait()
        if written is not None:
            assert written.error is None, written.error

    def _settle(self) -> None:
        if self._current is None:
            return
        self._wait()
        self._current = None
        if distributed.rank() == 0:
            result = self.results[-1]
            after: list[tuple[float, float]] = result["after"]
            while_writing = [end - start for start, end in after if start < self._sealed_at]
            result |= {"durable": self._sealed_at - self._began, "bytes": self._sealed_bytes, "beside": while_writing}
            for file in self._folder.glob("step_*.ckpt"):
                delete_checkpoint(file)
        distributed.barrier()

    def _sealed(self, save: Save, record: CheckpointRecord) -> None:
        self._sealed_at, self._sealed_bytes = time.monotonic(), record.bytes


def strategy_of(name: str, world: int) -> Any:
    """Of the trainer."""
    if name == "none":
        return auto()
    if name == "ddp":
        return ddp()
    if name in ("fsdp", "tp"):
        from mmtrain.strategy.fsdp import fsdp

        return fsdp(tensor_parallel=world if name == "tp" else 1)
    from mmtrain.strategy.deepspeed import deepspeed

    return deepspeed(stage=int(name.removeprefix("zero")))  # type: ignore[arg-type]


def measure(task: Task, folder: Path) -> dict[str, Any]:
    """Trains; what was measured, of all ranks on rank 0."""
    peak = memory.Peak(task.device)
    objective = objective_of(task)
    model = objective.model
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    in_blocks = sum(p.numel() for block in blocks for p in block.parameters())
    if task.strategy == "tp":  # every rank has norms, and the biases that are added to sums over ranks
        whole = [part for block in blocks for part in (block.norm1, block.norm2)]
        in_blocks -= sum(p.numel() for norm in whole for p in norm.parameters())
        in_blocks -= sum(linear.out_features for block in blocks for linear in (block.attention.out, block.mlp.down))
    params, flops = sum(p.numel() for p in model.parameters()), task.rows * model.flops_per_sample(task.tokens)
    clock, held, saves = Clock(task.device), Held(task, peak), Saves(task, folder)
    trainer = pl.Trainer(
        accelerator=task.device,
        devices=task.world,
        strategy=strategy_of(task.strategy, task.world),
        precision=task.precision,  # type: ignore[arg-type]
        max_steps=task.total_steps,
        gradient_clip_val=1.0,
        callbacks=[clock, held, saves],  # in this order: the clock stops before a save
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(objective, datamodule=Data(task))
    timed = slice(WARMUP, WARMUP + task.steps)
    told = distributed.all_gather_object({"held": held.result, "cpu": [cpu for _, cpu in clock.steps[timed]]})
    return {
        "params": params,
        "outside": params - in_blocks,
        "blocks": len(blocks),
        "flops": flops,
        "steps": [seconds for seconds, _ in clock.steps[timed]],
        "updates": [seconds for seconds, _ in clock.updates[timed]],
        "update_cpu": [cpu for _, cpu in clock.updates[timed]],
        "cpu": [sum(every) for every in zip(*(own["cpu"] for own in told), strict=True)],
        "held": [own["held"] for own in told],
        "saves": saves.results,
    }


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    the_task = Task(**json.loads(sys.argv[1]))
    # The ranks that Lightning starts are given the same arguments, and have to agree on the folder.
    with tempfile.TemporaryDirectory(dir=Path(sys.argv[2]).parent) as own_folder:
        shared = os.environ.setdefault("SCALING_FOLDER", own_folder)
        result = measure(the_task, Path(shared))
        if distributed.rank() == 0:
            Path(sys.argv[2]).write_text(json.dumps(result))
        distributed.barrier()
