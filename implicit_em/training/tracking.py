"""The experiment logger of a run; W&B is offline if nobody is logged in or no server answers."""

import logging
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast, get_args

from hydra.utils import instantiate
from matplotlib.image import imread
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from implicit_em.base.errors import ConfigError, one_line
from implicit_em.base.files import read_bytes, whole
from implicit_em.base.values import check_word

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

WANDB = "pytorch_lightning.loggers.WandbLogger"
Mode = Literal["online", "offline", "disabled"]
FINISH_TIMEOUT = 90.0
"""Seconds that the end of a run waits for the server, as long as its start; wandb has no limit."""
GLOBAL_STEP = "trainer/global_step"
"""Name under which Lightning's logger passes the number of a step to W&B."""
STEP = "step/"
"""Beginning of the names of values that belong to a step; W&B draws all others over epochs."""
OFFLINE = "-offline"
"""End of the id of a run that could not go online: wandb's service keeps the id that failed."""


def start_logger(
    spec: Mapping[str, Any],
    directory: Path,
    config: Mapping[str, Any],
    group: str | None,
    tags: Sequence[str],
) -> Logger | None:
    """Start the logger of the config group ``logger``; return ``None`` if the group is empty.

    A W&B logger takes the arguments of ``wandb.init``, and ``tags`` are added to its own. Other
    loggers get ``config`` as hyperparameters. A setting that wandb refuses raises ``ConfigError``.
    """
    if not spec:
        return None
    if spec["_target_"] != WANDB:
        logger = instantiate(spec, save_dir=str(directory))
        logger.log_hyperparams(dict(config))
        return logger
    arguments = {key: value for key, value in spec.items() if key not in ("_target_", "mode")}
    arguments |= {
        "name": spec.get("name") or os.environ.get("WANDB_NAME") or directory.name,
        "group": spec.get("group") or os.environ.get("WANDB_RUN_GROUP") or group,
        "tags": [*(spec.get("tags") or []), *tags],
        "id": _run_id(directory),
        "dir": str(directory),
        "config": dict(config),
    }
    return _start_wandb(arguments, *wandb_mode(spec.get("mode")))


def finish_logger(logger: Logger | None, metrics: Mapping[str, Any], features: Path) -> None:
    """Give W&B and TensorBoard the final metrics and the feature grid; end any logger's run."""
    completed = metrics["status"] == "completed"
    if isinstance(logger, TolerantWandbLogger):
        with logger.dropping():
            if metrics["status"] == "interrupted":
                logger.experiment.mark_preempting()
            if features.exists():
                logger.log_image("features", [str(features)])
            logger.experiment.summary.update(dict(metrics))
        logger.finish(0 if completed else 1)
        return
    if isinstance(logger, TensorBoardLogger):
        numbers = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
        logger.log_hyperparams(logger.hparams, numbers)  # its table shows settings with results
        if features.exists():
            logger.experiment.add_image("features", imread(features), dataformats="HWC")
    if logger is not None:
        logger.finalize("success" if completed else "failed")


def log_again(
    logger: Logger | None, rows: Iterable[Mapping[str, float | None]], place: str
) -> None:
    """Log the earlier rows of a resumed run, unless W&B already has them.

    An offline run logs all rows, because it writes new files. An online run logs the rows from the
    server's last one, which may be incomplete there. ``place`` is a value that rises from row to
    row, such as ``epoch``.
    """
    if not isinstance(logger, TolerantWandbLogger):
        return
    with logger.dropping():
        run = logger.experiment
        complete = run.summary.get(place, 0) if run.resumed else 0
        for row in rows:
            if (row[place] or 0) >= complete:
                logger.log_metrics({k: value for k, value in row.items() if value is not None})


class TolerantWandbLogger(WandbLogger):
    """Lightning's logger for a started W&B run, whose errors do not end the training."""

    unreachable: ClassVar[str | None] = None
    """Why further runs of this process start offline; ``None`` while the server answers."""

    def __init__(self, run: "wandb.Run") -> None:
        super().__init__(experiment=run)
        self._warned = False
        self._of_steps: set[str] = set()

    @contextmanager
    def dropping(self) -> Iterator[None]:
        """Drop values that W&B refuses, with one warning for the whole run."""
        try:
            yield
        except Exception as error:
            if not self._warned:
                log.warning("W&B: %s; values that it refuses are left out", one_line(error))
            self._warned = True

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics, or drop them if W&B refuses them."""
        with self.dropping():
            for key in metrics:
                if key.startswith(STEP) and key not in self._of_steps:
                    # One by one: W&B chooses at random between the patterns step/* and *.
                    self._of_steps.add(key)
                    self.experiment.define_metric(key, step_metric=GLOBAL_STEP)
            super().log_metrics(metrics, step)

    @rank_zero_only
    def finish(self, exit_code: int = 0) -> None:
        """End the run; if the server lacks anything, log the command that uploads it."""
        run = self.experiment
        try:
            run.finish(exit_code)
        except Exception as error:  # the server does not answer, or wandb's service has died
            TolerantWandbLogger.unreachable = one_line(error)
            log.warning("W&B: %s; to upload the rest: %s", one_line(error), _sync_command(run))


def wandb_mode(requested: str | None = None) -> tuple[Mode, str]:
    """Return the W&B mode and the reason for it, without asking for a login.

    The requested mode comes first, then ``WANDB_MODE``, then whether somebody is logged in. Another
    mode than a ``Mode`` raises ``ConfigError``.
    """
    import wandb

    if value := requested or os.environ.get("WANDB_MODE"):
        setting = "logger.mode" if requested else "WANDB_MODE"
        check_word(setting, value, get_args(Mode))
        return cast(Mode, value), f"{setting}={value}"
    # If it is not silent, login() asks the server for the user's name, to print it.
    wandb.setup(wandb.Settings(silent=True))
    try:
        logged_in = wandb.login(prompt=False, verify=False)
    except wandb.errors.AuthenticationError as error:
        return "offline", str(error).splitlines()[0]
    return ("online", "logged in") if logged_in else ("offline", "not logged in")


def _run_id(directory: Path) -> str:
    """Return the id of a run directory's W&B run, which a resumed run keeps."""
    path = directory / "wandb" / "run_id"
    if not path.exists():
        with whole(path) as temporary:
            temporary.write_text(secrets.token_hex(6))
    return read_bytes(path).decode().strip()


def _start_wandb(arguments: dict[str, Any], mode: Mode, reason: str) -> TolerantWandbLogger | None:
    """Start a run, offline if necessary; return ``None`` if wandb does not work at all."""
    import wandb

    run = None
    if mode == "online" and TolerantWandbLogger.unreachable:
        mode, reason = "offline", TolerantWandbLogger.unreachable
    if mode == "online":
        try:
            run = _init(mode, arguments)
        except Exception as error:
            mode, reason = "offline", f"going online failed: {one_line(error)}"
            arguments["id"] += OFFLINE
            if isinstance(error, wandb.errors.CommError | TimeoutError):
                TolerantWandbLogger.unreachable = reason
    try:
        run = run or _init(mode, arguments)
    except (wandb.errors.UsageError, ValueError, TypeError) as error:
        raise ConfigError(f"logger: {one_line(error)}") from error
    except Exception as error:
        log.warning("W&B: %s; this run is not logged there", one_line(error))
        return None
    logger = TolerantWandbLogger(run)
    with logger.dropping():
        run.define_metric("*", step_metric="epoch")
    if mode == "offline":
        log.info("W&B offline (%s); to upload: %s", reason, _sync_command(run))
    else:
        log.info("W&B %s (%s)%s", mode, reason, f": {run.url}" if run.url else "")
    return logger


def _init(mode: Mode, arguments: Mapping[str, Any]) -> "wandb.Run":
    import wandb

    return wandb.init(
        **arguments,
        mode=mode,
        resume="allow" if mode == "online" else None,
        reinit="create_new",  # one process may train several runs
        settings=wandb.Settings(
            silent=True,
            finish_timeout=FINISH_TIMEOUT,
            finish_timeout_raises=True,
            x_save_requirements=False,  # to list all packages is the slowest part
        ),
    )


def _sync_command(run: "wandb.Run") -> str:
    """Return the command that uploads a run's files."""
    return f"wandb sync{'' if run.offline else ' --include-online'} {run.settings.sync_dir}"
