"""An export of a run as a W&B artifact, in a W&B run of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import wandb

from mmtrain.logger.wandb import Mode, run_id
from mmtrain.logger.wandb_settings import private_settings


def log_export(directory: Path, folder: Path, node: Mapping[str, Any], facts: Mapping[str, str | int | float]) -> str:
    """Records a folder, with its content, as the artifact ``export-ID`` of the run of this id.

    The run itself has ended, and W&B would begin its history anew; so the artifact comes from a W&B run of the same
    group and of job type ``export``, whose files lie under ``export/wandb`` in the run directory. Offline, no file is
    copied: the folder must stay until it was sent.

    Args:
        directory: Run directory.
        folder: The export.
        node: The run's config of its W&B logger.
        facts: What it was made from, for its config and the artifact's metadata.

    Returns:
        Name of the artifact.

    Raises:
        OSError: A file cannot be read or written.
    """
    (directory / "export").mkdir(exist_ok=True)
    run = wandb.init(
        dir=str(directory / "export"),
        project=node.get("project", "mmtrain"),
        entity=node.get("entity"),
        group=node.get("group"),
        job_type="export",
        tags=node.get("tags") or (),
        name=f"{directory.name} export",
        mode=cast(Mode, os.environ.get("WANDB_MODE", node.get("mode", "offline"))),
        config=dict(facts),
        settings=private_settings(),
    )
    try:
        artifact = wandb.Artifact(f"export-{run_id(directory)}", "model", metadata=dict(facts))
        for file in sorted(path for path in folder.absolute().rglob("*") if path.is_file()):
            name = file.relative_to(folder.absolute()).as_posix()
            artifact.add_file(str(file), name=name, policy="immutable", skip_cache=True)
        run.log_artifact(artifact, aliases=[f"step-{facts['step']}"])
    finally:
        run.finish()
    return artifact.name
