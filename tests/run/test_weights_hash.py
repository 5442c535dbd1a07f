"""The hash of weights: one bit, name, type or shape makes another; memory layout and order do not."""

from __future__ import annotations

import hashlib

import pytest
import torch

from mmtrain.run.weights_hash import weights_sha256

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones((), dtype=torch.bfloat16), "c": torch.empty(0, 3)}


def test_it_is_the_sha256_of_what_its_docstring_says() -> None:
    digest = hashlib.sha256(b"a\0torch.float32\0(2, 3)\0" + WEIGHTS["a"].numpy().tobytes())
    digest.update(b"b\0torch.bfloat16\0()\0\x80\x3f" + b"c\0torch.float32\0(0, 3)\0")
    assert weights_sha256(WEIGHTS) == digest.hexdigest()


def test_order_and_memory_layout_do_not_matter() -> None:
    strided = {"c": WEIGHTS["c"], "b": WEIGHTS["b"], "a": WEIGHTS["a"].T.contiguous().T}
    assert not strided["a"].is_contiguous()
    assert weights_sha256(strided) == weights_sha256(WEIGHTS)


@pytest.mark.parametrize(
    "changed",
    [
        {"a": torch.arange(6.0).reshape(3, 2)},
        {"a": torch.arange(6).reshape(2, 3)},
        {"a": torch.nextafter(torch.arange(6.0), torch.tensor(10.0)).reshape(2, 3)},
        {"d": torch.zeros(1)},
        {"b": -torch.ones((), dtype=torch.bfloat16)},
    ],
)
def test_whatever_differs_makes_another_hash(changed: dict[str, torch.Tensor]) -> None:
    assert weights_sha256(WEIGHTS | changed) != weights_sha256(WEIGHTS)
