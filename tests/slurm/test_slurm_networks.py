"""Nodes with several addresses, whose names lead nowhere: the ranks meet all the same."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cluster import Cluster, wait_until
from tiny_run import ROOT, tiny


def sent(cluster: Cluster, interface: str) -> int:
    """Bytes that the first node sent over an interface."""
    return int(cluster.run("cat", f"/sys/class/net/{interface}/statistics/tx_bytes"))


@pytest.mark.slow
def test_ranks_meet_on_the_network_of_slurm_or_on_the_one_that_is_named(
    apart: Cluster, shapes: Path, tmp_path: Path
) -> None:
    train = ["--nodes=2", "--ntasks-per-node=1", ROOT / "slurm" / "train.sbatch"]
    shared = ["strategy=ddp", "budget.samples=64", "trainer.eval_every_n_steps=4"]
    before = sent(apart, "slow"), sent(apart, "fast")
    job = apart.submit(*train, *tiny(shapes, tmp_path / "slow", *shared), cwd=tmp_path)
    wait_until(lambda: apart.state(job) in ("COMPLETED", "FAILED"), "the job ends", 120)
    assert apart.state(job) == "COMPLETED", (tmp_path / f"slurm-{job}.out").read_text()[-4000:]
    assert (tmp_path / "slow" / "DONE").exists()
    assert sent(apart, "slow") - before[0] > 100_000
    assert sent(apart, "fast") - before[1] < 10_000

    slow = sent(apart, "slow")
    job = apart.submit(*train, *tiny(shapes, tmp_path / "fast", *shared), cwd=tmp_path, MASTER_ADDR="10.213.2.1")
    wait_until(lambda: apart.state(job) in ("COMPLETED", "FAILED"), "the job ends", 120)
    assert (tmp_path / "fast" / "DONE").exists(), (tmp_path / f"slurm-{job}.out").read_text()[-4000:]
    assert sent(apart, "fast") - before[1] > 100_000
    assert sent(apart, "slow") - slow < sent(apart, "fast"), "SLURM's own messages stay there"


def test_the_interface_is_the_one_whose_address_is_used(apart: Cluster) -> None:
    towards = "import sys; from mmtrain.run.network import interface_towards as to; print(*map(to, sys.argv[1:]))"
    addresses = ("10.213.1.2", "10.213.2.2", "10.213.2.1", "127.0.0.1", "192.0.2.1")
    found = apart.run(sys.executable, "-c", towards, *addresses).split()
    assert found == ["slow", "fast", "fast", "lo", "None"]
