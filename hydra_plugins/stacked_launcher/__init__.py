"""Hydra launcher that trains the jobs of a sweep together: ``hydra/launcher=stacked``."""
