"""One run as TensorBoard sees it: an event file elsewhere, which grows as the run's record does."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from mmtrain.errors import RunError
from mmtrain.logger.rows import Row, Tail
from mmtrain.run.report.media import Medium, media_of, read_table

_VERSION = "brain.Event:2"
_LOOKS = 3  # for pictures after the last new row: some are written a moment later
_MOST_LINES = 50  # of a table


class RunEvents:
    """The event file of a run; nothing is written into the run itself.

    Args:
        run: The run directory.
        folder: Where the event file goes.
        settings: What tells this run from others, for the table of hyperparameters; empty for none.
    """

    def __init__(self, run: Path, folder: Path, settings: Mapping[str, Any]) -> None:
        self.run = run
        self._tail = Tail(run / "metrics.jsonl")
        self._path = folder / "events.out.tfevents.0.mmtrain"
        self._settings = settings
        self._seen: set[tuple[Path, int]] = set()
        self._looks = _LOOKS

    def refresh(self) -> bool:
        """Writes what is new since the last time: rows, pictures, tables. A record that was cut is written anew.

        Returns:
            Whether anything was.
        """
        events = [*self._new_rows(), *self._new_media()]
        if not events:
            return False
        first = not self._path.exists()
        if first:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            begin = [Event(file_version=_VERSION), _start(0.0)]
            if self._settings:
                begin.append(Event(summary=hparams_pb(dict(self._settings), trial_id=str(self.run))))
            events = [*begin, *events]
        records = io.BytesIO()
        writer = RecordWriter(records)
        for event in events:
            writer.write(event.SerializeToString())
        with self._path.open("ab") as file:
            file.write(records.getvalue())
        return True

    @property
    def damaged(self) -> int:
        """Rows that are no JSON objects with a step, so far."""
        return self._tail.damaged

    def _new_rows(self) -> list[Event]:
        rows, cut = self._tail.read()
        if not rows and not cut:
            return []
        time = self._tail.path.stat().st_mtime if self._tail.path.exists() else 0.0
        if rows:
            self._looks = _LOOKS
        if cut:
            self._seen.clear()
        events = [_scalars(row, time) for row in rows]
        return [_start(time), *events] if cut else events

    def _new_media(self) -> Iterable[Event]:
        if self._looks == 0:
            return
        self._looks -= 1
        for medium in media_of(self.run):
            try:
                found = medium.path.stat()
                seen = (medium.path, found.st_mtime_ns)
                if seen in self._seen:
                    continue
                summary = _picture(medium) if medium.is_picture else _table(medium)
            except (OSError, RunError, SyntaxError):
                continue  # it is being written, and looked at again
            self._seen.add(seen)
            yield Event(wall_time=found.st_mtime, step=medium.step, summary=summary)


def _scalars(row: Row, time: float) -> Event:
    values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items() if name != "step"]
    return Event(wall_time=time, step=row["step"], summary=Summary(value=values))


def _start(time: float) -> Event:
    """From the second on, it makes TensorBoard forget all that came before: a resumed run writes its rows again."""
    return Event(wall_time=time, step=0, session_log=SessionLog(status=SessionLog.START))


def _picture(medium: Medium) -> Summary:
    data = medium.path.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        image.load()  # half a file raises
        width, height = image.size
    picture = Summary.Image(height=height, width=width, encoded_image_string=data)
    return Summary(value=[Summary.Value(tag=medium.key, image=picture)])


def _table(medium: Medium) -> Summary:
    header, *lines = read_table(medium.path) or [[""]]
    table = [header, ["---"] * len(header), *lines[:_MOST_LINES]]
    # A name is of one kind in TensorBoard, and samples is the name of a number, too.
    return text_pb(
        f"{medium.key.removesuffix('/table')}/table",
        "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in table),
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")
