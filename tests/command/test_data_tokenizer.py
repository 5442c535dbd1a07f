"""``data tokenizer``: a tokenizer from texts, for packing and for other libraries."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_run import Program
from transformers import AutoTokenizer

from mmtrain.data.decode.text_tokenizer import TextTokenizer


def write(folder: Path) -> Path:
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"body": f"text {number} of many texts"}) + "\n" for number in range(50)))
    return path


def test_a_tokenizer_is_trained_shown_and_packed_with(program: Program, tmp_path: Path) -> None:
    texts, out = write(tmp_path), tmp_path / "tokenizer"
    options = ["--kind", "wordpiece", "--vocab-size", 60, "--lower-case", "--text-column", "body"]
    done = program("data", "tokenizer", texts, *options, "--out", out)
    assert done.status == 0, done.err
    made = TextTokenizer(out)
    assert made.fingerprint[:12] in done.out and str(made.vocab_size) in done.out
    assert AutoTokenizer.from_pretrained(out).encode("Many texts") == made.encode("Many texts", special_tokens=True)
    packing = ["--tokenizer", out, "--no-append-eos", "--text-column", "body", "--sentences", "--workers", 1]
    packed = program("data", "pack", "text", texts, *packing, "--out", tmp_path / "packed")
    assert packed.status == 0, packed.err
    described = json.loads((tmp_path / "packed" / "dataset.json").read_text())
    assert described["tokenizer"]["sha256"] == made.fingerprint and described["sentences"]


def test_mistakes_are_told_without_a_traceback(program: Program, tmp_path: Path) -> None:
    texts = write(tmp_path)
    done = program("data", "tokenizer", texts, "--kind", "bpe", "--vocab-size", 300, "--out", tmp_path / "out")
    assert done.status != 0
    assert "no column 'text'" in done.err and "body" in done.err and "Traceback" not in done.err
    assert not (tmp_path / "out").exists()
    done = program("data", "tokenizer", texts, "--kind", "bbpe", "--vocab-size", 300, "--out", tmp_path / "out")
    assert "did you mean 'bpe'?" in done.err
