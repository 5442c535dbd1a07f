"""A script: small objectives under ZeRO, one after another, on the same two ranks. Rank 0 writes what came out."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from small_runs import CASES, Result, averaged, bounded, evaluated, harmed, plain, quiet, refused, resumed

from mmtrain import distributed
from mmtrain.strategy.deepspeed import deepspeed


def zero(stage: Any, **options: Any) -> Any:
    return partial(deepspeed, stage=stage, **{"whole_below": 0, **options})


if __name__ == "__main__":
    quiet()
    folder = Path(sys.argv[1])
    results: Result = {}
    for stage in (1, 2, 3):
        results |= {f"{name}-{stage}": plain(name, zero(stage)) for name in CASES}
        results[f"harmed-{stage}"] = harmed(zero(stage))
        results[f"bounded-{stage}"] = bounded(zero(stage))
        if stage > 1:
            results[f"evaluated-{stage}"] = evaluated(zero(stage))
            results[f"resumed-{stage}"] = resumed(zero(stage), folder / f"zero{stage}.ckpt")
            results[f"offload-{stage}"] = plain("lm", zero(stage, offload_optimizer=True))
            results[f"bf16-mixed-{stage}"] = plain("lm", zero(stage), precision="bf16-mixed")
    results["bf16-true-2"] = plain("lm", zero(2), precision="bf16-true")
    results["parameters-offload-3"] = plain("lm", zero(3, offload_parameters=True))
    results["averaged-2"] = averaged(zero(2))
    results["refused-ema-3"] = refused(lambda: averaged(zero(3)))
    if distributed.rank() == 0:
        torch.save(results, folder / "results.pt")
