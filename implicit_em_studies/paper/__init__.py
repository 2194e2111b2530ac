"""The paper's five experiments: runs, criteria, tables, figures and a report."""
