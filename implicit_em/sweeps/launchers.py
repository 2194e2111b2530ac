"""Hydra's launchers: where they run jobs, what they require, and their errors."""

import shutil

from hydra.types import RunMode
from omegaconf import DictConfig

from implicit_em.base.errors import one_line

HERE = ("BasicLauncher", "StackedLauncher", "JoblibLauncher")
SLURM = ("SlurmLauncher", "SlurmStackedLauncher")
PACKAGES = ("joblib", "submitit", "ray")
"""Packages whose own errors mean that a job's process was lost or never started."""


def run_here(config: DictConfig) -> bool:
    """Return whether the launcher of a composed configuration runs the jobs on this machine."""
    return _name(config.hydra.launcher) in HERE


def is_basic(config: DictConfig) -> bool:
    """Return whether the launcher is Hydra's own, which runs one job after the other."""
    return _name(config.hydra.launcher) == "BasicLauncher"


def refusal(config: DictConfig) -> str | None:
    """Return why the launcher cannot start, e.g. without ``-m``, or ``None``."""
    if isinstance(name := config.hydra.launcher, str):
        return f"hydra.launcher={name}: no setting; write hydra/launcher={name}"
    choice, name = config.hydra.runtime.choices["hydra/launcher"], _name(config.hydra.launcher)
    if config.hydra.mode == RunMode.RUN:
        return None if is_basic(config) else f"hydra/launcher={choice}: starts a sweep; add -m"
    if name in SLURM and shutil.which("srun") is None:
        return f"hydra/launcher={choice}: Slurm's commands (sbatch, srun) are not on this machine"
    if (most := config.hydra.launcher.get("max_stack", 1)) < 1:
        return f"hydra.launcher.max_stack={most}: must be at least 1"
    if config.hydra.launcher.get("n_jobs") == 0:
        return "hydra.launcher.n_jobs=0: must be at least 1, or -1 for one job on each core"
    return None


def lost(error: BaseException) -> str | None:
    """Return one line that explains an error of a launcher; ``None`` for any other error."""
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
