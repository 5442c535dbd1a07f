"""Private SLURM clusters: one for all tests here, and one whose nodes have networks of their own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster import Cluster, Node, missing_programs
from namespaces import inside, two_namespaces


@contextmanager
def running(nodes: Sequence[Node]) -> Iterator[Cluster]:
    """A cluster of ``nodes``. Skips where SLURM is not installed."""
    if missing := missing_programs():
        pytest.skip(f"SLURM is not installed here: {', '.join(missing)} (Debian: slurm-wlm, munge)")
    # Not pytest's own folder, whose path may be too long for a socket.
    with tempfile.TemporaryDirectory(prefix="mmtrain-slurm-", ignore_cleanup_errors=True) as home:
        started = Cluster(Path(home), nodes)
        try:
            started.start()
            yield started
        finally:
            started.stop()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes, ``n1`` and ``n2``."""
    with running([Node("n1"), Node("n2")]) as started:
        yield started


@pytest.fixture
def apart() -> Iterator[Cluster]:
    """Two nodes in network namespaces of their own, each with two networks, ``slow`` and ``fast``; SLURM uses ``slow``.

    Skips without the right to make namespaces.
    """
    with two_namespaces() as (first, second):
        nodes = [Node(f"n{number}", f"10.213.1.{number}", inside(name)) for number, name in ((1, first), (2, second))]
        with running(nodes) as started:
            yield started
