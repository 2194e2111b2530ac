"""Part (f): the whole paper, one run after another and stacked."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import (
    Device,
    Result,
    Target,
    devices,
    rows_not_measured,
    track,
)
from benchmarks.sweeps import run_sweep

RATIO = 0.4
"""Most that the stacked dynamics study may take, of the basic launcher's time."""
MINUTES = 20
"""Most that Tables 1-3 may take on two cores."""
DYNAMICS = "experiment=dynamics"
TABLES = (
    (DYNAMICS,),
    ("experiment=ablation", "loss=lse,lse_var,var_tc"),
    ("experiment=benchmark", "model=sae"),
    ("experiment=benchmark", "model=encoder", "seed=4,5"),
)
"""Sweeps with the 40 runs of Tables 1-3, each once: the dynamics' Adam at 1e-3 are those of the
other two tables at seeds 1-3."""
WIDTHS = (("experiment=width_sgd",), ("experiment=width_adam",))
"""The K-study."""


@dataclass(frozen=True)
class Sweep:
    """One command."""

    device: Device
    launcher: str
    overrides: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.device}, {self.launcher} launcher, {' '.join(self.overrides)}"


def measure(epochs: int | None = None) -> Result:
    """Time each command from its start to its end.

    Args:
        epochs: of each run, instead of the study's own.
    """
    sweeps = [
        Sweep(device, launcher, overrides)
        for device in devices()
        for launcher, sets in (("stacked", (*TABLES, *WIDTHS)), ("basic", (TABLES[0],)))
        for overrides in sets
    ]
    seconds: dict[Sweep, float] = {}
    rows: list[dict[str, Any]] = []
    for sweep in track(sweeps, "paper"):
        overrides = [*sweep.device.overrides, *sweep.overrides]
        overrides += [f"trainer.max_epochs={epochs}"] if epochs else []
        with tempfile.TemporaryDirectory() as directory:
            seconds[sweep] = run_sweep(sweep.launcher, overrides, Path(directory) / "sweep")
            runs = len(list(Path(directory).glob("sweep/*/metrics.json")))
        rows.append(
            {
                "device": str(sweep.device),
                "launcher": sweep.launcher,
                "sweep": " ".join(sweep.overrides),
                "runs": runs,
                "minutes": round(seconds[sweep] / 60, 2),
            }
        )
    targets = []
    for device in devices():
        stacked, basic = (
            seconds[Sweep(device, launcher, TABLES[0])] for launcher in ("stacked", "basic")
        )
        tables = sum(seconds[Sweep(device, "stacked", sweep)] for sweep in TABLES) / 60
        targets += [
            Target(f"dynamics, {device}: stacked / basic", round(stacked / basic, 3), RATIO),
            Target(f"Tables 1-3, {device}, stacked: minutes", round(tables, 2), MINUTES),
        ]
    return Result(
        "paper",
        "The paper's study by train.py, start-up and probes included",
        {"epochs": epochs or "the study's own", "repeats": 1},
        rows + rows_not_measured("sweep"),
        targets,
    )
