from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from words import VOCABULARY, documents, word_tokenizer

from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.data.labelled_text import LabelledText
from mmtrain.data.sources.labelled import LabelledSample, write_split
from mmtrain.data.sources.tables import Tables
from mmtrain.errors import ConfigError, DataError

CLASSES = ("negative", "neutral", "positive")
TEXTS = documents(45)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled_text")
    word_tokenizer(folder / "tokenizer")
    for split, texts in (("train", TEXTS[:38]), ("val", TEXTS[38:])):
        write_split([LabelledSample(text, CLASSES[i % 3]) for i, text in enumerate(texts)], folder / split)
        pairs = [LabelledSample(text, i / 4, TEXTS[-i - 1]) for i, text in enumerate(texts)]
        write_split(pairs, folder / "pairs" / split)
    return folder


def labelled_text(root: Path, **options: Any) -> LabelledText:
    settings = {
        "max_length": 64,
        "global_batch_size": 8,
        "num_workers": 0,
        "classes": CLASSES,
        "eval": ["val"],
        **options,
    }
    tokenizer = settings.pop("tokenizer", None) or TextTokenizer(root / "tokenizer")
    return LabelledText(root=root, tokenizer=tokenizer, **settings)


def test_a_row_holds_the_text_and_the_number_of_its_class(root: Path) -> None:
    data = labelled_text(root)
    labels = {text: CLASSES[i % 3] for i, text in enumerate(TEXTS[:38])}
    rows = {(2, *data.tokenizer.encode(text)[:62], 3): CLASSES.index(label) for text, label in labels.items()}
    seen = []
    for batch in data.train_loader(0, 1):
        assert batch["tokens"].shape == batch["segment"].shape == (8, 64)
        assert (batch["label"].dtype, batch["tokens"].dtype) == (torch.int64, torch.int64)
        for row in range(8):
            length = int(batch["length"][row])
            assert rows[tuple(batch["tokens"][row, :length].tolist())] == batch["label"][row]
            assert not batch["tokens"][row, length:].any() and not batch["segment"][row].any()
        seen += [key for key, weight in zip(batch["key"], batch["weight"], strict=True) if weight]
    assert len(seen) == len(set(seen)) == 38 and data.steps_per_epoch() == 5
    assert (data.num_classes, data.classes, data.vocab_size) == (3, CLASSES, len(VOCABULARY))


def test_numbers_are_floats_and_pairs_are_two_segments(root: Path) -> None:
    data = labelled_text(root / "pairs", classes=None, tokenizer=TextTokenizer(root / "tokenizer"), max_length=20)
    assert data.num_classes is None
    for batch in data.train_loader(0, 1):
        assert batch["label"].dtype == torch.float32
        for row in range(8):
            number = round(float(batch["label"][row]) * 4)
            a, b = (data.tokenizer.encode(text) for text in (TEXTS[number], TEXTS[-number - 1]))
            kept_a = len(a) if len(a) <= 8 else 17 - len(b) if len(b) <= 8 else 9
            kept_a = min(kept_a, len(a))
            expected = [2, *a[:kept_a], 3, *b[: 17 - kept_a], 3]
            length = int(batch["length"][row])
            assert batch["tokens"][row, :length].tolist() == expected
            assert batch["segment"][row].tolist() == [0] * (kept_a + 2) + [1] * (length - kept_a - 2) + [0] * (
                20 - length
            )


def test_batches_are_the_same_for_any_ranks_and_workers(root: Path) -> None:
    expected = list(labelled_text(root, lanes=2).train_loader(0, 1))
    for world_size in (1, 2):
        for num_workers in (0, 2):
            data = labelled_text(root, lanes=2, num_workers=num_workers)
            loaders = [data.train_loader(rank, world_size) for rank in range(world_size)]
            try:
                for batch, parts in zip(expected, zip(*loaders, strict=True), strict=True):
                    assert batch["key"] == [key for part in parts for key in part["key"]]
                    for name in ("tokens", "label", "length", "weight"):
                        assert torch.equal(batch[name], torch.cat([part[name] for part in parts]))
            finally:
                for loader in loaders:
                    loader.close()


def test_each_evaluation_sample_counts_once_over_all_ranks(root: Path) -> None:
    loaders = [labelled_text(root, micro_batch_size=2).eval_loaders(rank, 2)["val"].loader for rank in range(2)]
    batches = [batch for loader in loaders for batch in loader]
    keys = [key for b in batches for key, weight in zip(b["key"], b["weight"], strict=True) if weight]
    assert len(set(keys)) == len(keys) == 7 and len({len(loader) for loader in loaders}) == 1


def test_a_source_names_classes_and_evaluation_sets(root: Path, tmp_path: Path) -> None:
    for name in ("train", "dev"):
        rows = [{"text": text, "label": i % 2} for i, text in enumerate(TEXTS)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"train": "train.jsonl", "val": "dev.jsonl"}
    source = Tables(tmp_path, files, labels=["0", "1"], classes=["even", "odd"])
    tokenizer = TextTokenizer(root / "tokenizer")
    data = labelled_text(tmp_path / "out", source=source, classes=None, eval=None, tokenizer=tokenizer)
    data.prepare()
    assert (data.classes, list(data.eval_loaders(0, 1))) == (("even", "odd"), ["val"])
    assert set(data.fingerprints) == {"train", "eval/val", "tokenizer"}
    drawn = np.concatenate([batch["label"].numpy() for batch in data.train_loader(0, 1)])
    assert set(drawn) == {0, 1}


@pytest.mark.parametrize(
    ("classes", "reason"),
    [
        (("negative", "positive"), "label 'neutral' is none of the classes: known: negative, positive"),
        (None, "is 'ne.*', not a number, and there are no classes|is 'positive', not a number"),
    ],
)
def test_a_label_outside_the_classes_names_its_shard(root: Path, classes: Any, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        list(labelled_text(root, classes=classes).train_loader(0, 1))
    assert "train-000000.tar, key 00000" in str(caught.value.where)


def test_an_empty_text_is_refused(root: Path, tmp_path: Path) -> None:
    write_split([LabelledSample(" ", "negative")], tmp_path / "train")
    data = labelled_text(tmp_path, tokenizer=TextTokenizer(root / "tokenizer"), lanes=1)
    with pytest.raises(DataError, match="its text is ' '"):
        list(data.train_loader(0, 1))


def test_settings_that_cannot_be_are_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match="max_length is 4"):
        labelled_text(root, max_length=4)
    with pytest.raises(ConfigError, match="are no classes"):
        labelled_text(root, classes=["one"])
    with pytest.raises(ConfigError, match="micro-batches of 3"):
        labelled_text(root, micro_batch_size=3).train_loader(0, 1)
