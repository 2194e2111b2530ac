"""Sweeps: checked as a whole before their first job, summarised after their last."""
