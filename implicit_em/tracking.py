"""The experiment logger of a run: W&B that never asks and never mixes runs, or any other."""

import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hydra.utils import instantiate
from pytorch_lightning.loggers import Logger, WandbLogger

from implicit_em.errors import ConfigError
from implicit_em.files import whole

log = logging.getLogger(__name__)

WANDB = "pytorch_lightning.loggers.WandbLogger"
Mode = Literal["online", "offline", "disabled"]
MODES: dict[str, Mode] = {
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}


def start_logger(
    spec: Mapping[str, Any],
    directory: Path,
    config: Mapping[str, Any],
    group: str | None,
    tags: Sequence[str],
) -> Logger | None:
    """Start the logger that the config group ``logger`` describes; ``None`` where it is empty.

    Args:
        spec: ``_target_`` and arguments; for W&B those of ``wandb.init``.
        directory: the run directory.
        config: the composed configuration, as plain containers.
        group: name of the sweep.
        tags: beside those of ``spec``.

    """
    if not spec:
        return None
    if spec["_target_"] == WANDB:
        return _start_wandb(dict(spec), directory, config, group, tags)
    return instantiate(spec, save_dir=str(directory))


def finish_logger(logger: Logger | None, metrics: Mapping[str, Any], features: Path) -> None:
    """Send the final metrics and the feature grid, and end the run as it ended here."""
    completed = metrics["status"] == "completed"
    if isinstance(logger, WandbLogger):
        if metrics["status"] == "interrupted":
            logger.experiment.mark_preempting()
        if features.exists():
            logger.log_image("features", [str(features)])
        logger.experiment.summary.update(dict(metrics))
        logger.experiment.finish(exit_code=0 if completed else 1)
    elif logger is not None:
        logger.finalize("success" if completed else "failed")


def log_again(logger: Logger | None, rows: Mapping[int, Mapping[str, float | None]]) -> None:
    """Log the epochs of a run that goes on, where W&B does not have them under its id.

    Files of an offline run do not go on: the new ones hold the whole run.

    Args:
        logger: any; nothing is done for another than W&B's.
        rows: of the history, by the epoch, which counts from 1.

    """
    if isinstance(logger, WandbLogger) and not logger.experiment.resumed:
        for epoch, row in sorted(rows.items()):
            known = {key: value for key, value in row.items() if value is not None}
            logger.experiment.log({**known, "epoch": epoch - 1})


def wandb_mode(requested: str | None = None) -> tuple[Mode, str]:
    """Return the W&B mode and the reason for it, without ever asking for a login.

    Args:
        requested: ``online``, ``offline``, ``disabled`` or ``None``, which leaves the choice to
            ``WANDB_MODE`` and then to whether somebody is logged in.

    Raises:
        ConfigError: for another mode.

    """
    import wandb

    for source, value in (
        ("logger.mode", requested),
        ("WANDB_MODE", os.environ.get("WANDB_MODE")),
    ):
        if value:
            if value not in MODES:
                raise ConfigError(f"{source}={value}: allowed are online, offline and disabled")
            return MODES[value], f"{source}={value}"
    if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes"):
        return "disabled", "WANDB_DISABLED"
    try:
        logged_in = wandb.login(prompt=False, verify=False)
    except wandb.errors.AuthenticationError as error:
        return "offline", str(error).splitlines()[0]
    return ("online", "logged in") if logged_in else ("offline", "not logged in")


def _run_id(directory: Path) -> str:
    """Return the id of a run directory's W&B run, under which it also goes on."""
    path = directory / "wandb" / "run_id"
    if not path.exists():
        with whole(path) as temporary:
            temporary.write_text(secrets.token_hex(6))
    return path.read_text().strip()


def _start_wandb(
    spec: dict[str, Any],
    directory: Path,
    config: Mapping[str, Any],
    group: str | None,
    tags: Sequence[str],
) -> WandbLogger:
    import wandb

    del spec["_target_"]
    mode, reason = wandb_mode(spec.pop("mode", None))
    spec["name"] = spec.get("name") or os.environ.get("WANDB_NAME") or directory.name
    spec["group"] = spec.get("group") or os.environ.get("WANDB_RUN_GROUP") or group
    spec["tags"] = [*(spec.get("tags") or []), *tags]
    run = wandb.init(
        **spec,
        id=_run_id(directory),
        resume="allow" if mode == "online" else None,
        dir=str(directory),
        mode=mode,
        config=dict(config),
        reinit="create_new",  # one process may train several runs, each with one of its own
        settings=wandb.Settings(silent=True),
    )
    run.define_metric("*", step_metric="epoch")
    if mode == "offline":
        log.info("W&B offline (%s); to upload: wandb sync %s", reason, run.settings.sync_dir)
    else:
        log.info("W&B %s (%s)%s", mode, reason, f": {run.url}" if run.url else "")
    return WandbLogger(experiment=run)
