"""Two network namespaces joined by two cables."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cluster import SYSTEM_PATH

CABLES = {"slow": "10.213.1", "fast": "10.213.2"}


def inside(namespace: str) -> tuple[str, ...]:
    """The words that run a command in a namespace."""
    return ("ip", "netns", "exec", namespace)


@contextmanager
def two_namespaces() -> Iterator[tuple[str, str]]:
    """Namespaces with an interface for each cable, whose addresses end in 1 and 2. Skips without the right to."""
    names = tuple(f"mmtrain-{os.getpid()}-{number}" for number in (1, 2))
    try:
        _ip("netns", "add", names[0])
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    try:
        _ip("netns", "add", names[1])
        for cable, subnet in CABLES.items():
            ends = ["type", "veth", "peer", "name", cable, "netns", names[1]]
            _ip("-n", names[0], "link", "add", cable, *ends)
            for number, name in enumerate(names, start=1):
                _ip("-n", name, "address", "add", f"{subnet}.{number}/24", "dev", cable)
                _ip("-n", name, "link", "set", cable, "up")
        for name in names:
            _ip("-n", name, "link", "set", "lo", "up")
        yield names[0], names[1]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def _ip(*words: str) -> None:
    command = ["ip", *words]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PATH": SYSTEM_PATH})
