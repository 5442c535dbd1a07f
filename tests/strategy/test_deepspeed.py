from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_runs import (
    CASES,
    CLIP_NORM,
    POISONED_STEP,
    SAVED_STEP,
    STEPS,
    Result,
    alone,
    averaged,
    bounded,
    close,
    evaluated,
    harmed,
    plain,
    run_script,
)

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.slow
STAGES = (1, 2, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two ranks run all cases."""
    return tmp_path_factory.mktemp("zero")


@pytest.fixture(scope="module")
def zero(folder: Path) -> Result:
    """What came out of each case."""
    return run_script("deepspeed_run.py", folder)


@pytest.fixture(scope="module")
def one() -> Result:
    """The same in one process without DeepSpeed."""

    def run() -> Result:
        results = {name: plain(name, None) for name in CASES}
        results |= {"harmed": harmed(None), "bounded": bounded(None), "bf16": plain("lm", None, precision="bf16-mixed")}
        return results | {"evaluated": evaluated(None), "averaged": averaged(None)}

    return alone(run)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", CASES)
def test_losses_and_weights_of_two_ranks_are_those_of_one_process(
    zero: Result, one: Result, name: str, stage: int
) -> None:
    ours, theirs = zero[f"{name}-{stage}"], one[name]
    assert len(ours["losses"]) == STEPS
    close(ours["losses"], theirs["losses"])
    assert ours["weights"].keys() == theirs["weights"].keys()
    for key, weight in theirs["weights"].items():
        close(ours["weights"][key], weight, 1e-4)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", CASES)
def test_the_norm_that_clips_is_the_unsharded_one(zero: Result, one: Result, name: str, stage: int) -> None:
    assert (one[name]["norms"] > CLIP_NORM).any(), "else nothing was clipped"
    torch.testing.assert_close(zero[f"{name}-{stage}"]["norms"], one[name]["norms"], rtol=1e-4, atol=0)


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_that_is_not_finite_or_a_spike_is_skipped_as_in_one_process(
    zero: Result, one: Result, stage: int
) -> None:
    ours = zero[f"harmed-{stage}"]
    assert ours["skipped"] == one["harmed"]["skipped"] == 2
    assert ours["losses"][POISONED_STEP - 1].isnan()
    torch.testing.assert_close(ours["losses"], one["harmed"]["losses"], rtol=1e-6, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("stage", STAGES)
def test_the_temperature_obeys_its_bounds_in_the_copy_that_steps_too(zero: Result, one: Result, stage: int) -> None:
    scales = zero[f"bounded-{stage}"]["scales"]
    assert scales.max() == pytest.approx(100, rel=1e-5), "the bound was reached"
    assert scales.max() <= 100.001
    torch.testing.assert_close(scales, one["bounded"]["scales"], rtol=1e-3, atol=0)


@pytest.mark.parametrize("stage", [2, 3])
def test_evaluations_and_texts_are_those_of_one_process(zero: Result, one: Result, stage: int) -> None:
    ours, theirs = zero[f"evaluated-{stage}"], one["evaluated"]
    assert len(theirs["tokens"][0]) == 8
    assert ours["tokens"] == theirs["tokens"]
    assert ours["metrics"].keys() == theirs["metrics"].keys() >= {"eval/val/loss"}
    assert ours["metrics"] == pytest.approx(theirs["metrics"], rel=1e-5)


@pytest.mark.parametrize("stage", [2, 3])
def test_a_resumed_run_ends_with_the_same_bits(zero: Result, stage: int) -> None:
    whole, rest = zero[f"resumed-{stage}"]["whole"], zero[f"resumed-{stage}"]["rest"]
    assert torch.equal(rest["losses"], whole["losses"][SAVED_STEP:])
    assert all(torch.equal(rest["weights"][name], weight) for name, weight in whole["weights"].items())


@pytest.mark.parametrize("stage", [2, 3])
def test_a_run_goes_on_in_one_process_without_deepspeed(zero: Result, folder: Path, stage: int) -> None:
    rest = plain("lm", None, resume=folder / f"zero{stage}.ckpt", same=True)
    close(rest["losses"], zero[f"resumed-{stage}"]["whole"]["losses"][SAVED_STEP:])


@pytest.mark.parametrize("case", ["offload-2", "offload-3", "parameters-offload-3"])
def test_offloading_changes_no_loss(zero: Result, one: Result, case: str) -> None:
    close(zero[case]["losses"], one["lm"]["losses"])


@pytest.mark.parametrize("case", ["bf16-mixed-2", "bf16-mixed-3"])
def test_mixed_precision_is_autocast_as_under_any_other_strategy(zero: Result, one: Result, case: str) -> None:
    close(zero[case]["losses"], one["bf16"]["losses"], 1e-3)
    assert not torch.equal(zero[case]["losses"], one["lm"]["losses"]), "bf16 was used"
    assert all(weight.dtype == torch.float32 for weight in zero[case]["weights"].values())


def test_pure_bf16_steps_a_copy_in_fp32(zero: Result, one: Result) -> None:
    close(zero["bf16-true-2"]["losses"], one["lm"]["losses"], 3e-2)
    weights = zero["bf16-true-2"]["weights"]
    assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in weights.values())


def test_an_average_is_kept_under_zero_2_and_refused_under_zero_3(zero: Result, one: Result) -> None:
    ours, theirs = zero["averaged-2"]["average"], one["averaged"]["average"]
    assert ours.keys() == theirs.keys()
    for name, average in theirs.items():
        close(ours[name], average)
    assert "ZeRO-3" in zero["refused-ema-3"]
    assert "strategy=fsdp" in zero["refused-ema-3"]
