from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from loading import STEPS, plan

from mmtrain.data import Loader, Manifest, RawSample, Samples, SampleSeed, SampleSource, ShardReader, Stream

SAVE_POINTS = ("b1", "b4", f"b{STEPS - 1}", f"b{STEPS}", f"e{STEPS}", f"b{STEPS + 1}", f"b{STEPS + 4}")
SAVE_POINTS += (f"b{2 * STEPS}", f"e{2 * STEPS}")


def draw(raw: RawSample, seed: SampleSeed) -> Mapping[str, Any]:
    return {"key": raw["__key__"], "draw": float(seed.generator(Stream.IMAGE).random())}


def fit(manifest: Manifest, num_workers: int, folder: Path, resume: str | None = None) -> tuple[list[Any], int]:
    """Trains three epochs; saves at b<step> (in a step's end) and e<step> (in an epoch's end)."""
    import lightning as L

    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)

    class Data(L.LightningDataModule):
        def __init__(self) -> None:
            super().__init__()
            self.source = Loader(
                Samples([SampleSource(ShardReader(manifest), draw)], seed=11), plan(manifest), num_workers=num_workers
            )

        def train_dataloader(self) -> Any:
            return self.source

        def state_dict(self) -> dict[str, Any]:
            return self.source.state_dict()

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.source.load_state_dict(state)

    class Model(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
            self.seen: list[Any] = []

        def training_step(self, batch: Any, index: int) -> Any:
            self.seen.append((self.trainer.current_epoch, index, batch["key"], batch["draw"].tolist()))
            return self.layer(batch["draw"].float()[:, None]).mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 1e-3)

    class Save(L.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if resume is None and f"b{trainer.global_step}" in SAVE_POINTS:
                trainer.save_checkpoint(folder / f"b{trainer.global_step}.ckpt")

        def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
            if resume is None and f"e{trainer.global_step}" in SAVE_POINTS:
                trainer.save_checkpoint(folder / f"e{trainer.global_step}.ckpt")

    model = Model()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[Save()],
    )
    path = None if resume is None else folder / f"{resume}.ckpt"
    trainer.fit(model, datamodule=Data(), ckpt_path=path)
    return model.seen, trainer.global_step


@pytest.mark.filterwarnings("ignore")
def test_lightning_resumes_exactly_from_every_save_point(data_set: Manifest, tmp_path: Path) -> None:
    expected, last = fit(data_set, 0, tmp_path)
    assert last == len(expected) == 3 * STEPS
    assert len({tuple(keys) for _, _, keys, _ in expected}) == 3 * STEPS
    for number, point in enumerate(SAVE_POINTS):
        seen, steps = fit(data_set, number % 3, tmp_path, point)
        assert steps == 3 * STEPS, point
        assert seen == expected[int(point[1:]) :], point
