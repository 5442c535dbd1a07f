from __future__ import annotations

import pytest
import torch
from clip_toys import END, toy_texts
from torch import Tensor

from mmtrain.errors import ConfigError
from mmtrain.model.text import TextTransformer


@pytest.fixture
def tower() -> TextTransformer:
    torch.manual_seed(0)
    return TextTransformer(context_length=12, d_model=32, num_layers=2, num_heads=4, vocab_size=100).eval()


def test_tokens_after_the_end_do_not_change_the_feature(tower: TextTransformer) -> None:
    texts = toy_texts(16)
    after = torch.arange(12) > (texts == END).int().argmax(dim=1, keepdim=True)
    assert after.any()
    assert torch.equal(tower(texts), tower(texts.masked_fill(after, 7)))


def test_every_token_up_to_the_end_changes_the_feature(tower: TextTransformer) -> None:
    text = torch.tensor([[98, 5, 6, END, 0, 0]])
    for position in range(3):
        changed = text.clone()
        changed[0, position] = 11
        assert not torch.allclose(tower(text), tower(changed), atol=1e-4), position


def test_padding_to_another_length_changes_nothing(tower: TextTransformer) -> None:
    text = torch.tensor([[98, 5, 6, END]])
    padded = torch.nn.functional.pad(text, (0, 8))
    torch.testing.assert_close(tower(text), tower(padded), atol=1e-6, rtol=1e-6)


def test_features_and_gradients_are_those_of_padded_texts() -> None:
    texts = torch.cat([toy_texts(16), torch.zeros(1, 12, dtype=torch.long), torch.tensor([[98, 5] + 10 * [END]])])
    found: list[list[Tensor]] = []
    for unpad in (True, False):
        torch.manual_seed(0)
        tower = TextTransformer(
            context_length=12, d_model=32, num_layers=2, num_heads=4, vocab_size=100, unpad=unpad
        ).double()
        features = tower(texts)
        features.sin().sum().backward()
        found.append([features, *(parameter.grad for parameter in tower.parameters() if parameter.grad is not None)])
    assert len(found[0]) == len(found[1]) == 1 + len(list(tower.parameters()))
    torch.testing.assert_close(found[0], found[1], atol=1e-12, rtol=1e-12)


def test_blocks_see_the_tokens_up_to_the_end_only(tower: TextTransformer) -> None:
    seen: list[torch.Size] = []
    tower.transformer.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    texts = toy_texts(16)
    tower(texts)
    assert seen == [(int((texts != 0).sum()), 32)]
    assert tower.lengths(texts).equal((texts != 0).sum(1))


def test_the_order_of_tokens_counts(tower: TextTransformer) -> None:
    assert not torch.allclose(tower(torch.tensor([[98, 5, 6, END]])), tower(torch.tensor([[98, 6, 5, END]])), atol=1e-4)


def test_initial_deviations_are_as_published() -> None:
    tower = TextTransformer(context_length=77, d_model=64, num_layers=1, num_heads=1, vocab_size=1000)
    assert tower.token_embed.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert tower.positions.std().item() == pytest.approx(0.01, rel=0.05)


def test_texts_beyond_the_positions_are_refused_by_name(tower: TextTransformer) -> None:
    with pytest.raises(ConfigError, match=f"texts have 90 tokens, and the model has {tower.context_length} positions"):
        tower(torch.zeros(1, 90, dtype=torch.long))
