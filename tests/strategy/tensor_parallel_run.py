"""A script: small objectives on four ranks whose blocks are shared by two or by all. Rank 0 writes what came out."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import clip_case
import lm_case
import mlm_case
import small_runs
import torch
from fsdp_run import checkpointed, compiled, muon
from small_runs import CASES, Result, averaged, evaluated, fit, harmed, plain, quiet, resumed

from mmtrain import distributed
from mmtrain.callback.rng import StepSeed
from mmtrain.strategy.fsdp import fsdp

small_runs.WORLD = 4
PAIRS = partial(fsdp, tensor_parallel=2)
STYLES: dict[str, Any] = {
    "grouped": {"style": lm_case.LLAMA, "qk_norm": True, "micro_batch_size": 3},
    "odd": {"d_model": 36, "num_heads": 6, "mlp_hidden": 70, "num_layers": 1},
}
"""Key heads fewer than query heads, with gains of their own; weights that no two pairs can keep equal parts of."""


def siglip() -> Any:
    return clip_case.small_objective(loss="siglip")


def dropped(strategy: Any) -> Result:
    """Steps that draw, as the program seeds them."""
    objective = mlm_case.small_objective(dropout=0.3, attention_dropout=0.0)
    return fit(objective, mlm_case, strategy=strategy, callbacks=[StepSeed(0)])


if __name__ == "__main__":
    quiet()
    folder = Path(sys.argv[1])
    results: Result = {name: plain(name, PAIRS) for name in CASES}
    for name, style in STYLES.items():
        results[name] = fit(lm_case.small_objective(**style), lm_case, strategy=PAIRS)
    results["siglip"] = fit(siglip(), clip_case, strategy=PAIRS)
    results["all"] = plain("lm", partial(fsdp, tensor_parallel=4))
    results["dropped"] = dropped(partial(fsdp, tensor_parallel=4))
    results["hybrid"] = plain("lm", partial(PAIRS, shard_size=1))
    results["muon"] = fit(muon(lm_case), lm_case, strategy=PAIRS)
    results["checkpointed"] = fit(checkpointed(), lm_case, strategy=PAIRS)
    results["harmed"] = harmed(PAIRS)
    results["evaluated"] = evaluated(PAIRS)
    results["averaged"] = averaged(PAIRS)
    results["resumed"] = resumed(PAIRS, folder / "pairs.ckpt")
    results["bf16"] = plain("lm", PAIRS, precision="bf16-mixed")
    results["compiled"] = fit(compiled(), lm_case, strategy=PAIRS, steps=3)
    if distributed.rank() == 0:
        torch.save(results, folder / "results.pt")
