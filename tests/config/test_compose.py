from __future__ import annotations

from pathlib import Path

import pytest
from hydra import version as hydra_version
from hydra.core.global_hydra import GlobalHydra

from mmtrain.config import compose, config_dir, validate
from mmtrain.errors import ConfigError


def test_experiment_picks_groups_and_values(conf):
    config = conf.compose("experiment=one").config
    assert config["model"] == {"_target_": "config_toys.Tower", "width": 64}
    assert config["run"]["dir"] == "runs/one"
    assert set(config) & {"hydra", "experiment", "debug", "defaults"} == set()


def test_choices_name_the_option_of_every_group(conf):
    choices = conf.compose("experiment=one", "optim=adamw").choices
    assert choices["model"] == "single"
    assert choices["experiment"] == "one"
    assert choices["debug"] is None
    assert not any(group.startswith("hydra") for group in choices)


def test_override_beats_experiment_beats_group(conf):
    assert conf.compose("experiment=small").config["model"]["image"]["width"] == 32
    assert conf.compose("experiment=small", "model.image.width=3").config["model"]["image"]["width"] == 3
    assert conf.compose("experiment=one", "model=pair").config["model"]["_target_"] == "config_toys.Pair"


def test_exponent_without_a_dot_is_a_float_in_files_and_overrides(conf):
    config = conf.compose("experiment=small", "optim.lr=3e-4").config
    assert config["model"]["lr"] == 1e-4
    assert config["optim"]["lr"] == 3e-4


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("seed=1", 1),
        ("++seed=2", 2),
        ("+seed=3", 3),
        ("seed='x y'", "x y"),
        ("seed=[1,2]", [1, 2]),
        ("seed=null", None),
    ],
)
def test_value_overrides_in_every_spelling(conf, override, value):
    assert conf.compose("experiment=small", override).config["seed"] == value


def test_interpolation_in_an_override(conf):
    assert conf.compose("experiment=small", "run.dir=out/${name}").config["run"]["dir"] == "out/small"


def test_mapping_override_is_merged(conf):
    config = conf.compose("experiment=small", "model.image={depth:5}").config
    assert config["model"]["image"] == {"_target_": "config_toys.Tower", "width": 32, "depth": 5}


def test_item_of_a_list_can_be_overridden(conf):
    composed = conf.compose("experiment=small", "optim.betas.1=0.95")
    assert composed.config["optim"]["betas"] == [0.9, 0.95]
    assert str(composed.source("optim.betas.1")) == "override optim.betas.1=0.95"


@pytest.mark.parametrize("override", ["~logger.file", "logger.file=null", "~logger", "logger=null"])
def test_loggers_can_be_switched_off(conf, override):
    logger = conf.compose("experiment=small", override).config["logger"]
    assert logger in ({}, {"file": None})
    validate(conf.compose("experiment=small", override))


@pytest.mark.parametrize("override", ["+experiment=small", "++experiment=small", "experiment=small"])
def test_a_group_of_the_defaults_list_is_picked_with_or_without_plus(conf, override):
    assert conf.compose(override).config["name"] == "small"


def test_a_group_can_be_emptied_by_null(conf):
    assert conf.compose("experiment=null", "debug=null", "name=a").choices["experiment"] is None


def test_experiment_can_build_on_another(conf):
    conf.write("experiment/smaller", "# @package _global_\ndefaults: [small]\nname: smaller\n")
    composed = conf.compose("experiment=smaller")
    assert composed.config["name"] == "smaller"
    assert composed.config["model"]["image"]["width"] == 32
    assert str(composed.source("model.image.width")) == "conf/experiment/small.yaml:10"


def test_two_experiments_can_be_stacked(conf):
    conf.write("experiment/wide", "# @package _global_\nmodel: {image: {width: 99}}\n")
    assert conf.compose("experiment=[small,wide]").config["model"]["image"]["width"] == 99


def test_a_users_directory_adds_experiments_and_options(conf, tmp_path):
    own = tmp_path / "own"
    (own / "experiment").mkdir(parents=True)
    (own / "model").mkdir()
    text = "# @package _global_\ndefaults:\n  - override /model: mine\nname: mine\n"
    (own / "experiment/mine.yaml").write_text(text)
    (own / "model/mine.yaml").write_text("_target_: config_toys.Tower\nwidth: 7\n")
    for composed in (
        conf.compose("experiment=mine", extra=(own,)),
        conf.compose("experiment=mine", f"hydra.searchpath=[file://{own}]"),
    ):
        assert composed.config["model"]["width"] == 7
        assert str(composed.source("model.width")) == "own/model/mine.yaml:2"
        assert composed.choices["model"] == "mine"


def test_a_users_file_that_would_be_hidden_is_refused(conf, tmp_path):
    (tmp_path / "own/model").mkdir(parents=True)
    (tmp_path / "own/model/pair.yaml").write_text("_target_: config_toys.Tower\nwidth: 7\n")
    with pytest.raises(ConfigError, match=r"model/pair\.yaml is also a file of mmtrain"):
        conf.compose("experiment=small", extra=(tmp_path / "own",))


def test_composing_leaves_no_global_state(conf):
    before = hydra_version.getbase()
    conf.compose("experiment=small")
    assert hydra_version.getbase() is before
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["experiment=smal"], ["experiment has no option 'smal'", "override experiment=smal", "'small'"]),
        (["experiment=small", "model=sinle"], ["model has no option 'sinle'", "override model=sinle", "'single'"]),
        (["experiment=small", "model=3"], ["model has no option '3'"]),
        (["experiment=small", "+model=sinle"], ["model has no option 'sinle'", "'single'"]),
        (["experiment=small", "seed=1,2"], ["several values", "python -m mmtrain sweep seed=1,2"]),
        (["experiment=small", "seed=range(3)"], ["several values", "sweep seed=range(3)"]),
        (["experiment=small", "model=pair,single"], ["several values", "sweep model=pair,single"]),
        (["experiment=small", "seed"], ["cannot be read as an override", "override seed"]),
        (["experiment=small", "seed=[1"], ["cannot be read as an override", "override seed=[1"]),
        (["=3"], ["without a key", "override =3"]),
        (["--verbose"], ["cannot be read as an override"]),
        (["experiment=small", "run.dir=${nam}"], ["run.dir", "'nam' not found", "override run.dir=${nam}", "'name'"]),
        (["experiment=small", "run.dir=${run.dir}"], ["run.dir: Recursive interpolation"]),
        (["experiment=small", "run.dir=${nope:1}"], ["nope", "override run.dir=${nope:1}"]),
        (["experiment=small", "~logger.fil"], ["logger.fil is not there", "'logger.file'"]),
        (["experiment=small", "~seed=4"], ["seed is 0, not 4"]),
        (["experiment=small", "hydra.run.dir=x"], ["no effect", "override hydra.run.dir=x"]),
        (["experiment=small", "hydra.searchpath=[file://gone]"], ["file://gone does not exist"]),
        (["experiment=small", "model@other=pair"], ["'model@other' is no group"]),
        (["experiment=small", "seed@other=pair"], ["'seed' is no group"]),
        (["experiment=small", "optim.betas.7=1"], ["override optim.betas.7=1"]),
        ([], ["mandatory value is missing: name", "conf/train.yaml:12", "name=..."]),
    ],
)
def test_a_wrong_override_is_named(conf, overrides, expected):
    message = conf.refusal(*overrides)
    for part in expected:
        assert part in message, message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\n  b: c\n", ["not valid YAML", "conf/experiment/bad.yaml:3"]),
        ("name: a\nname: b\n", ["duplicate key name", "conf/experiment/bad.yaml:3"]),
        ("name: 'a\n", ["not valid YAML", "conf/experiment/bad.yaml"]),
        ("defaults:\n  - override /model: sinle\n", ["model has no option 'sinle'", "bad.yaml:3", "'single'"]),
        ("defaults:\n  - override /modle: pair\n", ["'modle'", "bad.yaml:3", "'model'"]),
        ("defaults:\n  - smal\n", ["experiment has no option 'smal'", "bad.yaml:3", "'small'"]),
        ("defaults: pair\n", ["defaults"]),
        ("defaults:\n  - {a: b, c: d}\n", ["conf/experiment/bad.yaml"]),
        ("- a\n- b\n", ["holds a mapping", "conf/experiment/bad.yaml"]),
        ("just text\n", ["holds a mapping", "conf/experiment/bad.yaml"]),
        ("defaults:\n  - /model: single\nname: x\n", ["Multiple values for model", "override experiment=bad"]),
        ("optim: {betas: {a: 1}}\n", ["conf/experiment/bad.yaml"]),
        ("name: x\nrun: {dir: '${nam}'}\n", ["run.dir", "conf/experiment/bad.yaml:3", "'name'"]),
        ("name: x\nrun: {dir: '${'}\n", ["conf/experiment/bad.yaml:3"]),
        ("nmae: x\n", ["mandatory value is missing: name", "'nmae' (conf/experiment/bad.yaml:2)", "'name'?"]),
        (
            "name: x\nmodel: {lr: '???', image: {width: '???', depth: '???'}}\n",
            ["missing: model.image.depth", "bad.yaml:3"],
        ),
    ],
)
def test_a_wrong_file_is_named_with_its_line(conf, text, expected):
    conf.write("experiment/bad", f"# @package _global_\n{text}")
    message = conf.refusal("experiment=bad")
    for part in expected:
        assert part in message, message


def test_an_experiment_without_its_package_line_is_told_to_add_it(conf):
    conf.write("experiment/bad", "name: x\n")
    message = conf.refusal("experiment=bad")
    assert "begin conf/experiment/bad.yaml with the line '# @package _global_'" in message


def test_a_file_that_is_not_text_is_refused(conf):
    (conf.path / "experiment/bad.yaml").write_bytes(b"name: \xff\xfe\n")
    assert "where: conf/experiment/bad.yaml" in conf.refusal("experiment=bad")


def test_config_dir_is_beside_the_package(monkeypatch, tmp_path):
    import mmtrain

    (tmp_path / "mmtrain").mkdir()
    monkeypatch.setattr(mmtrain, "__file__", str(tmp_path / "mmtrain/__init__.py"))
    with pytest.raises(ConfigError, match=r"conf/train\.yaml"):
        config_dir()
    for place in (tmp_path / "conf", tmp_path / "mmtrain/conf"):  # the wheel's own goes before a stranger's "conf"
        place.mkdir()
        (place / "train.yaml").touch()
        assert config_dir() == place


@pytest.mark.parametrize("wrong", [Path("gone"), Path("model")])
def test_directories_must_exist(conf, wrong):
    with pytest.raises(ConfigError):
        compose([], config_dir=conf.path / wrong)
    with pytest.raises(ConfigError, match="gone does not exist"):
        conf.compose(extra=(Path("gone"),))
