"""A new run's start from other weights: whole or in parts, and never silently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from stored_runs import (
    BERT,
    BERT_CLASSIFIER,
    BERT_PRETRAINING,
    CLIP,
    GPT,
    HF_VIT,
    LLAMA,
    VIT_CLASSIFIER,
    build,
    write_run,
)
from torch import nn

from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.errors import RunError
from mmtrain.model.hf.families import to_hf
from mmtrain.model.hf.folder import write_folder
from mmtrain.run.data_record import TOKENIZER
from mmtrain.run.export.own import write_own
from mmtrain.run.pretrained import read_model, start_from_pretrained


def node(base: dict[str, Any], source: Path, **more: Any) -> dict[str, Any]:
    return {**base, "pretrained": str(source), **more}


def started(model_node: dict[str, Any], tmp_path: Path) -> nn.Module:
    model = build(model_node, seed=9)
    start_from_pretrained(model, tmp_path / "new")
    return model


def assert_same(model: nn.Module, other: nn.Module) -> None:
    theirs = other.state_dict()
    assert model.state_dict().keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())


def write_hf(path: Path, model: nn.Module) -> None:
    path.mkdir()
    write_folder(path, *to_hf(model))


@pytest.mark.parametrize("whole", [CLIP, GPT, LLAMA, VIT_CLASSIFIER, BERT_PRETRAINING, BERT_CLASSIFIER])
@pytest.mark.parametrize("form", ["run", "hf", "own"])
def test_a_whole_model_starts_from_a_run_or_a_folder(whole: dict[str, Any], form: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    if form == "run":
        donor = write_run(source, whole)
    elif form == "hf":
        donor = build(whole)
        write_hf(source, donor)
    else:
        donor = build(whole)
        source.mkdir()
        write_own(source, whole, donor)
    assert_same(started(node(whole, source), tmp_path), donor)


def test_a_classifier_takes_the_encoder_of_a_pretraining_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    donor = write_run(tmp_path / "bert", BERT_PRETRAINING)
    classifier = {**BERT_CLASSIFIER, "encoder": node(BERT, tmp_path / "bert")}
    with caplog.at_level("INFO"):
        model = started(classifier, tmp_path)
    assert_same(model.get_submodule("encoder"), donor.get_submodule("encoder"))
    assert_same(model.get_submodule("head"), build(classifier, seed=9).get_submodule("head"))
    source = tmp_path / "bert"
    assert f"encoder: starts from {source}, its encoder; left out: mlm (5 weights), nsp (2 weights)" in caplog.messages
    assert "new: head (2 weights)" in caplog.messages


def test_an_encoder_without_pooler_leaves_one_out_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_hf(tmp_path / "bert", build(BERT))
    mean = {**BERT_CLASSIFIER, "pool": "mean", "encoder": node(BERT, tmp_path / "bert", pooler=False)}
    with caplog.at_level("INFO"):
        started(mean, tmp_path)
    assert f"encoder: starts from {tmp_path / 'bert'}; left out: pooler (2 weights)" in caplog.messages


def test_an_image_tower_takes_the_backbone_of_a_classifier(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    donor = write_run(tmp_path / "vit", VIT_CLASSIFIER)
    with caplog.at_level("INFO"):
        model = started({**CLIP, "image": node(HF_VIT, tmp_path / "vit")}, tmp_path)
    assert_same(model.get_submodule("image"), donor.get_submodule("backbone"))
    assert f"image: starts from {tmp_path / 'vit'}, its backbone; left out: head (2 weights)" in caplog.messages


def test_what_lies_further_inside_has_the_last_word(tmp_path: Path) -> None:
    whole = write_run(tmp_path / "clip", CLIP)
    part = write_run(tmp_path / "other", CLIP, seed=4)
    model = started(node({**CLIP, "image": node(CLIP["image"], tmp_path / "other")}, tmp_path / "clip"), tmp_path)
    assert_same(model.get_submodule("text"), whole.get_submodule("text"))
    assert_same(model.get_submodule("image"), part.get_submodule("image"))


def test_every_difference_is_listed_with_both_shapes(tmp_path: Path) -> None:
    write_run(tmp_path / "bert", BERT_PRETRAINING)
    longer = node(BERT, tmp_path / "bert", context_length=128, num_layers=3, num_heads=8, activation="relu")
    with pytest.raises(RunError) as caught:
        started({**BERT_CLASSIFIER, "encoder": longer}, tmp_path)
    lines = [" ".join(line.split()) for line in caught.value.message.splitlines()]
    for line in (
        "shape positions is (64, 32) there, and (128, 32) in the model",
        "missing transformer.blocks.2.attention.qkv.weight (96, 32)",
        "setting transformer.num_heads is 4 there, and 8 in the model",
        "setting transformer.activation is gelu there, and relu in the model",
    ):
        assert line in lines
    assert caught.value.where == f"model.encoder.pretrained={tmp_path / 'bert'}"


def test_weights_of_another_family_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "gpt", GPT)
    with pytest.raises(RunError, match="the weights are a GPT's, which has no Bert"):
        started(node(BERT, tmp_path / "gpt"), tmp_path)


def test_a_source_that_is_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there are no pretrained weights\n  where: .*/nowhere"):
        started(node(GPT, tmp_path / "nowhere"), tmp_path)


def test_weights_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "old", GPT, tokenizer=TextTokenizer("bytes"))
    TextTokenizer("bytes").save(tmp_path / "new" / TOKENIZER)
    started(node(GPT, tmp_path / "old"), tmp_path)
    path = tmp_path / "old" / TOKENIZER / "tokenizer.json"
    path.write_text(path.read_text().replace('"A": 65', '"A": 66').replace('"B": 66', '"B": 65'))
    with pytest.raises(RunError, match="another tokenizer: 2 of 257 tokens have other ids, 'A': 66 there, 65 here"):
        started(node(GPT, tmp_path / "old"), tmp_path)


def test_a_run_gives_its_newest_checkpoint(tmp_path: Path) -> None:
    write_run(tmp_path / "a", GPT)
    newer = write_run(tmp_path / "b", GPT, seed=5, step=9)
    for file in (tmp_path / "b" / "checkpoints").iterdir():
        file.rename(tmp_path / "a" / "checkpoints" / file.name)
    assert_same(started(node(GPT, tmp_path / "a"), tmp_path), newer)


@pytest.mark.slow
def test_minilm_is_a_name(tmp_path: Path) -> None:
    small = {"vocab_size": 30522, "context_length": 512, "d_model": 384, "num_layers": 6, "num_heads": 12}
    encoder = {**BERT, **small, "pooler": False, "pretrained": "minilm"}
    model = started({**BERT_CLASSIFIER, "encoder": encoder, "pool": "mean"}, tmp_path)
    assert_same(model.get_submodule("encoder").token_embed, read_model("minilm").token_embed)
