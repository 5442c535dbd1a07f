"""One run, moved from strategy to strategy in mid-epoch: it sees the same samples and goes on as if it had stayed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from tiny_run import finish, last_checkpoint, rows, start, tiny, wait_for_step

from mmtrain.callback.checkpoint_io import latest_checkpoint

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.slow
PLACES = (
    ("deepspeed_zero3", 2),
    ("ddp", 2),
    ("fsdp", 4),
    ("fsdp strategy.tensor_parallel=2", 4),
    ("fsdp", 1),
    ("ddp", 1),
)
STEPS = 40
PLAIN = ["optim=adamw", "~optim.rest", "optim.lr=1e-3", f"budget.samples={16 * STEPS}", "callback.retrievals=null"]
PLAIN += ["trainer.eval_every_n_steps=5"]  # under every strategy


@pytest.fixture(scope="module")
def undisturbed(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("undisturbed")
    finish(start(tiny(shapes, home / "run", *PLAIN), home / "said.log"), home / "said.log")
    return home / "run"


def test_a_run_moves_between_strategies_and_numbers_of_ranks(shapes: Path, undisturbed: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "said.log"
    for number, (strategy, ranks) in enumerate(PLACES):
        where = [*f"strategy={strategy}".split(), f"trainer.devices={ranks}", "callback.preemption.every_n_steps=1"]
        process = start(tiny(shapes, run, *PLAIN, *where), log)
        if number < len(PLACES) - 1:
            wait_for_step(run, (number + 1) * STEPS // len(PLACES), process, log)
            process.send_signal(signal.SIGTERM)
        finish(process, log)
        saved = latest_checkpoint(run / "checkpoints")
        assert saved is not None
        assert saved.is_dir() == strategy.startswith("fsdp")
    assert log.read_text().count("going on at step") == len(PLACES) - 1
    found, expected = (rows(path, but="throughput/") for path in (run, undisturbed))
    assert [row.keys() for row in found] == [row.keys() for row in expected]
    losses, expected_losses = (
        [row["train/loss"] for row in table if "train/loss" in row] for table in (found, expected)
    )
    assert len(losses) == STEPS
    evaluated, expected_evaluated = (
        [value for row in table for name, value in row.items() if name.startswith("eval/") and name.endswith("/loss")]
        for table in (found, expected)
    )
    assert evaluated == pytest.approx(expected_evaluated, rel=1e-5)
    # Another order of samples changes losses by a tenth.
    assert losses == pytest.approx(expected_losses, rel=0, abs=1e-5)
    assert last_checkpoint(run)["DataModule"] == last_checkpoint(undisturbed)["DataModule"]
