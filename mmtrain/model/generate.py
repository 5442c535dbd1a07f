"""Texts that a decoder goes on with, token by token.

Shape suffixes: B rows, T tokens of the longest prompt, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from mmtrain.errors import ConfigError
from mmtrain.model.gpt import GPT
from mmtrain.model.sampling import GREEDY, Sampling, next_token
from mmtrain.nn.cache import KVCache


@torch.inference_mode()
def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    end: int | None = None,
    vocab_size: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[list[int | None]]:
    """Goes on with prompts of any lengths, side by side.

    Prompts go through the model once; after that, a token costs one token's work.

    Args:
        model: The decoder, in evaluation mode.
        prompts: Token ids of each prompt.
        max_new_tokens: Most tokens that a prompt is gone on with. Fewer come where the model's positions end.
        sampling: How tokens are drawn.
        end: Token that ends a text.
        vocab_size: Tokens that may be drawn, the first ones; None takes all, those included that only fill up the
            vocabulary to a round number.
        generator: Source of the draws, on the model's device.

    Yields:
        The next token of each prompt; None once its text has ended. The end token is not given out.

    Raises:
        ConfigError: A prompt is empty, or there is no room after it.
    """
    assert not model.training, "dropout is for training"
    _require_room(prompts, model.context_length, max_new_tokens)
    rows = _Rows(model, prompts, max_new_tokens)
    logits_BV = rows.read_prompts(prompts)
    while rows.open:
        token_B = next_token(logits_BV[:, :vocab_size], sampling, generator)
        yield rows.take(token_B, end)
        if rows.open:
            logits_BV = rows.read(token_B)


def collect(steps: Iterable[list[int | None]]) -> list[list[int]]:
    """The new tokens of each prompt, from what `generate` yields."""
    return [[token for token in row if token is not None] for row in zip(*steps, strict=True)]


class _Rows:
    """Texts in progress."""

    def __init__(self, model: GPT, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        lengths = [len(prompt) for prompt in prompts]
        self.model = model
        self.device = model.token_embed.weight.device
        self.length_B = torch.tensor(lengths, device=self.device)
        self.longest = max(lengths)
        self.left = [min(max_new_tokens, model.context_length - length) for length in lengths]
        self.cache = KVCache(
            num_layers=model.transformer.num_layers,
            max_length=min(self.longest + max_new_tokens, model.context_length),
        )

    @property
    def open(self) -> bool:
        """Whether a text goes on."""
        return any(self.left)

    def read_prompts(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Scores of the first new tokens."""
        padded = [[*prompt, *[0] * (self.longest - len(prompt))] for prompt in prompts]
        position_BT = torch.arange(self.longest, device=self.device).expand(len(prompts), -1)
        self.cache.place(position_BT, self.longest)
        hidden_BTD = self.model(torch.tensor(padded, device=self.device), position_BT=position_BT, cache=self.cache)
        row_B = torch.arange(len(prompts), device=self.device)
        return self.model.logits(hidden_BTD[row_B, self.length_B - 1])

    def take(self, token_B: Tensor, end: int | None) -> list[int | None]:
        """The tokens of the texts that go on; the others end."""
        tokens: list[int | None] = []
        for row, token in enumerate(token_B.tolist()):
            ended = self.left[row] == 0 or token == end
            tokens.append(None if ended else token)
            self.left[row] = 0 if ended else self.left[row] - 1
        return tokens

    def read(self, token_B: Tensor) -> Tensor:
        """Scores of the tokens after these."""
        # A text that has filled its row writes over its last token, which nobody reads any more.
        position_B1 = self.length_B.clamp(max=self.cache.max_length - 1)[:, None]
        self.length_B = self.length_B + 1
        self.longest = min(self.longest + 1, self.cache.max_length)
        self.cache.place(position_B1, self.longest)
        return self.model.logits(self.model(token_B[:, None], position_BT=position_B1, cache=self.cache)[:, -1])


def _require_room(prompts: Sequence[Sequence[int]], context_length: int, max_new_tokens: int) -> None:
    for number, prompt in enumerate(prompts, start=1):
        if not prompt:
            raise ConfigError("the prompt has no token", where=f"prompt {number}", mend="write at least one character")
        if len(prompt) >= context_length:
            raise ConfigError(
                f"the prompt has {len(prompt)} tokens, and the model has {context_length} positions: no room is left",
                where=f"prompt {number}",
                mend=f"shorten it to {context_length - 1} tokens or fewer",
            )
    if max_new_tokens < 1:
        raise ConfigError(
            f"max_new_tokens={max_new_tokens} leaves nothing to generate", where="max_new_tokens", mend="set 1 or more"
        )
