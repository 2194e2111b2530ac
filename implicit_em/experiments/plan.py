"""The runs of the paper's study: each one once."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from implicit_em.base.errors import ConfigError
from implicit_em.config.check import check
from implicit_em.config.fingerprint import config_fingerprint
from implicit_em.config.spec import RunSpec
from implicit_em.experiments.paper import PROTOCOL
from implicit_em.studies.runs import Run, compose_sweeps, on_any_device
from implicit_em.training.directory import RunDirectory

EXPERIMENTS = {
    "theorem": ("theorem",),
    "ablation": ("ablation",),
    "benchmark": ("benchmark",),
    "dynamics": ("dynamics", "width_sgd", "width_adam"),
    "features": ("features",),
}
"""The five experiments and the sweeps, files of ``conf/experiment``, that each is made of."""


def plan(
    experiments: Sequence[str], directory: Path, conf: Path, overrides: Sequence[str] = ()
) -> list[Run]:
    """Compose and check every run of the experiments; one that several share appears once.

    A complete run of the same fingerprint, anywhere below ``directory``, is taken as it is.

    Args:
        experiments: keys of ``EXPERIMENTS``.
        directory: of the runs.
        conf: the configuration files.
        overrides: settings, in Hydra's notation, beside those of the experiments.

    Raises:
        ConfigError: if one of them cannot be trained, or its directory holds another run.

    """
    runs: dict[str, Run] = {}
    complete = _complete(directory)
    sweeps = _sweeps(experiments)
    for sweep, cfg, axes in compose_sweeps(sweeps, conf, overrides):
        fingerprint = config_fingerprint(cfg)
        if fingerprint not in runs:
            check(RunSpec.of(cfg))
            job = ",".join(f"{key}={value}" for key, value in sorted(axes.items()))
            there = complete.get(fingerprint)
            runs[fingerprint] = Run(cfg, fingerprint, there or directory / sweep / job, bool(there))
        runs[fingerprint].places.append((sweep, axes))
    for run in runs.values():
        _refuse_another_run(run)
    return list(runs.values())


def _sweeps(experiments: Sequence[str]) -> list[str]:
    return [sweep for name in experiments for sweep in EXPERIMENTS[name]]


def _complete(directory: Path) -> dict[str, Path]:
    """Return the complete runs below a directory, by the fingerprint in their metrics."""
    found = {}
    for path in sorted(directory.glob("*/*/metrics.json")):
        if metrics := RunDirectory(path.parent).completed_metrics():
            found[metrics["config_fingerprint"]] = path.parent
    return found


def _refuse_another_run(run: Run) -> None:
    directory = RunDirectory(run.directory)
    if directory.config.exists() and config_fingerprint(directory.read_config()) != run.fingerprint:
        raise ConfigError(
            f"{run.directory}: holds a run of other settings; nothing is overwritten: name another "
            "--directory"
        )


def protocol(experiments: Sequence[str], runs: Sequence[Run]) -> dict[str, str]:
    """Return a digest of each sweep's runs, whatever the device and its threads."""
    digests = {}
    for sweep in _sweeps(experiments):
        own = sorted(on_any_device(r.cfg) for r in runs if sweep in {name for name, _ in r.places})
        digests[sweep] = hashlib.sha256(",".join(own).encode()).hexdigest()[:16]
    return digests


def is_protocol(experiments: Sequence[str], runs: Sequence[Run]) -> bool:
    """Return whether the runs are those of the paper's protocol, as ``paper.PROTOCOL`` pins it."""
    return protocol(experiments, runs).items() <= PROTOCOL.items()
