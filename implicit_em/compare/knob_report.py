"""The report on the settings of the derived model: its table, figure and text."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pandas as pd

from implicit_em.base.files import write_json
from implicit_em.base.tables import markdown_table
from implicit_em.compare.figures import knobs as draw_knobs
from implicit_em.compare.knobs import effects, knob_findings
from implicit_em.compare.protocol import Protocol
from implicit_em.compare.report import write_tables
from implicit_em.compare.wording import ahead_text
from implicit_em.studies.figures import write
from implicit_em.studies.pages import render, write_pages


def write_knobs(
    table: pd.DataFrame,
    protocol: Protocol,
    directory: Path,
    dataset: str,
    digest: str,
    provenance: Mapping[str, str],
    trial: str | None,
) -> tuple[Path, list[str], dict[str, pd.DataFrame]]:
    """Write tables, figure, report and findings; gives the page's path, findings and tables.

    Args:
        table: a row a run, as ``knobs.effects`` takes it.
        protocol: of the comparison.
        directory: of the part.
        dataset: its data.
        digest: of the protocol and its runs.
        provenance: lines by name.
        trial: what makes this a trial, or ``None``.

    """
    moved = effects(table, protocol.beyond)
    said = knob_findings(moved, protocol.reach)
    tables = {"runs": table, "knobs": moved}
    write_tables(tables, directory / "tables", trial)
    write(partial(draw_knobs, table, moved), directory / "figures/knobs", trial)
    text = render(
        "implicit_em.compare",
        "knobs.md.j2",
        dataset=dataset,
        trial=trial,
        protocol=protocol,
        provenance=markdown_table(pd.DataFrame(provenance.items(), columns=["", "this report"])),
        findings=said,
        table=markdown_table(_as_text(moved)),
        digest=digest,
    )
    write_json(directory / "findings.json", {"trial": trial, "digest": digest, "findings": said})
    return write_pages(text, directory), said, tables


def _as_text(moved: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "knob": moved["knob"].str.replace("_", " "),
            "setting": moved["settings"],
            "n": moved["n"].astype(str),
            "density, %": _spread(moved, "density", 1),
            "probe, %": _spread(moved, "probe_accuracy", 2),
            "points above the curve": list(map(ahead_text, moved.itertuples())),
        }
    )


def _spread(moved: pd.DataFrame, column: str, digits: int) -> list[str]:
    texts = []
    for mean, std in zip(100 * moved[column], 100 * moved[f"{column}_std"], strict=True):
        spread = "" if pd.isna(std) else f" ± {std:.{digits}f}"
        texts.append("–" if pd.isna(mean) else f"{mean:.{digits}f}{spread}")
    return texts
