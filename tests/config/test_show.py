from __future__ import annotations

import importlib

import pytest

from mmtrain.command.show import show
from mmtrain.errors import ConfigError


@pytest.fixture
def shown(conf, monkeypatch, capsys):
    monkeypatch.setattr(importlib.import_module("mmtrain.config.directory"), "config_dir", lambda: conf.path)

    def run(*overrides: str) -> str:
        show(list(overrides))
        return capsys.readouterr().out

    return run


def test_a_pipe_gets_one_key_a_line_with_its_place(shown):
    long = "x" * 300
    lines = shown("experiment=small", f"model.odd={long}").splitlines()
    assert "model.image.width = 32  # conf/experiment/small.yaml:10" in lines
    assert "optim.betas = [0.9, 0.98]  # conf/optim/adamw.yaml:3" in lines
    assert f'model.odd = "{long}"  # override model.odd={long}' in lines
    assert 'run.dir = "runs/small"  # conf/train.yaml:14' in lines
    assert all(" = " in line and "  # " in line for line in lines)


def test_a_terminal_gets_a_tree(shown, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    text = shown("experiment=small")
    assert "└" in text
    assert "\x1b[2m" in text
    assert "conf/experiment/small.yaml:10" in text


def test_a_configuration_with_mistakes_is_shown_and_refused(shown, capsys):
    with pytest.raises(ConfigError, match=r"model\.lrr"):
        shown("experiment=small", "model.lrr=1")
    assert "model.lrr = 1  # override model.lrr=1" in capsys.readouterr().out
