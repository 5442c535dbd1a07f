from __future__ import annotations

import pytest


def places(composed):
    def leaves(node, key):
        children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for name, child in children:
            yield from leaves(child, f"{key}.{name}" if key else str(name))
        if not isinstance(node, dict | list) and key:
            yield key

    return {key: str(composed.source(key)) for key in leaves(composed.config, "")}


def test_every_leaf_names_the_line_that_set_it_last(conf):
    composed = conf.compose("experiment=small", "debug=fast", "optim.lr=0.5", "+model.image.depth=3")
    found = places(composed)
    assert found["name"] == "conf/experiment/small.yaml:5"
    assert found["seed"] == "conf/train.yaml:13"
    assert found["run.dir"] == "conf/train.yaml:14"
    assert found["budget.epochs"] == "conf/debug/fast.yaml:2"
    assert found["budget.tokens"] == "conf/train.yaml:15"
    assert found["model._target_"] == "conf/model/pair.yaml:2"
    assert found["model.image.width"] == "conf/experiment/small.yaml:10"
    assert found["model.text.width"] == "conf/model/pair.yaml:9"
    assert found["model.image.depth"] == "override +model.image.depth=3"
    assert found["optim.lr"] == "override optim.lr=0.5"
    assert found["optim.betas.0"] == "conf/optim/adamw.yaml:3"
    assert found["callback.ema.decay"] == "conf/callback/default.yaml:3"
    assert "None" not in found.values()


def test_a_leaf_points_at_a_line_that_holds_its_name(conf):
    composed = conf.compose("experiment=one")
    for key, source in composed.provenance.items():
        assert source.path is not None
        if "betas" not in key and source.line > 1:
            assert key.rpartition(".")[2] in source.path.read_text().splitlines()[source.line - 1]


def test_a_value_that_replaces_a_mapping_takes_its_place(conf):
    conf.write("experiment/none", "# @package _global_\nname: none\ncallback:\n  ema: null\n")
    composed = conf.compose("experiment=none")
    assert not any(key.startswith("callback.ema.") for key in composed.provenance)
    assert str(composed.source("callback.ema")) == "conf/experiment/none.yaml:4"


def test_a_missing_value_does_not_hide_the_value_it_keeps(conf):
    conf.write("experiment/same", "# @package _global_\nname: same\nseed: '???'\n")
    composed = conf.compose("experiment=same")
    assert composed.config["seed"] == 0
    assert str(composed.source("seed")) == "conf/train.yaml:13"


def test_a_mapping_override_names_itself_for_each_of_its_keys(conf):
    composed = conf.compose("experiment=small", "model.image={depth:5}")
    assert str(composed.source("model.image.depth")) == "override model.image={depth:5}"
    assert str(composed.source("model.image.width")) == "conf/experiment/small.yaml:10"


def test_yaml_anchors_are_followed(conf):
    conf.write(
        "model/pair",
        "_target_: config_toys.Pair\nimage: &tower\n  _target_: config_toys.Tower\n  width: 8\n"
        "text:\n  <<: *tower\n  depth: 1\n",
    )
    composed = conf.compose("experiment=small")
    assert composed.config["model"]["text"] == {"_target_": "config_toys.Tower", "width": 8, "depth": 1}
    assert str(composed.source("model.text.width")) == "conf/model/pair.yaml:4"
    assert str(composed.source("model.text.depth")) == "conf/model/pair.yaml:7"


def test_a_node_taken_from_elsewhere_names_the_line_that_takes_it(conf):
    conf.write("experiment/copy", "# @package _global_\nname: copy\nmodel:\n  text: ${model.image}\n")
    composed = conf.compose("experiment=copy")
    assert composed.config["model"]["text"]["width"] == 8
    assert str(composed.source("model.text.width")) == "conf/experiment/copy.yaml:4"


def test_places_outside_the_working_directory_are_absolute(conf, tmp_path, monkeypatch):
    composed = conf.compose("experiment=small")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert str(composed.source("name")) == f"{tmp_path}/conf/experiment/small.yaml:5"


@pytest.mark.parametrize("override", ["~callback.ema", "~callback.ema.decay"])
def test_a_removed_key_has_no_place(conf, override):
    composed = conf.compose("experiment=small", override)
    assert "callback.ema.decay" not in composed.provenance
