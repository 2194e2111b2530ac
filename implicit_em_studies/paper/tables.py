"""The paper's tables, with each published figure beside the measured one, and further tables."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from implicit_em.base.files import whole
from implicit_em.base.tables import markdown_table
from implicit_em_studies.paper.evidence import Evidence
from implicit_em_studies.paper.paper import REASONS, TABLES, Column, Published
from implicit_em_studies.shared.tables import mean_and_deviation, write_tables

NOTHING = "–"
# Characters that LaTeX would not print as they are.
LATEX = str.maketrans(
    {character: "\\" + character for character in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
)


def measure(name: str, evidence: Evidence) -> pd.DataFrame:
    """Return a table of the paper with one row per figure, published and measured.

    A figure deviates if the means differ by more than both standard deviations and the paper's
    rounding together, or if a run has no value. ``deviates`` is null if nothing was published, and
    ``n`` counts the runs with a value.
    """
    published = TABLES[name]
    runs = getattr(evidence, published.experiment)
    rows = []
    for values, figures in published.rows.items():
        row = dict(zip(published.by, values, strict=True))
        group = runs[(runs[list(row)] == list(values)).all(axis=1)]
        for column in published.columns:
            cell = _cell(group, column, figures.get(column.key))
            reason = REASONS.get((name, values, column.key), "") if cell["deviates"] else ""
            rows.append(row | cell | {"reason": reason})
    return pd.DataFrame(rows)


def _cell(runs: pd.DataFrame, column: Column, paper: Published | None) -> dict[str, Any]:
    values = column.scale * pd.to_numeric(runs[column.key], errors="coerce").dropna()
    mean = float(values.mean()) if len(values) else None
    std = float(values.std()) if len(values) > 1 else None
    return {
        "quantity": column.key,
        "heading": column.heading,
        "paper": paper.value if paper else None,
        "paper_std": paper.std if paper else None,
        "paper_text": paper.text if paper else None,
        "mean": mean,
        "std": std,
        "n": len(values),
        "runs": len(runs),
        "measured_text": _measured_text(mean, std, len(values), len(runs), column),
        "deviates": _deviates(mean, std, len(values) == len(runs), paper) if paper else None,
    }


def _measured_text(mean: float | None, std: float | None, n: int, runs: int, column: Column) -> str:
    if mean is None:
        return "never" if column.key == "convergence_epoch" else NOTHING
    form = ",.3g" if column.digits is None else f",.{column.digits}f"
    if column.key == "parameters":
        std = None  # a count, the same in every run
    return mean_and_deviation(mean, std, form) + (f" ({n} of {runs})" if n < runs else "")


def _deviates(mean: float | None, std: float | None, complete: bool, paper: Published) -> bool:
    if mean is None or paper.value is None:
        return (mean is None) != (paper.value is None)
    if not complete:
        return True  # some run has no value where the paper has one
    allowed = (paper.std or 0) + (std or 0) + paper.rounding
    return abs(mean - paper.value) > allowed


def side_by_side(name: str, cells: pd.DataFrame) -> pd.DataFrame:
    """Return a measured table as printed; the paper's figures come first.

    A column that the paper does not have stands alone. An asterisk marks a deviation.
    """
    published = TABLES[name]
    compared = {key for figures in published.rows.values() for key in figures}
    rows = []
    for values in published.rows:
        names = (f"{value:g}" if isinstance(value, float) else value for value in values)
        row = dict(zip(published.by, names, strict=True))
        of_row = cells[(cells[list(published.by)] == list(values)).all(axis=1)]
        cell: Any
        for cell in of_row.itertuples():
            if cell.quantity in compared:
                printed = isinstance(cell.paper_text, str)
                row[f"{cell.heading}, paper"] = cell.paper_text if printed else NOTHING
            row[cell.heading] = cell.measured_text + (" *" if cell.deviates is True else "")
        row["n"] = str(of_row["runs"].max())
        rows.append(row)
    return pd.DataFrame(rows)


def deviations(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the figures that deviate from the paper's."""
    return cells[cells["deviates"].fillna(False).astype(bool)]


def write(name: str, cells: pd.DataFrame, directory: Path, trial: str | None) -> None:
    """Write a measured table as CSV (numbers), Markdown and LaTeX (booktabs)."""
    numbers = cells.drop(columns=["heading", "paper_text", "measured_text"])
    write_tables({name: numbers}, directory, trial)
    shown = side_by_side(name, cells)
    title = f"[{trial}] " * bool(trial) + TABLES[name].caption
    with whole(directory / f"{name}.md") as temporary:
        temporary.write_text(f"**{title}**\n\n{markdown_table(shown)}\n")
    with whole(directory / f"{name}.tex") as temporary:
        temporary.write_text(_latex(shown, title, name))


def _errors_by_draw(draws: pd.DataFrame) -> pd.DataFrame:
    """Put the precisions and gradients of a draw side by side."""
    case = ["batch", "components", "scale"]
    autograd = draws[draws["gradient"] == "autograd"]
    parts: dict[str, pd.Series] = {}
    for dtype, rows in autograd.groupby("dtype"):
        rows = rows.set_index(case)
        closed = draws[(draws["gradient"] == "closed form") & (draws["dtype"] == dtype)]
        parts |= {
            f"{dtype}: correlation": rows["correlation"].map("{:.4f}".format),
            f"max error {dtype}": rows["max_error"],
            f"mean error {dtype}": rows["mean_error"],
            f"bound {dtype}": rows["bound"],
            f"closed form {dtype}": closed.set_index(case)["max_error"],
        }
    return pd.DataFrame(parts).reset_index().replace("nan", NOTHING)


def _thresholds_side_by_side(crossings: pd.DataFrame) -> pd.DataFrame:
    numbers = ["predicted", "measured"]
    beyond = "beyond " + crossings["epochs"].astype(str)
    texts = crossings.assign(**crossings[numbers].map("{:.0f}".format))
    texts["measured"] = texts["measured"].mask(crossings["measured"].isna(), beyond)
    wide = texts.pivot(index=["optimizer", "hidden"], columns="threshold", values=numbers)
    wide = wide.sort_index(axis=1, level="threshold", sort_remaining=False)
    wide.columns = wide.columns.map("threshold {0[1]:g}, {0[0]}".format)
    return wide.reset_index()


def _extremes_along_training(history: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "epochs": [len(history)],
            "smallest correlation": [f"{history['trajectory/identity_correlation'].min():.4f}"],
            "largest error": history["trajectory/identity_error"].max(),
        }
    )


def _matrices_side_by_side(features: pd.DataFrame) -> pd.DataFrame:
    means = features.groupby(["model", "matrix", "units"]).mean().drop(columns="seed").T
    means.columns = means.columns.map("{0[0]}, {0[1]} rows, {0[2]} units".format)
    return means.reset_index(names="measure").replace({"measure": {"_": " "}}, regex=True)


@dataclass(frozen=True)
class Beyond:
    """A table that the paper does not have; it shows the evidence of the same name."""

    experiment: str
    caption: str
    present: Callable[[pd.DataFrame], pd.DataFrame] = pd.DataFrame


BEYOND = {
    "draws": Beyond(
        "theorem",
        "Draws of energies: correlation, largest and mean difference between gradient and "
        "softmax(-E), the bound on it, and the largest difference of the closed form",
        _errors_by_draw,
    ),
    "encoder": Beyond(
        "theorem",
        "Through the trained encoder; errors at the weights are relative to the largest one",
    ),
    "training": Beyond(
        "theorem", "Along training, float32, after every epoch", _extremes_along_training
    ),
    "crossings": Beyond(
        "dynamics",
        "Epoch of convergence: predicted by the law, and measured",
        _thresholds_side_by_side,
    ),
    "trends": Beyond(
        "dynamics",
        "Growth: exponent of the variances in t, slope of the loss in log t, from epoch 10 on; "
        "dead units at the end",
    ),
    "settling": Beyond(
        "dynamics",
        "At the paper's epoch of convergence and at the run's end: turn of the rows (degrees an "
        "epoch), change of the correlations (RMS an epoch), probe accuracy; and the fall of the "
        "loss after it",
    ),
    "features": Beyond("features", "Weight rows, mean over the seeds", _matrices_side_by_side),
}


def as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table of numbers as text for print, three significant digits."""
    names = {column: str(column).replace("_", " ") for column in frame}
    return frame.rename(columns=names).map(_short).astype(str)


def _short(value: Any) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return NOTHING
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _latex(frame: pd.DataFrame, title: str, name: str) -> str:
    axes = len(TABLES[name].by)
    text = frame.to_latex(
        index=False,
        escape=True,
        caption=title.translate(LATEX),
        label=f"tab:{name}",
        column_format="l" * axes + "r" * (frame.shape[1] - axes),
    )
    for symbol, command in (("±", r"$\pm$"), (" -", " $-$"), ("–", "--")):
        text = text.replace(symbol, command)
    return text
