from __future__ import annotations

import math
import os
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from clip_case import END, fit, random_batch, recipe, small_objective
from gloo_ranks import RunRanks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmtrain import distributed
from mmtrain.data import Samples, SampleSource, build_manifest, load_manifest
from mmtrain.data.fetch.reader import ShardReader
from mmtrain.data.loader.loader import Loader
from mmtrain.data.plan.draw import SampleSeed
from mmtrain.data.plan.epoch import EpochPlan
from mmtrain.data.shards.index import RawSample
from mmtrain.data.shards.write import write_shards
from mmtrain.errors import ConfigError
from mmtrain.model.clip import TowerName
from mmtrain.nn.infonce import infonce_loss
from mmtrain.nn.siglip import siglip_loss
from mmtrain.objective.base import Batch
from mmtrain.objective.clip import ClipObjective, Loss
from mmtrain.optim.muon import Muon
from mmtrain.strategy.ddp import ddp

SAMPLES, BATCH = 20, 8  # the third step of an epoch has four samples, and four fillers
MICRO_BATCH = 2


def encode(raw: RawSample, seed: SampleSeed) -> dict[str, object]:
    image = np.frombuffer(raw["rgb"], np.uint8).reshape(3, 16, 16)
    text = np.frombuffer(raw["tokens"], np.uint8).astype(np.int64)
    return {"image": image, "text": text, "label": -1, "key": raw["__key__"]}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("shards"), np.random.default_rng(0)
    samples = []
    for number in range(SAMPLES):
        tokens = np.array([*rng.integers(1, END, 6), END, 0], np.uint8)
        image = rng.integers(0, 256, (3, 16, 16), np.uint8)
        samples.append((f"{number:03d}", {"rgb": image.tobytes(), "tokens": tokens.tobytes()}))
    path = folder / "manifest.json"
    build_manifest(write_shards(samples, folder, "pairs", 7), path)
    return path


def loader(shards: Path) -> Loader:
    manifest = load_manifest(shards)
    rank, world_size = distributed.rank(), distributed.world_size()
    plan = EpochPlan(manifest.sizes, global_batch_size=BATCH, rank=rank, world_size=world_size, lanes=2, window=8)
    return Loader(Samples([SampleSource(ShardReader(manifest), encode)], seed=plan.seed), plan)


class Step(nn.Module):
    """What a data-parallel wrapper calls."""

    def __init__(self, objective: ClipObjective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, batch: Batch) -> Tensor:
        return self.objective.training_step(batch, 0)["loss"]


class Seen(NamedTuple):
    keys: list[list[str]]
    losses: list[Tensor]
    gradients: list[dict[str, Tensor]]


def gradients_of_two_epochs(shards: Path, micro_batch_size: int | None, loss_name: Loss) -> tuple[object, ...]:
    objective = small_objective(micro_batch_size=micro_batch_size, loss=loss_name).double()
    step: nn.Module = Step(objective)
    if distributed.world_size() > 1:
        step = DistributedDataParallel(step)
    source, seen = loader(shards), Seen([], [], [])
    for batch in (batch for _ in range(2) for batch in source):
        objective.zero_grad()
        loss = step(batch)
        loss.backward()
        assert all(parameter.grad is not None for parameter in objective.parameters())
        seen.keys.append(batch["key"])
        seen.losses.append(loss.detach())
        seen.gradients.append({name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None})
    return tuple(seen)


@pytest.mark.parametrize(("world_size", "loss_name"), [(1, "infonce"), (2, "infonce"), (4, "infonce"), (2, "siglip")])
def test_ranks_times_micro_batches_are_one_big_batch(
    shards: Path, run_ranks: RunRanks, world_size: int, loss_name: Loss
) -> None:
    """Samples, losses and gradients in fp64, the temperature's too; ranks and chunks have fillers unequally."""
    whole = Seen(*gradients_of_two_epochs(shards, None, loss_name))  # type: ignore[arg-type]
    chunks = BATCH // world_size // MICRO_BATCH
    assert chunks == 4 // world_size
    if world_size == 1:
        ranks = [Seen(*gradients_of_two_epochs(shards, MICRO_BATCH, loss_name))]  # type: ignore[arg-type]
    else:
        ranks = [
            Seen(*result) for result in run_ranks(world_size, gradients_of_two_epochs, shards, MICRO_BATCH, loss_name)
        ]

    assert len(whole.keys) == 6
    assert [list(chain(*parts)) for parts in zip(*(rank.keys for rank in ranks), strict=True)] == whole.keys
    for number, expected in enumerate(whole.gradients):
        loss = torch.stack([rank.losses[number] for rank in ranks]).mean()
        torch.testing.assert_close(loss, whole.losses[number], atol=1e-10, rtol=1e-10)
        size = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
        for rank in ranks:
            for name, gradient in rank.gradients[number].items():
                assert (gradient - expected[name]).norm() < 1e-10 * size, (number, name)
            for name in {"model.logit_scale", "model.logit_bias"} & expected.keys():
                torch.testing.assert_close(rank.gradients[number][name], expected[name], atol=1e-10, rtol=1e-10)


def weights_after_an_epoch(shards: Path, folder: Path, micro_batch_size: int | None, muon: bool) -> dict[str, Tensor]:
    """Through the whole of Lightning: strategy, clipping, optimizer, schedule, bound of the temperature."""
    world_size, rank = distributed.world_size(), distributed.rank()
    optim = Muon(lr=1e-2, rest=recipe(1e-2)) if muon else recipe(1e-2)
    objective = small_objective(micro_batch_size=micro_batch_size, optim=optim)
    options = {"default_root_dir": folder, "gradient_clip_val": 1.0}
    if world_size > 1:  # as a launcher would say it
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0", "TORCHELASTIC_RUN_ID": "test"}
        options |= {"strategy": ddp(), "devices": world_size}
    fit(objective, loader(shards), **options)  # type: ignore[arg-type]
    return {name: parameter.detach() for name, parameter in objective.named_parameters()}


@pytest.mark.parametrize("muon", [False, True], ids=["adamw", "muon"])
def test_two_ranks_of_lightnings_ddp_train_the_same_weights(
    shards: Path, run_ranks: RunRanks, tmp_path: Path, muon: bool
) -> None:
    whole = weights_after_an_epoch(shards, tmp_path, None, muon)
    start = dict(small_objective().named_parameters())
    first, second = run_ranks(2, weights_after_an_epoch, shards, tmp_path, MICRO_BATCH, muon)
    for name, weight in whole.items():
        assert torch.equal(first[name], second[name]), name
        moved = (weight - start[name]).norm()
        assert moved > 0, name
        if "qkv.bias" not in name:  # a key's bias has no effect: its gradient is rounding, and AdamW makes it a step
            assert (first[name] - weight).norm() < 1e-3 * moved, name


@pytest.mark.parametrize("loss_name", ["infonce", "siglip"])
def test_chunks_with_dropout_have_the_gradient_of_what_they_computed(loss_name: Loss) -> None:
    """The second forward pass of a chunk, in its backward pass, must drop what the first one dropped."""
    batch = random_batch(8)

    def gradients(micro_batch_size: int) -> list[Tensor]:
        objective = small_objective(
            micro_batch_size=micro_batch_size, dropout=0.3, drop_path=0.3, patch_dropout=0.5, loss=loss_name
        ).train()
        model = objective.model
        torch.manual_seed(5)
        if micro_batch_size < 8:
            loss = objective.training_step(batch, 0)["loss"]
        else:  # the same chunks, kept in memory
            image = torch.cat([model.encode_image(part) for part in batch["image"].split(2)])
            text = torch.cat([model.encode_text(part) for part in batch["text"].split(2)])
            if model.logit_bias is None:
                loss = infonce_loss(image, text, model.scale(), batch["weight"])
            else:
                loss = siglip_loss(image, text, model.scale(), model.logit_bias, batch["weight"])
        return list(torch.autograd.grad(loss, list(objective.parameters())))

    first, again, kept = gradients(2), gradients(2), gradients(8)
    for x, y, z in zip(first, again, kept, strict=True):
        assert x.isfinite().all()
        assert torch.equal(x, y)
        torch.testing.assert_close(x, z, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_a_locked_tower_is_run_once_drops_nothing_and_keeps_nothing(
    tower: TowerName, micro_batch_size: int | None
) -> None:
    objective = small_objective(micro_batch_size=micro_batch_size, dropout=0.3, lock=[tower]).train()
    module, runs = objective.model.get_submodule(tower), []
    module.register_forward_hook(lambda *_: runs.append(torch.is_grad_enabled()))
    loss = objective.training_step(random_batch(8), 0)["loss"]
    loss.backward()
    assert runs == [False] * (8 // (micro_batch_size or 8))
    assert not any(part.training for part in module.modules())
    trained = {name for name, parameter in objective.model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in objective.model.named_parameters() if not name.startswith(f"{tower}.")}


def test_the_rest_learns_beside_a_locked_tower_as_beside_a_free_one() -> None:
    free, locked = small_objective(), small_objective(lock=["image"], micro_batch_size=4)
    for objective in (free, locked):
        objective.training_step(random_batch(8), 0)["loss"].backward()
    expected = dict(free.named_parameters())
    for name, parameter in locked.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-6, rtol=1e-5)


def test_a_locked_tower_stays_as_it_is_and_the_rest_learns() -> None:
    objective = small_objective(optim=recipe(5e-3), lock=["image"])
    start = {name: parameter.detach().clone() for name, parameter in objective.named_parameters()}
    losses = fit(objective, [random_batch(16)] * 30)
    assert losses[-1] < losses[0] - 1
    for name, parameter in objective.named_parameters():
        assert torch.equal(parameter, start[name]) == name.startswith("model.image."), name


@pytest.mark.parametrize(("loss_name", "bias"), [("siglip", None), ("infonce", -10.0)])
def test_a_loss_without_its_bias_or_a_bias_without_its_loss_is_refused(loss_name: Loss, bias: float | None) -> None:
    model = small_objective(loss="infonce" if bias is None else "siglip").model
    with pytest.raises(ConfigError, match=f"the loss is {loss_name}, and the model has (no|a) logit bias"):
        ClipObjective(model=model, optim=recipe(), loss=loss_name)


def test_sixty_steps_learn_sixteen_random_pairs() -> None:
    losses = fit(small_objective(optim=recipe(5e-3)), [random_batch(16)] * 60)
    assert losses[0] > math.log(16) - 0.7
    assert losses[-1] < 0.1


def test_siglip_learns_more_than_how_rare_right_pairs_are() -> None:
    losses = fit(small_objective(optim=recipe(5e-3), loss="siglip"), [random_batch(16)] * 120)
    same_for_all = math.log(16) + 15 * math.log(16 / 15)  # the best that one score for all pairs can do
    assert losses[0] > same_for_all
    assert losses[-1] < same_for_all - 0.5


def test_the_cost_is_that_of_the_texts_of_the_last_batch() -> None:
    objective, batch = small_objective(), random_batch(4)
    full = objective.flops_per_sample
    batch["text"][:2, 2:] = 0
    batch["text"][:2, 2] = END
    objective.training_step(batch, 0)
    assert objective.flops_per_sample == objective.model.flops_per_sample((3 + 7) / 2) < full


def test_the_temperature_stays_in_bounds() -> None:
    for value, bound in [(math.log(100), 100.0), (0.0, 1.0)]:
        objective = small_objective(optim=recipe(1.0))
        nn.init.constant_(objective.model.logit_scale, value)
        sign = 1.0 if bound == 100 else -1.0
        objective.model.logit_scale.register_hook(lambda gradient, s=sign: torch.full_like(gradient, -s))
        fit(objective, [random_batch(8)] * 2)
        assert objective.model.scale().item() == pytest.approx(bound)


@pytest.mark.parametrize("muon", [False, True], ids=["adamw", "muon"])
def test_mixed_precision_goes_with_clipped_gradients(muon: bool) -> None:
    objective = small_objective(optim=Muon(lr=1e-3, rest=recipe()) if muon else recipe())
    losses = fit(objective, [random_batch(8)] * 2, precision="bf16-mixed", gradient_clip_val=1.0)
    assert all(math.isfinite(loss) for loss in losses)


def test_a_warmup_longer_than_the_run_is_told() -> None:
    objective = small_objective()
    objective.optim.schedule.warmup_steps, objective.optim.schedule.warmup_fraction = 9, None
    with pytest.warns(UserWarning, match="the warmup of 9 steps is longer than the run of 2"):
        fit(objective, [random_batch(8)] * 2)


def test_the_learning_rate_follows_the_schedule() -> None:
    objective = small_objective()
    fit(objective, [random_batch(8)] * 6)
    schedule = recipe().schedule
    assert objective.lr_schedulers().get_last_lr()[0] == pytest.approx(2e-3 * schedule.factor(6, 6))  # type: ignore[union-attr]
