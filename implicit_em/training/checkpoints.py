"""The checkpoints of a run, and how a run goes on: from a checkpoint, with its own settings."""

import io
import logging
import os
import random
import signal
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from implicit_em.base import interruption
from implicit_em.base.errors import ConfigError, DamagedError, Interrupted
from implicit_em.base.files import opened, whole
from implicit_em.config.fingerprint import config_fingerprint
from implicit_em.engine.schedulers import is_scheduler
from implicit_em.training.directory import RunDirectory
from implicit_em.training.history import HistoryLogger
from implicit_em.training.spec import RunSpec

log = logging.getLogger(__name__)

OWN = "implicit_em"
"""Key of the entries that are added to Lightning's checkpoint."""


@dataclass(eq=False, repr=False)
class LastCheckpoint(Checkpoint):
    """Saves the state after epochs and in between, and when a signal ends the run.

    Args:
        last: path of the last checkpoint; the one before it is ``previous.ckpt`` beside it.
        run: identity of the run, see ``RunSpec.identity``.
        history: the run's history, which is written with each checkpoint.
        statistics: SHA-256 of the statistics that normalise the samples, if a store keeps them.
        epochs: number of epochs from one checkpoint to the next; the last epoch is always saved.
        steps: largest number of optimizer steps between two checkpoints, rounded down to whole
            blocks of steps; ``None`` sets no limit.
        minutes: largest number of minutes between two checkpoints; ``None`` sets no limit.
    """

    takes_blocks = True
    """Whether a whole block of steps may pass between two calls of ``on_train_batch_end``."""

    last: Path
    run: str
    history: HistoryLogger
    statistics: str | None = None
    epochs: int = 1
    steps: int | None = None
    minutes: float | None = None
    train_seconds: float = field(init=False, default=0.0)
    """Seconds of training, including those before an interruption."""

    def __post_init__(self) -> None:
        self._since = self._saved_at = time.monotonic()
        self._saved_step = self._step = self._block = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clocks."""
        interruption.listen()
        # A schedule that counts all steps sets up the loader before the checkpoint is read.
        trainer.fit_loop._load_combined_loader_states()
        self._since = self._saved_at = time.monotonic()
        self._saved_step = self._step = trainer.global_step

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raise ``Interrupted`` if a signal came after the last epoch was saved."""
        stop_if_requested(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Save if it is time to; if a signal came, save and raise ``Interrupted``."""
        self._block = max(self._block, trainer.global_step - self._step)
        self._step = trainer.global_step
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return  # the end of the epoch saves, too
        number = _signal(trainer)
        if number or self._is_due(trainer):
            self._save(trainer)
        if number:
            raise Interrupted(number)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if it is time to, at the end, or if a signal came."""
        done = trainer.current_epoch + 1
        ends = trainer.should_stop or done == trainer.max_epochs
        if ends or done % self.epochs == 0 or _signal(trainer) or self._is_due(trainer):
            self._save(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the random states, the seconds and whether another callback stopped the run."""
        self._count()
        checkpoint[OWN] = {
            "run": self.run,
            "statistics": self.statistics,
            "random_state": _random_state(),
            "train_seconds": self.train_seconds,
            "stopped": trainer.should_stop,
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore what ``on_save_checkpoint`` added."""
        _set_random_state(checkpoint[OWN]["random_state"])
        self.train_seconds = checkpoint[OWN]["train_seconds"]
        trainer.should_stop = checkpoint[OWN]["stopped"]

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Count the last seconds."""
        self._count()

    on_exception = on_train_end

    def _count(self) -> None:
        now = time.monotonic()
        self.train_seconds += now - self._since
        self._since = now

    def _is_due(self, trainer: pl.Trainer) -> bool:
        due = bool(self.steps and self._step + self._block > self._saved_step + self.steps)
        due |= bool(self.minutes and time.monotonic() > self._saved_at + 60 * self.minutes)
        if trainer.world_size > 1:
            return trainer.strategy.reduce_boolean_decision(due, all=False)
        return due

    def _save(self, trainer: pl.Trainer) -> None:
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self.last)  # takes part, but writes nothing
            return
        self.history.precede_checkpoint()
        trainer.save_checkpoint(newest(self.last))
        if self.last.exists():
            os.replace(self.last, previous(self.last))
        os.replace(newest(self.last), self.last)


class DirectCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final path, then renames it.

    Lightning writes to the temporary directory first, which may be on another, full disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint or raise ``WriteError``."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with whole(Path(path)) as temporary:
            temporary.write_bytes(content.getbuffer())


def stop_if_requested(trainer: pl.Trainer) -> None:
    """Raise ``Interrupted`` in all processes of a run if one of them received a signal."""
    if number := _signal(trainer):
        raise Interrupted(number)


def _signal(trainer: pl.Trainer) -> signal.Signals | None:
    """Return the signal that any process of the run received."""
    number = interruption.received() or 0
    if trainer.world_size > 1:
        received = torch.tensor(number, device=trainer.strategy.root_device)
        number = int(trainer.strategy.reduce(received, reduce_op="max"))
    return signal.Signals(number) if number else None


def _random_state() -> dict[str, Any]:
    """Return the states of all random generators, as types that ``weights_only`` can load."""
    numpy_state: Any = np.random.get_state()  # noqa: NPY002  (other libraries use it)
    name, keys, *rest = numpy_state
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [name, keys.tolist(), *rest],
        "python": random.getstate(),
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    np.random.set_state(tuple(state["numpy"]))  # noqa: NPY002
    random.setstate(state["python"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def previous(last: Path) -> Path:
    """Return the path of the checkpoint before the last."""
    return last.with_stem("previous")


def newest(last: Path) -> Path:
    """Return the path of a new checkpoint before it becomes the last."""
    return last.with_stem("newest")


def resume_point(
    last: Path, run: str, epochs: int, statistics: str | None = None
) -> tuple[Path | None, int]:
    """Return the newest usable checkpoint of a run and its finished epochs, or ``None`` and 0.

    A checkpoint is unusable if it is damaged, belongs to another run, or is later than the
    ``epochs`` of the history, which would then have a gap. Nothing is unpickled.

    Raises:
        ConfigError: if it was trained with other ``statistics``; see ``LastCheckpoint``.
    """
    for path in (newest(last), last, previous(last)):
        if not path.exists():
            continue
        try:
            of, trained_with, done = _read(path)
        except Exception as error:  # a damaged file may raise anything
            log.warning("%s cannot be read (%s): not used", path, type(error).__name__)
            continue
        if of != run:
            log.warning("%s belongs to another run: not used", path)
        elif done <= epochs:
            if trained_with != statistics:
                raise ConfigError(
                    f"{path}: trained with other statistics than the store's; delete "
                    f"{path.parent} to train anew"
                )
            return path, done
    return None, 0


def _read(path: Path) -> tuple[str, str | None, int]:
    """Return a checkpoint's run, the statistics of its samples, and its finished epochs."""
    with opened(path) as file:
        with zipfile.ZipFile(file) as archive:
            if damaged := archive.testzip():  # torch ignores the checksums
                raise zipfile.BadZipFile(damaged)
        file.seek(0)
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    own, progress = checkpoint[OWN], checkpoint["loops"]["fit_loop"]["epoch_progress"]
    return own["run"], own["statistics"], progress["current"]["processed"]


def continued(cfg: DictConfig, overrides: Sequence[str] = ()) -> DictConfig:
    """Return the saved configuration of the run that ``cfg.resume`` names, with the overrides.

    The overrides may change settings that do not affect the results. They may also increase the
    number of epochs if neither the learning rate nor a control of L0 depends on it. Other
    overrides raise ``ConfigError``.
    """
    run = RunDirectory(cfg.resume)
    if not run.path.is_dir():
        raise ConfigError(
            f"resume={cfg.resume}: no such directory; a relative path starts at {Path.cwd()}"
        )
    try:
        saved = run.read_config()
    except (FileNotFoundError, DamagedError) as error:
        raise ConfigError(f"resume={cfg.resume}: {error}") from error
    if missing := {"model", "loss", "trainer", "seed"} - saved.keys():
        raise ConfigError(f"resume={cfg.resume}: no run of this project: no {min(missing)} there")
    new = [line for line in overrides if not line.lstrip("+~").startswith(("resume=", "hydra"))]
    if not new:
        return saved
    old = run.read_overrides()
    if any(line.startswith("logger=") for line in new):  # replaces the logger and its settings
        old = [line for line in old if not line.lstrip("+~").startswith("logger")]
    composed = _compose([*old, *new])
    changed, absent = saved.copy(), object()
    for override in OverridesParser.create().parse_overrides(new):
        key = override.key_or_group.replace("/", ".")
        value = OmegaConf.select(composed, key, default=absent)
        if value is not absent:
            OmegaConf.update(changed, key, value, merge=False, force_add=True)
        if value is absent or not _same_experiment(saved, changed):
            raise ConfigError(
                f"{override.input_line}: makes another experiment of {cfg.resume}; allowed beside "
                "resume= are settings that do not affect the results and, with lr=constant or a "
                "scheduler of torch and without a control of model.l0, a larger trainer.max_epochs"
            )
    return changed


def _compose(overrides: list[str]) -> DictConfig:
    loader = GlobalHydra.instance().config_loader()
    cfg = loader.load_configuration("train", overrides, run_mode=RunMode.RUN)
    names = [str(key) for key in cfg if key not in ("hydra", "resume")]
    settings: Any = OmegaConf.to_container(OmegaConf.masked_copy(cfg, names), resolve=True)
    return OmegaConf.create(settings)


def _same_experiment(saved: DictConfig, changed: DictConfig) -> bool:
    before, epochs = saved.trainer.max_epochs, changed.trainer.max_epochs
    schedule = saved.lr.schedule
    settings: Any = OmegaConf.to_container(saved, resolve=True)
    controlled = RunSpec.of_settings(settings).l0 is not None
    may_grow = (schedule is None or is_scheduler(schedule)) and not controlled
    if not isinstance(epochs, int) or (epochs > before and may_grow):
        changed = changed.copy()
        changed.trainer.max_epochs = before  # the check refuses a value that is not a number
    return config_fingerprint(changed) == config_fingerprint(saved)
