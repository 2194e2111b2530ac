"""Experiment: remedies for dead units of ``models.SpikeSlab``, judged on held-out samples."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from implicit_em.models import Dictionary, SpikeSlab
from implicit_em.models.topk import keep_largest
from implicit_em_studies.shared.experiment import Evidence, Experiment, Shown, Tables
from implicit_em_studies.shared.runs import Run, table
from implicit_em_studies.shared.tables import in_words, rows_of
from implicit_em_studies.theory import on_or_off
from implicit_em_studies.theory.volume import settled_at

REMEDIES = {
    "none": "none",
    "annealed": "annealed temperature",
    "auxiliary": "TopK's auxiliary loss",
    "restarted": "rows from residuals",
    "prior": "a prior for each unit",
    "guard": "the paper's variance",
}
"""Names of the remedies, as the tables show them."""
SAMPLES = {"none": "as they are", "centre": "less their mean"}
"""Names of the samples, by ``data.normalize``."""
PREFIX = "dead_units_"
SETTLING = [f"{PREFIX}{name}" for name in on_or_off.SETTLING]
"""Sweeps that show whether training ends on samples less their mean."""
METRICS = ("epochs", "dead_units", "l0", "fvu")
"""Metrics of a run that stand beside whether it settled."""
DEAD_AFTER = 500
"""Number of steps without activity after which a unit is dead, as in ``models.TopK``."""
COLUMNS = {
    "dead units": ("silent_units", ".1f"),
    "unexplained by the rows (%)": ("fvu", ".2f"),
    "probe (%)": ("probe_accuracy", ".2f"),
}
"""Columns of the table: the key and the format of each."""


class Remedy(SpikeSlab):
    """A model that trains alone, and counts the steps since each unit was active."""

    takes_stacks = takes_parts = steps_sparsely = False
    silent_steps: Tensor

    def __init__(self, in_features: int, hidden: int = 64, *args: Any, **kwargs: Any) -> None:
        super().__init__(in_features, hidden, *args, **kwargs)
        self.register_buffer("silent_steps", torch.zeros(hidden, dtype=torch.int64))

    @torch.no_grad()
    def dead(self, code: Tensor) -> Tensor:
        """Count a step with a code ``(B, K)``, and return the mask ``(K,)`` of the dead units."""
        self.silent_steps.add_(1).masked_fill_((code > 0).any(0), 0)
        return self.silent_steps >= DEAD_AFTER


class Auxiliary(Remedy):
    """Dead units reconstruct what the others leave, for the term ``auxk`` of TopK."""

    provides = (*SpikeSlab.provides, "auxiliary")

    def training_outputs(self, x: Any) -> dict[str, Tensor]:
        """Return the tensors of a training step, with the auxiliary reconstruction."""
        scaled, scale = self._scaled(x)
        a = Dictionary.encode(self, scaled)
        outputs = self._step(a, scale)
        revived = keep_largest(a * self.dead(outputs["energies"]), x.shape[-1] // 2)
        return {**outputs, "auxiliary": (revived * scale) @ self.weight}


class Restarted(Remedy):
    """Every 500 steps, dead units get the directions of residuals, as in Bricken et al. 2023.

    A residual is drawn in proportion to its square. The bias of its unit is set so that the unit
    would remove it.

    Args:
        until: number of steps after which no unit is restarted.
        args: arguments of ``SpikeSlab``.
        kwargs: further ones.
    """

    steps: Tensor

    def __init__(self, *args: Any, until: int = 4000, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.until = until
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def training_outputs(self, x: Any) -> dict[str, Tensor]:
        """Return the tensors of a training step."""
        outputs = super().training_outputs(x)
        dead = self.dead(outputs["energies"])
        self.steps += 1
        if self.steps % DEAD_AFTER or self.steps > self.until or not dead.any():
            return outputs
        self._restart(dead, x, x - outputs["reconstruction"].detach())
        return super().training_outputs(x)

    @torch.no_grad()
    def _restart(self, dead: Tensor, x: Tensor, residual: Tensor) -> None:
        (scaled, scale), count = self._scaled(x), int(dead.sum())
        residual = residual / scale
        squares = residual.square().sum(-1)
        drawn = torch.multinomial(squares, count, replacement=count > len(squares))
        sizes = squares[drawn].sqrt()
        rows = residual[drawn] / sizes[:, None]
        self.encoder.weight[dead] = rows
        self.encoder.linear.bias[dead] = sizes - (rows * scaled[drawn]).sum(-1)
        self.silent_steps.zero_()


class Prior(Remedy):
    """Each unit has log odds of its own, which follow the share of samples in which it is on.

    This is the M-step of a prior. The log odds of the mean share are those that the model is given.
    """

    shares: Tensor
    log_odds: Any

    def __init__(self, in_features: int, hidden: int = 64, *args: Any, **kwargs: Any) -> None:
        super().__init__(in_features, hidden, *args, **kwargs)
        self.register_buffer("shares", torch.full((hidden,), 0.5))
        self.given = self.log_odds

    def training_outputs(self, x: Any) -> dict[str, Tensor]:
        """Return the tensors of a training step; its shares count from the next one on."""
        shares = self.shares.clamp(1e-4, 1 - 1e-4)
        self.log_odds = self.given - shares.logit() + shares.mean().logit()
        outputs = super().training_outputs(x)
        with torch.no_grad():
            self.shares.lerp_((outputs["energies"] > 0).float().mean(0), 0.01)
        return outputs


class Guarded(Remedy):
    """A model whose training outputs include the pre-activations, for ``guard``."""

    provides = (*SpikeSlab.provides, "levels")

    def training_outputs(self, x: Any) -> dict[str, Tensor]:
        """Return the tensors of a training step, with ``levels`` of shape ``(B, K)``."""
        levels = self.pre_activations(self._scaled(x)[0])
        return {**super().training_outputs(x), "levels": levels}


def guard(levels: Tensor, eps: float = 1e-6) -> Tensor:
    """Return the paper's variance term of pre-activations ``(B, K)``.

    Of the code it would not help: a code that is 0 throughout has no gradient.
    """
    return -(levels.var(0) + eps).log().sum()


class Annealing(Callback):
    """The target of L0 falls from half of the units to its own value over half of the training.

    So the temperature rises slowly to the one that this value needs, and the threshold with it.
    """

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Set the target of an epoch; it falls by the same factor from each to the next."""
        left = max(0.0, 1 - 2 * trainer.current_epoch / (trainer.max_epochs or 1))
        target, most = pl_module.hparams["l0"], len(pl_module.model.weight) / 2
        pl_module.control.target.fill_(target * (most / target) ** left)


def measure(runs: Sequence[Run]) -> Tables:
    """Return ``runs``, with what the metrics say of validation samples, and ``settling``."""
    kept = table(runs, SETTLING)
    kept["settled"] = kept["directory"].map(settled_at)
    rows = [
        {
            "remedy": run.sweep.removeprefix(PREFIX),
            "samples": run.cfg.data.normalize,
            "target": run.cfg.model.l0,
            "weight": float(run.axes.get("loss.guard.weight") or 0),
            "seed": run.cfg.seed,
            **{key: run.metrics()[key] for key, _ in COLUMNS.values()},
        }
        for run in runs
        if run.sweep not in SETTLING
    ]
    return {"runs": pd.DataFrame(rows), "settling": kept[["lr", "seed", "settled", *METRICS]]}


def paired(evidence: Evidence, remedy: str, samples: str, column: str) -> pd.Series:
    """Return a measure by seed, the mean over L0; of several weights, at that of the best probe."""
    own = rows_of(evidence["dead_units"]["runs"], remedy=remedy, samples=samples)
    best = own.groupby("weight")["probe_accuracy"].mean().idxmax()
    return rows_of(own, weight=best).groupby("seed")[column].mean()


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each L0, kind of samples, remedy and weight, over the seeds."""
    keys = ["target", "samples", "remedy", "weight"]
    return pd.DataFrame(
        {
            "aim": f"{target}",
            "samples": SAMPLES[str(samples)],
            "remedy": REMEDIES[str(remedy)] + (f", {weight:g}" if weight else ""),
            **in_words(group, COLUMNS),
        }
        for (target, samples, remedy, weight), group in runs.groupby(keys, sort=False)
    )


EXPERIMENT = Experiment(
    title="Dead units",
    sweeps=[*(f"{PREFIX}{name}" for name in REMEDIES), *SETTLING],
    measure=measure,
    shown={
        "runs": Shown("Every remedy, over the seeds", summary),
        "settling": Shown("Whether training comes to rest, with 8 active units", on_or_off.rests),
    },
)
