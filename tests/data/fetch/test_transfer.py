from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from web import Fault, Web, serve

from mmtrain.data.fetch.remote import shown
from mmtrain.data.fetch.transfer import Patience, download
from mmtrain.data.shards.manifest import join
from mmtrain.errors import DataError

CONTENT = bytes(range(256)) * 12000  # 3 MB: more than the sockets' buffers hold
HASH = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(retries=3, timeout=2.0, backoff=0.01)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a.tar").write_bytes(CONTENT)
    with serve(folder) as web:
        yield web


def get(web: Web, out: Path, name: str = "a.tar", patience: Patience = QUICK) -> None:
    download(f"{web.url}/{name}", out, size=len(CONTENT), sha256=HASH, patience=patience)


@pytest.mark.parametrize(
    "faults",
    [[], [500, 503], ["break"], ["break", "break", "break"], ["short"], ["wrong"], ["stall"], ["drip"]],
    ids=str,
)
def test_a_file_arrives_whole_through_a_faulty_server(web: Web, tmp_path: Path, faults: list[Fault]) -> None:
    web.faults["a.tar"] = list(faults)
    get(web, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert len(web.requests) == len(faults) + 1


def test_a_broken_download_goes_on_where_it_stopped(web: Web, tmp_path: Path) -> None:
    web.faults["a.tar"] = ["break", "break"]
    get(web, tmp_path / "out")
    half = len(CONTENT) // 2
    assert [wanted for _, wanted in web.requests] == [None, f"bytes={half}-", f"bytes={half + half // 2}-"]


def test_a_server_without_ranges_sends_all_again(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(CONTENT)
    with serve(tmp_path, ranges=False) as web:
        web.faults["a.tar"] = ["break"]
        get(web, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == CONTENT


def test_what_a_killed_process_left_is_verified_with_the_rest(web: Web, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(CONTENT[:1_000_000])
    get(web, tmp_path / "out")
    assert web.requests == [("a.tar", "bytes=1000000-")]
    (tmp_path / "out").write_bytes(b"x" * 1_000_000)
    get(web, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == CONTENT


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_what_cannot_succeed_is_not_tried_again(web: Web, tmp_path: Path, status: int) -> None:
    web.faults["a.tar"] = [status]
    with pytest.raises(DataError, match=rf"HTTP {status} .*\(1 attempt\)") as caught:
        get(web, tmp_path / "out")
    assert caught.value.where == f"{web.url}/a.tar"
    assert caught.value.mend
    assert len(web.requests) == 1


def test_an_error_says_how_often_it_was_tried_and_the_last_reason(web: Web, tmp_path: Path) -> None:
    web.faults["a.tar"] = [500, 500, 500, 503, 200]
    with pytest.raises(DataError, match=r"HTTP 503 .*\(4 attempts\)"):
        get(web, tmp_path / "out")


def test_delays_double_and_do_not_depend_on_chance() -> None:
    assert [Patience(backoff=0.5).delay(attempt) for attempt in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_a_file_that_was_replaced_is_not_fetched_over_and_over(web: Web, tmp_path: Path) -> None:
    (web.folder / "a.tar").write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(DataError, match=r"sha256 differs from the manifest's \(2 attempts\)") as caught:
        get(web, tmp_path / "out")
    assert caught.value.mend is not None and "index the data set anew" in caught.value.mend
    (web.folder / "a.tar").write_bytes(CONTENT + b"x")
    with pytest.raises(DataError, match=r"more than the 3072000 bytes"):
        get(web, tmp_path / "out")
    (web.folder / "a.tar").write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match=r"fewer bytes than the manifest says"):
        get(web, tmp_path / "out")


@pytest.mark.parametrize("fault", ["stall", "drip"])
def test_a_server_that_falls_silent_is_given_up_in_time(web: Web, tmp_path: Path, fault: Fault) -> None:
    web.faults["a.tar"] = [fault]
    began = time.monotonic()
    with pytest.raises(DataError, match=r"silent for 0\.3 s"):
        get(web, tmp_path / "out", patience=Patience(retries=0, timeout=0.3))
    assert time.monotonic() - began < 5


def test_a_server_that_does_not_answer_is_given_up_in_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/a.tar"
        with pytest.raises(DataError, match="silent|did not answer"):
            download(url, tmp_path / "out", patience=Patience(retries=0, timeout=0.3))
    with pytest.raises(DataError, match="refused"):
        download(url, tmp_path / "out", patience=Patience(retries=0))


def test_without_a_size_a_cut_body_is_still_found(web: Web, tmp_path: Path) -> None:
    web.faults["a.tar"] = ["break"]
    download(f"{web.url}/a.tar", tmp_path / "out", patience=QUICK)
    assert (tmp_path / "out").read_bytes() == CONTENT


def test_names_are_quoted_in_urls(web: Web, tmp_path: Path) -> None:
    name = "ein Bär #1 50%.tar"
    (web.folder / name).write_bytes(CONTENT)
    download(join(web.url, name), tmp_path / "out", patience=QUICK)
    assert web.requests == [(name, None)]


def test_a_disk_that_fails_is_not_blamed_on_the_server(web: Web, tmp_path: Path) -> None:
    out = tmp_path / "no folder" / "out"
    with pytest.raises(DataError, match="cannot be stored") as caught:
        get(web, out)
    assert caught.value.where == str(out)
    assert web.requests == []


def test_signatures_and_passwords_stay_out_of_messages() -> None:
    assert shown("https://me:secret@host/a/b.tar?X-Amz-Signature=secret#x") == "https://host/a/b.tar"


def test_a_command_brings_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(CONTENT)
    download(f"pipe:cat {tmp_path}/a.tar | cat", tmp_path / "out", size=len(CONTENT), sha256=HASH, patience=QUICK)
    assert (tmp_path / "out").read_bytes() == CONTENT


def test_a_command_that_fails_after_all_its_output_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(CONTENT)
    command = f"pipe:cat {tmp_path}/a.tar; echo the disk is on fire >&2; exit 3"
    with pytest.raises(DataError, match=r"exit code 3: the disk is on fire \(4 attempts\)"):
        download(command, tmp_path / "out", size=len(CONTENT), sha256=HASH, patience=QUICK)


def test_a_command_that_is_not_installed_is_tried_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"exit code 127.*\(1 attempt\)"):
        download("pipe:no-such-command x.tar", tmp_path / "out", patience=QUICK)


def test_a_command_that_hangs_is_ended_with_all_its_parts(tmp_path: Path) -> None:
    command = f"pipe:sh -c 'echo $$ > {tmp_path}/pid; echo x; exec sleep 100' | cat"
    with pytest.raises(DataError, match="silent"):
        download(command, tmp_path / "out", patience=Patience(retries=0, timeout=0.5))
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    os.kill(pid, 9)
    pytest.fail("the command still runs")


@pytest.mark.parametrize(
    "name", ["a; touch hacked.tar", "$(touch hacked).tar", "a b.tar", "'.tar", "-o.tar", "`x`.tar", ""]
)
def test_a_shards_name_is_never_run_as_a_command(name: str) -> None:
    for base in ("pipe:cat {name}", "pipe:cat '{name}'", 'pipe:ssh host cat "{name}"'):
        with pytest.raises(DataError, match="cannot stand in a command"):
            join(base, name)
    assert join("pipe:cat '/x/{name}' | cat", "a-0001.tar") == "pipe:cat '/x/a-0001.tar' | cat"


def test_fsspec_brings_a_file_from_any_byte_on(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(CONTENT)
    (tmp_path / "out").write_bytes(CONTENT[:5000])
    download(f"file://{tmp_path}/a.tar", tmp_path / "out", size=len(CONTENT), sha256=HASH, patience=QUICK)
    assert (tmp_path / "out").read_bytes() == CONTENT
    with pytest.raises(DataError, match=r"not there.*\(1 attempt\)"):
        download(f"file://{tmp_path}/b.tar", tmp_path / "out", patience=QUICK)


def test_a_protocol_that_is_unknown_or_not_installed_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Protocol not known: nosuch.*\(1 attempt\)"):
        download("nosuch://a/b.tar", tmp_path / "out", patience=QUICK)
    with pytest.raises(DataError, match=r"gs:// needs another package.*\(1 attempt\)"):
        download("gs://a/b.tar", tmp_path / "out", patience=QUICK)
