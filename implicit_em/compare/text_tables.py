"""The tables of a part as text, for its report."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from implicit_em.compare.matching import SIGNIFICANT
from implicit_em.compare.protocol import Protocol
from implicit_em.compare.results import Results
from implicit_em.compare.wording import ahead_text, name_of, percent, target_text
from implicit_em.studies.tables import mean_and_deviation

OF_FINALS = (
    *("exact_density", "relative_density", "probe_accuracy"),
    *("sparse_probe_1", "sparse_probe_2", "sparse_probe_5", "sparse_probe_10"),
    *("fvu", "least_squares_fvu", "dead_units", "silent_units", "class_purity"),
    *("encoder_coherence_mean", "decoder_coherence_mean", "redundancy"),
)


def matched_table(at: pd.DataFrame, protocol: Protocol, unit: str = "%") -> pd.DataFrame:
    """Return a matched table as text, with a row for each family and a column for each target.

    A cell holds the mean ± deviation in per cent, and the number of seeds if some are missing. An
    asterisk marks the best mean; ``+`` and ``−`` mark a mean that is significantly better or worse
    than the reference.
    """

    def cell(row: Any) -> str:
        mean = mean_and_deviation(100 * row.mean, 100 * row.std, ".2f")
        best = " *" if row.best else ""
        significant = not pd.isna(row.p_holm) and row.p_holm < SIGNIFICANT
        sign = (" +" if row.ahead > 0 else " −") if significant else ""
        some = f" ({row.n} of {len(protocol.seeds)})" if row.n < len(protocol.seeds) else ""
        return f"{mean}{best}{sign}{some}"

    return _families_by_target(at, list(map(cell, at.itertuples())), protocol.families, unit)


def differences_table(at: pd.DataFrame, protocol: Protocol, unit: str = "%") -> pd.DataFrame:
    """Return each family's lead over the reference in points, as text."""
    tested = at.dropna(subset="ahead")
    others = [family for family in protocol.families if family != protocol.reference]
    return _families_by_target(tested, list(map(ahead_text, tested.itertuples())), others, unit)


def _families_by_target(
    at: pd.DataFrame, cells: Sequence[str], families: Sequence[str], unit: str
) -> pd.DataFrame:
    """Arrange the cells of a matched table's rows by family and target."""
    wide = at.assign(cell=cells).pivot(index="family", columns="target", values="cell")
    wide = wide.reindex(list(families)).fillna("–").rename(index=name_of)
    wide.columns = wide.columns.map(partial(target_text, unit=unit))
    return wide.rename_axis("family").reset_index()


def mean_over_seeds(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return mean ± deviation over the seeds of each setting, as text."""
    rows = []
    for (family, settings), seeds in frame.groupby(["family", "settings"], sort=False):
        row = {"family": name_of(str(family)), "settings": settings, "n": str(len(seeds))}
        for column in columns:
            values = pd.to_numeric(seeds[column], errors="coerce").dropna().to_numpy()
            row[column.replace("_", " ")] = _mean_text(values)
        rows.append(row)
    return pd.DataFrame(rows)


def _mean_text(values: np.ndarray) -> str:
    if not len(values):
        return "–"
    alike = np.allclose(values, values[0], rtol=1e-12, atol=0)  # equal up to rounding
    return f"{values.mean():.4g}" + ("" if alike else f" ± {values.std(ddof=1):.2g}")


def chosen_table(results: Results) -> pd.DataFrame:
    """Return the chosen settings with density and probe, on validation and test samples."""
    finals = results.finals.groupby(["family", "settings"])[["exact_density", "probe_accuracy"]]
    means = finals.mean().rename(columns={"exact_density": "test", "probe_accuracy": "test_probe"})
    order = results.protocol.families.index
    rows = results.chosen.join(means, on=["family", "settings"]).sort_values(
        "family", kind="stable", key=lambda column: column.map(order)
    )
    return pd.DataFrame(
        {
            "family": rows["family"].map(name_of),
            "near": rows["target"].map(percent),
            "setting": rows["settings"],
            "density, validation": rows["density"].map(partial(percent, digits=1)),
            "probe, validation": rows["probe_accuracy"].map(partial(percent, digits=2)),
            "density of the finals, test": rows["test"].map(partial(percent, digits=1)),
            "probe of the finals, test": rows["test_probe"].map(partial(percent, digits=2)),
        }
    )


def fronts_table(results: Results) -> pd.DataFrame:
    """Return the families on the Pareto fronts of grids and finals, by density."""
    grids, finals = (
        results.fronts()[name].set_index("target")["families"] for name in ("tuning", "finals")
    )
    table = pd.DataFrame({"grids, validation": grids, "finals, test": finals})
    table = table.map(lambda families: ", ".join(map(name_of, families)) or "–")
    return table.rename(index=percent).rename_axis("near").reset_index()


def quality_table(results: Results) -> pd.DataFrame:
    """Return the quality and stability of the finals, per setting."""
    stability = results.stability.assign(family=results.stability["family"].map(name_of))
    for name in ("encoder_stability", "decoder_stability"):
        stability[name] = stability[name].map("{:.3f}".format).replace("nan", "–")
    stability.columns = stability.columns.str.replace("_", " ")
    return mean_over_seeds(results.finals, OF_FINALS).merge(stability)


def controls_table(results: Results) -> pd.DataFrame:
    """Return the quality of the controls."""
    return mean_over_seeds(results.controls, ("units", *OF_FINALS)).drop(columns="settings")


def costs_table(results: Results) -> pd.DataFrame:
    """Return the cost of a training step of each family."""
    costs, reference = results.costs, results.protocol.reference
    step = costs.set_index("family")["step_ms"].get(reference, np.nan)
    return pd.DataFrame(
        {
            "family": costs["family"].map(name_of),
            "step, ms": costs["step_ms"].map("{:.2g}".format),
            f"of {name_of(reference)}": (costs["step_ms"] / step).map("{:.2g}".format),
            "peak memory, MiB": costs["peak_MiB"].map("{:.1f}".format),
        }
    )


def budget_table(results: Results) -> pd.DataFrame:
    """Return each family's numbers of settings and of parameters."""
    finals = results.finals.groupby("family")
    table = pd.DataFrame(
        {
            "settings tried": results.tuning.groupby("family").size(),
            "settings trained to the end": finals["settings"].nunique(),
            "parameters": finals["parameters"].first().map("{:,.0f}".format),
        }
    ).reindex(results.protocol.families)
    counts = table.columns.drop("parameters")
    table[counts] = table[counts].fillna(0).astype(int).astype(str)
    return table.fillna("–").rename(index=name_of).rename_axis("family").reset_index()
