"""What a run is computed with: packages, versions, machine, and the variables that a scheduler or a library reads."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mmtrain.config.secret import mask_urls

# Values that steer a computation or tell where it ran. Every other variable may hold a password.
_VARIABLES = re.compile(
    r"(SLURM_(JOB_ID|JOB_NAME|JOBID|ARRAY_\w+|NODELIST|JOB_NODELIST|NNODES|JOB_NUM_NODES|NTASKS|NTASKS_PER_NODE|PROCID"
    r"|LOCALID|NODEID|JOB_PARTITION|JOB_QOS|JOB_CPUS_PER_NODE|CPUS_PER_TASK|CPUS_ON_NODE|MEM_PER_\w+|GPUS\w*"
    r"|JOB_GPUS|RESTART_COUNT|CLUSTER_NAME|SUBMIT_DIR|SUBMIT_HOST)"
    r"|(NCCL|GLOO|CUBLAS|CUDNN|KMP)_\w+|TORCH_(NCCL|CUDNN|CUDA|COMPILE|DISTRIBUTED|SHOW|ALLOW|LOGS|USE)\w*"
    r"|CUDA_(VISIBLE_DEVICES|LAUNCH_BLOCKING|DEVICE_ORDER|MODULE_LOADING|DEVICE_MAX_CONNECTIONS)"
    r"|PYTORCH_\w*ALLOC_CONF|(OMP|OPENBLAS)_NUM_THREADS|OMP_PROC_BIND|OMP_PLACES|DS_ACCELERATOR|PYTHONHASHSEED"
    r"|(MKL|DNNL|ONEDNN|ATEN_CPU)_\w+"
    r"|NVIDIA_TF32_OVERRIDE|(HF_HUB|TRANSFORMERS|HF_DATASETS)_OFFLINE|WANDB_(MODE|PROJECT|ENTITY)|TOKENIZERS_PARALLELISM"
    r"|WORLD_SIZE|LOCAL_WORLD_SIZE|TORCHELASTIC_RESTART_COUNT|MMTRAIN_CACHE)"
)
_INSTALLED = frozenset({"site-packages", "dist-packages"})
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|JWT")


@dataclass(frozen=True)
class Node:
    """A host, and the devices that ranks of the run have there.

    Attributes:
        host: Its name.
        ranks: How many ranks.
        device: Name of their device; several, where they differ, with commas.
    """

    host: str
    ranks: int
    device: str


@dataclass(frozen=True)
class Environment:
    """The machine of rank 0, the versions of what runs there, and all nodes.

    Attributes:
        python: Version.
        torch: Version.
        cuda: Version that PyTorch was built for; None for a CPU build.
        cudnn: Version in use; None without.
        nccl: Version in use; None without.
        driver: Version of NVIDIA's driver; None without.
        host: Name of rank 0's machine.
        os: System and kernel.
        cpu: Model.
        cpu_instructions: The widest that PyTorch uses there, such as ``AVX512``: other ones round differently.
        cores: Logical cores of the machine.
        cores_allowed: Those that this process may use.
        memory_bytes: RAM.
        launcher: ``slurm``, ``torchrun``, or ``mmtrain`` for processes that it started itself.
        variables: Environment variables of an allow-list.
        nodes: All hosts of the run; empty until its ranks have met.
    """

    python: str
    torch: str
    cuda: str | None
    cudnn: int | None
    nccl: str | None
    driver: str | None
    host: str
    os: str
    cpu: str
    cpu_instructions: str
    cores: int
    cores_allowed: int
    memory_bytes: int
    launcher: str
    variables: dict[str, str] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)


def read_environment() -> Environment:
    """The environment of this process. Does not touch a GPU: that would claim memory on it before its rank does."""
    return Environment(
        python=platform.python_version(),
        torch=str(torch.__version__),
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        nccl=_nccl(),
        driver=_driver(),
        host=socket.gethostname(),
        os=_system(),
        cpu=_cpu(),
        cpu_instructions=torch.backends.cpu.get_cpu_capability(),
        cores=os.cpu_count() or 1,
        cores_allowed=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),  # POSIX
        launcher=_launcher(os.environ),
        variables=allowed_variables(os.environ),
    )


def read_packages() -> dict[str, str]:
    """Version of every installed distribution, by its normalised name; of two of one name, the one imported.

    What a package carries inside itself does not count: setuptools puts its own copies on ``sys.path`` when something
    imports it, as compiling does in the middle of a run.
    """
    path = [entry for entry in sys.path if not _INSTALLED.intersection(Path(entry).parent.parts)]
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions(path=path):
        metadata: Any = distribution.metadata  # None where the folder of a broken installation has none
        name = metadata["Name"] if metadata is not None else None
        if name and metadata["Version"]:
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), metadata["Version"])
    return dict(sorted(found.items()))


def allowed_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables that tell of the computation, and hold no secret."""
    return {
        name: mask_urls(value)
        for name, value in sorted(variables.items())
        if _VARIABLES.fullmatch(name) and not _SECRET.search(name)
    }


def device_name(device: torch.device) -> str:
    """Name of a rank's device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def nodes_of(ranks: list[tuple[str, str]]) -> list[Node]:
    """The nodes of a run, from host and device of each rank."""
    hosts: dict[str, list[str]] = {}
    for host, device in ranks:
        hosts.setdefault(host, []).append(device)
    return [Node(host, len(devices), ", ".join(sorted(set(devices)))) for host, devices in hosts.items()]


def _launcher(variables: Mapping[str, str]) -> str:
    if "TORCHELASTIC_RUN_ID" in variables:
        return "torchrun"
    return "slurm" if "SLURM_PROCID" in variables else "mmtrain"


def _nccl() -> str | None:
    if not torch.version.cuda or not torch.distributed.is_nccl_available():
        return None
    version = torch.cuda.nccl.version()
    return ".".join(map(str, version)) if isinstance(version, tuple) else str(version)


def _driver() -> str | None:
    found = re.search(r"Module(?: for \S+)?\s+(\d[\d.]+)", _text(Path("/proc/driver/nvidia/version")))
    return found[1] if found else None


def _cpu() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", _text(Path("/proc/cpuinfo")), re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _system() -> str:
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {platform.platform()}"
    except (OSError, KeyError):
        return platform.platform()


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
