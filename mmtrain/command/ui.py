"""``python -m mmtrain ui``: runs in a browser, from their files alone, also while they go on."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tensorboard import program

from mmtrain.command.interrupt import terminated_as_interrupted
from mmtrain.errors import RunError
from mmtrain.run.report.feed import Feed

_REFRESH_SECONDS = 2.0
_DEFAULT_ROOTS = ("runs", "sweeps")
_LOCAL = ("127.0.0.1", "localhost", "::1")
_SAMPLES = "scalars=5000,images=50,text=50"  # of each name in each run; TensorBoard thins out what is more


def ui(argv: Sequence[str]) -> None:
    """Serves runs until it is interrupted.

    Raises:
        RunError: There is no such directory, or the address is taken.
    """
    arguments = _parser().parse_args(argv)
    roots = arguments.root or [path for path in map(Path, _DEFAULT_ROOTS) if path.is_dir()]
    if not roots:
        raise RunError("there is neither runs/ nor sweeps/ here", mend="name a directory of runs")
    try:
        with terminated_as_interrupted(), tempfile.TemporaryDirectory(prefix="mmtrain-ui-") as folder:
            feed = Feed(roots, Path(folder))
            url = _serve(folder, arguments.host, arguments.port)
            print(f"{len(feed)} runs of {', '.join(map(str, roots))} at {url} (Ctrl-C ends it)", flush=True)
            if arguments.host not in _LOCAL:
                print("whoever can reach this machine can read them: there is no password", file=sys.stderr, flush=True)
            _feed(feed)
    except KeyboardInterrupt:
        print("ended")


def _feed(feed: Feed) -> None:
    told: dict[Path, int] = {}
    while True:
        feed.refresh()
        for run, count in feed.damaged.items():
            if told.get(run) != count:
                print(f"{run}/metrics.jsonl: {count} damaged rows left out", file=sys.stderr, flush=True)
                told[run] = count
        time.sleep(_REFRESH_SECONDS)


def _serve(folder: str, host: str, port: int | None) -> str:
    board = program.TensorBoard()
    options = ["--logdir", folder, "--host", host, "--reload_interval", "2", "--samples_per_plugin", _SAMPLES]
    if port is not None:
        options += ["--port", str(port)]
    board.configure(argv=["tensorboard", *options, "--window_title", "mmtrain"])
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its advice on its own options
            return board.launch()
    except program.TensorBoardServerException as error:
        raise RunError(str(error), where=f"{host}:{port}", mend="choose another --port; 0 takes a free one") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m mmtrain ui",
        description="Shows runs in a browser, from their files alone: TensorBoard, fed from metrics.jsonl and media/."
        " Runs that go on are followed, new ones found; nothing is written into them.",
        allow_abbrev=False,
    )
    parser.add_argument("root", type=Path, nargs="*", metavar="ROOT", help="directories of runs (runs, sweeps)")
    parser.add_argument("--port", type=int, metavar="N", help="0 for any free one (6006, or the next that is free)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (127.0.0.1: this machine alone)")
    return parser
