"""Export of a run: built in a folder beside, proved, and only then given its name."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from mmtrain.errors import RunError
from mmtrain.model.clip import CLIP
from mmtrain.model.hf.families import to_hf
from mmtrain.model.hf.folder import OPEN_CLIP, write_folder
from mmtrain.model.hf.open_clip import to_open_clip
from mmtrain.run.data_record import DataRecord, read_data_record
from mmtrain.run.export.agreement import Agreement, check_hf, check_open_clip, check_own
from mmtrain.run.export.card import model_card
from mmtrain.run.export.companions import special_ids, write_generation_config, write_preprocessor, write_tokenizer
from mmtrain.run.export.own import write_own
from mmtrain.run.stored import StoredRun

Form = Literal["hf", "open_clip", "safetensors"]

_USAGE = {
    "hf": "from transformers import {architecture}\n\nmodel = {architecture}.from_pretrained({path!r})",
    "open_clip": "import open_clip\n\nmodel, _, preprocess = open_clip.create_model_and_transforms('local-dir:{path}')",
    "safetensors": "from pathlib import Path\n\nfrom mmtrain.run.export.own import read_own\n\n"
    "model = read_own(Path({path!r}))",
}
_LIBRARIES = {"hf": "transformers", "open_clip": "open_clip", "safetensors": "mmtrain"}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: Where.
        architecture: Class of the model.
        agreement: The check of the outputs.
        needs: The library that the folder is for, where it is not installed, so that only mmtrain read it back.
    """

    folder: Path
    architecture: str
    agreement: Agreement
    needs: str | None


def export_run(run: StoredRun, form: Form, out: Path | None = None, *, live: bool = False) -> Exported:
    """Writes a run's model as a folder. Nothing is ever overwritten.

    Args:
        run: The run.
        form: Which library's.
        out: The folder; None takes ``RUN/export/FORM-step_N``.
        live: Whether averaged weights, where the run kept some, are passed over.

    Raises:
        RunError: The folder exists, the model has no such form, or the check failed.
    """
    name = f"{form}-{run.checkpoint.stem}" + ("-live" if live else "")
    folder = out or run.directory / "export" / name
    if folder.exists():
        raise RunError("this folder exists", where=str(folder), mend="name another with --out, or move it away")
    model = run.load_model(live=live)
    data = read_data_record(run.directory)
    work = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        architecture, agreement = _fill(work, run, model, data, form)
        usage = _USAGE[form].format(architecture=architecture, path=str(folder))
        card = model_card(
            run,
            data,
            agreement,
            architecture=architecture,
            library_name=_LIBRARIES[form],
            usage=usage,
            averaged=run.averaged and not live,
        )
        (work / "README.md").write_text(card, encoding="utf-8")
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    needs = _LIBRARIES[form] if agreement.library == "mmtrain" and form != "safetensors" else None
    return Exported(folder, architecture, agreement, needs)


def _fill(work: Path, run: StoredRun, model: nn.Module, data: DataRecord, form: Form) -> tuple[str, Agreement]:
    """Writes the files of a form; returns the class that reads them, and how well it agrees."""
    tokenizer = write_tokenizer(work, run.directory, model)
    write_preprocessor(work, model)
    if form == "safetensors":
        write_own(work, run.config["model"], model)
        return type(model).__name__, check_own(model, work)
    if form == "open_clip":
        if not isinstance(model, CLIP):
            reason = f"open_clip has no counterpart of a {type(model).__name__}"
            raise RunError(reason, where=str(run.directory), mend="take --to hf or --to safetensors")
        config, weights = to_open_clip(model)
        write_folder(work, config, weights, OPEN_CLIP)
        return "CLIP", check_open_clip(model, work)
    config, weights = to_hf(model, data.classes)
    ids = special_ids(tokenizer, model)
    write_folder(work, config | ids, weights)
    write_generation_config(work, model, ids)
    return config["architectures"][0], check_hf(model, work)
