"""Where things stand: floors of imports, configs beside the packages they configure, experiments that build."""

from __future__ import annotations

import ast
import functools
import graphlib
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import mmtrain
from mmtrain.config import Root, compose, typed, validate
from mmtrain.config.directory import config_dir
from mmtrain.config.instantiate import resolve_target
from mmtrain.config.schema import PROVIDED
from mmtrain.errors import ConfigError
from mmtrain.run.build import Plan, build_data, build_loggers, build_objective, build_trainer

PACKAGE = Path(mmtrain.__file__).parent
CONF = config_dir()
FLOORS = (
    {"errors", "distributed", "sharded"},
    {"nn", "config", "data"},
    {"model", "optim"},
    {"objective"},
    {"callback", "logger", "strategy"},
    {"run"},
    {"command"},
    {"__main__"},
)
WITHOUT_LIGHTNING = ("errors", "distributed", "sharded", "nn", "config", "data", "optim", "model")
LIBRARIES = ("torch.optim.", "lightning.")
WITHOUT_PACKAGE = {"experiment", "debug", "hydra"}
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
DEBUGS = sorted(path.stem for path in (CONF / "debug").glob("*.yaml"))
MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(name: str) -> str:
    """The package of mmtrain that a module belongs to, or the module itself."""
    return name.partition(".")[2].partition(".")[0]


def floor_of(part: str) -> int:
    return next(level for level, parts in enumerate(FLOORS) if part in parts)


def module_name(path: Path) -> str:
    return ".".join(("mmtrain", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """All that a file imports, as far as its text tells whether a name is a module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            assert node.module is not None
            found |= {_member(node.module, alias.name) for alias in node.names}
    return frozenset(found)


def _member(module: str, name: str) -> str:
    folder = PACKAGE.parent.joinpath(*module.split("."))
    return f"{module}.{name}" if (folder / f"{name}.py").exists() or (folder / name).is_dir() else module


def targets(node: Any, key: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every ``_target_`` in a file, with the key of its node."""
    if isinstance(node, dict) and "_target_" in node:
        yield key, node["_target_"]
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, child in items:
        yield from targets(child, (*key, str(name)))


@functools.cache
def placeholders(experiment: str) -> list[str]:
    try:
        compose([f"experiment={experiment}"])
    except ConfigError as error:
        _, _, missing = error.message.partition("missing: ")
        return [f"{key}=placeholder" for key in missing.split(", ")]
    return []


def composed(experiment: str, *overrides: str) -> Root:
    """A validated experiment, with a placeholder for each value that only a user can give."""
    config = compose([f"experiment={experiment}", *placeholders(experiment), *overrides])
    validate(config)
    return typed(config.config)


def test_every_module_stands_on_a_floor() -> None:
    parts = {part_of(module_name(path)) for path in MODULES} - {""}
    assert parts == set().union(*FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_imports_only_its_own_package_and_lower_floors(path: Path) -> None:
    part = part_of(module_name(path))
    for name in imports(path):
        if name.split(".")[0] == "mmtrain" and part:
            other = part_of(name)
            assert other in (part, "") or floor_of(other) < floor_of(part), f"{module_name(path)} imports {name}"
        if name.split(".")[0] in ("lightning", "pytorch_lightning", "lightning_fabric"):
            assert part not in WITHOUT_LIGHTNING, f"{module_name(path)} imports {name}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    names = {module_name(path): path for path in MODULES}
    graph = {name: {other for other in imports(path) if other in names} - {name} for name, path in names.items()}
    tuple(graphlib.TopologicalSorter(graph).static_order())
    assert not imports(PACKAGE / "__init__.py"), "whoever imports any part of mmtrain imports this"


def test_only_commands_print() -> None:
    for path in MODULES:
        if part_of(module_name(path)) in ("command", "__main__"):
            continue
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        prints = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
        assert not prints, f"{path}: print in lines {prints}"


@pytest.mark.slow
def test_importing_says_nothing_and_the_lower_floors_load_no_lightning(tmp_path: Path) -> None:
    names = [name for name in map(module_name, MODULES) if name != "mmtrain.__main__"]
    low = [name for name in names if part_of(name) in ("", *WITHOUT_LIGHTNING)]
    script = (
        "import importlib, sys\n"
        f"for name in {low}: importlib.import_module(name)\n"
        "assert 'lightning' not in sys.modules and 'pytorch_lightning' not in sys.modules, 'Lightning was loaded'\n"
        f"for name in {names}: importlib.import_module(name)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_every_config_group_has_its_package() -> None:
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}
    assert groups - WITHOUT_PACKAGE == set(PROVIDED)
    assert all((PACKAGE / group / "__init__.py").exists() for group in PROVIDED)


@pytest.mark.parametrize("path", sorted(CONF.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_targets_stand_in_the_package_of_their_group_or_below(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    group = path.parent.name
    found = list(targets(content, () if group in WITHOUT_PACKAGE else (group,)))
    extends = "defaults" in content  # the one named there has the _target_
    assert found or extends or group in (*WITHOUT_PACKAGE, "logger"), "an option without a _target_ builds nothing"
    for (package, *inner), target in found:
        is_node_of_group = len(inner) == (1 if package in ("callback", "logger") else 0)
        allowed = {package} if is_node_of_group else {package}.union(*FLOORS[: floor_of(package)])
        assert target.startswith(LIBRARIES) or target.split(".")[:2] in [["mmtrain", part] for part in allowed], target
        resolve_target(target)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_composes_validates_and_builds(experiment: str, tmp_path: Path) -> None:
    config = composed(experiment, "trainer.accelerator=cpu")
    assert config.name == experiment
    build_data(config)
    loggers = build_loggers(config, {}, tmp_path, resume_step=0)
    with torch.device("meta"):
        objective = build_objective(config)
    parameters = list(objective.parameters())
    assert all(parameter.is_meta for parameter in parameters)
    optimizer = objective.optim.build(objective.model)  # type: ignore[operator, union-attr]
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(trained)
    build_trainer(config, Plan(1, total_steps=10, eval_every=5), tmp_path, loggers)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_states_its_published_source(experiment: str) -> None:
    lines = (CONF / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    head = "\n".join(line for line in lines[: lines.index("defaults:")] if line.startswith("#"))
    assert re.search(r"arXiv:\d{4}\.\d{5}|[A-Z]\w+ et al\.,? (19|20)\d\d|https?://\S+|\w+/\w+\.md", head), head


@pytest.mark.parametrize("debug", DEBUGS)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_debugging_composes_with_an_experiment_and_leaves_its_run_alone(experiment: str, debug: str) -> None:
    config, real = composed(experiment, f"debug={debug}"), composed(experiment)
    assert config.run.dir != real.run.dir
    assert experiment in config.run.dir, "two experiments are debugged in two directories"


@pytest.mark.slow
def test_the_wheel_brings_its_configs_and_its_command(tmp_path: Path) -> None:
    source, target = PACKAGE.parent, tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, source], check=True, timeout=300)
    (wheel,) = tmp_path.glob("mmtrain-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    assert {f"mmtrain/conf/{path.relative_to(CONF).as_posix()}" for path in CONF.rglob("*.yaml")} <= packed
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True, timeout=300)
    done = subprocess.run(
        [target / "bin" / "mmtrain", "show", "experiment=clip_emoji"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r'^name = "clip_emoji"  # site/mmtrain/conf/experiment/clip_emoji.yaml:\d+$', done.stdout, re.M)
