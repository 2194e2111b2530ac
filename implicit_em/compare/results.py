"""The results of a part, and the families at matched density."""

from dataclasses import dataclass

import pandas as pd

from implicit_em.compare.matching import against, matched
from implicit_em.compare.protocol import Protocol
from implicit_em.compare.selection import fronts, select


@dataclass(frozen=True)
class Results:
    """What the report of a part is made of.

    Args:
        protocol: protocol of the comparison.
        tuning: one row per setting of the grids, from ``measuring.tuning_table``.
        chosen: chosen settings, from ``selection.select``.
        finals: one row per final, from ``measuring.measure_all``; ``active_units`` is its L0.
        controls: one row per control, likewise.
        stability: one row per setting, from ``measuring.stabilities``.
        costs: one row per family, from ``costs.costs``.
        diverged: ``family``, ``settings`` and ``seed`` of the finals that diverged.

    """

    protocol: Protocol
    tuning: pd.DataFrame
    chosen: pd.DataFrame
    finals: pd.DataFrame
    controls: pd.DataFrame
    stability: pd.DataFrame
    costs: pd.DataFrame
    diverged: pd.DataFrame

    def at_density(self, value: str = "probe_accuracy") -> pd.DataFrame:
        """Return the families at the protocol's densities, as ``matching.against`` does."""
        at = matched(self.finals, self.protocol.densities, self.protocol.beyond, value=value)
        return against(at, self.protocol.reference)

    def at_activity(self, value: str = "probe_accuracy") -> pd.DataFrame:
        """Return the families at equal numbers of active units, densities times the usual width.

        Numbers below the widest family's at the lowest density are left out: it was not tuned
        there. Empty if all families have one width, as equal density is then equal activity.
        """
        least = min(self.protocol.densities) * self.finals["units"].max()
        counts = [density * self.protocol.width for density in self.protocol.densities]
        differ = self.finals["units"].nunique() > 1
        targets = [count for count in counts if differ and count > 0.999 * least]
        at = matched(self.finals, targets, self.protocol.beyond, "active_units", value)
        return against(at, self.protocol.reference)

    @property
    def shown_density(self) -> float:
        """The density at which most families have a setting, the sparsest of several."""
        reached = self.chosen.merge(self.finals[["family", "settings"]].drop_duplicates())
        families = reached.groupby("target").size()
        return max(self.protocol.densities, key=lambda target: (families.get(target, 0), -target))

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return all tables by name."""
        tables = {
            "matched_density": self.at_density(),
            "tuning": self.tuning,
            "chosen": self.chosen,
            "finals": self.finals,
            "controls": self.controls,
            "stability": self.stability,
            "costs": self.costs,
        }
        activity = self.at_activity()
        return tables if activity.empty else {**tables, "matched_activity": activity}

    def fronts(self) -> dict[str, pd.DataFrame]:
        """Return the families on the front of the grids, and on that of the finals' means."""
        means = self.finals.groupby(["family", "settings"], sort=False, as_index=False).mean(
            numeric_only=True
        )
        arguments = (self.protocol.densities, self.protocol.reach)
        return {
            "tuning": fronts(self.tuning, *arguments),
            "finals": fronts(means.rename(columns={"exact_density": "density"}), *arguments),
        }


def choose(protocol: Protocol, tuning: pd.DataFrame) -> pd.DataFrame:
    """Return the settings of the grids that the protocol chooses."""
    return select(tuning, protocol.densities, protocol.reach, protocol.beyond)
