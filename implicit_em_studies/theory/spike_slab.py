"""Experiment: units that are on or off, and what each part of their derivation does.

The variants train one layer on the same images at the same target of L0, and differ in one part
each. The derivation is in the docs, in "Energies that see the data".
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from implicit_em.base.threads import cores
from implicit_em.metrics.probe import linear_probe
from implicit_em.metrics.reconstruction import fvu_of, ridge_decoder
from implicit_em.models import SpikeSlab
from implicit_em.models.spike_slab import free_energy
from implicit_em_studies.shared import figures as style
from implicit_em_studies.shared.experiment import Experiment, Shown, Tables
from implicit_em_studies.shared.measurements import Measurement, samples_of
from implicit_em_studies.shared.runs import Run
from implicit_em_studies.shared.tables import in_words, rows_of

VARIANTS = {
    "step": "the step of EM",
    "no_slab": "without the slab's term",
    "no_error": "with 1/1,000 of the error",
    "exact": "score matching of F",
    "denoising": "denoising",
    "var_1e-05": "variance added, 1e-5",
    "var_0.0001": "variance added, 1e-4",
    "tc_1e-05": "decorrelation added, 1e-5",
    "tc_0.0001": "decorrelation added, 1e-4",
    "hard": "hard limit: tied BatchTopK",
    "paper": "the paper's objective",
}
"""Names of the variants, as the tables show them; numbers are weights."""
ADDED = [name for name in VARIANTS if name.startswith(("var", "tc"))]
"""Variants that add a term of the paper."""
L0S = (8, 16)
"""Active units of a sample at which all variants are compared."""
CHECKED = 64
"""Number of test samples on which the identity is checked."""
FITTED = 20_000
"""Number of training samples that a ridge decoder of a code is fitted to."""


class Denoising(SpikeSlab):
    """Units that are on or off, trained to reconstruct samples from noisy ones.

    The noise is Gaussian, of variance T on each input. With ``mse`` alone the training is the
    denoising form of score matching (Vincent 2011).
    """

    takes_stacks = takes_parts = steps_sparsely = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.drawn = (
            0  # the seed of the next step's noise: other runs of the process change nothing
        )

    def training_outputs(self, x: Any) -> dict[str, Tensor]:
        """Return the tensors of a training step on noisy inputs."""
        random = torch.Generator(x.device).manual_seed(self.drawn)
        self.drawn += 1
        noise = torch.empty_like(x).normal_(generator=random)
        return super().training_outputs(x + self.temperature.sqrt() * noise)


def variant(cfg: Any) -> str:
    """Return which variant a run is, by its settings."""
    kind = cfg.model._target_.rpartition(".")[2]
    if kind != "SpikeSlab":
        return {"Denoising": "denoising", "BatchTopK": "hard", "Encoder": "paper"}[kind]
    if not cfg.model.held:
        return "exact"
    for term in ("var", "tc"):
        if term in cfg.loss:
            return f"{term}_{cfg.loss[term].weight}"
    if cfg.loss.slab.weight == 0:
        return "no_slab"
    return "step" if cfg.loss.mse.weight == 1 else "no_error"


def identity_error(model: SpikeSlab, x_ND: Tensor) -> float:
    """Return how far F's derivatives are from the responsibilities and from the reconstruction.

    F is differentiated by autograd, in float64. The error of ``dF/de = r`` is absolute, that of
    ``-grad F(x) = reconstruction - x`` is divided by its largest entry.
    """
    model, x_ND = model.double(), x_ND.double().requires_grad_()
    (slope_ND,) = torch.autograd.grad(model.free_energy(x_ND).sum(), x_ND)
    energies_NK = model.energies(x_ND).detach().requires_grad_()
    terms = free_energy(energies_NK, model.temperature)
    (derivative_NK,) = torch.autograd.grad(terms.sum(), energies_NK)
    with torch.no_grad():
        step_ND = model.reconstruct(x_ND) - x_ND
        of_x = (slope_ND + step_ND).abs().max() / step_ND.abs().max()
        of_energies = (derivative_NK - model.responsibilities(x_ND)).abs().max()
    return float(torch.maximum(of_x, of_energies))


@torch.no_grad()
def codes(model: SpikeSlab, x_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Return the soft code ``r a``, and the hard one: a where r is above 1/2, else 0."""
    soft_NK, r_NK = model.encode(x_ND), model.responsibilities(x_ND)
    hard_NK = torch.where(r_NK > 0.5, soft_NK / r_NK, 0.0)
    return soft_NK, hard_NK


def _by_run(run: Run) -> dict[str, float]:
    """Return the identity's error, T beside the residual, and what both codes say."""
    model, (train, labels, test, test_labels) = run.model(), samples_of(run)
    with torch.no_grad():
        residual = (model.reconstruct(test) - test).square().mean()
        r_NK = model.responsibilities(test)
    found = {
        "temperature": float(model.temperature),
        "residual": float(residual),
        "undecided": float(((r_NK > 0.05) & (r_NK < 0.95)).sum() / (r_NK > 0).sum()),
    }
    pairs = zip(("soft", "hard"), codes(model, train), codes(model, test), strict=True)
    for name, of_train, of_test in pairs:
        weight, bias = ridge_decoder([(of_train[:FITTED], train[:FITTED])])
        found[f"{name}_fvu"] = fvu_of([(test, of_test.double() @ weight + bias)])
        learnt, tested = (of_train.numpy(), labels.numpy()), (of_test.numpy(), test_labels.numpy())
        found[f"{name}_probe"] = linear_probe(*learnt, *tested, threads=1)
    return found | {"identity": identity_error(model, test[:CHECKED])}


METRICS = ("l0", "fvu", "ridge_fvu", "inactive_units")
"""Metrics of a run that the tables show beside what is measured here."""
CODES = Measurement("spike_slab", 1, _by_run)


def measure(runs: Sequence[Run]) -> Tables:
    """Return ``runs``, a row for each run, and ``codes``, a row for each run of the step."""
    settings = [
        {"variant": variant(run.cfg), "target": int(run.cfg.model.l0), "seed": run.cfg.seed}
        for run in runs
    ]
    table = pd.DataFrame(
        one | {key: run.metrics().get(key) for key in METRICS}
        for one, run in zip(settings, runs, strict=True)
    )
    own = [number for number, one in enumerate(settings) if one["variant"] == "step"]
    measured = CODES.of([runs[number] for number in own], cores())
    measured = measured.drop(columns=["family", "settings", "run", "seed"])
    steps = pd.concat([pd.DataFrame([settings[number] for number in own]), measured], axis=1)
    return {"runs": table.astype(dict.fromkeys(METRICS, float)), "codes": steps}


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each target of L0 and variant, over the seeds."""
    columns = {
        "L0": ("l0", ".2f"),
        "unexplained, own rows (%)": ("fvu", ".2f"),
        "unexplained, ridge (%)": ("ridge_fvu", ".2f"),
        "inactive units": ("inactive_units", ".1f"),
    }
    rows = []
    for target in sorted(runs["target"].unique()):
        for key, name in VARIANTS.items():
            group = rows_of(runs, target=target, variant=key)
            if len(group):
                place = {"target of L0": f"{target}", "variant": name}
                rows.append(place | in_words(group, columns))
    return pd.DataFrame(rows)


def of_codes(steps: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each target of L0: T, the residual, and both codes, over the seeds."""
    columns = {
        "T": ("temperature", ".4f"),
        "residual a dimension": ("residual", ".4f"),
        "r from .05 to .95 (%)": ("undecided", ".1f"),
        "unexplained, r a (%)": ("soft_fvu", ".2f"),
        "unexplained, a [r > 1/2] (%)": ("hard_fvu", ".2f"),
        "probe, r a (%)": ("soft_probe", ".2f"),
        "probe, a [r > 1/2] (%)": ("hard_probe", ".2f"),
    }
    return pd.DataFrame(
        [
            {"target of L0": f"{target}"}
            | in_words(group, columns)
            | {"error of the identity": f"{group['identity'].max():.1e}"}
            for target, group in steps.groupby("target")
        ]
    )


def variances(tables: Tables) -> Figure:
    """Draw the variance that each variant leaves unexplained by its own rows, at each L0."""
    figure, panels = style.subplots(1, len(L0S), 3.2, sharey=True)
    shown = [name for name in VARIANTS if name != "paper"]  # which has no reconstruction
    for axes, target in zip(panels, L0S, strict=True):
        for place, name in enumerate(shown):
            own = rows_of(tables["runs"], target=target, variant=name)
            axes.plot(
                100 * own["fvu"], [place] * len(own), "o", color=style.BLACK, ms=4, mfc="none"
            )
        axes.set(title=f"L0 {target}", xlabel="unexplained variance (%)", xscale="log")
        style.plain_logarithm(axes.xaxis)
    panels[0].set_yticks(range(len(shown)), [VARIANTS[name] for name in shown])
    panels[0].invert_yaxis()
    return figure


def temperature(tables: Tables) -> Figure:
    """Draw T and the residual's variance, over the target of L0."""
    figure, axes = style.subplots(1, 1, 2.5)
    steps = tables["codes"]
    looks = {
        "temperature": ("T", style.VERMILION),
        "residual": ("residual's variance a dimension", style.BLUE),
    }
    for key, (label, colour) in looks.items():
        style.dots_and_means(axes, steps["target"], steps[key], label=label, color=colour)
    axes.set(xlabel="target of L0", xscale="log", yscale="log")
    ticks = sorted(steps["target"].unique())
    axes.set_xticks(ticks, [f"{tick}" for tick in ticks])
    axes.minorticks_off()
    axes.legend()
    return figure


EXPERIMENT = Experiment(
    title="Energies that see the data",
    sweeps=[
        *("spike_slab_step", "spike_slab_no_slab", "spike_slab_no_error", "spike_slab_exact"),
        *("spike_slab_denoising", "spike_slab_var", "spike_slab_tc"),
        *("spike_slab_hard", "spike_slab_paper"),
    ],
    measure=measure,
    shown={
        "runs": Shown("Every variant, over the seeds", summary),
        "codes": Shown("The step: its temperature, and what its codes say", of_codes),
    },
    pictures={"variances": variances, "temperature": temperature},
)
