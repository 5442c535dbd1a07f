from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from words import SPECIAL, VOCABULARY, documents, pack, word_tokenizer

from mmtrain.data import ShardReader, open_shards, read_tokens
from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.data.masked_text import MaskedText
from mmtrain.errors import ConfigError, DataError

PAD, CLS, SEP, MASK = (SPECIAL.index(f"[{name}]") for name in ("PAD", "CLS", "SEP", "MASK"))
Batch = dict[str, Any]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masked_text")
    tokenizer = word_tokenizer(folder / "tokenizer")
    pack(documents(60), folder / "train", tokenizer)
    pack(documents(23), folder / "val", tokenizer)
    return folder


def masked_text(root: Path, **options: Any) -> MaskedText:
    settings = {"sequence_length": 32, "global_batch_size": 16, "num_workers": 0, "lanes": 2, **options}
    tokenizer = settings.pop("tokenizer", None) or TextTokenizer(root / "tokenizer")
    return MaskedText(root=root, tokenizer=tokenizer, **settings)


def original(batch: Batch) -> torch.Tensor:
    """The tokens before they were masked."""
    tokens = batch["tokens"].clone()
    used = batch["masked_label"] >= 0
    rows = torch.arange(len(tokens))[:, None].expand_as(used)
    tokens[rows[used], batch["masked_position"][used]] = batch["masked_label"][used]
    return tokens


def texts(root: Path, split: str = "train") -> dict[str, list[int]]:
    """Tokens of each document by its key."""
    reader = ShardReader(open_shards(root / split))
    raws = [reader.read(number) for number in range(len(reader))]
    return {raw["__key__"]: read_tokens(raw).tolist() for raw in raws}


def holds(document: list[int], part: list[int]) -> bool:
    return any(document[start : start + len(part)] == part for start in range(len(document) - len(part) + 1))


def segments(batch: Batch, row: int) -> tuple[list[int], list[int]]:
    """A and B, as they stood before masking."""
    tokens, length = original(batch)[row].tolist(), int(batch["length"][row])
    segment = batch["segment"][row].tolist()
    a_end = segment.index(1) if 1 in segment else length
    assert tokens[0] == CLS and tokens[a_end - 1] == tokens[length - 1] == SEP
    assert tokens[length:] == [PAD] * (len(tokens) - length)
    assert segment == [0] * a_end + [1] * (length - a_end) + [0] * (len(tokens) - length)
    return tokens[1 : a_end - 1], tokens[a_end : length - 1]


def test_pairs_are_of_their_document_or_of_another_as_their_label_says(root: Path) -> None:
    data, known = masked_text(root), texts(root)
    assert data.vocab_size == len(VOCABULARY)
    labels = []
    for batch in data.train_loader(0, 1):
        for row, (key, label) in enumerate(zip(batch["key"], batch["next_sentence"].tolist(), strict=True)):
            a, b = segments(batch, row)
            assert holds(known[key], a) and a and b
            assert holds(known[key], b) == (label == 0)
            assert any(holds(document, b) for document in known.values())
            labels.append(label)
    assert set(labels) == {0, 1} and 0.3 < np.mean(labels) < 0.75


def test_without_pairs_a_row_is_one_stretch_of_its_document(root: Path) -> None:
    known = texts(root)
    for batch in masked_text(root, next_sentence=False).train_loader(0, 1):
        assert (batch["next_sentence"] == -100).all()
        for row, key in enumerate(batch["key"]):
            a, b = segments(batch, row)
            assert holds(known[key], a) and not b
            assert len(a) == min(30, len(known[key]))


def test_masks_are_of_a_fixed_count_and_nothing_else_changes(root: Path) -> None:
    known = set(range(len(SPECIAL), len(VOCABULARY)))
    for batch in masked_text(root, mask_ratio=0.3).train_loader(0, 1):
        assert batch["masked_position"].shape == batch["masked_label"].shape == (16, round(0.3 * 29))
        for row in range(16):
            used = batch["masked_label"][row] >= 0
            count = max(1, round(0.3 * (int(batch["length"][row]) - 3)))
            assert used.tolist() == [True] * count + [False] * (len(used) - count)
            assert (batch["masked_label"][row][~used] == -100).all()
            assert set(batch["masked_label"][row][used].tolist()) <= known
        share = (batch["tokens"] == MASK).sum() / (batch["masked_label"] >= 0).sum()
        assert 0.6 < share < 0.95


def test_whole_words_are_masked_together(root: Path) -> None:
    endings = {number for number, token in enumerate(VOCABULARY) if token.startswith("##")}
    seen = 0
    for batch in masked_text(root, whole_word=True, next_sentence=False).train_loader(0, 1):
        before = original(batch)
        for row in range(16):
            masked = set(batch["masked_position"][row][batch["masked_label"][row] >= 0].tolist())
            for position in range(2, int(batch["length"][row])):
                if int(before[row, position]) in endings:
                    assert (position in masked) == (position - 1 in masked)
                    seen += 1
    assert seen > 50


def counted(batches: Iterable[Batch]) -> list[str]:
    """Keys of the samples that count, sorted."""
    return sorted(key for b in batches for key, weight in zip(b["key"], b["weight"], strict=True) if weight)


def assert_same(one: Batch, two: Batch) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        same = torch.equal(value, two[name]) if isinstance(value, torch.Tensor) else value == two[name]
        assert same, name


@pytest.mark.parametrize("next_sentence", [True, False])
def test_batches_are_the_same_for_any_ranks_and_workers(root: Path, next_sentence: bool) -> None:
    settings = {"next_sentence": next_sentence, "seed": 3}
    expected = list(masked_text(root, **settings).train_loader(0, 1))
    for world_size in (1, 2):
        for num_workers in (0, 2):
            data = masked_text(root, **settings, num_workers=num_workers)
            loaders = [data.train_loader(rank, world_size) for rank in range(world_size)]
            try:
                for batch, parts in zip(expected, zip(*loaders, strict=True), strict=True):
                    joined = {
                        name: torch.cat([part[name] for part in parts])
                        if isinstance(value, torch.Tensor)
                        else [key for part in parts for key in part[name]]
                        for name, value in batch.items()
                    }
                    assert_same(joined, batch)
            finally:
                for loader in loaders:
                    loader.close()


def test_every_epoch_and_seed_draws_anew_and_a_resumed_run_draws_the_same(root: Path) -> None:
    data = masked_text(root, seed=5)
    loader = data.train_loader(0, 1)
    first, second = list(loader), list(loader)
    assert counted(first) == counted(second)
    rows = {key: row.tolist() for batch in first for key, row in zip(batch["key"], batch["tokens"], strict=True)}
    again = {key: row.tolist() for batch in second for key, row in zip(batch["key"], batch["tokens"], strict=True)}
    assert sum(rows[key] == again[key] for key in rows) < 3
    resumed = data.train_loader(0, 1)
    resumed.load_state_dict({**loader.state_dict(), "epoch": 1, "samples": 2 * 16})
    assert_same(next(iter(resumed)), second[2])
    (other, *_) = masked_text(root, seed=6).train_loader(0, 1)
    assert not torch.equal(other["tokens"], first[0]["tokens"])


def test_a_sequence_that_is_the_same_in_every_epoch_is_masked_anew(root: Path) -> None:
    loader = masked_text(root, next_sentence=False, sequence_length=200).train_loader(0, 1)
    masked: list[dict[str, list[int]]] = []
    for _ in range(2):
        rows = {key: (batch, row) for batch in loader for row, key in enumerate(batch["key"])}
        masked.append({key: batch["masked_position"][row].tolist() for key, (batch, row) in rows.items()})
        assert all(segments(batch, row)[0] == texts(root)[key] for key, (batch, row) in list(rows.items())[:5])
    assert sum(masked[0][key] == masked[1][key] for key in masked[0]) < 3


def test_an_epoch_takes_each_document_in_proportion_to_its_length(root: Path) -> None:
    known = texts(root)
    keys = counted(masked_text(root, next_sentence=False, sequence_length=14).train_loader(0, 1))
    counts = {key: keys.count(key) for key in known}
    assert counts == {key: max(1, round(len(tokens) / 12)) for key, tokens in known.items()}


def test_evaluation_is_the_same_in_every_pass_and_run_and_takes_each_sample_once(root: Path) -> None:
    whole = masked_text(root, sequence_length=200).eval_loaders(0, 1)["val"].loader
    elsewhere = masked_text(root, sequence_length=200, seed=9).eval_loaders(0, 1)["val"].loader
    passes = [list(whole), list(whole), list(elsewhere)]
    for other in passes[1:]:
        for one, two in zip(passes[0], other, strict=True):
            assert_same(one, two)
    halves = [masked_text(root, sequence_length=200).eval_loaders(rank, 2)["val"].loader for rank in range(2)]
    assert counted(batch for half in halves for batch in half) == sorted(texts(root, "val"))


def test_evaluation_has_a_mask_ratio_of_its_own(root: Path) -> None:
    data = masked_text(root, mask_ratio=0.4, eval_mask_ratio=0.15)
    (train, *_), (val, *_) = data.train_loader(0, 1), data.eval_loaders(0, 1)["val"].loader
    assert (train["masked_label"].shape[1], val["masked_label"].shape[1]) == (round(0.4 * 29), round(0.15 * 29))


def test_several_data_sets_are_mixed(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "train", tmp_path / "more")
    sets = {"one": str(root / "train"), "two": str(tmp_path / "more")}
    data = masked_text(root, train=sets, weights={"one": 1, "two": 3}, tail="carry", lanes=1)
    loader = data.train_loader(0, 1)
    sources = np.concatenate([loader.plan.share(0, step).source for step in range(64)])
    assert np.bincount(sources).tolist() == [256, 768]
    assert next(iter(loader))["tokens"].shape == (16, 32)


@pytest.mark.parametrize("name", ["mask_ratio", "eval_mask_ratio"])
@pytest.mark.parametrize("ratio", [0.0, 1.0, 1.2])
def test_mask_ratios_outside_zero_to_one_are_refused(root: Path, name: str, ratio: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} is {ratio}") as caught:
        masked_text(root, **{name: ratio})
    assert caught.value.where == f"data.{name}"


def test_a_sequence_too_short_for_its_special_tokens_is_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match="sequence_length is 4"):
        masked_text(root, sequence_length=4)
    masked_text(root, sequence_length=4, next_sentence=False)


def test_shards_without_sentences_serve_single_segments_alone(root: Path, tmp_path: Path) -> None:
    pack(documents(5), tmp_path / "train", TextTokenizer(root / "tokenizer"), sentences=False)
    tokenizer = TextTokenizer(root / "tokenizer")
    with pytest.raises(DataError, match="packed without that") as caught:
        masked_text(tmp_path, tokenizer=tokenizer).train_loader(0, 1)
    assert "data pack text --sentences" in str(caught.value.mend)
    masked_text(tmp_path, tokenizer=tokenizer, next_sentence=False).train_loader(0, 1)


def test_a_lone_document_has_no_other_to_pair_with(root: Path, tmp_path: Path) -> None:
    pack(documents(1), tmp_path / "train", TextTokenizer(root / "tokenizer"))
    with pytest.raises(DataError, match="there is one"):
        masked_text(tmp_path, tokenizer=TextTokenizer(root / "tokenizer")).train_loader(0, 1)


def test_another_tokenizer_than_the_packs_is_refused(root: Path, tmp_path: Path) -> None:
    word_tokenizer(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join([*VOCABULARY, "more"]) + "\n")
    with pytest.raises(DataError, match=f"vocabulary of {len(VOCABULARY)}, not {len(VOCABULARY) + 1}"):
        masked_text(root, tokenizer=TextTokenizer(tmp_path)).prepare()
    masked_text(root).prepare()


def test_tokens_outside_the_vocabulary_name_their_shard(root: Path, tmp_path: Path) -> None:
    pack([*documents(4)], tmp_path / "train", TextTokenizer(root / "tokenizer"))
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "vocab.txt").write_text("\n".join(VOCABULARY[:10]) + "\n")
    data = masked_text(tmp_path, tokenizer=TextTokenizer(tmp_path / "small"), lanes=1, global_batch_size=4)
    with pytest.raises(DataError, match="is none of the vocabulary's 10") as caught:
        list(data.train_loader(0, 1))
    assert "text-000000.tar" in str(caught.value.where)


def test_a_tokenizer_without_what_is_asked_of_it_is_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match="has no mask token"):
        masked_text(root, tokenizer=TextTokenizer("bytes"), next_sentence=False).prepare()
    plain = VOCABULARY[: -len([token for token in VOCABULARY if token.startswith("##")])]
    folder = root / "no_pieces"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(plain) + "\n")
    with pytest.raises(ConfigError, match="no tokens that begin with ##"):
        masked_text(root, tokenizer=TextTokenizer(folder), whole_word=True).prepare()
