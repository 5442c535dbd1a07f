"""Against Hugging Face's BERT models with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hf_toys import LAYERS, assert_close, assert_equal_weights, disturb, saved
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    PreTrainedModel,
)

from mmtrain.errors import RunError
from mmtrain.model.bert import Bert
from mmtrain.model.bert_heads import BertClassifier, BertPretraining
from mmtrain.model.hf.bert import from_hf, settings_from_hf, to_hf
from mmtrain.model.hf.folder import Folder, write_folder

VOCAB, LENGTH = 50, 16
CLASSES = (BertForPreTraining, BertForMaskedLM, BertForSequenceClassification, BertModel)


def theirs(cls: type[PreTrainedModel]) -> PreTrainedModel:
    torch.manual_seed(1)
    model = cls(BertConfig(**LAYERS, vocab_size=VOCAB, max_position_embeddings=LENGTH, num_labels=3)).eval()
    disturb(model)
    return model


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(1, VOCAB, (4, 12), generator=generator)
    length = torch.tensor([12, 5, 8, 1])
    segment = (torch.arange(12) > 3).long().expand(4, 12)
    return {"tokens": tokens, "length": length, "segment": segment}


def inputs() -> dict[str, Tensor]:
    """The same in transformers' terms."""
    ours = batch()
    mask = (torch.arange(12) < ours["length"][:, None]).long()
    return {"input_ids": ours["tokens"], "attention_mask": mask, "token_type_ids": ours["segment"]}


def test_pretraining_logits_loss_and_gradients_are_theirs(tmp_path: Path) -> None:
    other = theirs(BertForPreTraining)
    model = from_hf(saved(other, tmp_path))
    assert isinstance(model, BertPretraining)
    model.eval()
    position = torch.tensor([[1, 7], [0, 4], [2, 6], [0, 0]])
    labels = torch.full((4, 12), -100)
    labels[torch.arange(4)[:, None], position] = 7
    next_sentence = torch.tensor([0, 1, 1, 0])
    expected = other(**inputs(), labels=labels, next_sentence_label=next_sentence)
    tokens_BMV, next_B2 = model(*batch().values(), position)
    assert next_B2 is not None
    assert_close(tokens_BMV, expected.prediction_logits[torch.arange(4)[:, None], position])
    assert_close(next_B2, expected.seq_relationship_logits)
    # The last row names one place twice, which counts once.
    mlm = F.cross_entropy(tokens_BMV.flatten(0, 1)[:-1], torch.full((7,), 7))
    loss = mlm + F.cross_entropy(next_B2, next_sentence)
    torch.testing.assert_close(loss, expected.loss, atol=1e-6, rtol=0)
    loss.backward()
    expected.loss.backward()
    assert_close(model.encoder.token_embed.weight.grad, other.bert.embeddings.word_embeddings.weight.grad)
    attention = other.bert.encoder.layer[0].attention.self
    qkv = torch.cat([part.weight.grad for part in (attention.query, attention.key, attention.value)])
    assert_close(model.encoder.transformer.blocks[0].attention.qkv.weight.grad, qkv)


def test_a_classifiers_logits_are_theirs(tmp_path: Path) -> None:
    other = theirs(BertForSequenceClassification)
    model = from_hf(saved(other, tmp_path))
    assert isinstance(model, BertClassifier)
    assert_close(model.eval()(*batch().values()), other(**inputs()).logits)


def test_a_bare_encoders_features_are_theirs(tmp_path: Path) -> None:
    other = theirs(BertModel)
    model = from_hf(saved(other, tmp_path))
    assert isinstance(model, Bert)
    x_BTD, expected = model.eval()(*batch().values()), other(**inputs())
    real_BT = inputs()["attention_mask"].bool()
    assert_close(x_BTD[real_BT], expected.last_hidden_state[real_BT])
    assert_close(model.pooled(x_BTD), expected.pooler_output)


@pytest.mark.parametrize("cls", CLASSES)
def test_round_trips_are_exact(cls: type[PreTrainedModel], tmp_path: Path) -> None:
    folder = saved(theirs(cls), tmp_path)
    config, weights = to_hf(from_hf(folder))
    assert config["architectures"] == [cls.__name__]
    assert_equal_weights(weights, folder.weights)
    assert settings_from_hf(config) == settings_from_hf(folder.config)


def test_the_written_folder_is_the_model_in_transformers(tmp_path: Path) -> None:
    sizes = {"vocab_size": VOCAB, "context_length": LENGTH, "d_model": 32, "num_layers": 2, "num_heads": 4}
    model = BertPretraining(encoder=Bert(**sizes, pooler=False, activation="gelu_tanh")).eval()
    disturb(model)
    write_folder(tmp_path, *to_hf(model))
    other = BertForMaskedLM.from_pretrained(tmp_path).eval()
    position = torch.arange(12).expand(4, 12)
    real_BT = inputs()["attention_mask"].bool()
    assert_close(model(*batch().values(), position)[0][real_BT], other(**inputs()).logits[real_BT])


def test_names_of_before_2019_are_read(tmp_path: Path) -> None:
    folder = saved(theirs(BertForPreTraining), tmp_path)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in folder.weights.items()
    }
    old["bert.embeddings.position_ids"] = torch.arange(LENGTH)[None]
    old["cls.predictions.decoder.weight"] = folder.weights["bert.embeddings.word_embeddings.weight"]
    model = from_hf(Folder("old", folder.config, old))
    assert_equal_weights(model.state_dict(), from_hf(folder).state_dict())


def test_a_classifier_of_the_mean_has_no_place() -> None:
    sizes = {"vocab_size": VOCAB, "context_length": LENGTH, "d_model": 32, "num_layers": 1, "num_heads": 4}
    model = BertClassifier(encoder=Bert(**sizes, pooler=False), num_classes=2, pool="mean")
    with pytest.raises(RunError, match=r"BertForSequenceClassification can hold:\n +lacking +encoder\.pooler"):
        to_hf(model)


def test_weights_that_are_not_the_configs_are_listed(tmp_path: Path) -> None:
    folder = saved(theirs(BertForPreTraining), tmp_path)
    config = {**folder.config, "num_hidden_layers": 3, "max_position_embeddings": 512}
    with pytest.raises(RunError) as caught:
        from_hf(Folder("here", config, folder.weights))
    assert "bert.encoder.layer.2.attention.self.query.weight" in caught.value.message
    assert "position_embeddings.weight is (16, 32), and (512, 32) in the model" in caught.value.message
