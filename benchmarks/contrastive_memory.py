"""Memory and time of contrastive losses: tiles with an analytic backward pass beside a matrix of all pairs.

    python benchmarks/contrastive_memory.py [--sizes 1024 2048 4096 8192] [--width 512] [--rounds 3] [--tile 256]

A forward and a backward pass of one process with one thread, in fp32; on a GPU where there is one. Each figure comes
from a fresh process: the growth of its peak memory over what it held before (resident memory; on a GPU, what PyTorch
allocated), and the processor's time (on a GPU, the clock's). Medians of the rounds, the losses in turns. Linux only.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mmtrain.nn.infonce import infonce_loss
from mmtrain.nn.siglip import siglip_loss

LOSSES = ("naive InfoNCE", "tiled InfoNCE", "naive SigLIP", "tiled SigLIP")


class Figure(NamedTuple):
    peak_mib: float
    seconds: float


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.sizes[0], arguments.width, arguments.tile)))
        return
    table = Table("pairs", "loss", "peak MiB", "seconds", "naive / tiled, memory", "naive / tiled, time")
    for size in arguments.sizes:
        figures: dict[str, list[Figure]] = {loss: [] for loss in LOSSES}
        for _ in range(arguments.rounds):
            for loss, rounds in figures.items():
                rounds.append(_in_a_process(loss, size, arguments.width, arguments.tile))
        medians = {loss: Figure(*map(statistics.median, zip(*rounds, strict=True))) for loss, rounds in figures.items()}
        for loss, figure in medians.items():
            ratios = ["", ""]
            if loss.startswith("tiled"):
                naive = medians[loss.replace("tiled", "naive")]
                ratios = [f"{n / t:.1f}" for n, t in zip(naive, figure, strict=True)]
            table.add_row(f"{size:,}", loss, f"{figure.peak_mib:,.0f}", f"{figure.seconds:.2f}", *ratios)
    Console().print(table)


def measure(loss_name: str, size: int, width: int, tile: int) -> Figure:
    """Peak memory and time of a loss and its gradients, in this process."""
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    differentiate(loss_name, 64, width, tile, device)  # what the first call loads and allocates for good
    if device == "cpu":
        before, start = _resident_mib(), time.process_time()
        differentiate(loss_name, size, width, tile, device)
        return Figure(_resident_mib() - before, time.process_time() - start)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, start = torch.cuda.memory_allocated() / 2**20, time.perf_counter()
    differentiate(loss_name, size, width, tile, device)
    torch.cuda.synchronize()
    return Figure(torch.cuda.max_memory_allocated() / 2**20 - before, time.perf_counter() - start)


def differentiate(loss_name: str, size: int, width: int, tile: int, device: str) -> None:
    """A forward and a backward pass over random unit vectors."""
    image, text = (F.normalize(torch.randn(size, width, device=device), dim=-1).requires_grad_() for _ in range(2))
    scale, bias = (torch.tensor(value, device=device, requires_grad=True) for value in (10.0, -10.0))
    weight = torch.ones(size, device=device)
    losses = {
        "naive InfoNCE": lambda: naive_infonce(image, text, scale),
        "tiled InfoNCE": lambda: infonce_loss(image, text, scale, weight, tile=tile),
        "naive SigLIP": lambda: naive_siglip(image, text, scale, bias),
        "tiled SigLIP": lambda: siglip_loss(image, text, scale, bias, weight, tile=tile),
    }
    losses[loss_name]().backward()


def naive_infonce(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """As in CLIP's figure 3, and in open_clip."""
    logits, labels = scale * image @ text.T, torch.arange(len(image), device=image.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def naive_siglip(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """As in SigLIP's algorithm 1, and in open_clip."""
    labels = 2 * torch.eye(len(image), device=image.device) - 1
    return -F.logsigmoid(labels * (scale * image @ text.T + bias)).sum() / len(image)


def _resident_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _in_a_process(loss: str, size: int, width: int, tile: int) -> Figure:
    options = ["--one", loss, "--sizes", size, "--width", width, "--tile", tile]
    done = subprocess.run([sys.executable, __file__, *map(str, options)], capture_output=True, text=True, check=True)
    return Figure(*json.loads(done.stdout))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048, 4096, 8192], help="pairs of a batch")
    parser.add_argument("--width", type=int, default=512, help="width of the shared space")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--one", choices=LOSSES, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
