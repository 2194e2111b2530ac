"""The paper's five experiments: runs, evidence, tables, figures, criteria and a report."""
