from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from gloo_ranks import RunRanks
from lm_case import LLAMA, TOKENS, VOCAB, Data, fit, random_batch, share, small_objective, trainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmtrain import distributed
from mmtrain.errors import ConfigError
from mmtrain.objective.base import Batch
from mmtrain.objective.lm import LanguageModel

GOLDEN = Path(__file__).parents[1] / "golden" / "lm_losses.json"
ROWS, Z_LOSS = 8, 1e-2
STYLES: dict[str, dict[str, Any]] = {"gpt2": {}, "llama": {**LLAMA, "tied": False}}


class Step(nn.Module):
    """What a data-parallel wrapper calls."""

    def __init__(self, objective: LanguageModel) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.objective.training_step(batch, 0)


def step_of(batch: Batch, micro_batch_size: int | None, style: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a training step in fp64 returns, averaged over ranks as the recorder does it, and the gradients."""
    objective = small_objective(micro_batch_size=micro_batch_size, z_loss=Z_LOSS, style=STYLES[style]).double()
    step: nn.Module = Step(objective)
    if distributed.world_size() > 1:
        step = DistributedDataParallel(step)
    out = step(share(batch))
    out["loss"].backward()
    gradients = {name: parameter.grad for name, parameter in objective.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    means = {name: distributed.all_reduce_sum(value) / distributed.world_size() for name, value in out.items()}
    return means, gradients  # type: ignore[return-value]


def documents(batch: Batch) -> list[Tensor]:
    """The tokens of each document that counts, one by one."""
    found = []
    for row in range(int(batch["weight"].sum())):
        numbers = batch["document"][row]
        found += [batch["tokens"][row][numbers == number] for number in range(int(numbers.max()) + 1)]
    return [document for document in found if len(document) > 1]


def by_definition(batch: Batch, style: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The loss of separate documents, whose first tokens nothing predicts."""
    objective = small_objective(style=STYLES[style]).double()
    model = objective.model
    texts = documents(batch)
    logits = torch.cat([model.logits(model(text[None, :-1]))[0] for text in texts])
    nll = F.cross_entropy(logits, torch.cat([text[1:] for text in texts]))
    loss = nll + Z_LOSS * logits.logsumexp(dim=-1).square().mean()
    loss.backward()
    return {"loss": loss, "nll": nll}, {name: p.grad for name, p in objective.named_parameters()}  # type: ignore[misc]


@pytest.mark.parametrize(
    ("world_size", "micro_batch_size", "style"),
    [(1, None, "gpt2"), (1, 3, "llama"), (2, None, "gpt2"), (2, 1, "llama"), (4, 1, "gpt2")],
)
def test_ranks_times_micro_batches_are_one_big_batch_of_separate_documents(
    run_ranks: RunRanks, world_size: int, micro_batch_size: int | None, style: str
) -> None:
    """Losses and gradients, with targets that differ in number from rank to rank, and filler in the last."""
    batch = random_batch(ROWS, filler=1)
    counts = (small_objective().targets(batch) >= 0).sum(1).view(4, -1).sum(1)
    assert len(set(counts.tolist())) > 1, "equal counts would hide a mean of means"
    losses, gradients = by_definition(batch, style)
    if world_size == 1:
        ranks = [step_of(batch, micro_batch_size, style)]
    else:
        ranks = run_ranks(world_size, step_of, batch, micro_batch_size, style)
    for found, grads in ranks:
        torch.testing.assert_close(found, losses, atol=1e-10, rtol=1e-10)
        for name, gradient in grads.items():
            torch.testing.assert_close(gradient, gradients[name], atol=1e-10, rtol=1e-7, msg=name)


def test_without_the_mask_a_row_is_one_text() -> None:
    batch, objective = random_batch(ROWS, filler=1), small_objective(document_mask=False)
    found = objective.training_step(batch, 0)
    real, model = batch["weight"] > 0, objective.model
    tokens, target = batch["tokens"][real], batch["tokens"][real][:, 1:]
    logits = model.logits(model(tokens[:, :-1]))
    nll = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
    scored = (batch["document"][real][:, 1:] >= 0).flatten()
    torch.testing.assert_close(found["loss"], nll[scored].mean())
    masked = small_objective().training_step(batch, 0)["loss"]
    assert abs(masked - found["loss"]) > 1e-4
    assert set(found) == {"loss"}


def test_a_batch_without_targets_has_no_loss() -> None:
    batch = random_batch(ROWS, filler=ROWS)
    objective = small_objective(z_loss=Z_LOSS)
    loss = objective.training_step(batch, 0)["loss"]
    loss.backward()
    assert loss == 0
    assert not any(parameter.grad.any() for parameter in objective.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("style", STYLES)
def test_the_first_loss_is_that_of_guessing(style: str) -> None:
    objective = small_objective(style=STYLES[style])
    assert objective.training_step(random_batch(64), 0)["loss"].item() == pytest.approx(math.log(VOCAB), rel=0.02)


def evaluate() -> dict[str, float]:
    sets = {"val": [random_batch(ROWS, seed=5), random_batch(ROWS, seed=6, filler=5)], "other": [random_batch(4, 7)]}
    runner = trainer()
    runner.validate(small_objective(micro_batch_size=3, z_loss=Z_LOSS), datamodule=Data([], sets), verbose=False)
    return {name: value.item() for name, value in runner.callback_metrics.items()}


@torch.no_grad()
def by_hand() -> dict[str, float]:
    model = small_objective().model.eval()
    nll, count, num_bytes = 0.0, 0, 0
    for batch in (random_batch(ROWS, seed=5), random_batch(ROWS, seed=6, filler=5)):
        for text in documents(batch):
            logits = model.logits(model(text[None, :-1]))[0]
            nll += F.cross_entropy(logits, text[1:], reduction="sum").item()
            count += len(text) - 1
            num_bytes += int((text[1:] % 3 + 1).sum())
    metrics = {
        "loss": nll / count,
        "perplexity": math.exp(nll / count),
        "bits_per_byte": nll / math.log(2) / num_bytes,
    }
    return {f"eval/val/{name}": value for name, value in metrics.items()}


def test_metrics_are_those_computed_by_hand() -> None:
    found = evaluate()
    assert {name: found[name] for name in found if "/val/" in name} == pytest.approx(by_hand(), rel=1e-5)
    assert {name for name in found if "/other/" in name} == {name.replace("/val/", "/other/") for name in by_hand()}


def evaluate_rank() -> dict[str, float]:
    """On a rank of a group that is there already: without Lightning's own."""
    objective = small_objective(micro_batch_size=3)
    objective._token_bytes = torch.arange(VOCAB) % 3 + 1
    objective._totals = {"val": torch.zeros(3, dtype=torch.float64)}
    for batch in (random_batch(ROWS, seed=5), random_batch(ROWS, seed=6, filler=5)):
        with torch.no_grad():
            objective.eval().validation_step(share(batch), 0)
    nll, count, num_bytes = distributed.all_reduce_sum(objective._totals["val"]).tolist()
    return {"loss": nll / count, "bits_per_byte": nll / math.log(2) / num_bytes}


def test_metrics_are_exact_over_ranks(run_ranks: RunRanks) -> None:
    expected = by_hand()
    for found in run_ranks(2, evaluate_rank):
        assert found == pytest.approx({name: expected[f"eval/val/{name}"] for name in found}, rel=1e-5)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"sequence_length": 17}, "rows have 17 tokens, and the model has 16 positions"),
        ({"vocab_size": 65}, "the data's vocabulary has 65 tokens, and the model's has 64"),
    ],
)
def test_data_that_the_model_cannot_take_are_refused_before_training(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        trainer(1).fit(small_objective(), datamodule=Data([random_batch(2)], {}, **sizes))


def test_flops_are_those_of_the_datas_rows() -> None:
    objective = small_objective()
    runner = trainer()
    runner.validate(objective, datamodule=Data([], {"val": [random_batch(2)]}, sequence_length=8), verbose=False)
    assert objective.flops_per_sample == objective.model.flops_per_sample(8)
    assert small_objective().flops_per_sample == objective.model.flops_per_sample(TOKENS)


def losses() -> dict[str, list[float]]:
    batches = [random_batch(ROWS, seed=step % 4, filler=step % 3) for step in range(20)]
    return {
        name: [out["loss"] for out in fit(small_objective(micro_batch_size=4, style=style), batches)]
        for name, style in STYLES.items()
    }


def test_losses_are_those_of_the_golden_file() -> None:
    """Where a change is meant: ``python tests/objective/test_lm.py``, and say why in the commit."""
    golden = json.loads(GOLDEN.read_text())
    for name, values in losses().items():
        assert values == pytest.approx(golden[name], abs=1e-4), name  # processors differ in the last digits
        assert values[-1] < values[0]


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(losses(), indent=1) + "\n")
