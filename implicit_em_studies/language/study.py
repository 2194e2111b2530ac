"""The study of language models from one call."""

import logging
from collections.abc import Sequence
from pathlib import Path

from implicit_em.config import CONF
from implicit_em.config.harvest import HarvestSettings
from implicit_em.harvest.models import CausalModel
from implicit_em_studies.language.harvesting import composed, harvested
from implicit_em_studies.language.part import Language
from implicit_em_studies.language.protocol import CAUSAL, HARVEST, Protocol
from implicit_em_studies.language.stages import Stages
from implicit_em_studies.shared.parts import Study
from implicit_em_studies.shared.stages import check_all, compose_settings

log = logging.getLogger(__name__)

LANGUAGE = Path("results/language")


def language(
    directory: str | Path = LANGUAGE,
    parts: Sequence[str] = (),
    changes: Sequence[str] = (),
    workers: int | None = None,
    conf: str | Path = CONF,
    quick: bool = False,
) -> list[Path]:
    """Run parts of the study as ``Study.run`` does; each has a directory of its own.

    Args:
        parts: names of language models in ``conf/language.yaml``; all if none is named.
        quick: whether to make a short trial, by default in a directory of its own.

    Raises:
        ConfigError: if a setting is refused, or the directory holds a study of other settings.
        RunError: if runs failed, or all runs of a stage diverged.
    """
    study = Study("language", "study", LANGUAGE, Protocol, _prepare)
    return study.run(directory, parts, changes, workers, conf, quick)


def _prepare(
    protocol: Protocol,
    words: Sequence[str],
    directory: Path,
    conf: Path,
    overrides: Sequence[str],
    trial: str | None,
) -> list[Language]:
    """Compose the runs of all parts and check them; harvest what is missing."""
    names = protocol.chosen(words)
    log.info("composing the runs of %s", ", ".join(protocol.families))
    always = ["data=activations", "data.digest=null", *overrides]
    settings, controls = (
        compose_settings(names, protocol.grids, conf, always)
        for names in (protocol.families, protocol.controls)
    )
    for name in names:
        part, store = protocol.parts[name], directory / name / "store"
        if not store.exists():  # a mistake is found before hours of harvesting
            planned = Stages(protocol, name, directory, settings, controls, None)
            check_all(planned.planned(), here=False)
            lm = HarvestSettings.of(composed(part[HARVEST], store, conf)).lm
            if part[CAUSAL]:
                CausalModel.load(lm, "cpu")  # refuses one that reads ahead
    prepared = []
    for name in names:
        folder, typed = directory / name, protocol.parts[name][HARVEST]
        lm = harvested(typed, folder / "store", conf)
        if protocol.permuted:
            harvested([*typed, "lm.permuted=0"], folder / "permuted", conf)
        prepared.append(Language(protocol, name, settings, controls, lm, folder, conf, trial))
    return prepared
