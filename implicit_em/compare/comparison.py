"""The comparison: grids, choice, finals, measurements, tables, figures and report of each part."""

import logging
import shlex
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
from implicit_em.studies import study_directory
from implicit_em.sweeps.stacked import cores

log = logging.getLogger(__name__)

COMPARISON = Path("results/compare")


def compare(
    directory: str | Path = COMPARISON,
    parts: Sequence[str] = (),
    changes: Sequence[str] = (),
    workers: int | None = None,
    conf: str | Path = "conf",
) -> list[Path]:
    """Run parts of the comparison and write what comes out; gives the reports' paths.

    Runs and measurements that are complete are reused, also by other parts. With settings other
    than the protocol's, everything is labelled as a trial.

    Args:
        directory: where runs and, in a folder a data set and part, tables, figures and report go.
        parts: names of data sets and parts; those of a kind that is not named are all meant.
        changes: ``KEY=VALUE``, of the protocol or, in Hydra's notation, of all runs.
        workers: stacks that train, or processes that measure, at a time; the number of cores if not
            given.
        conf: the configuration files.

    Raises:
        ConfigError: if a setting cannot be, or the directory belongs to a study of other settings.
        RunError: if runs failed, or no setting comes near any density.

    """
    directory, conf = Path(directory), Path(conf)
    study_directory.refuse_arguments(workers, conf, "compare.yaml")
    refuse_misspelt(changes, conf)
    protocol = read_protocol(conf, [change for change in changes if is_of_the_protocol(change)])
    overrides = [change for change in changes if not is_of_the_protocol(change)]
    protocol.refuse_own_settings(overrides)
    chosen = protocol.chosen(parts)
    trial = study_directory.label(changes)
    note = directory / "comparison.json"
    study_directory.refuse_directory(directory, COMPARISON, study_directory.read_note(note), trial)
    prepared = _prepare(protocol, chosen, directory, conf, overrides, trial)
    with study_directory.alone(directory, "comparison"):
        write_json(note, {"trial": trial})
        command = _command(directory, conf, parts, changes)
        return [part.run(command, workers or cores()) for part in prepared]


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
        runs, own = directory / dataset / "runs", directory / dataset / part
        if part == KNOBS:
            varied = settings(dataset, (*CURVE, *protocol.knobs), KNOBS)
            stages = Stages(protocol, part, runs, varied, ())
            prepared.append(Knobs(stages, dataset, own, conf, trial))
        else:
            families = settings(dataset, tuple(protocol.families))
            controls = settings(dataset, tuple(protocol.controls))
            stages = Stages(protocol, part, runs, families, controls)
            prepared.append(Families(stages, dataset, own, conf, trial))
    return prepared


def _command(directory: Path, conf: Path, parts: Sequence[str], changes: Sequence[str]) -> str:
    where = [] if directory == COMPARISON else ["--directory", str(directory)]
    where += [] if conf == Path("conf") else ["--conf", str(conf)]
    return shlex.join(["python", "-m", "implicit_em.compare", *parts, *changes, *where])
