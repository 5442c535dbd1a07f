"""What a run notes of its machine, and what of the environment it must not note."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
from pathlib import Path

import pytest
import torch

from mmtrain.run.environment import Node, allowed_variables, device_name, nodes_of, read_environment, read_packages


def test_versions_and_machine_are_those_of_this_process() -> None:
    found = read_environment()
    assert (found.python, found.torch, found.host) == (
        platform.python_version(),
        torch.__version__,
        socket.gethostname(),
    )
    assert (found.cuda is None) == (torch.version.cuda is None)
    assert 1 <= found.cores_allowed <= found.cores
    assert found.memory_bytes > 1 << 28
    assert found.cpu and found.os
    assert found.cpu_instructions == torch.backends.cpu.get_cpu_capability()
    assert found.nodes == []


def test_every_installed_package_has_its_version_by_its_normal_name() -> None:
    packages = read_packages()
    assert packages["torch"] == importlib.metadata.version("torch")
    assert packages["hydra-core"] == importlib.metadata.version("hydra-core")
    assert list(packages) == sorted(packages)
    assert all(name == name.lower() and "_" not in name for name in packages)


def test_of_two_versions_the_one_that_is_imported_counts_and_broken_ones_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, version in (("Other_Torch", "9"), ("torch", "0.0.1")):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (tmp_path / "broken-1.dist-info").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    packages = read_packages()
    assert (packages["torch"], packages["other-torch"]) == ("0.0.1", "9")
    assert "broken" not in packages


def test_what_a_package_carries_inside_itself_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site-packages"
    for folder, name in ((site, "setuptools-thing"), (site / "setuptools" / "_vendor", "its-own-copy")):
        (folder / f"{name}-1.dist-info").mkdir(parents=True)
        (folder / f"{name}-1.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        monkeypatch.syspath_prepend(str(folder))
    packages = read_packages()
    assert packages["setuptools-thing"] == "1"
    assert "its-own-copy" not in packages


def test_variables_that_steer_are_kept_and_no_other() -> None:
    kept = {
        "SLURM_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": "3",
        "NCCL_ALGO": "Ring",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "OMP_NUM_THREADS": "2",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "WANDB_MODE": "offline",
        "PYTHONHASHSEED": "0",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_CBWR": "AVX2",
    }
    left_out = {
        "WANDB_API_KEY": "a",
        "HF_TOKEN": "a",
        "AWS_SECRET_ACCESS_KEY": "a",
        "NCCL_SECRET_THING": "a",
        "SLURM_JWT": "a",
        "PATH": "/bin",
        "HOME": "/root",
        "https_proxy": "http://me:pw@host",
        "MY_PASSWORD": "a",
    }
    assert allowed_variables(kept | left_out) == kept


def test_a_kept_variable_loses_the_password_in_its_url() -> None:
    assert allowed_variables({"MMTRAIN_CACHE": "s3://k:v@bucket/x"}) == {"MMTRAIN_CACHE": "s3://bucket/x"}


@pytest.mark.parametrize(
    ("variables", "launcher"),
    [
        ({"TORCHELASTIC_RUN_ID": "x", "SLURM_PROCID": "0"}, "torchrun"),
        ({"SLURM_PROCID": "0"}, "slurm"),
        ({}, "mmtrain"),
    ],
)
def test_the_launcher_is_told_by_its_variables(
    variables: dict[str, str], launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("SLURM_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert read_environment().launcher == launcher


def test_nodes_are_counted_from_the_ranks() -> None:
    ranks = [("b", "H100"), ("a", "H100"), ("b", "H100"), ("a", "A100")]
    assert nodes_of(ranks) == [Node("b", 2, "H100"), Node("a", 2, "A100, H100")]


def test_a_processor_is_a_device() -> None:
    assert device_name(torch.device("cpu")) == "cpu"
