"""Sweeps: all jobs are checked before the first one starts, and summarised after the last."""
