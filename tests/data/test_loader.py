from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_data_set

import mmtrain
from mmtrain.data import EvalLoader, Loader, Manifest, Plan, RawSample, SampleSeed, ShardReader, Stream, TrainTransform
from mmtrain.data.image import decode
from mmtrain.data.index import write_index
from mmtrain.data.manifest import build_manifest
from mmtrain.errors import DataError, RunError

BATCH = 12  # 71 samples: five full batches and one of 11
STEPS = 6
HERE = Path(__file__).parent
TRANSFORM = TrainTransform(16, scale=(0.3, 1.0), flip=0.5, rotation=15, hue=0.1, erasing=0.3)


def encode(raw: RawSample, seed: SampleSeed) -> Mapping[str, Any]:
    image = TRANSFORM(decode(raw["jpg"]), seed.generator(Stream.IMAGE))
    return {"image": image, "label": json.loads(raw["json"])["label"], "key": raw["__key__"]}


def plan(manifest: Manifest, rank: int = 0, world_size: int = 1, **options: Any) -> Plan:
    settings = {"seed": 11, "lanes": 4, "window": 16, **options}
    return Plan(manifest.sizes, global_batch_size=BATCH, rank=rank, world_size=world_size, **settings)


def loader(manifest: Manifest, rank: int = 0, world_size: int = 1, num_workers: int = 0, **options: Any) -> Loader:
    return Loader(ShardReader(manifest), encode, plan(manifest, rank, world_size, **options), num_workers=num_workers)


def python(*arguments: object) -> str:
    """Runs Python on this file's folder and this checkout; returns what it printed."""
    search = os.pathsep.join([str(HERE), str(Path(mmtrain.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": search}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def take(source: Loader, count: int) -> list[dict[str, Any]]:
    batches: list[dict[str, Any]] = []
    while len(batches) < count:
        for batch in source:
            batches.append(batch)
            if len(batches) == count:
                break
    return batches


def run(
    manifest: Manifest, world_size: int, num_workers: int, count: int, state: dict[str, Any] | None = None
) -> tuple[list[list[dict[str, Any]]], dict[str, Any]]:
    """The next ``count`` steps of every rank, and the state after them."""
    ranks, states = [], []
    for rank in range(world_size):
        one = loader(manifest, rank, world_size, num_workers)
        if state is not None:
            one.load_state_dict(state)
        ranks.append(take(one, count))
        states.append(one.state_dict())
        one.close()
    assert all(other == states[0] for other in states)
    return ranks, states[0]


def global_batches(ranks: list[list[dict[str, Any]]]) -> list[str]:
    """Hashes of the global batches, put together in the order of ranks."""
    merged = []
    for shares in zip(*ranks, strict=True):
        image = torch.cat([share["image"] for share in shares]).numpy().tobytes()
        rest = [torch.cat([share[name] for share in shares]).tolist() for name in ("label", "weight")]
        keys = [key for share in shares for key in share["key"]]
        merged.append(hashlib.sha256(image + json.dumps([rest, keys]).encode()).hexdigest())
    return merged


@pytest.fixture(scope="module")
def reference(data_set: Manifest) -> list[str]:
    """Two epochs and a bit, by one process without workers."""
    return global_batches(run(data_set, 1, 0, 2 * STEPS + 2)[0])


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_order_and_pixels_are_the_same_for_any_ranks_and_workers(
    data_set: Manifest, reference: list[str], world_size: int, num_workers: int
) -> None:
    ranks, _ = run(data_set, world_size, num_workers, STEPS + 2)
    assert global_batches(ranks) == reference[: STEPS + 2]


def test_a_run_resumed_on_other_ranks_and_workers_sees_the_same_samples(
    data_set: Manifest, reference: list[str]
) -> None:
    seen: list[str] = []
    state = None
    for world_size, num_workers, count in ((2, 1, 4), (1, 0, 4), (4, 2, 4), (1, 3, 2)):
        ranks, state = run(data_set, world_size, num_workers, count, state)
        seen += global_batches(ranks)
    assert seen == reference
    assert state is not None
    assert (state["epoch"], state["samples"]) == (2, 2 * BATCH)


def test_an_epoch_holds_every_sample_once_and_epochs_differ(data_set: Manifest) -> None:
    source = loader(data_set)
    epochs = []
    for _ in range(2):
        batches = list(source)
        assert len(batches) == len(source) == STEPS
        real = [key for batch in batches for key, weight in zip(batch["key"], batch["weight"], strict=True) if weight]
        assert sorted(real) == [f"{number:05d}" for number in range(71)]
        epochs.append(real)
    assert epochs[0] != epochs[1]


def test_batches_hold_tensors_of_the_agreed_types(data_set: Manifest) -> None:
    batch = next(iter(loader(data_set, world_size=2)))
    assert (batch["image"].shape, batch["image"].dtype) == ((6, 3, 16, 16), torch.uint8)
    assert (batch["label"].shape, batch["label"].dtype) == ((6,), torch.int64)
    assert (batch["weight"].shape, batch["weight"].dtype) == ((6,), torch.float32)
    assert isinstance(batch["key"], list)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_state_counts_batches_handed_out_not_prepared(data_set: Manifest, num_workers: int) -> None:
    source = loader(data_set, num_workers=num_workers)
    assert (source.state_dict()["epoch"], source.state_dict()["samples"]) == (0, 0)
    for step, _ in enumerate(source, 1):
        state = source.state_dict()
        expected = (0, step * BATCH) if step < STEPS else (1, 0)
        assert (state["epoch"], state["samples"]) == expected
    iter(source)  # opening an iterator hands nothing out
    assert (source.state_dict()["epoch"], source.state_dict()["samples"]) == (1, 0)


def test_an_epoch_that_was_broken_off_goes_on_where_it_stopped(data_set: Manifest, reference: list[str]) -> None:
    source = loader(data_set, num_workers=1)
    seen = [batch for count in (1, 3, STEPS - 4, 1) for batch in take(source, count)]
    assert global_batches([seen]) == reference[: STEPS + 1]


def test_a_loaded_state_replaces_what_workers_had_prepared(data_set: Manifest, reference: list[str]) -> None:
    source = loader(data_set, num_workers=2)
    take(source, 2)
    state = source.state_dict()
    take(source, 5)
    source.load_state_dict(state)
    assert global_batches([take(source, 3)]) == reference[2:5]
    assert len(source) == STEPS


def test_workers_start_once_for_all_epochs(data_set: Manifest) -> None:
    def pid(raw: RawSample, seed: SampleSeed) -> Mapping[str, Any]:
        return {"pid": os.getpid()}

    source = Loader(ShardReader(data_set), pid, plan(data_set), num_workers=2)
    pids = {int(value) for _ in range(3) for batch in source for value in batch["pid"]}
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_what_changed_since_a_checkpoint_is_named(data_set: Manifest, tmp_path: Path) -> None:
    state = loader(data_set).state_dict()
    with pytest.raises(RunError, match="seed was 11 and is 12; lanes was 4 and is 2"):
        loader(data_set, seed=12, lanes=2).load_state_dict(state)
    with pytest.raises(RunError, match="window was 16 and is 32"):
        loader(data_set, window=32).load_state_dict(state)
    with pytest.raises(RunError, match=f"fingerprint was {data_set.fingerprint} and is"):
        loader(write_data_set(tmp_path, (23, 31, 18))).load_state_dict(state)


def test_a_position_inside_a_batch_names_the_nearest_valid_batch(data_set: Manifest) -> None:
    state = {**loader(data_set).state_dict(), "samples": 20}
    with pytest.raises(RunError, match="20 samples") as caught:
        loader(data_set).load_state_dict(state)
    assert caught.value.mend == "set data.global_batch_size=10"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_sample_is_named_and_may_be_tried_again(tmp_path: Path, num_workers: int) -> None:
    manifest = write_data_set(tmp_path)
    shard = manifest.shard_path(0)
    whole = shard.read_bytes()
    picture_start = whole.index(b"\xff\xd8\xff")
    shard.write_bytes(whole[: picture_start + 2] + bytes(100) + whole[picture_start + 102 :])
    write_index(shard)  # so that the bytes are as the index says, and the picture cannot be decoded
    manifest = build_manifest(sorted(tmp_path.glob("*.tar")), manifest.path)
    source = loader(manifest, num_workers=num_workers)
    with pytest.raises(DataError, match="a sample cannot be used") as caught:
        for _ in source:
            pass
    assert caught.value.where == f"{shard}, key 00000"
    before = source.state_dict()
    with pytest.raises(DataError, match="a sample cannot be used"):
        next(iter(source))
    assert source.state_dict() == before


def test_the_programs_own_random_numbers_are_left_alone(data_set: Manifest) -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    expected = (torch.rand(3).tolist(), np.random.rand())
    torch.manual_seed(0)
    np.random.seed(0)
    take(loader(data_set, num_workers=1), 2)
    take(loader(data_set), 2)
    assert (torch.rand(3).tolist(), np.random.rand()) == expected


def test_every_evaluation_pass_starts_at_the_first_sample(data_set: Manifest) -> None:
    for rank in range(2):
        source = EvalLoader(
            ShardReader(data_set), encode, plan(data_set, rank, 2, lanes=1, shuffle=False), num_workers=rank
        )
        next(iter(source))
        for _ in range(2):
            batches = list(source)
            assert len(batches) == len(source) == STEPS
            keys = [key for batch in batches for key in batch["key"]]
            assert keys[:6] == [f"{number:05d}" for number in range(6 * rank, 6 * rank + 6)]


def test_workers_outlive_the_signals_of_a_scheduler(data_set: Manifest, reference: list[str]) -> None:
    source = loader(data_set, num_workers=2)
    first = take(source, 2)  # one of each worker: both have started
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert len(children) >= 2
    for child in children:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            os.kill(int(child), number)
    assert global_batches([first + take(source, STEPS)]) == reference[: STEPS + 2]


def test_a_program_ends_with_workers_at_work(data_set: Manifest) -> None:
    program = f"""
        from pathlib import Path
        from test_loader import loader, take
        from mmtrain.data import load_manifest
        source = loader(load_manifest(Path({str(data_set.path)!r})), num_workers=2)
        iterator = iter(source)
        next(iterator)
        print("done")
    """
    assert python("-c", textwrap.dedent(program)) == "done\n"  # within its time-out: such workers ignore SIGTERM


# ------------------------------------------------------------------------------------------------ in a real Trainer


SAVE_POINTS = ("b1", "b4", f"b{STEPS - 1}", f"b{STEPS}", f"e{STEPS}", f"b{STEPS + 1}", f"b{STEPS + 4}")
SAVE_POINTS += (f"b{2 * STEPS}", f"e{2 * STEPS}")


def draw(raw: RawSample, seed: SampleSeed) -> Mapping[str, Any]:
    return {"key": raw["__key__"], "draw": float(seed.generator(Stream.IMAGE).random())}


def fit(manifest: Manifest, num_workers: int, folder: Path, resume: str | None = None) -> tuple[list[Any], int]:
    """Trains three epochs; saves at b<step> (in a step's end) and e<step> (in an epoch's end)."""
    import lightning as L

    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)

    class Data(L.LightningDataModule):
        def __init__(self) -> None:
            super().__init__()
            self.source = Loader(ShardReader(manifest), draw, plan(manifest), num_workers=num_workers)

        def train_dataloader(self) -> Any:
            return self.source

        def state_dict(self) -> dict[str, Any]:
            return self.source.state_dict()

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.source.load_state_dict(state)

    class Model(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
            self.seen: list[Any] = []

        def training_step(self, batch: Any, index: int) -> Any:
            self.seen.append((self.trainer.current_epoch, index, batch["key"], batch["draw"].tolist()))
            return self.layer(batch["draw"].float()[:, None]).mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 1e-3)

    class Save(L.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if resume is None and f"b{trainer.global_step}" in SAVE_POINTS:
                trainer.save_checkpoint(folder / f"b{trainer.global_step}.ckpt")

        def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
            if resume is None and f"e{trainer.global_step}" in SAVE_POINTS:
                trainer.save_checkpoint(folder / f"e{trainer.global_step}.ckpt")

    model = Model()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[Save()],
    )
    path = None if resume is None else folder / f"{resume}.ckpt"
    trainer.fit(model, datamodule=Data(), ckpt_path=path)
    return model.seen, trainer.global_step


@pytest.mark.filterwarnings("ignore")
def test_lightning_resumes_exactly_from_every_save_point(data_set: Manifest, tmp_path: Path) -> None:
    expected, last = fit(data_set, 0, tmp_path)
    assert last == len(expected) == 3 * STEPS
    assert len({tuple(keys) for _, _, keys, _ in expected}) == 3 * STEPS
    for number, point in enumerate(SAVE_POINTS):
        seen, steps = fit(data_set, number % 3, tmp_path, point)
        assert steps == 3 * STEPS, point
        assert seen == expected[int(point[1:]) :], point


# ---------------------------------------------------------------------------------------------------- in real ranks


RANK_PROGRAM = """
    import json, sys
    from pathlib import Path
    import torch.distributed as dist
    from test_loader import loader
    from mmtrain.data import load_manifest
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    source = loader(load_manifest(Path(sys.argv[1])), rank, world_size, num_workers=int(sys.argv[2]))
    position, stop, out = Path(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5])
    if position.exists():
        source.load_state_dict(json.loads(position.read_text()))
    seen, epochs = [], 0
    while epochs < 2 and len(seen) < stop:
        for batch in source:
            weight = batch["weight"].sum()
            dist.all_reduce(weight)  # hangs where ranks take different numbers of steps
            parts = [None] * world_size
            dist.all_gather_object(parts, (batch["key"], int(batch["image"].long().sum())))
            seen.append([sum((keys for keys, _ in parts), []), sum(pixels for _, pixels in parts), int(weight)])
            if len(seen) == stop:
                break
        epochs += 1
    states = [None] * world_size
    dist.all_gather_object(states, source.state_dict())
    assert all(state == states[0] for state in states)
    dist.barrier()
    if rank == 0:
        position.write_text(json.dumps(states[0]))
        out.write_text(json.dumps(seen))
    dist.barrier()
"""


@pytest.mark.slow
def test_real_ranks_resume_on_another_number_of_ranks(data_set: Manifest, tmp_path: Path) -> None:
    program = tmp_path / "ranks.py"
    program.write_text(textwrap.dedent(RANK_PROGRAM))

    def launch(ranks: int, workers: int, stop: int, name: str) -> list[Any]:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        out = tmp_path / f"{name}.json"
        python(*launcher, program, data_set.path, workers, tmp_path / "position", stop, out)
        seen: list[Any] = json.loads(out.read_text())
        return seen

    expected = [
        [batch["key"], int(batch["image"].long().sum()), int(batch["weight"].sum())]
        for batch in take(loader(data_set), 3 * STEPS)
    ]
    first = launch(2, 1, 4, "first")
    second = launch(3, 2, 100, "second")  # to the end of its second epoch
    assert first + second == expected[: 2 * STEPS]
    assert sum(weight for *_, weight in first + second) == 2 * 71
