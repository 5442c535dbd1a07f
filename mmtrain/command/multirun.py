"""``python -m mmtrain multirun``: Hydra's own multirun, for the sake of its launchers and sweepers."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig

from mmtrain import distributed
from mmtrain.command.train import train_composed
from mmtrain.config import compose, config_dir, typed, validate
from mmtrain.errors import ConfigError
from mmtrain.run.build import world_size
from mmtrain.run.origin import Origin
from mmtrain.run.sweep.check import quoted
from mmtrain.run.sweep.grid import first_values

# Jobs train in their run directories; all that Hydra writes of them is its own record.
_HYDRA = ("hydra.sweep.dir=multirun", "hydra.job.chdir=false", "hydra/job_logging=none")
_PREEMPTED = 75  # EX_TEMPFAIL: try again later


def multirun(overrides: Sequence[str], extra_dirs: Sequence[Path] = ()) -> None:
    """Has Hydra make the jobs of ``seed=1,2`` and start them, here or by its launcher: ``hydra/launcher=slurm``.

    The overrides of the first job are checked before; each job composes and validates its own again, as ``train``
    does. Give each its own run directory: through ``name``, as in ``'name=clip_s${seed}'``.

    Args:
        overrides: In Hydra's grammar; those of Hydra itself, too.
        extra_dirs: Further config directories.

    Raises:
        ConfigError: The first job has a mistake, or a launcher's package is not installed.
        UserError: Whatever ends a job that runs here.
    """
    if any(word.startswith("hydra/launcher=slurm") for word in overrides) and _is_missing("hydra_submitit_launcher"):
        raise ConfigError(
            "this launcher needs a package that is not installed",
            where="hydra/launcher",
            mend="pip install 'mmtrain[submitit]'",
        )
    validate(compose(first_values([word for word in overrides if not _is_hydras(word)]), extra_dirs=extra_dirs))
    # The callbacks listen to USR1; submitit's default, USR2, prints the stacks of the watchdog.
    os.environ.setdefault("SUBMITIT_PREEMPT_SIGNAL", "USR1")
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # so that Hydra leaves errors to the command line
    directories = [config_dir(), *(path.resolve() for path in extra_dirs)]
    search_path = f"hydra.searchpath=[{','.join(quoted(str(path)) for path in directories[1:])}]"
    jobs = [_as_hydra_takes_it(word, directories) for word in overrides]
    arguments = sys.argv
    sys.argv = [arguments[0], "--multirun", *_HYDRA, search_path, *jobs]
    try:
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="train")(_train)()
    except HydraException as error:
        raise ConfigError(f"Hydra refuses: {error}", where="the command line") from error
    finally:
        sys.argv = arguments


def _as_hydra_takes_it(override: str, directories: Sequence[Path]) -> str:
    """Has Hydra accept keys that no file has, only a signature; each job compares all of them with the signatures."""
    key = re.split("[=@]", override)[0]
    is_group = any((path / key).is_dir() for path in directories)
    return override if is_group or _is_hydras(override) or override.startswith(("+", "~")) else f"++{override}"


def _is_hydras(override: str) -> bool:
    return override.lstrip("+~").startswith(("hydra.", "hydra/"))


def _train(config: DictConfig) -> None:
    """One job, in the process where the launcher put it. Hydra's own ``config`` has no places of its values."""
    job = HydraConfig.get()
    overrides = [word.removeprefix("++") for word in job.overrides.task]
    places = [Path(source.path) for source in job.runtime.config_sources if source.schema == "file"]
    directories = tuple(path for path in places if path != config_dir())
    composed = compose(overrides, extra_dirs=directories)
    validate(composed)
    if (ranks := world_size(typed(composed.config))) > 1 and not distributed.started_by_srun():
        raise ConfigError(
            f"Hydra starts a job as one process, and this one needs {ranks}",
            where="trainer.devices, trainer.num_nodes",
            mend="python -m mmtrain sweep ... --local, or hydra/launcher=slurm",
        )
    train_composed(composed, Origin(composed.overrides, directories))
    if Path(composed.config["run"]["dir"], "REQUEUE").exists():
        _go_on_later()


def _go_on_later() -> None:
    """Ends a job that was asked to stop, without a result: its launcher would take one for the job's end."""
    if "SLURM_JOB_ID" in os.environ:
        array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
        job = f"{array}_{task}" if array is not None else os.environ["SLURM_JOB_ID"]
        if os.environ.get("SLURM_PROCID", "0") == "0":
            subprocess.run(["scontrol", "requeue", job], check=True)
        time.sleep(600)  # SLURM ends the job before
    sys.exit(_PREEMPTED)


def _is_missing(plugin: str) -> bool:
    return any(importlib.util.find_spec(name) is None for name in ("hydra_plugins", f"hydra_plugins.{plugin}"))
