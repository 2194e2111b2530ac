"""The results of a part, and the families at matched density."""

from dataclasses import dataclass

import pandas as pd

from implicit_em_studies.comparison.matching import fronts, matched
from implicit_em_studies.comparison.protocol import ComparisonProtocol
from implicit_em_studies.shared.pairs import against
from implicit_em_studies.shared.tuned import Results

TARGET_LEADS = "target_leads"
"""Name of the table that verdicts on several parts are made of."""


@dataclass(frozen=True)
class ComparisonResults(Results[ComparisonProtocol]):
    """The measurements of a part, each further table from the function beside it."""

    stability: pd.DataFrame  # measuring.stabilities
    costs: pd.DataFrame  # costs.costs
    diverged: pd.DataFrame  # family, settings and seed of the finals that diverged
    elsewhere: pd.DataFrame  # ``target_leads`` of other parts and data sets

    def at_density(self, value: str = "probe_accuracy") -> pd.DataFrame:
        """Return the families at the protocol's densities, as ``matching.against`` does."""
        at = matched(self.finals, self.protocol.densities, self.protocol.beyond, value=value)
        return against(at, self.protocol.reference)

    def at_activity(self, value: str = "probe_accuracy") -> pd.DataFrame:
        """Return the families at equal numbers of active units, densities times the usual width.

        Numbers below the widest family's at the lowest density are left out: it was not tuned
        there. The table is empty if all families have one width.
        """
        least = min(self.protocol.densities) * self.finals["units"].max()
        counts = [density * self.protocol.width for density in self.protocol.densities]
        differ = self.finals["units"].nunique() > 1
        targets = [count for count in counts if differ and count > 0.999 * least]
        at = matched(self.finals, targets, self.protocol.beyond, "active_units", value)
        return against(at, self.protocol.reference)

    @property
    def target_leads(self) -> pd.DataFrame:
        """Leads over the reference of each family that has targets, a row for each density.

        ``fvu_ahead`` is that of `least_squares_fvu`, where less is better, ``probe_ahead`` that of
        the probe; null where a family does not reach the density. Empty in parts without targets.
        """
        asked = self.protocol.targets
        if not asked or not set(asked.parts) & set(self.protocol.parts):
            return pd.DataFrame()
        families = [family for family in asked.of if family in self.protocol.families]
        every = pd.MultiIndex.from_product(
            [families, self.protocol.densities], names=["family", "target"]
        )
        measures = {"fvu_ahead": "least_squares_fvu", "probe_ahead": "probe_accuracy"}
        leads = {
            name: self.at_density(value).set_index(["family", "target"])["ahead"].reindex(every)
            for name, value in measures.items()
        }
        return pd.DataFrame(leads).reset_index()

    @property
    def shown_density(self) -> float:
        """The density at which most families have a setting; the lowest of several."""
        reached = self.chosen.merge(self.finals[["family", "settings"]].drop_duplicates())
        families = reached.groupby("target").size()
        return max(self.protocol.densities, key=lambda target: (families.get(target, 0), -target))

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return all tables by name."""
        kept = self.kept("tuning", "chosen", "finals", "controls", "stability", "costs")
        tables, activity = {"matched_density": self.at_density()} | kept, self.at_activity()
        tables |= {} if self.target_leads.empty else {TARGET_LEADS: self.target_leads}
        return tables if activity.empty else {**tables, "matched_activity": activity}

    def fronts(self) -> dict[str, pd.DataFrame]:
        """Return the families on the front of the grids, and on that of the finals' means."""
        finals = self.finals.groupby(["family", "settings"], sort=False, as_index=False)
        means = finals.mean(numeric_only=True)
        arguments = (self.protocol.densities, self.protocol.reach)
        return {
            "tuning": fronts(self.tuning, *arguments),
            "finals": fronts(means.rename(columns={"exact_density": "density"}), *arguments),
        }
