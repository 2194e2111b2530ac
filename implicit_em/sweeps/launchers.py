"""Hydra's launchers and sweepers: where they run jobs, what they require, and their errors."""

import shutil

from hydra.types import RunMode
from omegaconf import DictConfig

from implicit_em.base.errors import one_line

HERE = ("BasicLauncher", "StackedLauncher", "JoblibLauncher")
GRIDS = ("BasicSweeper", "CheckedSweeper")
"""Sweepers that take every combination of the listed values."""
SLURM = ("SlurmLauncher", "SlurmStackedLauncher")
PACKAGES = ("joblib", "submitit", "ray")
"""Packages whose own errors mean that a job's process was lost or never started."""


def run_here(config: DictConfig) -> bool:
    """Return whether the launcher of a composed configuration runs the jobs on this machine."""
    return _name(config.hydra.launcher) in HERE


def is_basic(config: DictConfig) -> bool:
    """Return whether the launcher is Hydra's own, which runs one job after the other."""
    return _name(config.hydra.launcher) == "BasicLauncher"


def optimises(config: DictConfig) -> bool:
    """Return whether the sweeper chooses jobs by the results of earlier ones."""
    return _name(config.hydra.sweeper) not in GRIDS


def refusal(config: DictConfig) -> str | None:
    """Return why the launcher or the sweeper cannot start, e.g. without ``-m``, or ``None``."""
    for group in ("launcher", "sweeper"):
        if isinstance(name := config.hydra[group], str):
            return f"hydra.{group}={name}: no setting; write hydra/{group}={name}"
    choice, sweeper = (
        config.hydra.runtime.choices[group] for group in ("hydra/launcher", "hydra/sweeper")
    )
    if config.hydra.mode == RunMode.RUN:
        if not is_basic(config):
            return f"hydra/launcher={choice}: starts the jobs of a sweep; add -m"
        return f"hydra/sweeper={sweeper}: makes a sweep; add -m" if optimises(config) else None
    if config.get("objective") is None and optimises(config):
        return (
            f"hydra/sweeper={sweeper}: needs objective=KEY, the key of metrics.json to maximise, "
            "such as objective=probe_accuracy"
        )
    for key in ("n_trials", "n_jobs"):
        count = config.hydra.sweeper.get(key, 1)
        if not isinstance(count, int) or count < 1:
            return f"hydra.sweeper.{key}={count}: must be a whole number from 1 on"
    if _name(config.hydra.launcher) in SLURM and shutil.which("srun") is None:
        return f"hydra/launcher={choice}: Slurm's commands (sbatch, srun) are not on this machine"
    if (most := config.hydra.launcher.get("max_stack", 1)) < 1:
        return f"hydra.launcher.max_stack={most}: must be at least 1"
    if config.hydra.launcher.get("n_jobs") == 0:
        return "hydra.launcher.n_jobs=0: must be at least 1, or -1 for one job on each core"
    return None


def lost(error: BaseException) -> str | None:
    """Return one line that explains an error of a launcher or of Optuna; ``None`` for others."""
    if str(error).startswith("No trials are completed yet"):
        return "objective: no trial has a value, so none is the best"
    package = type(error).__module__.partition(".")[0]
    if package not in PACKAGES:
        return None
    message = one_line(error)
    lines = iter(str(error).splitlines())
    if any(line.startswith("Traceback ") for line in lines):  # the message quotes a traceback
        message = next((line for line in lines if line and not line.startswith(" ")), "")
    return f"{package}: {message} (the same command, with this hydra.sweep.dir, goes on)"


def _name(plugin: DictConfig) -> str:
    return str(plugin._target_).rpartition(".")[2]
