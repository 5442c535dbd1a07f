"""``export``: folders that other libraries load, with outputs that agree, and pipelines that run on them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from stored_runs import (
    BERT,
    BERT_CLASSIFIER,
    BERT_PRETRAINING,
    CLIP,
    GPT,
    LLAMA,
    VIT,
    VIT_CLASSIFIER,
    write_run,
)
from tiny_run import Program, finish, start, tiny
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    pipeline,
)

from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.data.decode.tokenizer import ClipTokenizer
from mmtrain.data.decode.transform import EvalTransform
from mmtrain.model.hf.families import from_folder
from mmtrain.model.hf.folder import read_folder
from mmtrain.run.export import agreement
from mmtrain.run.export.own import read_own

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "circle", "blue", "square", "is", "not")


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    folder = tmp_path_factory.mktemp("words")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return TextTokenizer(folder)


def exported(program: Program, run: Path, *more: object, form: str = "hf") -> Path:
    out = run.parent / f"{run.name}-{form}"
    outcome = program("export", run, "--to", form, "--out", out, *more)
    assert (outcome.status, outcome.err) == (0, "")
    return out


FAMILIES = {
    "clip": (CLIP, AutoModel),
    "vit": (VIT_CLASSIFIER, AutoModelForImageClassification),
    "gpt2": (GPT, AutoModelForCausalLM),
    "llama": (LLAMA, AutoModelForCausalLM),
    "bert": (BERT_PRETRAINING, AutoModelForPreTraining),
    "bert_classifier": (BERT_CLASSIFIER, AutoModelForSequenceClassification),
    "bert_encoder": (BERT, AutoModel),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_loads_the_folder_and_agrees(family: str, program: Program, tmp_path: Path) -> None:
    node, auto = FAMILIES[family]
    model = write_run(tmp_path / "run", node)
    outcome = program("export", tmp_path / "run", "--to", "hf")
    assert (outcome.status, outcome.err) == (0, "")
    folder = tmp_path / "run" / "export" / "hf-step_00000007"
    first, second = outcome.out.splitlines()
    loaded = auto.from_pretrained(folder)
    assert first == f"{type(loaded).__name__} in {folder}"
    assert second.startswith("read back by transformers 5.") and "the outputs differ by at most" in second
    again = from_folder(read_folder(folder)).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


def test_text_is_generated_by_a_pipeline(program: Program, tmp_path: Path) -> None:
    tokenizer = TextTokenizer("bytes")
    write_run(tmp_path / "run", GPT, tokenizer=tokenizer)
    folder = exported(program, tmp_path / "run")
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == tokenizer.eos
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["pad_token_id"] == generation["eos_token_id"] == tokenizer.eos
    assert AutoTokenizer.from_pretrained(folder).model_max_length == 64
    generate = pipeline("text-generation", model=str(folder))
    (found,) = generate("To be", max_new_tokens=5, do_sample=False)
    assert found["generated_text"].startswith("To be") and len(found["generated_text"]) > len("To be")


@pytest.mark.parametrize("pooler", [True, False])
def test_masks_are_filled_by_a_pipeline(
    pooler: bool, program: Program, wordpiece: TextTokenizer, tmp_path: Path
) -> None:
    encoder = {**BERT, "vocab_size": len(WORDS), "pooler": pooler}
    write_run(tmp_path / "run", {**BERT_PRETRAINING, "encoder": encoder}, tokenizer=wordpiece)
    folder = exported(program, tmp_path / "run")
    fill = pipeline("fill-mask", model=str(folder))
    found = fill("a red [MASK]")
    assert [each["token_str"] in WORDS for each in found] == [True] * 5
    inputs = AutoTokenizer.from_pretrained(folder)("a red [MASK]", return_tensors="pt")
    assert inputs["input_ids"].tolist() == [[2, 5, 6, 4, 3]]
    logits = AutoModelForMaskedLM.from_pretrained(folder)(**inputs).logits[0, 3]
    assert found[0]["token"] == logits.argmax()


def test_images_are_classified_among_texts_by_a_pipeline(program: Program, tmp_path: Path) -> None:
    model: Any = write_run(tmp_path / "run", CLIP, tokenizer=TextTokenizer("clip"))
    folder = exported(program, tmp_path / "run")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8))
    texts = ["a red circle", "a blue square", "it's a cross"]
    classify = pipeline("zero-shot-image-classification", model=str(folder))
    found = {each["label"]: each["score"] for each in classify(picture, texts, hypothesis_template="{}")}
    image = torch.from_numpy(EvalTransform(32)(np.asarray(picture)))[None]
    with torch.no_grad():
        image_BD, text_BD = model(image, torch.from_numpy(ClipTokenizer(14)(texts)))
    expected = (model.scale() * image_BD @ text_BD.T)[0].softmax(0)
    assert [found[text] for text in texts] == pytest.approx(expected.tolist(), abs=1e-4)


def test_images_are_seen_as_in_evaluation(program: Program, tmp_path: Path) -> None:
    """To the pixel, but where an odd number of columns is cut off: ours rounds as torchvision, theirs down."""
    model: Any = write_run(tmp_path / "run", VIT_CLASSIFIER)
    processor = AutoImageProcessor.from_pretrained(exported(program, tmp_path / "run"))
    for height, width, shift in [(32, 32, 0), (50, 40, 0), (40, 64, 1), (33, 80, 0), (300, 200, 0)]:
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        ours = (torch.from_numpy(EvalTransform(32)(pixels)) / 255 - model.image_mean) / model.image_std
        theirs = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(theirs[..., shift:], ours[..., : 32 - shift], atol=1e-6, rtol=0)


def test_classes_have_their_names(program: Program, tmp_path: Path) -> None:
    write_run(tmp_path / "run", VIT_CLASSIFIER)
    config = AutoModelForImageClassification.from_pretrained(exported(program, tmp_path / "run")).config
    assert config.id2label == {0: "cat", 1: "dog", 2: "cow"}


@pytest.mark.parametrize(("options", "factor"), [((), 2), (("--live",), 1)])
def test_the_average_that_was_evaluated_is_exported_unless_the_live_weights_are_asked_for(
    program: Program, tmp_path: Path, options: tuple[str, ...], factor: int
) -> None:
    model = write_run(tmp_path / "run", GPT, average=True)
    folder = exported(program, tmp_path / "run", *options)
    weights = from_folder(read_folder(folder)).state_dict()
    assert all(torch.equal(weights[name], factor * tensor) for name, tensor in model.state_dict().items())
    assert ("averaged" in (folder / "README.md").read_text()) is (factor == 2)


def test_the_card_names_data_recipe_metrics_and_versions(program: Program, tmp_path: Path) -> None:
    write_run(tmp_path / "run", GPT)
    card = (exported(program, tmp_path / "run") / "README.md").read_text()
    for part in (
        "library_name: transformers",
        "# run\n\nGPT2LMHeadModel, trained by mmtrain: step 7 of the run `run`.",
        "model = GPT2LMHeadModel.from_pretrained(",
        "| eval/test/accuracy | 0.875 |",
        f"| train | `{'f' * 64}` |",
        "_target_: mmtrain.model.gpt.GPT",
        "Of the data:\n\nMIT",
        f"- torch {torch.__version__}",
    ):
        assert part in card


def test_our_own_form_holds_any_model(program: Program, tmp_path: Path) -> None:
    model = write_run(tmp_path / "run", {**CLIP, "image": {**VIT, "stem": [8], "pool": "mean"}})
    assert "this model is not one that CLIPModel can hold" in program("export", tmp_path / "run", "--to", "hf").err
    again = read_own(exported(program, tmp_path / "run", form="safetensors")).state_dict()
    assert again.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


def test_open_clip_takes_what_it_has_a_place_for(program: Program, tmp_path: Path) -> None:
    model = write_run(tmp_path / "run", {**CLIP, "init_logit_bias": -10.0})
    outcome = program("export", tmp_path / "run", "--to", "open_clip", "--out", tmp_path / "out")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.endswith("open_clip is not installed: whether it agrees was not checked\n")
    again = from_folder(read_folder(tmp_path / "out")).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())
    write_run(tmp_path / "gpt", GPT)
    assert "open_clip has no counterpart of a GPT" in program("export", tmp_path / "gpt", "--to", "open_clip").err


def test_nothing_is_overwritten(program: Program, tmp_path: Path) -> None:
    write_run(tmp_path / "run", GPT)
    (exported(program, tmp_path / "run") / "mine").touch()
    outcome = program("export", tmp_path / "run", "--to", "hf", "--out", tmp_path / "run-hf")
    assert (outcome.status, "this folder exists" in outcome.err) == (1, True)
    assert (tmp_path / "run-hf" / "mine").exists()


def test_an_export_that_computes_something_else_is_not_left_behind(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "run", GPT)
    judge = agreement._judge
    monkeypatch.setattr(agreement, "_judge", lambda ours, *rest: judge(ours + 0.01, *rest))
    outcome = program("export", tmp_path / "run", "--to", "hf", "--out", tmp_path / "out")
    assert (outcome.status, "computes something else from the export" in outcome.err) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_without_transformers_the_check_is_ours_and_that_is_said(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "run", GPT)
    monkeypatch.delitem(sys.modules, "transformers")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = program("export", tmp_path / "run", "--to", "hf")
    assert outcome.status == 0
    assert "read back by mmtrain" in outcome.out
    assert outcome.out.endswith("transformers is not installed: whether it agrees was not checked\n")


@pytest.mark.slow
def test_a_trained_run_is_exported_with_its_tokenizer_and_data(shapes: Path, program: Program, tmp_path: Path) -> None:
    published = ["model.image.stem=[]", "model.image.pool=cls", "budget.samples=160"]
    finish(start(tiny(shapes, tmp_path / "run", *published), tmp_path / "log"), tmp_path / "log")
    folder = exported(program, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "manifest.json").read_text())["data"]
    card = (folder / "README.md").read_text()
    assert set(record["fingerprints"]) >= {"train", "tokenizer"}
    assert all(sha256 in card for sha256 in record["fingerprints"].values())
    assert AutoTokenizer.from_pretrained(folder)("a red circle")["input_ids"] == [49406, 320, 736, 7117, 49407]
    # The export is what a next run can start from.
    more = [*published, f"model.pretrained={folder}", "budget.samples=16"]
    finish(start(tiny(shapes, tmp_path / "next", *more), tmp_path / "log"), tmp_path / "log")
    assert f"model: starts from {folder}" in (tmp_path / "next" / "log.txt").read_text()
