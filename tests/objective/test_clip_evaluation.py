from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
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
from mmtrain.objective.base import Batch
from mmtrain.objective.clip import ClipObjective
from mmtrain.objective.clip_evaluation import encode_in_shares

REAL, BATCH = 10, 4  # the last of three batches holds two samples, and two fillers
LABELS = [0, 1, 2, 3, 4, 5, 6, 0, 1, 2]
CAPTIONS = ["red", "ball", "cat", "dog", "red", "sun", "moon", "crimson", "ball", "kitten"]
SEVERAL = [[f"{caption} {n}" for n in range(1 + i % 3)] for i, caption in enumerate(CAPTIONS)]  # red 0 is of two images
CATEGORIES = ["thing", "thing", "animal", "animal", "sky", "sky", "sky"]


@dataclass
class FakeEvalSet:
    name: str
    task: str
    loader: Any
    classes: list[str] | None = None
    categories: list[str] | None = None

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        return torch.cat([random_batch(1, seed=zlib.crc32(caption.encode()))["text"] for caption in captions])

    def prompts(self) -> Tensor:
        return random_batch(7 * 3, seed=9)["text"].view(7, 3, 8)


class FakeData(pl.LightningDataModule):
    def __init__(self, eval_sets: dict[str, FakeEvalSet]) -> None:
        super().__init__()
        self.eval_sets = eval_sets

    def val_dataloader(self) -> list[Any]:
        return [eval_set.loader for eval_set in self.eval_sets.values()]


def whole_set(labels: list[int], captions: list[list[str]]) -> Batch:
    """The samples, and two fillers that repeat the first ones."""
    samples = random_batch(REAL, seed=4)
    index = [*range(REAL), 0, 1]
    return {
        "image": samples["image"][index],
        "label": torch.tensor(labels)[index],
        "captions": [captions[i] for i in index],
        "key": [str(i) for i in index],
        "weight": torch.tensor([1.0] * REAL + [0.0, 0.0]),
    }


def batches(labels: list[int], captions: list[list[str]] | None = None) -> Any:
    """This rank's shares."""
    whole = whole_set(labels, captions or [[caption] for caption in CAPTIONS])
    size, rank = BATCH // distributed.world_size(), distributed.rank()
    starts = range(rank * size, REAL + 2, BATCH)
    parts = [{name: column[start : start + size] for name, column in whole.items()} for start in starts]
    return DataLoader(parts, batch_size=None)  # type: ignore[arg-type]


def evaluate(labels: list[int], objective: ClipObjective | None = None) -> dict[str, float]:
    objective = objective or small_objective()
    sets = {
        "classes": FakeEvalSet("classes", "zeroshot", batches(LABELS), ["a"] * 7, CATEGORIES),
        "plain": FakeEvalSet("plain", "zeroshot", batches(LABELS), ["a"] * 7),
        "pairs": FakeEvalSet("pairs", "retrieval", batches(labels)),
        "several": FakeEvalSet("several", "retrieval", batches([-1] * REAL, SEVERAL)),
    }
    runner = trainer(num_sanity_val_steps=0)
    runner.validate(objective, datamodule=FakeData(sets), verbose=False)
    return {name: value.item() for name, value in runner.callback_metrics.items()}


def recalls(name: str, scores: Tensor, right: list[list[bool]]) -> dict[str, float]:
    """Of images, the rows, among captions, the columns; and the other way."""
    metrics = {}
    for direction, table, matches in [("i2t", scores, torch.tensor(right)), ("t2i", scores.T, torch.tensor(right).T)]:
        for k in (1, 5, 10):
            found = [row[values.argsort(descending=True)[:k]].any() for values, row in zip(table, matches, strict=True)]
            metrics[f"eval/{name}/{direction}_recall@{k}"] = torch.stack(found).float().mean().item()
    return metrics


def surprise(scores: Tensor, right: list[list[bool]]) -> float:
    """Mean cross-entropy of an image's right captions."""
    each = [values[torch.tensor(row)].mean() for values, row in zip(-scores.log_softmax(dim=1), right, strict=True)]
    return torch.stack(each).mean().item()


@torch.no_grad()
def by_hand() -> dict[str, float]:
    """The same from the samples alone, one at a time."""
    objective, samples = small_objective().eval(), random_batch(REAL, seed=4)
    encode_text, fake = objective.model.encode_text, FakeEvalSet("", "", None)
    image, prompts = objective.model.encode_image(samples["image"]), fake.prompts()
    classes = torch.stack([F.normalize(encode_text(texts).mean(dim=0), dim=-1) for texts in prompts])
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
    scores = image @ encode_text(fake.tokenize([CAPTIONS[i] for i in candidates])).T
    right = [[LABELS[i] == LABELS[j] for j in candidates] for i in range(REAL)]
    metrics["eval/pairs/loss"] = surprise(scores / 0.07, right)
    metrics |= recalls("pairs", scores, right)

    distinct = sorted({caption for captions in SEVERAL for caption in captions})
    scores = image @ encode_text(fake.tokenize(distinct)).T
    right = [[caption in captions for caption in distinct] for captions in SEVERAL]
    metrics["eval/several/loss"] = surprise(scores / 0.07, right)
    metrics |= recalls("several", scores, right)
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
        "several": (REAL, len({caption for captions in SEVERAL for caption in captions})),
    }


def test_images_come_together_in_the_order_of_the_set(run_ranks: RunRanks) -> None:
    expected = encoded_images()
    for features in run_ranks(2, encoded_images):
        torch.testing.assert_close(features, expected, atol=1e-6, rtol=1e-6)


def encoded_images() -> Tensor:
    objective = small_objective()
    evaluate(LABELS, objective)
    return objective.encoded["several"].image_ND


def test_each_rank_encodes_its_part_of_the_texts(run_ranks: RunRanks) -> None:
    texts = random_batch(7, seed=3)["text"]
    whole = small_objective().eval().model.encode_text(texts)
    for features, seen in run_ranks(2, encode_and_count, texts):
        assert seen == 4
        torch.testing.assert_close(features, whole, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def encode_and_count(texts: Tensor) -> tuple[Tensor, int]:
    model, seen = small_objective().eval().model, []

    def encode(part: Tensor) -> Tensor:
        seen.append(len(part))
        return model.encode_text(part)

    return encode_in_shares(encode, texts), sum(seen)


@torch.no_grad()
def test_the_loss_of_siglip_is_summed_over_the_captions_of_an_image() -> None:
    objective = small_objective(loss="siglip")
    metrics = evaluate(LABELS, objective)
    encoded = objective.encoded["several"]
    logits = objective.model.scale() * encoded.image_ND @ encoded.caption_CD.T + objective.model.logit_bias
    sign = torch.where(encoded.positive_NC, 1.0, -1.0)
    assert metrics["eval/several/loss"] == pytest.approx((-F.logsigmoid(sign * logits)).sum(dim=1).mean().item())
