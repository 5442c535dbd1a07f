from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass

import pytest

from mmtrain.config import allow_targets, instantiate
from mmtrain.errors import ConfigError, DataError

TOWER = {"_target_": "config_toys.Tower", "width": 3}


@pytest.fixture(autouse=True)
def toys(conf):
    return importlib.import_module("config_toys")


def test_nested_nodes_are_built_first_in_mappings_and_lists(toys):
    pair = instantiate({"_target_": "config_toys.Pair", "image": TOWER, "extra": [TOWER], "by_name": {"a": TOWER}})
    assert isinstance(pair.image, toys.Tower)
    assert isinstance(pair.extra[0], toys.Tower)
    assert type(pair.by_name) is dict
    assert pair.by_name["a"].width == 3


def test_provided_arguments_are_passed_as_they_are(toys):
    @dataclass
    class Model:
        width: int

    model = Model(3)
    built = instantiate({"_target_": "config_toys.Contrast"}, "objective", model=model, optim=[1], micro_batch_size=2)
    assert built.model is model


def test_a_provided_argument_cannot_be_set():
    with pytest.raises(ConfigError, match="width cannot be set"):
        instantiate(TOWER, "model", width=4)


def test_partial_gives_a_function_that_builds(toys):
    make = instantiate({**TOWER, "_partial_": True})
    assert isinstance(make, functools.partial)
    assert make(depth=9).depth == 9


def test_a_refusing_constructor_names_key_and_target():
    node = {"_target_": "config_toys.Pair", "image": {"_target_": "config_toys.Ema", "decay": 2}}
    with pytest.raises(ConfigError, match=r"config_toys\.Ema cannot be built: decay=2 is not") as caught:
        instantiate(node, "model")
    assert caught.value.where == "model.image"


def test_a_users_error_of_a_constructor_is_passed_on():
    with pytest.raises(DataError) as caught:
        instantiate({"_target_": "config_toys.Strict"}, "data")
    assert caught.value.where == "shard 3"


@pytest.mark.parametrize(
    "target", ["os.system", "builtins.eval", "config_toys.imported_system", "mmtrain.errors.difflib.ndiff"]
)
def test_a_target_outside_the_allowed_packages_is_never_built(target):
    with pytest.raises(ConfigError, match="is not allowed"):
        instantiate({"_target_": "config_toys.Pair", "image": {"_target_": target, "command": "true"}})


def test_a_module_outside_the_allowed_packages_is_not_even_imported(tmp_path, monkeypatch):
    (tmp_path / "config_toys_stranger.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="is not allowed"):
        instantiate({"_target_": "config_toys_stranger.X"})


@pytest.mark.parametrize("prefix", ["", ".", "os", "my pkg.", "a..b."])
def test_only_a_package_can_be_allowed(prefix):
    with pytest.raises(ConfigError):
        allow_targets(prefix)


def test_an_installed_package_allows_its_targets_by_an_entry_point(conf, tmp_path, monkeypatch):
    module = importlib.import_module("mmtrain.config.instantiate")
    monkeypatch.setattr(module, "_prefixes", {"mmtrain."})
    with pytest.raises(ConfigError, match="is not allowed"):
        instantiate(TOWER)
    info = tmp_path / "site/toys-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mmtrain.targets]\nconfig_toys = config_toys\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    module._installed_prefixes.cache_clear()
    try:
        assert instantiate(TOWER).width == 3
    finally:
        module._installed_prefixes.cache_clear()


def test_a_torch_optimizer_gets_the_very_parameters(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(importlib.import_module("mmtrain.config.instantiate"), "_prefixes", {"torch.optim."})
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = instantiate({"_target_": "torch.optim.AdamW", "lr": 1e-3, "betas": [0.9, 0.98]}, params=[weight])
    assert optimizer.param_groups[0]["params"][0] is weight
