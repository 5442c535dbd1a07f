"""A data node of packed text: rows that lose no token, evaluation that scores each once, and one tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmtrain.data import build_manifest
from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.data.pack.text import pack_text
from mmtrain.data.packed_text import PackedText
from mmtrain.errors import ConfigError, DataError

T = 16


def texts(count: int, word: str) -> list[str]:
    return [f"{word} {number} " + "and on " * (number % 7) for number in range(count)]


def pack(folder: Path, documents: list[str], tokenizer: str | Path = "bytes") -> None:
    source = folder.with_suffix(".jsonl")
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    pack_text([source], folder, tokenizer=tokenizer, samples_per_shard=20)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only."""
    folder = tmp_path_factory.mktemp("texts")
    TextTokenizer("bytes").save(folder / "tokenizer")
    for name, count in (("train", 90), ("other", 60), ("val", 11)):
        pack(folder / name, texts(count, name), folder / "tokenizer")
    return folder


def node(root: Path, **settings: Any) -> PackedText:
    defaults: dict[str, Any] = {
        "sequence_length": T,
        "global_batch_size": 8,
        "lanes": 2,
        "num_workers": 0,
        "packing": 4,
    }
    return PackedText(root=root, **{**defaults, **settings})


def scored(data: PackedText, world_size: int = 1) -> tuple[int, int]:
    """Labels of the evaluation set over all ranks, and the bytes that they stand for."""
    token_bytes, tokens, size = torch.from_numpy(data.tokenizer.token_bytes()), 0, 0
    for rank in range(world_size):
        for batch in data.eval_loaders(rank, world_size)["val"].loader:
            counts = (batch["document"][:, 1:] >= 0) & (batch["weight"][:, None] > 0)
            tokens += int(counts.sum())
            size += int(token_bytes[batch["tokens"][:, 1:][counts]].sum())
    return tokens, size


def test_batches_hold_a_token_more_than_a_sequence(root: Path) -> None:
    data = node(root)
    data.prepare()
    batch = next(iter(data.train_loader(0, 1)))
    assert {name: (tuple(batch[name].shape), batch[name].dtype) for name in batch if name != "key"} == {
        "tokens": ((8, T + 1), torch.int64),
        "position": ((8, T + 1), torch.int32),
        "document": ((8, T + 1), torch.int32),
        "weight": ((8,), torch.float32),
    }
    assert (data.vocab_size, data.tokens_per_sample, data.tokenizer.eos) == (257, T, 256)
    length = sum(len(text.encode()) + 1 for text in texts(90, "train"))
    assert data.steps_per_epoch() == length // (T + 1) // 8


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_byte_but_the_first_is_scored_on_any_number_of_ranks(root: Path, world_size: int) -> None:
    documents = texts(11, "val")
    size = sum(len(text.encode()) for text in documents)
    data = node(root, global_batch_size=12, micro_batch_size=2)
    assert scored(data, world_size) == (size + len(documents) - 1, size - 1)
    assert data.eval_loaders(0, 1)["val"].tokens == size + len(documents) - 1


def test_an_evaluation_row_goes_on_where_the_one_before_ended(root: Path) -> None:
    loader = node(root).eval_loaders(0, 1)["val"].loader
    rows = [row for batch in loader for row in zip(batch["tokens"], batch["document"], batch["weight"], strict=True)]
    line = [token for text in texts(11, "val") for token in [*text.encode(), 256]]
    for number, (tokens, document, _) in enumerate(row for row in rows if row[2] > 0):
        there = tokens[document >= 0].tolist()
        assert there == line[number * T : number * T + T + 1]
        assert (document[len(there) :] == -1).all() and (tokens[len(there) :] == 0).all()


@pytest.mark.parametrize(("world_size", "workers"), [(2, 0), (4, 1)])
def test_training_rows_are_the_same_for_any_ranks_and_workers(root: Path, world_size: int, workers: int) -> None:
    def take(data: PackedText, rank: int, world: int) -> list[torch.Tensor]:
        loader = data.train_loader(rank, world)
        found = [batch["tokens"].clone() for _, batch in zip(range(5), loader, strict=False)]
        loader.close()
        return found

    whole = take(node(root), 0, 1)
    ranks = [take(node(root, num_workers=workers), rank, world_size) for rank in range(world_size)]
    for step, rows in enumerate(whole):
        assert torch.equal(torch.cat([rank[step] for rank in ranks]), rows)


def test_sets_are_mixed_by_weight_and_by_tokens_without(root: Path) -> None:
    def share_of_other(weights: dict[str, float] | None) -> float:
        both = {"train": str(root / "train"), "other": str(root / "other")}
        loader = node(root, train=both, weights=weights, lanes=1, global_batch_size=128).train_loader(0, 1)
        found = [keys for _, batch in zip(range(16), loader, strict=False) for keys in batch["tokens"]]
        other = [row for row in found if b"other" in bytes(row[row < 256].tolist())]
        train = [row for row in found if b"train" in bytes(row[row < 256].tolist())]
        return len(other) / (len(other) + len(train))

    assert share_of_other({"train": 1.0, "other": 3.0}) == pytest.approx(0.75, abs=0.04)
    assert share_of_other(None) == pytest.approx(0.4, abs=0.04)


def test_fingerprints_name_everything_that_is_read(root: Path) -> None:
    data = node(root)
    assert set(data.fingerprints) == {"train", "eval/val", "tokenizer"}
    assert data.fingerprints["tokenizer"] == TextTokenizer("bytes").fingerprint


def test_another_tokenizer_than_the_datas_is_refused_by_name(root: Path) -> None:
    data = node(root, tokenizer=TextTokenizer("minilm"))
    with pytest.raises(DataError, match="tokenised with the tokenizer 'tokenizer'.*run's is 'minilm'") as refused:
        data.prepare()
    assert "vocabulary of 257, not 30522" in refused.value.message
    assert refused.value.where == str(root / "train" / "dataset.json")
    node(root, tokenizer=TextTokenizer("bytes")).prepare()


def test_an_evaluation_set_of_another_tokenizer_is_refused(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "root"
    folder.mkdir()
    for name in ("train", "tokenizer"):
        (folder / name).symlink_to(root / name)
    pack(folder / "val", texts(5, "val"), "clip")
    with pytest.raises(DataError, match="tokenised with the tokenizer 'clip'"):
        node(folder).prepare()


def test_documents_that_nobody_vouches_for_are_told(root: Path, tmp_path: Path) -> None:
    pack(tmp_path / "train", texts(20, "train"))
    (tmp_path / "train" / "dataset.json").unlink()
    with pytest.warns(UserWarning, match="nothing says what the documents were tokenised with"):
        node(tmp_path, tokenizer=TextTokenizer("bytes"), eval=[]).prepare()
    (tmp_path / "train" / "dataset.json").write_text("[]")
    with pytest.raises(DataError, match="does not tell the tokenizer"):
        node(tmp_path, tokenizer=TextTokenizer("bytes"), eval=[]).prepare()


def test_an_evaluation_set_shorter_than_a_row_is_told(root: Path) -> None:
    with pytest.raises(DataError, match="less than one row of 4097") as refused:
        node(root, sequence_length=4096).eval_loaders(0, 1)
    assert refused.value.where == str(root / "val")


def test_documents_without_counts_are_told(root: Path, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    shard = tmp_path / "train" / "a.tar"
    shard.write_bytes((root / "train" / "text-000000.tar").read_bytes())
    build_manifest([shard], shard.with_name("manifest.json"))
    with pytest.raises(DataError, match="tokens of the data set 'train' were not counted") as refused:
        node(tmp_path, tokenizer=TextTokenizer("bytes")).steps_per_epoch()
    assert "--columns num_tokens" in str(refused.value.mend)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sequence_length": 0}, "sequence_length is 0"),
        ({"packing": 0}, "packing is 0"),
        ({"lanes": 3}, "lanes = 3 does not divide"),
        ({"micro_batch_size": 3}, "micro-batches of 3"),
        ({"shuffle": "slide"}, "sliding shuffle"),
        ({"weights": {"trane": 1.0}}, "no data set is called 'trane'"),
    ],
)
def test_a_wrong_setting_is_told(root: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        node(root, **settings).train_loader(0, 1)
