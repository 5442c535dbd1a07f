"""The engine of the exchange, on a model of three weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmtrain.errors import RunError
from mmtrain.model.hf.names import Names

NAMES = Names(
    "Toy",
    {
        "blocks.{n}.qkv": ("layer.{n}.q", "layer.{n}.k", "layer.{n}.v"),
        "blocks.{n}.up.weight": "layer.{n}.conv.weight",
        "token": "cls",
    },
    query_group=2,
    transposed=frozenset({"blocks.{n}.up.weight"}),
    leading={"token": 2},
    tied={"head.weight": "layer.0.q.weight"},
    derived=(r".*\.position_ids",),
)


def ours(blocks: int = 2, *, bias: bool = True) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {"token": torch.randn(4, generator=generator)}
    for number in range(blocks):
        state[f"blocks.{number}.qkv.weight"] = torch.randn(8, 4, generator=generator)  # 4 rows of q, 2 of k, 2 of v
        state[f"blocks.{number}.up.weight"] = torch.randn(6, 4, generator=generator)
        if bias:
            state[f"blocks.{number}.qkv.bias"] = torch.randn(8, generator=generator)
    return state


def shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def test_weights_are_split_turned_and_back_bit_for_bit() -> None:
    state = ours()
    theirs = NAMES.to_theirs(state)
    assert torch.equal(theirs["layer.1.k.weight"], state["blocks.1.qkv.weight"][4:6])
    assert torch.equal(theirs["layer.1.v.bias"], state["blocks.1.qkv.bias"][6:])
    assert torch.equal(theirs["layer.0.conv.weight"], state["blocks.0.up.weight"].T)
    assert theirs["cls"].shape == (1, 1, 4)
    back = NAMES.to_ours(theirs, shapes(state), where="here")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_written_weights_share_no_memory_and_lie_in_order() -> None:
    """Else safetensors refuses to write them."""
    state = ours()
    for weights in (NAMES.to_theirs(state), NAMES.to_ours(NAMES.to_theirs(state), shapes(state), where="here")):
        assert len({tensor.untyped_storage().data_ptr() for tensor in weights.values()}) == len(weights)
        assert all(tensor.is_contiguous() for tensor in weights.values())


def test_everything_that_is_wrong_is_listed_at_once() -> None:
    state = ours()
    theirs = NAMES.to_theirs(state)
    del theirs["layer.0.v.weight"], theirs["cls"]
    theirs["layer.1.q.weight"] = torch.zeros(5, 4)
    theirs |= {"pooler.weight": torch.zeros(3, 3), "x.position_ids": torch.arange(3)}
    with pytest.raises(RunError) as caught:
        NAMES.to_ours(theirs, shapes(state), where="some/folder")
    lines = caught.value.message.splitlines()[1:]
    assert [" ".join(line.split()) for line in lines] == [
        "missing cls (1, 1, 4)",
        "missing layer.0.v.weight (2, 4)",
        "unexpected pooler.weight (3, 3)",
        "shape layer.1.q.weight is (5, 4), and (4, 4) in the model",
    ]
    assert caught.value.where == "some/folder"
    assert caught.value.mend is not None


def test_a_deeper_model_misses_the_blocks_that_a_file_has_not() -> None:
    with pytest.raises(RunError, match=r"missing +layer\.2\.q\.weight \(4, 4\)"):
        NAMES.to_ours(NAMES.to_theirs(ours()), shapes(ours(3)), where="here")


def test_a_model_without_biases_takes_zeros_and_nothing_else() -> None:
    state = ours(bias=False)
    theirs = NAMES.to_theirs(state)
    assert torch.equal(theirs["layer.0.k.bias"], torch.zeros(2))
    assert NAMES.to_ours(theirs, shapes(state), where="here").keys() == state.keys()
    theirs["layer.0.k.bias"] = torch.tensor([0.0, 1.0])
    with pytest.raises(RunError, match=r"bias +layer\.0\.k\.bias is not zero"):
        NAMES.to_ours(theirs, shapes(state), where="here")


def test_a_tied_weight_is_read_once_and_must_be_tied() -> None:
    state = ours()
    theirs = NAMES.to_theirs(state)
    assert "head.weight" not in theirs
    theirs["head.weight"] = theirs["layer.0.q.weight"].clone()
    NAMES.to_ours(theirs, shapes(state), where="here")
    theirs["head.weight"] += 1
    with pytest.raises(RunError, match=r"untied +head\.weight differs from layer\.0\.q\.weight"):
        NAMES.to_ours(theirs, shapes(state), where="here")


def test_a_model_that_they_cannot_hold_is_refused_with_every_reason() -> None:
    state = ours()
    del state["token"]
    with pytest.raises(RunError) as caught:
        NAMES.to_theirs({**state, "stem.weight": torch.zeros(1), "stem.bias": torch.zeros(1)})
    assert all(name in caught.value.message for name in ("stem.weight (1,)", "stem.bias (1,)", "token"))
