from __future__ import annotations

import itertools
import json
import multiprocessing
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pairs import SHARD_SIZES, sample, write_data_set, write_tar

from mmtrain.data import EvalTransform, Loader, ShardReader, TrainTransform, build_manifest, load_manifest
from mmtrain.data.decode.codec import decode
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
    ranks = [data.eval_loaders(rank, world_size)["pairs"].loader for rank in range(world_size)]
    assert len({len(loader) for loader in ranks}) == 1
    found = [
        (key, captions)
        for loader in ranks
        for batch in loader
        for key, captions, weight in zip(batch["key"], batch["captions"], batch["weight"], strict=True)
        if weight
    ]
    assert sorted(found) == [(f"{number:05d}", [f"picture {number}"]) for number in range(13)]  # captions as they are


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
        for made in (tmp_path / str(terminal)).glob("*.mmidx"):
            made.unlink()
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
    picture = ShardReader(load_manifest(root / "train" / "manifest.json")).read(0)["jpg"]
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


@pytest.mark.parametrize(
    ("members", "captions"),
    [
        ({"txt": b"a cat\n\n  a pet \n"}, ["a cat", "a pet"]),
        ({"json": b'{"captions": ["a cat", "a pet"]}'}, ["a cat", "a pet"]),
        ({"json": b'{"captions": ["a pet"]}', "txt": b"unused"}, ["a pet"]),
    ],
)
def test_an_image_may_have_several_captions(tmp_path: Path, members: dict[str, bytes], captions: list[str]) -> None:
    for folder in ("train", "pairs"):
        write_sample(tmp_path / folder, {"jpg": sample(0)["jpg"], **members})
    data = image_text(tmp_path, eval={"pairs": "retrieval"}, tail="carry", lanes=1)
    (batch,) = data.eval_loaders(0, 1)["pairs"].loader
    assert batch["captions"] == [captions]
    loader = data.train_loader(0, 1)
    drawn = {text(row) for batch in itertools.islice(loader, 4) for row in batch["text"]}
    assert drawn == set(captions), "training draws one of them for each epoch"


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"txt": b""}, "its caption is empty"),
        ({"txt": b" \n"}, "its caption is empty"),
        ({"json": b'{"captions": []}'}, "its caption is empty"),
        ({"json": b'{"captions": "a cat"}'}, "its captions are no list of texts: 'a cat'"),
        ({"json": b"[1]"}, "its member .json holds no object"),
        ({"txt": b"\xff"}, "codec can't decode"),
    ],
)
def test_a_sample_without_a_usable_caption_is_named(tmp_path: Path, members: dict[str, bytes], reason: str) -> None:
    shard = write_sample(tmp_path / "train", {"jpg": sample(0)["jpg"], **members})
    with pytest.raises(DataError, match=reason) as caught:
        next(iter(image_text(tmp_path).train_loader(0, 1)))
    assert caught.value.where == f"{shard}, key a"


def test_a_zero_shot_set_needs_no_captions(tmp_path: Path) -> None:
    write_sample(tmp_path / "seen", {"jpg": sample(0)["jpg"], "json": b'{"label": 1}'})
    (tmp_path / "seen" / "classes.json").write_text('{"classes": ["zero", "one"]}')
    eval_set = image_text(tmp_path, eval={"seen": "zeroshot"}).eval_loaders(0, 1)["seen"]
    (batch,) = eval_set.loader
    assert (batch["captions"], batch["label"].tolist()) == ([["one"]], [1])
    assert [text(row) for row in eval_set.tokenize(["a cat", "b"])] == ["a cat", "b"]


def write_sample(folder: Path, members: dict[str, bytes]) -> Path:
    """A set of one sample, ``a``; its shard."""
    folder.mkdir()
    shard = write_tar(folder / "0.tar", [(f"a.{extension}", data) for extension, data in members.items()])
    build_manifest([shard], folder / "manifest.json")
    return shard


def test_what_workers_get_can_be_pickled(root: Path) -> None:
    """So that it also works where processes start by spawn or forkserver."""
    loader = image_text(root).train_loader(0, 1)
    copy = Loader(*pickle.loads(pickle.dumps((loader.maker, loader.plan))))
    assert torch.equal(next(iter(copy))["image"], next(iter(loader))["image"])


def test_shards_are_counted_not_read_to_plan(root: Path) -> None:
    assert image_text(root).steps_per_epoch() == -(-sum(SHARD_SIZES) // 16)
    assert image_text(root, tail="drop").steps_per_epoch() == sum(SHARD_SIZES) // 16


@pytest.mark.parametrize("label", [-1, 3])
def test_a_zero_shot_set_takes_no_label_just_outside_its_classes(tmp_path: Path, label: int) -> None:
    folder = tmp_path / "seen"
    write_data_set(folder, (1,))
    picture = ShardReader(load_manifest(folder / "manifest.json")).read(0)["jpg"]
    members = [("a.jpg", picture), ("a.txt", b"x"), ("a.json", json.dumps({"label": label}).encode())]
    (folder / "manifest.json").unlink()
    build_manifest([write_tar(folder / "0.tar", members)], folder / "manifest.json")
    (folder / "classes.json").write_text('{"classes": ["zero", "one", "two"]}')
    loader = image_text(tmp_path, eval={"seen": "zeroshot"}).eval_loaders(0, 1)["seen"].loader
    with pytest.raises(DataError, match=f"its label {label} is none of the 3"):
        list(loader)


def test_evaluation_keeps_the_order_of_its_set_and_the_captions(root: Path) -> None:
    batches = list(image_text(root, global_batch_size=64).eval_loaders(0, 1)["seen"].loader)
    assert [len(batch["key"]) for batch in batches] == [13]  # no larger than the set
    assert batches[0]["key"] == [f"{number:05d}" for number in range(13)]
    labels = [number % 5 for number in range(13)]
    assert batches[0]["captions"] == [[CLASSES["classes"][label]] for label in labels]
    ranks = [image_text(root, global_batch_size=64).eval_loaders(rank, 2)["seen"].loader for rank in range(2)]
    assert [[len(batch["key"]) for batch in loader] for loader in ranks] == [[7], [7]]


def test_evaluation_may_be_switched_off(root: Path) -> None:
    assert image_text(root, eval={}).eval_loaders(0, 1) == {}
    assert set(image_text(root).eval_loaders(0, 1)) == {"seen", "pairs"}


def test_the_settings_of_the_order_reach_the_plan(root: Path) -> None:
    data = image_text(root, seed=5, lanes=2, window=33, shuffle="slide")
    state = data.train_loader(0, 1).state_dict()
    settings = {"seed": 5, "lanes": 2, "window": 33, "shuffle": "slide", "fingerprint": data.fingerprints["train"]}
    assert {name: state[name] for name in settings} == settings


def test_workers_of_training_are_processes_of_their_own(root: Path) -> None:
    before = set(multiprocessing.active_children())
    loader = image_text(root, num_workers=2).train_loader(0, 1)
    next(iter(loader))
    assert len(set(multiprocessing.active_children()) - before) == 2
    loader.close()


@pytest.mark.parametrize("size", [0, -1])
def test_a_micro_batch_needs_a_sample(root: Path, size: int) -> None:
    with pytest.raises(ConfigError, match=f"micro-batches of {size}"):
        image_text(root, micro_batch_size=size).train_loader(0, 1)


def test_prompts_hold_every_class_in_every_template(root: Path) -> None:
    prompts = image_text(root, templates=["{}", "a {}"]).eval_loaders(0, 1)["seen"].prompts()
    assert prompts.shape == (13, 2, 24)
    assert [text(row) for row in prompts[12]] == ["class 12", "a class 12"]


# --------------------------------------------------------------------------------------------- what it is trained on


def keys_of(data: ImageText, steps: int) -> list[str]:
    loader = data.train_loader(0, 1)
    batches = itertools.chain.from_iterable(loader for _ in range(steps))  # a pass over the loader is an epoch
    return [key for batch in itertools.islice(batches, steps) for key in batch["key"]]


def test_several_data_sets_are_mixed_by_weight_and_go_on_without_an_edge(tmp_path: Path) -> None:
    for name, size in (("small", 20), ("large", 60)):
        write_data_set(tmp_path / name, (size,))
        (tmp_path / name / "pairs-000000.tar").rename(tmp_path / name / f"{name}.tar")
        build_manifest([tmp_path / name / f"{name}.tar"], tmp_path / name / "manifest.json")
    sets = {"small": str(tmp_path / "small"), "large": str(tmp_path / "large")}
    data = image_text(tmp_path, source=None, train=sets, weights={"small": 1, "large": 3}, tail="carry", lanes=1)
    assert set(data.fingerprints) == {"train/small", "train/large", "tokenizer"}
    assert data.steps_per_epoch() == 80 // 16
    loader = data.train_loader(0, 1)
    drawn = np.concatenate([loader.plan.share(0, step).source for step in range(64)])  # one block of 1024 rows
    assert np.bincount(drawn).tolist() == [256, 768]
    batches = [batch for _ in range(3) for batch in loader]
    assert all(batch["weight"].min() == 1 for batch in batches)
    resumed = data.train_loader(0, 1)
    state = {**loader.state_dict(), "samples": 7 * 16}
    resumed.load_state_dict(state)
    assert next(iter(resumed))["key"] == batches[7]["key"]


def test_carry_takes_a_short_batch_into_the_next_epoch(root: Path) -> None:
    data = image_text(root, tail="carry", lanes=1)
    keys = keys_of(data, 10)
    total = sum(SHARD_SIZES)
    assert len(set(keys[:total])) == total
    assert len(keys) == 160 and sorted(keys[total : 2 * total]) == sorted(keys[:total])


def test_a_mixture_with_an_edge_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_data_set(tmp_path / name, (16,))
    sets = {name: str(tmp_path / name) for name in ("one", "two")}
    with pytest.raises(ConfigError, match="a mixture has no epoch whose end could pad a batch") as caught:
        image_text(tmp_path, source=None, train=sets).steps_per_epoch()
    assert caught.value.mend == "set data.tail=carry"


@pytest.mark.parametrize(
    ("weights", "reason", "mend"),
    [
        ({"one": 1, "twoo": 1}, "no data set is called 'twoo'", "did you mean 'two'?"),
        ({"one": 1}, "the data set 'two' has no weight", "give it one: data.weights.two=1.0"),
        ({"one": 1, "two": 0}, "weight", None),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, weights: dict[str, float], reason: str, mend: Any) -> None:
    for name in ("one", "two"):
        write_data_set(tmp_path / name, (16,))
    sets = {name: str(tmp_path / name) for name in ("one", "two")}
    with pytest.raises(ConfigError, match=reason) as caught:
        image_text(tmp_path, source=None, train=sets, weights=weights, tail="carry").steps_per_epoch()
    assert mend is None or caught.value.mend == mend


def test_only_what_passes_the_filters_is_trained_on(tmp_path: Path) -> None:
    manifest = write_data_set(tmp_path / "train")
    shards = sorted((tmp_path / "train").glob("*.tar"))
    build_manifest(shards, manifest.path, columns=("width", "height"))
    data = image_text(tmp_path, source=None, filters=["width >= 36", "height < 40"], tail="carry", lanes=1)
    plain = image_text(tmp_path, source=None, tail="carry", lanes=1)
    assert data.fingerprints["train"] != plain.fingerprints["train"]
    reader, sizes = ShardReader(manifest), {}
    for number in range(len(reader)):
        raw = reader.read(number)
        sizes[raw["__key__"]] = decode(raw["jpg"]).shape[:2]
    passing = {key for key, (height, width) in sizes.items() if width >= 36 and height < 40}
    assert 0 < len(passing) < len(sizes)
    assert set(keys_of(data, 10)) == passing


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_ranks_workers_and_micro_batches_change_neither_keys_nor_pixels(
    root: Path, world_size: int, num_workers: int, accumulation: int
) -> None:
    micro_batch_size = 16 // world_size // accumulation
    data = image_text(root, num_workers=num_workers, micro_batch_size=micro_batch_size)
    loaders = [data.train_loader(rank, world_size) for rank in range(world_size)]
    for whole, *shares in zip(image_text(root).train_loader(0, 1), *loaders, strict=True):
        assert [key for share in shares for key in share["key"]] == whole["key"]
        micro_batches = [part for share in shares for part in share["image"].split(micro_batch_size)]
        assert len(micro_batches) == world_size * accumulation
        assert torch.equal(torch.cat(micro_batches), whole["image"])
        assert torch.equal(torch.cat([share["text"] for share in shares]), whole["text"])
    for loader in loaders:
        loader.close()


@pytest.mark.parametrize(("workers", "num_workers"), [("thread", 2), ("process", 2)])
def test_slide_and_threads_change_order_and_speed_not_samples(root: Path, workers: Any, num_workers: int) -> None:
    options = {"shuffle": "slide", "lanes": 1, "window": 8}
    plain = [batch["image"] for batch in image_text(root, num_workers=0, **options).train_loader(0, 1)]
    loader = image_text(root, num_workers=num_workers, workers=workers, prefetch=1, **options).train_loader(0, 1)
    for image, batch in zip(plain, loader, strict=True):
        assert torch.equal(batch["image"], image)
    loader.close()
