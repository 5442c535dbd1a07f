from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from classify_case import FakeData, Step, fit, random_batch, share, small_model, small_objective
from clip_case import recipe, trainer
from gloo_ranks import RunRanks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmtrain import distributed
from mmtrain.errors import ConfigError
from mmtrain.objective.base import Batch
from mmtrain.objective.class_metrics import ClassMetrics
from mmtrain.objective.classify import ClassifyObjective, sample_losses
from mmtrain.strategy.ddp import ddp

BATCH, MICRO_BATCH = 8, 2
REAL = [1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0]  # the last of four ranks has nothing, of two ranks one sample


def uneven_batch(num_classes: int | None) -> Batch:
    batch = random_batch(BATCH, num_classes, mixed=num_classes is not None)
    return {**batch, "weight": torch.tensor(REAL)}


def exact_objective(num_classes: int | None, micro_batch_size: int | None) -> ClassifyObjective:
    smoothing = 0.0 if num_classes is None else 0.1
    objective = small_objective(num_classes or 1, micro_batch_size=micro_batch_size, label_smoothing=smoothing)
    return objective.double()


def loss_and_gradients(num_classes: int | None, micro_batch_size: int | None) -> tuple[Tensor, dict[str, Tensor]]:
    objective = exact_objective(num_classes, micro_batch_size)
    step: nn.Module = Step(objective)
    if distributed.world_size() > 1:
        step = DistributedDataParallel(step)
    loss = step(share(uneven_batch(num_classes)))
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("num_classes", [7, None], ids=["classes", "numbers"])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_times_micro_batches_are_one_big_batch(
    run_ranks: RunRanks, world_size: int, num_classes: int | None
) -> None:
    """With other numbers of samples on each rank and in each part, in fp64; mixed and smoothed labels, too."""
    batch = uneven_batch(num_classes)
    model = exact_objective(num_classes, None).model
    real = [row for row, weight in enumerate(REAL) if weight]
    label = batch["label"][real]
    predicted = model(batch["image"][real])
    if num_classes is None:
        expected = (predicted[:, 0] - label).square().mean()
    else:
        share_BC = batch["mix"][real, None].double()
        target = share_BC * F.one_hot(label, 7) + (1 - share_BC) * F.one_hot(batch["label_b"][real], 7)
        expected = -((0.9 * target + 0.1 / 7) * predicted.log_softmax(dim=1)).sum(dim=1).mean()
    expected.backward()

    if world_size == 1:
        ranks = [loss_and_gradients(num_classes, MICRO_BATCH)]
    else:
        ranks = run_ranks(world_size, loss_and_gradients, num_classes, MICRO_BATCH)
    torch.testing.assert_close(torch.stack([loss for loss, _ in ranks]).mean(), expected.detach(), rtol=1e-6, atol=0)
    for _, gradients in ranks:
        assert len(gradients) == len(list(model.parameters()))
        for name, parameter in model.named_parameters():
            # The count of samples is a number in fp32, which is exact.
            torch.testing.assert_close(gradients[f"model.{name}"], parameter.grad, rtol=1e-9, atol=1e-12)


def weights_after_four_steps(folder: Path, micro_batch_size: int | None) -> dict[str, Tensor]:
    """Through the whole of Lightning: strategy, clipping, optimizer, schedule."""
    objective = small_objective(micro_batch_size=micro_batch_size, optim=recipe(1e-2)).double()
    batches = [{**random_batch(BATCH, seed=seed), "weight": torch.tensor(REAL)} for seed in range(4)]
    options: dict[str, Any] = {"default_root_dir": folder, "gradient_clip_val": 1.0}
    if (world_size := distributed.world_size()) > 1:  # as a launcher would say it
        rank = str(distributed.rank())
        os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": str(world_size)}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0", "TORCHELASTIC_RUN_ID": "test"}
        options |= {"strategy": ddp(), "devices": world_size}
    fit(objective, [share(batch) for batch in batches], **options)
    return {name: parameter.detach() for name, parameter in objective.named_parameters()}


def test_two_ranks_of_lightnings_ddp_train_the_same_weights(run_ranks: RunRanks, tmp_path: Path) -> None:
    whole = weights_after_four_steps(tmp_path, None)
    first, second = run_ranks(2, weights_after_four_steps, tmp_path, MICRO_BATCH)
    start = dict(small_objective().named_parameters())
    for name, weight in whole.items():
        assert torch.equal(first[name], second[name]), name
        moved = (weight - start[name]).norm()
        assert moved > 0, name
        if "qkv.bias" not in name:  # a key's bias has no effect: its gradient is rounding, and AdamW makes it a step
            assert (first[name] - weight).norm() < 1e-6 * moved, name


def test_the_first_loss_is_that_of_a_guess() -> None:
    (loss,) = fit(small_objective(7), [random_batch(64)])
    assert loss == pytest.approx(math.log(7), rel=0.03)


def test_a_hundred_steps_learn_sixteen_random_labels() -> None:
    losses = fit(small_objective(backbone={"init": "clip"}, optim=recipe(5e-3)), [random_batch(16)] * 100)
    assert losses[-1] < 0.1


def test_a_mixed_label_is_what_cross_entropy_takes_for_shares() -> None:
    batch, logits = random_batch(16, mixed=True), torch.randn(16, 7)
    target = batch["mix"][:, None] * F.one_hot(batch["label"], 7)
    target = target + (1 - batch["mix"][:, None]) * F.one_hot(batch["label_b"], 7)
    for smoothing in (0.0, 0.2):
        expected = F.cross_entropy(logits, target, label_smoothing=smoothing, reduction="none")
        torch.testing.assert_close(sample_losses(logits, batch, smoothing), expected)


def eval_batches(num_classes: int | None) -> list[Batch]:
    """This rank's shares of three batches: ten samples and two fillers, which are the last."""
    whole = random_batch(12, num_classes, seed=4)
    whole["weight"] = torch.tensor([1.0] * 10 + [0.0] * 2)
    return [share({name: field[at : at + 4] for name, field in whole.items()}) for at in (0, 4, 8)]


def evaluate(num_classes: int | None, metrics: list[str]) -> dict[str, float]:
    objective = small_objective(num_classes or 1, metrics=metrics, backbone={"init": "clip"}, label_smoothing=0.0)
    nn.init.normal_(objective.model.head.weight, generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr]
    runner = trainer(num_sanity_val_steps=0)
    fake = FakeData(num_classes, {name: eval_batches(num_classes) for name in ("one", "two")})
    runner.validate(objective, datamodule=fake, verbose=False)
    return {name: value.item() for name, value in runner.callback_metrics.items()}


@torch.no_grad()
def by_hand(num_classes: int | None, metrics: list[str]) -> dict[str, float]:
    """From counts of the ten samples."""
    model = small_model(num_classes or 1, init="clip").eval()
    nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    batch = random_batch(12, num_classes, seed=4)
    logits, label = model(batch["image"][:10]), batch["label"][:10]
    found: dict[str, float] = {}
    if num_classes is None:
        predicted = logits[:, 0]
        found["loss"] = (predicted - label).square().mean().item()
        for name, x, y in (
            ("pearson", predicted, label),
            ("spearman", predicted.argsort().argsort(), label.argsort().argsort()),
        ):
            found[name] = torch.corrcoef(torch.stack([x.double(), y.double()]))[0, 1].item()
    else:
        found["loss"] = F.cross_entropy(logits, label).item()
        guess = logits.argmax(1)
        pairs = list(zip(guess.tolist(), label.tolist(), strict=True))
        found["accuracy"] = sum(a == b for a, b in pairs) / 10
        ranks = logits.argsort(1, descending=True)[:, :5].tolist()
        found["top5"] = sum(b in row for row, b in zip(ranks, label.tolist(), strict=True)) / 10
        scores = []
        for c in [1] if num_classes == 2 else sorted({*guess.tolist(), *label.tolist()}):
            hits = sum(a == b == c for a, b in pairs)
            guessed, labelled = sum(a == c for a, _ in pairs), sum(b == c for _, b in pairs)
            precision, recall = hits / max(1, guessed), hits / max(1, labelled)
            scores.append((precision, recall, 2 * hits / (guessed + labelled)))
        for name, column in zip(("precision", "recall", "f1"), zip(*scores, strict=True), strict=True):
            found[name] = sum(column) / len(column)
        one_hot = [F.one_hot(labels, num_classes).double() for labels in (guess, label)]
        x, y = (columns - columns.mean(0) for columns in one_hot)
        found["mcc"] = ((x * y).sum() / ((x * x).sum() * (y * y).sum()).sqrt()).nan_to_num(0.0).item()
    kept = {name: value for name, value in found.items() if name in (*metrics, "loss")}
    return {f"eval/{name}/{key}": value for name in ("one", "two") for key, value in kept.items()}


CASES = {
    "two": (2, ["accuracy", "precision", "recall", "f1", "mcc"]),
    "seven": (7, ["accuracy", "top5", "precision", "recall", "f1", "mcc"]),
    "numbers": (None, ["pearson", "spearman"]),
}


@pytest.mark.parametrize("case", CASES)
def test_metrics_are_those_computed_by_hand_without_filler(case: str) -> None:
    expected = by_hand(*CASES[case])
    assert sum(0.05 < abs(value) < 0.95 for value in expected.values()) >= 4, "a test of zeros and ones shows little"
    assert evaluate(*CASES[case]) == pytest.approx(expected, abs=1e-5)


def test_metrics_that_agree_on_the_first_batch_part_afterwards() -> None:
    measured = ClassMetrics(["accuracy", "top5", "f1"], 7, torch.device("cpu"))
    right, second = torch.eye(7), torch.eye(7) + 2 * torch.eye(7).roll(1, dims=1)
    for logits in (right, second):
        measured.update(logits, torch.arange(7), torch.zeros(7))
    values = {name: value.item() for name, value in measured.compute().items()}
    assert values == {"loss": 0, "accuracy": 0.5, "top5": 1, "f1": 0.5}


@pytest.mark.parametrize("guess", [0, 1])
def test_a_constant_guess_correlates_with_nothing(guess: int) -> None:
    measured = ClassMetrics(["mcc"], 2, torch.device("cpu"))
    measured.update(F.one_hot(torch.tensor([guess] * 5), 2).float(), torch.tensor([0, 1, 1, 0, 1]), torch.zeros(5))
    assert measured.compute()["mcc"] == 0


@pytest.mark.parametrize("case", CASES)
def test_ranks_measure_what_one_does(run_ranks: RunRanks, case: str) -> None:
    """Of four ranks, the last two have nothing but filler in the last batch."""
    alone = evaluate(*CASES[case])
    for measured in run_ranks(4, evaluate, *CASES[case]):
        assert measured == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize(
    ("num_classes", "metrics"),
    [(1, ("pearson", "spearman")), (2, ("accuracy", "f1")), (7, ("accuracy", "top5", "f1"))],
)
def test_metrics_fit_the_labels_unless_chosen(num_classes: int, metrics: tuple[str, ...]) -> None:
    assert small_objective(num_classes).metrics == metrics


@pytest.mark.parametrize(
    ("num_classes", "options", "reason"),
    [
        (1, {"metrics": ["accuracy"]}, "the metric accuracy is not defined for a regression"),
        (3, {"metrics": ["top5"]}, "the metric top5 is not defined for 3 classes"),
        (3, {"metrics": ["pearson"]}, "the metric pearson is not defined for 3 classes"),
        (3, {"label_smoothing": 1.0}, "label_smoothing=1.0 is out of range"),
        (1, {"label_smoothing": 0.1}, "label_smoothing=0.1 is out of range"),
    ],
)
def test_options_that_do_not_fit_are_refused(num_classes: int, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        small_objective(num_classes, **options)


@pytest.mark.parametrize(("model", "data", "mend"), [(7, 10, "=10"), (7, None, "=1"), (1, 2, "=2")])
def test_a_model_with_other_classes_than_the_data_stops_before_training(
    model: int, data: int | None, mend: str
) -> None:
    fake = FakeData(data, {}, [random_batch(4)])
    with pytest.raises(ConfigError, match=f"the model has num_classes={model}") as refused:
        trainer(1, limit_val_batches=0).fit(small_objective(model), datamodule=fake)
    assert str(refused.value.mend).endswith(mend)


def test_a_model_that_does_not_classify_is_refused() -> None:
    with pytest.raises(ConfigError, match="Linear does not classify"):
        ClassifyObjective(model=nn.Linear(2, 2), optim=recipe())
