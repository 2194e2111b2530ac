"""The theory's open questions: experiments with criteria that were fixed first, and verdicts.

Each experiment is a module: its losses or models, what it measures, its tables and figures. The
criteria of all stand in ``criteria``.
"""
