"""The experiment logger of a run: W&B that never asks, mixes runs or holds one up; or any other."""

import logging
import os
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from hydra.utils import instantiate
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from implicit_em.base.errors import ConfigError, one_line
from implicit_em.base.files import whole

if TYPE_CHECKING:
    import wandb

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
TIMEOUT = 30.0
"""Seconds, where ``logger.timeout`` is not set, as in a run of an earlier version that goes on."""
OF_ITS_OWN = "-offline"
"""Suffix of the id of a run whose own id wandb's service holds, as the one that could not start."""


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
    if isinstance(logger, PatientWandbLogger):
        with logger.dropping():
            if metrics["status"] == "interrupted":
                logger.experiment.mark_preempting()
            if features.exists():
                logger.log_image("features", [str(features)])
            logger.experiment.summary.update(dict(metrics))
        logger.finish(0 if completed else 1)
    elif logger is not None:
        logger.finalize("success" if completed else "failed")


def log_again(logger: Logger | None, rows: Mapping[int, Mapping[str, float | None]]) -> None:
    """Log the epochs of a run that goes on, where W&B does not have them under its id.

    Files of an offline run do not go on: the new ones hold the whole run. The last epoch that the
    server has of an online run is logged again, as it may have it in part.

    Args:
        logger: any; nothing is done for another than W&B's.
        rows: of the history, by the epoch, which counts from 1.

    """
    if not isinstance(logger, PatientWandbLogger):
        return
    with logger.dropping():
        run = logger.experiment
        before_last = run.summary.get("epoch", 0) if run.resumed else 0
        for epoch, row in sorted(rows.items()):
            if epoch > before_last:
                known = {key: value for key, value in row.items() if value is not None}
                run.log({**known, "epoch": epoch - 1})


class PatientWandbLogger(WandbLogger):
    """W&B's logger for a run that W&B shall neither end nor hold up.

    Args:
        run: that W&B has started.
        timeout: seconds that the run's end waits for the server.

    """

    lost: ClassVar[str | None] = None
    """Why no run of this process waits for the server any more."""

    def __init__(self, run: "wandb.Run", timeout: float) -> None:
        super().__init__(experiment=run)
        self.timeout = timeout
        self._warned = False

    @contextmanager
    def dropping(self) -> Iterator[None]:
        """Drop what W&B does not take, with one warning a run."""
        try:
            yield
        except Exception as error:
            if not self._warned:
                log.warning("W&B: %s; what it does not take is left out there", _reason(error))
            self._warned = True

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics, or drop them."""
        with self.dropping():
            super().log_metrics(metrics, step)

    @rank_zero_only
    def finish(self, exit_code: int = 0) -> None:
        """End the run; a line says how to upload what the server has not taken in time."""
        import wandb

        run = self.experiment
        finished: Future[None] = Future()

        def finish() -> None:
            try:
                run.finish(exit_code)
            except BaseException as error:
                finished.set_exception(error)
            else:
                finished.set_result(None)

        threading.Thread(target=finish, daemon=True).start()
        lost = None if run.offline else self.lost
        try:
            finished.result(0 if lost else self.timeout)
        except (TimeoutError, FutureTimeoutError):
            reason = lost or f"not everything was sent within {self.timeout:g} s"
            if not run.offline:
                PatientWandbLogger.lost = reason
            log.warning("W&B: %s; to upload the rest: %s", reason, _sync_command(run))
        except Exception as error:
            log.warning("W&B: %s; to upload what it has: %s", _reason(error), _sync_command(run))
            wandb.setup().remove_active_run(run)
            _end_service()


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
    _silence()  # else login() asks the server for the name of whose key it is, in order to print it
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


def _silence() -> None:
    """Keep wandb from printing: what it has to say of a run is said by this module."""
    import wandb

    wandb.setup(wandb.Settings(silent=True))


def _start_wandb(
    spec: dict[str, Any],
    directory: Path,
    config: Mapping[str, Any],
    group: str | None,
    tags: Sequence[str],
) -> PatientWandbLogger | None:
    """Start a run: as it is asked for, or else offline.

    Returns:
        Its logger; ``None`` where wandb does not work at all.

    Raises:
        ConfigError: if wandb refuses a setting.

    """
    import wandb

    del spec["_target_"]
    timeout = spec.pop("timeout", None) or TIMEOUT
    mode, reason = wandb_mode(spec.pop("mode", None))
    if mode == "online" and PatientWandbLogger.lost:
        mode, reason = "offline", PatientWandbLogger.lost
    spec |= {
        "name": spec.get("name") or os.environ.get("WANDB_NAME") or directory.name,
        "group": spec.get("group") or os.environ.get("WANDB_RUN_GROUP") or group,
        "tags": [*(spec.get("tags") or []), *tags],
        "id": _run_id(directory),
        "dir": str(directory),
        "config": dict(config),
    }
    try:
        run = _init(mode, timeout, spec)
    except Exception as failure:
        mode, reason = "offline", f"going {mode} failed: {_reason(failure)}"
        if isinstance(failure, wandb.errors.CommError | TimeoutError):
            PatientWandbLogger.lost = reason
        try:
            run = _init(mode, timeout, spec | {"id": _free_id(spec["id"])})
        except (wandb.errors.UsageError, ValueError, TypeError) as error:
            raise ConfigError(f"logger: {_reason(error)}") from error
        except Exception as error:
            log.warning("W&B: %s; nothing of this run is logged there", _reason(error))
            return None
    logger = PatientWandbLogger(run, timeout)
    with logger.dropping():
        run.define_metric("*", step_metric="epoch")
    if mode == "offline":
        log.info("W&B offline (%s); to upload: %s", reason, _sync_command(run))
    else:
        log.info("W&B %s (%s)%s", mode, reason, f": {run.url}" if run.url else "")
    return logger


def _init(mode: Mode, timeout: float, arguments: Mapping[str, Any]) -> "wandb.Run":
    import wandb

    if mode != "disabled":
        _silence()
    return wandb.init(
        **arguments,
        mode=mode,
        resume="allow" if mode == "online" else None,
        reinit="create_new",  # one process may train several runs, each with one of its own
        settings=wandb.Settings(
            silent=True,
            init_timeout=timeout,
            finish_timeout=timeout,
            finish_timeout_raises=True,
        ),
    )


def _free_id(run_id: str) -> str:
    """Return the id under which a run that could not start can be tried again."""
    return run_id if _end_service() else run_id + OF_ITS_OWN


def _end_service() -> bool:
    """End wandb's service, which holds the ids that were tried, unless other runs need it."""
    import wandb

    if wandb.setup().most_recent_active_run is not None:
        return False
    with suppress(Exception, SystemExit):  # the exit code of a service that died becomes its own
        wandb.teardown()
    return True


def _sync_command(run: "wandb.Run") -> str:
    """Return the command that uploads a run's files, under the id of the run."""
    options = "" if run.offline else " --include-online"
    if run.id.endswith(OF_ITS_OWN):
        options += f" --id {run.id.removesuffix(OF_ITS_OWN)}"
    return f"wandb sync{options} {run.settings.sync_dir}"


def _reason(error: Exception) -> str:
    """Return wandb's message in one line, without its advice on arguments of its own."""
    return one_line(error).partition(" Consider increasing")[0]
