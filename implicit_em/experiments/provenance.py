"""Where results come from: commit, versions and hardware."""

import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from threadpoolctl import threadpool_info

from implicit_em.experiments import criteria

LIBRARIES = ("torch", "pytorch-lightning", "hydra-core", "numpy", "scipy", "scikit-learn")


def describe() -> dict[str, str]:
    """Return what a reader needs to repeat the study: lines by name."""
    home = Path(criteria.__file__).parent
    blas = sorted(
        {info["internal_api"] for info in threadpool_info() if info["user_api"] == "blas"}
    )
    return {
        "commit": _git(home, "describe", "--always", "--dirty", "--exclude", "*"),
        "criteria last changed": _git(home, "log", "-1", "--format=%h, %cs", "--", "criteria.py"),
        "versions": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        "python": platform.python_version(),
        "processor": _processor(),
        "linear algebra": ", ".join(["torch " + torch.backends.cpu.get_cpu_capability(), *blas]),
        "system": platform.system(),
    }


def _git(directory: Path, *arguments: str) -> str:
    try:
        answer = subprocess.run(
            ["git", *arguments], cwd=directory, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        answer = ""
    return answer or "unknown: not a checkout"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines: Sequence[str] = cpuinfo.read_text().splitlines() if cpuinfo.exists() else ()
    names = {line.partition(": ")[2] for line in lines if line.startswith("model name")}
    return ", ".join(sorted(names)) or platform.processor() or platform.machine()
