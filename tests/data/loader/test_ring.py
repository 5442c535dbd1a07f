from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest
import torch

from mmtrain.data.loader.batch import Field
from mmtrain.data.loader.ring import Ring

FIELDS = {"image": Field((3, 5), np.dtype(np.uint8)), "label": Field((), np.dtype(np.int64))}


def test_slots_do_not_overlap() -> None:
    ring = Ring(FIELDS, rows=7, slots=3)
    for slot in range(3):
        for array in ring.arrays(slot).values():
            array[:] = slot
    for slot in range(3):
        arrays = ring.arrays(slot)
        assert arrays["image"].shape == (7, 3, 5) and arrays["label"].shape == (7,)
        assert all((array == slot).all() for array in arrays.values())


def test_a_slot_comes_back_when_the_last_tensor_on_it_goes() -> None:
    ring = Ring(FIELDS, rows=7, slots=1)
    slot = ring.take()
    assert slot is not None
    tensors = ring.lend(slot)
    image, label = tensors["image"][2:4].float(), tensors["label"].view(7, 1)
    assert ring.take() is None and ring.lent == 1
    del tensors
    gc.collect()
    assert ring.take() is None  # a view of the labels is left; the floats are a copy
    del label
    gc.collect()
    assert ring.take() == slot
    assert ring.lent == 0
    assert image.shape == (2, 3, 5)


def test_lent_tensors_outlive_the_ring() -> None:
    ring = Ring(FIELDS, rows=7, slots=1)
    slot = ring.take()
    assert slot is not None
    ring.arrays(slot)["label"][:] = 42
    tensors = ring.lend(slot)
    ring.close()
    del ring
    gc.collect()
    assert tensors["label"].tolist() == [42] * 7


def test_a_pinned_slot_is_free_only_when_the_device_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    copied = {"done": False}

    def fence() -> Callable[[], bool]:
        return lambda: copied["done"]

    ring = Ring(FIELDS, rows=7, slots=1)
    monkeypatch.setattr(ring, "_fence", fence)
    slot = ring.take()
    assert slot is not None
    ring.lend(slot)
    gc.collect()
    assert ring.lent == 0 and ring.take() is None
    copied["done"] = True
    assert ring.take() == slot


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a CUDA device")
def test_pinned_slots_are_copied_beside_the_program() -> None:
    ring = Ring({"image": Field((1 << 20,), np.dtype(np.uint8))}, rows=8, slots=2)
    ring.pin()
    for turn in range(50):
        while (slot := ring.take()) is None:
            pass
        ring.arrays(slot)["image"][:] = turn
        tensors = ring.lend(slot)
        assert tensors["image"].is_pinned()
        on_device = tensors["image"].to("cuda", non_blocking=True)
        del tensors
        assert int(on_device.max()) == int(on_device.min()) == turn
    ring.close()
    assert ring._fence is None
