"""Texts that a language model makes in training."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_case import Data, random_batch, small_objective, trainer

from mmtrain.callback.samples import Samples
from mmtrain.errors import ConfigError
from mmtrain.logger.jsonl import JsonlLogger
from mmtrain.objective.lm import LanguageModel


def tables(folder: Path, objective: LanguageModel, **options: Any) -> list[list[list[str]]]:
    """What an evaluation after two steps and one after four leave in the run's directory."""
    data = Data([random_batch(2)] * 4, {"val": [random_batch(2)]})
    samples = Samples(prompts=["ab", "c"], max_new_tokens=5, **options)
    runner = trainer(4, callbacks=[samples], logger=[JsonlLogger(folder)], val_check_interval=2)
    runner.fit(objective, datamodule=data)
    assert objective.training, "and training goes on as before"
    paths = sorted((folder / "media" / "samples").glob("*.csv"))
    assert [path.name for path in paths] == ["step_00000002.csv", "step_00000004.csv"]
    return [list(csv.reader(path.open(encoding="utf-8", newline=""))) for path in paths]


def test_each_evaluation_leaves_a_table_of_prompts_and_texts(tmp_path: Path) -> None:
    for columns, *rows in tables(tmp_path, small_objective()):
        assert columns == ["prompt", "text"]
        assert [row[0] for row in rows] == ["ab", "c"]
        assert all(len(row[1]) == 5 for row in rows)


def test_sampling_leaves_the_training_as_it_is(tmp_path: Path) -> None:
    objective, alone = small_objective(dropout=0.1), small_objective(dropout=0.1)
    torch.manual_seed(0)
    tables(tmp_path, objective)
    torch.manual_seed(0)
    data = Data([random_batch(2)] * 4, {"val": [random_batch(2)]})
    trainer(4, val_check_interval=2).fit(alone, datamodule=data)
    for name, parameter in objective.named_parameters():
        assert torch.equal(parameter, alone.get_parameter(name)), name


@pytest.mark.parametrize("prompt", ["", "a" * 16])
def test_a_prompt_without_room_is_refused_before_training(prompt: str) -> None:
    data = Data([random_batch(2)], {"val": [random_batch(2)]})
    with pytest.raises(ConfigError, match=f"has {len(prompt)} tokens, and the model has 16 positions"):
        trainer(1, callbacks=[Samples(prompts=[prompt])]).fit(small_objective(), datamodule=data)
