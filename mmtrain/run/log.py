"""What the program says: warnings and errors on the console, everything in ``log.txt``."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOG = logging.getLogger(__name__)


def quiet_libraries() -> None:
    """Silences what Lightning says of choices that mmtrain made on purpose; real warnings still come through."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero", "compilers"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It says, at this level, which rank died while they were starting, and then kills this process.
    logging.getLogger("lightning.fabric.strategies.launchers.subprocess_script").setLevel(logging.INFO)
    for message in (
        r".*does not have many workers.*",
        r"The `srun` command is available.*",  # who started the ranks is known: see cluster_environment
        r".*Total length of `list` across ranks is zero.*",
        r".*recommended to use `self.log\(.*sync_dist=True.*",  # all ranks hold the same metrics
        r".*dataloader is not resumable.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r".*isinstance\(treespec, LeafSpec\).*",
        r".*`_get_pg_default_device` will be deprecated.*",
        r".*`torch.distributed.\w+_tensor` is deprecated.*",  # DeepSpeed's calls
    ):
        warnings.filterwarnings("ignore", message=message)


@contextmanager
def shown() -> Iterator[None]:
    """Shows on the console, as one line each, the warnings that are logged inside."""
    console = logging.StreamHandler()
    console.setLevel(logging.WARNING)
    console.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    with _handled(console):
        yield


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Appends to a file, with the time, what is logged inside, warnings too, and the error that ends it."""
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    with _handled(file):
        try:
            yield
        except BaseException as error:
            # To the file alone: the command line tells it on the console.
            information = (type(error), error, error.__traceback__)
            file.emit(_LOG.makeRecord(_LOG.name, logging.ERROR, __file__, 0, "ended by an error", (), information))
            raise


@contextmanager
def _handled(handler: logging.Handler) -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()
