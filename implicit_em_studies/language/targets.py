"""The targets of the study: leads of families over others, at most of the L0."""

from collections.abc import Iterator
from functools import cache

import pandas as pd

from implicit_em_studies.language.protocol import Lead
from implicit_em_studies.language.results import MEASURES, UNIT, LanguageResults
from implicit_em_studies.shared.pairs import Matched, ahead_text, target_text
from implicit_em_studies.shared.tables import name_of, rows_of
from implicit_em_studies.shared.targets import Verdict


def verdicts(results: LanguageResults) -> Iterator[Verdict]:
    """Judge each lead that is asked for, by the measures that a language model has.

    A lead counts at an L0 where both families reach it with all seeds. Families that were left out
    are not judged.
    """
    families = results.protocol.families
    tested = cache(results.tested)
    for lead in results.protocol.targets:
        for family in lead.of:
            if lead.by in results.measured and {family, lead.over} <= {*families}:
                known = lead.by in results.tests
                yield _verdict(results, lead, family, tested(lead.by, lead.over) if known else None)


def _verdict(results: LanguageResults, lead: Lead, family: str, tested: Matched | None) -> Verdict:
    seeds, most = len(results.protocol.seeds), len(results.protocol.l0)
    rows = (
        pd.DataFrame(columns=["pairs", "low"], dtype=float)
        if tested is None
        else rows_of(tested.at, family=family)
    )
    held = (rows["pairs"] == seeds) & (rows["low"] > lead.above / 100)
    leads = [
        f"{target_text(row.target, UNIT)}: {ahead_text(row)}"
        for row in rows.assign(p_holm=None).itertuples()  # it is corrected for other families
    ]
    title = MEASURES[lead.by].title
    return Verdict(
        f"{name_of(family)} over {name_of(lead.over)}: {title[0].lower()}{title[1:]}",
        f"lower end of the 95 % interval above {lead.above:g} points, "
        f"at {lead.at_least} of {most} L0",
        "; ".join([f"at {held.sum()} of {most}", *leads]),
        None if tested is None else bool(held.sum() >= lead.at_least),
        lead.required,
    )
