"""The last step is evaluated once, wherever it falls."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_run import train

from mmtrain.callback.final_evaluation import FinalEvaluation


@pytest.mark.parametrize(
    ("max_steps", "eval_every", "expected"),
    [
        (10, 4, [4, 8, 10]),
        (10, 5, [5, 10]),
        (3, 3, [3]),
        (2, 3, [2]),
        (8, 3, [3, 6, 8]),  # the end of an epoch
        (1, 1, [1]),
    ],
)
def test_the_last_step_is_evaluated_once(tmp_path: Path, max_steps: int, eval_every: int, expected: list[int]) -> None:
    module, trainer = train(tmp_path / "run", max_steps=max_steps, eval_every=eval_every, extra=[FinalEvaluation()])
    assert module.validated == expected
    assert trainer.global_step == max_steps


def test_a_run_without_it_leaves_the_last_step_out(tmp_path: Path) -> None:
    module, _ = train(tmp_path / "run", max_steps=10, eval_every=4)
    assert module.validated == [4, 8]
