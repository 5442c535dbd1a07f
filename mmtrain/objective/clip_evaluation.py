"""How good a shared space is: zero-shot classification, and retrieval with one or more captions an image.

Shape suffixes: b images of this rank's batch, N images and C candidate captions of a set, D width, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy

from mmtrain import distributed
from mmtrain.nn.retrieval import recall_at, retrieval_rank

Encode = Callable[[Tensor], Tensor]
_CHUNK = 1024


@dataclass(frozen=True)
class Encoded:
    """An evaluation set in the shared space, on all ranks, without filler.

    Attributes:
        image_ND: Unit vectors of the images.
        caption_CD: Unit vectors of the captions that are ranked for each image.
        captions: The captions, C strings.
        positive_NC: Which captions are right for an image.
    """

    image_ND: Tensor
    caption_CD: Tensor
    captions: list[str]
    positive_NC: Tensor


class Images(NamedTuple):
    """Images of an evaluation set: unit vectors, labels (-1 for none), weights (0 for filler) and captions of each."""

    feature: Tensor
    label: Tensor
    weight: Tensor
    captions: list[list[str]]


def gather_images(steps: Sequence[Images]) -> Images:
    """All ranks' images in the order of the set, filler left out.

    Args:
        steps: This rank's part of every step; all parts have the same number of rows.
    """
    *columns, captions = zip(*steps, strict=True)
    feature, label, weight = (_in_order(torch.stack(column)) for column in columns)
    of_ranks = distributed.all_gather_object(captions, distributed.data_parallel_group())
    in_order = chain.from_iterable(zip(*of_ranks, strict=True))
    real = weight > 0
    kept = [each for each, keep in zip(chain.from_iterable(in_order), real.tolist(), strict=True) if keep]
    return Images(feature[real], label[real], weight[real], kept)


def _in_order(x_Sb: Tensor) -> Tensor:
    """All ranks' rows, step by step and in each step rank by rank."""
    x_WSb = distributed.all_gather(x_Sb[None])
    return x_WSb.transpose(0, 1).flatten(0, 2)


def encode_in_shares(encode: Encode, text_CT: Tensor) -> Tensor:
    """Features ``(C, D)`` of texts, on all ranks; each rank encodes its part."""
    share = -(-len(text_CT) // distributed.data_parallel_size())
    own = torch.arange(share) + distributed.data_parallel_rank() * share
    text_cT = text_CT[own.clamp(max=len(text_CT) - 1)]  # parts are of one size: the last text fills them up
    features = torch.cat([encode(text) for text in text_cT.split(_CHUNK)])
    return distributed.all_gather(features)[: len(text_CT)]


def class_features(encode: Encode, prompts_CPT: Tensor) -> Tensor:
    """Zero-shot classifier: the normalised mean of each class's prompts (CLIP, section 3.1.4).

    Args:
        encode: Maps token ids to unit vectors.
        prompts_CPT: Token ids of P prompts for each of C classes.

    Returns:
        Unit vectors ``(C, D)``.
    """
    features = encode_in_shares(encode, prompts_CPT.flatten(0, 1))
    return F.normalize(features.view(*prompts_CPT.shape[:2], -1).mean(dim=1), dim=-1)


def candidates(images: Images) -> tuple[list[str], Tensor]:
    """Captions of a retrieval set, and which of them are right for an image.

    Each distinct pair of caption and label is one candidate. An image's own captions are right, and so are those of
    its label, where it has one. Captions that two images share are right for both, and asked for once.

    Returns:
        C captions, and bool ``(N, C)``.
    """
    number_of: dict[tuple[str, int], int] = {}
    own: list[tuple[int, int]] = []
    for image, (captions, label) in enumerate(zip(images.captions, images.label.tolist(), strict=True)):
        own += [(image, number_of.setdefault((caption, label), len(number_of))) for caption in captions]
    label_N = images.label
    label_C = torch.tensor([label for _, label in number_of], device=label_N.device)
    positive_NC = (label_N[:, None] == label_C) & (label_N[:, None] >= 0)
    rows, columns = torch.tensor(own, device=label_N.device).T
    positive_NC[rows, columns] = True
    return [caption for caption, _ in number_of], positive_NC


def contrast(encoded: Encoded, scale: Tensor, bias: Tensor | None) -> Tensor:
    """The loss over images and candidates, per image.

    Without a bias, cross-entropy of the captions, where right ones count alike; with one, the sum of SigLIP's over all
    captions.
    """
    total = encoded.image_ND.new_zeros(())
    for image_ND, positive_NC in zip(encoded.image_ND.split(_CHUNK), encoded.positive_NC.split(_CHUNK), strict=True):
        logits_NC = scale * image_ND @ encoded.caption_CD.T
        if bias is None:
            target_NC = positive_NC / positive_NC.sum(dim=1, keepdim=True)
            total += F.cross_entropy(logits_NC, target_NC, reduction="sum")
        else:
            target_NC = positive_NC.to(logits_NC.dtype)
            total += F.binary_cross_entropy_with_logits(logits_NC + bias, target_NC, reduction="sum")
    return total / len(encoded.image_ND)


def accuracy(encoded: Encoded, categories: list[str] | None) -> dict[str, Tensor]:
    """Zero-shot top-1 and top-5, and how often the category of the nearest class is right."""
    similarity_NC, label_N = encoded.image_ND @ encoded.caption_CD.T, encoded.positive_NC.int().argmax(dim=1)
    num_classes = len(encoded.captions)
    metrics = {
        f"top{k}": multiclass_accuracy(similarity_NC, label_N, num_classes, average="micro", top_k=min(k, num_classes))
        for k in (1, 5)
    }
    if categories is not None:
        names = sorted(set(categories))
        category_C = torch.tensor([names.index(name) for name in categories], device=label_N.device)
        nearest_N = similarity_NC.argmax(dim=1)
        metrics["category_accuracy"] = multiclass_accuracy(
            category_C[nearest_N], category_C[label_N], len(names), average="micro"
        )
    return metrics


def recall(encoded: Encoded, ks: Sequence[int]) -> dict[str, Tensor]:
    """Recall@k from images to captions, any right one counting, and from each caption to images."""
    image_ND, caption_CD, positive_NC = encoded.image_ND, encoded.caption_CD, encoded.positive_NC
    ranks = {
        "i2t": retrieval_rank(image_ND, caption_CD, positive_NC),
        "t2i": retrieval_rank(caption_CD, image_ND, positive_NC.T),
    }
    return {f"{direction}_recall@{k}": recall_at(rank, k) for direction, rank in ranks.items() for k in ks}
