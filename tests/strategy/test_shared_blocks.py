from __future__ import annotations

from typing import Any

import pytest
import torch
from gloo_ranks import RunRanks
from small_runs import refused
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from mmtrain.nn.transformer import Transformer
from mmtrain.sharded import is_sharded, own_part
from mmtrain.strategy.tensor_parallel import share_blocks

WIDTH = 12
SIZES: dict[str, Any] = {"d_model": WIDTH, "num_layers": 1, "num_heads": 6, "mlp_hidden": 18}
STYLES: list[dict[str, Any]] = [
    {},
    {"num_kv_heads": 3, "activation": "swiglu", "bias": False, "norm": "rms", "qk_norm": True, "rope_theta": 100.0},
    {"norm_position": "post", "causal": True},
]


def stack(**options: Any) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(**{**SIZES, **options})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)  # biases and gains, too
    return model


def passed(ranks: int, style: dict[str, Any]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Output and gradients of a stack whose blocks are shared; 1 is not shared."""
    model = stack(**style)
    names = [name for name, _ in model.named_parameters()]
    if ranks > 1:
        share_blocks(model, init_device_mesh("cpu", (ranks,)))
    assert [name for name, _ in model.named_parameters()] == names
    x = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1)).requires_grad_()
    y = model(x)
    y.square().sum().backward()
    assert x.grad is not None
    gradients = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        gradients[name] = parameter.grad.full_tensor() if is_sharded(parameter) else parameter.grad  # type: ignore
    return y.detach(), x.grad, gradients


@pytest.mark.parametrize("style", STYLES)
def test_shared_blocks_are_whole_ones(run_ranks: RunRanks, style: dict[str, Any]) -> None:
    y, grad, gradients = passed(1, style)
    results = run_ranks(3, passed, 3, style)
    for shared in results:
        torch.testing.assert_close(shared[0], y, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(shared[1], grad, rtol=1e-5, atol=1e-4)
        assert shared[2].keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(shared[2][name], gradient, rtol=1e-5, atol=1e-4, msg=name)
        # What all ranks have must stay alike to the bit.
        assert torch.equal(shared[0], results[0][0])
        assert all(torch.equal(gradient, results[0][2][name]) for name, gradient in shared[2].items())


def kept() -> tuple[dict[str, list[int]], list[bool]]:
    model = stack()
    block = model.blocks[0]
    block.mlp.up.weight.requires_grad_(False)
    share_blocks(model, init_device_mesh("cpu", (2,)))
    parts = {name: list(own_part(p).shape) for name, p in model.named_parameters() if is_sharded(p)}
    return parts, [block.mlp.up.weight.requires_grad, block.mlp.down.weight.requires_grad]


def test_a_rank_keeps_its_share_of_heads_and_hidden_units(run_ranks: RunRanks) -> None:
    for parts, trained in run_ranks(2, kept):
        assert parts == {
            "blocks.0.attention.qkv.weight": [18, 12],
            "blocks.0.attention.qkv.bias": [18],
            "blocks.0.attention.out.weight": [12, 6],
            "blocks.0.mlp.up.weight": [9, 12],
            "blocks.0.mlp.up.bias": [9],
            "blocks.0.mlp.down.weight": [12, 9],
        }
        assert trained == [False, True], "what is locked stays so"


def refusals() -> list[str]:
    mesh = init_device_mesh("cpu", (2,))
    wrong: list[dict[str, Any]] = [{"num_kv_heads": 3}, {"mlp_hidden": 15}, {"dropout": 0.1}]
    return [refused(lambda options=options: share_blocks(stack(**options), mesh)) for options in wrong]


def test_what_ranks_cannot_share_is_refused(run_ranks: RunRanks) -> None:
    for heads, hidden, dropout in run_ranks(2, refusals):
        assert "2 ranks cannot share the 3 key and value heads of blocks.0" in heads
        assert "strategy.tensor_parallel" in heads
        assert "set a divisor of 3" in heads
        assert "the 15 hidden units of blocks.0" in hidden
        assert "would drop the same attention weights" in dropout
        assert "attention_dropout" in dropout
