"""The experiment logger of a run; W&B starts offline if the server does not answer in time."""

import logging
import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from hydra.utils import instantiate
from matplotlib.image import imread
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from implicit_em.base.errors import ConfigError, one_line
from implicit_em.base.files import read_bytes, whole

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

WANDB = "pytorch_lightning.loggers.WandbLogger"
Mode = Literal["online", "offline", "disabled"]
MODES: dict[str, Mode] = {mode: mode for mode in get_args(Mode)}
MODES |= {"run": "online", "dryrun": "offline"}
TIMEOUT = 30.0
"""Seconds to wait for the server, for earlier runs without ``logger.timeout``."""
GLOBAL_STEP = "trainer/global_step"
"""Name under which Lightning's logger passes the number of a step to W&B."""
STEP = "step/"
"""Beginning of the names of values that belong to a step; W&B draws all others over epochs."""
RETRIED = "-offline"
"""Suffix of an offline run's id, because wandb's service keeps the id of a failed attempt."""


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
    if isinstance(logger, PatientWandbLogger):
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
    if not isinstance(logger, PatientWandbLogger):
        return
    with logger.dropping():
        run = logger.experiment
        complete = run.summary.get(place, 0) if run.resumed else 0
        for row in rows:
            if (row[place] or 0) >= complete:
                logger.log_metrics({k: value for k, value in row.items() if value is not None})


class PatientWandbLogger(WandbLogger):
    """Lightning's logger for a started W&B run, whose errors neither end nor delay the training."""

    lists_packages: ClassVar[bool] = True
    """Whether the next run of this process saves the list of installed packages."""
    lost: ClassVar[str | None] = None
    """Why the runs of this process no longer wait for the server; ``None`` while it answers."""

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
                log.warning("W&B: %s; values that it refuses are left out", _reason(error))
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
        import wandb

        run = self.experiment
        reason = None if run.offline else self.lost
        try:
            if reason:
                threading.Thread(target=_finish_quietly, args=(run, exit_code), daemon=True).start()
            else:
                run.finish(exit_code)
        except TimeoutError:
            reason = f"not everything was sent within {run.settings.finish_timeout:g} s"
            PatientWandbLogger.lost = reason
        except Exception as error:  # the service died
            log.warning("W&B: %s; to upload what it has: %s", _reason(error), _sync_command(run))
            wandb.setup().remove_active_run(run)
            _end_service()
        if reason:
            log.warning("W&B: %s; to upload the rest: %s", reason, _sync_command(run))


def wandb_mode(requested: str | None = None) -> tuple[Mode, str]:
    """Return the W&B mode and the reason for it, without asking for a login.

    The requested mode comes first, then ``WANDB_MODE``, then whether somebody is logged in. A mode
    that is not one of ``MODES`` raises ``ConfigError``.
    """
    import wandb

    if value := requested or os.environ.get("WANDB_MODE"):
        setting = f"{'logger.mode' if requested else 'WANDB_MODE'}={value}"
        if value not in MODES:
            raise ConfigError(f"{setting}: allowed are online, offline and disabled")
        return MODES[value], setting
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


def _start_wandb(arguments: dict[str, Any], mode: Mode, reason: str) -> PatientWandbLogger | None:
    """Start a run, offline if necessary; return ``None`` if wandb does not work at all."""
    import wandb

    run = None
    if mode == "online" and PatientWandbLogger.lost:
        mode, reason = "offline", PatientWandbLogger.lost
    if mode == "online":
        try:
            run = _init(mode, **arguments)
        except Exception as error:
            mode, reason = "offline", f"going online failed: {_reason(error)}"
            if isinstance(error, wandb.errors.CommError | TimeoutError):
                PatientWandbLogger.lost = reason
            if not _end_service():
                arguments["id"] += RETRIED
    try:
        run = run or _init(mode, **arguments)
    except (wandb.errors.UsageError, ValueError, TypeError) as error:
        raise ConfigError(f"logger: {_reason(error)}") from error
    except Exception as error:
        log.warning("W&B: %s; this run is not logged there", _reason(error))
        return None
    logger = PatientWandbLogger(run)
    with logger.dropping():
        run.define_metric("*", step_metric="epoch")
    if mode == "offline":
        log.info("W&B offline (%s); to upload: %s", reason, _sync_command(run))
    else:
        log.info("W&B %s (%s)%s", mode, reason, f": {run.url}" if run.url else "")
    return logger


def _init(mode: Mode, timeout: float | None = None, **arguments: Any) -> "wandb.Run":
    import wandb

    wandb.setup(wandb.Settings(silent=True))  # a new service forgets it
    # Listing the installed packages is the slowest part, so only the first run does it.
    first, PatientWandbLogger.lists_packages = PatientWandbLogger.lists_packages, False
    return wandb.init(
        **arguments,
        mode=mode,
        resume="allow" if mode == "online" else None,
        reinit="create_new",  # one process may train several runs
        settings=wandb.Settings(
            silent=True,
            init_timeout=timeout or TIMEOUT,
            finish_timeout=timeout or TIMEOUT,
            finish_timeout_raises=True,
            x_save_requirements=first,
        ),
    )


def _finish_quietly(run: "wandb.Run", exit_code: int) -> None:
    with suppress(Exception):
        run.finish(exit_code)


def _end_service() -> bool:
    """End wandb's service if no run needs it, and return whether it ended."""
    import wandb

    if wandb.setup().most_recent_active_run is not None:
        return False
    with suppress(Exception, SystemExit):  # wandb raises SystemExit if the service is dead
        wandb.teardown()
    return True


def _sync_command(run: "wandb.Run") -> str:
    """Return the command that uploads a run's files under its original id."""
    options = "" if run.offline else " --include-online"
    if run.id.endswith(RETRIED):
        options += f" --id {run.id.removesuffix(RETRIED)}"
    return f"wandb sync{options} {run.settings.sync_dir}"


def _reason(error: Exception) -> str:
    """Return wandb's message in one line, without its advice to change ``init_timeout``."""
    return one_line(error).partition(" Consider increasing")[0]
