"""``implicit-em collect DIR``: pages, model cards and exports of all runs below a directory."""

import argparse
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup
from omegaconf import OmegaConf

from implicit_em.base.arguments import Parser
from implicit_em.base.errors import ConfigError, RunError, WriteError
from implicit_em.base.files import whole
from implicit_em.base.locking import locked
from implicit_em.base.tables import format_value
from implicit_em.trained import evaluations
from implicit_em.trained.evaluate import evaluate
from implicit_em.trained.export import Exported
from implicit_em.trained.hub import README, model_card
from implicit_em.training.directory import RunDirectory
from implicit_em.viewer.exploring import explore
from implicit_em.viewer.page import INDEX, asset, render

log = logging.getLogger(__name__)

INSIDE = f"{evaluations.OWN}{evaluations.INSIDE}"
"""Name of the measurement inside a language model."""
SHOWN = (
    *("family", "site", "target", "units", "inputs", "l0", "fvu", "ridge_fvu", "ce_recovered"),
    *("inactive_units", "probe_accuracy", "train_seconds"),
)
"""Columns of the index: what a run is, and its metrics."""
NOTHING = format_value(None)


def collect(directory: str | Path, lm: str | None = None) -> Path:
    """Write an index of all finished runs, and of each a page, a model card and an export.

    Runs on a causal language model are also measured inside it. What is there already stays, so the
    same call goes on. What cannot be made is left out, and a line says why: SAELens has no form for
    some models, and a run may be damaged. Of two calls at once, one waits for the other at a run.

    Args:
        directory: directory whose runs are collected, at any depth.
        lm: as for ``explore``.

    Returns:
        The path of the index.

    Raises:
        ConfigError: if it holds no finished run, or a page of none can be made.
    """
    root = Path(directory)
    found = sorted((path.parents[1] for path in root.rglob(".hydra/config.yaml")), key=_by_number)
    runs = {path: RunDirectory(path).completed_metrics() for path in found}
    if not any(runs.values()):
        raise ConfigError(f"{root}: holds no finished run")
    rows, left = [], []
    for path, metrics in runs.items():
        if metrics and (row := _unless_refused(path, partial(_row, root, path, metrics, lm))):
            rows.append(row)
        else:
            log.warning("%s: %sleft out", path, "" if metrics else "not finished, so ")
            left.append(str(path.relative_to(root)))
    if not rows:
        raise ConfigError(f"{root}: no page of a run can be made; the lines above say why")
    with whole(root / INDEX) as temporary:
        temporary.write_text(_index(root, rows, left), "utf-8")
    return root / INDEX


def _by_number(path: Path) -> list[int | str]:
    words = re.split(r"(\d+)", str(path))  # every second one is a number
    return [int(word) if n % 2 else word for n, word in enumerate(words)]


def _index(root: Path, rows: Sequence[Any], left: Sequence[str]) -> str:
    filled = [n for n, _ in enumerate(SHOWN) if any(row["cells"][n] != NOTHING for row in rows)]
    headings = [SHOWN[n].replace("_", " ") for n in filled]
    shown = [{**row, "cells": [row["cells"][n] for n in filled]} for row in rows]
    style = Markup(asset("style.css"))
    hours = str(timedelta(seconds=round(sum(row["seconds"] for row in rows))))
    content = {"headings": headings, "rows": shown, "left": left, "hours": hours, "style": style}
    return render("collection.html.j2", name=root.resolve().name, **content)


def _row(root: Path, path: Path, metrics: dict[str, Any], lm: str | None) -> dict[str, Any]:
    """Write what a run lacks, and return what the index says of it."""
    log.info("%s:", path)
    card = path / "saelens" / README
    with locked(path):
        if not (path / "explore" / INDEX).exists():
            explore(path, lm=lm)
        if metrics.get("site") and INSIDE not in evaluations.read(path):
            _unless_refused(path, lambda: evaluate(path, inside=True, lm=lm))
        if not card.exists():
            _unless_refused(path, lambda: _export(root, path, card))
    inside = evaluations.read(path).get(INSIDE, {"metrics": {}})["metrics"]
    named = str(OmegaConf.select(RunDirectory(path).read_config(), "model._target_", default=""))
    told = {"family": named.rpartition(".")[2], **metrics, **inside}
    return {
        "path": path.relative_to(root).as_posix(),
        "card": card.relative_to(root).as_posix() if card.exists() else None,
        "seconds": metrics.get("train_seconds", 0),
        "cells": [_cell(told, key) for key in SHOWN],
    }


def _cell(told: Mapping[str, Any], key: str) -> str:
    """Return a metric as text; where a crosscoder has one for each site, all of them."""
    if key in told:
        return format_value(told[key])
    at_sites = [format_value(told[name]) for name in told if name.startswith(f"{key}.")]
    return ", ".join(at_sites) or NOTHING


def _unless_refused(path: Path, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except WriteError:  # of a disk that is full for all of them
        raise
    except RunError as error:
        log.warning("%s: %s", path, error)
        return None


def _export(root: Path, path: Path, card: Path) -> None:
    exported = Exported.of(path, "saelens")
    place = exported.write(card.parent)
    named = root.resolve().name / place.relative_to(root)  # also once the directory was moved
    with whole(card) as temporary:
        temporary.write_text(model_card(named.as_posix(), exported.card()), "utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write pages, exports and an index of all finished runs below a directory."""
    parser = Parser(
        prog="implicit-em collect",
        description="Write what others need of all finished runs below a directory: pages, exports "
        "with model cards, and an index. The same command goes on. This builds the classes that "
        "the runs' configurations name.",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="directory of runs or sweeps")
    lm = "folder, GGUF file or hub name of the language model, if it is none of conf/lm"
    parser.add_argument("--lm", help=lm)

    def run(given: argparse.Namespace) -> None:
        print(f"Open {collect(given.directory, given.lm)}")

    return parser.run(arguments, run, "; the same command goes on")
