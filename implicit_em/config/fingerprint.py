"""Which runs are the same run."""

import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from omegaconf import DictConfig, OmegaConf

RESULTS_SCHEMA = 2
"""Version of what a run directory holds; part of the fingerprint."""

_DECIDE = (
    "model",
    "loss",
    "data",
    "optimizer",
    "lr",
    "trainer",
    "callbacks",
    "seed",
    "probe",
    "metrics_every",
)
NO_RESULT = (
    "logger",
    "checkpoint",
    "overwrite",
    "data.root",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.log_every_n_steps",
    "trainer.profiler",
)
"""Keys of settings that affect no result, with all that lies below them."""
_CAME_LATER = {"data": {"final": "test"}}
"""Settings that earlier runs do not name, with the values that these were run with."""
_STOOD_FOR_BY_A_DIGEST = ("path", "labels", "test_path", "test_labels")
"""Settings of data that do not matter beside ``data.digest``, which tells what they name."""


def config_fingerprint(cfg: DictConfig | Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits over all settings that affect a run's results.

    Two runs of one fingerprint are the same run. The order of the loss terms counts, as their sum
    rounds by it.
    """
    settings = deciding(cfg)
    settings["loss"] = [[name, term] for name, term in settings["loss"].items()]
    settings["schema"] = RESULTS_SCHEMA
    canonical = json.dumps(_same_numbers(settings), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def deciding(cfg: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that affect a run's results, resolved.

    Paths, loggers, launchers and the display affect none. Beside a digest of files, the names of
    these files do not count either; nor does a loss term of weight 0.
    """
    keys = [key for key in _DECIDE if key in cfg]
    settings: Any = {key: cfg[key] for key in keys}
    if isinstance(cfg, DictConfig):
        config = OmegaConf.masked_copy(cfg, keys)
        config._set_parent(cfg)
        settings = OmegaConf.to_container(config, resolve=True)
    settings = deepcopy(settings)
    for group, _, key in (name.partition(".") for name in NO_RESULT):
        settings.get(group, {}).pop(key, None)
    for group, values in _CAME_LATER.items():
        for key, value in values.items():
            if settings.get(group, {}).get(key) == value:
                del settings[group][key]
    data = settings.get("data", {})
    if data.get("digest") is not None:
        for key in _STOOD_FOR_BY_A_DIGEST:
            data.pop(key, None)
    terms = settings.get("loss", {})
    settings["loss"] = {name: term for name, term in terms.items() if term.get("weight") != 0}
    return settings


def affects_results(override: str) -> bool:
    """Return whether an override, as ``logger.mode=offline``, may change a run's results."""
    key = override.lstrip("+~").partition("=")[0].replace("/", ".")
    return not any(key == name or key.startswith(f"{name}.") for name in NO_RESULT)


def run_identity(cfg: Mapping[str, Any]) -> str:
    """Return the fingerprint of a plain configuration, however many epochs it asks for."""
    return config_fingerprint({**cfg, "trainer": {**cfg["trainer"], "max_epochs": None}})


def _same_numbers(value: Any) -> Any:
    """Write 1 and 1.0 alike."""
    if isinstance(value, Mapping):
        return {str(key): _same_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_same_numbers(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
