"""BERT against Hugging Face's, and the promises of its two layouts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bert_toys import VOCAB, WIDTH, Texts, random_texts, small_bert, small_pretraining
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForPreTraining, BertForSequenceClassification

from mmtrain.errors import ConfigError
from mmtrain.model.bert import Bert
from mmtrain.model.bert_heads import BertClassifier, BertPretraining
from mmtrain.model.bert_tower import BertTextTower

POSITION = torch.tensor([[1, 4, 11], [0, 3, 0], [2, 9, 15], [0, 0, 0]])
LABEL = torch.tensor([[7, 8, 9], [5, 6, -100], [90, 100, 127], [-100, -100, -100]])
NEXT = torch.tensor([0, 1, -100, 1])


def theirs(model: type[Any], **options: Any) -> Any:
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **options,
    )
    module = model(config).double()
    for parameter in module.parameters():  # biases and gains, too, so that none may be forgotten
        nn.init.normal_(parameter, std=0.3)
    return module


def encoder_weights(module: Any) -> dict[str, Tensor]:
    given = module.bert.state_dict()
    ours = {
        "token_embed.weight": given["embeddings.word_embeddings.weight"],
        "positions": given["embeddings.position_embeddings.weight"],
        "segment_embed.weight": given["embeddings.token_type_embeddings.weight"],
    }
    for kind in ("weight", "bias"):
        ours[f"norm_embed.{kind}"] = given[f"embeddings.LayerNorm.{kind}"]
        ours[f"pooler.{kind}"] = given[f"pooler.dense.{kind}"]
        for n in range(2):
            layer, block = f"encoder.layer.{n}", f"transformer.blocks.{n}"
            parts = [given[f"{layer}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            ours[f"{block}.attention.qkv.{kind}"] = torch.cat(parts)
            ours[f"{block}.attention.out.{kind}"] = given[f"{layer}.attention.output.dense.{kind}"]
            ours[f"{block}.norm1.{kind}"] = given[f"{layer}.attention.output.LayerNorm.{kind}"]
            ours[f"{block}.mlp.up.{kind}"] = given[f"{layer}.intermediate.dense.{kind}"]
            ours[f"{block}.mlp.down.{kind}"] = given[f"{layer}.output.dense.{kind}"]
            ours[f"{block}.norm2.{kind}"] = given[f"{layer}.output.LayerNorm.{kind}"]
    return ours


def pretraining_weights(module: Any) -> dict[str, Tensor]:
    given = module.cls.state_dict()
    ours = {f"encoder.{name}": weight for name, weight in encoder_weights(module).items()}
    for kind in ("weight", "bias"):
        ours[f"mlm.dense.{kind}"] = given[f"predictions.transform.dense.{kind}"]
        ours[f"mlm.norm.{kind}"] = given[f"predictions.transform.LayerNorm.{kind}"]
        ours[f"nsp.{kind}"] = given[f"seq_relationship.{kind}"]
    return ours | {"mlm.bias": given["predictions.bias"]}


def loss_of(model: BertPretraining, texts: Texts, position: Tensor = POSITION, label: Tensor = LABEL) -> Tensor:
    logits, following = model(*texts, position)
    loss = F.cross_entropy(logits.flatten(0, 1), label.flatten())
    return loss if following is None else loss + F.cross_entropy(following, NEXT)


@pytest.mark.parametrize("unpad", [True, False])
def test_loss_and_gradients_are_those_of_bert_for_pre_training(unpad: bool) -> None:
    reference, texts = theirs(BertForPreTraining), random_texts()
    model = small_pretraining(unpad=unpad).double()
    model.load_state_dict(pretraining_weights(reference))
    labels = torch.full_like(texts.tokens, -100)
    labels[(LABEL >= 0).nonzero()[:, 0], POSITION[LABEL >= 0]] = LABEL[LABEL >= 0]
    expected = reference(
        input_ids=texts.tokens,
        attention_mask=(torch.arange(16) < texts.length[:, None]).long(),
        token_type_ids=texts.segment,
        labels=labels,
        next_sentence_label=NEXT,
    ).loss
    loss = loss_of(model, texts)
    torch.testing.assert_close(loss, expected, atol=1e-9, rtol=0)
    loss.backward()
    expected.backward()
    for parameter in reference.parameters():
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    gradients = pretraining_weights(reference)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-9, rtol=1e-9, msg=name)


def test_logits_are_those_of_bert_for_sequence_classification() -> None:
    reference, texts = theirs(BertForSequenceClassification, num_labels=3), random_texts()
    model = BertClassifier(encoder=small_bert(), num_classes=3, dropout=0.0).double()
    head = {f"head.{kind}": reference.classifier.state_dict()[kind] for kind in ("weight", "bias")}
    model.load_state_dict({f"encoder.{n}": w for n, w in encoder_weights(reference).items()} | head)
    mask = (torch.arange(16) < texts.length[:, None]).long()
    expected = reference(input_ids=texts.tokens, attention_mask=mask, token_type_ids=texts.segment).logits
    torch.testing.assert_close(model(*texts), expected, atol=1e-9, rtol=0)


def test_rows_without_their_padding_give_what_padded_rows_give() -> None:
    texts = random_texts()
    losses, gradients = [], []
    for unpad in (True, False):
        model = small_pretraining(unpad=unpad)
        losses.append(loss_of(model, texts))
        gradients.append(torch.autograd.grad(losses[-1], list(model.parameters())))
    torch.testing.assert_close(*losses, atol=1e-6, rtol=0)
    for ours, padded in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, padded, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("unpad", [True, False])
def test_padding_and_other_rows_change_nothing(unpad: bool) -> None:
    """Each row alone, without padding, and with padding of any token."""
    texts, model = random_texts(), small_pretraining(unpad=unpad).eval()
    real = torch.arange(16) < texts.length[:, None]
    noisy = texts._replace(tokens=torch.where(real, texts.tokens, 99), segment=torch.where(real, texts.segment, 1))
    together = model.encoder(*noisy)
    for row, length in enumerate(texts.length.tolist()):
        alone = [texts.tokens[row, None, :length], texts.length[row, None], texts.segment[row, None, :length]]
        torch.testing.assert_close(together[row, :length], model.encoder(*alone)[0], atol=1e-6, rtol=1e-5)


def test_a_leak_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison of rows above sees a model that reads its padding."""
    model = small_pretraining(unpad=False).eval()
    row = random_texts(lengths=(5,))
    alone = model.encoder(*(x[:, :5] if x.ndim == 2 else x for x in row))
    forward = model.encoder.transformer.forward
    monkeypatch.setattr(model.encoder.transformer, "forward", lambda x, layout: forward(x))
    assert (model.encoder(*row)[:, :5] - alone).abs().max() > 0.01


def test_the_head_on_masked_positions_gives_what_the_head_on_all_gives() -> None:
    texts, model = random_texts(), small_pretraining()
    everywhere = torch.arange(16).expand(4, 16)
    labels = torch.full((4, 16), -100)
    labels[0, [1, 4, 11]], labels[1, [0, 3]], labels[2, [2, 9, 15]] = LABEL[0], LABEL[1, :2], LABEL[2]
    masked, whole = loss_of(model, texts), loss_of(model, texts, everywhere, labels)
    torch.testing.assert_close(masked, whole, atol=1e-6, rtol=0)
    parameters = list(model.parameters())
    pairs = zip(torch.autograd.grad(masked, parameters), torch.autograd.grad(whole, parameters), strict=True)
    for few, all_of_them in pairs:
        torch.testing.assert_close(few, all_of_them, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("unpad", [True, False])
def test_recomputed_activations_leave_loss_and_gradients_equal(unpad: bool) -> None:
    def outcome(checkpoint: bool) -> list[Tensor]:
        model = small_pretraining(unpad=unpad, dropout=0.1, checkpoint=checkpoint).train()
        torch.manual_seed(3)
        loss = loss_of(model, random_texts())
        return [loss, *torch.autograd.grad(loss, list(model.parameters()))]

    for kept, again in zip(outcome(False), outcome(True), strict=True):
        assert torch.equal(kept, again)


def test_a_new_model_knows_nothing() -> None:
    torch.manual_seed(0)
    model = BertPretraining(encoder=small_bert(d_model=64, vocab_size=1024, dropout=0.1))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 1024, (64, 16), generator=generator)
    logits, following = model(tokens, torch.full((64,), 16), torch.zeros_like(tokens), torch.arange(1, 9).expand(64, 8))
    targets = torch.randint(0, 1024, (64 * 8,), generator=generator)
    assert F.cross_entropy(logits.flatten(0, 1), targets).item() == pytest.approx(math.log(1024), rel=0.02)
    assert F.cross_entropy(following, torch.arange(64) % 2).item() == pytest.approx(math.log(2), rel=0.05)


def test_initial_weights_are_those_of_the_paper() -> None:
    model = small_pretraining(d_model=128, vocab_size=1024)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and parameter.numel() > 1000:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
        elif "norm" in name and name.endswith("weight"):
            assert (parameter == 1).all(), name
        elif parameter.ndim == 1:
            assert (parameter == 0).all(), name


def test_a_base_model_has_110_million_parameters() -> None:
    """109,482,240 of the encoder with 30,522 tokens, as published; the heads bring a layer, a norm, a bias and NSP."""
    with torch.device("meta"):
        encoder = Bert(vocab_size=30522, context_length=512, d_model=768, num_layers=12, num_heads=12)
        model = BertPretraining(encoder=encoder)
    assert sum(p.numel() for p in encoder.parameters()) == 109_482_240
    extra = 768 * 768 + 768 + 2 * 768 + 30522 + 2 * 768 + 2
    assert sum(p.numel() for p in model.parameters()) == 109_482_240 + extra


@pytest.mark.parametrize("num_tokens", [16, 8])
def test_flops_are_those_that_pytorch_counts(num_tokens: int) -> None:
    model = small_pretraining(unpad=False)
    texts, position = random_texts((num_tokens,) * 4, num_tokens), POSITION.clamp(max=num_tokens - 1)
    # The math kernel is counted on every device; backward costs twice the forward pass by the formula.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(*texts, position)
    assert 3 * counter.get_total_flops() == 4 * model.flops_per_sample(num_tokens, 3)


def test_a_classifier_and_a_tower_cost_what_their_parts_cost() -> None:
    classifier = BertClassifier(encoder=small_bert(), num_classes=3)
    assert classifier.flops_per_sample(8) == classifier.encoder.flops_per_sample(8) + 6 * 3 * WIDTH
    assert classifier.flops_per_sample() == classifier.flops_per_sample(16)
    tower = BertTextTower(encoder=small_bert(pooler=False))
    assert tower.flops_per_sample() == tower.encoder.flops_per_sample(16)


def test_a_text_longer_than_the_positions_is_refused() -> None:
    with pytest.raises(ConfigError, match="17 tokens, and BERT has 16 positions") as error:
        small_bert()(*random_texts((17,), 17))
    assert error.value.mend is not None and "cut texts to 16 tokens" in error.value.mend


def test_without_a_pooler_there_is_no_next_sentence_prediction() -> None:
    model = small_pretraining(pooler=False)
    assert model(*random_texts(), POSITION)[1] is None
    assert not any(name.startswith(("nsp", "encoder.pooler")) for name, _ in model.named_parameters())


@pytest.mark.parametrize("unpad", [True, False])
def test_the_mean_is_over_real_tokens(unpad: bool) -> None:
    torch.manual_seed(0)
    texts, encoder = random_texts(), small_bert(pooler=False, unpad=unpad)
    tower, classifier = BertTextTower(encoder=encoder), BertClassifier(encoder=encoder, num_classes=2, pool="mean")
    texts = texts._replace(segment=torch.zeros_like(texts.segment))
    rows = zip(encoder(*texts), texts.length.tolist(), strict=True)
    expected = torch.stack([row[:length].mean(0) for row, length in rows])
    torch.testing.assert_close(tower(texts.tokens), expected)
    torch.testing.assert_close(classifier.eval()(*texts), classifier.head(expected))


def test_a_tower_takes_the_first_token_and_any_padding() -> None:
    torch.manual_seed(0)
    tower, texts = BertTextTower(encoder=small_bert(), pool="cls"), random_texts((5, 8), 16)
    torch.testing.assert_close(tower(texts.tokens[:, :8]), tower(texts.tokens), atol=1e-6, rtol=1e-5)
    zero = torch.zeros_like(texts.segment)
    expected = torch.tanh(tower.encoder.pooler(tower.encoder(texts.tokens, texts.length, zero)[:, 0]))  # type: ignore
    torch.testing.assert_close(tower(texts.tokens), expected)


@pytest.mark.parametrize("head", [BertTextTower, lambda **options: BertClassifier(num_classes=2, **options)])
def test_a_pooler_that_nothing_would_use_is_refused(head: Any) -> None:
    with pytest.raises(ConfigError, match="pool=mean"):
        head(encoder=small_bert(), pool="mean")
