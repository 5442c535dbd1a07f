"""A virtual environment for each peer, so that none of them can change the packages of this one, or of another peer.

All of them use the build of torch that is installed here: its files are hard-linked, where the file system can, and
pinned, so that pip neither downloads another build nor is able to harm this one.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

DECODERS = ("simplejpeg", "opencv-python-headless")
TORCHVISION = "0.28.0+stub"


class Peer(NamedTuple):
    """A loader to compare with: the requirement that installs it, and the distribution that tells its version."""

    requirement: str
    distribution: str


PEERS = {
    "webdataset": Peer("webdataset==1.0.2", "webdataset"),
    "litdata": Peer("litdata==0.2.76", "litdata"),
    "streaming": Peer("mosaicml-streaming==0.13.*", "mosaicml-streaming"),
    "energon": Peer("megatron-energon==7.4.*", "megatron-energon"),
}


def create(peer: str, folder: Path) -> Path:
    """Creates the peer's environment in ``folder`` unless it is there, and returns its interpreter.

    Raises:
        RuntimeError: pip could not install the peer; the message is the first error that pip names.
    """
    torch = [dist for dist in importlib.metadata.distributions() if _belongs_to_torch(dist.name)]
    pins = [f"{dist.name}=={dist.version}" for dist in torch]
    pins += [f"{name}=={importlib.metadata.version(name)}" for name in DECODERS]
    text = "\n".join([f"# for {PEERS[peer].requirement}", *sorted(pins), f"torchvision=={TORCHVISION}", ""])
    python, constraints, done = folder / "bin" / "python", folder / "constraints.txt", folder / "installed.txt"
    if done.exists() and constraints.read_text() == text:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    _call([sys.executable, "-m", "venv", folder])
    constraints.write_text(text)
    packages = Path(_call([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    _stub_torchvision(packages)
    for dist in torch:
        _link(dist, packages)
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--constraint", constraints]
    _call([*pip, "torch", *DECODERS, PEERS[peer].requirement])
    done.write_text(_call([python, "-m", "pip", "freeze"]))
    return python


def version(python: Path, distribution: str) -> str:
    """The version of a distribution that an interpreter sees."""
    code = f"import importlib.metadata as m; print(m.version({json.dumps(distribution)}))"
    return _call([python, "-c", code]).strip()


def _belongs_to_torch(name: str) -> bool:
    return name in ("torch", "triton") or name.startswith(("nvidia-", "cuda-"))


def _link(dist: importlib.metadata.Distribution, packages: Path) -> None:
    for file in dist.files or ():
        source, target = Path(str(file.locate())), packages / file
        if ".." in file.parts or not source.is_file():  # scripts, and byte code that was never written
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)


def _stub_torchvision(packages: Path) -> None:
    """Stands in for torchvision, which two peers require and import, but do not use to read bytes.

    The real one would come with a build of torch of its own.
    """
    modules = {
        "__init__": f"__version__ = {TORCHVISION!r}",
        "datasets": "class VisionDataset: pass",
        "io": "",
        "transforms/__init__": "",
        "transforms/functional": "def to_tensor(picture): raise NotImplementedError",
    }
    for name, source in modules.items():
        path = packages / "torchvision" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source + "\n")
    metadata = packages / f"torchvision-{TORCHVISION}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torchvision\nVersion: {TORCHVISION}\n")
    (metadata / "INSTALLER").write_text("benchmarks\n")
    (metadata / "RECORD").write_text("")


def _call(command: Sequence[str | Path]) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeError(next((line for line in said if line.startswith("ERROR")), said[-1])[:300])
    return done.stdout
