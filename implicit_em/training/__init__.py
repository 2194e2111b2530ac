"""One run: its directory, its fit, its measurements and its files.

It imports from ``config`` and below.
"""
