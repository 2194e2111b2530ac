"""The study's own W&B run, with its tables and figures in one place."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig

from implicit_em.config.schema import to_plain
from implicit_em.training.tracking import PatientWandbLogger, start_logger


def log_summary(
    cfg: DictConfig,
    directory: Path,
    tables: Mapping[str, pd.DataFrame],
    provenance: Mapping[str, str],
    trial: str | None,
) -> None:
    """Log the study as a W&B run of job type ``summary``, if the logger of its runs is W&B."""
    spec = to_plain(cfg)["logger"]
    if not spec.get("_target_", "").endswith(".WandbLogger"):
        return
    spec |= {"name": f"summary of {directory.name}", "job_type": "summary"}
    tags = ["trial"] if trial else []
    logger = start_logger(spec, directory, {**provenance, "trial": trial}, "summary", tags)
    if not isinstance(logger, PatientWandbLogger):
        return
    with logger.dropping():
        for name, frame in tables.items():
            cells = frame.astype(object).where(frame.notna(), None)
            logger.log_table(f"tables/{name}", dataframe=cells)
        for figure in sorted((directory / "figures").glob("*.png")):
            logger.log_image(f"figures/{figure.stem}", [str(figure)])
    logger.finish()
