"""Where results come from: commit, versions and hardware."""

import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_info


def describe(command: str, runs: Sequence[Mapping[str, Any]], **more: str) -> dict[str, str]:
    """Return what a reader needs to repeat the study: lines by name.

    Args:
        command: that makes it.
        runs: the content of ``metrics.json`` of each.
        more: lines about the study's own files.

    """
    home = Path(__file__).parent
    blas = sorted(
        {info["internal_api"] for info in threadpool_info() if info["user_api"] == "blas"}
    )
    return {
        "command": command,
        "date": f"{date.today()}",
        "commit": _git(home, "describe", "--always", "--dirty", "--exclude", "*"),
        **more,
        "runs": f"{len(runs)}, {sum(run['epochs'] for run in runs):,} epochs in all",
        "device": ", ".join(sorted({run["device"] for run in runs})),
        "versions": "; ".join(
            sorted({", ".join(f"{n} {v}" for n, v in run["versions"].items()) for run in runs})
        ),
        "processor": _processor(),
        "linear algebra": ", ".join(["torch " + torch.backends.cpu.get_cpu_capability(), *blas]),
        "system": platform.system(),
    }


def history_of(file: Path, *more: str) -> str:
    """Return the commits in which a file came, and it or more beside it was last touched."""
    first, last = (
        _git(file.parent, "log", "-1", *order, "--format=%h", "--", *files)
        for order, files in (
            (("--diff-filter=A",), (file.name,)),
            ((), (file.name, *more)),
        )
    )
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
    lines: Sequence[str] = cpuinfo.read_text().splitlines() if cpuinfo.exists() else ()
    names = {line.partition(": ")[2] for line in lines if line.startswith("model name")}
    return ", ".join(sorted(names)) or platform.processor() or platform.machine()
