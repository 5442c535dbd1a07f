"""Downloads one file: whole and verified, or not at all, with patience."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mmtrain.data.fetch.remote import CHUNK, PermanentError, TransferError, read_from, shown
from mmtrain.errors import DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How often a transfer is tried.

    Attributes:
        retries: Attempts after the first.
        timeout: Seconds of silence after which an attempt is given up.
        backoff: Seconds before the first retry; they double from one to the next, to 30 at most.
    """

    retries: int = 5
    timeout: float = 30.0
    backoff: float = 0.5

    def delay(self, attempt: int) -> float:
        """Seconds to wait after ``attempt``, counted from 0."""
        return min(30.0, self.backoff * 2**attempt)


PATIENCE = Patience()


def download(
    url: str, out: Path, *, size: int | None = None, sha256: str | None = None, patience: Patience = PATIENCE
) -> None:
    """Fetches a file to ``out``, which no one else may write meanwhile and no one should read before.

    Where ``size`` is known, what lies at ``out`` already is taken for the file's beginning, and the transfer goes on
    from there.

    Args:
        url: What to fetch.
        out: Where to; its folder must be there.
        size: Bytes that it must have.
        sha256: Hash that it must have, in hex.
        patience: How often it is tried.

    Raises:
        DataError: It cannot be fetched or is another file, or the disk fails.
    """
    wrong = 0
    for attempt in range(patience.retries + 1):
        try:
            return _attempt(url, out, size, sha256, patience.timeout)
        except PermanentError as error:
            raise _failed(url, error, attempt, error.mend) from None
        except _WrongFileError as error:
            out.unlink(missing_ok=True)
            wrong += 1
            if wrong == 2:  # once may be an accident on the way
                mend = "the file was replaced since the data set was indexed: restore it, or index the data set anew"
                raise _failed(url, error, attempt, mend) from None
            reason: Exception = error
        except TransferError as error:
            reason = error
        except OSError as error:
            mend = "free the disk, or choose another folder; a cap on the cache's size (max_gb) keeps space free"
            reason_text = f"a file cannot be stored: {error.strerror or error}"
            raise DataError(reason_text, where=str(out), mend=mend) from None
        log.info("attempt %d to fetch %s failed: %s", attempt + 1, shown(url), reason)
        if attempt < patience.retries:
            time.sleep(patience.delay(attempt))
    raise _failed(url, reason, attempt, "see whether the server can be reached from this machine, then run again")


class _WrongFileError(Exception):
    """All came, and it is not what was to come."""


def _attempt(url: str, out: Path, size: int | None, sha256: str | None, timeout: float) -> None:
    with out.open("ab+" if size is not None else "wb+") as file:
        held = file.tell()
        if size is not None and held >= size:
            held = 0
        digest = _hash(file, held)
        with closing(read_from(url, start=held, timeout=timeout)) as pieces:  # type: ignore[type-var]
            for position, chunk in pieces:
                if position != held:
                    if position:
                        raise TransferError(f"the server sent byte {position}, not {held}")
                    held, digest = 0, hashlib.sha256()
                if held == 0:
                    file.truncate(0)
                file.write(chunk)
                held += len(chunk)
                digest.update(chunk)
                if size is not None and held > size:
                    raise _WrongFileError(f"it has more than the {size} bytes that the manifest says")
        if size is not None and held < size:
            raise TransferError(f"{held} of {size} bytes came")
        if sha256 is not None and digest.hexdigest() != sha256:
            raise _WrongFileError("its sha256 differs from the manifest's")
        file.truncate(held)
        file.flush()
        os.fsync(file.fileno())


def _hash(file: BinaryIO, length: int) -> hashlib._Hash:
    """The hash of the file's first ``length`` bytes."""
    digest = hashlib.sha256()
    file.seek(0)
    while length:
        chunk = file.read(min(CHUNK, length))
        digest.update(chunk)
        length -= len(chunk)
    return digest


def _failed(url: str, reason: Exception, attempt: int, mend: str) -> DataError:
    times = "1 attempt" if attempt == 0 else f"{attempt + 1} attempts"
    return DataError(f"a file cannot be fetched: {reason} ({times})", where=shown(url), mend=mend)
