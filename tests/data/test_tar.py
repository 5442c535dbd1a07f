from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from mmtrain.data.tar import Member, scan
from mmtrain.errors import DataError

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def write_odd(path: Path, format: int) -> Path:
    """Directories, links, long names, empty files, names outside ASCII."""
    with tarfile.open(path, "w", format=format) as tar:
        for name, kind in (("dir", tarfile.DIRTYPE), ("link", tarfile.SYMTYPE), ("pipe", tarfile.FIFOTYPE)):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "dir/a.jpg" if kind == tarfile.SYMTYPE else ""
            tar.addfile(header)
        long = "d" * 90 + "/" + "e" * 90 if format == tarfile.USTAR_FORMAT else "d" * 150 + "/" + "ü" * 120
        for name, size in (("dir/a.jpg", 513), ("empty.txt", 0), (long + ".txt", 512), ("ä.txt", 7)):
            header = tarfile.TarInfo(name)
            header.size = size
            tar.addfile(header, io.BytesIO(bytes(size)))
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_members_are_those_that_tarfile_finds(tmp_path: Path, name: str) -> None:
    path = write_odd(tmp_path / "a.tar", FORMATS[name])
    with tarfile.open(path) as tar:
        expected = [Member(info.name, info.offset_data, info.size) for info in tar if info.isreg()]
    assert list(scan(path)) == expected
    assert len(expected) == 4


def test_sizes_in_pax_headers_and_base_256_are_followed(tmp_path: Path) -> None:
    for format, size_field in ((tarfile.PAX_FORMAT, "pax"), (tarfile.GNU_FORMAT, "base-256")):
        header = tarfile.TarInfo("big.bin")
        header.size = 9 * 2**30  # over the 8 GiB that eleven octal digits hold
        path = tmp_path / f"{size_field}.tar"
        with path.open("wb") as file:
            file.write(header.tobuf(format))
            start = file.tell()
            file.truncate(start + header.size)  # a sparse file: takes no space
            file.seek(0, io.SEEK_END)
            file.write(header.tobuf(tarfile.USTAR_FORMAT) if header.size < 8**11 else bytes(0))
            file.write(bytes(1024))
        assert list(scan(path)) == [Member("big.bin", start, header.size)]


def test_no_data_follows_a_link_whatever_size_it_claims(tmp_path: Path) -> None:
    link, file = tarfile.TarInfo("link"), tarfile.TarInfo("a.txt")
    link.type, link.linkname, link.size = tarfile.LNKTYPE, "a.txt", 700
    file.size = 3
    path = tmp_path / "a.tar"
    path.write_bytes(link.tobuf() + file.tobuf() + b"abc".ljust(512, b"\0") + bytes(1024))
    assert list(scan(path)) == [Member("a.txt", 1024, 3)]


def damaged(tmp_path: Path, *, cut: int | None = None, poke: int | None = None) -> Path:
    path = write_odd(tmp_path / "a.tar", tarfile.USTAR_FORMAT)
    data = bytearray(path.read_bytes())
    if poke is not None:
        data[poke] ^= 1
    path.write_bytes(data[:cut])
    return path


@pytest.mark.parametrize(
    ("cut", "reason", "byte"),
    [
        (3 * 512 + 100, "end-of-archive marker is missing", 1536),
        (4 * 512 + 5, "a member ends at 2561", 1536),
        (6 * 512, "end-of-archive marker is missing", 3072),
    ],
)
def test_a_truncated_archive_names_shard_and_byte(tmp_path: Path, cut: int, reason: str, byte: int) -> None:
    path = damaged(tmp_path, cut=cut)
    with pytest.raises(DataError, match=reason) as caught:
        list(scan(path))
    assert caught.value.where == f"{path}, byte {byte}"
    assert caught.value.mend


def test_a_flipped_bit_in_a_header_is_found(tmp_path: Path) -> None:
    path = damaged(tmp_path, poke=3 * 512 + 3)
    with pytest.raises(DataError, match="checksum") as caught:
        list(scan(path))
    assert caught.value.where == f"{path}, byte 1536"


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "gzip-inside.tar"])
def test_a_compressed_archive_is_refused_with_the_mend(tmp_path: Path, name: str) -> None:
    plain = write_odd(tmp_path / "plain.tar", tarfile.USTAR_FORMAT)
    path = tmp_path / name
    path.write_bytes(gzip.compress(plain.read_bytes()))
    with pytest.raises(DataError, match="a compressed archive") as caught:
        list(scan(path))
    assert "gunzip" in str(caught.value)
