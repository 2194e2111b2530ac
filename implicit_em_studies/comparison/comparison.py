"""The whole comparison from one call: every part that was asked for."""

import json
import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from implicit_em.config import CONF
from implicit_em_studies.comparison.knobs import CURVE
from implicit_em_studies.comparison.parts import Families, Knobs, Part
from implicit_em_studies.comparison.protocol import KNOBS, Protocol
from implicit_em_studies.comparison.stages import Stages
from implicit_em_studies.shared.parts import Study
from implicit_em_studies.shared.stages import Setting, compose_settings

log = logging.getLogger(__name__)

COMPARISON = Path("results/compare")


def compare(
    directory: str | Path = COMPARISON,
    parts: Sequence[str] = (),
    changes: Sequence[str] = (),
    workers: int | None = None,
    conf: str | Path = CONF,
) -> list[Path]:
    """Run parts of the comparison as ``Study.run`` does; results lie by data set and part.

    ``parts`` names data sets and parts; all data sets if none is named, and all parts likewise.

    Raises:
        ConfigError: if a setting is refused, or the directory holds a study of other settings.
        RunError: if runs failed, or no setting comes near any density.
    """
    study = Study("compare", "comparison", COMPARISON, Protocol, _prepare)
    return study.run(directory, parts, changes, workers, conf)


def _prepare(
    protocol: Protocol,
    words: Sequence[str],
    directory: Path,
    conf: Path,
    overrides: Sequence[str],
    trial: str | None,
) -> list[Part]:
    """Compose and check the runs of all parts."""

    @cache
    def settings(dataset: str, names: tuple[str, ...], grids: str) -> list[Setting]:
        log.info("%s: composing the runs of %s", dataset, ", ".join(names))
        return compose_settings(names, json.loads(grids), conf, [f"data={dataset}", *overrides])

    prepared: list[Part] = []
    for dataset, part in protocol.chosen(words):
        runs, results = directory / dataset / "runs", directory / dataset / part
        if part == KNOBS:
            names = (*CURVE, *protocol.knobs)
            varied = settings(dataset, names, json.dumps(protocol.knob_grids))
            stages = Stages(protocol, part, runs, varied, ())
            prepared.append(Knobs(stages, dataset, results, conf, trial))
        else:
            own = protocol.of_part(part)
            grids = json.dumps(own.grids)
            families = settings(dataset, tuple(own.families), grids)
            controls = settings(dataset, tuple(own.controls), grids)
            stages = Stages(own, part, runs, families, controls)
            prepared.append(Families(stages, dataset, results, conf, trial))
    return prepared
