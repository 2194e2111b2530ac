"""The run directory: where a run keeps its config, its results and its model."""

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from implicit_em.base import interruption
from implicit_em.base.errors import ConfigError, DamagedError
from implicit_em.base.files import half_written, read_json, whole, write_json
from implicit_em.config.fingerprint import config_fingerprint, deciding
from implicit_em.config.saved import read_config, read_overrides
from implicit_em.config.spec import RunSpec

log = logging.getLogger(__name__)

EPOCHS = "trainer.max_epochs="
"""The one override that a run may be given anew."""


class RunDirectory:
    """Paths of a run's files, and the rule that no run is written over another.

    Args:
        path: the directory; made when the run claims it.

    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / ".hydra" / "config.yaml"
        self.overrides = self.path / ".hydra" / "overrides.yaml"
        self.metrics = self.path / "metrics.json"
        self.history = self.path / "history.csv"
        self.features = self.path / "features.png"
        self.weights = self.path / "model.safetensors"
        self.model = self.path / "model.json"
        self.checkpoint = self.path / "checkpoints" / "last.ckpt"

    def read_config(self) -> DictConfig:
        """Return the composed configuration; nothing that it names is built.

        Raises:
            FileNotFoundError: if this is not a run directory.
            DamagedError: if the file holds no run's configuration.

        """
        if not self.config.exists():
            raise FileNotFoundError(
                f"{self.path} is no run directory: it has no .hydra/config.yaml"
            )
        return read_config(self.config)

    def read_overrides(self) -> list[str]:
        """Return the overrides that the run was started with.

        Raises:
            DamagedError: if the file holds something else.

        """
        return read_overrides(self.overrides) if self.overrides.exists() else []

    def read_metrics(self) -> dict[str, Any] | None:
        """Return the content of ``metrics.json``, or ``None`` where there is none, or no run's."""
        try:
            metrics = read_json(self.metrics)
        except (FileNotFoundError, DamagedError):
            return None
        is_a_runs = isinstance(metrics, dict) and isinstance(metrics.get("status"), str)
        return metrics if is_a_runs else None

    def completed_metrics(self) -> dict[str, Any] | None:
        """Return the metrics of a run that is complete and whose other results are there."""
        metrics = self.read_metrics()
        results = (self.history, self.features, self.weights, self.model)
        if metrics and metrics["status"] == "completed" and all(path.exists() for path in results):
            return metrics
        return None

    def read_model(self) -> dict[str, Any]:
        """Return the content of ``model.json``.

        Raises:
            FileNotFoundError: if the directory holds no trained model.
            DamagedError: if the file describes none.

        """
        if not self.model.exists():
            raise FileNotFoundError(f"{self.path} holds no trained model: no {self.model.name}")
        description = read_json(self.model)
        if not isinstance(description, dict) or not isinstance(description.get("model"), dict):
            raise DamagedError(f"{self.model}: describes no model")
        return description

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the directory from other processes; waits while one of them has it."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        if not _acquire(lock, seconds=0):
            log.info("%s: another process trains there: waiting for it", self.path)
            while not _acquire(lock, seconds=1):
                interruption.stop_if_requested()
        try:
            yield
        finally:
            lock.release()

    def refusal(self, spec: RunSpec) -> str | None:
        """Return why the directory is not for this run: it holds another; or ``None``."""
        if not self.config.exists():
            if self.history.exists() or self.checkpoint.exists():
                return (
                    f"{self.path}: holds the state of a run whose settings are missing; choose "
                    "another directory, or overwrite=true"
                )
            return None
        try:
            there = self.read_config()
        except DamagedError as error:
            return f"{error}; choose another directory, or overwrite=true"
        difference = None
        if config_fingerprint(there) != spec.fingerprint:
            difference = _difference(there, spec.settings)
        elif (metrics := self.read_metrics()) and not spec.has_made(metrics):
            difference = f" (metrics.json is of schema {metrics.get('schema')})"
        if difference is None:
            return None
        return (
            f"{self.path}: holds a run of other settings{difference}; nothing is overwritten: "
            "choose another directory, or overwrite=true"
        )

    def claim(self, spec: RunSpec, resumed: bool = False) -> dict[str, Any] | None:
        """Take the directory for a run, and save the run's configuration in it.

        Args:
            spec: run that will train here. With its ``overwrite``, what the directory holds of
                another run is removed.
            resumed: whether the run in the directory goes on, maybe for more epochs.

        Returns:
            The metrics of the same run, if it is complete already; else ``None``. A run that
            failed or was interrupted keeps its history and its checkpoints, and goes on from them.

        Raises:
            ConfigError: if the directory holds another run, or if the configuration could not be
                read again.
            WriteError: if a file cannot be written.

        """
        if not resumed and (refusal := self.refusal(spec)):
            if not spec.settings["overwrite"]:
                raise ConfigError(refusal)
            log.warning("%s: replaced by a run of other settings", self.path)
            self._clear()
        metrics = self.completed_metrics()
        if metrics and spec.has_made(metrics):
            return metrics
        self._remove_results()
        overrides = list(spec.overrides)
        if resumed:
            epochs = [line for line in overrides if line.startswith(EPOCHS)]
            before = self.read_overrides()
            overrides = [o for o in before if not (epochs and o.startswith(EPOCHS))] + epochs
        else:
            self._write(self.path / ".hydra" / "hydra.yaml", {"hydra": spec.hydra})
        self._write(self.overrides, overrides)
        # Resolved, since what was trained does not depend on the environment of a reader.
        self._write(self.config, spec.settings)
        return None

    def _write(self, path: Path, content: Any) -> None:
        with whole(path) as temporary:
            temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(content)), encoding="utf-8")
            if path == self.config:
                read_config(temporary)  # otherwise the run could not go on some day

    def _remove_results(self) -> None:
        """Remove an unfinished run's results, and files that a killed process has half written."""
        for path in self._results():
            path.unlink(missing_ok=True)
        newest = self.checkpoint.with_stem("newest")
        for path in (*self._results(), self.history, newest, self.config, self.overrides):
            for part in half_written(path):
                part.unlink()

    def _results(self) -> tuple[Path, ...]:
        return self.metrics, self.features, self.weights, self.model

    def _clear(self) -> None:
        for path in (*self._results(), self.history):
            path.unlink(missing_ok=True)
        for path in (self.config.parent, self.checkpoint.parent, self.path / "wandb"):
            shutil.rmtree(path, ignore_errors=True)

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write ``metrics.json``, the last file of a run."""
        write_json(self.metrics, metrics)


def _acquire(lock: FileLock, seconds: float) -> bool:
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return False
    return True


def _difference(there: Mapping[Any, Any], here: Mapping[Any, Any]) -> str:
    old, new = (flatten(deciding(cfg)) for cfg in (there, here))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            return f" ({key}={old.get(key)} there, {new.get(key)} here)"
    return ""


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by their dotted keys."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {
        key: leaf
        for name, item in value.items()
        for key, leaf in flatten(item, f"{prefix}.{name}" if prefix else str(name)).items()
    }
