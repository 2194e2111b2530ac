"""The content of ``metrics.json``: every key is defined here or in ``metrics.energies``."""

import logging
import math
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.table import Table

from implicit_em.base.tables import format_value
from implicit_em.config.fingerprint import RESULTS_SCHEMA
from implicit_em.metrics.energies import CURVES, FINAL, RECONSTRUCTION
from implicit_em.training.spec import RunSpec

log = logging.getLogger(__name__)

VERSIONS_OF = ("implicit-em", "torch", "pytorch-lightning", "hydra-core", "numpy", "scikit-learn")
BY_RIDGE = ("ridge_fvu", "features_found")
"""Measurements of a decoder that is fitted by ridge regression after the training."""
DESCRIBED = ("units", "inputs", "responsibilities", "site")
"""What decides which metrics a table shows: the numbers K and D, whether a softmax of the energies
gives responsibilities, and the place inside another model that the samples come from."""
AT_SITES = ("single_site_units",)
"""What only crosscoders have, beside keys that end with a site, such as ``fvu.SITE``."""
RESPONSIBILITIES = ("responsibility_entropy", "maximum_responsibility")
MEASURED = (*FINAL, *RECONSTRUCTION, "fvu", *BY_RIDGE, *DESCRIBED)
"""Keys of the final metrics of every model; ``None`` where a metric does not apply."""
OF_TRAINING = ("final_loss", "convergence_epoch")
KEYS = (
    *("seed", "config_fingerprint", "status", "error", "parameters", "epochs", *OF_TRAINING),
    *(*MEASURED, "l0_target", "l0_reached", "probe_accuracy", "train_seconds", "probe_seconds"),
    *("device", "schema", "versions"),
)
"""Keys of ``metrics.json`` of every run, in their order."""
ENDS = (*OF_TRAINING, "parameters", "epochs", "train_seconds")
IN_TABLE = (
    *("dead_units", "silent_units", "redundancy", *RESPONSIBILITIES, "density", "l0"),
    *(*RECONSTRUCTION, "fvu", *BY_RIDGE, "probe_accuracy", *ENDS),
)
"""Keys in the table of a run; the table leaves out keys without a value."""
IN_SUMMARY = (*CURVES, "probe_accuracy", "features_found", *OF_TRAINING)
"""Keys in the tables of a sweep; what is shown leaves out keys without a value."""
LEADING = ("l0", "fvu", "ridge_fvu", "inactive_units", "silent_units")
"""Keys that come first for a wide layer and for activations of a language model."""
WIDE_TABLE = (
    *(*LEADING, "redundancy", *RESPONSIBILITIES, "reconstruction_mse"),
    *("features_found", "probe_accuracy", *ENDS),
)
"""Keys in the table of such a run: none has an absolute threshold."""
WIDE_SUMMARY = (
    *(*LEADING, "redundancy", *RESPONSIBILITIES[:1]),
    *("probe_accuracy", "features_found", *OF_TRAINING),
)


def in_table(metrics: Mapping[Any, Any], of_sweep: bool = False) -> list[str]:
    """Return the keys that say something of a run's model, for its table or its sweep's table.

    The table of an evaluation also has all keys that no run has: they were measured inside the
    model that the samples come from.

    Args:
        metrics: content of ``metrics.json``, or what an evaluation has measured.
        of_sweep: whether the table is of a sweep.
    """
    sizes = (metrics.get(key) for key in ("units", "inputs"))
    units, inputs = (size if isinstance(size, int | float) else 0 for size in sizes)
    keys: tuple[str, ...] = IN_SUMMARY if of_sweep else IN_TABLE
    if units > inputs or metrics.get("site"):
        keys = WIDE_SUMMARY if of_sweep else WIDE_TABLE
    omitted = () if metrics.get("responsibilities") in (None, True) else RESPONSIBILITIES
    shown = [key for key in keys if key not in omitted]
    ends = [(str(key), *str(key).partition(".")) for key in metrics]
    at_sites = [key for key, name, dot, _ in ends if dot and name in shown]
    further = [*at_sites, *AT_SITES] if at_sites else []
    if not of_sweep:
        known = {"model", *KEYS, *AT_SITES}
        further += [key for key, name, _, _ in ends if name not in known]
    return [*shown[:2], *further, *shown[2:]]


def versions() -> dict[str, str]:
    """Return the versions of what the results depend on."""
    return {name: version(name) for name in VERSIONS_OF} | {"python": platform.python_version()}


def begun(spec: RunSpec) -> dict[str, Any]:
    """Return the content of ``metrics.json`` of a run that begins; ``None`` for what is unknown."""
    return {
        **dict.fromkeys(KEYS),
        "seed": spec.settings["seed"],
        "config_fingerprint": spec.fingerprint,
        "status": "interrupted",
        "l0_target": spec.settings["model"].get("l0"),
        "schema": RESULTS_SCHEMA,
        "versions": versions(),
    }


def without_infinities(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics with ``None`` for values that are not finite; one warning names them."""
    lost = [k for k, v in metrics.items() if isinstance(v, float) and not math.isfinite(v)]
    if lost:
        log.warning("not finite, so null: %s", ", ".join(lost))
    return {**metrics, **dict.fromkeys(lost)}


def print_result(metrics: Mapping[str, Any], directory: str | None = None) -> None:
    """Print the table of a run's results, and the directory that holds them; see ``in_table``."""
    named = f"seed {metrics['seed']}" if "seed" in metrics else metrics["model"]
    console = Console()
    console.print(f"{named}, {metrics['status']}", soft_wrap=True, highlight=False, markup=False)
    table = Table()
    table.add_column("metric")
    table.add_column("value", justify="right")
    for key in in_table(metrics):
        if metrics.get(key) is not None or key == "redundancy":
            table.add_row(key.replace("_", " "), format_value(metrics.get(key)))
    console.print(table)
    if directory is not None:
        console.print(f"Written to {directory}", soft_wrap=True, highlight=False)
