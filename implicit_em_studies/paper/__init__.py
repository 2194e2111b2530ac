"""The paper's five experiments: runs, evidence, criteria, tables, figures and a report.

It imports from ``studies`` and the layers below, not from ``compare``.
"""
