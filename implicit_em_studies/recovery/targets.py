"""The targets of the study: what families find beside another, over all cells."""

from collections.abc import Iterator

from implicit_em_studies.recovery.results import RecoveryResults
from implicit_em_studies.shared.pairs import SIGNIFICANT
from implicit_em_studies.shared.tables import name_of, rows_of
from implicit_em_studies.shared.targets import Verdict


def verdicts(results: RecoveryResults) -> Iterator[Verdict]:
    """Judge each family that is asked about; not before all cells are there.

    A family is behind in a cell where it finds significantly fewer features: by the p-value of
    this pair alone, which is not corrected. It also is where no run is left to compare. Families
    that were left out are not judged.
    """
    asked = results.protocol.targets
    if not asked:
        return
    tested = results.tests(asked.by, asked.over).at
    there, cells = list(results.finals["cell"].unique()), len(results.protocol.chosen([]))
    for family in asked.of:
        if not {family, asked.over} <= set(results.protocol.families):
            continue
        here = rows_of(tested, family=family).set_index("target").reindex(there)
        behind = here["ahead"].isna() | (here["p_value"] < SIGNIFICANT) & (here["ahead"] < 0)
        mean = 100 * here["ahead"].mean()
        where = f" ({', '.join(here.index[behind])})" if behind.any() else ""
        yield Verdict(
            f"{name_of(family)} finds the features that {name_of(asked.over)} finds",
            f"significantly fewer in at most {asked.behind} of {cells} cells; on average at least "
            f"{asked.mean:+g} points",
            f"fewer in {behind.sum()} of {len(there)}{where}; on average {mean:+.2f} points",
            behind.sum() <= asked.behind and mean >= asked.mean if len(there) == cells else None,
        )
