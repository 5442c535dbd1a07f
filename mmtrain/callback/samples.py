"""Texts of a language model in training: what it makes of some prompts, after each evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch

from mmtrain.callback.retrievals import TakesPictures
from mmtrain.errors import ConfigError
from mmtrain.model.generate import collect, generate
from mmtrain.model.sampling import Sampling


class Samples(pl.Callback):
    """Has the model go on with prompts, and logs a table of prompts and texts, after each evaluation.

    For an objective with a `GPT` as its ``model``, and data with a ``tokenizer``. All evaluations of a run draw alike,
    so that texts differ by what the model has learned.

    Args:
        prompts: Texts to go on with.
        max_new_tokens: Most tokens that are added.
        temperature: See `Sampling`, as the next two.
        top_k: Most probable tokens that are drawn from.
        top_p: Their share of the probability.

    Raises:
        ConfigError: A number is out of its range.
    """

    def __init__(
        self,
        prompts: Sequence[str] = ("\n",),
        max_new_tokens: int = 128,
        temperature: float = 0.8,
        top_k: int | None = 200,
        top_p: float | None = None,
    ) -> None:
        self.prompts = tuple(prompts)
        self.max_new_tokens = max_new_tokens
        self.sampling = Sampling(temperature, top_k, top_p)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses prompts that leave no room, before anything is trained.

        Raises:
            ConfigError: A prompt has no token, or as many as the model has positions.
            DataError: The tokenizer lacks a character of a prompt.
        """
        objective: Any = pl_module
        for prompt in self.prompts:
            length, most = len(objective.data.tokenizer.encode(prompt)), objective.model.context_length
            if not 0 < length < most:
                raise ConfigError(
                    f"the prompt {prompt!r} has {length} tokens, and the model has {most} positions",
                    where="callback.samples.prompts",
                    mend=f"write prompts of 1 to {most - 1} tokens",
                )

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Generates, on all ranks alike, whose weights may be in parts; logs on one."""
        if trainer.sanity_checking:
            return
        objective: Any = pl_module
        tokenizer = objective.data.tokenizer
        with trainer.precision_plugin.forward_context():
            steps = generate(
                objective.model,
                tokenizer.encode_batch(self.prompts),
                max_new_tokens=self.max_new_tokens,
                sampling=self.sampling,
                end=tokenizer.eos,
                vocab_size=tokenizer.vocab_size,
                generator=torch.Generator(pl_module.device).manual_seed(0),
            )
            texts = tokenizer.decode_batch(collect(steps))
        if trainer.is_global_zero:
            rows: list[list[str | float]] = [list(pair) for pair in zip(self.prompts, texts, strict=True)]
            for logger in trainer.loggers:
                if isinstance(logger, TakesPictures):
                    logger.log_table("samples", ["prompt", "text"], rows, trainer.global_step)
