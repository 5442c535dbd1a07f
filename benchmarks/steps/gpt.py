"""GPT-2: beside Hugging Face's GPT2LMHeadModel, and a plain loop over a model of a hundred lines, as nanoGPT is."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from mmtrain.model.gpt import GPT
from mmtrain.objective.lm import LanguageModel
from mmtrain.optim.adamw import AdamW
from mmtrain.optim.schedule import Constant
from steps.step import Batch, Contender, Race, Setting, Size, compiled, training_step

VOCAB = 50304


def race(size: Size, rows: int, num_tokens: int, setting: Setting) -> Race:
    batches = [_batch(rows, num_tokens, seed) for seed in range(4)]
    units = rows * num_tokens
    objective = _objective(size, num_tokens, setting)
    contenders = [
        Contender(
            "mmtrain",
            training_step(objective.model, lambda batch: objective.training_step(batch, 0)["loss"], batches, setting),
            units,
        ),
        Contender(f"transformers {version('transformers')}", _hugging_face(size, num_tokens, batches, setting), units),
        Contender("plain loop, as nanoGPT", _plain(size, num_tokens, batches, setting), units),
    ]
    flops = rows * objective.model.flops_per_sample(num_tokens)
    return Race(
        f"GPT-2, {size.num_layers} x {size.d_model}",
        "tokens",
        f"{rows} x {num_tokens} tokens",
        contenders,
        flops,
        target=1.1,
    )


def _batch(rows: int, num_tokens: int, seed: int) -> Batch:
    tokens = torch.randint(0, 50257, (rows, num_tokens + 1), generator=torch.Generator().manual_seed(seed))
    return {
        "tokens": tokens,
        "position": torch.arange(num_tokens + 1, dtype=torch.int32).expand_as(tokens),
        "document": torch.zeros_like(tokens, dtype=torch.int32),
        "weight": torch.ones(rows),
        "key": [[""]] * rows,
    }


def _objective(size: Size, num_tokens: int, setting: Setting) -> LanguageModel:
    model = GPT(vocab_size=VOCAB, context_length=num_tokens, **size._asdict())
    if setting.compile:
        for block in model.transformer.blocks:
            block.compile()
    optim = AdamW(lr=1e-4, schedule=Constant())
    return LanguageModel(model=model, optim=optim, document_mask=False).to(setting.device)


def _hugging_face(size: Size, num_tokens: int, batches: list[Batch], setting: Setting) -> Callable[[], None]:
    config = GPT2Config(
        vocab_size=VOCAB,
        n_positions=num_tokens,
        n_embd=size.d_model,
        n_layer=size.num_layers,
        n_head=size.num_heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
    )
    model = compiled(GPT2LMHeadModel(config).train(), setting)

    def loss_of(batch: Batch) -> Tensor:
        # Its labels are shifted inside, so that a row of T + 1 tokens would be one too long.
        tokens, targets = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
        loss: Tensor = model(input_ids=tokens, shift_labels=targets.contiguous(), labels=targets).loss
        return loss

    return training_step(model, loss_of, batches, setting)


def _plain(size: Size, num_tokens: int, batches: list[Batch], setting: Setting) -> Callable[[], None]:
    model = compiled(_PlainGPT(size, num_tokens), setting)

    def loss_of(batch: Batch) -> Tensor:
        tokens, targets = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
        return F.cross_entropy(model(tokens).flatten(0, 1).float(), targets.flatten())

    return training_step(model, loss_of, batches, setting)


class _PlainBlock(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        rows, num_tokens, _ = x.shape
        heads = (rows, num_tokens, self.num_heads, -1)
        q, k, v = (part.view(heads).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class _PlainGPT(nn.Module):
    def __init__(self, size: Size, num_tokens: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB, size.d_model), nn.Embedding(num_tokens, size.d_model)
        self.blocks = nn.Sequential(*[_PlainBlock(size.d_model, size.num_heads) for _ in range(size.num_layers)])
        self.norm = nn.LayerNorm(size.d_model)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        return F.linear(self.norm(self.blocks(x)), self.tokens.weight)
