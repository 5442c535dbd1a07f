"""A script: small objectives under FSDP2, one after another, on the same two ranks. Rank 0 writes what came out."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import clip_case
import lm_case
import mlm_case
import torch
from small_runs import CASES, Result, averaged, bounded, evaluated, fit, harmed, plain, quiet, resumed

from mmtrain import distributed
from mmtrain.optim.muon import Muon
from mmtrain.run.build import compile_blocks
from mmtrain.strategy.fsdp import fsdp


def muon(case: Any) -> Any:
    """An objective of a case with matrices that are made orthogonal."""
    objective = case.small_objective()
    objective.optim = Muon(lr=2e-3, rest=objective.optim, split_qkv=True)
    return objective


def checkpointed() -> Any:
    return lm_case.small_objective(checkpoint=True)


def compiled() -> Any:
    objective = lm_case.small_objective()
    compile_blocks(objective)
    return objective


PARTS: dict[str, Any] = {
    "clip": lambda: clip_case.small_objective(micro_batch_size=1),
    "siglip": lambda: clip_case.small_objective(micro_batch_size=1, loss="siglip"),
    "locked": lambda: clip_case.small_objective(lock=["image"]),
    "mlm": lambda: mlm_case.small_objective(micro_batch_size=1),
    "lm": lambda: lm_case.small_objective(micro_batch_size=3, style=lm_case.LLAMA),
}
"""Objectives with micro-batches, the last one of which is smaller, and others that differ from `CASES`."""


def case_of(name: str) -> Any:
    return CASES.get(name, clip_case)


if __name__ == "__main__":
    quiet()
    folder = Path(sys.argv[1])
    results: Result = {name: plain(name, fsdp) for name in CASES}
    for name, build in PARTS.items():
        results[f"parts-{name}"] = fit(build(), case_of(name), strategy=fsdp)
    results["parts-evaluated"] = fit(PARTS["lm"](), lm_case, strategy=fsdp, evaluates=True)
    results["muon"] = fit(muon(lm_case), lm_case, strategy=fsdp)
    results["kept"] = plain("lm", partial(fsdp, reshard_after_forward=False))
    results["hybrid"] = plain("lm", partial(fsdp, shard_size=1))
    results["offload"] = plain("lm", partial(fsdp, offload=True))
    results["checkpointed"] = fit(checkpointed(), lm_case, strategy=fsdp)
    results["harmed"] = harmed(fsdp)
    results["bounded"] = bounded(fsdp)
    results["evaluated"] = evaluated(fsdp)
    results["averaged"] = averaged(fsdp)
    results["resumed"] = resumed(fsdp, folder / "fsdp.ckpt")
    results["bf16"] = plain("lm", partial(fsdp, gather_bf16=False), precision="bf16-mixed")
    results["bf16-gathered"] = plain("lm", fsdp, precision="bf16-mixed")
    results["compiled"] = fit(compiled(), lm_case, strategy=fsdp, steps=3)
    if distributed.rank() == 0:
        torch.save(results, folder / "results.pt")
