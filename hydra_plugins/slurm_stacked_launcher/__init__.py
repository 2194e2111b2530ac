"""Hydra launcher of stacks as Slurm tasks; needs submitit's launcher."""

from importlib.util import find_spec

if find_spec("hydra_plugins.hydra_submitit_launcher"):
    from hydra_plugins.slurm_stacked_launcher._launcher import SlurmStackedLauncher

    __all__ = ["SlurmStackedLauncher"]
