"""Energy is what counters counted, and absent where they did not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mmtrain.run import energy
from mmtrain.run.energy import CpuCounter, Energy, GpuCounter

LIMIT = 262_143_328_850


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    for name, start in (("intel-rapl:0", 1_000_000), ("intel-rapl:1", LIMIT - 500_000), ("intel-rapl:0:0", 5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{start}\n")
        (tmp_path / name / "max_energy_range_uj").write_text(f"{LIMIT}\n")
    return tmp_path


def count(powercap: Path, zone: int, microjoules: int) -> None:
    (powercap / f"intel-rapl:{zone}" / "energy_uj").write_text(str(microjoules))


def test_packages_are_summed_round_their_limit_and_their_parts_are_not(powercap: Path) -> None:
    counter = CpuCounter(powercap)
    count(powercap, 0, 3_000_000)
    count(powercap, 1, 250_000)
    (powercap / "intel-rapl:0:0" / "energy_uj").write_text("999999999")
    assert counter.joules() == pytest.approx(2.0 + 0.75)
    count(powercap, 0, 4_000_000)
    assert counter.joules() == pytest.approx(3.75), "what was counted is not counted again"


def test_a_counter_that_cannot_be_read_gives_nothing_rather_than_half(powercap: Path, tmp_path: Path) -> None:
    assert CpuCounter(tmp_path / "nowhere").joules() is None
    counter = CpuCounter(powercap)
    (powercap / "intel-rapl:1" / "energy_uj").unlink()
    assert counter.joules() is None
    count(powercap, 1, 1)
    assert counter.joules() is None, "what was lost stays lost"


def test_a_counter_that_may_have_gone_round_unseen_gives_nothing(
    powercap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(energy, "time", SimpleNamespace(monotonic=lambda: now[0]))
    polled, unpolled = CpuCounter(powercap), CpuCounter(powercap)
    for now[0] in (100.0, 170.0, 240.0):
        polled.poll()
    assert unpolled.joules() is None, "at 1,500 W it goes round in 175 s"
    assert polled.joules() == 0


def test_a_processor_has_no_gpu_counter() -> None:
    assert GpuCounter(torch.device("cpu")).joules() is None


def test_no_figure_at_all_is_no_energy() -> None:
    assert not Energy()
    assert Energy(gpu_joules=0.0)
    assert Energy(cpu_joules=1.0)
