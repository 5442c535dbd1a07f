from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SHARD_SIZES, write_data_set, write_tar

from mmtrain.data import EvalTransform, ShardReader, TrainTransform, build_manifest
from mmtrain.data.image import decode
from mmtrain.data.image_text import ImageText
from mmtrain.data.sources import EvalSpec
from mmtrain.errors import ConfigError, DataError

CLASSES = {
    "classes": [f"class {number}" for number in range(13)],
    "categories": [number % 2 for number in range(13)],
    "category_names": ["even", "odd"],
}


class Bytes:
    """A tokenizer of bytes."""

    fingerprint = "bytes"
    loaded = False

    def load(self) -> None:
        self.loaded = True

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([np.frombuffer(text.encode().ljust(24, b"\0"), np.uint8) for text in texts]).astype(np.int64)


def text(row: torch.Tensor) -> str:
    return bytes(row.tolist()).rstrip(b"\0").decode()


class Made:
    """A source that writes a small data set, once."""

    name = "made"

    def __init__(self) -> None:
        self.eval_sets = {"seen": EvalSpec("seen", "zeroshot"), "pairs": EvalSpec("pairs", "retrieval")}
        self.made = 0

    def prepare(self, root: Path) -> None:
        if not root.exists():
            self.made += 1
            write_data_set(root / "train")
            for name in self.eval_sets:
                write_data_set(root / name, (9, 4))
            (root / "seen" / "classes.json").write_text(json.dumps(CLASSES))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image_text") / "made"
    Made().prepare(folder)
    return folder


def image_text(root: Path, **options: Any) -> ImageText:
    settings: dict[str, Any] = {"global_batch_size": 16, "num_workers": 0, "source": Made(), **options}
    return ImageText(
        root=root,
        tokenizer=settings.pop("tokenizer", Bytes()),
        train_transform=TrainTransform(16, flip=0.5),
        eval_transform=EvalTransform(16),
        **settings,
    )


def test_prepare_fetches_data_and_vocabulary(tmp_path: Path) -> None:
    source, tokenizer = Made(), Bytes()
    data = image_text(tmp_path / "new", source=source, tokenizer=tokenizer)
    data.prepare()
    data.prepare()
    assert source.made == 1
    assert tokenizer.loaded
    assert data.steps_per_epoch() == 5
    image_text(tmp_path / "new", source=None).prepare()  # nothing to fetch


def test_a_training_batch_has_the_agreed_fields(root: Path) -> None:
    batch = next(iter(image_text(root).train_loader(1, 2)))
    assert {name: (tuple(value.shape), value.dtype) for name, value in batch.items() if name != "key"} == {
        "image": ((8, 3, 16, 16), torch.uint8),
        "text": ((8, 24), torch.int64),
        "label": ((8,), torch.int64),
        "weight": ((8,), torch.float32),
    }
    for key, row, label in zip(batch["key"], batch["text"], batch["label"], strict=True):
        assert text(row) == f"picture {int(key)}"
        assert label == int(key) % 5


def test_each_sample_draws_its_template_by_itself(root: Path) -> None:
    templates = ["{}", "a {} here", "no {}"]
    data = image_text(root, templates=templates)
    epochs = []
    source = data.train_loader(0, 1)
    for _ in range(2):
        drawn = {}
        for batch in source:
            for key, row in zip(batch["key"], batch["text"], strict=True):
                drawn[key] = text(row).replace(f"picture {int(key)}", "{}")
        assert set(drawn.values()) == set(templates)
        epochs.append(drawn)
    assert epochs[0] != epochs[1]
    other = {
        key: text(row).replace(f"picture {int(key)}", "{}")
        for rank in range(4)
        for batch in data.train_loader(rank, 4)
        for key, row in zip(batch["key"], batch["text"], strict=True)
    }
    assert other == epochs[0]


def test_templates_do_not_shift_augmentation(root: Path) -> None:
    plain = next(iter(image_text(root).train_loader(0, 1)))
    prompted = next(iter(image_text(root, templates=["{}", "a {}"]).train_loader(0, 1)))
    assert torch.equal(plain["image"], prompted["image"])


@pytest.mark.parametrize("templates", [["a picture"], ["{} and {}"], []])
def test_a_template_without_one_place_for_the_caption_is_refused(root: Path, templates: list[str]) -> None:
    with pytest.raises(ConfigError, match="template"):
        image_text(root, templates=templates)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_counts_every_sample_once_in_equally_many_batches(root: Path, world_size: int) -> None:
    data = image_text(root, global_batch_size=24, templates=["a {}"])
    ranks = [data.eval_loaders(rank, world_size)["seen"].loader for rank in range(world_size)]
    assert len({len(loader) for loader in ranks}) == 1
    found = [
        (key, text(row))
        for loader in ranks
        for batch in loader
        for key, row, weight in zip(batch["key"], batch["text"], batch["weight"], strict=True)
        if weight
    ]
    assert sorted(found) == [(f"{number:05d}", f"picture {number}") for number in range(13)]  # captions as they are


def test_evaluation_keeps_to_the_micro_batch(root: Path) -> None:
    loader = image_text(root, micro_batch_size=4).eval_loaders(0, 1)["pairs"].loader
    assert [len(batch["key"]) for batch in loader] == [4, 4, 4, 4]


def test_evaluation_sets_know_their_task_and_classes(root: Path) -> None:
    sets = image_text(root).eval_loaders(0, 1)
    assert (sets["seen"].task, sets["pairs"].task) == ("zeroshot", "retrieval")
    assert sets["seen"].classes == CLASSES["classes"]
    assert sets["seen"].categories == [["even", "odd"][number % 2] for number in range(13)]
    assert (sets["pairs"].classes, sets["pairs"].categories) == (None, None)


def test_own_shards_need_no_source(root: Path) -> None:
    pattern = str(root / "pairs" / "pairs-{000000..000001}.tar")
    data = image_text(root, source=None, train=pattern, eval={"pairs": "retrieval"}, lanes=1)
    assert sum(int(batch["weight"].sum()) for batch in data.train_loader(0, 1)) == 13
    assert list(data.eval_loaders(0, 1)) == ["pairs"]
    assert set(data.fingerprints) == {"train", "eval/pairs", "tokenizer"}
    assert image_text(root, source=None).eval_loaders(0, 1) == {}


@pytest.mark.parametrize(
    "content", ["{", "{}", '{"classes": ["a"], "categories": [0, 0], "category_names": ["x"]}', None]
)
def test_bad_classes_are_named(tmp_path: Path, content: str | None) -> None:
    write_data_set(tmp_path / "seen", (4,))
    if content is not None:
        (tmp_path / "seen" / "classes.json").write_text(content)
    with pytest.raises(DataError, match="classes") as caught:
        image_text(tmp_path, eval={"seen": "zeroshot"}).eval_loaders(0, 1)
    assert caught.value.where == str(tmp_path / "seen" / "classes.json")


def test_a_label_outside_the_classes_names_its_sample(tmp_path: Path) -> None:
    write_data_set(tmp_path / "seen", (4,))
    (tmp_path / "seen" / "classes.json").write_text('{"classes": ["only one"]}')
    loader = image_text(tmp_path, eval={"seen": "zeroshot"}).eval_loaders(0, 1)["seen"].loader
    with pytest.raises(DataError, match=r"its label \d+ is none of the 1 of classes.json") as caught:
        list(loader)
    assert caught.value.where is not None and ".tar" in caught.value.where


def test_indexing_shards_shows_a_bar_on_a_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for terminal in (False, True):
        write_data_set(tmp_path / str(terminal), (4, 3))
        if terminal:
            monkeypatch.setenv("FORCE_COLOR", "1")
        shards = tmp_path / str(terminal) / "pairs-{000000..000001}.tar"
        assert image_text(tmp_path, source=None, train=str(shards), lanes=1).steps_per_epoch() == 1
        said = capfd.readouterr().err
        assert ("Indexing" in said and "2/2" in said) == terminal


def test_a_micro_batch_that_does_not_divide_names_the_nearest(root: Path) -> None:
    data = image_text(root, micro_batch_size=3)
    with pytest.raises(ConfigError, match="rank's share of 8") as caught:
        data.train_loader(0, 2)
    assert caught.value.mend == "set data.micro_batch_size=2"
    with pytest.raises(ConfigError, match="not a multiple of the number of ranks = 3"):
        data.train_loader(0, 3)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("a.jpg", b"\xff\xd8broken"), ("a.txt", b"x")], "a sample cannot be used"),
        ([("a.txt", b"x")], "none of the members .jpg"),
        ([("a.png", b"x"), ("a.txt", b"x")], "not a usable image"),
    ],
)
def test_a_sample_that_cannot_be_used_is_named(tmp_path: Path, members: list[tuple[str, bytes]], reason: str) -> None:
    (tmp_path / "train").mkdir()
    shard = write_tar(tmp_path / "train" / "0.tar", members)
    build_manifest([shard], tmp_path / "train" / "manifest.json")
    with pytest.raises(DataError, match=reason) as caught:
        next(iter(image_text(tmp_path).train_loader(0, 1)))
    assert caught.value.where == f"{shard}, key a"


def test_a_pair_without_caption_is_named_and_one_without_label_gets_minus_one(root: Path, tmp_path: Path) -> None:
    picture = ShardReader(image_text(root)._train_manifest).read(0)["jpg"]
    assert decode(picture).ndim == 3
    (tmp_path / "train").mkdir()
    shard = write_tar(tmp_path / "train" / "0.tar", [("a.jpg", picture), ("a.txt", b"x"), ("b.jpg", picture)])
    build_manifest([shard], tmp_path / "train" / "manifest.json")
    with pytest.raises(DataError, match=r"no member \.txt") as caught:
        next(iter(image_text(tmp_path).train_loader(0, 1)))
    assert caught.value.where == f"{shard}, key b"
    write_tar(shard, [("a.jpg", picture), ("a.txt", b"x")])
    build_manifest([shard], tmp_path / "train" / "manifest.json")
    batch = next(iter(image_text(tmp_path).train_loader(0, 1)))
    assert batch["label"].tolist() == [-1] * 16
    assert batch["weight"].sum() == 1


def test_what_workers_get_can_be_pickled(root: Path) -> None:
    """So that it also works where processes start by spawn or forkserver."""
    loader = image_text(root).train_loader(0, 1)
    copy = pickle.loads(pickle.dumps(loader._batches))
    share = loader.plan.share(0, 0)
    assert torch.equal(copy[share]["image"], loader._batches[share]["image"])


def test_shards_are_counted_not_read_to_plan(root: Path) -> None:
    assert image_text(root).steps_per_epoch() == -(-sum(SHARD_SIZES) // 16)
    assert image_text(root, tail="drop").steps_per_epoch() == sum(SHARD_SIZES) // 16
