"""The whole comparison from one call: every part that was asked for."""

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from implicit_em.base.files import write_json
from implicit_em.compare.knobs import CURVE
from implicit_em.compare.parts import Families, Knobs, Part
from implicit_em.compare.protocol import (
    KNOBS,
    Protocol,
    is_of_the_protocol,
    read_protocol,
    refuse_misspelt,
)
from implicit_em.compare.stages import Setting, Stages, compose_settings
from implicit_em.config import CONF
from implicit_em.studies import study_directory
from implicit_em.studies.command_line import command
from implicit_em.studies.protocol import trial_label
from implicit_em.sweeps.stacked import cores

log = logging.getLogger(__name__)

COMPARISON = Path("results/compare")


def compare(
    directory: str | Path = COMPARISON,
    parts: Sequence[str] = (),
    changes: Sequence[str] = (),
    workers: int | None = None,
    conf: str | Path = CONF,
) -> list[Path]:
    """Run parts of the comparison and write their reports; return the reports' paths.

    Complete runs and measurements are reused, also by other parts. Settings other than the
    protocol's make a trial, and everything says so.

    Args:
        directory: directory of the runs; the results lie there by data set and part.
        parts: names of data sets and parts; all data sets if none is named, and all parts likewise.
        changes: ``KEY=VALUE`` settings of the protocol or, in Hydra's notation, of all runs.
        workers: number of stacks that train, or processes that measure, at a time; ``None`` for one
            per core.
        conf: folder of configuration files.

    Raises:
        ConfigError: if a setting is refused, or the directory holds a study of other settings.
        RunError: if runs failed, or no setting comes near any density.
    """
    directory, conf = Path(directory), Path(conf)
    study_directory.refuse_arguments(workers, conf, "compare.yaml")
    conf = conf.resolve()
    refuse_misspelt(changes, conf)
    protocol = read_protocol(conf, [change for change in changes if is_of_the_protocol(change)])
    overrides = [change for change in changes if not is_of_the_protocol(change)]
    protocol.refuse_own_settings(overrides)
    chosen = protocol.chosen(parts)
    trial = trial_label(changes)
    note = directory / "comparison.json"
    study_directory.refuse_directory(directory, COMPARISON, study_directory.read_note(note), trial)
    prepared = _prepare(protocol, chosen, directory, conf, overrides, trial)
    with study_directory.alone(directory, "comparison"):
        write_json(note, {"trial": trial})
        folders = {"directory": (directory, COMPARISON), "conf": (conf, CONF)}
        typed = command("compare", [*parts, *changes], **folders)
        return [part.run(typed, workers or cores()) for part in prepared]


def _prepare(
    protocol: Protocol,
    chosen: Sequence[tuple[str, str]],
    directory: Path,
    conf: Path,
    overrides: Sequence[str],
    trial: str | None,
) -> list[Part]:
    """Compose and check the runs of all parts."""

    @cache
    def settings(dataset: str, names: tuple[str, ...], folder: str = "compare") -> list[Setting]:
        log.info("%s: composing the runs of %s", dataset, ", ".join(names))
        return compose_settings(names, dataset, conf, overrides, folder)

    prepared: list[Part] = []
    for dataset, part in chosen:
        runs, results = directory / dataset / "runs", directory / dataset / part
        if part == KNOBS:
            varied = settings(dataset, (*CURVE, *protocol.knobs), KNOBS)
            stages = Stages(protocol, part, runs, varied, ())
            prepared.append(Knobs(stages, dataset, results, conf, trial))
        else:
            families = settings(dataset, tuple(protocol.families))
            controls = settings(dataset, tuple(protocol.controls))
            stages = Stages(protocol, part, runs, families, controls)
            prepared.append(Families(stages, dataset, results, conf, trial))
    return prepared
