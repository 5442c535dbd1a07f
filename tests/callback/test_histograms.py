"""Histograms count every element once, whatever ranks hold it; test_alerts.py finds them in the file of a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import toy_run
from gloo_ranks import RunRanks
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from mmtrain import distributed
from mmtrain.callback.histogram import Histogram, histograms
from mmtrain.callback.histograms import Histograms
from mmtrain.config import compose, typed
from mmtrain.errors import ConfigError
from mmtrain.logger.tensorboard import TensorBoardLogger
from mmtrain.strategy.deepspeed import deepspeed

BINS = 7


def by_numpy(x: Tensor) -> Histogram:
    counts, edges = np.histogram(x.numpy(), BINS)
    return Histogram(counts.tolist(), edges.tolist())


def assert_equal(found: Histogram, expected: Histogram) -> None:
    assert found.counts == expected.counts
    np.testing.assert_allclose(found.edges, expected.edges, rtol=1e-5, atol=1e-6)


def test_a_histogram_is_numpys() -> None:
    x = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    assert_equal(histograms({"x": x}, BINS)["x"], by_numpy(x))
    assert_equal(histograms({"x": x.bfloat16()}, BINS)["x"], by_numpy(x.bfloat16().float()))


def test_what_is_not_finite_is_left_out() -> None:
    x = torch.tensor([math.nan, -math.inf, 1.0, 2.0, math.inf, 4.0])
    found = histograms({"some": x, "none": x[:2], "empty": x[:0]}, BINS)
    assert found.keys() == {"some"}
    assert_equal(found["some"], by_numpy(torch.tensor([1.0, 2.0, 4.0])))


@pytest.mark.parametrize("value", [0.0, 1e10])
def test_equal_elements_are_in_one_bin(value: float) -> None:
    found = histograms({"x": torch.full((5,), value)}, BINS)["x"]
    assert sorted(found.counts) == [0] * (BINS - 1) + [5]
    assert found.edges[0] < value < found.edges[-1]


def test_many_elements_are_counted_exactly() -> None:
    number = (1 << 24) + 3  # odd, and more than fp32 tells from its neighbours
    assert sum(histograms({"x": torch.zeros(1).expand(number)}, BINS)["x"].counts) == number


def sharded_gradients() -> tuple[dict[str, Histogram], dict[str, Tensor]]:
    """On four ranks, two copies of two uneven shards: histograms, and the whole tensors."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 1))
    whole = nn.Linear(2, 2)
    fully_shard(model, mesh=mesh)
    model(torch.randn(4, 5) * (1 + distributed.rank())).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    tensors = {**gradients, **dict(model.named_parameters(prefix="p")), "whole": whole.weight}
    complete = {
        name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()
        for name, tensor in tensors.items()
    }
    found = histograms(tensors, BINS)
    assert all(isinstance(gradient, DTensor) for gradient in gradients.values()) and len(gradients) == 4
    return {name: (each.counts, each.edges) for name, each in found.items()}, complete  # type: ignore[misc]


def test_of_sharded_tensors_every_element_is_counted_once(run_ranks: RunRanks) -> None:
    for found, complete in run_ranks(4, sharded_gradients):
        assert found.keys() == complete.keys() and len(found) == 9
        for name, (counts, edges) in found.items():
            assert_equal(Histogram(counts, edges), by_numpy(complete[name]))


def test_they_are_not_among_the_default_callbacks() -> None:
    assert "histograms" not in chosen() and chosen("callback=histograms").keys() == {*chosen(), "histograms"}


def chosen(*overrides: str) -> dict[str, Any]:
    return typed(compose(["experiment=clip_emoji", "callback=default", *overrides]).config).callback


def test_what_cannot_be_is_told_before_the_first_step(tmp_path: Path) -> None:
    for options in ({"every_n_steps": 0}, {"bins": 513}, {"bins": 0}):
        with pytest.raises(ConfigError, match="callback.histograms"):
            Histograms(**options)
    with pytest.raises(ConfigError, match="logger=wandb"):
        toy_run.train(tmp_path, max_steps=2, extra=[Histograms()])
    held = pl.Trainer(accelerator="cpu", devices=1, strategy=deepspeed(stage=1), logger=False)
    with pytest.raises(ConfigError, match="strategy=fsdp"):
        Histograms().setup(held, toy_run.ToyModule(), "fit")


def test_tensorboard_shows_them(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, {})
    logger.log_histogram("histogram/parameter/w", [1, 0, 3], [0.0, 1.0, 2.0, 3.0], step=5)
    logger.finalize("success")
    (event,) = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Histograms("histogram/parameter/w")
    found = event.histogram_value
    assert (event.step, found.num, found.min, found.max) == (5, 4, 0.0, 3.0)
    assert (list(found.bucket), list(found.bucket_limit)) == ([1, 0, 3], [1.0, 2.0, 3.0])
    assert (found.sum, found.sum_squares) == (8.0, 19.0)
