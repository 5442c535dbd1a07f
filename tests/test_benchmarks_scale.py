"""The benchmark of scaling: formulas at points computed by hand, their limits, and a real measurement of two ranks."""

from __future__ import annotations

import importlib
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
DEVICES = [2**power for power in range(13)]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("scaling.cluster")


@pytest.fixture
def analytic(cluster: Any) -> Any:
    return importlib.import_module("scaling.analytic")


def nodes_of(cluster: Any, node: int, *, intra: float = 8.0, inter: float = 8.0) -> Any:
    """Networks without latency, of 1 GB/s unless said otherwise."""
    return cluster.Cluster(cluster.Link(intra, 0.0), cluster.Link(inter, 0.0), node=node)


def small(analytic: Any, **options: Any) -> Any:
    """0.2 s forward, 0.4 s backward, 0.3 s of update; two blocks that are a bucket of DDP's each."""
    sizes = {"params": 14_107_200, "outside": 1_000_000, "blocks": 2}
    return analytic.Workload(**{"step_s": 0.9, "update_s": 0.3, **sizes, **options})


def test_collectives_cost_what_was_computed_by_hand(cluster: Any) -> None:
    ring = cluster.Cluster(cluster.Link(800.0, 1.0), cluster.Link(80.0, 10.0), node=4)
    assert ring.gather(1e9, 4) == pytest.approx(7.5e-3 + 3e-6)  # 3/4 of 1 GB at 100 GB/s
    assert ring.gather(1e9, 8) == pytest.approx(12.5e-3 + 16e-6)  # half of it over 4 adapters of 10 GB/s
    assert ring.reduce(1e9, 4) == pytest.approx(2 * (7.5e-3 + 3e-6))
    assert ring.reduce(1e9, 8) == pytest.approx(2 * (12.5e-3 + 13e-6))
    assert ring.reduce_between_nodes(1e9, 4) == pytest.approx(2 * (75e-3 + 20e-6))
    log = cluster.Cluster(ring.intra, ring.inter, node=4, gather_hops="log")
    assert log.gather(1e9, 8) == pytest.approx(12.5e-3 + 12e-6)
    with pytest.raises(ValueError, match="do not fill"):
        ring.gather(1e9, 6)


def test_a_measured_all_reduce_gives_its_network_back(cluster: Any) -> None:
    collectives = importlib.import_module("scaling.collectives")
    link = cluster.Link(16.0, 50.0)
    one = cluster.Cluster(link, link, node=4, gather_hops="ring")
    small, large = one.reduce(0, 4), one.reduce(1e8, 4)
    times = {"small": {"cpu": [0.0, small, 9.9]}, "large": {"cpu": [0.0, large, 9.9]}}
    found = collectives.link_of(times, "cpu", 100_000_000, 4)
    assert found.gbps == pytest.approx(16.0) and found.latency_us == pytest.approx(50.0)


def test_overlapped_units_expose_one_of_the_shorter(analytic: Any) -> None:
    assert analytic.flow(4, 3.0, 2.0, 1.0) == 3 + 3 * 3 + 2
    assert analytic.flow(4, 2.0, 3.0, 1.0) == 2 + 3 * 3 + 3
    assert analytic.flow(4, 3.0, 2.0, 0.0) == 4 * 5
    assert analytic.flow(4, 3.0, 2.0, 0.5) == (14 + 20) / 2


def test_steps_take_what_was_computed_by_hand(cluster: Any, analytic: Any) -> None:
    two, work = nodes_of(cluster, 2), small(analytic)
    assert analytic.ddp(work, two, 2) == pytest.approx(0.2 + (0.2 + 0.2 + 0.0262144) + 0.004 + 0.3)
    assert analytic.zero2(work, two, 2) == pytest.approx(0.6 + 0.0564288 + 0.0282144 + 0.15)
    forward, backward = 0.1 + 0.1 + 0.0131072, 0.2 + 0.2 + 2 * 0.0131072
    assert analytic.fsdp(work, two, 2) == pytest.approx(forward + backward + 2 * 0.002 + 0.15)
    backward = 0.2 + 0.2 + 3 * 0.0131072
    assert analytic.hsdp(work, two, 4) == pytest.approx(forward + backward + 3 * 0.002 + 0.15)
    halved = small(analytic, bytes_per_param=2)
    saved = 0.5 * 0.0131072 * 2  # of the exposed all-gather of each pass
    assert analytic.fsdp(work, two, 2) - analytic.fsdp(halved, two, 2) == pytest.approx(saved)


def test_contrastive_losses_add_products_and_messages(cluster: Any, analytic: Any) -> None:
    loss = analytic.Contrastive(rows=10, width=4, flops_per_s=1e6)
    products, features, sums = 8 * 10 * 10 * 4 / 1e6, 0.5 * 320e-9, 80e-9
    assert loss.seconds(nodes_of(cluster, 2), 2) == pytest.approx(products + 2 * features + 2 * sums)
    work = small(analytic, contrastive=loss)
    added = analytic.step_seconds("ddp", work, nodes_of(cluster, 2), 2) - analytic.ddp(work, nodes_of(cluster, 2), 2)
    assert added == pytest.approx(products + 2 * features + 2 * sums)


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3", "fsdp", "hsdp"])
def test_limits_of_every_strategy(strategy: str, cluster: Any, analytic: Any) -> None:
    loss = analytic.Contrastive(rows=10, width=4, flops_per_s=1e6)
    work = small(analytic, update_s=0.0, contrastive=loss)
    slow, fast = (cluster.Cluster(cluster.Link(g, 1.0), cluster.Link(g / 8, 5.0)) for g in (100.0, 1000.0))
    for alike in (small(analytic), work):
        assert analytic.step_seconds(strategy, alike, slow, 1) == alike.step_s
    times = [analytic.step_seconds(strategy, work, slow, count) for count in DEVICES]
    assert times == sorted(times) and times[0] < times[-1]
    faster = [analytic.step_seconds(strategy, work, fast, count) for count in DEVICES]
    assert all(one < other for one, other in zip(faster[1:], times[1:], strict=True))
    free = small(analytic, update_s=0.0)
    perfect = nodes_of(cluster, 8, intra=math.inf, inter=math.inf)
    assert all(analytic.step_seconds(strategy, free, perfect, n) == pytest.approx(free.step_s) for n in DEVICES)
    serial = small(analytic, update_s=0.0, overlap=0.0)
    assert analytic.step_seconds(strategy, serial, slow, 64) >= analytic.step_seconds(strategy, free, slow, 64)


def test_hybrid_sharding_of_one_node_is_full_sharding(cluster: Any, analytic: Any) -> None:
    work, one = small(analytic), nodes_of(cluster, 8)
    assert analytic.hsdp(work, one, 8) == analytic.fsdp(work, one, 8)


def test_state_of_the_model_is_what_the_papers_say(analytic: Any) -> None:
    wanted = {
        "none": 1600,
        "ddp": 1600,
        "zero1": 1100,
        "zero2": 800,
        "zero3": 80 + 500,
        "fsdp": 400,
        "hsdp": 400,
        "tp": 640,
    }
    assert {name: analytic.state_bytes(name, 100, 20, 4) for name in wanted} == wanted
    assert analytic.state_bytes("zero3", 100, 20, 1) == 2000


def test_ranks_are_predicted_from_one_process_and_the_all_reduce(cluster: Any, analytic: Any) -> None:
    table, task = (importlib.import_module(f"scaling.{name}") for name in ("table", "task"))

    def run(strategy: str, world: int, rows: int, cpu: float = 2.0) -> Any:
        same = {"tokens": 8, "steps": 3, "saves": 0, "device": "cpu", "precision": "32-true", "tiny": True}
        sizes = {"params": 14_107_200, "outside": 1_000_000, "blocks": 2}
        times = {"steps": [9.0] * 3, "cpu": [cpu * world] * 3, "update_cpu": [0.2] * 3}
        return table.Run(task.Task(strategy, world, rows, **same), {**sizes, **times})

    message, two = 28 * 2**20, nodes_of(cluster, 2)
    times = {"all-reduce": {"small": {"cpu": [0.0]}, "large": {"cpu": [two.reduce(message, 2)]}}}
    runs = [run("none", 1, 4), run("ddp", 2, 4), run("fsdp", 2, 2), run("zero2", 1, 4, 3.0), run("zero2", 2, 4)]
    runs += [run("ddp", 4, 1)]
    report = table.Report(runs, 4, {2: times}, message, on_cpu=True)
    weak = small(analytic, step_s=2.0, update_s=0.2, overlap=0.0)
    strong = small(analytic, step_s=1.8 * 2 / 4 + 0.2, update_s=0.2, overlap=0.0)
    copying = small(analytic, step_s=3.0, update_s=0.2, overlap=0.0)
    wanted = [2.0, analytic.ddp(weak, two, 2), analytic.fsdp(strong, two, 2), 3.0, analytic.zero2(copying, two, 2)]
    assert [table.predicted(report, one.task) for one in runs[:-1]] == pytest.approx(wanted)
    assert table.predicted(report, runs[-1].task) is None, "four ranks have no all-reduce"


@pytest.mark.slow
def test_two_ranks_are_measured_and_every_row_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    scale, state_bytes = importlib.import_module("scale"), importlib.import_module("scaling.analytic").state_bytes
    out = tmp_path / "figures.json"
    tiny = ["--tiny", "--rows", "2", "--tokens", "16", "--steps", "2", "--saves", "1", "--json", str(out)]
    monkeypatch.setattr(
        sys,
        "argv",
        ["scale.py", "measure", *tiny, "--strategies", "fsdp", "tp", "--processes", "2", "--scaling", "weak"],
    )
    scale.main()
    said = capsys.readouterr().out
    assert said.count("| none | 1 |") == 3
    assert said.count("| fsdp | 2 |") == 4 and said.count("| fsdp | 2 | in the background |") == 1
    assert said.count("| tp | 2 | in the background |") == 1 and "| tp | 2 | 2 |" in said
    assert all(f"| {name} | 2 |" in said for name in ("all-reduce", "all-gather", "reduce-scatter"))
    known = out.read_bytes()
    for run in json.loads(known)["runs"]:
        task, result = run["task"], run["result"]
        assert len(result["steps"]) == 2 and len(result["held"]) == task["world"]
        theory = state_bytes(task["strategy"], result["params"], result["outside"], task["world"])
        for held in result["held"]:
            assert held["weights"] + held["gradients"] + held["optimizer"] == pytest.approx(theory, rel=1e-3)
    scale.main()
    assert out.read_bytes() == known, "what is known is not measured again"
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["scale.py", "predict", "--measured", str(out)])
    scale.main()
    step_ms = 1000 * statistics.median(json.loads(known)["runs"][0]["result"]["steps"])
    assert f"**as measured; {step_ms:,.1f} ms on one**" in capsys.readouterr().out


def test_predictions_are_printed_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    scale = importlib.import_module("scale")
    out = tmp_path / "scaling.png"
    monkeypatch.setattr(sys, "argv", ["scale.py", "predict", "--plot", str(out)])
    scale.main()
    said = capsys.readouterr().out
    assert all(said.count(f"| {count:,} | ") == 3 for count in (8, 64, 512, 4096))
    assert said.count("no room") == 10  # under DDP, for the 108 GB of a model of 6.7 billion parameters
    assert "assumed" in said and out.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(sys, "argv", ["scale.py", "predict", "--step-ms", "500", "--overlap", "0"])
    scale.main()
    said = capsys.readouterr().out
    assert "500.0 ms on one" in said and "assumed" not in said
