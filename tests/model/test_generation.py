from __future__ import annotations

from typing import Any

import pytest
import torch

from mmtrain.errors import ConfigError
from mmtrain.model.generate import generate
from mmtrain.model.gpt import GPT
from mmtrain.model.sampling import Sampling

LLAMA: dict[str, Any] = {"norm": "rms", "activation": "swiglu", "bias": False, "rope_theta": 1e4, "num_kv_heads": 2}
STYLES = pytest.mark.parametrize("style", [{}, LLAMA], ids=["gpt2", "llama"])
PROMPTS = [[5, 9, 2], [7], [3, 1, 4, 1, 5, 9, 2]]


def small(style: dict[str, Any]) -> GPT:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 50, "context_length": 12, "d_model": 32, "num_layers": 2, "num_heads": 4}
    model = GPT(**sizes, **style).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def texts(model: GPT, prompts: list[list[int]], **options: Any) -> list[list[int]]:
    steps = list(generate(model, prompts, **options))
    columns = [[step[row] for step in steps] for row in range(len(prompts))]
    for column in columns:
        ended = column.index(None) if None in column else len(column)
        assert all(token is None for token in column[ended:]), "nothing comes after the end"
    return [[token for token in column if token is not None] for column in columns]


@torch.no_grad()
def naive(model: GPT, prompt: list[int], max_new_tokens: int, end: int | None = None) -> list[int]:
    """All of the text through the model for each token."""
    text = list(prompt)
    while len(text) < min(len(prompt) + max_new_tokens, model.context_length):
        token = int(model.logits(model(torch.tensor([text])))[0, -1].argmax())
        if token == end:
            break
        text.append(token)
    return text[len(prompt) :]


@STYLES
def test_prompts_of_different_lengths_go_on_as_each_alone_without_a_cache(style: dict[str, Any]) -> None:
    model = small(style)
    expected = [naive(model, prompt, 4) for prompt in PROMPTS]
    assert len({tuple(text) for text in expected}) == len(PROMPTS)
    assert texts(model, PROMPTS, max_new_tokens=4) == expected
    assert [texts(model, [prompt], max_new_tokens=4)[0] for prompt in PROMPTS] == expected


@STYLES
def test_texts_end_where_the_positions_end_and_the_others_go_on(style: dict[str, Any]) -> None:
    model = small(style)
    found = texts(model, PROMPTS, max_new_tokens=10)
    assert found == [naive(model, prompt, 10) for prompt in PROMPTS]
    assert [len(text) for text in found] == [9, 10, 5]


def test_texts_end_at_the_end_token() -> None:
    model = small({})
    end = naive(model, PROMPTS[0], 4)[3]
    found = texts(model, PROMPTS, max_new_tokens=6, end=end)
    assert found == [naive(model, prompt, 6, end) for prompt in PROMPTS]
    assert len(found[0]) < 4 and not any(end in text for text in found)


def test_generation_stops_when_all_texts_have_ended() -> None:
    model = small({})
    end = naive(model, PROMPTS[0], 3)[2]
    expected = naive(model, PROMPTS[0], 9, end)
    steps = list(generate(model, [PROMPTS[0]], max_new_tokens=9, end=end))
    assert steps == [[token] for token in [*expected, None]]
    assert list(generate(model, [PROMPTS[0]], max_new_tokens=9, end=(expected or [end])[0])) == [[None]]


def test_tokens_that_only_fill_up_the_vocabulary_are_never_drawn() -> None:
    sampling, generator = Sampling(temperature=9.0), torch.Generator().manual_seed(0)
    options: dict[str, Any] = {"max_new_tokens": 20, "sampling": sampling, "generator": generator}
    drawn = {token for text in texts(small({}), PROMPTS, **options, vocab_size=4) for token in text}
    assert drawn == set(range(4))


def test_the_same_seed_gives_the_same_texts() -> None:
    model = small({})
    first, again, other = (
        texts(model, PROMPTS, max_new_tokens=5, sampling=Sampling(), generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_tokens_come_as_they_are_made() -> None:
    steps = generate(small({}), PROMPTS, max_new_tokens=10)
    first = next(steps)
    assert first == [naive(small({}), prompt, 1)[0] for prompt in PROMPTS]


@pytest.mark.parametrize(
    ("prompts", "max_new_tokens", "message"),
    [
        ([[1], []], 5, "the prompt has no token"),
        ([[1] * 12], 5, "the prompt has 12 tokens, and the model has 12 positions: no room is left"),
        ([[1]], 0, "max_new_tokens=0 leaves nothing to generate"),
    ],
)
def test_prompts_that_cannot_be_gone_on_with_are_refused(
    prompts: list[list[int]], max_new_tokens: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        next(generate(small({}), prompts, max_new_tokens=max_new_tokens))
