"""What is logged within epochs: single steps, and samples that are measured between blocks."""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor

from implicit_em.base.errors import WriteError
from implicit_em.data import BlockLoader, ResidentDataModule
from implicit_em.models.normalizing import at_least_float32
from implicit_em.training.decoding import BATCH, both_sides
from implicit_em.training.history import EpochProgress, Table
from implicit_em.training.measurement import monitored_samples
from implicit_em.training.tracking import GLOBAL_STEP, STEP, log_again

ROWS = 200
"""Number of rows that ``auto`` aims at."""
EPOCHS = 20
"""Number of epochs from which on ``auto`` logs no steps: the history then has enough rows."""
PAUSE = 2.0
"""Least number of seconds between two transfers from the training device."""
MEAN_OF = 2**14
"""Largest number of training samples in the mean that the FVU is about; more samples would change
the FVU by less than 1e-4."""
ELEMENTS = 2**24
"""Largest number of values of the samples in this mean."""

POINTS = 20
"""Largest number of times that samples are measured in a run."""
MONITORED_SHARE = 0.01
"""Number of samples measured in all, as a share of the number of samples trained on."""
MONITORED = (256, 2048)
"""Least and largest number of samples measured at a time."""


def interval(setting: str | int, steps: int, epoch: int) -> int:
    """Return the number of steps from one row to the next, 0 for none.

    Args:
        setting: the number of steps, or ``auto``.
        steps: number of steps of the run.
        epoch: number of steps of an epoch.
    """
    if setting != "auto":
        return int(setting)
    return max(1, round(steps / ROWS)) if steps < EPOCHS * epoch else 0


class StepLog(pl.Callback):
    """Writes ``steps.csv``, and passes its rows on to a logger and to the progress.

    The number of a step decides whether it is logged. A ``Stack`` computes the values. They stay on
    the training device for ``PAUSE`` seconds, or until a checkpoint. The columns ``monitor/...``
    are measured between two blocks of steps, on held-out or else on training samples.

    Args:
        path: path of the file.
        setting: ``trainer.log_every_n_steps``.
        data: the data module.
        logger: experiment logger, if there is one.
        progress: progress of this run alone, if it is shown.
    """

    takes_blocks = True

    def __init__(
        self,
        path: Path,
        setting: str | int,
        data: ResidentDataModule,
        logger: Logger | None = None,
        progress: EpochProgress | None = None,
    ) -> None:
        self.table = Table(path, "step")
        self.setting = setting
        self.data = data
        self.logger = logger
        self.progress = progress
        self.steps = 0  # of the run, once it trains
        self._monitored: list[tuple[int, Tensor]] = []
        self._flush_at = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Decide which steps are logged, and go on from the rows before the checkpoint."""
        loader: Any = trainer.train_dataloader
        blocks = isinstance(loader, BlockLoader)
        batches = len(loader.resident) if blocks else int(trainer.num_training_batches)
        steps = pl_module.steps_in_all
        pl_module.log_every = interval(self.setting, steps, batches)
        if trainer.is_global_zero:
            self.table.read()
            self.table.forget_after(trainer.global_step)
            earlier = sorted(self.table.rows.items())
            rows = ({**_named(row), GLOBAL_STEP: step} for step, row in earlier)
            log_again(self.logger, rows, f"{STEP}samples")
        self.steps = steps
        if not pl_module.log_every:
            return
        samples = min(batches * self.data.batch_size, self.data.epoch_size)
        self._epoch = batches, samples
        if "reconstruction" in pl_module.model.provides:
            dtype = at_least_float32(pl_module.model.weight.dtype)
            pl_module.training_mean = self._mean().to(pl_module.device, dtype)
        measured = int(MONITORED_SHARE * self._samples(self.steps))
        least, most = MONITORED
        self._x = monitored_samples(self.data, min(max(least, measured // POINTS), most))
        points = min(max(1, measured // len(self._x)), POINTS)
        self._monitor_every = max(1, self.steps // points)
        self._done = trainer.global_step
        self._flush_at = time.monotonic() + PAUSE
        self._last: Mapping[str, float] = {}
        self.data.on_progress = self._show
        self._show()

    def _show(self) -> None:
        if self.progress is not None:
            self.progress.show_step(self._done, self.steps, self._last, self.data.progress)

    def _samples(self, steps: int) -> int:
        """Return the number of samples in so many steps; an epoch's last batch may be smaller."""
        batches, samples = self._epoch
        epochs, further = divmod(steps, batches)
        return epochs * samples + further * self.data.batch_size

    def _mean(self) -> Tensor:
        """Return the mean of the training samples, shape ``(D,)``, float64."""
        width = self.data.out_features or self.data.in_features
        normalizer = self.data.normalizer
        if normalizer is not None and normalizer.mean is not None:
            return torch.zeros(width, dtype=torch.float64)
        some = self.data.starting_samples(min(MEAN_OF, max(1, ELEMENTS // width)))
        return some[:, -width:].mean(0, dtype=torch.float64)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        """Measure samples, and pass on what was logged, if it is time to."""
        if not pl_module.log_every:
            return
        before, self._done = self._done, trainer.global_step
        due = self._done // self._monitor_every > before // self._monitor_every
        if due and trainer.is_global_zero:
            self._monitored.append((self._done, self._measure(pl_module)))
        if time.monotonic() >= self._flush_at:
            self._flush(trainer, pl_module)

    @torch.no_grad()
    def _measure(self, module: Any) -> Tensor:
        """Return L0, FVU and the number of inactive units of the samples, shape ``(3,)``."""
        model, mean_D = module.model, module.training_mean
        total, residual, spread = torch.zeros(3, dtype=torch.float64, device=module.device)
        active_K = torch.zeros(len(model.weight), dtype=torch.bool, device=module.device)
        in_training = [part for part in model.modules() if part.training]
        model.eval()
        for inputs_BD, x_BD in both_sides(model, self._x, BATCH):
            energies_BK = model.encode(inputs_BD)
            active_BK = energies_BK > 0
            total += active_BK.sum()
            active_K |= active_BK.any(0)
            if mean_D is not None:
                decoded_BD = model.decode(energies_BK, inputs_BD)
                residual += (x_BD - decoded_BD).square().sum()
                spread += (x_BD - mean_D).square().sum()
        for part in in_training:
            part.training = True
        return torch.stack([total / len(self._x), residual / spread, (~active_K).sum()])

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        """Write all rows: a checkpoint must not be ahead of them."""
        self._flush(trainer, pl_module)
        if not (trainer.is_global_zero and self.steps):
            return
        if self.table.rows:
            self.table.write()
        else:  # the file is of an earlier part of the run, which does not count
            self.table.path.unlink(missing_ok=True)

    on_train_end = on_save_checkpoint

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Write the last rows, if the device and the disk allow it."""
        with suppress(WriteError, RuntimeError):
            self.on_save_checkpoint(trainer, pl_module)

    def _flush(self, trainer: pl.Trainer, module: Any) -> None:
        """Fetch what was logged from the training device, and pass it on."""
        self._flush_at = time.monotonic() + PAUSE
        logged, module.logged = module.logged, []
        monitored, self._monitored = self._monitored, []
        if not (logged or monitored) or not trainer.is_global_zero:
            return
        rows: dict[int, dict[str, float]] = {}
        if logged:
            values = torch.cat([one.values_PT for one in logged]).double().tolist()
            places = [pair for one in logged for pair in zip(one.steps, one.rates, strict=True)]
            for (step, rate), found in zip(places, values, strict=True):
                rows[step] = self._row(module, step, rate, found)
        for step, found_3 in monitored:
            names = ("monitor/l0", "monitor/fvu", "monitor/inactive_units")
            rows.setdefault(step, {"samples": self._samples(step)})
            rows[step] |= zip(names, found_3.tolist(), strict=True)
        if logged:
            self._last = rows[places[-1][0]]
            self._show()
        for step, row in sorted(rows.items()):
            self.table.add(step, row)
            if self.logger is not None:
                self.logger.log_metrics(_named(self.table.rows[step]), step)

    def _row(self, module: Any, step: int, rate: float, values: list[float]) -> dict[str, float]:
        found = dict(zip([*module.columns, "l0", "fvu"], values, strict=True))
        terms = module.objective.terms
        factor = torch.nan
        if module.control is not None:
            found["l0"] = found["control/l0"]
            any_of_them, *_ = module.controlled
            factor = found[f"control/{any_of_them.name}"] / any_of_them.base
        return {
            "samples": self._samples(step),
            "loss": found["train/loss"],
            **{f"loss/{name}": found[f"train/{name}"] for name in terms},
            "l0": found["l0"],
            "fvu": found["fvu"],
            "lr": rate,
            "l0_factor": factor,
        }


def _named(row: Mapping[str, float | None]) -> dict[str, float]:
    """Return a row as a logger gets it."""
    return {f"{STEP}{key}": value for key, value in row.items() if value is not None}
