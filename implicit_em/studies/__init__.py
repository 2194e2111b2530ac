"""What studies of many runs share: runs, their execution, statistics, figures and pages.

It imports from ``sweeps``, ``training`` and below.
"""
