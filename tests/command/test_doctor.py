from __future__ import annotations

import json
from pathlib import Path

from tiny_run import Program, tiny


def test_doctor_tells_stages_layout_and_verdict_and_leaves_no_run(
    program: Program, shapes: Path, tmp_path: Path
) -> None:
    said = program("doctor", "--seconds", "0.05", *tiny(shapes, tmp_path / "run", "data.num_workers=1"))
    assert said.status == 0, said.err
    for word in ("read, first", "transport", "whole, 1 x process", "the config", "3 shards of 17 samples", "bounds"):
        assert word in said.out
    assert not (tmp_path / "run").exists()


def test_doctor_compares_with_the_run_of_the_same_name(program: Program, shapes: Path, tmp_path: Path) -> None:
    row = {"step": 5, "throughput/samples_per_second": 1e9, "throughput/data_wait": 0.9}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    said = program("doctor", *tiny(shapes, tmp_path / "run"), "--seconds=0.05", "--scan")
    assert said.status == 0, said.err
    assert "Training waits" in said.out
    assert "took 1,000,000,000 samples/s" in said.out


def test_doctor_lays_the_shards_out_for_all_ranks_of_the_config(program: Program, shapes: Path, tmp_path: Path) -> None:
    arguments = tiny(shapes, tmp_path / "run", "trainer.devices=2", "trainer.num_nodes=2")
    said = program("doctor", "--seconds", "0.05", *arguments)
    assert said.status == 0, said.err
    assert "rank 0 of 4" in said.out
    rows = [line.replace("│", " ").split()[:3] for line in said.out.splitlines() if line.startswith("│")]
    assert ["1", "16", "4"] in rows
    assert ["4", "4", "1"] in rows


def test_a_mistake_is_told_before_anything_is_measured(program: Program, shapes: Path, tmp_path: Path) -> None:
    said = program("doctor", *tiny(shapes, tmp_path / "run", "data.lane=4"))
    assert said.status == 1
    assert "lane" in said.err
    assert said.out == ""
    said = program("doctor", "--seconds", "0", *tiny(shapes, tmp_path / "run"))
    assert said.status == 1
    assert "--seconds" in said.err
