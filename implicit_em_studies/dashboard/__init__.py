"""The W&B dashboards of the paper's study, as code.

It imports from ``experiments`` and the layers below.
"""
