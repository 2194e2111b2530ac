"""The fingerprint of a run: two runs with equal fingerprints are the same run."""

import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from omegaconf import DictConfig, OmegaConf

from implicit_em.base.settings import Difference, differences
from implicit_em.config.composing import key_of

RESULTS_SCHEMA = 2
"""Version of the files in a run directory; part of the fingerprint."""
DECIDING = (
    *("model", "loss", "data", "optimizer", "lr", "trainer"),
    *("callbacks", "seed", "probe", "metrics_every"),
)
"""Groups of settings that may affect results; no other is part of the fingerprint."""
NEVER_DECIDING = ("logger", "checkpoint", "picture", "overwrite")
"""Groups of settings that affect no result, whatever they hold."""
LEFT_OUT = (
    *("data.root", "trainer.enable_progress_bar", "trainer.enable_model_summary"),
    *("trainer.log_every_n_steps", "trainer.profiler"),
)
"""Settings of the groups in ``DECIDING`` that affect no result."""
AHEAD = ("ahead", "kept", "tokens", "producer")
"""Settings of a store that is made as it is read."""


def config_fingerprint(cfg: DictConfig | Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits over all settings that affect a run's results.

    The order of the loss terms counts, because the rounding of their sum depends on it.
    """
    settings = deciding(cfg)
    settings["loss"] = [[name, term] for name, term in settings["loss"].items()]
    settings["schema"] = RESULTS_SCHEMA
    canonical = json.dumps(_same_numbers(settings), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def deciding(cfg: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that affect a run's results, resolved, without loss terms of weight 0."""
    keys = [key for key in DECIDING if key in cfg]
    settings: Any = {key: _plain_copy(cfg[key]) for key in keys}
    for group, _, key in (name.partition(".") for name in LEFT_OUT):
        settings.get(group, {}).pop(key, None)
    data = settings.get("data", {})
    if data.keys() >= {*AHEAD}:
        made = data["ahead"] is not None  # how many are made ahead, and by what, changes no result
        for key in ("producer",) if made else AHEAD:
            del data[key]
        data |= {"ahead": True} if made else {}
    if data.get("digest") is not None:  # it identifies the files, wherever they are
        for key in ("path", "labels", "test_path", "test_labels"):
            data.pop(key, None)
    terms = settings.get("loss", {})
    settings["loss"] = {name: term for name, term in terms.items() if term.get("weight") != 0}
    return settings


def deciding_differences(there: Mapping[Any, Any], here: Mapping[Any, Any]) -> list[Difference]:
    """Return the settings that affect results and differ between two runs."""
    found = differences(deciding(there), deciding(here))
    other_seed = any(key == "seed" for key, *_ in found)  # data.seed follows it
    return [one for one in found if not (other_seed and one[0] == "data.seed")]


def affects_results(override: str) -> bool:
    """Return whether an override such as ``logger.mode=offline`` may change a run's results."""
    key = key_of(override).replace("/", ".")
    return not f"{key}.".startswith(tuple(f"{name}." for name in (*NEVER_DECIDING, *LEFT_OUT)))


def _plain_copy(value: Any) -> Any:
    if OmegaConf.is_config(value):
        return OmegaConf.to_container(value, resolve=True)
    return deepcopy(value)


def _same_numbers(value: Any) -> Any:
    """Return the value with 1 in place of 1.0, because both must have the same hash."""
    if isinstance(value, Mapping):
        return {str(key): _same_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_same_numbers(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
