from __future__ import annotations

from pathlib import Path
from typing import Any

import lm_case
import pytest
import torch
from fsdp_run import PARTS, case_of, checkpointed, muon
from small_runs import (
    CASES,
    CLIP_NORM,
    POISONED_STEP,
    SAVED_STEP,
    Result,
    alone,
    assert_same,
    averaged,
    bounded,
    close,
    evaluated,
    fit,
    harmed,
    plain,
    run_script,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two ranks run all cases."""
    return tmp_path_factory.mktemp("fsdp")


@pytest.fixture(scope="module")
def fsdp(folder: Path) -> Result:
    """What came out of each case."""
    return run_script("fsdp_run.py", folder)


@pytest.fixture(scope="module")
def one() -> Result:
    """The same in one process that holds the whole model."""

    def run() -> Result:
        results = {name: plain(name, None) for name in CASES}
        results |= {f"parts-{name}": fit(build(), case_of(name), strategy=None) for name, build in PARTS.items()}
        results["parts-evaluated"] = fit(PARTS["lm"](), lm_case, strategy=None, evaluates=True)
        results |= {"muon": fit(muon(lm_case), lm_case, strategy=None), "harmed": harmed(None)}
        results |= {"checkpointed": fit(checkpointed(), lm_case, strategy=None), "bounded": bounded(None)}
        results |= {"evaluated": evaluated(None), "averaged": averaged(None)}
        return results | {"bf16": plain("lm", None, precision="bf16-mixed")}

    return alone(run)


@pytest.mark.parametrize(
    "name", [*CASES, *(f"parts-{name}" for name in PARTS), "parts-evaluated", "muon", "checkpointed"]
)
def test_losses_and_weights_of_two_ranks_are_those_of_one_process(fsdp: Result, one: Result, name: str) -> None:
    assert_same(fsdp[name], one[name])


@pytest.mark.parametrize("case", ["kept", "hybrid", "offload"])
def test_where_shards_are_and_how_long_they_are_gathered_changes_nothing(fsdp: Result, one: Result, case: str) -> None:
    assert_same(fsdp[case], one["lm"])


@pytest.mark.parametrize("name", CASES)
def test_the_norm_that_clips_is_the_unsharded_one(fsdp: Result, one: Result, name: str) -> None:
    assert (one[name]["norms"] > CLIP_NORM).any(), "else nothing was clipped"
    torch.testing.assert_close(fsdp[name]["norms"], one[name]["norms"], rtol=1e-4, atol=0)


def test_a_step_that_is_not_finite_or_a_spike_is_skipped_as_in_one_process(fsdp: Result, one: Result) -> None:
    ours = fsdp["harmed"]
    assert ours["skipped"] == one["harmed"]["skipped"] == 2
    assert ours["losses"][POISONED_STEP - 1].isnan()
    torch.testing.assert_close(ours["losses"], one["harmed"]["losses"], rtol=1e-6, atol=1e-5, equal_nan=True)


def test_the_temperature_which_is_whole_on_every_rank_is_trained_and_bounded(fsdp: Result, one: Result) -> None:
    scales = fsdp["bounded"]["scales"]
    assert scales.max() == pytest.approx(100, rel=1e-5), "the bound was reached"
    torch.testing.assert_close(scales, one["bounded"]["scales"], rtol=1e-3, atol=0)


def test_evaluations_and_texts_are_those_of_one_process(fsdp: Result, one: Result) -> None:
    ours, theirs = fsdp["evaluated"], one["evaluated"]
    assert len(theirs["tokens"][0]) == 8
    assert ours["tokens"] == theirs["tokens"]
    assert ours["metrics"].keys() == theirs["metrics"].keys() >= {"eval/val/loss"}
    assert ours["metrics"] == pytest.approx(theirs["metrics"], rel=1e-5)


def test_an_average_of_shards_is_evaluated_and_training_goes_on_from_the_weights(fsdp: Result, one: Result) -> None:
    ours, theirs = fsdp["averaged"], one["averaged"]
    close(ours["losses"], theirs["losses"])
    assert ours["average"].keys() == theirs["average"].keys()
    for name, average in theirs["average"].items():
        close(ours["average"][name], average)
        assert not torch.equal(theirs["weights"][f"{name}"], average), "else nothing was averaged"


def test_a_resumed_run_ends_with_the_same_bits(fsdp: Result) -> None:
    whole, rest = fsdp["resumed"]["whole"], fsdp["resumed"]["rest"]
    assert torch.equal(rest["losses"], whole["losses"][SAVED_STEP:])
    assert all(torch.equal(rest["weights"][name], weight) for name, weight in whole["weights"].items())


def test_a_run_goes_on_from_a_folder_of_shards_in_one_process(fsdp: Result, folder: Path) -> None:
    assert (folder / "fsdp.ckpt").is_dir()
    rest: Any = alone(lambda: plain("lm", None, resume=folder / "fsdp.ckpt", same=True))
    close(rest["losses"], fsdp["resumed"]["whole"]["losses"][SAVED_STEP:])


@pytest.mark.parametrize("case", ["bf16", "bf16-gathered"])
def test_mixed_precision_is_autocast_as_under_any_other_strategy(fsdp: Result, one: Result, case: str) -> None:
    close(fsdp[case]["losses"], one["bf16"]["losses"], 1e-3)
    assert not torch.equal(fsdp[case]["losses"], one["lm"]["losses"]), "bf16 was used"
    assert all(weight.dtype == torch.float32 for weight in fsdp[case]["weights"].values())


def test_compiled_blocks_train_alike(fsdp: Result, one: Result) -> None:
    close(fsdp["compiled"]["losses"], one["lm"]["losses"][:3])
