"""Where results come from: command, commit, versions and hardware."""

import platform
import subprocess
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch
from threadpoolctl import threadpool_info

from implicit_em_studies.shared.runs import Run


def describe(command: str, runs: Sequence[Run], **more: str) -> dict[str, str]:
    """Return what a reader needs to repeat a study of complete runs, as lines by name."""
    metrics = [run.metrics() for run in runs]
    blas = sorted(
        {info["internal_api"] for info in threadpool_info() if info["user_api"] == "blas"}
    )
    return {
        "command": command,
        "date": f"{date.today()}",
        "commit": _git(Path(__file__).parent, "describe", "--always", "--dirty", "--exclude", "*"),
        **more,
        "runs": f"{len(runs)}, {sum(run['epochs'] for run in metrics):,} epochs in all",
        "device": ", ".join(sorted({run["device"] for run in metrics})),
        "versions": "; ".join(
            sorted({", ".join(f"{n} {v}" for n, v in run["versions"].items()) for run in metrics})
        ),
        "processor": _processor(),
        "linear algebra": ", ".join(["torch " + torch.backends.cpu.get_cpu_capability(), *blas]),
        "system": platform.system(),
    }


def history_of(file: Path, *more: str) -> str:
    """Return the commit that added a file, and the last that touched it or ``more`` beside it.

    A file that was moved was added under its first name.
    """
    added = ("log", "--follow", "--diff-filter=A", "--format=%h", "--", file.name)
    first = _git(file.parent, *added).rpartition("\n")[2]
    last = _git(file.parent, "log", "-1", "--format=%h", "--", file.name, *more)
    return f"first committed in {first}, last touched in {last}"


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
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = {line.partition(": ")[2] for line in lines if line.startswith("model name")}
    return ", ".join(sorted(names)) or platform.processor() or platform.machine()
