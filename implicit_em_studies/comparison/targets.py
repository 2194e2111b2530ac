"""The targets of the comparison: what families reach at all densities of several parts."""

from collections.abc import Iterator

import pandas as pd

from implicit_em_studies.comparison.results import ComparisonResults
from implicit_em_studies.shared.tables import name_of, rows_of
from implicit_em_studies.shared.targets import Verdict


def verdicts(results: ComparisonResults) -> Iterator[Verdict]:
    """Judge each family that is asked about; not before all parts and data sets are there.

    A density that a family does not reach counts against it. Families that were left out are not
    judged.
    """
    protocol, asked, own = results.protocol, results.protocol.targets, results.target_leads
    if not asked or own.empty:
        return
    every = pd.concat([results.elsewhere, own], ignore_index=True)
    cells = len(asked.parts) * len(protocol.datasets) * len(protocol.densities)
    for family in asked.of:
        if family not in protocol.families:
            continue
        here = rows_of(every, family=family)
        fvu, probe = here["fvu_ahead"] < 0, here["probe_ahead"] >= -asked.behind / 100
        yield Verdict(
            f"{name_of(family)} explains more than {name_of(protocol.reference)}, probes as well",
            f"least-squares FVU lower in {asked.fvu} of {cells} densities, probe at most "
            f"{asked.behind:g} points lower in {asked.probe}",
            f"FVU lower in {fvu.sum()}, probe within it in {probe.sum()} of {len(here)}",
            fvu.sum() >= asked.fvu and probe.sum() >= asked.probe if len(here) == cells else None,
        )
