"""A run in Python: its metrics, curves, settings and model, read from its directory."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig
from torch import nn

from implicit_em.base.errors import DamagedError, raising
from implicit_em.trained import evaluations
from implicit_em.trained.loading import load
from implicit_em.training.directory import RunDirectory


class Run:
    """A run, read from its directory; a file is read when it is first asked for.

    It may stand for the directory's path, as in ``implicit_em.features(run)``. Only ``model``
    builds a class that the files name, as ``implicit_em.load`` does.

    Args:
        path: the run directory.
        classes: your own model and activation classes, if the run used any.

    Raises:
        FileNotFoundError: if the directory holds no run.
    """

    def __init__(self, path: str | Path, classes: Sequence[type[nn.Module]] = ()) -> None:
        self.path = Path(path)
        self._directory = RunDirectory(path)
        self._directory.check_is_one()
        self._classes = classes

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        metrics = self._directory.read_metrics() or {"status": "unfinished"}
        return f"Run({str(self.path)!r}): {metrics['status']}"

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The content of ``metrics.json``.

        Raises:
            ConfigError: if the run is not finished.
        """
        return self._directory.finished_metrics()

    @cached_property
    def history(self) -> pd.DataFrame:
        """The rows of ``history.csv`` by ``epoch``, also of a run that is not finished."""
        return _read(self._directory.history, "epoch")

    @cached_property
    def steps(self) -> pd.DataFrame:
        """The rows of ``steps.csv`` by ``step``; empty if the run has logged no steps."""
        return _read(self._directory.steps, "step")

    @cached_property
    def config(self) -> DictConfig:
        """The settings, resolved, such as ``config.lr.value``.

        Raises:
            DamagedError: if they cannot be read.
        """
        return self._directory.read_config()

    @cached_property
    def model(self) -> Any:
        """The trained model, for raw samples; see ``implicit_em.load``.

        Raises:
            ConfigError: if the run is not finished.
        """
        assert self.metrics
        return load(self.path, self._classes)

    @property
    def evaluations(self) -> dict[str, dict[str, Any]]:
        """What ``implicit-em evaluate`` has measured of the run so far, by name."""
        return evaluations.read(self.path)


def _read(path: Path, index: str) -> pd.DataFrame:
    """Return a table by its first column; without rows if there is no file."""
    if not path.exists():
        return pd.DataFrame(index=pd.Index([], name=index, dtype="int64"))
    with raising(DamagedError, f"{path}: no table", ValueError, TypeError, OSError):
        return pd.read_csv(path, index_col=index)
