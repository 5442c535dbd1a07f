from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Optional, Protocol, TypeVar

import pytest
import torch

from mmtrain.config.signature import fits, item_annotation, misfit, signature_of

T = TypeVar("T")


@dataclass
class Size:
    width: int
    height: int = 3


class Base:
    def __init__(self, width: int, *, name: str = "a", **rest: Any) -> None: ...


class Derived(Base):
    pass


class HasLength(Protocol):
    length: int


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (float, 1),
        (float, float("inf")),
        (int | None, None),
        (Optional[int], 3),  # noqa: UP045
        (tuple[float, float], [1, 2]),
        (tuple[int, ...], []),
        (Sequence[str], ["a"]),
        (Mapping[str, float], {"a": 1}),
        (dict[int, str], {1: "a"}),
        (Literal["a", 2], 2),
        (int | Literal["auto"], "auto"),
        (str | Path, "a/b"),
        (Path, "a/b"),
        (torch.device | str, "cpu"),
        (tuple[float | torch.Tensor, float | torch.Tensor], [0.9, 0.98]),
        (Size | dict[str, int], {"width": 1}),
        (HasLength | None, None),
        (Any, object),
        (T, 3),
        ("Unresolved", 3),
    ],
)
def test_values_that_fit(annotation, value):
    assert misfit(annotation, value) is None


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, "1"),
        (int, True),
        (int, 1.0),
        (float, "1e-4"),
        (bool, 1),
        (str, 1),
        (tuple[float, float], [1]),
        (list[int], 3),
        (Literal["a"], "b"),
        (int, None),
        (torch.dtype, "float32"),
        (torch.nn.Module, {}),
        (Size, {"width": 1}),
        (Size | None, {"width": 1}),
        (HasLength, "a"),
        (HasLength | None, 3),
        (Callable[[int], int], "f"),
    ],
)
def test_values_that_do_not_fit(annotation, value):
    assert misfit(annotation, value)


@pytest.mark.parametrize(
    ("annotation", "produced", "expected"),
    [
        (Base, Derived, True),
        (Derived, Base, False),
        (Base | None, Derived, True),
        (int | str, Derived, False),
        (Any, Derived, True),
        (Derived, Any, True),
        (object, Derived, True),
        (Literal["a"], Derived, False),
        (Sequence[int], list[int], True),
        (Sequence[int], dict, False),
        (Callable[..., int], functools.partial, True),
        (functools.partial[Base], functools.partial, True),
        (Base, functools.partial, False),
        (HasLength, Derived, True),
        (T, Derived, True),
    ],
)
def test_objects_fit_their_annotation(annotation, produced, expected):
    assert fits(annotation, produced) is expected


def test_items_are_checked_against_the_annotation_of_items():
    assert item_annotation(list[int], 0) is int
    assert item_annotation(tuple[int, str] | None, 1) is str
    assert item_annotation(tuple[int, ...], 5) is int
    assert item_annotation(Mapping[str, float], "a") is float
    assert item_annotation(list, 0) is Any


def test_signatures_are_read_from_inherited_and_generated_constructors():
    assert signature_of(Derived).annotations == {"width": int, "name": str}
    assert signature_of(Derived).required == {"width"}
    assert signature_of(Derived).is_open
    assert signature_of(Size).annotations == {"width": int, "height": int}
    assert not signature_of(Size).is_open


def test_one_name_that_cannot_be_resolved_spoils_only_its_own_parameter():
    def build(known: int, unknown: Nowhere) -> Size: ...  # noqa: F821

    assert signature_of(build).annotations == {"known": int, "unknown": Any}
    assert signature_of(build).returns is Size


def test_a_default_of_none_accepts_none():
    def build(width: int = None) -> None: ...  # noqa: RUF013

    assert misfit(signature_of(build).annotations["width"], None) is None


def test_torch_optimizers_are_read():
    signature = signature_of(torch.optim.AdamW)
    assert "betas" in signature.annotations
    assert signature.required == {"params"}
