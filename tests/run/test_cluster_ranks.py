"""Ranks that were started against ranks that the config asks for. The variables are those that SLURM 22.05 sets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment

from mmtrain import distributed
from mmtrain.errors import ConfigError
from mmtrain.run.cluster import Srun, cluster_environment, require_ranks, tell_batch_script

JOB = {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_NNODES": "2", "SLURM_LOCALID": "0"}
JOB |= {"SLURM_NODELIST": "n[1-2]", "SLURM_JOB_NAME": "train", "SLURM_NODEID": "0"}
STEP = JOB | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "3"}
SHELL = JOB | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1", "SLURM_NTASKS": "1"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in os.environ:
        if name.startswith(("SLURM_", "TORCHELASTIC", "MASTER_", "GLOO_")) or name.endswith(("RANK", "WORLD_SIZE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    return monkeypatch


@pytest.mark.parametrize(
    ("environment", "kind", "rank"),
    [
        ({}, LightningEnvironment, 0),
        ({"LOCAL_RANK": "1"}, LightningEnvironment, 1),
        (JOB, LightningEnvironment, 0),
        (JOB | {"LOCAL_RANK": "1"}, LightningEnvironment, 1),
        (SHELL, LightningEnvironment, 0),
        (SHELL | {"LOCAL_RANK": "1"}, LightningEnvironment, 1),
        (STEP, Srun, 3),
        (STEP | {"SLURM_JOB_NAME": "bash"}, Srun, 3),
        (JOB | TORCHRUN, TorchElasticEnvironment, 1),
        (SHELL | TORCHRUN, TorchElasticEnvironment, 1),
    ],
)
def test_the_launcher_is_who_started_this_process(
    variables: pytest.MonkeyPatch, environment: dict[str, str], kind: type, rank: int
) -> None:
    for name, value in environment.items():
        variables.setenv(name, value)
    assert (type(cluster_environment()), distributed.rank()) == (kind, rank)


def test_numbers_that_fit_pass(variables: pytest.MonkeyPatch) -> None:
    require_ranks(8, 1)
    for environment in (STEP, JOB | TORCHRUN):
        with variables.context() as context:
            for name, value in environment.items():
                context.setenv(name, value)
            require_ranks(2, 2)


@pytest.mark.parametrize(
    ("environment", "message", "mend"),
    [
        (STEP, "srun started 4 tasks on 2 nodes", "trainer.devices=2 trainer.num_nodes=2"),
        (STEP | {"SLURM_STEP_NUM_TASKS": "3"}, "not as many on each", "--ntasks-per-node"),
        (JOB | TORCHRUN, "torchrun started 4 processes, 2 on each node", "trainer.devices=2 trainer.num_nodes=2"),
        (JOB, "nothing has started the ranks of the other nodes", "sbatch --nodes=4 --ntasks-per-node=1"),
        ({}, "nothing has started the ranks of the other nodes", "torchrun"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(
    variables: pytest.MonkeyPatch, environment: dict[str, str], message: str, mend: str
) -> None:
    for name, value in environment.items():
        variables.setenv(name, value)
    with pytest.raises(ConfigError) as error:
        require_ranks(1, 4)
    assert message in error.value.message
    assert mend in (error.value.mend or "")


def test_the_batch_script_is_told_where_and_from_which_step(variables: pytest.MonkeyPatch, tmp_path: Path) -> None:
    variables.chdir(tmp_path)
    tell_batch_script(Path("runs/a"), 30)
    assert list(tmp_path.iterdir()) == []
    variables.setenv("MMTRAIN_JOB_FILE", str(tmp_path / "told"))
    tell_batch_script(Path("runs/a"), 30)
    assert (tmp_path / "told").read_text() == f"{tmp_path / 'runs' / 'a'}\n30\n"
