"""Reads what a URL names, from any byte on: http(s), ``pipe:`` commands, and every protocol of fsspec.

HTTP goes through the standard library. fsspec's goes through an event loop in a thread of its own: it has no limit on
silence but one of five minutes on the whole transfer, which ends every large shard on a slow line, and does not survive
a fork.
"""

from __future__ import annotations

import http.client
import os
import re
import select
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, TypeVar

import fsspec

CHUNK = 1 << 20
_LEAST_BYTES_PER_SECOND = 1024
_T = TypeVar("_T")

Pieces = Iterator[tuple[int, bytes]]
"""Consecutive bytes of a file and where each piece starts. Not every server can start elsewhere than at 0."""


class PermanentError(Exception):
    """Asking again would not help: the object is not there, may not be read, or no library speaks the protocol."""

    def __init__(self, reason: str, mend: str) -> None:
        super().__init__(reason)
        self.mend = mend


class TransferError(Exception):
    """Asking again may help: the server failed, fell silent, or broke off."""


def read_from(url: str, *, start: int = 0, timeout: float) -> Pieces:
    """Reads what a URL names, once, to its end.

    Args:
        url: What to read.
        start: First byte that is wanted; where the server cannot start there, the pieces start at 0.
        timeout: Seconds of silence, or of less than 1 kB/s, after which the transfer is given up.

    Raises:
        PermanentError: See there.
        TransferError: See there.
    """
    protocol = url.partition(":")[0]
    try:
        if protocol == "pipe":
            pieces = _run(url.removeprefix("pipe:"), timeout)
        elif protocol in {"http", "https"}:
            pieces = _read_http(url, start, timeout)
        else:
            pieces = _read_fsspec(url, start, timeout)
        with closing(pieces):
            yield from _at_least(_LEAST_BYTES_PER_SECOND, pieces, timeout)
    except urllib.error.HTTPError as error:
        raise _http_error(error) from None
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise PermanentError(f"it is not there: {_text(error)}", "see that the URL is right") from None
    except PermissionError as error:
        raise PermanentError(f"it may not be read: {_text(error)}", "see to the credentials") from None
    except TimeoutError:
        raise TransferError(f"the server fell silent for {timeout:g} s") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise TransferError(f"the server did not answer for {timeout:g} s") from None
        raise TransferError(_text(error.reason)) from None
    except (http.client.HTTPException, EOFError, OSError) as error:
        raise TransferError(_text(error)) from None


def shown(url: str) -> str:
    """A URL as it may stand in a message: without the signature or password that it may bear."""
    if not url.startswith(("http://", "https://")):
        return url
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def _read_http(url: str, start: int, timeout: float) -> Generator[tuple[int, bytes], None, None]:
    # What is quoted stays so; a space or a letter outside ASCII would be refused.
    request = urllib.request.Request(urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]"))
    if start:
        request.add_header("Range", f"bytes={start}-")
    with urllib.request.urlopen(request, timeout=timeout) as response:
        content_range = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        position = int(content_range[1]) if content_range else 0
        left = response.length  # None where the server does not say
        while chunk := response.read1(CHUNK):  # what is there; read() waits for all of it, however slowly it comes
            yield position, chunk
            position += len(chunk)
            left = left and left - len(chunk)
    if left:
        raise TransferError(f"the server broke off {left} bytes before the end")


def _http_error(error: urllib.error.HTTPError) -> Exception:
    with error:
        reason = f"HTTP {error.code} {error.reason}"
    if error.code in {401, 403}:
        return PermanentError(reason, "see to the credentials, or to a signed URL's age")
    if error.code == 416:
        mend = "the file was replaced since the data set was indexed: restore it, or index the data set anew"
        return PermanentError("the server has fewer bytes than the manifest says", mend)
    if 400 <= error.code < 500 and error.code not in {408, 425, 429}:
        return PermanentError(reason, "see that the URL is right and the file lies there")
    return TransferError(reason)


def _run(command: str, timeout: float) -> Generator[tuple[int, bytes], None, None]:
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            command,
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            start_new_session=True,  # a group of its own, so that all the parts of a pipeline can be ended
        )
        assert process.stdout is not None
        try:
            position = 0
            while chunk := _read_pipe(process.stdout.fileno(), timeout):
                yield position, chunk
                position += len(chunk)
            status = process.wait(timeout)
        finally:
            process.stdout.close()
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if status:
            said = os.pread(complaints.fileno(), 4096, 0).decode(errors="replace").strip().splitlines()
            reason = f"the command ended with exit code {status}" + (f": {said[-1]}" if said else "")
            if status in {126, 127}:
                raise PermanentError(reason, "install the command, or mend its name")
            raise TransferError(reason)


def _read_pipe(descriptor: int, timeout: float) -> bytes:
    if not select.select([descriptor], [], [], timeout)[0]:
        raise TimeoutError
    return os.read(descriptor, CHUNK)


def _read_fsspec(url: str, start: int, timeout: float) -> Generator[tuple[int, bytes], None, None]:
    def open_file() -> Any:
        system, path = fsspec.core.url_to_fs(url)
        return system.open(path, "rb")

    protocol = url.partition(":")[0]
    try:
        file = _within(timeout, open_file)
        file.seek(start)
        position = start
        while chunk := _within(timeout, lambda: file.read(CHUNK)):
            yield position, chunk
            position += len(chunk)
    except ImportError as error:
        extra = "pip install 'mmtrain[s3]'" if protocol == "s3" else "install it with pip"
        raise PermanentError(f"{protocol}:// needs another package: {error}", extra) from None
    except ValueError as error:
        raise PermanentError(str(error), "see that the URL is right") from None
    except (OSError, EOFError):
        raise
    except Exception as error:  # the libraries behind fsspec have errors of their own (botocore's, google's)
        if type(error).__name__ == "NoCredentialsError":
            raise PermanentError(str(error), "see to the credentials") from None
        raise TransferError(_text(error)) from None


def _within(timeout: float, call: Callable[[], _T]) -> _T:
    """The call's result; a `TimeoutError` if it takes too long: few libraries behind fsspec let a limit be set."""
    results: list[_T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]


def _at_least(rate: int, pieces: Pieces, timeout: float) -> Pieces:
    """The pieces; a `TimeoutError` if fewer than ``rate`` bytes a second come over ``timeout`` seconds."""
    since, received = time.monotonic(), 0
    for position, chunk in pieces:
        yield position, chunk
        received += len(chunk)
        if time.monotonic() - since > timeout:
            if received < rate * timeout:
                raise TimeoutError
            since, received = time.monotonic(), 0


def _text(error: object) -> str:
    return str(error) or type(error).__name__
