"""Compiled blocks compute the same, under the same names."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmtrain.model.gpt import GPT
from mmtrain.run.build import compile_blocks


def model(compiled: bool) -> GPT:
    torch.manual_seed(0)
    gpt = GPT(vocab_size=32, context_length=16, d_model=32, num_layers=3, num_heads=4, rope_theta=1e4)
    if compiled:
        compile_blocks(gpt)
    return gpt


def losses(gpt: GPT) -> list[float]:
    optimizer = torch.optim.AdamW(gpt.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    found: list[float] = []
    for _ in range(5):
        tokens_BT = torch.randint(0, 32, (4, 17), generator=generator)
        document_BT = (torch.arange(16) >= 10).long().expand(4, 16)
        logits: Tensor = gpt.logits(gpt(tokens_BT[:, :-1], document_BT))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens_BT[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.slow
def test_compiled_blocks_give_the_same_losses_from_one_compilation() -> None:
    torch._dynamo.reset()
    plain, compiled = model(False), model(True)
    counters = torch._dynamo.utils.counters
    counters.clear()
    assert losses(compiled) == pytest.approx(losses(plain), abs=1e-5)
    assert counters["stats"]["unique_graphs"] >= 1, "nothing was compiled"
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] <= 2, "blocks of one shape share what is compiled"
    assert compiled.state_dict().keys() == plain.state_dict().keys()


def test_every_block_of_every_tower_is_compiled_and_nothing_else() -> None:
    compiled = {name for name, module in model(True).named_modules() if module._compiled_call_impl is not None}
    assert compiled == {f"transformer.blocks.{layer}" for layer in range(3)}
