"""The content of ``metrics.json``: every key is defined here or in ``metrics.energies``."""

import logging
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
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
ENDS = (*OF_TRAINING, "parameters", "epochs", "train_seconds")
IN_TABLE = (
    *("dead_units", "silent_units", "redundancy", *RESPONSIBILITIES, "density", "l0"),
    *(*RECONSTRUCTION, "fvu", *BY_RIDGE, "probe_accuracy", *ENDS),
)
"""Keys in the table of a run; those without a value are left out."""
IN_SUMMARY = (*CURVES, "probe_accuracy", "features_found", *OF_TRAINING)
"""Keys in the tables of a sweep; those without a value are left out of what is shown."""
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
        further += [key for key, name, _, _ in ends if name not in KNOWN]
    return [*shown[:2], *further, *shown[2:]]


def versions() -> dict[str, str]:
    """Return the versions of what the results depend on."""
    return {name: version(name) for name in VERSIONS_OF} | {"python": platform.python_version()}


@dataclass(frozen=True)
class Results:
    """Results of a run so far; a value that is unknown or undefined is ``None``.

    Args:
        status: ``completed``, ``failed`` or ``interrupted``.
        final_loss: mean loss over the steps of the last epoch.
        convergence_epoch: first of five successive epochs whose loss changes by less than 1.
        measured: final metrics of the model by name.
        l0_target: the ``model.l0`` of the run; ``None`` without one.
        l0_reached: whether ``measured["l0"]`` is near this target; ``None`` without one.
        probe_accuracy: accuracy of the linear probe, in [0, 1].
        train_seconds: seconds of training, including those before an interruption.
    """

    seed: int
    config_fingerprint: str
    status: str = "interrupted"
    error: str | None = None
    parameters: int | None = None
    epochs: int | None = None
    final_loss: float | None = None
    convergence_epoch: int | None = None
    measured: Mapping[str, Any] = field(default_factory=lambda: dict.fromkeys(MEASURED))
    l0_target: float | None = None
    l0_reached: bool | None = None
    probe_accuracy: float | None = None
    train_seconds: float | None = None
    probe_seconds: float | None = None
    device: str | None = None
    schema: int = RESULTS_SCHEMA
    versions: Mapping[str, str] = field(default_factory=versions)

    @classmethod
    def of(cls, spec: RunSpec) -> "Results":
        """Return the results of a run before it begins."""
        target = spec.settings["model"].get("l0")
        return cls(spec.settings["seed"], spec.fingerprint, l0_target=target)

    def updated(self, measured: Mapping[str, Any] | None = None, **values: Any) -> "Results":
        """Return these results with further values; ``measured`` adds final metrics."""
        return replace(self, measured={**self.measured, **(measured or {})}, **values)

    def as_dict(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``."""
        content: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            content |= value if entry.name == "measured" else {entry.name: value}
        return content


KNOWN = {"model", *MEASURED, *AT_SITES, *(entry.name for entry in fields(Results))}
"""Keys that a run or the table of an evaluation has, without the sites at the ends of some."""


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
