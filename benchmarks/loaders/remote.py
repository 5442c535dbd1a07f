"""Waiting for shards that lie behind a slow server: fetched when they are needed, or ahead of the plan.

The server is a local one that answers each request late. The consumer works on each batch for so long that the shards
could come in time if they were asked for early; what it waits, from the first batch on, is what is measured.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loaders.ours import SEED
from loaders.pipeline import BATCH
from mmtrain.data import EpochPlan, Loader, RawSample, Samples, SampleSeed, SampleSource, ShardReader
from mmtrain.data.fetch.open import open_data_set
from mmtrain.data.fetch.prefetch import Prefetcher

DELAY = 0.1  # seconds before each answer; a shard and its index are two
WORK = 0.02  # seconds of a step
WINDOW = 1000  # a shard or two at a time


class _Late(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        time.sleep(DELAY)
        super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serves a folder, late, and gives its URL."""
    handler = functools.partial(_Late, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def wait(url: str, cache_dir: Path, *, prefetched: bool) -> float:
    """Seconds that an epoch's consumer waits for its batches."""
    manifest, cache = open_data_set(url, cache_dir)
    assert cache is not None
    plan = EpochPlan(manifest.sizes, global_batch_size=BATCH, seed=SEED, lanes=1, window=WINDOW)
    reader = ShardReader(manifest, store=cache)
    lookahead = Prefetcher(plan, [reader]) if prefetched else None
    loader = Loader(Samples([SampleSource(reader, _size)], seed=SEED), plan, lookahead=lookahead)
    waited, asked = 0.0, time.perf_counter()
    for _ in loader:
        waited += time.perf_counter() - asked
        time.sleep(WORK)
        asked = time.perf_counter()
    loader.close()
    if lookahead is not None:
        lookahead.close()
    return waited


def _size(sample: RawSample, seed: SampleSeed) -> Mapping[str, Any]:
    return {"size": len(sample["jpg"])}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("when", choices=["on-demand", "prefetched"])
    parser.add_argument("--tar", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache_dir, serve(arguments.tar) as url:
        print(json.dumps({"seconds": wait(url, Path(cache_dir), prefetched=arguments.when == "prefetched")}))


if __name__ == "__main__":
    main()
