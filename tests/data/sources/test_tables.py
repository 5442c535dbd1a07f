"""Tables of labelled texts: the layouts that GLUE's tasks come in, and what is told of bad rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmtrain.config.directory import config_dir
from mmtrain.data import ShardReader, open_shards
from mmtrain.data.sources.tables import Tables
from mmtrain.errors import ConfigError, DataError

Record = dict[str, Any]

QUOTE = 'He said "no, and "that" was it.'
LAYOUTS: dict[str, tuple[str, Record]] = {
    "cola": (f"gj04\t0\t*\t{QUOTE}\ngj04\t1\t\tThey sang.\n", {"text": QUOTE, "label": "unacceptable"}),
    "sst2": (f"sentence\tlabel\n{QUOTE}\t1\ndull \t0\n", {"text": QUOTE, "label": "positive"}),
    "mrpc": (
        f"\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t7\t8\t{QUOTE}\tB.\r\n0\t5\t6\tC.\tD.\r\n",
        {"text": QUOTE, "text_b": "B.", "label": "equivalent"},
    ),
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        f"0\tnews\tf\t2012\t1\tnone\tnone\t{QUOTE}\tB.\t3.800\n1\tnews\tf\t2012\t1\tnone\tnone\tC.\tD.\t0\n",
        {"text": QUOTE, "text_b": "B.", "label": 3.8},
    ),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
        f"1\t2\t3\t{QUOTE}\tB?\t1\n4\t5\t6\tbroken by a line's\n end?\tD?\t0\n7\t8\t9\tE?\t\t0\n",
        {"text": QUOTE, "text_b": "B?", "label": "duplicate"},
    ),
    "mnli": (
        "index\tpromptID\tpairID\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n"
        f"0\t1\t2\tfiction\t{QUOTE}\tB.\tneutral\tentailment\n1\t2\t3\tslate\tC.\tD.\tneutral\tneutral\n",
        {"text": QUOTE, "text_b": "B.", "label": "entailment"},
    ),
    "qnli": (
        f"index\tquestion\tsentence\tlabel\n0\t{QUOTE}\tB.\tnot_entailment\n1\tC?\tD.\tentailment\n",
        {"text": QUOTE, "text_b": "B.", "label": "not_entailment"},
    ),
    "rte": (
        f"index\tsentence1\tsentence2\tlabel\n0\t{QUOTE}\tB.\tentailment\n1\tC.\tD.\tnot_entailment\n",
        {"text": QUOTE, "text_b": "B.", "label": "entailment"},
    ),
    "wnli": (
        f"index\tsentence1\tsentence2\tlabel\n0\t{QUOTE}\tB.\t1\n1\tC.\tD.\t0\n",
        {"text": QUOTE, "text_b": "B.", "label": "entailment"},
    ),
}


def records(folder: Path) -> list[Record]:
    reader = ShardReader(open_shards(folder))
    return [json.loads(reader.read(number)["json"]) for number in range(len(reader))]


def jsonl(folder: Path, *rows: Record, name: str = "train.jsonl") -> Path:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("task", LAYOUTS)
def test_a_task_of_glue_is_read_as_it_is_distributed(task: str, tmp_path: Path) -> None:
    text, expected = LAYOUTS[task]
    source = yaml.safe_load((config_dir() / "data" / f"glue_{task}.yaml").read_text())["source"]
    for name in source["files"].values():
        (tmp_path / name).write_text(text, encoding="utf-8")
    tables = Tables(**{**source, "folder": tmp_path})
    tables.prepare(tmp_path / "out")
    for split in ("train", *tables.eval_sets):
        found = records(tmp_path / "out" / split)
        assert expected in found
        assert len(found) == (1 if task == "qqp" else 2)  # two of QQP's rows are broken, and one lacks a question
    assert tables.classes is None or expected["label"] in tables.classes
    assert tables.eval_sets == (("val_matched", "val_mismatched") if task == "mnli" else ("val",))


def test_what_was_skipped_is_counted(tmp_path: Path) -> None:
    rows = [{"text": "good", "label": "a"}, {"text": " ", "label": "a"}, {"text": "bad", "label": "c"}]
    Tables(jsonl(tmp_path, *rows), {"train": "train.jsonl"}, labels=["a", "b"], skip_bad=True).prepare(tmp_path / "out")
    splits = json.loads((tmp_path / "out" / "dataset.json").read_text())["splits"]
    assert splits == {"train": {"samples": 1, "shards": 1, "skipped": 2}}


def test_labels_in_json_may_be_numbers(tmp_path: Path) -> None:
    rows = [{"text": "one", "label": 0}, {"text": "two", "label": 1}]
    tables = Tables(jsonl(tmp_path, *rows), {"train": "train.jsonl"}, labels=["0", "1"], classes=["no", "yes"])
    tables.prepare(tmp_path / "out")
    assert sorted(record["label"] for record in records(tmp_path / "out" / "train")) == ["no", "yes"]
    Tables(tmp_path, {"train": "train.jsonl"}).prepare(tmp_path / "numbers")
    assert sorted(record["label"] for record in records(tmp_path / "numbers" / "train")) == [0.0, 1.0]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "", "label": "pos"}, "line 2: its 'text' is empty"),
        ({"text": "fine", "label": "positve"}, "line 2: its 'label' is 'positve': did you mean 'positive'"),
        ({"text": "fine"}, "line 2: its 'label' is empty"),
    ],
)
def test_a_row_that_cannot_be_used_names_its_file_and_line(row: Record, reason: str, tmp_path: Path) -> None:
    jsonl(tmp_path, {"text": "good", "label": "positive"}, row)
    tables = Tables(tmp_path, {"train": "train.jsonl"}, labels=["negative", "positive"])
    with pytest.raises(DataError, match=reason) as caught:
        tables.prepare(tmp_path / "out")
    assert str(tmp_path / "train.jsonl") in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("label", ["much", float("nan"), None])
def test_a_label_that_is_no_number_is_refused(label: object, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="its 'label' is"):
        Tables(jsonl(tmp_path, {"text": "a", "label": label}), {"train": "train.jsonl"}).prepare(tmp_path / "out")


@pytest.mark.parametrize("name", ["train.jsonl", "train.tsv"])
def test_an_unknown_column_is_told_with_the_nearest(name: str, tmp_path: Path) -> None:
    jsonl(tmp_path, {"sentence": "a", "label": "x"})
    (tmp_path / "train.tsv").write_text("sentence\tlabel\na\tx\n")
    with pytest.raises(DataError, match="the table has no column 'sentense'") as caught:
        Tables(tmp_path, {"train": name}, text="sentense").prepare(tmp_path / "out")
    assert caught.value.mend == "did you mean 'sentence'?"


def test_a_missing_table_and_changed_tables_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        Tables(tmp_path, {"train": "train.jsonl"}).prepare(tmp_path / "out")
    Tables(jsonl(tmp_path, {"text": "a", "label": 1}), {"train": "train.jsonl"}).prepare(tmp_path / "out")
    changed = Tables(jsonl(tmp_path, {"text": "b", "label": 1}), {"train": "train.jsonl"})
    with pytest.raises(DataError, match="made with files"):
        changed.prepare(tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"files": {"trian": "a.jsonl"}}, "no table to train on"),
        ({"labels": ["a"]}, "are no classes"),
        ({"labels": ["a", "a"]}, "are no classes"),
        ({"labels": ["a", "b"], "classes": ["one"]}, "1 classes, and 2 labels"),
        ({"classes": ["one", "two"]}, "2 classes, and 0 labels"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        Tables(tmp_path, **{"files": {"train": "a.jsonl"}, **options})
