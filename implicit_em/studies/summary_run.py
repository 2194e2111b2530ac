"""The study's own W&B run: its tables, figures and verdicts in one place."""

from pathlib import Path

import pandas as pd
from omegaconf import DictConfig

from implicit_em.config.schema import to_plain
from implicit_em.training.tracking import PatientWandbLogger, start_logger


def log_summary(
    cfg: DictConfig,
    directory: Path,
    measured: dict[str, pd.DataFrame],
    verdicts: pd.DataFrame | None,
    provenance: dict[str, str],
    trial: str | None,
) -> None:
    """Log the study as a run of the job type ``summary``, where the logger is W&B.

    Args:
        cfg: configuration of one of its runs, for the logger's settings.
        directory: of the study, whose figures are there already.
        measured: the paper's tables.
        verdicts: of the claims, if there are any.
        provenance: lines by name.
        trial: what makes this a trial, or ``None``.

    """
    spec = to_plain(cfg)["logger"]
    if not spec.get("_target_", "").endswith(".WandbLogger"):
        return
    spec |= {"name": f"summary of {directory.name}", "job_type": "summary"}
    config = {**provenance, "trial": trial}
    logger = start_logger(spec, directory, config, "summary", ["trial"] if trial else [])
    if not isinstance(logger, PatientWandbLogger):
        return
    frames = measured | ({} if verdicts is None else {"verdicts": verdicts})
    with logger.dropping():
        for name, frame in frames.items():
            logger.log_table(
                f"tables/{name}", dataframe=frame.astype(object).where(frame.notna(), None)
            )
        for figure in sorted((directory / "figures").glob("*.png")):
            logger.log_image(f"figures/{figure.stem}", [str(figure)])
    logger.finish()
