"""The run directory, which holds a run's configuration, results and model."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from implicit_em.base.errors import ConfigError, DamagedError, MissingError
from implicit_em.base.files import half_written, read_json, whole, write_json, writing
from implicit_em.base.settings import listed
from implicit_em.config.fingerprint import config_fingerprint, deciding_differences
from implicit_em.config.saved import read_choices, read_config, read_overrides
from implicit_em.config.schema import to_plain
from implicit_em.models.normalizing import Normalizer
from implicit_em.training.spec import RunSpec

log = logging.getLogger(__name__)

EPOCHS = "trainer.max_epochs="
"""The override of a saved run that a resumed run may replace."""
EVALUATIONS = "evaluations"
"""Folder of what was measured of a finished run."""
DERIVED = (EVALUATIONS, "saelens", "export.safetensors", "torch", "explore")
"""What other commands make of a run's weights, in its directory; new weights remove it."""

STATISTICS = "data.normalize."
"""Prefix of the names of the normaliser's tensors among the weights; no parameter has it."""


class RunDirectory:
    """Paths of a run's files, and the rule that no run overwrites another."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / ".hydra" / "config.yaml"
        self.overrides = self.path / ".hydra" / "overrides.yaml"
        self.hydra = self.path / ".hydra" / "hydra.yaml"
        self.metrics = self.path / "metrics.json"
        self.history = self.path / "history.csv"
        self.steps = self.path / "steps.csv"
        self.features = self.path / "features.png"
        self.weights = self.path / "model.safetensors"
        self.model = self.path / "model.json"
        self.checkpoint = self.path / "checkpoints" / "last.ckpt"
        self._results = (self.metrics, self.features, self.weights, self.model)

    def check_is_one(self) -> None:
        """Raise ``MissingError`` if this is not a run directory."""
        if not self.config.exists():
            raise MissingError(f"{self.path} is no run directory: it has no .hydra/config.yaml")

    def read_config(self) -> DictConfig:
        """Return the composed configuration without building anything that it names.

        Raises:
            MissingError: if this is not a run directory.
            DamagedError: if the file holds no run's configuration.
        """
        self.check_is_one()
        return read_config(self.config)

    def read_spec(self) -> RunSpec:
        """Return the settings of the run; raise as ``read_config`` does."""
        return RunSpec.of_settings(to_plain(self.read_config()))

    def read_overrides(self) -> list[str]:
        """Return the overrides that started the run, or raise ``DamagedError``."""
        return read_overrides(self.overrides) if self.overrides.exists() else []

    def read_choices(self) -> dict[str, str]:
        """Return the chosen option of each config group; a run outside of Hydra has none."""
        return read_choices(self.hydra)

    def read_metrics(self) -> dict[str, Any] | None:
        """Return the content of ``metrics.json``, or ``None`` if it is missing or damaged."""
        try:
            metrics = read_json(self.metrics)
        except (FileNotFoundError, DamagedError):
            return None
        is_valid = isinstance(metrics, dict) and isinstance(metrics.get("status"), str)
        return metrics if is_valid else None

    def completed_metrics(self) -> dict[str, Any] | None:
        """Return the metrics of a completed run, or ``None`` if it lacks a model or a history."""
        metrics = self.read_metrics()
        if not metrics or metrics["status"] != "completed":
            return None
        needed = (self.weights, self.model, self.history)
        return metrics if all(file.exists() for file in needed) else None

    def finished_metrics(self) -> dict[str, Any]:
        """Return the metrics of a completed run, or raise ``ConfigError``, which says why not."""
        if metrics := self.completed_metrics():
            return metrics
        found = self.read_metrics() or {"status": "no metrics.json"}
        lacking = "files are missing" if found["status"] == "completed" else found["status"]
        reason = found.get("error") or lacking
        raise ConfigError(f"{self.path}: not finished: {reason}; allowed are finished runs")

    def read_model(self) -> dict[str, Any]:
        """Return the content of ``model.json``.

        Raises:
            MissingError: if the directory holds no trained model.
            DamagedError: if the file does not describe a model.
        """
        if not self.model.exists():
            raise MissingError(f"{self.path} holds no trained model: no {self.model.name}")
        description = read_json(self.model)
        if not isinstance(description, dict) or not isinstance(description.get("model"), dict):
            raise DamagedError(f"{self.model}: describes no model")
        return description

    def refusal(self, spec: RunSpec) -> str | None:
        """Return why the run must not use the directory, or ``None`` if it may."""
        if not self.config.exists():
            derived = (self.path / name for name in DERIVED)
            files = (*self._results, *derived, self.history, self.steps, self.checkpoint)
            if there := [file.name for file in files if file.exists()]:
                return (
                    f"{self.path}: holds {', '.join(there)}, but not the settings of a run; choose "
                    "another directory, or overwrite=true"
                )
            return None
        if self._never_began:
            return None
        try:
            saved = self.read_config()
        except DamagedError as error:
            return f"{error}; choose another directory, or overwrite=true"
        if config_fingerprint(saved) != spec.fingerprint:
            found = deciding_differences(saved, spec.settings)
            difference = f" ({listed(found)})" if found else ""
        elif (metrics := self.read_metrics()) and not spec.has_made(metrics):
            difference = f" (metrics.json is of schema {metrics.get('schema')})"
        else:
            return None
        return (
            f"{self.path}: holds a run of other settings{difference}; nothing is overwritten: "
            "choose another directory, or overwrite=true"
        )

    @property
    def _never_began(self) -> bool:
        """Whether a run failed here before its first epoch, so that nothing of it can be lost."""
        metrics = self.read_metrics()
        failed = metrics is not None and metrics["status"] == "failed"
        return failed and not (self.history.exists() or self.checkpoint.exists())

    def claim(self, spec: RunSpec, resumed: bool = False) -> dict[str, Any] | None:
        """Take the directory for a run and save the run's configuration in it.

        The files of another run are removed if the run's settings say ``overwrite``. A run that
        failed or was interrupted keeps its history and checkpoints, and resumes from them.
        With ``resumed``, the run in the directory goes on, maybe for more epochs.

        Returns:
            The metrics of the same run if it is already complete, else ``None``.

        Raises:
            ConfigError: if the directory holds another run, or the configuration could not be read
                again.
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
        if self._never_began and not spec.has_made(self.read_metrics() or {}):
            self._clear()
        self._remove_results()
        overrides = list(spec.overrides)
        # Resolved: a reader's environment may differ from the one that trained.
        self._write(self.config, spec.settings)
        if resumed:
            epochs = [line for line in overrides if line.startswith(EPOCHS)]
            before = self.read_overrides()
            overrides = [o for o in before if not (epochs and o.startswith(EPOCHS))] + epochs
        else:
            self._write(self.hydra, {"hydra": spec.hydra})
        self._write(self.overrides, overrides)
        return None

    def _write(self, path: Path, content: Any) -> None:
        with whole(path) as temporary:
            temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(content)), encoding="utf-8")
            if path == self.config:
                read_config(temporary)  # a run that cannot be read could never be resumed

    def _remove_results(self) -> None:
        """Remove results, what is derived from them, and partial files of killed processes."""
        if self.weights.exists():  # without weights, nothing can be derived from them
            for name in DERIVED:
                _remove(self.path / name)
        for path in self._results:
            path.unlink(missing_ok=True)
        newest = self.checkpoint.with_stem("newest")
        written = (*self._results, self.history, self.steps, newest, self.config, self.overrides)
        for path in written:
            for part in half_written(path):
                part.unlink()

    def _clear(self) -> None:
        self._remove_results()
        for path in (self.history, self.steps):
            path.unlink(missing_ok=True)
        for path in (self.config.parent, self.checkpoint.parent, self.path / "wandb"):
            shutil.rmtree(path, ignore_errors=True)

    def write_model(
        self,
        model: nn.Module,
        arguments: Mapping[str, Any],
        sample_shape: Sequence[int],
        normalizer: Normalizer | None = None,
    ) -> None:
        """Write the weights without pickle, and ``model.json``, which says how to rebuild them.

        The weights are for normalised samples. The normaliser's statistics stand beside them.

        Args:
            model: the trained model.
            arguments: the model's class and its arguments, as ``_target_`` and further keys.
            sample_shape: shape of a sample, such as (28, 28).
            normalizer: normaliser of the training samples; ``None`` for none.
        """
        weights = model.state_dict()
        description = {"schema": 1, "model": dict(arguments), "sample_shape": list(sample_shape)}
        if normalizer is not None:
            weights |= normalizer.state_dict(prefix=STATISTICS)
            description["normalize"] = normalizer.option
        with whole(self.weights) as temporary:
            contiguous = {k: v.contiguous() for k, v in weights.items()}
            temporary.write_bytes(safetensors.torch.save(contiguous))
        write_json(self.model, description)

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write ``metrics.json``, the last file of a run."""
        write_json(self.metrics, metrics)


def _remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that it holds, if it is there."""
    with writing(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
