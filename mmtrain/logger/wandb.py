"""Weights & Biases, offline unless asked otherwise: no account, no login."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import wandb

from mmtrain import distributed
from mmtrain.config.secret import masked
from mmtrain.logger.base import Cell, Evidence, Image, RunLogger
from mmtrain.logger.rows import read_rows
from mmtrain.logger.wandb_artifacts import log_evidence
from mmtrain.logger.wandb_settings import private_settings

_LOG = logging.getLogger(__name__)

Mode = Literal["online", "offline", "disabled"]


class WandbLogger(RunLogger):
    """Writes a run to W&B files under ``wandb/`` in the run directory, or to the server.

    The run's id is made once and kept in the run directory, so all segments of a resumed run are one run on the server.
    A killed offline run loses its last rows; so an offline segment of a resumed run first repeats the rows of
    ``metrics.jsonl`` up to the step that it goes on from, and the newest segment alone is the whole history.

    Args:
        directory: The run directory.
        config: The run's config, as plain dicts and values; its secrets are masked.
        resume_step: The step that the run goes on from, 0 for its beginning.
        project: W&B project.
        entity: W&B team or user; None for the account's default.
        group: W&B group; a sweep gives its name.
        job_type: W&B job type, by which runs of a group can be told apart.
        tags: W&B tags.
        mode: Where the run goes; the environment variable ``WANDB_MODE`` wins.
    """

    def __init__(
        self,
        directory: Path,
        config: Mapping[str, Any],
        resume_step: int = 0,
        project: str = "mmtrain",
        entity: str | None = None,
        group: str | None = None,
        job_type: str = "train",
        tags: Sequence[str] = (),
        mode: Mode = "offline",
    ) -> None:
        super().__init__()
        self.directory = directory
        self.config: dict[str, Any] = masked(config)
        self.resume_step = resume_step
        self.project = project
        self.entity = entity
        self.group = group
        self.job_type = job_type
        self.tags = tuple(tags)
        self.mode = mode
        self._run: wandb.Run | None = None
        self._stays_open = False
        self._exit_code = 1

    @property
    def name(self) -> str:
        """The run's name."""
        return self.directory.name

    @property
    def version(self) -> str:
        """The run's W&B id."""
        return run_id(self.directory)

    @property
    def experiment(self) -> wandb.Run | None:
        """The W&B run, begun at the first use; None on ranks other than 0."""
        if distributed.rank() != 0:
            return None
        if self._run is None:
            self._run = self._begin()
        return self._run

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds to the row of ``step``."""
        if (run := self.experiment) is not None:
            run.log(dict(metrics), step=step)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the whole config was given when the run began."""

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], step: int) -> None:
        """Records a table."""
        if (run := self.experiment) is not None:
            run.log({key: wandb.Table(columns=list(columns), data=[list(row) for row in rows])}, step=step)

    def log_image(self, key: str, image: Image, step: int) -> None:
        """Records a picture."""
        if (run := self.experiment) is not None:
            run.log({key: wandb.Image(str(image) if isinstance(image, Path) else image)}, step=step)

    def log_histogram(self, key: str, counts: Sequence[int], edges: Sequence[float], step: int) -> None:
        """Records a histogram."""
        if (run := self.experiment) is not None:
            run.log({key: wandb.Histogram(np_histogram=(np.asarray(counts), np.asarray(edges)))}, step=step)

    def alert(self, title: str, text: str, level: Literal["INFO", "WARN", "ERROR"]) -> None:
        """Has W&B tell those who wish to be told; one alert of a title a minute."""
        if (run := self.experiment) is not None:
            run.alert(title, text, level)

    def finalize(self, status: str) -> None:
        """Ends the segment, unless it is to stay open."""
        self._exit_code = 0 if status == "success" else 1
        if not self._stays_open:
            self._finish()

    def stay_open(self) -> None:
        """Has `finalize` not end the segment; `close` will."""
        self._stays_open = True

    def close(self, evidence: Evidence) -> None:
        """Records the evidence as artifacts, and ends the segment. Where none was begun, nothing is."""
        if self._run is not None:
            try:
                log_evidence(self._run, evidence)
            except OSError as error:
                _LOG.warning("W&B was not given the manifest and the checkpoints: %s", error)
        self._finish()

    def _finish(self) -> None:
        if self._run is not None:
            self._run.finish(exit_code=self._exit_code)
            self._run = None

    def _begin(self) -> wandb.Run:
        mode = os.environ.get("WANDB_MODE", self.mode)
        run = wandb.init(
            dir=str(self.directory),
            project=self.project,
            entity=self.entity,
            group=self.group,
            job_type=self.job_type,
            tags=self.tags,
            name=self.name,
            id=run_id(self.directory),
            resume="allow" if mode == "online" else None,
            mode=cast(Mode, mode),
            config=self.config,
            settings=private_settings(),
        )
        if mode == "offline":
            for row in read_rows(self.directory / "metrics.jsonl", until_step=self.resume_step):
                step = row.pop("step")
                run.log(row, step=step)
        return run


def run_id(directory: Path) -> str:
    """The W&B id of the run in ``directory``: made of its name and a random part, once, and kept beside it."""
    path = directory / "wandb_id"
    if not path.exists():
        path.write_text(hashlib.sha256(f"{directory.name}/{secrets.token_hex(16)}".encode()).hexdigest()[:16] + "\n")
    return path.read_text().strip()
