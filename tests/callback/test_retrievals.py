"""The grid of images with the captions that the model ranks first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from gloo_ranks import RunRanks

from mmtrain import distributed
from mmtrain.callback.retrievals import Retrievals, _Picture, draw_grid

GREEN = (0, 122, 61)


def picture(caption: str, value: int = 200) -> _Picture:
    return _Picture("key", torch.full((3, 32, 32), value, dtype=torch.uint8), torch.zeros(4), [caption])


def ink_rows(grid: np.ndarray, colour: tuple[int, int, int]) -> set[int]:
    """The lines of a picture's captions in which a colour stands: 0 its own, 1 the nearest."""
    rows = np.flatnonzero((grid == np.array(colour, np.uint8)).all(axis=2).any(axis=1))
    return {int(row - 8) // 20 for row in rows}


@pytest.mark.parametrize(("count", "shape"), [(0, (112, 1320, 3)), (1, (112, 1320, 3)), (5, (224, 1320, 3))])
def test_the_grid_has_four_pictures_in_a_row(count: int, shape: tuple[int, int, int]) -> None:
    grid = draw_grid([picture("a")] * count, [[("a", 0.5), ("b", 0.4), ("c", 0.1)]] * count)
    assert (grid.shape, grid.dtype) == (shape, np.uint8)


def test_a_picture_with_many_captions_has_room_for_them() -> None:
    found = [(name, 0.1) for name in "abcdefgh"]
    grid = draw_grid([picture("h")], [found])
    assert grid.shape[0] == 20 * 9 + 16
    assert ink_rows(grid, GREEN) == {8}


def test_the_picture_itself_is_shown() -> None:
    grid = draw_grid([picture("a", 10), picture("b", 90)], [[], []])
    assert (grid[8:104, 8:104] == 10).all()
    assert (grid[8:104, 338:434] == 90).all()


def test_only_the_right_caption_is_green() -> None:
    assert ink_rows(draw_grid([picture("red circle")], [[("blue square", 0.9), ("red circle", 0.5)]]), GREEN) == {2}
    assert ink_rows(draw_grid([picture("red circle")], [[("blue square", 0.9), ("red square", 0.5)]]), GREEN) == set()


def test_a_long_caption_is_cut_inside_its_column() -> None:
    grid = draw_grid([picture("word " * 40), picture("b")], [[("word " * 40, 0.5)], [("b", 0.5)]])
    assert (grid[:, 330 - 8 : 330 + 8] == 255).all(), "the gap between two columns is empty"
    assert (grid[:, 200:322] != 255).any(), "and the caption fills its own"


class Log:
    def __init__(self) -> None:
        self.tables: dict[str, Any] = {}
        self.images: dict[str, Any] = {}

    def log_table(self, key: str, columns: list[str], rows: list[list[str | float]], step: int) -> None:
        self.tables[key] = (step, columns, rows)

    def log_image(self, key: str, image: Any, step: int) -> None:
        self.images[key] = (step, image.shape)


def evaluate(callback: Retrievals, batches: int, size: int) -> Log:
    """An evaluation of ``batches`` of ``size`` images, each nearest to its own captions; the last image is filler.

    Rank r of W takes the r-th part of every batch.
    """
    log, total = Log(), batches * size
    features = torch.eye(total)[:, : total - 1]
    ranked = SimpleNamespace(caption_CD=torch.eye(total - 1), captions=[f"caption {n}" for n in range(total - 1)])
    trainer: Any = SimpleNamespace(
        is_global_zero=distributed.rank() == 0, sanity_checking=False, loggers=[object(), log], global_step=7
    )
    module: Any = pl.LightningModule()
    module.encoded = {"new_style": ranked}
    callback.on_validation_epoch_start(trainer, module)
    for index in range(batches):
        share = size // distributed.world_size()
        first = index * size + distributed.rank() * share
        numbers = range(first, first + share)
        batch = {
            "image": torch.stack([torch.full((3, 8, 8), number, dtype=torch.uint8) for number in numbers]),
            "weight": torch.tensor([float(number < total - 1) for number in numbers]),
            "captions": [[f"caption {number}", "another"] for number in numbers],
            "key": [str(number) for number in numbers],
        }
        callback.on_validation_batch_end(trainer, module, features[list(numbers)], batch, index)
    callback.on_validation_end(trainer, module)
    return log


def shown(log: Log) -> list[str]:
    return [row[0] for row in log.tables["retrievals/new_style/table"][2]]


def test_each_image_stands_with_its_nearest_captions() -> None:
    log = evaluate(Retrievals(images=4, top_k=2), batches=4, size=6)
    step, columns, rows = log.tables["retrievals/new_style/table"]
    assert step == 7
    assert columns == ["caption", "nearest 1", "cosine 1", "nearest 2", "cosine 2"]
    assert len(rows) == 4
    assert all(row[1] == row[0] and row[2] == 1.0 and row[3] != row[0] and row[4] == 0.0 for row in rows)


def shown_in_a_rank(batches: int, size: int) -> list[str] | None:
    log = evaluate(Retrievals(images=5), batches, size)
    return shown(log) if log.tables else None


def test_any_number_of_ranks_and_any_batch_show_the_same_images(run_ranks: RunRanks) -> None:
    expected = shown_in_a_rank(4, 6)
    assert expected is not None
    assert len(set(expected)) == 5
    assert shown_in_a_rank(2, 12) == expected
    assert run_ranks(2, shown_in_a_rank, 4, 6) == [expected, None], "the first rank draws, the others do not"


def test_filler_is_not_shown() -> None:
    log = evaluate(Retrievals(images=99), batches=2, size=3)
    assert sorted(shown(log)) == [f"caption {n}" for n in range(5)]
    assert log.images["retrievals/new_style"] == (7, (224, 1320, 3))


def test_a_second_evaluation_has_no_pictures_of_the_first() -> None:
    callback = Retrievals(images=3)
    evaluate(callback, batches=2, size=3)
    assert len(shown(evaluate(callback, batches=1, size=3))) == 2


def test_every_caption_of_an_image_is_right() -> None:
    several = picture("red circle")
    several.captions.append("round thing")
    found = [("round thing", 0.9), ("blue square", 0.5), ("red circle", 0.1)]
    assert ink_rows(draw_grid([several], [found]), GREEN) == {1, 3}
