from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from mmtrain.data import EvalTransform, ShardReader, TrainTransform, build_manifest, load_manifest
from mmtrain.data.decode.mix import Mix
from mmtrain.data.labelled_images import LabelledImages
from mmtrain.data.plan.draw import SampleSeed, Stream
from mmtrain.data.shards.write import Sample, write_shards
from mmtrain.errors import ConfigError, DataError

SAMPLES, CLASSES = 50, ["a", "b", "c", "d", "e"]


def sample(number: int, label: bytes | None = None) -> Sample:
    """A noisy picture; labels of even numbers stand in ``.cls``, of odd ones in ``.json``."""
    picture = np.random.default_rng(number).integers(0, 256, (20, 24, 3), np.uint8)
    png = cv2.imencode(".png", picture)[1].tobytes()
    stated = label if label is not None else str(number % 5).encode()
    if number % 2:
        return f"{number:03d}", {"png": png, "json": b'{"label": ' + stated + b"}"}
    return f"{number:03d}", {"png": png, "cls": stated}


def write(folder: Path, samples: list[Sample], classes: list[str] | None = CLASSES) -> Path:
    build_manifest(write_shards(samples, folder, "images", 20), folder / "manifest.json")
    if classes is not None:
        (folder / "classes.json").write_text(json.dumps({"classes": classes}))
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    write(folder / "train", [sample(number) for number in range(SAMPLES)])
    write(folder / "val", [sample(number) for number in range(60, 71)], classes=None)
    return folder


def images(root: Path, **options: Any) -> LabelledImages:
    settings: dict[str, Any] = {"global_batch_size": 16, "num_workers": 0, "eval": ["val"], "lanes": 4, **options}
    transforms = {"train_transform": TrainTransform(16, flip=0.5), "eval_transform": EvalTransform(16)}
    return LabelledImages(root=root, **{**transforms, **settings})


BOTH = Mix(mixup=0.4, cutmix=1.0, probability=0.8)


def epoch(data: LabelledImages, world_size: int = 1) -> list[dict[str, Any]]:
    """The global batches of an epoch, put together from the ranks' shares."""
    ranks = [list(data.train_loader(rank, world_size)) for rank in range(world_size)]
    return [
        {
            name: list(chain(*(part[name] for part in parts)))
            if isinstance(parts[0][name], list)
            else torch.cat([part[name] for part in parts])
            for name in parts[0]
        }
        for parts in zip(*ranks, strict=True)
    ]


def test_a_batch_has_the_agreed_fields(root: Path) -> None:
    for mix in (None, BOTH):
        batch = next(iter(images(root, mix=mix).train_loader(1, 2)))
        fields = {name: (tuple(value.shape), value.dtype) for name, value in batch.items() if name != "key"}
        plain = {
            "image": ((8, 3, 16, 16), torch.uint8),
            "label": ((8,), torch.int64),
            "weight": ((8,), torch.float32),
        }
        mixed = {"label_b": ((8,), torch.int64), "mix": ((8,), torch.float32)}
        assert fields == (plain if mix is None else plain | mixed)
        assert [int(key) % 5 for key in batch["key"]] == batch["label"].tolist()


@pytest.mark.parametrize(("world_size", "workers"), [(2, 0), (4, 0), (1, 2), (2, 1)])
def test_mixed_batches_are_the_same_for_any_number_of_ranks_and_workers(
    root: Path, world_size: int, workers: int
) -> None:
    whole = epoch(images(root, mix=BOTH))
    parts = epoch(images(root, mix=BOTH, num_workers=workers, workers="thread"), world_size)
    assert len(whole) == 4
    for expected, found in zip(whole, parts, strict=True):
        assert found["key"] == expected["key"]
        for name in ("image", "label", "label_b", "mix", "weight"):
            assert torch.equal(found[name], expected[name]), name
    shares = torch.cat([batch["mix"] for batch in whole])
    assert 5 < (shares == 1).sum() < 30, "some are mixed, some are not"


def test_a_sample_is_mixed_with_its_partner_as_that_looks_in_the_epoch(root: Path) -> None:
    reader = ShardReader(load_manifest(root / "train" / "manifest.json"))
    plain = {key: row for batch in epoch(images(root)) for key, row in zip(batch["key"], batch["image"], strict=True)}
    for batch in epoch(images(root, mix=BOTH)):
        for row, key in enumerate(batch["key"]):
            seed = SampleSeed(0, 0, int(key))
            mixing = BOTH.draw(seed.generator(Stream.MIX), SAMPLES, 16)
            image, label = plain[key].numpy().copy(), int(key) % 5
            if mixing is not None:
                assert batch["mix"][row] == pytest.approx(mixing.share)
                image = mixing(image, plain[reader.key(mixing.partner)].numpy())
                label = mixing.partner % 5
            assert np.array_equal(batch["image"][row].numpy(), image)
            assert batch["label_b"][row] == label


def test_only_mixed_samples_read_a_second_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    read = ShardReader.read
    monkeypatch.setattr(ShardReader, "read", lambda self, sample: reads.append(sample) or read(self, sample))
    batches = epoch(images(root, mix=Mix(mixup=1.0, probability=0.25), tail="drop"))
    mixed = sum(int((batch["mix"] < 1).sum()) for batch in batches)
    assert 0 < mixed < 24
    assert len(reads) <= 48 + mixed + 2, "each sample, each partner, and the two of the example for the fields"


def test_evaluation_is_never_mixed_and_counts_each_sample_once(root: Path) -> None:
    keys: list[str] = []
    for rank in range(2):
        for batch in images(root, mix=BOTH).eval_loaders(rank, 2)["val"].loader:
            assert "mix" not in batch
            keys += [key for key, weight in zip(batch["key"], batch["weight"], strict=True) if weight > 0]
    assert sorted(keys) == [f"{number:03d}" for number in range(60, 71)]


def test_classes_come_from_their_file_or_are_numbered(root: Path, tmp_path: Path) -> None:
    assert images(root).classes == CLASSES
    bare = write(tmp_path / "train", [sample(0)], classes=None)
    assert images(tmp_path, num_classes=3, eval=[]).classes == ["0", "1", "2"]
    with pytest.raises(DataError, match="names of the classes cannot be read") as refused:
        images(tmp_path, eval=[]).classes  # noqa: B018
    assert "data.num_classes" in str(refused.value.mend)
    assert str(bare) in str(refused.value.where)
    with pytest.raises(ConfigError, match="num_classes is 4, and .* names 5 classes"):
        images(root, num_classes=4).prepare()


@pytest.mark.parametrize("label", [b"5", b"-1", b"1.5", b'"dog"', b"true", b"null"])
@pytest.mark.parametrize("number", [0, 1], ids=["cls", "json"])
def test_a_label_outside_the_classes_names_its_sample(tmp_path: Path, number: int, label: bytes) -> None:
    write(tmp_path / "train", [sample(number, label)])
    with pytest.raises(DataError, match="its label .* is none of the 5 classes") as refused:
        next(iter(images(tmp_path, eval=[], global_batch_size=1, lanes=1).train_loader(0, 1)))
    assert f"key {number:03d}" in str(refused.value.where)


def test_a_partner_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train", [sample(0), ("001", {"png": b"no picture", "cls": b"0"}), *map(sample, range(2, 16))])
    data = images(tmp_path, eval=[], mix=Mix(mixup=1.0), on_fault="skip")
    loader = data.train_loader(0, 1)
    for _ in range(8):
        list(loader)
    faults = loader.take_faults()
    mixed = [fault for fault in faults if "mixed with" in fault]
    assert mixed, faults
    assert all("key 001: not a usable image" in fault for fault in mixed)
    assert len(faults) > len(mixed), "the picture itself is named, too"


def test_an_evaluation_set_that_numbers_its_classes_otherwise_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train", [sample(0)])
    for classes, reason in (
        (["a", "b", "d", "e"], "class 2 is 'd', not 'c'"),
        (CLASSES[:4], "other classes than the training set: 4, not 5"),
    ):
        write(tmp_path / "val", [sample(0)], classes)
        with pytest.raises(DataError, match=reason):
            images(tmp_path).prepare()


def test_micro_batches_must_divide(root: Path) -> None:
    with pytest.raises(ConfigError, match="micro-batches of 3 do not divide"):
        images(root, micro_batch_size=3).train_loader(0, 2)
