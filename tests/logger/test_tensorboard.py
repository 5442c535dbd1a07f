"""TensorBoard shows each step once, also after a resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmtrain.logger.tensorboard import TensorBoardLogger


def test_scalars_of_a_resumed_run_are_one_history(tmp_path: Path) -> None:
    first = TensorBoardLogger(tmp_path, {"lr": 0.1})
    for step in (1, 2, 3, 4):
        first.log_metrics({"train/loss": float(step)}, step=step)
    first.finalize("failed")
    second = TensorBoardLogger(tmp_path, {"lr": 0.1}, resume_step=2)
    second.log_metrics({"train/loss": 3.0}, step=3)
    second.log_image("eval/picture", np.zeros((4, 5, 3), dtype=np.uint8), step=3)
    second.log_table("eval/words", ["word", "count"], [["a", 1]], step=3)
    second.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert events.Images("eval/picture")[0].width == 5
    assert "eval/words/text_summary" in events.Tags()["tensors"]
