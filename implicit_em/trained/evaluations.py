"""What was measured of a trained model after its training, kept in a folder beside it."""

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from implicit_em.base.errors import DamagedError, WriteError
from implicit_em.base.files import read_json, write_json
from implicit_em.config.fingerprint import deciding
from implicit_em.config.schema import to_plain
from implicit_em.trained.reading import Trained
from implicit_em.training.directory import EVALUATIONS
from implicit_em.training.results import versions

log = logging.getLogger(__name__)

OWN = "own"
"""Name of a measurement on the data that the run was trained for."""
OPTIONS = ("inside", "probes", "all_latents", "absorption")
"""What may be asked for beside the metrics of the samples; see ``trained.evaluate.evaluate``."""
INSIDE = "-inside"
"""End of the name of a measurement that was also made inside a language model."""
OF_TRAINING = ("batch_size", "buffer", "drop_last", "normalize", "seed")
"""Settings of ``data`` that do not change what is measured of a trained model."""
KEPT = {"name", "date", "metrics", "weights_digest", "data_digest"}
"""Keys that are read from the file of an evaluation."""
COLUMN = "evaluation"
"""First part of the names of columns, before the measurement's name and the metric's key."""


def record(
    found: Trained,
    metrics: Mapping[str, Any],
    options: Mapping[str, Any],
    folder: Path | None = None,
    details: Mapping[str, Any] | None = None,
    reading: Mapping[str, int | None] = MappingProxyType({}),
) -> dict[str, Any]:
    """Write a measurement as JSON, and return its content.

    There is one file for each choice of data, weights, options and reading: the same measurement
    replaces its file, and any other has a file of its own. If a file cannot be written, a warning
    says so.

    Args:
        found: the model and its data.
        metrics: what was measured; no NaN or infinity.
        options: what was asked for, by the names of ``OPTIONS``: ``None`` and ``False`` ask for
            nothing, an empty list for all that there is.
        folder: the file goes into its ``evaluations/``; ``None`` for the model's own.
        details: what the metrics are means of, by the names of options.
        reading: how codes were read, if not as the run was trained.
    """
    data, digest, weights = found.spec.settings["data"], found.data_digest, found.digest[:16]
    own = None if found.run is None else to_plain(found.run.read_config())["data"]
    read_as = "".join(f"-{key}_{value}" for key, value in sorted(reading.items()))
    name = _name(data, digest, own) + _ending(options) + read_as
    folder = folder or found.output
    content = {
        "schema": 1,
        "name": name,
        "model": found.address,
        "date": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "data": dict(data),
        "data_digest": digest,
        "weights_digest": weights,
        "options": dict(options),
        "reading": dict(reading),
        "versions": versions(),
        "metrics": dict(metrics),
        "details": dict(details or {}),
    }
    path = folder / EVALUATIONS / f"{name}.{_hash(f'{digest} {weights}')}.json"
    try:
        write_json(path, content)
        log.info("written to %s", path)
    except WriteError as error:
        log.warning("%s", error)
    return content


def is_own(name: str) -> bool:
    """Return whether a measurement of this name was made on the data that a run was trained for."""
    return re.fullmatch(rf"{OWN}(-({'|'.join(OPTIONS)})(_[0-9a-f]{{8}})?)*", name) is not None


def _ending(options: Mapping[str, Any]) -> str:
    """Return the end of a measurement's name: what was asked for, and a hash of what was chosen."""
    asked = {name: value for name, value in options.items() if value not in (None, False)}
    chosen = {name: value not in (True, []) for name, value in asked.items()}
    return "".join(
        f"-{name}" + f"_{_hash(json.dumps(value))}" * chosen[name] for name, value in asked.items()
    )


def _name(data: Mapping[str, Any], digest: str | None, own: Mapping[str, Any] | None) -> str:
    """Return ``own``, or a name that two runs share if and only if their data are the same."""
    decides = _deciding(data, digest)
    if own is not None:
        unchanged = _measured(data) == _measured(own)  # its own digest, of any kind, was checked
        if unchanged or decides == _deciding(own, own.get("digest") or digest):
            return OWN
    place = data.get("path") or data.get("dataset", data)["_target_"].replace(".", "/")
    text = json.dumps(decides, sort_keys=True, default=str)
    said = re.sub(r"[^\w-]+", "_", Path(place).stem, flags=re.ASCII)
    return f"{said}-{_hash(text)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _deciding(data: Mapping[str, Any], digest: str | None) -> dict[str, Any]:
    """Return the settings that identify data, with the digest of the content."""
    decides: dict[str, Any] = deciding({"data": _measured(data) | {"digest": digest}})["data"]
    return decides


def _measured(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in OF_TRAINING}


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the measurements in a folder by name, the latest of each; warn of damaged files."""
    found: list[dict[str, Any]] = []
    for path in sorted((folder / EVALUATIONS).glob("*.json")):
        try:
            content = read_json(path)
            if not (isinstance(content, dict) and content.keys() >= KEPT):
                raise DamagedError(f"{path}: no measurement")
            found.append(content)
        except (DamagedError, OSError) as error:
            log.warning("%s", error)
    return {content["name"]: content for content in sorted(found, key=lambda one: one["date"])}


def columns(folder: Path) -> dict[str, Any]:
    """Return the numbers of all measurements in a folder, as ``evaluation.NAME.KEY``."""
    return {
        f"{COLUMN}.{name}.{key}": value
        for name, content in read(folder).items()
        for key, value in content["metrics"].items()
    }
