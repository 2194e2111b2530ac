"""The tables of a part as text, for its report."""

from functools import partial

import numpy as np
import pandas as pd

from implicit_em_studies.comparison.results import ComparisonResults
from implicit_em_studies.shared.tables import mean_over_seeds, name_of, percent

ACTIVE = "active units"  # the unit of targets that are numbers of active units
OF_FINALS = (
    *("exact_density", "relative_density", "probe_accuracy"),
    *("sparse_probe_1", "sparse_probe_2", "sparse_probe_5", "sparse_probe_10"),
    *("fvu", "least_squares_fvu", "dead_units", "silent_units", "class_purity"),
    *("encoder_coherence_mean", "decoder_coherence_mean", "redundancy"),
)


def chosen_table(results: ComparisonResults) -> pd.DataFrame:
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


def fronts_table(results: ComparisonResults) -> pd.DataFrame:
    """Return the families on the Pareto fronts of grids and finals, by density."""
    on = {name: front.set_index("target")["families"] for name, front in results.fronts().items()}
    table = pd.DataFrame({"grids, validation": on["tuning"], "finals, test": on["finals"]})
    table = table.map(lambda families: ", ".join(map(name_of, families)) or "–")
    return table.rename(index=percent).rename_axis("near").reset_index()


def quality_table(results: ComparisonResults) -> pd.DataFrame:
    """Return the quality and stability of the finals, per setting."""
    stability = results.stability.assign(family=results.stability["family"].map(name_of))
    for name in ("encoder_stability", "decoder_stability"):
        stability[name] = stability[name].map("{:.3f}".format).replace("nan", "–")
    stability.columns = stability.columns.str.replace("_", " ")
    return mean_over_seeds(results.finals, OF_FINALS).merge(stability)


def controls_table(results: ComparisonResults) -> pd.DataFrame:
    """Return the quality of the controls."""
    table = mean_over_seeds(results.controls, ("units", *OF_FINALS))
    untrained = table["settings"].str.startswith("model=")
    return table.assign(settings=table["settings"].mask(untrained, "–"))


def costs_table(results: ComparisonResults) -> pd.DataFrame:
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


def budget_table(results: ComparisonResults) -> pd.DataFrame:
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


def shared(numbers: pd.Series) -> str:
    """Return the numbers of the families in the index: ``64 for L1, TopK; 128 for derived``."""
    return "; ".join(
        f"{number} for {', '.join(map(name_of, families.index))}"
        for number, families in numbers.groupby(numbers)
    )


def widths_of(finals: pd.DataFrame) -> str:
    """Return the number of units K of the families as text."""
    return shared(finals.groupby("family", sort=False)["units"].first())
