"""The whole recovery study from one call."""

import logging
from collections.abc import Sequence
from pathlib import Path

from implicit_em.config import CONF
from implicit_em_studies.recovery.part import Recovery
from implicit_em_studies.recovery.protocol import Protocol
from implicit_em_studies.shared.parts import Study
from implicit_em_studies.shared.stages import Setting, compose_settings

log = logging.getLogger(__name__)

RECOVERY = Path("results/recover")


def recover(
    directory: str | Path = RECOVERY,
    cells: Sequence[str] = (),
    changes: Sequence[str] = (),
    workers: int | None = None,
    conf: str | Path = CONF,
    quick: bool = False,
) -> Path:
    """Run cells of the study as ``Study.run`` does, and write its report; return its path.

    Args:
        cells: names of cells or groups of cells; all if none is named.
        quick: whether to make a short trial, by default in a directory of its own. The protocol's
            ``quick`` names its changes, which come before ``changes``, and the cells if none is
            named.

    Raises:
        ConfigError: if a setting is refused, or the directory holds a study of other settings.
        RunError: if runs failed, or all runs of a stage diverged.
    """
    study = Study("recover", "recovery", RECOVERY, Protocol, _prepare)
    (report,) = study.run(directory, cells, changes, workers, conf, quick)
    return report


def _prepare(
    protocol: Protocol,
    words: Sequence[str],
    directory: Path,
    conf: Path,
    overrides: Sequence[str],
    trial: str | None,
) -> list[Recovery]:
    """Compose all settings once, and check the runs of all cells."""
    cells = protocol.chosen(words)
    log.info("composing the runs of %s", ", ".join(protocol.families))

    def composed(names: Sequence[str], field: str = "grids") -> list[Setting]:
        grids = getattr(protocol, field)
        return compose_settings(names, grids, conf, ["data=superposition", *overrides])

    families = {"grids": protocol.families, "toy_grids": protocol.toy_families}
    settings = {field: composed(names, field) for field, names in families.items()}
    controls = composed(protocol.controls)
    return [Recovery(protocol, cells, settings, controls, directory, conf, trial)]
