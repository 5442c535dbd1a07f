"""Damaged archives and indexes: an error that says so, or what is really there; nothing else, and at once."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xxhash
from archives import BLOCK, FORMATS, archive, by_tarfile, cut, header_positions, scanned, seal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from webdataset.tariterators import group_by_keys

from mmtrain.data import ShardIndex
from mmtrain.data.shards.index import index_path, write_index
from mmtrain.data.shards.sidecar import Sidecar
from mmtrain.data.shards.tar import Member
from mmtrain.errors import DataError

ARCHIVES = {format: archive(format) for format in FORMATS}
HEADERS = {format: header_positions(content) for format, content in ARCHIVES.items()}
CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
FAST = settings(max_examples=250, deadline=None, suppress_health_check=CHECKS)
LONG = settings(FAST, max_examples=2000)

# Fields of a header, and what programs have put there.
NUMBERS = (b"", b"0", b"7" * 11, b"7" * 12, b"-1", b"+1", b"1_0", b"0o7", b"9", b"\x80" + b"\xff" * 11, b"\xff" * 12)
FIELDS = {
    (0, 100): (b"", b"a/", b"../../b.txt", b"/etc/passwd.txt", b"\xff.txt", b"a\nb.c.d", b"__meta__", b"x" * 100),
    (124, 136): NUMBERS,
    (148, 156): NUMBERS,
    (156, 157): tuple(b"\x0001234567LKxgXSDVA"[n : n + 1] for n in range(18)),
    (257, 265): (b"", b"ustar\x0000", b"ustar  \0", b"junk"),
    (345, 500): (b"", b"prefix", b"\0junk", b"13637432100\0" * 3, b"p" * 155),
}
RECORDS = (
    b"0 path=b.txt\n",
    b"1 path=b.txt\n",
    b"14 path=b.txt\n",
    b"14 path=b.txt/",
    b"15 path=b.txt/\n",
    b"99999999999999999999 path=b\n",
    b"10 size=3\n14 path=c.txt\n",
    b"11 size=-1\n",
    b"12 size=1e3\n",
    b"28 size=99999999999999999999\n",
    b"8 path=\n",
    b"5 =x\n14 path=b.txt\n",
    b"16 path=\xff\xfe.txt\n",
    b"22 hdrcharset=BINARY\n",
    b"24 GNU.sparse.major=1.0\n",
)

MAGIC = b"MMIDX\0\2\0"


def poke(content: bytearray, position: int, data: bytes) -> None:
    position %= max(1, len(content))
    content[position : position + len(data)] = data


def poke_field(content: bytearray, header: int, field: tuple[int, int], data: bytes) -> None:
    start, stop = (header + place for place in field)
    if stop <= len(content):
        content[start:stop] = data[: stop - start].ljust(stop - start, b"\0")
        if field != (148, 156):
            seal(content, header)


def poke_record(content: bytearray, header: int, kind: bytes, data: bytes) -> None:
    """Makes a header an extended one, of one block."""
    for field, value in (((124, 136), b"%011o" % len(data)), ((156, 157), kind)):
        poke_field(content, header, field, value)
    poke(content, header + BLOCK, data.ljust(BLOCK, b"\0"))


def splice(content: bytearray, position: int, other: str, start: int, stop: int) -> None:
    content[position * BLOCK : position * BLOCK] = ARCHIVES[other][start * BLOCK : stop * BLOCK]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    format = draw(st.sampled_from(sorted(FORMATS)))
    content = bytearray(ARCHIVES[format])
    blocks = st.integers(0, len(content) // BLOCK)
    header = st.sampled_from(HEADERS[format])
    for _ in range(draw(st.integers(1, 3))):
        match draw(st.sampled_from(["byte", "field", "field", "field", "record", "record", "splice", "remove", "cut"])):
            case "byte":
                poke(content, draw(st.integers(0, len(content))), draw(st.binary(min_size=1, max_size=8)))
            case "field":
                field = draw(st.sampled_from(sorted(FIELDS)))
                value = draw(st.one_of(st.sampled_from(FIELDS[field]), st.binary(max_size=field[1] - field[0])))
                poke_field(content, draw(header), field, value)
            case "record":
                value = draw(st.one_of(st.sampled_from(RECORDS), st.binary(max_size=BLOCK)))
                poke_record(content, draw(header), draw(st.sampled_from([b"x", b"g", b"L", b"K", b"X"])), value)
            case "splice":
                splice(content, draw(blocks), draw(st.sampled_from(sorted(FORMATS))), draw(blocks), draw(blocks))
            case "remove":
                start = draw(blocks) * BLOCK
                del content[start : start + BLOCK * draw(st.integers(1, 4))]
            case "cut":
                del content[draw(st.integers(0, len(content))) :]
    return bytes(content)


def check_archive(folder: Path, content: bytes) -> None:
    path = folder / "a.tar"
    path.write_bytes(content)
    expected, data, is_whole = by_tarfile(content)
    try:
        found: list[Member] | None = scanned(path)
    except DataError as error:
        names_itself = str(path) in (error.where or "")
        found = None
    if found is None:
        assert names_itself
        return
    assert found[: len(expected)] == expected
    assert cut(content, found)[: len(expected)] == data
    assert len(found) == len(expected) or not is_whole
    try:
        info = write_index(path)
    except DataError:
        return  # two members of one name, or a reserved one
    index = ShardIndex(path)
    assert (len(index), info.bytes) == (info.samples, len(content))
    with path.open("rb") as file:
        read = [index.fetch(file.fileno(), number) for number in range(len(index))]
    files = [
        {"fname": member.name, "data": piece, "__url__": ""}
        for member, piece in zip(found, cut(content, found), strict=True)
    ]
    files = [file for file in files if not re.match(r"__[^/]*__($|/)", file["fname"])]
    assert read == [
        {name: value for name, value in sample.items() if name != "__url__"} for sample in group_by_keys(files)
    ]


@FAST
@given(content=damaged())
def test_a_damaged_archive_is_refused_or_read_as_tarfile_reads_it(tmp_path: Path, content: bytes) -> None:
    check_archive(tmp_path, content)


@pytest.mark.slow
@LONG
@given(content=damaged())
def test_many_damaged_archives_are_refused_or_read_as_tarfile_reads_them(tmp_path: Path, content: bytes) -> None:
    check_archive(tmp_path, content)


def sealed(body: bytes) -> bytes:
    """A sidecar whose checksum is right, whatever it says."""
    return MAGIC + xxhash.xxh3_64_digest(body)[::-1] + body


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "a.tar"
    path.write_bytes(ARCHIVES["pax"])
    write_index(path, ["text_length", "width"])
    return path


def check_index(shard: Path, data: bytes) -> None:
    """Opens a damaged sidecar: refused, or nothing in it points outside the shard or contradicts itself."""
    path = shard.with_name("damaged.mmidx")
    path.write_bytes(data)
    try:
        index = ShardIndex.read(path)
    except DataError:
        return
    end = 0
    for number, span in enumerate(index.spans().tolist()):
        assert tuple(span) == index.span(number)
        start, stop = span
        assert end + BLOCK <= start <= stop <= index.info.bytes
        end = stop
        with shard.open("rb") as file:
            sample = index.fetch(file.fileno(), number, verify=False)
        assert sample["__key__"] == index.key(number)
        assert len(sample) >= 2 and 0 <= index.checksum(number) < 2**64
    for column in index.columns:
        assert len(index.column(column)) == len(index)


@FAST
@given(data=st.data())
def test_no_change_of_an_index_goes_unseen(shard: Path, data: st.DataObject) -> None:
    original = index_path(shard).read_bytes()
    content = bytearray(original)
    if data.draw(st.booleans()):
        poke(content, data.draw(st.integers(0, len(content) - 1)), data.draw(st.binary(min_size=1, max_size=9)))
    else:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    if content != original:
        path = shard.with_name("changed.mmidx")
        path.write_bytes(content)
        with pytest.raises(DataError, match="damaged"):
            ShardIndex.read(path)


@st.composite
def forged(draw: st.DrawFn, original: bytes) -> bytes:
    """A sidecar with changes by someone who mends its checksum."""
    length = int.from_bytes(original[16:20], "little")
    header = json.loads(original[20 : 20 + length])
    body = bytearray(original[16:])
    number = st.one_of(st.integers(-2, 20), st.sampled_from([2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**200, 1e300, True]))
    anything = st.recursive(
        st.one_of(st.none(), number, st.text("ab/", max_size=3)), lambda inner: st.lists(inner, max_size=2)
    )
    if draw(st.booleans()):
        place = header["shard"] if draw(st.booleans()) else header
        place[draw(st.sampled_from([*place, "checksum"]))] = draw(st.one_of(number, anything))
        text = json.dumps(header).encode()
        arrays = original[-(-(20 + length) // 64) * 64 :]
        body = bytearray(len(text).to_bytes(4, "little") + text)
        body += bytes(-(16 + len(body)) % 64) + arrays
    for _ in range(draw(st.integers(0, 3))):
        poke(body, draw(st.integers(4, len(body) - 1)), draw(st.binary(min_size=1, max_size=8)))
    return sealed(bytes(body))


@settings(FAST, max_examples=100)
@given(data=st.data())
def test_a_forged_index_points_nowhere_outside_of_its_shard(shard: Path, data: st.DataObject) -> None:
    check_index(shard, data.draw(forged(index_path(shard).read_bytes())))


@pytest.mark.slow
@LONG
@given(data=st.data())
def test_many_forged_indexes_point_nowhere_outside_of_their_shard(shard: Path, data: st.DataObject) -> None:
    check_index(shard, data.draw(forged(index_path(shard).read_bytes())))


def arrays_changed(shard: Path, **arrays: object) -> bytes:
    return replace(Sidecar.from_bytes(index_path(shard).read_bytes()), **arrays).to_bytes()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "position", "value", "reason"),
    [
        ("sample_first", 1, 0, "samples without members"),
        ("sample_first", 1, 2**32 - 1, "samples without members"),
        ("sample_first", 3, 9, "samples without members"),
        ("sample_first", 0, 1, "samples without members"),
        ("key_end", 0, 2**32 - 1, "keys out of order"),
        ("key_end", 2, 0, "keys out of order"),
        ("member_offset", 0, 0, "overlap"),
        ("member_offset", 1, 1024, "overlap"),
        ("member_offset", 5, 2**64 - 1, "outside"),
        ("member_size", 5, 2**64 - 1, "outside"),
        ("member_size", 0, 2000, "overlap"),
        ("member_ext", 0, 99, "extensions"),
        ("member_ext", 1, 0, "extensions"),
    ],
)
def test_what_contradicts_itself_is_named(shard: Path, name: str, position: int, value: int, reason: str) -> None:
    array = np.array(getattr(Sidecar.from_bytes(index_path(shard).read_bytes()), name))
    array[position] = value
    with pytest.raises(ValueError, match=reason):
        Sidecar.from_bytes(arrays_changed(shard, **{name: array}))


def test_totals_are_those_of_the_columns(shard: Path) -> None:
    info = ShardIndex(shard).info
    with pytest.raises(ValueError, match="wrong totals"):
        Sidecar.from_bytes(arrays_changed(shard, info=replace(info, totals={**info.totals, "width": 7})))


def test_a_header_too_deep_to_read_is_refused(shard: Path) -> None:
    text = b"[" * 200_000
    with pytest.raises(ValueError, match="cannot be read"):
        Sidecar.from_bytes(sealed(len(text).to_bytes(4, "little") + text))


@pytest.mark.parametrize("value", [-1, 2**63, 2**200, 1e300, 3.0, True, None, "3", [3]])
@pytest.mark.parametrize("count", ["members", "key_bytes", "samples", "bytes"])
def test_a_count_that_is_none_is_refused(shard: Path, count: str, value: object) -> None:
    original = index_path(shard).read_bytes()
    length = int.from_bytes(original[16:20], "little")
    header = json.loads(original[20 : 20 + length])
    (header if count in header else header["shard"])[count] = value
    text = json.dumps(header).encode()
    with pytest.raises(ValueError, match="a count that is none"):
        Sidecar.from_bytes(sealed(len(text).to_bytes(4, "little") + text))
