"""The report of the paper's study."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from implicit_em.base.tables import markdown_table
from implicit_em.experiments import tables
from implicit_em.experiments.criteria import AMENDMENTS
from implicit_em.experiments.evidence import Evidence
from implicit_em.experiments.figures import PICTURES
from implicit_em.experiments.paper import TABLES
from implicit_em.experiments.verdicts import as_markdown
from implicit_em.studies.pages import render, write_pages

SECTIONS = {
    "theorem": (
        "Experiment 1: the theorem",
        "The gradient is that of automatic differentiation through `torch.logsumexp`, compared "
        "with `softmax(-E)` in the same precision; the true error is against the softmax in "
        "float64 of the same energies. *Closed form* is the gradient that training uses. The "
        "correlation is of all pairs of a draw; at a scale of 1e-6 all responsibilities are 1/K "
        "to within 3e-8, so that it compares rounding with rounding in float32.",
    ),
    "ablation": (
        "Experiment 2: ablation",
        "Four losses, seeds 1 to 3, 100 epochs of Adam at 1e-3.",
    ),
    "benchmark": (
        "Experiment 3: benchmark",
        "Both models, seeds 1 to 5. The SAE reconstructs with its decoder. The derived model has "
        "none: its figure is that of its transposed weights, `E W`, which were never asked to "
        "reconstruct, at a scale of energies that grows for ever.",
    ),
    "dynamics": (
        "Experiment 4: dynamics",
        "Two optimizers, four rates, seeds 1 to 3; then four widths, one seed, long enough for "
        "the loss to slow down (SGD at 1e-2 for 180 epochs, Adam at 1e-3 for 160). The law: "
        "where a unit's variance grows as t^p, the loss falls as -pK log t and its change per "
        "epoch passes a threshold near epoch pK/threshold, with p = 1 for SGD and 2 for Adam.",
    ),
    "features": (
        "Experiment 5: features",
        "Rows are compared over the pixels that vary, with the mean image taken off class means "
        "and k-means centroids (k = 64). A row's control is 200 permutations of its own pixels. "
        "Silent units never exceed 1 % of the layer's mean activation. Purity: the share of the "
        "commonest class among a component's top 100 test images, by responsibility and by "
        "activation.",
    ),
}


def write_report(
    directory: Path,
    experiments: Sequence[str],
    evidence: Evidence,
    measured: dict[str, pd.DataFrame],
    verdicts: pd.DataFrame | None,
    provenance: dict[str, str],
    trial: str | None,
) -> Path:
    """Write ``report.md`` and ``report.html``; the figures are there already.

    Args:
        directory: of the study.
        experiments: those that were run.
        evidence: what they measured.
        measured: the paper's tables, from ``tables.measure``.
        verdicts: from ``verdicts.judge``; ``None`` for a trial.
        provenance: lines by name.
        trial: what makes this a trial, or ``None``.

    Returns:
        The path of the HTML file.

    """
    text = render(
        "implicit_em.experiments",
        trial=trial,
        experiments=experiments,
        provenance=markdown_table(pd.DataFrame(provenance.items(), columns=["", "this run"])),
        verdicts=None if verdicts is None else as_markdown(verdicts),
        tally=None if verdicts is None else _tally(verdicts),
        claims=[] if verdicts is None else _claims(verdicts),
        amendments=AMENDMENTS,
        sections=[_section(name, evidence, measured) for name in SECTIONS if name in experiments],
        deviations=None if trial or not measured else _deviations(measured),
    )
    return write_pages(text, directory)


def _tally(verdicts: pd.DataFrame) -> str:
    counts = verdicts["verdict"].value_counts()
    outcomes = ("reproduced", "partly", "not reproduced")
    return (
        f"Of {len(verdicts)} claims: "
        + ", ".join(f"{counts.get(outcome, 0)} {outcome}" for outcome in outcomes)
        + "."
    )


def _claims(verdicts: pd.DataFrame) -> list[dict[str, Any]]:
    rows = verdicts.to_dict("records")
    return [
        {str(key): value for key, value in row.items()}
        | {"p": None if pd.isna(row["p_value"]) else f"{row['p_value']:.2g}"}
        for row in rows
    ]


def _section(name: str, evidence: Evidence, measured: dict[str, pd.DataFrame]) -> dict[str, Any]:
    title, text = SECTIONS[name]
    shown = [
        {
            "caption": tables.caption(TABLES[key]),
            "text": markdown_table(tables.side_by_side(key, cells)),
        }
        for key, cells in measured.items()
        if TABLES[key].experiment == name
    ]
    shown += [
        {
            "caption": table.caption,
            "text": markdown_table(tables.as_text(table.present(getattr(evidence, key)))),
        }
        for key, table in tables.BEYOND.items()
        if table.experiment == name
    ]
    figures = [
        {"name": key, "title": key.replace("figure", "Figure "), "caption": picture.caption}
        for key, picture in PICTURES.items()
        if picture.experiment == name
    ]
    return {"title": title, "text": text, "tables": shown, "figures": figures}


def _deviations(measured: dict[str, pd.DataFrame]) -> list[dict[str, str]]:
    rows = []
    cell: Any
    for name, cells in measured.items():
        for cell in tables.deviations(cells).to_dict("records"):
            where = ", ".join(str(cell[axis]) for axis in TABLES[name].by)
            rows.append(
                {
                    "where": f"Table {name.removeprefix('table')}, {where}, {cell['heading']}",
                    "paper": cell["paper_text"],
                    "measured": cell["measured_text"],
                    "reason": cell["reason"] or "No reason is known.",
                }
            )
    return rows
