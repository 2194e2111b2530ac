"""Hydra launcher that trains the jobs of a sweep together, as stacks: ``hydra/launcher=stacked``."""
