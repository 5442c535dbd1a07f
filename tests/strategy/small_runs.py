"""Small objectives under a strategy, and what comes of them; scripts beside this file train them on two ranks."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import clip_case
import lightning.pytorch as pl
import lm_case
import mlm_case
import torch
from tiny_run import ROOT
from torch import Tensor
from torch.utils.data import DataLoader

from mmtrain import distributed
from mmtrain.callback.checkpoint_io import AtomicCheckpointIO
from mmtrain.callback.checkpoint_writer import Save, Writer
from mmtrain.callback.ema import Ema
from mmtrain.callback.gradient_norm import gradient_norm
from mmtrain.callback.guard import Guard
from mmtrain.errors import ConfigError
from mmtrain.model.generate import collect, generate
from mmtrain.model.sampling import Sampling
from mmtrain.objective.base import Batch
from mmtrain.objective.clip import ClipObjective
from mmtrain.objective.lm import LanguageModel
from mmtrain.sharded import own_part, whole

STEPS, ROWS, CLIP_NORM, WORLD = 20, 8, 0.5, 2
SAVED_STEP = 4
POISONED_STEP, SPIKED_STEP = 3, 9
CASES: dict[str, Any] = {"clip": clip_case, "mlm": mlm_case, "lm": lm_case}
Result = dict[str, Any]
Strategy = Callable[[], Any]


class ClipData(pl.LightningDataModule):
    """The share of the batches is cut when the ranks have met."""

    def __init__(self, batches: list[Batch]) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> Any:
        return DataLoader([mlm_case.share(batch) for batch in self.batches], batch_size=None)  # type: ignore[arg-type]


class Norms(pl.Callback):
    """Keeps the norm of every gradient before clipping."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        self.values.append(float(gradient_norm(trainer, module)))


class Weights(pl.Callback):
    """Keeps the weights of the end; rank 0 has them."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}

    def on_train_end(self, trainer: Any, module: Any) -> None:
        named = trainer.strategy.lightning_module_state_dict()
        self.values = {name: whole(own_part(tensor), tensor).cpu().clone() for name, tensor in named.items()}


class Texts(pl.Callback):
    """Has the model go on with a prompt after the evaluation, outside of any ``forward`` of the objective."""

    def __init__(self) -> None:
        self.tokens: list[list[int]] = []

    def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
        self.tokens = collect(
            generate(module.model, [[1, 2, 3]], max_new_tokens=8, sampling=Sampling(0.0), vocab_size=lm_case.VOCAB)
        )


class Saves(pl.Callback):
    """Saves after a step, as `Checkpoint` does."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == SAVED_STEP:
            writer = Writer(lambda *_: None, background=False)
            content = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            writer.start(content, Save(self.path, SAVED_STEP, {}, best=False))
            written = writer.wait()
            assert written is not None and written.error is None, written


class Harmed(LanguageModel):
    """One step's loss is not a number on the last rank, a later one's is large."""

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        outputs = super().training_step(batch, batch_idx)
        step, last = self.global_step + 1, distributed.rank() == distributed.world_size() - 1
        if step == POISONED_STEP and last:
            outputs["loss"] = outputs["loss"] * math.nan
        if step == SPIKED_STEP:
            outputs["loss"] = outputs["loss"] * 1e4
        return outputs


class Warmer(ClipObjective):
    """Steps push the temperature over its bound."""

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        outputs = super().training_step(batch, batch_idx)
        direction = -1 if batch_idx < STEPS // 2 else 1
        outputs["loss"] = outputs["loss"] + 100 * direction * self.model.logit_scale
        return outputs


def fit(
    objective: Any,
    case: Any,
    *,
    strategy: Strategy | None,
    steps: int = STEPS,
    callbacks: list[pl.Callback] | None = None,
    resume: Path | None = None,
    same: bool = False,
    evaluates: bool = False,
    precision: str = "32-true",
) -> Result:
    """Trains; the global loss, the temperature if any, and the norm of every step, and the weights at the end."""
    batches = [case.random_batch(ROWS, 0 if same else seed) for seed in range(steps)]
    data = (
        ClipData(batches)
        if case is clip_case
        else case.Data(batches, {"val": [case.random_batch(ROWS, 99)]} if evaluates else {})
    )
    returned, norms, weights = mlm_case.Steps(), Norms(), Weights()
    options: dict[str, Any] = {"devices": 1}
    if strategy is not None:
        options = {"devices": WORLD, "strategy": strategy()}
    if evaluates:
        options["val_check_interval"] = 2  # steps, and training goes on
    trainer = case.trainer(
        steps,
        callbacks=[returned, norms, weights, *(callbacks or [])],
        gradient_clip_val=CLIP_NORM,
        precision=precision,
        log_every_n_steps=1,
        plugins=[AtomicCheckpointIO()],
        **options,
    )
    trainer.fit(objective, datamodule=data, ckpt_path=resume, weights_only=True)
    losses = torch.tensor([outputs["loss"] for outputs in returned.outputs], dtype=torch.float64)
    losses = distributed.all_reduce_sum(losses) / distributed.world_size()
    scales = [outputs["logit_scale"] for outputs in returned.outputs if "logit_scale" in outputs]
    numbers = {"losses": losses, "norms": torch.tensor(norms.values), "scales": torch.tensor(scales)}
    return numbers | {"weights": weights.values}


def plain(name: str, strategy: Strategy | None, **options: Any) -> Result:
    return fit(CASES[name].small_objective(), CASES[name], strategy=strategy, **options)


def evaluated(strategy: Strategy | None) -> Result:
    """Two steps, then an evaluation and a text."""
    texts, metrics = Texts(), {}

    class Metrics(pl.Callback):
        def on_validation_end(self, trainer: Any, module: Any) -> None:
            metrics.update({name: float(value) for name, value in trainer.callback_metrics.items()})

    result = plain("lm", strategy, steps=2, callbacks=[texts, Metrics()], evaluates=True)
    return result | {"tokens": texts.tokens, "metrics": metrics}


def averaged(strategy: Strategy | None) -> Result:
    """Some steps with an average of the weights, which an evaluation is made with."""
    ema = Ema(decay=0.9)
    result = plain("lm", strategy, steps=6, callbacks=[ema], evaluates=True)
    average = ema.state_dict()["average"]
    return result | {"average": {name: whole(own_part(x), x).cpu() for name, x in average.items()}}


def harmed(strategy: Strategy | None) -> Result:
    objective, guard = lm_case.small_objective(), Guard(spike_factor=10.0, window=8)
    objective.__class__ = Harmed
    result = fit(objective, lm_case, strategy=strategy, callbacks=[guard])
    return result | {"skipped": int(guard.state_dict()["counts"][0])}


def bounded(strategy: Strategy | None) -> Result:
    objective = clip_case.small_objective(optim=clip_case.recipe(lr=0.5))
    objective.__class__ = Warmer
    return fit(objective, clip_case, strategy=strategy)


def resumed(strategy: Strategy, path: Path) -> Result:
    """A run that saves on its way, and what goes on from there."""
    whole = plain("lm", strategy, callbacks=[Saves(path)], same=True)
    return {"whole": whole, "rest": plain("lm", strategy, resume=path, same=True)}


def refused(run: Callable[[], object]) -> str:
    try:
        run()
    except ConfigError as error:
        return str(error)
    return "went through"


def quiet() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)


def run_script(name: str, folder: Path) -> Result:
    """Runs one of the scripts beside this file, whose ranks work in ``folder``; what came out of each case."""
    tests = ROOT / "tests"
    paths = [ROOT, tests, tests / "objective", tests / "strategy"]
    variables = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    with (folder / "said.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, tests / "strategy" / name, folder],
            env=os.environ | variables,
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout=280)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert status == 0, (folder / "said.log").read_text(errors="replace")[-4000:]
    results: Result = torch.load(folder / "results.pt", weights_only=True)
    return results


def alone(build: Callable[[], Any]) -> Any:
    """What ``build`` returns, computed in this process by one thread, as each rank computes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return build()
    finally:
        torch.set_num_threads(threads)


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    """Equal up to the order in which ranks add."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance, equal_nan=True)


def assert_same(ours: Result, theirs: Result) -> None:
    """Losses and weights of as many steps, up to the order in which ranks add."""
    assert len(ours["losses"]) == STEPS
    torch.testing.assert_close(ours["losses"], theirs["losses"], rtol=1e-5, atol=1e-5)
    assert ours["weights"].keys() == theirs["weights"].keys()
    for key, weight in theirs["weights"].items():
        close(ours["weights"][key], weight, 1e-4)
