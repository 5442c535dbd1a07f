from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from clip_case import random_batch, small_objective, trainer
from gloo_ranks import RunRanks
from torch import Tensor
from torch.utils.data import DataLoader

from mmtrain import distributed
from mmtrain.objective.clip import Batch, ClipObjective

REAL, BATCH = 10, 4  # the last of three batches holds two samples, and two fillers
LABELS = [0, 1, 2, 3, 4, 5, 6, 0, 1, 2]
CAPTIONS = ["red", "ball", "cat", "dog", "red", "sun", "moon", "crimson", "ball", "kitten"]
CATEGORIES = ["thing", "thing", "animal", "animal", "sky", "sky", "sky"]


@dataclass
class FakeEvalSet:
    name: str
    task: str
    loader: Any
    classes: list[str] | None = None
    categories: list[str] | None = None

    def prompts(self) -> Tensor:
        return random_batch(7 * 3, seed=9)["text"].view(7, 3, 8)


class FakeData(pl.LightningDataModule):
    def __init__(self, eval_sets: dict[str, FakeEvalSet]) -> None:
        super().__init__()
        self.eval_sets = eval_sets

    def val_dataloader(self) -> list[Any]:
        return [eval_set.loader for eval_set in self.eval_sets.values()]


def whole_set(labels: list[int]) -> Batch:
    """The samples, and two fillers that repeat the first ones."""
    samples = random_batch(REAL, seed=4)
    index = [*range(REAL), 0, 1]
    return {
        "image": samples["image"][index],
        "text": samples["text"][index],
        "label": torch.tensor(labels)[index],
        "caption": [CAPTIONS[i] for i in index],
        "key": [str(i) for i in index],
        "weight": torch.tensor([1.0] * REAL + [0.0, 0.0]),
    }


def batches(labels: list[int]) -> Any:
    """This rank's shares."""
    whole, size, rank = whole_set(labels), BATCH // distributed.world_size(), distributed.rank()
    starts = range(rank * size, REAL + 2, BATCH)
    parts = [{name: column[start : start + size] for name, column in whole.items()} for start in starts]
    return DataLoader(parts, batch_size=None)  # type: ignore[arg-type]


def evaluate(labels: list[int], objective: ClipObjective | None = None) -> dict[str, float]:
    objective = objective or small_objective()
    sets = {
        "classes": FakeEvalSet("classes", "zeroshot", batches(LABELS), ["a"] * 7, CATEGORIES),
        "plain": FakeEvalSet("plain", "zeroshot", batches(LABELS), ["a"] * 7),
        "pairs": FakeEvalSet("pairs", "retrieval", batches(labels)),
    }
    runner = trainer(num_sanity_val_steps=0)
    runner.validate(objective, datamodule=FakeData(sets), verbose=False)
    return {name: value.item() for name, value in runner.callback_metrics.items()}


@torch.no_grad()
def by_hand() -> dict[str, float]:
    """The same from the samples alone, one at a time."""
    objective, samples = small_objective().eval(), random_batch(REAL, seed=4)
    image, text = objective.model(samples["image"], samples["text"])
    prompts = FakeEvalSet("", "", None).prompts()
    classes = torch.stack([F.normalize(objective.model.encode_text(texts).mean(dim=0), dim=-1) for texts in prompts])
    scores = image @ classes.T
    order = scores.argsort(dim=1, descending=True).tolist()
    metrics = {"eval/logit_scale": 1 / 0.07}
    for name in ("classes", "plain"):
        metrics[f"eval/{name}/loss"] = F.cross_entropy(scores / 0.07, torch.tensor(LABELS)).item()
        for k in (1, 5):
            right = [label in found[:k] for label, found in zip(LABELS, order, strict=True)]
            metrics[f"eval/{name}/top{k}"] = sum(right) / REAL
    same = [CATEGORIES[label] == CATEGORIES[found[0]] for label, found in zip(LABELS, order, strict=True)]
    metrics["eval/classes/category_accuracy"] = sum(same) / REAL

    # "ball" of label 1 comes twice and is one candidate; "red" of labels 0 and 4 is two.
    candidates = [i for i in range(REAL) if (CAPTIONS[i], LABELS[i]) not in zip(CAPTIONS[:i], LABELS[:i], strict=True)]
    assert len(candidates) == REAL - 1
    scores = image @ text[candidates].T
    right = [[LABELS[i] == LABELS[j] for j in candidates] for i in range(REAL)]
    surprise = -(scores / 0.07).log_softmax(dim=1)
    each = [values[torch.tensor(row)].mean() for values, row in zip(surprise, right, strict=True)]
    metrics["eval/pairs/loss"] = torch.stack(each).mean().item()
    for direction, table, matches in [("i2t", scores, torch.tensor(right)), ("t2i", scores.T, torch.tensor(right).T)]:
        for k in (1, 5, 10):
            found = [row[values.argsort(descending=True)[:k]].any() for values, row in zip(table, matches, strict=True)]
            metrics[f"eval/pairs/{direction}_recall@{k}"] = torch.stack(found).float().mean().item()
    return metrics


def test_metrics_are_those_computed_by_hand_without_filler() -> None:
    expected = by_hand()
    assert len({value for value in expected.values() if 0 < value < 1}) >= 4, "a test of zeros and ones shows little"
    assert evaluate(LABELS) == pytest.approx(expected, abs=1e-5)


def test_two_ranks_measure_what_one_does(run_ranks: RunRanks) -> None:
    first, second = run_ranks(2, evaluate, LABELS)
    assert first == second
    assert first == pytest.approx(evaluate(LABELS), abs=1e-5)


def test_pairs_without_labels_match_by_their_caption() -> None:
    by_caption = [CAPTIONS.index(caption) for caption in CAPTIONS]
    assert evaluate([-1] * REAL) == pytest.approx(evaluate(by_caption))
    assert evaluate([-1] * REAL)["eval/pairs/i2t_recall@1"] < 0.9


def test_a_broken_model_finds_nothing() -> None:
    objective = small_objective()
    torch.nn.init.constant_(objective.model.image_projection.weight, math.nan)
    metrics = evaluate(LABELS, objective)
    assert metrics["eval/pairs/i2t_recall@5"] == 0
    assert math.isnan(metrics["eval/pairs/loss"])


def test_each_evaluation_starts_anew_and_keeps_what_it_encoded() -> None:
    objective = small_objective()
    assert evaluate(LABELS, objective) == evaluate(LABELS, objective)
    encoded = objective.encoded
    assert {name: (len(e.image_ND), len(e.captions)) for name, e in encoded.items()} == {
        "classes": (REAL, 7),
        "plain": (REAL, 7),
        "pairs": (REAL, REAL - 1),
    }
