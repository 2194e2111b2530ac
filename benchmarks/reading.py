"""``python -m benchmarks.reading``: ways to read the rows of a shard, also of one that is cut."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from implicit_em.data.arrays import in_safetensors, unchanged
from implicit_em.data.on_disk import SamplesOnDisk

ROWS, WIDTH, TIMES = 131_072, 384, 12
KEPT = 0.75
"""Share of the rows that are read."""


def ours(path: Path, cut: Callable[[], None]) -> Callable[[Tensor], Tensor]:
    """Return the project's own reader."""
    with unchanged(path) as file:
        samples = SamplesOnDisk([[in_safetensors(file)["x"]]])
    cut()
    return samples.read


def mapped(path: Path, cut: Callable[[], None]) -> Callable[[Tensor], Tensor]:
    """Return a reader that gathers from safetensors' mapped tensor."""
    with safe_open(path, "pt") as file:
        values = file.get_tensor("x")
    cut()
    return lambda rows: values.index_select(0, rows)


def whole(path: Path, cut: Callable[[], None]) -> Callable[[Tensor], Tensor]:
    """Return a reader of the whole file, by safetensors from bytes."""
    cut()
    return lambda rows: load(path.read_bytes())["x"].index_select(0, rows)


WAYS = {found.__name__: found for found in (ours, mapped, whole)}


def main() -> None:
    """Print, for each way, milliseconds for a shard, and how a process ends whose file is cut."""
    torch.set_num_threads(1)
    rows = torch.rand(ROWS, generator=torch.Generator().manual_seed(0)).lt(KEPT).nonzero()[:, 0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "X.safetensors"
        for name, way in WAYS.items():
            save_file({"x": torch.randn(ROWS, WIDTH).half()}, path)
            seconds = []
            for _ in range(TIMES):
                start = time.perf_counter()
                way(path, lambda: None)(rows)
                seconds.append(time.perf_counter() - start)
            command = [sys.executable, "-m", "benchmarks.reading", name, str(path)]
            ended = subprocess.run(command, capture_output=True, text=True)
            last = (ended.stderr.splitlines() or [""])[-1]
            took = 1000 * statistics.median(seconds)
            print(f"{name:6} {took:5.0f} ms; cut: exit status {ended.returncode} {last[:120]}")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        name, cut_path = sys.argv[1], Path(sys.argv[2])
        WAYS[name](cut_path, lambda: os.truncate(cut_path, 10_000))(torch.arange(ROWS))
