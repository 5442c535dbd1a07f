from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from gloo_ranks import RunRanks
from mlm_case import VOCAB, Data, fit, random_batch, share, small_objective, trainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmtrain import distributed
from mmtrain.errors import ConfigError
from mmtrain.objective.base import Batch
from mmtrain.objective.mlm import MaskedLanguageModel

GOLDEN = Path(__file__).parents[1] / "golden" / "mlm_losses.json"
ROWS = 8


class Step(nn.Module):
    """What a data-parallel wrapper calls."""

    def __init__(self, objective: MaskedLanguageModel) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.objective.training_step(batch, 0)


def step_of(batch: Batch, micro_batch_size: int | None, **options: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a training step in fp64 returns, averaged over ranks as the recorder does it, and the gradients."""
    objective = small_objective(micro_batch_size=micro_batch_size, **options).double()
    step: nn.Module = Step(objective)
    if distributed.world_size() > 1:
        step = DistributedDataParallel(step)
    out = step(share(batch))
    out["loss"].backward()
    gradients = {name: parameter.grad for name, parameter in objective.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    means = {name: distributed.all_reduce_sum(value) / distributed.world_size() for name, value in out.items()}
    return means, gradients  # type: ignore[return-value]


def by_definition(batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The paper's loss, on the rows that are no filler."""
    objective = small_objective().double()
    real = batch["weight"] > 0
    names = ("tokens", "length", "segment", "masked_position", "masked_label", "next_sentence")
    tokens, length, segment, position, label, following = (batch[name][real] for name in names)
    logits, pairs = objective.model(tokens, length, segment, position)
    mlm, nsp = F.cross_entropy(logits.flatten(0, 1), label.flatten()), F.cross_entropy(pairs, following)
    (mlm + nsp).backward()
    gradients = {name: parameter.grad for name, parameter in objective.named_parameters()}
    return {"loss": mlm + nsp, "mlm_loss": mlm, "nsp_loss": nsp}, gradients  # type: ignore[return-value]


@pytest.mark.parametrize(("world_size", "micro_batch_size"), [(1, None), (1, 3), (2, None), (2, 1), (4, 1)])
def test_ranks_times_micro_batches_are_one_big_batch(
    run_ranks: RunRanks, world_size: int, micro_batch_size: int | None
) -> None:
    """Losses and gradients, with labels and pairs that differ in number from rank to rank, and filler in the last."""
    batch = random_batch(ROWS, filler=1)
    counts = (batch["masked_label"] >= 0).sum(1).view(4, -1).sum(1)
    assert len(set(counts.tolist())) > 1, "equal counts would hide a mean of means"
    losses, gradients = by_definition(batch)
    if world_size == 1:
        ranks = [step_of(batch, micro_batch_size)]
    else:
        ranks = run_ranks(world_size, step_of, batch, micro_batch_size)
    for found, grads in ranks:
        torch.testing.assert_close(found, losses, atol=1e-12, rtol=1e-12)
        for name, gradient in grads.items():
            torch.testing.assert_close(gradient, gradients[name], atol=1e-12, rtol=1e-9, msg=name)


def test_a_batch_without_pairs_trains_the_masked_tokens_alone() -> None:
    batch = random_batch(ROWS)
    batch["next_sentence"] = torch.full((ROWS,), -100)
    found, gradients = step_of(batch, None)
    assert found["nsp_loss"] == 0
    assert found["loss"] == found["mlm_loss"]
    assert not gradients["model.nsp.weight"].any()


def test_a_model_without_a_pooler_has_one_loss() -> None:
    batch = random_batch(ROWS)
    objective, both = small_objective(pooler=False), small_objective()
    objective.load_state_dict(both.state_dict(), strict=False)
    found, expected = objective.training_step(batch, 0), both.training_step(batch, 0)
    assert set(found) == {"loss", "mlm_loss"}
    assert found["loss"] == found["mlm_loss"] == expected["mlm_loss"]


def test_the_first_losses_are_those_of_a_guess() -> None:
    found, _ = step_of(random_batch(256), None)
    assert found["mlm_loss"].item() == pytest.approx(math.log(VOCAB), rel=0.03)
    assert found["nsp_loss"].item() == pytest.approx(math.log(2), rel=0.05)


def evaluate() -> dict[str, float]:
    nothing_to_pair = random_batch(ROWS, seed=7) | {"next_sentence": torch.full((ROWS,), -100)}
    sets = {"whole": [random_batch(ROWS, seed=5), random_batch(ROWS, seed=6, filler=5)], "single": [nothing_to_pair]}
    runner = trainer()
    runner.validate(small_objective(micro_batch_size=3), datamodule=Data([], sets), verbose=False)
    return {name: value.item() for name, value in runner.callback_metrics.items()}


@torch.no_grad()
def by_hand() -> dict[str, float]:
    """The same, one row at a time, without filler."""
    model = small_objective().model.eval()
    losses: dict[str, list[Tensor]] = {"mlm": [], "nsp": []}
    correct: dict[str, list[bool]] = {"mlm": [], "nsp": []}
    for batch in (random_batch(ROWS, seed=5), random_batch(ROWS, seed=6, filler=5)):
        for row in range(int(batch["weight"].sum())):
            names = ("tokens", "length", "segment", "masked_position")
            logits, pair = model(*(batch[name][row, None] for name in names))
            labelled = [("mlm", *item) for item in zip(logits[0], batch["masked_label"][row], strict=True)]
            for task, scores, label in [*labelled, ("nsp", pair[0], batch["next_sentence"][row])]:
                if label >= 0:
                    losses[task].append(F.cross_entropy(scores, label))
                    correct[task].append(bool(scores.argmax() == label))
    found = {f"{task}_loss": torch.stack(values).mean().item() for task, values in losses.items()}
    found |= {f"{task}_accuracy": sum(values) / len(values) for task, values in correct.items()}
    found |= {"loss": found["mlm_loss"] + found["nsp_loss"], "perplexity": math.exp(found["mlm_loss"])}
    return {f"eval/whole/{name}": value for name, value in found.items()}


def test_metrics_are_those_computed_by_hand_without_filler() -> None:
    found, expected = evaluate(), by_hand()
    assert {name: found[name] for name in found if "whole" in name} == pytest.approx(expected, rel=1e-5)
    rest = {"loss", "mlm_loss", "mlm_accuracy", "perplexity"}
    assert {name for name in found if "single" in name} == {f"eval/single/{name}" for name in rest}


def test_two_ranks_measure_what_one_does(run_ranks: RunRanks) -> None:
    first, second = run_ranks(2, evaluate)
    assert first == second
    assert first == pytest.approx(evaluate(), rel=1e-5)


@pytest.mark.parametrize(
    ("sizes", "message", "mend"),
    [
        ({"vocab_size": VOCAB + 1}, "tokenizer has 97 tokens, and BERT has 96", "vocab_size=128"),
        ({"sequence_length": 17}, "17 tokens, and BERT has 16 positions", "cut texts to 16 tokens"),
        ({"next_sentence": False}, "no pairs of sentences, and BERT has a pooler", "or both to false"),
    ],
)
def test_data_that_the_model_cannot_hold_is_refused_before_the_first_step(
    sizes: dict[str, int], message: str, mend: str
) -> None:
    objective = small_objective()
    with pytest.raises(ConfigError, match=message) as error:
        trainer(1).fit(objective, datamodule=Data([random_batch(ROWS)], {}, **sizes))
    assert error.value.mend is not None and mend in error.value.mend
    assert objective.global_step == 0


def test_the_cost_is_that_of_the_rows_of_the_last_batch() -> None:
    objective, batch = small_objective(), random_batch(ROWS)
    assert objective.flops_per_sample == objective.model.flops_per_sample(16, 0)
    objective.training_step(batch, 0)
    labels = (batch["masked_label"] >= 0).sum().item() / ROWS
    expected = objective.model.flops_per_sample(batch["length"].float().mean().item(), labels)
    assert objective.flops_per_sample == pytest.approx(expected)


def test_mixed_precision_trains_in_micro_batches() -> None:
    outputs = fit(small_objective(micro_batch_size=3, dropout=0.1), [random_batch(ROWS)] * 2, precision="bf16-mixed")
    assert all(math.isfinite(output["loss"]) for output in outputs)


def losses() -> dict[str, list[float]]:
    batches = [random_batch(ROWS, seed=step % 2, filler=step % 2) for step in range(20)]
    objectives = {"padded": small_objective(unpad=False), "unpadded": small_objective(micro_batch_size=3)}
    return {name: [out["loss"] for out in fit(objective, batches)] for name, objective in objectives.items()}


def test_losses_are_those_of_the_golden_file() -> None:
    """Where a change is meant: ``python tests/objective/test_mlm.py``, and say why in the commit."""
    golden, found = json.loads(GOLDEN.read_text()), losses()
    for name, values in found.items():
        assert values == pytest.approx(golden[name], abs=1e-4), name  # processors differ in the last digits
    assert found["padded"] == pytest.approx(found["unpadded"], abs=1e-4)
    assert found["padded"][-1] < found["padded"][0] - 0.5, "it learns"


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(losses(), indent=1) + "\n")
