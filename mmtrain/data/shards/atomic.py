"""Files that are whole whenever someone sees them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from mmtrain.errors import DataError


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that a reader, or a crash, finds the old content or the new, never a part.

    Raises:
        DataError: The folder cannot be written.
    """
    beside = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        mend = "make the folder writable, or index a copy of the shards in a folder that is"
        raise DataError(f"the file cannot be written: {error.strerror}", where=str(path), mend=mend) from None
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
