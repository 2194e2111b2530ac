"""The report of a part, its tables and its figures."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from implicit_em.base.files import whole, write_json
from implicit_em.base.tables import markdown_table
from implicit_em.compare import figures
from implicit_em.compare.findings import findings
from implicit_em.compare.results import Results
from implicit_em.compare.text_tables import differences_table, matched_table, mean_over_seeds
from implicit_em.compare.wording import ACTIVE, name_of, percent, shared, widths_of
from implicit_em.studies.figures import write
from implicit_em.studies.pages import render, write_pages

OF_FINALS = (
    *("exact_density", "relative_density", "probe_accuracy"),
    *("sparse_probe_1", "sparse_probe_2", "sparse_probe_5", "sparse_probe_10"),
    *("fvu", "least_squares_fvu", "dead_units", "silent_units", "class_purity"),
    *("encoder_coherence_mean", "decoder_coherence_mean", "redundancy"),
)
CAPTIONS = {
    "pareto": "Test set: probe accuracy and variance left unexplained by the least-squares decoder "
    "over density. Points: chosen settings, mean over the seeds; lines and bands: mean ± standard "
    "deviation of the seeds' interpolated curves, where all of them reach; crosses: controls."
    "{widths}",
    "grids": "Validation samples: every setting of a family's grid (coloured) among all others, "
    "the common Pareto front (line), and what was chosen (rings), over the share of active units "
    "in per cent.",
    "features": "Weight rows of the settings chosen at {density}, first seed: decoder columns "
    "where there is a decoder, else encoder rows; how sharp or noisy "
    "the one and the other look is not to be compared.",
    "histograms": "Test set, settings chosen at {density}, mean over the seeds: share of the units "
    "that are active, by 1 % of their maximum, on so many samples.",
}


def write_tables(tables: Mapping[str, pd.DataFrame], directory: Path, trial: str | None) -> None:
    """Write tables as CSV, in numbers; one without columns would not be read again."""
    for name, table in tables.items():
        if not len(table.columns):
            continue
        with whole(directory / f"{name}.csv") as temporary:
            (table.assign(trial=trial) if trial else table).to_csv(temporary, index=False)


def write_figures(
    results: Results,
    rows: figures.Weights,
    sample_shape: tuple[int, ...],
    directory: Path,
    trial: str | None,
) -> None:
    """Draw the figures.

    Args:
        results: of the part.
        rows: weight rows of each family's setting at ``shown_density``.
        sample_shape: of an input.
        directory: where they go.
        trial: what makes this a trial, or ``None``.

    """
    density = shown_density(results)
    drawn: Mapping[str, Callable[[], Figure]] = {
        "pareto": lambda: figures.quality_over_density(results),
        "grids": lambda: figures.grids(results),
        "features": lambda: figures.features(rows, sample_shape),
        "histograms": lambda: figures.histograms(results, density),
    }
    for name, draw in drawn.items():
        write(draw, directory / name, trial)


def shown_density(results: Results) -> float:
    """Return the density at which most families have a setting: of several the sparsest."""
    there = results.chosen.merge(results.finals[["family", "settings"]].drop_duplicates())
    reached = there.groupby("target").size()
    return max(results.protocol.densities, key=lambda density: (reached.get(density, 0), -density))


def write_report(
    results: Results,
    directory: Path,
    dataset: str,
    part: str,
    digest: str,
    training: str,
    provenance: Mapping[str, str],
    trial: str | None,
) -> Path:
    """Write ``report.md``, ``report.html`` and ``findings.json``; gives the path of the page.

    Args:
        results: of the part.
        directory: of the part, whose figures are there already.
        dataset: its data.
        part: its name.
        digest: of the protocol and its runs.
        training: the runs' optimizers and schedules.
        provenance: lines by name.
        trial: what makes this a trial, or ``None``.

    """
    protocol = results.protocol
    said = findings(results)
    density = percent(shown_density(results))
    shown_at, shown_activity = results.at_density(), results.at_activity()
    widths = widths_of(results.finals)
    unlike = "" if shown_activity.empty else f" Density is the share of unlike widths: {widths}."
    text = render(
        "implicit_em.compare",
        dataset=dataset,
        part=part.replace("_", " "),
        trial=trial,
        protocol=protocol,
        unit_count=" or ".join(str(n) for n in sorted(results.finals["units"].unique())),
        reference=name_of(protocol.reference),
        provenance=markdown_table(pd.DataFrame(provenance.items(), columns=["", "this report"])),
        findings=said,
        at_density=markdown_table(matched_table(shown_at, protocol)),
        differences=markdown_table(differences_table(shown_at, protocol)),
        at_activity=None
        if shown_activity.empty
        else markdown_table(matched_table(shown_activity, protocol, ACTIVE)),
        activity_differences=markdown_table(differences_table(shown_activity, protocol, ACTIVE)),
        widths=widths,
        figures=[
            {"name": name, "caption": caption.format(density=density, widths=unlike)}
            for name, caption in CAPTIONS.items()
        ],
        chosen=markdown_table(_chosen(results)),
        fronts=markdown_table(_fronts(results)),
        quality=markdown_table(_quality(results)),
        controls=markdown_table(
            mean_over_seeds(results.controls, ("units", *OF_FINALS)).drop(columns="settings")
        )
        if len(results.controls)
        else "None.",
        digest=digest,
        training=training,
        tried=_tried(results),
        costs=markdown_table(_costs(results)),
        budget=markdown_table(_budget(results)),
        held_out=f"{protocol.always.get('data.val_size', 0):,}",
        always=_listed(protocol.always),
        tuning=_listed(protocol.tuning),
        finals=_listed(protocol.finals),
        failed=[
            f"{name_of(family)}, {settings}: {error}"
            for family, settings, error in _columns(results.tuning, "family", "settings", "error")
            if isinstance(error, str)
        ],
    )
    write_json(directory / "findings.json", {"trial": trial, "digest": digest, "findings": said})
    return write_pages(text, directory)


def _columns(frame: pd.DataFrame, *names: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(frame[name] for name in names), strict=True)


def _chosen(results: Results) -> pd.DataFrame:
    finals = results.finals.groupby(["family", "settings"])[["exact_density", "probe_accuracy"]]
    means = finals.mean().rename(columns={"exact_density": "test", "probe_accuracy": "test_probe"})
    together = results.chosen.join(means, on=["family", "settings"])
    return pd.DataFrame(
        {
            "family": together["family"].map(name_of),
            "near": together["target"].map(percent),
            "setting": together["settings"],
            "density, validation": together["density"].map(partial(_percent, digits=1)),
            "probe, validation": together["probe_accuracy"].map(partial(_percent, digits=2)),
            "density of the finals, test": together["test"].map(partial(_percent, digits=1)),
            "probe of the finals, test": together["test_probe"].map(partial(_percent, digits=2)),
        }
    ).sort_values("family", kind="stable", key=lambda column: column.map(_order(results)))


def _percent(share: float, digits: int) -> str:
    return "–" if pd.isna(share) else percent(share, digits)


def _order(results: Results) -> dict[str, int]:
    return {name_of(family): place for place, family in enumerate(results.protocol.families)}


def _fronts(results: Results) -> pd.DataFrame:
    found = results.fronts()
    return pd.DataFrame(
        {
            "near": found["tuning"]["target"].map(percent),
            "grids, validation": [_named(f) for f in found["tuning"]["families"]],
            "finals, test": [_named(f) for f in found["finals"]["families"]],
        }
    )


def _named(families: tuple[str, ...]) -> str:
    return ", ".join(map(name_of, families)) or "–"


def _quality(results: Results) -> pd.DataFrame:
    quality = mean_over_seeds(results.finals, OF_FINALS)
    stability = results.stability.assign(family=results.stability["family"].map(name_of))
    for name in ("encoder_stability", "decoder_stability"):
        texts = stability[name].map("{:.3f}".format).replace("nan", "–")
        stability[name.replace("_", " ")] = texts
    return quality.merge(stability.drop(columns=["encoder_stability", "decoder_stability"]))


def _costs(results: Results) -> pd.DataFrame:
    costs = results.costs
    own = costs.loc[costs["family"] == results.protocol.reference, "step_ms"]
    ratios = costs["step_ms"] / own.iloc[0] if len(own) else pd.Series(float("nan"), costs.index)
    return pd.DataFrame(
        {
            "family": costs["family"].map(name_of),
            "step, ms": costs["step_ms"].map("{:.2g}".format),
            f"of {name_of(results.protocol.reference)}": ratios.map("{:.2g}".format),
            "peak memory, MiB": costs["peak_MiB"].map("{:.1f}".format),
        }
    )


def _budget(results: Results) -> pd.DataFrame:
    sizes = results.tuning.groupby("family", sort=False).size()
    parameters = results.finals.groupby("family")["parameters"].first()
    return pd.DataFrame(
        [
            {
                "family": name_of(family),
                "settings tried": str(sizes.get(family, 0)),
                "settings trained to the end": str(
                    results.finals.loc[results.finals["family"] == family, "settings"].nunique()
                ),
                "parameters": f"{parameters[family]:,}" if family in parameters else "–",
            }
            for family in results.protocol.families
        ]
    )


def _tried(results: Results) -> str:
    """Say how many settings were tried of each family."""
    sizes = results.tuning.groupby("family", sort=False).size()
    if sizes.nunique() == 1:
        return f"each tuned with {sizes.iloc[0]} settings"
    return f"tuned with unlike numbers of settings ({shared(sizes)})"


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"`{key}={value}`" for key, value in settings.items())
