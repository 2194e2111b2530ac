"""Hydra's basic sweeper for sweeps whose jobs are checked before it starts."""
