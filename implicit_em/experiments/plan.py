"""The runs of the paper's study, each one once."""

from collections.abc import Sequence
from pathlib import Path

from implicit_em.experiments.paper import PROTOCOL
from implicit_em.studies.protocol import digest
from implicit_em.studies.runs import Run, plan_sweeps

# The five experiments, and the sweeps, files of ``conf/experiment``, that each consists of.
EXPERIMENTS = {
    "theorem": ("theorem",),
    "ablation": ("ablation",),
    "benchmark": ("benchmark",),
    "dynamics": ("dynamics", "width_sgd", "width_adam"),
    "features": ("features",),
}


def plan(
    experiments: Sequence[str], directory: Path, conf: Path, overrides: Sequence[str] = ()
) -> list[Run]:
    """Plan the runs of the experiments as ``plan_sweeps`` does; W&B groups them by experiment."""
    runs = plan_sweeps(_sweeps(experiments), directory, conf, overrides)
    for run in runs:
        run.group = next(name for name, sweeps in EXPERIMENTS.items() if run.sweep in sweeps)
        run.tags = [name for name, sweeps in EXPERIMENTS.items() if {*sweeps} & {*run.sweeps}]
    return runs


def protocol(experiments: Sequence[str], runs: Sequence[Run]) -> dict[str, str]:
    """Return a digest of each sweep's runs."""
    return {
        sweep: digest(run.cfg for run in runs if sweep in run.sweeps)
        for sweep in _sweeps(experiments)
    }


def is_protocol(experiments: Sequence[str], runs: Sequence[Run]) -> bool:
    """Return whether the runs are those of the paper's protocol, as ``paper.PROTOCOL`` pins it."""
    return protocol(experiments, runs).items() <= PROTOCOL.items()


def _sweeps(experiments: Sequence[str]) -> list[str]:
    return [sweep for name in experiments for sweep in EXPERIMENTS[name]]
