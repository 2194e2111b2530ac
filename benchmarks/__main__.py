"""``python -m benchmarks``: measure, print and write to ``benchmarks/results``."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks import epoch, explaining, gpu, harvest, jobs, paper, sgemm, sparse, stacked, width
from benchmarks.common import RESULTS, Result, machine, show, write
from benchmarks.peers import race

PARTS: Mapping[str, Callable[[bool], Result]] = {
    "epoch": lambda quick: epoch.measure(epoch.QUICK if quick else epoch.Size()),
    "stacked": lambda quick: stacked.measure(stacked.QUICK if quick else stacked.Size()),
    "sgemm": lambda quick: sgemm.measure(sgemm.QUICK if quick else sgemm.Size()),
    "jobs": lambda quick: jobs.measure(jobs.QUICK if quick else jobs.Size()),
    "sparse": lambda quick: sparse.measure(sparse.QUICK if quick else sparse.Size()),
    "explaining": lambda quick: explaining.measure(
        explaining.QUICK if quick else explaining.Size()
    ),
    "width": lambda quick: width.measure(width.QUICK if quick else width.Size()),
    "harvest": lambda quick: harvest.measure(harvest.QUICK if quick else harvest.Size()),
}
PAPER = "paper"
PEERS = "peers"
GPU = "gpu"
APART = (PAPER, PEERS, GPU)
"""Parts that are measured only if they are asked for."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the parts asked for, one after another."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help=f"{', '.join(PARTS)} (all of these by default), {PAPER}, which takes half an hour and "
        f"more, {PEERS}, which installs other tools, or {GPU}, which also does",
    )
    parser.add_argument("--quick", action="store_true", help="a trial, whose numbers mean little")
    parser.add_argument(
        "--epochs", type=int, help=f"of each run of {PAPER}, which makes it a trial"
    )
    parser.add_argument("--directory", type=Path, help=f"default: {RESULTS}, or quick/ in it")
    options = parser.parse_args(arguments)
    for part in options.parts:
        if part not in (*PARTS, *APART):
            parser.error(f"no part {part}; there are {', '.join((*PARTS, *APART))}")
    if GPU in options.parts and not (options.quick or torch.cuda.is_available()):
        parser.error(f"{GPU}: there is no CUDA device; --quick tries it on the CPU")
    os.environ["WANDB_MODE"] = "offline"
    trial = options.quick or options.epochs is not None
    directory = options.directory or (RESULTS / "quick" if trial else RESULTS)
    about, started = machine(), time.monotonic()
    for part in options.parts or PARTS:
        results: Iterable[Result]
        if part == PAPER:
            results = [paper.measure(options.epochs or (1 if options.quick else None))]
        elif part == PEERS:
            results = [race.measure(race.QUICK if options.quick else race.Size())]
        elif part == GPU:
            results = gpu.measure(gpu.QUICK if options.quick else gpu.FULL)
        else:
            results = [PARTS[part](options.quick)]
        for result in results:
            content = result.content(about)
            show(content)
            write(content, directory)
    print(f"\nWritten to {directory} after {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
