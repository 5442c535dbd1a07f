from __future__ import annotations

from pathlib import Path
from typing import Any

import clip_case
import lm_case
import pytest
import torch
from fsdp_run import checkpointed, muon
from small_runs import (
    CASES,
    CLIP_NORM,
    POISONED_STEP,
    SAVED_STEP,
    Result,
    alone,
    assert_same,
    averaged,
    close,
    evaluated,
    fit,
    harmed,
    plain,
    run_script,
)
from tensor_parallel_run import STYLES, dropped, siglip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where four ranks run all cases."""
    return tmp_path_factory.mktemp("tensor_parallel")


@pytest.fixture(scope="module")
def pairs(folder: Path) -> Result:
    """What came out of each case."""
    return run_script("tensor_parallel_run.py", folder)


@pytest.fixture(scope="module")
def one() -> Result:
    """The same in one process that holds the whole model."""

    def run() -> Result:
        results = {name: plain(name, None) for name in CASES}
        for name, style in STYLES.items():
            results[name] = fit(lm_case.small_objective(**style), lm_case, strategy=None)
        results["siglip"] = fit(siglip(), clip_case, strategy=None)
        results["dropped"] = dropped(None)
        results |= {"muon": fit(muon(lm_case), lm_case, strategy=None), "harmed": harmed(None)}
        results |= {"checkpointed": fit(checkpointed(), lm_case, strategy=None)}
        results |= {"evaluated": evaluated(None), "averaged": averaged(None)}
        return results | {"bf16": plain("lm", None, precision="bf16-mixed")}

    return alone(run)


@pytest.mark.parametrize("name", [*CASES, *STYLES, "dropped", "muon", "checkpointed"])
def test_losses_and_weights_of_pairs_are_those_of_one_process(pairs: Result, one: Result, name: str) -> None:
    assert_same(pairs[name], one[name])


def test_siglips_loss_is_that_of_one_process(pairs: Result, one: Result) -> None:
    # Later, gradients a hundred times as large as the loss make more of a rounding than 1e-5.
    close(pairs["siglip"]["losses"][:5], one["siglip"]["losses"][:5])


@pytest.mark.parametrize("case", ["all", "hybrid"])
def test_how_many_share_a_block_and_where_shards_are_changes_nothing(pairs: Result, one: Result, case: str) -> None:
    assert_same(pairs[case], one["lm"])


@pytest.mark.parametrize("name", CASES)
def test_the_norm_that_clips_is_the_unsharded_one(pairs: Result, one: Result, name: str) -> None:
    assert (one[name]["norms"] > CLIP_NORM).any(), "else nothing was clipped"
    torch.testing.assert_close(pairs[name]["norms"], one[name]["norms"], rtol=1e-4, atol=0)


def test_a_step_that_is_not_finite_or_a_spike_is_skipped_as_in_one_process(pairs: Result, one: Result) -> None:
    ours = pairs["harmed"]
    assert ours["skipped"] == one["harmed"]["skipped"] == 2
    assert ours["losses"][POISONED_STEP - 1].isnan()
    torch.testing.assert_close(ours["losses"], one["harmed"]["losses"], rtol=1e-6, atol=1e-5, equal_nan=True)


def test_evaluations_and_texts_are_those_of_one_process(pairs: Result, one: Result) -> None:
    ours, theirs = pairs["evaluated"], one["evaluated"]
    assert len(theirs["tokens"][0]) == 8
    assert ours["tokens"] == theirs["tokens"]
    assert ours["metrics"] == pytest.approx(theirs["metrics"], rel=1e-5)


def test_an_average_of_parts_is_that_of_one_process(pairs: Result, one: Result) -> None:
    ours, theirs = pairs["averaged"], one["averaged"]
    close(ours["losses"], theirs["losses"])
    assert ours["average"].keys() == theirs["average"].keys()
    for name, average in theirs["average"].items():
        close(ours["average"][name], average)


def test_a_resumed_run_ends_with_the_same_bits(pairs: Result) -> None:
    whole, rest = pairs["resumed"]["whole"], pairs["resumed"]["rest"]
    assert torch.equal(rest["losses"], whole["losses"][SAVED_STEP:])
    assert all(torch.equal(rest["weights"][name], weight) for name, weight in whole["weights"].items())


def test_a_run_goes_on_from_what_pairs_have_saved_in_one_process(pairs: Result, folder: Path) -> None:
    rest: Any = alone(lambda: plain("lm", None, resume=folder / "pairs.ckpt", same=True))
    close(rest["losses"], pairs["resumed"]["whole"]["losses"][SAVED_STEP:])


def test_mixed_precision_is_autocast_but_for_sums_over_pairs(pairs: Result, one: Result) -> None:
    close(pairs["bf16"]["losses"], one["bf16"]["losses"], 2e-3)
    assert not torch.equal(pairs["bf16"]["losses"], one["lm"]["losses"]), "bf16 was used"


def test_compiled_blocks_train_alike(pairs: Result, one: Result) -> None:
    close(pairs["compiled"]["losses"], one["lm"]["losses"][:3])
