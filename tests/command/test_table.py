"""Tables of the ``data`` commands and the doctor."""

from __future__ import annotations

import pytest

from mmtrain.command.data.table import print_table


def test_a_column_that_is_to_stay_whole_does_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    row = ("whole, 1 x process", "1,234 (567 to 89,012)", "a long note on what was measured")
    print_table("speed", ("stage", "samples/s", "note"), [row], left=("stage", "note"), whole=("stage",))
    assert "whole, 1 x process" in capsys.readouterr().out
