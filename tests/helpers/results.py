"""What runs leave, and how two sweeps compare."""

import json
from pathlib import Path
from typing import Any

import pandas as pd


def metrics_of(run: Path) -> dict[str, Any]:
    """Return a run's metrics, but for times."""
    metrics = json.loads((run / "metrics.json").read_text())
    return {key: value for key, value in metrics.items() if not key.endswith("_seconds")}


def results(run: Path) -> tuple[dict[str, Any], list[bytes]]:
    """Return all that a run leaves, but for times."""
    files = [(run / name).read_bytes() for name in ("history.csv", "model.safetensors")]
    return metrics_of(run), files


SAME = ("history.csv", "steps.csv", "model.safetensors", "model.json", "features.png")
SAME += (".hydra/config.yaml", ".hydra/overrides.yaml")


def assert_jobs_equal(found, expected, files=SAME):
    """Compare two directories of sweeps job by job; gives the names of the jobs."""
    names = sorted(path.parent.name for path in expected.glob("*/metrics.json"))
    assert names == sorted(path.parent.name for path in found.glob("*/metrics.json"))
    for name in names:
        assert metrics_of(found / name) == metrics_of(expected / name)
        for file in files:
            there, here = ((sweep / name / file) for sweep in (found, expected))
            assert there.exists() == here.exists()
            assert not here.exists() or there.read_bytes() == here.read_bytes(), (name, file)
    tables = [pd.read_csv(sweep / "summary.csv") for sweep in (found, expected)]
    times = [column for column in tables[0] if column.endswith("_seconds")]
    assert tables[0].drop(columns=times).equals(tables[1].drop(columns=times))
    return names


def finished(directory):
    """When each job of a sweep ended."""
    return {path: path.stat().st_mtime_ns for path in directory.glob("*/metrics.json")}


def announced(out):
    """What the launcher says of its groups."""
    return [line for line in out.splitlines() if line.endswith((" jobs together:", "by itself:"))]
