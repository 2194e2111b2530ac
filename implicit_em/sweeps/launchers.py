"""Launchers: which run the jobs of a sweep on this machine, what they need, how they lose a job."""

import shutil

from omegaconf import DictConfig

from implicit_em.base.errors import one_line

HERE = ("BasicLauncher", "StackedLauncher", "JoblibLauncher")
SLURM = ("SlurmLauncher", "SlurmStackedLauncher")
PACKAGES = ("joblib", "submitit", "ray")
"""Their errors say that a job's process was lost, or never began; what a job raises is its own."""


def run_here(config: DictConfig) -> bool:
    """Return whether the launcher of a composed configuration runs the jobs on this machine."""
    return _name(config) in HERE


def refusal(config: DictConfig) -> str | None:
    """Return why a launcher cannot begin; or ``None``."""
    typed = f"hydra/launcher={config.hydra.runtime.choices['hydra/launcher']}"
    if _name(config) in SLURM and shutil.which("srun") is None:
        return f"{typed}: Slurm's commands (sbatch, srun) are not on this machine"
    if (most := config.hydra.launcher.get("max_stack", 1)) < 1:
        return f"hydra.launcher.max_stack={most}: must be at least 1"
    if config.hydra.launcher.get("n_jobs") == 0:
        return "hydra.launcher.n_jobs=0: must be at least 1, or -1 for one job on each core"
    return None


def lost(error: BaseException) -> str | None:
    """Return one line for a launcher's error; ``None`` for any other."""
    package = type(error).__module__.partition(".")[0]
    if package not in PACKAGES:
        return None
    return f"{package}: {_gist(error)} (the same command, with this hydra.sweep.dir, goes on)"


def _gist(error: BaseException) -> str:
    """Return an error's message in one line, or what the trace that it quotes comes to."""
    lines = iter(str(error).splitlines())
    if any(line.startswith("Traceback ") for line in lines):
        return next((line for line in lines if line and not line.startswith(" ")), "")
    return one_line(error)


def _name(config: DictConfig) -> str:
    return str(config.hydra.launcher._target_).rpartition(".")[2]
