"""The W&B dashboards of the paper's study, as code."""
