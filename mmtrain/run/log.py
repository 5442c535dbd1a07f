"""What the program says: warnings and errors on the console, everything in ``log.txt``."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path


def quiet_libraries() -> None:
    """Silences what Lightning says of choices that mmtrain made on purpose; real warnings still come through."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        r".*does not have many workers.*",
        r".*Total length of `list` across ranks is zero.*",
        r".*recommended to use `self.log\(.*sync_dist=True.*",  # all ranks hold the same metrics
        r".*dataloader is not resumable.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r".*isinstance\(treespec, LeafSpec\).*",
        r".*`_get_pg_default_device` will be deprecated.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def log_to(path: Path) -> None:
    """Appends everything that is logged, warnings too, to a file, with the time."""
    logging.captureWarnings(True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    console = logging.StreamHandler()
    console.setLevel(logging.WARNING)
    console.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.handlers = [handler, console]
