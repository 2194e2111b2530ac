"""What the parts share: devices, spreads, results on the screen and in files, progress."""

import json
import os
import platform
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from implicit_em.base.files import whole, write_json
from implicit_em.base.tables import format_value, markdown_table, print_rows
from implicit_em.base.threads import cores

T = TypeVar("T")

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
NOT_MEASURED = "not measured: no CUDA device"
MIB = 2**20


@dataclass(frozen=True)
class Device:
    """Where and how something is measured."""

    type: str
    precision: str = "32-true"
    compiled: bool = False

    def __str__(self) -> str:
        precision = "" if self.precision == "32-true" else f", {self.precision}"
        return self.type + precision + (", compiled" if self.compiled else "")

    @property
    def overrides(self) -> list[str]:
        """What selects it on the command line."""
        trainer = "cpu" if self.type == "cpu" else "gpu"
        return [
            f"trainer={trainer}",
            f"trainer.precision={self.precision}",
            f"trainer.compile={str(self.compiled).lower()}",
        ]

    @property
    def dtype(self) -> torch.dtype:
        """What matrix products are computed in."""
        return torch.bfloat16 if self.precision == "bf16-mixed" else torch.float32

    @property
    def workers(self) -> int:
        """Stacks that a sweep trains at the same time."""
        return cores() if self.type == "cpu" else 1

    def arithmetic(self) -> AbstractContextManager[Any]:
        """Return the context of a training step."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.type, self.dtype)

    def synchronize(self) -> None:
        """Wait until everything is computed."""
        if self.type == "cuda":
            torch.cuda.synchronize()


CPU = Device("cpu")
ACCELERATED = (
    Device("cuda"),
    Device("cuda", "bf16-mixed"),
    Device("cuda", compiled=True),
    Device("cuda", "bf16-mixed", compiled=True),
)


def devices() -> list[Device]:
    """Return what can be measured here."""
    return [CPU, *(ACCELERATED if torch.cuda.is_available() else ())]


def rows_not_measured(column: str, on: Sequence[Device] = ()) -> list[dict[str, Any]]:
    """Return rows that say, in a column, what is not among some devices, or those of here."""
    here = on or devices()
    return [{"device": str(d), column: NOT_MEASURED} for d in ACCELERATED if d not in here]


@dataclass(frozen=True)
class Target:
    """A figure that the project wants to reach; ``measured`` is ``None`` where it was not."""

    name: str
    measured: float | None
    limit: float
    at_least: bool = False

    @property
    def verdict(self) -> str:
        """Met or missed."""
        if self.measured is None:
            return "not measured"
        met = self.measured >= self.limit if self.at_least else self.measured <= self.limit
        return "met" if met else "missed"


@dataclass
class Result:
    """What a part measured.

    Args:
        part: its name on the command line.
        title: one line.
        setting: what was run, and how often.
        rows: of the table; a cell may be a ``spread``.
        targets: beside what was measured.
    """

    part: str
    title: str
    setting: dict[str, Any]
    rows: list[dict[str, Any]]
    targets: list[Target] = field(default_factory=list)

    def content(self, machine: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is written as JSON."""
        targets = [asdict(target) | {"verdict": target.verdict} for target in self.targets]
        return asdict(self) | {"machine": machine, "targets": targets}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, least and greatest."""
    middle = statistics.median(values)
    return {"median": round(middle, 4), "min": round(min(values), 4), "max": round(max(values), 4)}


def machine() -> dict[str, Any]:
    """Describe the machine by what decides its speed; ``load`` is what else it is doing."""
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def cpu_model() -> str:
    """Return the name of the CPU."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def show(content: Mapping[str, Any]) -> None:
    """Print a result for a person."""
    console = Console()
    console.print(f"\n{_description(content)}", soft_wrap=True, highlight=False, markup=False)
    print_rows(content["title"], _table(content["rows"]))
    if content["targets"]:
        print_rows("targets", _targets(content["targets"]))


def write(content: Mapping[str, Any], directory: Path) -> None:
    """Write a result as JSON, and all results of the directory as a page in Markdown."""
    write_json(directory / f"{content['part']}.json", content)
    page = [
        "# Measurements",
        "Written by `python -m benchmarks`. Medians, least and greatest in brackets; what is "
        "compared was measured in turns.",
    ]
    for path in sorted(directory.glob("*.json")):
        result = json.loads(path.read_text())
        page += [f"## {result['title']}", _description(result)]
        page.append(markdown_table(_table(result["rows"])))
        if result["targets"]:
            page.append(markdown_table(_targets(result["targets"])))
    with whole(directory / "README.md") as temporary:
        temporary.write_text("\n\n".join(page) + "\n")


def _description(content: Mapping[str, Any]) -> str:
    about = content["machine"]
    setting = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in content["setting"].items())
    gpu = f"{about['gpu']}, " if about["gpu"] else ""
    return (
        f"{about['cpu']}, {about['cores']} cores, {gpu}load {about['load']} before; "
        f"torch {about['torch']}, Python {about['python']}. Setting: {setting}."
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    columns = dict.fromkeys(key for row in rows for key in row)
    cells = [{key.replace("_", " "): _cell(row.get(key)) for key in columns} for row in rows]
    return pd.DataFrame(cells)


def _targets(targets: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "target": target["name"],
            "measured": _cell(target["measured"]),
            "aim": f"{'≥' if target['at_least'] else '≤'} {target['limit']:g}",
            "verdict": target["verdict"],
        }
        for target in targets
    )


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        median, least, most = (format_value(value[key]) for key in ("median", "min", "max"))
        return f"{median} ({least}–{most})"
    return format_value(value)


def track(steps: Sequence[T], title: str) -> Iterator[T]:
    """Give the steps one by one: with a bar on a terminal, a line each elsewhere."""
    console = Console(file=sys.stdout)
    with Progress(
        TextColumn(title, markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[step]}", markup=False),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("", total=len(steps), step="")
        for number, step in enumerate(steps, 1):
            bar.update(task, step=str(step))
            if not console.is_terminal:
                print(f"{title} {number}/{len(steps)}: {step}", flush=True)
            yield step
            bar.advance(task)


def peak_memory() -> int:
    """Return the most bytes that this process has used so far."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's figure begins, on Linux, with the parent's size
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    import resource  # which Windows does not have

    kilo = 1 if sys.platform == "darwin" else 1024
    return kilo * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
