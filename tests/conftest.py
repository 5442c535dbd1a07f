"""What tests share: ranks joined by gloo; the program in this process, a small data set, one finished run of it."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_ranks import RunRanks, run_in
from tiny_run import Outcome, Program, finish, start, tiny, write_shapes

from mmtrain.__main__ import main


def pytest_configure() -> None:
    """Ctrl-C means Ctrl-C: a shell starts its background jobs, and so their children, with the signal ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """No test leaves a handler behind: a process forked after it would not end when asked to."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    yield
    left = {number: signal.getsignal(number) for number in before}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert left == before


@pytest.fixture
def run_ranks(tmp_path_factory: pytest.TempPathFactory) -> RunRanks:
    """``run_ranks(world_size, function, *arguments)``: what ``function`` returns in each rank of a gloo group."""

    def run(world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        return run_in(tmp_path_factory.mktemp("ranks"), world_size, function, arguments)

    return run


@pytest.fixture
def program(capsys: pytest.CaptureFixture[str]) -> Iterator[Program]:
    """The command line in this process, for what needs no process of its own."""
    root, threads = logging.getLogger(), torch.get_num_threads()
    handlers, level = list(root.handlers), root.level  # Hydra changes the list itself

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return Outcome(status, *capsys.readouterr())

    with warnings.catch_warnings():
        yield run
    logging.captureWarnings(False)
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers, root.level = handlers, level
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 52 pictures for training, with two sets for evaluation. Read-only."""
    root = tmp_path_factory.mktemp("shapes")
    write_shapes(root)
    return root


@pytest.fixture(scope="session")
def finished(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with W&B, never interrupted; what it said stands in ``said.log`` beside it. Do not train in it."""
    home = tmp_path_factory.mktemp("finished")
    arguments = tiny(
        shapes,
        home / "run",
        "logger=wandb",
        "+logger.tensorboard._target_=mmtrain.logger.tensorboard.TensorBoardLogger",
    )
    finish(start(arguments, home / "said.log"), home / "said.log")
    return home / "run"
