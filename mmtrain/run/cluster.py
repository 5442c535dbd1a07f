"""Who started the ranks of a job: ``srun``, ``torchrun``, a scheduler or Lightning; and whether all are there."""

from __future__ import annotations

import os
from pathlib import Path

from lightning.fabric.plugins.environments import MPIEnvironment
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    LSFEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from mmtrain import distributed
from mmtrain.errors import ConfigError
from mmtrain.run.network import join_network_of

JOB_FILE = "MMTRAIN_JOB_FILE"
"""Environment variable by which a batch script names a file that :func:`tell_batch_script` is to write."""


class Srun(SLURMEnvironment):
    """Ranks that ``srun`` started, one a task. :func:`require_ranks` has compared them with the config.

    Lightning's requeueing is off: it saves inside the signal handler.
    """

    def __init__(self) -> None:
        super().__init__(auto_requeue=False)
        if int(os.environ["SLURM_STEP_NUM_NODES"]) > 1:
            join_network_of(self.main_address)

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Does nothing. Lightning's own compares with the variables of the job, and a step may have fewer tasks."""

    @staticmethod
    def _validate_srun_used() -> None:
        """Does nothing. Lightning's own warns in a job whose name is ``bash``."""

    @staticmethod
    def _validate_srun_variables() -> None:
        """Does nothing. Lightning's own refuses ``--ntasks``."""


def cluster_environment() -> ClusterEnvironment:
    """What tells Lightning its ranks.

    Inside a job of SLURM, a process that ``srun`` did not start beside others is a process like any other: of
    ``torchrun``, or one that Lightning may start further ones from. Left to itself, Lightning would take a batch
    script or a shell in an allocation of N tasks for one of N ranks, and wait for the others for ever.
    """
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if distributed.started_by_srun():
        return Srun()
    for other in (LSFEnvironment, MPIEnvironment):
        if other.detect():
            return other()
    return LightningEnvironment()


def require_ranks(devices: int, num_nodes: int) -> None:
    """Refuses a config that makes another number of ranks than were started, which would wait for the missing ones.

    Args:
        devices: Ranks of each node.
        num_nodes: Nodes.

    Raises:
        ConfigError: The numbers differ.
    """
    asked = f"trainer.devices={devices} trainer.num_nodes={num_nodes}"
    if TorchElasticEnvironment.detect():
        world, local = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
        if (devices, num_nodes) != (local, world // local):
            raise ConfigError(
                f"torchrun started {world} processes, {local} on each node",
                where=asked,
                mend=f"trainer.devices={local} trainer.num_nodes={world // local}",
            )
    elif distributed.started_by_srun():
        tasks, nodes = int(os.environ["SLURM_STEP_NUM_TASKS"]), int(os.environ["SLURM_STEP_NUM_NODES"])
        if tasks % nodes:
            raise ConfigError(
                f"srun started {tasks} tasks on {nodes} nodes: not as many on each",
                where="srun",
                mend="--ntasks-per-node, with one task for each device",
            )
        if (devices, num_nodes) != (tasks // nodes, nodes):
            raise ConfigError(
                f"srun started {tasks} tasks on {nodes} {'node' if nodes == 1 else 'nodes'}",
                where=asked,
                mend=f"trainer.devices={tasks // nodes} trainer.num_nodes={nodes}; slurm/train.sbatch sets them",
            )
    elif num_nodes > 1 and isinstance(cluster_environment(), LightningEnvironment):
        raise ConfigError(
            "nothing has started the ranks of the other nodes",
            where=asked,
            mend=f"sbatch --nodes={num_nodes} --ntasks-per-node={devices} slurm/train.sbatch ..., or torchrun",
        )


def tell_batch_script(directory: Path, step: int) -> None:
    """Writes where this job trains, and the step that it starts from, as two lines into the file that it was given.

    By them ``slurm/requeue.sh`` finds the ``REQUEUE`` marker, and knows whether the job has come further.
    """
    if path := os.environ.get(JOB_FILE):
        Path(path).write_text(f"{directory.resolve()}\n{step}\n")
