"""Twenty losses that a change of code must not change; run this file as a program to renew them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from classify_case import fit, random_batch, small_objective
from clip_case import recipe

from mmtrain.optim.muon import Muon

GOLDEN = Path(__file__).parents[1] / "golden" / "classify_losses.json"


def losses() -> dict[str, list[float]]:
    batches = [random_batch(16, seed=step % 4, mixed=True) for step in range(20)]
    recipes = {"adamw": recipe(), "muon": Muon(lr=1e-2, rest=recipe(), weight_decay=0.02)}
    return {
        name: fit(small_objective(micro_batch_size=8, label_smoothing=0.1, optim=optim), batches)
        for name, optim in recipes.items()
    }


def test_losses_are_those_of_the_golden_file() -> None:
    """Where a change is meant: ``python tests/objective/test_classify_golden.py``, and say why in the commit."""
    golden = json.loads(GOLDEN.read_text())
    for name, values in losses().items():
        assert values == pytest.approx(golden[name], abs=1e-4), name  # processors differ in the last digits


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(losses(), indent=1) + "\n")
