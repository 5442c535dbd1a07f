"""Experiments reach what the documentation says, on real data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_run import Program


@pytest.mark.slow
def test_five_hundred_steps_on_shakespeare_reach_nanogpts_loss(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.8857 is what nanoGPT's own 2,000 steps reach on a part of the same text."""
    monkeypatch.chdir(tmp_path)
    outcome = program("experiment=gpt_shakespeare_fast", "logger=none", "callback.progress=null")
    assert outcome.status == 0, outcome.err
    rows = [json.loads(line) for line in (tmp_path / "runs/gpt_shakespeare_fast/metrics.jsonl").open()]
    (loss,) = (row["eval/val/loss"] for row in rows if "eval/val/loss" in row)
    assert loss < 1.8857
    text = program("generate", "runs/gpt_shakespeare_fast", "ROMEO.\n", "--seed", "1", "--max-new-tokens", "40").out
    assert text.startswith("ROMEO.\n") and len(text) > 40
