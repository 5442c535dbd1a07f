"""What W&B may collect by itself: nothing that could hold a secret."""

from __future__ import annotations

import wandb


def private_settings() -> wandb.Settings:
    """Settings of a run that says nothing on the console and records what it is given, and little else.

    By itself W&B records the command line, the git remote with its user, the program's path, and, on request, source
    files; the run's manifest holds them without secrets. What stays are the machine's name and load, and the names and
    versions of packages.
    """
    return wandb.Settings(
        silent=True,
        console="off",
        x_disable_meta=True,
        disable_git=True,
        disable_code=True,
        save_code=False,
        disable_job_creation=True,
    )
