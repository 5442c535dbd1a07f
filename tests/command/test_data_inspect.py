"""``data inspect``: figures, samples, pictures, and a verification that finds everything."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmtrain.command.data import data
from mmtrain.command.data.grid import draw_grid
from mmtrain.data.shards.build import build_manifest
from mmtrain.data.shards.index import index_path
from mmtrain.data.shards.write import write_shards
from mmtrain.errors import DataError


def coloured(colour: str, size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve red pictures of growing width, in shards of four."""
    samples = [
        (f"{number:03d}", {"png": coloured("red", (10 + number, 20)), "txt": f"caption {number}".encode()})
        for number in range(12)
    ]
    paths = write_shards(samples, tmp_path / "set", "s", samples_per_shard=4)
    build_manifest(paths, tmp_path / "set" / "manifest.json", columns=["width"])
    return tmp_path / "set"


def rows(printed: str) -> dict[str, list[str]]:
    """Rows of tables by their first cell."""
    lines = [[cell.strip() for cell in line.strip("│").split("│")] for line in printed.splitlines() if "│" in line]
    return {first: rest for first, *rest in lines}


def test_sizes_and_columns_are_summed_up(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data(["inspect", str(folder)])
    table = rows(capsys.readouterr().out)
    assert table["width"] == ["10", "16", "21", str(sum(range(10, 22)))]
    assert table["set"][:2] == ["12", "3"]
    low, median, high, total = (int(cell.replace(",", "")) for cell in table["bytes"])
    assert 512 < low <= median <= high < 4096
    assert total == sum(path.stat().st_size for path in folder.glob("*.tar"))


def test_a_name_that_would_steer_the_terminal_is_shown_harmless(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = write_shards([("a\x1b[2J\udcff", {"txt": b"x\x1b]0;owned\x07"})], tmp_path, "s", samples_per_shard=1)
    build_manifest(paths, tmp_path / "manifest.json")
    data(["inspect", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "\x07" not in printed
    assert "a\ufffd[2J\ufffd" in printed


def test_an_empty_set_is_inspected(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(bytes(1024))
    data(["inspect", str(tmp_path / "a.tar"), "--verify", "--grid", str(tmp_path / "grid.png")])


def test_a_grid_shows_every_picture_with_its_caption(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "grid.png"
    data(["inspect", str(folder), "--samples", "7", "--grid", str(path)])
    grid = np.asarray(Image.open(path).convert("RGB"))
    red = (grid == (255, 0, 0)).all(2)
    columns = np.flatnonzero(np.diff(np.concatenate([[False], red.any(0), [False]]).astype(int)) == 1)
    lines = np.flatnonzero(np.diff(np.concatenate([[False], red.any(1), [False]]).astype(int)) == 1)
    assert (len(columns), len(lines)) == (6, 2), "six in a row"
    assert (grid.sum(2) < 200).any(), "captions are black"


def test_a_grid_shows_what_has_no_picture_too() -> None:
    samples = [({"txt": b"x"}, "no picture"), ({"jpg": b"damaged"}, "a long caption " * 30), ({"png": b""}, "")]
    assert draw_grid(samples).size == (3 * 168 + 8, 160 + 3 * 16 + 16 + 8)
    bomb = bytearray(coloured("red", (1, 1)))
    bomb[16:24] = b"\x00\x01\x00\x00" * 2  # 65,536 x 65,536 pixels
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    assert draw_grid([({"png": bytes(bomb)}, "bomb")]).getcolors(10**6) is not None


def test_a_grid_that_cannot_be_written_is_told(folder: Path) -> None:
    with pytest.raises(DataError, match="grid cannot be written"):
        data(["inspect", str(folder), "--grid", str(folder / "nowhere" / "grid.png")])


def damage(folder: Path, shard: int, *texts: bytes) -> None:
    path = folder / f"s-{shard:06d}.tar"
    content = bytearray(path.read_bytes())
    for text in texts:
        content[content.index(text)] ^= 1
    path.write_bytes(content)


def test_verification_lists_all_that_is_damaged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(folder, 0, b"caption 1", b"caption 3")
    damage(folder, 1, b"006.png")  # within a sample's span: the header of its first member is not
    (folder / "s-000002.tar").unlink()
    with pytest.raises(DataError, match="4 samples or shards are damaged") as refused:
        data(["inspect", str(folder), "--samples", "0", "--verify"])
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith(str(folder) + "/")]
    places = [line.removeprefix(f"{folder}/").partition(": ")[0] for line in said]
    assert places == ["s-000000.tar, key 001", "s-000000.tar, key 003", "s-000001.tar", "s-000002.tar"]
    assert "changed outside its samples" in said[2] and "cannot be read" in said[3]
    assert str(refused.value.where).endswith("s-000000.tar, key 001")


def test_verification_finds_a_shard_cut_short_and_a_damaged_index(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "s-000000.tar"
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(DataError, match="the manifest says"):
        data(["inspect", str(folder), "--samples", "0", "--verify"])
    index = index_path(folder / "s-000001.tar")
    index.write_bytes(index.read_bytes()[:-1])
    with pytest.raises(DataError, match="index of a shard is damaged"):
        data(["inspect", str(folder), "--samples", "0", "--verify"])
