"""The paper's five experiments: runs, evidence, criteria, tables, figures and a report."""
