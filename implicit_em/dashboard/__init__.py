"""The study's W&B dashboards, as code."""
