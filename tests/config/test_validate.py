from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mmtrain.config import compose, validate
from mmtrain.errors import ConfigError


def test_a_right_configuration_passes(conf):
    for experiment in ("small", "one"):
        validate(conf.compose(f"experiment={experiment}"))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("modle=pair", ["modle: unknown key", "override modle=pair", "'model'"]),
        ("+modle=a", ["modle: unknown key", "override +modle=a", "'model'"]),
        ("a.b.c=1", ["a: unknown key", "override a.b.c=1"]),
        ("name.x=1", ["name: {'x': 1} (dict)", "override name.x=1"]),
        ("model.lrr=1", ["model.lrr: unknown key", "config_toys.Pair", "override model.lrr=1", "'lr'"]),
        (
            "++model.image.widht=1",
            ["model.image.widht: unknown key", "Tower", "override ++model.image.widht=1", "'width'"],
        ),
        ("model.precison=1", ["model.precison: unknown key", "did you mean 'trainer.precision'?"]),
        ("trainer.device=2", ["trainer.device: unknown key", "'devices'"]),
        ("trainer.precision=bf16", ["trainer.precision: 'bf16' (str)", "'bf16-mixed'"]),
        ("trainer.devices=two", ["trainer.devices: 'two'", "'auto'", "integer"]),
        ("trainer.devices=0", ["trainer.devices: 0", "greater than 0"]),
        ("trainer.threads=x", ["trainer.threads: 'x' (str): input should be a valid integer\n  where: override"]),
        ("trainer=3", ["trainer: 3 is no mapping"]),
        ("seed='1'", ["seed: '1' (str)", "write 1, without quotes"]),
        ("seed=true", ["seed: True (bool)"]),
        ("seed=null", ["seed: None"]),
        ("budget.epochs=1e3", ["budget.epochs: 1000.0 (float)", "write 1000"]),
        ("budget.epochs=-1", ["budget.epochs: -1", "greater than 0"]),
        ("budget.epochs=null", ["budget: none of epochs, samples, tokens is set"]),
        ("budget.samples=5", ["budget: more than one", "epochs (conf/experiment/small.yaml:7)", "samples (override"]),
        ("~budget.tokens", ["section budget needs 'tokens'"]),
        ("~seed", ["seed: missing"]),
        ("model.image.width='8'", ["model.image.width: '8' (str)", "integer"]),
        ("model.image.width=8.5", ["model.image.width: 8.5 (float)"]),
        ("model.image.name=resnet", ["model.image.name: 'resnet'", "'vit' or 'bert'"]),
        ("optim.betas=[0.9]", ["optim.betas: [0.9]"]),
        ("optim.betas=[0.9,x]", ["optim.betas: [0.9, 'x']", "item 1"]),
        ("optim.lr=fast", ["optim.lr: 'fast'", "number"]),
        ("~model.image.width", ["config_toys.Tower needs 'width'", "conf/model/pair.yaml:5", "set model.image.width"]),
        ("~model.image", ["config_toys.Pair needs 'image'", "conf/model/pair.yaml:2"]),
        ("model.image=8", ["model.image: 8 (int)", "Module"]),
        ("model.text=tower", ["model.text: 'tower'"]),
        ("model.text={width:3,_target_:config_toys.Optim,lr:1,betas:[1,2]}", ["width", "Optim", "gives Optim"]),
        ("model.image._target_=config_toys.Towr", ["config_toys has no 'Towr'", "'Tower'", "override model.image._t"]),
        ("model.image._target_=config_toyz.Tower", ["not allowed", "config_toys."]),
        ("model.image._target_=os.system", ["'os.system' is not allowed", "mmtrain."]),
        ("model.image._target_=config_toys.imported_system", ["not allowed: it is a name of"]),
        ("model.image._target_=mmtrain.errors.difflib.SequenceMatcher", ["not allowed: it is a name of difflib"]),
        ("model.image._target_=config_toys.NOT_CALLABLE", ["cannot be called"]),
        ("model.image._target_=mmtrain.nowhere.X", ["mmtrain has no 'nowhere'"]),
        ("model.image._target_=3", ["_target_ is 3"]),
        ("objective.model=3", ["objective.model: is set by the program"]),
        ("data.seed=3", ["data.seed: is set by the program"]),
        ("objective._target_=config_toys.Strategy", ["does not take micro_batch_size, model, optim"]),
        ("~optim._target_", ["optim: has no _target_"]),
        ("callback.ema.decai=1", ["callback.ema.decai: unknown key", "'decay'"]),
        ("callback.metrics=3", ["callback.metrics: 3 is no node"]),
        ("callback._target_=config_toys.Ema", ["callback: must be a mapping of names to nodes"]),
        (
            "model.by_name={a:{_target_:config_toys.Ema,decay:1}}",
            ["model.by_name.a._target_: gives Ema", "Tower is expected"],
        ),
        ("model.extra=[{_target_:config_toys.Tower,width:x}]", ["model.extra.0.width: 'x'"]),
        ("model.extra=[{_target_:config_toys.Optim,lr:1,betas:[1,1]}]", ["model.extra.0._target_: gives Optim"]),
        ("model.extra=[3]", ["model.extra: [3]"]),
        ("model.image._partial_=true", ["gives a _partial_", "Module is expected"]),
        ("model.image._partial_=1", ["_partial_: 1 is neither"]),
        ("model.image._args_=[1]", ["model.image._args_: unknown key"]),
        ("logger.file.options={_traget_:config_toys.Ema}", ["logger.file.options._traget_", "'_target_'"]),
    ],
)
def test_a_mistake_is_named_with_its_place_and_mend(conf, override, expected):
    message = conf.refusal("experiment=small", override)
    for part in expected:
        assert part in message, message


@pytest.mark.parametrize(
    "override",
    [
        "model.lr=1",
        "model.odd=anything",
        "model.text=null",
        "model.text._target_=config_toys.DeepTower",
        "model.text._target_=config_toys.make_tower",
        "model.make={_target_:config_toys.Tower,_partial_:true}",
        "model.extra=[{_target_:config_toys.Tower,width:1}]",
        "model.by_name={a:{_target_:config_toys.DeepTower,width:1}}",
        "+data.size=[4,4]",
        "logger.file.anything=1",
        "callback.ema=null",
        "trainer.devices=auto",
        "trainer.gradient_clip_norm=null",
        "trainer.gradient_clip_norm=1",
        "optim.lr=1e-4",
    ],
)
def test_what_a_signature_takes_passes(conf, override):
    validate(conf.compose("experiment=small", override))


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        (
            "experiment/bad",
            "# @package _global_\nname: a\nbudget: {epochs: 1}\nmodle:\n  lr: 1\n",
            ["bad.yaml:4", "'model'"],
        ),
        (
            "experiment/bad",
            "# @package _global_\nname: a\nbudget: {epochs: 1}\nmodel.lr: 1\n",
            ["bad.yaml:4", "model: {lr:"],
        ),
        ("experiment/bad", "# comment first\n# @package _global_\nseed: 1\n", ["bad.yaml", "'# @package _global_'"]),
        ("model/pair", "_target_: config_toys.Tower\nwidth: 1\n\ndeph: 3\n", ["conf/model/pair.yaml:4", "'depth'"]),
        (
            "model/pair",
            "_traget_: config_toys.Tower\nwidth: 1\n",
            ["model: has no _target_", "write _target_ for _traget_"],
        ),
        ("model/pair", "width: {}\n", ["model: has no _target_"]),
    ],
)
def test_a_mistake_in_any_file_is_named_with_its_line(conf, file, text, expected):
    conf.write(file, text)
    overrides = ["experiment=bad"] if file == "experiment/bad" else ["name=a", "budget.epochs=1"]
    if "comment first" in text:
        overrides += ["name=a", "budget.epochs=1"]
    message = conf.refusal(*overrides)
    for part in expected:
        assert part in message, message


def test_an_experiment_for_another_model_is_refused_at_its_line(conf):
    message = conf.refusal("experiment=small", "model=single")
    assert "model.image: unknown key" in message
    assert "conf/experiment/small.yaml:9" in message


def test_null_is_never_offered_for_a_string(conf):
    assert "mend" not in conf.refusal("experiment=small", "trainer.threads=x")


def test_all_mistakes_are_told_at_once(conf):
    message = conf.refusal("experiment=small", "model.lrr=1", "seed=x", "optim.bets=1", "+foo=2")
    assert message.startswith("4 mistakes")
    for part in ("model.lrr", "seed: 'x'", "optim.bets", "foo: unknown", "override +foo=2"):
        assert part in message


def test_a_module_that_breaks_on_import_is_told_with_its_reason(conf, tmp_path, monkeypatch):
    (tmp_path / "config_toys_broken").mkdir()
    (tmp_path / "config_toys_broken/__init__.py").write_text("import a_package_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys.modules["mmtrain.config.instantiate"], "_prefixes", {"config_toys.", "config_toys_broken."})
    message = conf.refusal("experiment=small", "strategy._target_=config_toys_broken.X")
    assert "a_package_that_is_missing" in message


def test_only_what_the_targets_need_is_imported(conf):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from pathlib import Path; from mmtrain.config import allow_targets, compose, validate;"
        "allow_targets('config_toys.'); validate(compose(['experiment=small'], config_dir=Path('conf')));"
        "assert not {'torch', 'lightning'} & set(sys.modules)"
    )
    root = Path(sys.modules["mmtrain"].__file__).parent.parent
    tests = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", code, tests], check=True, env={"PYTHONPATH": str(root)})


def test_an_experiment_without_the_users_data_names_what_to_set():
    with pytest.raises(ConfigError, match=r"missing: data\.train"):
        compose(["experiment=clip_base"])
