"""``python -m mmtrain export RUN --to hf|open_clip|safetensors``: a run's model for other libraries."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmtrain.errors import RunError
from mmtrain.run.export.export import export_run
from mmtrain.run.log import quiet_libraries
from mmtrain.run.stored import StoredRun, open_stored


def export(argv: list[str]) -> None:
    """Exports a run and says where to, and how well the outputs agree.

    Raises:
        RunError: There is no such run, its model has no such form, the folder exists, or the run is not W&B's.
    """
    arguments = _parser().parse_args(argv)
    quiet_libraries()
    run = open_stored(arguments.run)
    node = _wandb_node(run) if arguments.wandb else None
    exported = export_run(run, arguments.to, arguments.out, live=arguments.live)
    agreement = exported.agreement
    print(f"{exported.architecture} in {exported.folder}")
    print(
        f"read back by {agreement.library}: the outputs differ by at most {agreement.difference:.1e}, "
        f"and are up to {agreement.largest:.1f}"
    )
    if exported.needs is not None:
        print(f"{exported.needs} is not installed: whether it agrees was not checked")
    if node is not None:
        facts = {
            "run": run.directory.name,
            "form": arguments.to,
            "architecture": exported.architecture,
            "checkpoint": run.record.file,
            "step": run.record.step,
            "xxh3": run.record.xxh3,
            "averaged": run.averaged and not arguments.live,
        }
        from mmtrain.logger.wandb_export import log_export

        print(f"W&B artifact {log_export(run.directory, exported.folder, node, facts)}")


def _wandb_node(run: StoredRun) -> Mapping[str, Any]:
    node: Mapping[str, Any] | None = run.config.get("logger", {}).get("wandb")
    if node is None:
        raise RunError(
            "the run has no W&B logger, so there is no project for the artifact",
            where=str(run.directory / "config.yaml"),
            mend="leave out --wandb",
        )
    return node


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m mmtrain export",
        description="Writes a run's model, with tokenizer and model card, as a folder that another library loads.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory (its best checkpoint) or a checkpoint")
    parser.add_argument("--to", required=True, choices=("hf", "open_clip", "safetensors"), help="whose form")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="a new folder (RUN/export/...)")
    parser.add_argument("--wandb", action="store_true", help="record the folder as an artifact, as the run its metrics")
    parser.add_argument("--live", action="store_true", help="not the averaged weights, where the run kept some")
    return parser
