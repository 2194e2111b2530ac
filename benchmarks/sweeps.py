"""Runs and sweeps of the project, as ``train.py`` does them by default."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

import implicit_em.config  # noqa: F401  (registers the resolvers that conf/ uses)
from benchmarks.common import ROOT

DATA = f"data.root={ROOT / 'data'}"


def compose_run(overrides: Sequence[str] = ()) -> DictConfig:
    """Return the default configuration with overrides, its data those of the checkout or chosen."""
    root = [] if any(line.startswith("data=") for line in overrides) else [DATA]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides=[*root, *overrides])


def run_sweep(launcher: str, overrides: Sequence[str], directory: Path) -> float:
    """Run ``train.py -m`` in a process of its own, W&B offline; returns its seconds.

    Args:
        launcher: option of ``hydra/launcher``.
        overrides: the axes and what else is set.
        directory: of the sweep.

    Raises:
        RuntimeError: if it fails, with the end of what it printed.
    """
    command = [sys.executable, str(ROOT / "train.py"), "-m", f"hydra/launcher={launcher}"]
    command += [f"hydra.sweep.dir={directory}", DATA, *overrides]
    started = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"WANDB_MODE": "offline"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-2000:]}")
    return time.perf_counter() - started
