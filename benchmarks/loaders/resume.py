"""Time to the first batch of a fresh process that resumes within 12 million samples: planning, workers, reading, all.

The manifest is synthetic: its 12,000 rows name 20 real shards, so that what the batch holds is really read and decoded.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import cv2
import torch

from loaders.ours import open_loader
from loaders.repeated import repeat
from mmtrain.data import open_shards

SAMPLES = 12_000_000
AT = 10_000_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tar", type=Path, required=True)
    parser.add_argument("--at", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    manifest = repeat(open_shards(arguments.tar), SAMPLES)
    start = time.perf_counter()
    loader = open_loader(manifest, arguments.workers)
    loader.load_state_dict(loader.state_dict() | {"samples": arguments.at})
    next(iter(loader))
    seconds = time.perf_counter() - start
    loader.close()
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
