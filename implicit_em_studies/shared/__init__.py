"""What every study of many runs stands on: protocol, runs, execution, statistics, figures, pages.

It imports from ``sweeps`` and the layers below, never from a study.
"""
