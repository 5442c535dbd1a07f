from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from archives import BLOCK, FORMATS, archive, by_tarfile, header_positions, scanned, seal

from mmtrain.data.shards.tar import Member, refuse_compressed, scan
from mmtrain.errors import DataError


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    return path


@dataclass
class Sparse:
    """An archive of some headers, each at its place, and nothing between them."""

    path: Path
    headers: dict[int, bytes]
    size: int

    def read(self, start: int, stop: int) -> bytes:
        return self.headers.get(start, bytes(stop - start))[: stop - start]


@pytest.mark.parametrize("format", FORMATS)
def test_members_are_those_that_tarfile_finds(tmp_path: Path, format: str) -> None:
    content = archive(format)
    expected, _, is_whole = by_tarfile(content)
    assert scanned(written(tmp_path, content)) == expected
    assert len(expected) == 7 and is_whole


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_sizes_over_8_gib_are_followed(tmp_path: Path, format: int) -> None:
    big, small = tarfile.TarInfo("big.bin"), tarfile.TarInfo("small.bin")
    big.size = 9 * 2**30  # more than eleven octal digits hold
    head = big.tobuf(format)
    end = len(head) + big.size
    headers = {position: head[position : position + BLOCK] for position in range(0, len(head), BLOCK)}
    found = list(scan(Sparse(tmp_path / "a.tar", headers | {end: small.tobuf()}, end + 3 * BLOCK)))
    assert found == [Member("big.bin", len(head), big.size), Member("small.bin", end + BLOCK, 0)]


def test_no_data_follows_a_link_whatever_size_it_claims(tmp_path: Path) -> None:
    link, file = tarfile.TarInfo("link"), tarfile.TarInfo("a.txt")
    link.type, link.linkname, link.size = tarfile.LNKTYPE, "a.txt", 700
    file.size = 3
    content = link.tobuf() + file.tobuf() + b"abc".ljust(BLOCK, b"\0") + bytes(2 * BLOCK)
    assert scanned(written(tmp_path, content)) == [Member("a.txt", 1024, 3)]


def damaged(tmp_path: Path, *, cut: int | None = None, poke: int | None = None) -> Path:
    data = bytearray(archive("ustar"))
    if poke is not None:
        data[poke] ^= 1
    return written(tmp_path, data[:cut])


@pytest.mark.parametrize(
    ("cut", "reason", "byte"),
    [
        (2 * BLOCK + 100, "end-of-archive marker is missing", 1024),
        (3 * BLOCK + 5, "a member ends at 2049", 1024),
        (5 * BLOCK, "end-of-archive marker is missing", 2560),
    ],
)
def test_a_truncated_archive_names_shard_and_byte(tmp_path: Path, cut: int, reason: str, byte: int) -> None:
    path = damaged(tmp_path, cut=cut)
    with pytest.raises(DataError, match=reason) as caught:
        scanned(path)
    assert caught.value.where == f"{path}, byte {byte}"
    assert caught.value.mend


@pytest.mark.parametrize("byte", [3, 150, 255, 256, 511])
def test_a_flipped_bit_in_a_header_is_found(tmp_path: Path, byte: int) -> None:
    path = damaged(tmp_path, poke=2 * BLOCK + byte)
    with pytest.raises(DataError, match="checksum") as caught:
        scanned(path)
    assert caught.value.where == f"{path}, byte 1024"


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (b"\xff" * 12, "not an octal number"),  # -1 in base 256
        (b"\x80" + b"\xff" * 11, "a member ends at"),
        (b"-0000000001\0", "not an octal number"),
        (b"0o17\0" + bytes(7), "not an octal number"),
        (b"1_0\0" + bytes(8), "not an octal number"),
        (b"00000000009\0", "not an octal number"),
    ],
)
def test_a_size_that_is_none_is_refused(tmp_path: Path, size: bytes, reason: str) -> None:
    content = bytearray(archive("ustar"))
    content[2 * BLOCK + 124 : 2 * BLOCK + 136] = size
    seal(content, 2 * BLOCK)
    with pytest.raises(DataError, match=reason):
        scanned(written(tmp_path, content))


def with_records(records: bytes, kind: bytes = b"x", claim: int | None = None) -> bytes:
    """An archive of one member of 3 bytes behind an extended header."""
    header, file = tarfile.TarInfo("header"), tarfile.TarInfo("a.txt")
    header.type, header.size = kind, len(records) if claim is None else claim
    file.size = 3
    padding = bytes(-len(records) % BLOCK)
    return header.tobuf() + records + padding + file.tobuf() + b"abc".ljust(BLOCK, b"\0") + bytes(2 * BLOCK)


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        (b"0 path=b.txt\n", "a broken record"),
        (b"5 path=b.txt\n", "a broken record"),
        (b"13 path=b.txt\n", "a broken record"),
        (b"99999 path=b.txt\n", "a broken record"),
        (b"5 =x\n14 path=b.txt\n", "a broken record"),
        (b"path=b.txt\n", "a record without a length"),
        (b"-14 path=b.txt\n", "a record without a length"),
        (b"\xd9\xa1 path=b.txt\n", "a record without a length"),  # an Arabic one
        (b"9" * 5000 + b" path=b.txt\n", "a record without a length"),
        (b"12 size=x99\n", "a size of 'x99'"),
        (b"12 size=-10\n", "a size of '-10'"),
        (b"12 size=\xd9\xa1\xd9\n", "a size of"),
        (b"13 size=9999\n", "a member ends at"),
        (b"24 GNU.sparse.major=1.0\n", "sparse"),
    ],
)
def test_a_broken_pax_header_is_refused(tmp_path: Path, records: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        scanned(written(tmp_path, with_records(records)))


def test_of_a_global_pax_header_only_the_path_is_taken(tmp_path: Path) -> None:
    assert scanned(written(tmp_path, with_records(b"14 path=b.txt\n", b"g"))) == [Member("b.txt", 1536, 3)]
    with pytest.raises(DataError, match="one size for all"):
        scanned(written(tmp_path, with_records(b"10 size=3\n", b"g")))


def test_a_path_in_a_pax_header_loses_its_last_slash_as_for_tarfile(tmp_path: Path) -> None:
    content = with_records(b"15 path=b.txt/\n")
    assert scanned(written(tmp_path, content)) == by_tarfile(content)[0] == [Member("b.txt", 1536, 3)]


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g"])
def test_an_extended_header_that_claims_gigabytes_is_not_read(tmp_path: Path, kind: bytes) -> None:
    header = tarfile.TarInfo("header")
    header.type, header.size = kind, 4 * 2**30
    source = Sparse(tmp_path / "a.tar", {0: header.tobuf()}, 5 * 2**30)
    with pytest.raises(DataError, match="claims 4294967296 bytes"):
        list(scan(source))


@pytest.mark.timeout(30)  # half a second; copying the rest at each record takes a minute
def test_long_headers_take_linear_time(tmp_path: Path) -> None:
    assert scanned(written(tmp_path, with_records(b"6 a=b\n" * 170_000))) == [Member("a.txt", 1_021_440, 3)]


def test_of_two_names_for_a_member_the_first_counts_as_for_tarfile(tmp_path: Path) -> None:
    first, second = with_records(b"first.txt\0", b"L")[:1024], with_records(b"19 path=second.txt\n")
    content = first + second
    expected, _, _ = by_tarfile(content)
    assert scanned(written(tmp_path, content)) == expected
    assert expected[0].name == "first.txt"


def test_a_sparse_member_is_refused(tmp_path: Path) -> None:
    content = bytearray(archive("gnu"))
    position = next(p for p in header_positions(bytes(content)) if content[p : p + 9] == b"a/b/0001.")
    content[position + 156 : position + 157] = b"S"
    seal(content, position)
    with pytest.raises(DataError, match="sparse"):
        scanned(written(tmp_path, content))


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
def test_a_compressed_archive_is_refused_with_the_mend(tmp_path: Path, compress: object) -> None:
    for content in (archive("ustar"), b""):
        path = written(tmp_path, compress(content))  # type: ignore[operator]
        with pytest.raises(DataError, match="a compressed archive") as caught:
            scanned(path)
        assert "gunzip" in str(caught.value)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar.zst"])
def test_a_compressed_archive_is_known_by_its_name(name: str) -> None:
    with pytest.raises(DataError, match="a compressed archive"):
        refuse_compressed(Path(name))


def test_a_member_may_be_called_like_a_compressed_archive(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("BZh9.txt"))
    assert scanned(written(tmp_path, file.getvalue())) == [Member("BZh9.txt", 512, 0)]
