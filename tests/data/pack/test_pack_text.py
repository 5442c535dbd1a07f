"""Packing text: every document's ids, in order, whatever file it comes from."""

from __future__ import annotations

import gzip
import json
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from pack_case import bad_items, digests, samples, write_table
from tokenizers import Tokenizer, models, pre_tokenizers

from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.data.decode.tokenizer import ClipTokenizer
from mmtrain.data.loader.packed import read_tokens
from mmtrain.data.pack.documents import Source, plan_shards
from mmtrain.data.pack.text import pack_text
from mmtrain.data.shards.build import open_shards
from mmtrain.data.shards.index import ShardIndex
from mmtrain.errors import ConfigError, DataError, UserError

WORDS = ("the", "cat", "sat", "größer", "\n", ",", '"', "'", "\U0001f600", "\t")


def documents(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [f"{n} " + " ".join(rng.choice(WORDS, rng.integers(1, 40))) + "." for n in range(count)]


def as_ids(text: str) -> list[int]:
    return [*text.encode(), 256]


def packed(folder: Path) -> list[list[int]]:
    return [read_tokens(raw).tolist() for raw in samples(folder)]


def word_tokenizer(folder: Path, extra: int = 0) -> Path:
    """A ``tokenizer.json`` of words, with the settings that packing must not heed."""
    vocabulary = {word: number for number, word in enumerate(["[UNK]", "<end>", "the", "cat", "sat"])}
    vocabulary |= {f"word{number}": len(vocabulary) + number for number in range(extra)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=8)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".tsv", ".parquet"])
def test_every_document_of_a_table_is_packed_in_order(suffix: str, tmp_path: Path) -> None:
    texts = [*documents(23), "x" * 200_000]
    plain = tmp_path / f"texts{suffix.removesuffix('.gz')}"
    path = write_table(plain, [{"id": n, "body": text} for n, text in enumerate(texts)])
    if suffix.endswith(".gz"):
        path = plain.with_name(f"{plain.name}.gz")
        path.write_bytes(gzip.compress(plain.read_bytes()))
    manifest = pack_text([path], tmp_path / "out", tokenizer="bytes", text_column="body", samples_per_shard=5)
    assert [shard.samples for shard in manifest.shards] == [5, 5, 5, 5, 4]
    assert packed(tmp_path / "out") == [as_ids(text) for text in texts]
    assert [raw["__key__"] for raw in samples(tmp_path / "out")] == [f"{n:09d}" for n in range(24)]


def test_files_are_packed_end_to_end(tmp_path: Path) -> None:
    texts = documents(30)
    rows = [{"text": text} for text in texts]
    folder = tmp_path / "more"
    (folder / "deep").mkdir(parents=True)
    for number, text in enumerate(texts[14:20]):
        (folder / "deep" / f"{number}.txt").write_text(text, newline="")
    write_table(folder / "z.csv", rows[20:])
    (folder / "readme.md").write_text("no text to pack")
    inputs = [write_table(tmp_path / "b.jsonl", rows[:3]), write_table(tmp_path / "a.parquet", rows[3:14]), folder]
    for workers in (1, 3):
        out = tmp_path / str(workers) / "out"
        pack_text(inputs, out, tokenizer="bytes", samples_per_shard=4, num_workers=workers)
    assert packed(out) == [as_ids(text) for text in texts]
    assert digests(tmp_path / "1" / "out") == digests(out)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_text_is_split_on_blank_lines(newline: str, tmp_path: Path) -> None:
    path = tmp_path / "stories.txt"
    path.write_text("\ufeff\n\nOne,\nstill one\n\n\n  \nTwo\n\nThree", newline=newline)
    pack_text([path], tmp_path / "out", tokenizer="bytes", split_on="blank-line", keep_text=True, samples_per_shard=2)
    assert [raw["txt"].decode() for raw in samples(tmp_path / "out")] == [f"One,{newline}still one", "Two", "Three"]


def test_a_text_file_is_one_document_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_bytes(b"\n One\r\n\r\nTwo\n")
    pack_text([tmp_path / "story.txt"], tmp_path / "out", tokenizer="bytes", append_eos=False)
    assert packed(tmp_path / "out") == [list(b"\n One\r\n\r\nTwo\n")]


def test_empty_lines_of_jsonl_are_no_documents(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf\n{"text": "one"}\n\n{"text": "two"}\n\n{"text": "three"}')
    pack_text([tmp_path / "a.jsonl"], tmp_path / "out", tokenizer="bytes", samples_per_shard=1)
    assert packed(tmp_path / "out") == [as_ids("one"), as_ids("two"), as_ids("three")]


@pytest.mark.parametrize(("extra", "member"), [(65_531, "u16"), (65_532, "u32")])
def test_the_vocabulary_decides_the_width_of_an_id(extra: int, member: str, tmp_path: Path) -> None:
    folder = word_tokenizer(tmp_path / "words", extra)
    last = f"word{extra - 1}"
    path = write_table(tmp_path / "a.jsonl", [{"text": f"the cat sat {last}"}])
    pack_text([path], tmp_path / "out", tokenizer=folder, eos_token="<end>")
    (raw,) = samples(tmp_path / "out")
    assert set(raw) == {"__key__", member}
    assert np.frombuffer(raw[member], f"<{member[0]}{int(member[1:]) // 8}").tolist() == [2, 3, 4, 4 + extra, 1]


def test_the_end_token_is_the_one_the_tokenizer_is_configured_with(tmp_path: Path) -> None:
    folder = word_tokenizer(tmp_path / "words")
    path = write_table(tmp_path / "a.jsonl", [{"text": "the cat"}])
    with pytest.raises(ConfigError, match="does not say which token ends a document"):
        pack_text([path], tmp_path / "refused", tokenizer=folder)
    with pytest.raises(ConfigError, match="no token '</s>'") as refused:
        pack_text([path], tmp_path / "refused", tokenizer=folder, eos_token="</s>")
    assert refused.value.mend == "its special tokens are <end>"
    pack_text([path], tmp_path / "without", tokenizer=folder, append_eos=False)
    assert packed(tmp_path / "without") == [[2, 3]]
    for number, token in enumerate(("<end>", {"content": "<end>"})):
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": token}))
        pack_text([path], tmp_path / f"with{number}", tokenizer=folder / "tokenizer.json")
        assert packed(tmp_path / f"with{number}") == [[2, 3, 1]]


def test_clip_gives_the_ids_of_its_tokenizer(tmp_path: Path) -> None:
    texts = documents(5)
    path = write_table(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    for workers in (1, 2):
        pack_text([path], tmp_path / str(workers), tokenizer="clip", samples_per_shard=2, num_workers=workers)
    assert packed(tmp_path / "1") == [[*ClipTokenizer().encode(text), 49_407] for text in texts]
    assert digests(tmp_path / "1")["text-000001.tar"] == digests(tmp_path / "2")["text-000001.tar"]
    described = json.loads((tmp_path / "1" / "dataset.json").read_text())
    assert described["tokenizer"] == asdict(TextTokenizer("clip").identity)


def test_tokens_are_counted_in_the_index_and_for_the_data_set(tmp_path: Path) -> None:
    texts = documents(11)
    path = write_table(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    pack_text([path], tmp_path / "out", tokenizer="bytes", samples_per_shard=4)
    manifest = open_shards(tmp_path / "out")
    columns = [ShardIndex(manifest.shard_path(shard)).column("num_tokens") for shard in range(3)]
    assert np.concatenate(columns).tolist() == [len(as_ids(text)) for text in texts]
    described = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert described["tokens"] == sum(len(as_ids(text)) for text in texts)
    assert (described["member"], described["append_eos"], described["tokenizer"]["eos"]) == ("u16", True, 256)


def jsonl_with_faults(path: Path) -> Path:
    good, bad = b'{"text": "good"}\n', [b"{broken\n", b"[1]\n", b'{"txt": "x"}\n', b'{"text": " "}\n', b'{"text": 7}\n']
    path.write_bytes(good + b"".join(bad) + b'{"text": "\\ud800"}\n' + b'{"text": "\xff"}\n' + good)
    return path


def test_bad_documents_are_told_with_their_lines(tmp_path: Path) -> None:
    path = jsonl_with_faults(tmp_path / "a.jsonl")
    with pytest.raises(DataError) as refused:
        pack_text([path], tmp_path / "out", tokenizer="bytes")
    told = [line.strip() for line in refused.value.message.splitlines()]
    assert told[0] == "7 items cannot be packed:"
    assert told[1].startswith(f"{path}, line 2: it is not JSON")
    assert told[2:] == [
        f"{path}, line 3: it is a JSON list, not an object",
        f"{path}, line 4: it has no field 'text'",
        f"{path}, line 5: its 'text' is empty",
        f"{path}, line 6: its 'text' is 7, not a text",
        "and 2 more",
    ]


def test_bad_documents_are_left_out_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    path = jsonl_with_faults(tmp_path / "a.jsonl")
    pack_text([path], tmp_path / "out", tokenizer="bytes", skip_bad=True, samples_per_shard=3)
    assert [raw["__key__"] for raw in samples(tmp_path / "out")] == ["000000000", "000000008"]
    assert sorted(file.name for file in (tmp_path / "out").glob("*.tar")) == ["text-000000.tar", "text-000002.tar"]
    assert len(bad_items(tmp_path / "out")) == 7


def test_rows_of_csv_with_other_fields_than_the_header_are_bad(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,text\n1,"two\nlines"\n2\n3,"three",x\n\n4,four\n')
    pack_text([tmp_path / "a.csv"], tmp_path / "out", tokenizer="bytes", skip_bad=True)
    assert packed(tmp_path / "out") == [as_ids("two\nlines"), as_ids("four")]
    assert bad_items(tmp_path / "out") == [
        f"{tmp_path / 'a.csv'}, line 4: it has 1 fields, and the header 2",
        f"{tmp_path / 'a.csv'}, line 5: it has 3 fields, and the header 2",
    ]


def test_a_quote_that_is_never_closed_swallows_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text\none\n"two\nthree\n')
    with pytest.raises(DataError, match="not a csv table") as refused:
        pack_text([tmp_path / "a.csv"], tmp_path / "out", tokenizer="bytes", skip_bad=True)
    assert refused.value.where == f"{tmp_path / 'a.csv'}, line 3"


def gz_cut_short(path: Path) -> None:
    path.write_bytes(gzip.compress(b'{"text": "one"}\n' * 1000)[:-20])


@pytest.mark.parametrize(
    ("name", "write", "message", "mend"),
    [
        (
            "gone.jsonl",
            lambda path: (path.parent / "one.jsonl").touch(),
            "an input is missing",
            "did you mean 'one.jsonl'?",
        ),
        ("a.docx", lambda path: path.touch(), ".docx is no format of texts", "name files"),
        ("a.jsonl", lambda path: path.touch(), "the table holds no rows", "was it cut short"),
        ("a.csv", lambda path: path.touch(), "the table holds no rows", "was it cut short"),
        ("a.csv", lambda path: path.write_text("text\n"), "the inputs hold no document", "name other files"),
        ("a.jsonl", lambda path: path.write_text('{"texd": "x"}'), "no column 'text'", "did you mean|known: texd"),
        (
            "a.jsonl",
            lambda path: path.write_text("{texd"),
            "no line holds an object: it is not JSON",
            "one object a line",
        ),
        ("a.jsonl.gz", gz_cut_short, "a damaged .gz", "again"),
        ("a.jsonl.gz", lambda path: path.write_text("no gzip"), "a damaged .gz", "again"),
        ("a.parquet", lambda path: path.write_text("no parquet"), "the table cannot be read", "again"),
    ],
)
def test_a_wrong_input_is_told(
    name: str, write: Callable[[Path], object], message: str, mend: str, tmp_path: Path
) -> None:
    write(tmp_path / name)
    with pytest.raises(DataError, match=message) as refused:
        pack_text([tmp_path / name], tmp_path / "out", tokenizer="bytes")
    assert str(tmp_path / name) in str(refused.value.where)
    assert any(part in str(refused.value.mend) for part in mend.split("|"))


@pytest.mark.parametrize(
    ("options", "message", "mend"),
    [
        ({"tokenizer": "byts"}, "no tokenizer 'byts'", "did you mean 'bytes'?"),
        ({"tokenizer": "bytes", "eos_token": "x"}, "end token of its own", "leave it out"),
        ({"tokenizer": "bytes", "split_on": "blank"}, "split on 'blank'", "did you mean 'blank-line'?"),
        ({"tokenizer": "bytes", "samples_per_shard": 0}, "samples_per_shard is 0", "at least 1"),
    ],
)
def test_a_wrong_option_is_told(options: dict[str, object], message: str, mend: str, tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.jsonl", [{"text": "one"}])
    with pytest.raises(ConfigError, match=message) as refused:
        pack_text([path], tmp_path / "out", **options)  # type: ignore[arg-type]
    assert mend in str(refused.value.mend)
    assert not (tmp_path / "out").exists()


def test_a_broken_first_line_is_left_out_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"te\n{"text": "two"}\n')
    pack_text([tmp_path / "a.jsonl"], tmp_path / "out", tokenizer="bytes", skip_bad=True)
    assert packed(tmp_path / "out") == [as_ids("two")]


def test_parquet_without_pyarrow_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_table(tmp_path / "a.parquet", [{"text": "one"}])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="needs the package pyarrow") as refused:
        pack_text([path], tmp_path / "out", tokenizer="bytes")
    assert 'pip install "mmtrain[parquet]"' in str(refused.value.mend)


def test_a_file_that_is_no_tokenizer_is_told(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.jsonl", [{"text": "one"}])
    with pytest.raises(DataError, match="not a tokenizer"):
        pack_text([path], tmp_path / "out", tokenizer=path)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".txt"])
def test_planning_takes_memory_for_the_shards_and_not_for_the_documents(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".txt":
        path.write_text("a few words in a document\n\n" * 40_000)
    else:
        write_table(path, [{"text": "a few words in a document"}] * 40_000)
    next(plan_shards([Source("a", str(path), str(path))], "text", "blank-line", 1000))  # loads libraries
    tracemalloc.start()
    shards = sum(1 for _ in plan_shards([Source("a", str(path), str(path))], "text", "blank-line", 1000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert shards == 40
    assert peak < 600_000


def test_sentences_are_stored_as_the_tokens_up_to_their_ends(tmp_path: Path) -> None:
    texts = ["Dr. Who met J. S. Bach. Größe! \u201cReally?\u201d Yes.\nIt rained", "One."]
    path = write_table(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    pack_text([path], tmp_path / "out", tokenizer="bytes", sentences=True)
    first, second = samples(tmp_path / "out")
    ends = np.frombuffer(first["sentences.u32"], "<u4")
    parts = np.split(read_tokens(first), ends[:-1])
    assert [bytes(part[part < 256].tolist()).decode() for part in parts] == [
        "Dr. Who met J. S. Bach.",
        " Größe!",
        " \u201cReally?\u201d",
        " Yes.\n",
        "It rained",
    ]
    assert ends[-1] == len(read_tokens(first)), "the end token belongs to the last sentence"
    assert np.frombuffer(second["sentences.u32"], "<u4").tolist() == [5]
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["sentences"] is True
    assert open_shards(tmp_path / "out").shards[0].totals["num_tokens"] == ends[-1] + 5
