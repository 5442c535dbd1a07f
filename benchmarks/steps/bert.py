"""BERT's masked language model and next sentence prediction, beside Hugging Face's BertForPreTraining."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version

import torch
from torch import Tensor
from transformers import BertConfig, BertForPreTraining

from mmtrain.model.bert import Bert
from mmtrain.model.bert_heads import BertPretraining
from mmtrain.objective.mlm import MaskedLanguageModel
from mmtrain.optim.adamw import AdamW
from mmtrain.optim.schedule import Constant
from steps.step import Batch, Contender, Race, Setting, Size, compiled, training_step

VOCAB = 30528
MASK_RATIO = 0.15
MASK_ID = 103


def race(size: Size, rows: int, num_tokens: int, setting: Setting, lengths: Sequence[int] | None = None) -> Race:
    """Rows of ``num_tokens``; or of ``lengths``, at most that, and padded, which counts as nothing."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(4):
        drawn = torch.randint(len(lengths), (rows,), generator=generator).tolist() if lengths else []
        of_rows = [min(lengths[number], num_tokens) for number in drawn] if lengths else [num_tokens] * rows
        batches.append(_batch(torch.tensor(of_rows), num_tokens, generator))
    units = sum(int(batch["length"].sum()) for batch in batches) / len(batches)
    model = BertPretraining(
        encoder=Bert(
            vocab_size=VOCAB,
            context_length=512,
            **size._asdict(),
            dropout=0.0,
            unpad=lengths is not None,
        )
    )
    if setting.compile:
        for block in model.encoder.transformer.blocks:
            block.compile()
    objective = MaskedLanguageModel(model=model, optim=AdamW(lr=1e-4, schedule=Constant())).to(setting.device)

    def loss_of(batch: Batch) -> Tensor:
        return objective.training_step(batch, 0)["loss"]

    contenders = [
        Contender("mmtrain", training_step(model, loss_of, batches, setting), units),
        Contender(f"transformers {version('transformers')}", _hugging_face(size, batches, setting), units),
    ]
    flops = rows * model.flops_per_sample(units / rows, MASK_RATIO * units / rows)
    rows_are = "lengths of articles" if lengths else "full rows"
    target = 1.5 if lengths else 1.0
    return Race(
        f"BERT, {size.num_layers} x {size.d_model}, {rows_are}",
        "tokens",
        f"{rows} x {num_tokens} tokens",
        contenders,
        flops,
        target,
    )


def _batch(length_B: Tensor, num_tokens: int, generator: torch.Generator) -> Batch:
    """Random tokens, of which 15% of each row are masked: as `MaskedText` makes them."""
    rows, most = len(length_B), round(MASK_RATIO * num_tokens)
    place = torch.arange(num_tokens).expand(rows, -1)
    real = place < length_B[:, None]
    tokens = torch.randint(1000, VOCAB - 100, (rows, num_tokens), generator=generator) * real
    position, label = torch.zeros(rows, most, dtype=torch.long), torch.full((rows, most), -100)
    for row, length in enumerate(length_B.tolist()):
        masked = torch.randperm(length, generator=generator)[: max(1, round(MASK_RATIO * length))].sort().values
        position[row, : len(masked)], label[row, : len(masked)] = masked, tokens[row, masked]
        tokens[row, masked] = MASK_ID
    return {
        "tokens": tokens,
        "length": length_B,
        "segment": (place > length_B[:, None] // 2).long() * real,
        "masked_position": position,
        "masked_label": label,
        "next_sentence": torch.randint(0, 2, (rows,), generator=generator),
        "weight": torch.ones(rows),
    }


def _hugging_face(size: Size, batches: Sequence[Batch], setting: Setting) -> Callable[[], None]:
    config = BertConfig(
        vocab_size=VOCAB,
        hidden_size=size.d_model,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        intermediate_size=4 * size.d_model,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = compiled(BertForPreTraining(config).train(), setting)

    def loss_of(batch: Batch) -> Tensor:
        loss: Tensor = model(**batch).loss
        return loss

    return training_step(model, loss_of, [_their_batch(batch) for batch in batches], setting)


def _their_batch(batch: Batch) -> Batch:
    tokens = batch["tokens"]
    attention = torch.arange(tokens.shape[1]) < batch["length"][:, None]
    labels = torch.full_like(tokens, -100)
    used = batch["masked_label"] != -100
    rows = torch.arange(len(tokens))[:, None].expand_as(used)
    labels[rows[used], batch["masked_position"][used]] = batch["masked_label"][used]
    return {
        "input_ids": tokens,
        "attention_mask": attention.long(),
        "token_type_ids": batch["segment"],
        "labels": labels,
        "next_sentence_label": batch["next_sentence"],
    }
