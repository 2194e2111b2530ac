"""Experiment: units that are each on or off, and which parts of their derivation they need.

Every run aims at a number of active units (L0). Unexplained variance is that of the test samples.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from implicit_em.base.threads import cores
from implicit_em.metrics.probe import linear_probe
from implicit_em.models import Dictionary, SpikeSlab
from implicit_em.models.spike_slab import free_energy, gate
from implicit_em_studies.shared import figures as style
from implicit_em_studies.shared.experiment import Experiment, Shown, Tables
from implicit_em_studies.shared.measurements import Measurement, samples_of
from implicit_em_studies.shared.runs import Run, table
from implicit_em_studies.shared.tables import in_words, rows_of
from implicit_em_studies.theory.volume import settled_at

VARIANTS = {
    "score": "EM, as the project trains it",
    "through": "score matching of F itself",
    "denoising": "denoising",
    "without_slab": "EM without the slab",
    "without_error": "EM without the squared error",
    "variance": "EM and variance",
    "decorrelation": "EM and decorrelation",
    "tied_topk": "tied TopK",
    "tied_batch_topk": "tied BatchTopK",
}
"""Names of the variants, as the tables show them."""
TERMS = {"error": "squared error", "slab": "slab"}
"""Terms that are left out, as text."""
HARD = ("tied_topk", "tied_batch_topk")
"""The limits of a vanishing temperature, whose number of active units is imposed."""
SETTLING = {"settling": 100, "longer": 200}
"""Sweeps that show whether training ends, and their epochs."""
L0 = (4, 8, 16)
RATE = 3e-3
"""The only rate of most variants. They are compared at it."""
SAMPLES = 500
"""Number of test samples on which the identities are tested."""
PREFIX = "on_or_off_"
COLUMNS = {
    "L0": ("l0", ".2f"),
    "unexplained by the rows (%)": ("fvu", ".2f"),
    "by a ridge decoder (%)": ("ridge_fvu", ".2f"),
    "temperature": ("temperature", ".3f"),
    "residual variance": ("residual", ".3f"),
    "probe (%)": ("probe_accuracy", ".2f"),
    "probe of r (%)": ("probe_r", ".2f"),
    "probe of on or off (%)": ("probe_on", ".2f"),
}
"""Columns of the table: the key and the format of each."""


class Denoising(SpikeSlab):
    """The scaled model, with its score matched by denoising (Vincent 2011).

    A step reconstructs x from ``x + sqrt(T) n`` with normal noise n, in units of the root mean
    square of x. The gradient goes through the responsibilities.
    """

    takes_stacks = takes_parts = steps_sparsely = False
    draws: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))

    def training_outputs(self, x: Any) -> dict[str, Tensor]:
        """Return the tensors of a training step.

        The noise depends on the number of steps alone: runs of all seeds have the same.
        """
        self.draws += 1
        noise = torch.Generator(x.device).manual_seed(int(self.draws))
        scaled, scale = self._scaled(x)
        n = torch.randn(scaled.shape, generator=noise, device=x.device, dtype=scaled.dtype)
        a = Dictionary.encode(self, scaled + self.temperature.sqrt() * n)
        return self._outputs(a * gate(self._energies(a), self.temperature) * scale)


def identities(model: SpikeSlab, x: Tensor) -> dict[str, float]:
    """Return how far the identities of the free energy are from holding, in float64.

    ``of_energies`` compares ``dU/de`` with the responsibilities. ``of_inputs`` compares ``-grad F``
    with what the reconstruction adds to samples ``(N, D)``, divided by their root mean square. Both
    are differences divided by the largest entry.
    """
    model = deepcopy(model).double()
    x = x.double().clone()
    if model.scaled:
        x = x / x.square().mean(-1, keepdim=True).sqrt()
        model.scaled = False
        torch.nn.init.zeros_(model.decoder.bias)
    e = model.energies(x).detach().requires_grad_()
    (of_e,) = torch.autograd.grad(free_energy(e, model.temperature).sum(), e)
    (of_x,) = torch.autograd.grad(model.free_energy(x.requires_grad_()).sum(), x)
    with torch.no_grad():
        r, step = gate(e, model.temperature), model.reconstruct(x) - x
        pairs = {"of_energies": (of_e, r), "of_inputs": (-of_x, step)}
        return {n: float((a - b).abs().max() / b.abs().max()) for n, (a, b) in pairs.items()}


def _by_run(run: Run) -> dict[str, float]:
    """Return what is measured of a run; of a model without responsibilities, nothing."""
    model = run.model()
    if not isinstance(model, SpikeSlab):
        return {}
    train, labels, test, test_labels = samples_of(run)
    with torch.no_grad():
        scale = test.square().mean(-1, keepdim=True).sqrt()
        residual = ((test - model.reconstruct(test)) / scale).square().mean()
        r = [model.responsibilities(x).numpy() for x in (train, test)]
    probes = {"probe_r": r, "probe_on": [of > 0.5 for of in r]}
    return {
        "temperature": float(model.temperature),
        "residual": float(residual),
        **identities(model, test[:SAMPLES]),
        **{
            name: linear_probe(first, labels.numpy(), second, test_labels.numpy(), threads=1)
            for name, (first, second) in probes.items()
        },
    }


METRICS = ("l0", "dead_units", "probe_accuracy", "fvu", "ridge_fvu")
"""Metrics of a run that stand beside what is measured."""
MEASURED = Measurement("on_or_off", 1, _by_run, METRICS)


def measure(runs: Sequence[Run]) -> Tables:
    """Return ``runs``, a row for each run of a variant, and ``settling``, those at three rates."""
    settling = [f"{PREFIX}{name}" for name in SETTLING]
    compared = [run for run in runs if run.sweep not in settling]
    settings = [
        {
            "variant": run.sweep.removeprefix(PREFIX),
            "target": run.cfg.model.l0,
            "rate": run.cfg.lr.value,
            "weight": float(run.axes.get("loss.var.weight") or run.axes.get("loss.tc.weight") or 0),
        }
        for run in compared
    ]
    measured = MEASURED.of(compared, cores()).drop(columns=["family", "settings", "run"])
    kept = table(runs, settling)
    kept["settled"] = kept["directory"].map(settled_at)
    return {
        "runs": pd.concat([pd.DataFrame(settings), measured], axis=1),
        "settling": kept[["lr", "epochs", "seed", "settled", "dead_units", "l0", "fvu"]],
    }


def at_best(runs: pd.DataFrame, variant: str, target: int) -> pd.Series:
    """Return the FVU of a variant by seed, at the rate or weight of its least mean."""
    own = rows_of(runs, variant=variant, target=target)
    means = own.groupby(["rate", "weight"])["fvu"].agg(lambda values: values.mean(skipna=False))
    rate, weight = means.index[int(means.argmin())]
    return rows_of(own, rate=rate, weight=weight).set_index("seed")["fvu"]


def at_rate(runs: pd.DataFrame, variant: str, target: int, column: str) -> pd.Series:
    """Return a measure of a variant by seed, at the rate that all variants have."""
    return rows_of(runs, variant=variant, target=target, rate=RATE).set_index("seed")[column]


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each L0, variant, rate and weight, over the seeds."""
    keys = ["target", "variant", "rate", "weight"]
    return pd.DataFrame(
        {
            "aim": f"{target}",
            "model": VARIANTS[str(variant)] + (f", {weight:g}" if weight else ""),
            "rate": f"{rate:g}",
            **in_words(group, COLUMNS),
        }
        for (target, variant, rate, weight), group in runs.groupby(keys, sort=False)
    )


def rests(runs: pd.DataFrame) -> pd.DataFrame:
    """Return how many runs settled, by when, and how many units are dead, by epochs and rate."""
    return pd.DataFrame(
        {
            "epochs": f"{epochs}",
            "rate": f"{rate:g}",
            "settled": f"{group['settled'].notna().sum()} of {len(group)}",
            "last epoch": f"{group['settled'].max():.0f}".replace("nan", "–"),
            "most dead": f"{group['dead_units'].max():.0f}",
            **in_words(group, {"unexplained by the rows (%)": ("fvu", ".2f")}),
        }
        for (epochs, rate), group in runs.groupby(["epochs", "lr"])
    )


LINES = {
    "score": (style.BLACK, "-"),
    "through": (style.BLUE, "-"),
    "denoising": (style.SKY, "--"),
    "without_slab": (style.ORANGE, "--"),
    "tied_topk": (style.GREEN, "-"),
    "tied_batch_topk": (style.PURPLE, "-"),
}
"""Looks of the variants that figures show."""


def variances(tables: Tables) -> Figure:
    """Draw the unexplained variance of variants over L0, and temperatures beside residuals."""
    figure, panels = style.subplots(1, 3, 3.2)
    runs = rows_of(tables["runs"], rate=RATE)
    for axes, (key, title) in zip(
        panels, {"fvu": "by the rows", "ridge_fvu": "by a ridge decoder"}.items(), strict=False
    ):
        for variant, (colour, line) in LINES.items():
            means = 100 * rows_of(runs, variant=variant).groupby("target")[key].mean()
            axes.plot(means, line, color=colour, marker="o", ms=3, label=VARIANTS[variant])
        axes.set(title=title, xlabel="active units", xticks=L0)
    panels[0].set_ylabel("unexplained variance (%)")
    score = rows_of(runs, variant="score").groupby("target")
    for key, title, colour in (
        ("temperature", "temperature", style.VERMILION),
        ("residual", "residual variance", style.GREY),
    ):
        panels[2].plot(score[key].mean(), color=colour, marker="o", ms=3)
        panels[2].annotate(title, (L0[1], score[key].mean()[L0[1]]), color=colour, va="bottom")
    panels[2].set(title="noise and residual", xlabel="active units", xticks=L0, ylim=(0, None))
    style.legend_below(figure, panels[0], 3)
    return figure


EXPERIMENT = Experiment(
    title="Units that are on or off",
    sweeps=[f"{PREFIX}{name}" for name in (*VARIANTS, *SETTLING)],
    measure=measure,
    shown={
        "runs": Shown("Every setting, over the seeds", summary),
        "settling": Shown("Whether training comes to rest, with 8 active units", rests),
    },
    pictures={"variances": variances},
)
