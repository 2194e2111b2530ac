"""Experiment: layers on layers.

Each layer takes the energies of the one below and is trained on the derived objective of its own.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from scipy.stats import norm
from torch import Tensor, nn
from torch.optim import Optimizer

from implicit_em.losses import decay as row_decay
from implicit_em.losses import decorrelation, lse, takes_stacks, variance
from implicit_em.losses.derived import evaluate
from implicit_em.metrics.purity import top_classes, top_purity
from implicit_em.metrics.quality import Encoded, quality
from implicit_em.models import Encoder
from implicit_em.models.linear import Linear, SharedInput
from implicit_em_studies.shared import figures as style
from implicit_em_studies.shared.experiment import Experiment, Shown, Tables
from implicit_em_studies.shared.measurements import Measurement, samples_of
from implicit_em_studies.shared.runs import Run
from implicit_em_studies.shared.tables import in_words, rows_of

WAYS = {
    "one": "one layer",
    "turns": "in turn",
    "together": "at the same time",
    "joint": "jointly",
}
"""Ways of training, as tables show them, by the last part of the sweep's name."""
LAYER_BY_LAYER = ("turns", "together")
"""Ways in which no layer learns from those above: its lower layers are a net that it contains."""
EQUAL = {2: 70, 3: 75}
"""Units of one layer with as many parameters as a net of so many layers of 64 units."""
SHARE = 0.9
"""Share of a row's absolute sum that the units it consists of carry."""


class Deep(Encoder):
    """Layers of K units, each on the energies of the one below; it gives those of the last.

    ``E_l = activation(W_l h_l + b_l)``, where ``h_1`` is the input, and ``h_(l+1)`` is ``E_l``
    divided by the root mean square of the sample's K energies. The first layer starts as an
    ``Encoder`` of the same seed does.

    It does not declare ``takes_parts``: processes exchange the energies of the last layer alone.

    Args:
        in_features: width D of the input.
        hidden: number of components K of each layer.
        activation: elementwise function; ``None`` for ReLU.
        layers: number of layers L.
        joint: whether gradients of upper layers reach the lower ones. If not, each layer takes the
            energies below as they are.

    Raises:
        ValueError: if there are fewer than two layers.
    """

    takes_stacks = True
    provides: ClassVar[tuple[str, ...]] = ("lower", "lower_weight")
    requires: ClassVar[tuple[str, ...]] = ("lower",)

    def __init__(
        self,
        in_features: int,
        hidden: int = 64,
        activation: nn.Module | None = None,
        layers: int = 2,
        joint: bool = True,
    ) -> None:
        if layers < 2:
            raise ValueError(f"layers={layers}: must be at least 2")
        widths = [in_features, *[hidden] * (layers - 2)]
        lower = [Linear(width, hidden) for width in widths]  # drawn from the bottom to the top
        super().__init__(hidden, hidden, activation)
        self.lower = nn.ModuleList(lower)
        self.joint = joint

    @property
    def linears(self) -> list[Any]:
        """The linear layers, from the bottom to the top."""
        return [*self.lower, self.linear]

    def each(self, x: Tensor | SharedInput) -> list[Tensor]:
        """Return the energies ``(..., K)`` of each layer, for inputs ``(..., D)``."""
        energies: list[Tensor] = []
        for linear in self.linears:
            energies.append(self.activation(linear(x)))
            below = energies[-1] if self.joint else energies[-1].detach()
            x = nn.functional.rms_norm(below, below.shape[-1:], eps=1e-6)
        return energies

    def forward(self, x: Tensor | SharedInput) -> Tensor:
        """Return the energies ``(..., K)`` of the last layer, for inputs ``(..., D)``."""
        return self.each(x)[-1]

    def training_outputs(self, x: Tensor | SharedInput) -> dict[str, Tensor]:
        """Return the last layer's ``energies``, and those of the layers below as ``lower``.

        ``lower`` has shape ``(..., L - 1, B, K)``. ``lower_weight`` holds the matrices of these
        layers side by side.
        """
        *lower, energies = self.each(x)
        weights = torch.cat([linear.weight for linear in self.linears[:-1]], -1)
        return {"energies": energies, "lower": torch.stack(lower, -3), "lower_weight": weights}


@takes_stacks
def lower_terms(lower: Tensor, lower_weight: Tensor, decay: float = 0.1) -> Tensor:
    """The derived objective with weight decay of the layers below the last one, as a sum.

    Args:
        lower: energies, shape ``(..., L - 1, B, K)``.
        lower_weight: the encoder matrices side by side.
        decay: weight of the weight decay; that of each other term is 1.
    """
    terms = evaluate(lower, [(lse, {}), (variance, {}), (decorrelation, {})])
    return torch.stack(terms).sum(0).sum(-1) + decay * row_decay(lower_weight)


class InTurn(pl.Callback):
    """Trains the layers of a ``Deep`` one after the other, from the bottom to the top.

    Each has its share of the Trainer's ``max_epochs``, while the others stay as they are, to the
    last bit: they have no gradients, and an optimizer skips parameters without.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hook into the optimizer's steps."""
        model: Any = pl_module.model
        linears = model.linears
        epochs = trainer.max_epochs or 1

        def leave_the_others(optimizer: Optimizer, *arguments: Any) -> None:
            turn = trainer.current_epoch * len(linears) // epochs
            for number, linear in enumerate(linears):
                if number != turn:
                    linear.zero_grad()

        trainer.optimizers[0].register_step_pre_hook(leave_the_others)


def mixture(
    weight_KJ: np.ndarray, classes_KC: np.ndarray, lower_classes_JC: np.ndarray
) -> dict[str, float]:
    """Return what units are made of, given their rows over lower units.

    - ``carried``: number of lower units that carry 90 % of a row's absolute sum; median over units.
    - ``agreement``: share of a row's positive weights that lies on lower units of the unit's class;
      mean over units.
    - ``chance``: the same if all weights were equal.

    The last two are NaN if no unit has both a class and a positive weight.

    Args:
        weight_KJ: the rows.
        classes_KC: how many of a unit's strongest samples are of each class; its own class is the
            commonest. A unit that does not vary has a row of zeros, and no class.
        lower_classes_JC: the same of the lower units.
    """
    sorted_KJ = -np.sort(-np.abs(weight_KJ), axis=1)
    sums_KJ = sorted_KJ.cumsum(1)
    carried_K = (sums_KJ < SHARE * sums_KJ[:, -1:]).sum(1) + 1
    same_KJ = classes_KC.argmax(1)[:, None] == lower_classes_JC.argmax(1)
    same_KJ &= lower_classes_JC.any(1)
    positive_KJ = np.maximum(weight_KJ, 0)
    counted = classes_KC.any(1) & positive_KJ.any(1)
    positive_KJ, same_KJ = positive_KJ[counted], same_KJ[counted]
    agreement_K = (positive_KJ * same_KJ).sum(1) / positive_KJ.sum(1)
    return {
        "carried": float(np.median(carried_K)),
        "agreement": float(agreement_K.mean()) if len(agreement_K) else np.nan,
        "chance": float(same_KJ.mean()) if len(same_KJ) else np.nan,
    }


def _layers(run: Run) -> dict[str, Any]:
    """Return ``quality`` and the purity of each layer, and ``mixture`` of those above the first."""
    model = run.model()
    train_x, train_labels, test_x, test_labels = samples_of(run)
    deep = isinstance(model, Deep)
    with torch.no_grad():
        train, test = (model.each(x) if deep else [model(x)] for x in (train_x, test_x))
        weights = [linear.weight for linear in (model.linears if deep else [model.linear])]
    classes = [top_classes(test_NK.numpy(), test_labels.numpy()) for test_NK in test]
    rows: list[dict[str, Any]] = []
    for layer, (weight, train_NK, test_NK) in enumerate(zip(weights, train, test, strict=True)):
        measures: dict[str, Any] = quality(
            Encoded(train_x.numpy(), train_labels.numpy(), train_NK.numpy()),
            Encoded(test_x.numpy(), test_labels.numpy(), test_NK.numpy()),
            threads=run.cfg.trainer.threads,
        )
        measures["top_purity"] = top_purity(classes[layer])
        if layer:
            measures |= mixture(weight.detach().numpy(), classes[layer], classes[layer - 1])
        rows.append({"layers": len(weights), "layer": layer + 1, "units": len(weight)})
        rows[-1] |= {key: None if pd.isna(value) else value for key, value in measures.items()}
    return {"rows": rows}


LAYERS = Measurement("depth", 1, _layers)


def measure(runs: Sequence[Run]) -> Tables:
    """Return ``layers``: what is measured of each layer of each net, one row each.

    Trained layer by layer, the lower two of three layers are also a net of two.
    """
    found = LAYERS.of(runs, workers=1).explode("rows", ignore_index=True)  # seconds a layer
    found["way"] = found["family"].str.removeprefix("depth_")
    every = pd.concat([found[["way", "seed"]], pd.DataFrame(found["rows"].to_list())], axis=1)
    shallow = every[every["way"].isin(LAYER_BY_LAYER) & (every["layer"] < 3)].assign(layers=2)
    columns = ["way", "layers", "layer", "units", "seed", *SHOWN]
    rows = pd.concat([every, shallow], ignore_index=True)[columns]
    return {"layers": rows.astype(dict.fromkeys(SHOWN, float))}


SHOWN = {
    "sparse_probe_1": ("probe on 1 unit (%)", ".1f"),
    "sparse_probe_5": ("probe on 5 units (%)", ".1f"),
    "probe_accuracy": ("probe on all units (%)", ".1f"),
    "top_purity": ("purity (%)", ".1f"),
    "exact_density": ("density (%)", ".1f"),
    "least_squares_fvu": ("pixels unexplained (%)", ".1f"),
    "dead_units": ("dead units", ".1f"),
    "carried": ("lower units that carry 90 %", ".0f"),
    "agreement": ("weight on units of its class (%)", ".1f"),
    "chance": ("if weights were equal (%)", ".1f"),
}
"""What is measured: its heading and its format in the table."""


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each layer of each net, over the seeds."""
    rows = rows[(rows["layers"] != 2) | ~rows["way"].isin(LAYER_BY_LAYER)]  # no layer twice
    columns = {heading: (key, form) for key, (heading, form) in SHOWN.items()}
    shown = []
    for (way, layers, layer, units), group in rows.groupby(
        ["way", "layers", "layer", "units"], sort=False
    ):
        place = {"trained": WAYS[str(way)], "layers": layers, "layer": layer, "units": units}
        shown.append(place | in_words(group, columns))
    return pd.DataFrame(shown)


def by_layer(tables: Tables) -> Figure:
    """Draw what is measured of a layer over its number, for each way of training."""
    depth = {units: layers for layers, units in EQUAL.items()}
    rows = tables["layers"]
    rows = rows.assign(layer=rows["units"].map(depth).fillna(rows["layer"]))
    lines = {
        "one layer of as many parameters": ("one", 1, style.BLACK, ":", "s"),
        "in turn": ("turns", 3, style.GREEN, "-", "o"),
        "at the same time": ("together", 3, style.BLUE, "-", "^"),
        "jointly, three layers": ("joint", 3, style.VERMILION, "-", "D"),
        "jointly, two layers": ("joint", 2, style.ORANGE, "--", "D"),
    }
    figure, panels = style.subplots(2, 3, 4.4)
    for axes, (key, (name, _)) in zip(panels.flat, SHOWN.items(), strict=False):
        for label, (way, layers, colour, line, marker) in lines.items():
            own = rows_of(rows, way=way, layers=layers)
            found = 100 * own.groupby("layer")[key].agg(["mean", "min", "max"])
            spread = [found["mean"] - found["min"], found["max"] - found["mean"]]
            look: Any = {"color": colour, "ls": line, "marker": marker, "ms": 4, "elinewidth": 0.8}
            axes.errorbar(found.index, found["mean"], spread, label=label, **look)
        axes.set(title=name, xticks=[1, 2, 3], xlim=(0.8, 3.2))
    for axes in panels[1]:
        axes.set_xlabel("layer")
    style.legend_below(figure, panels[0, 0], 3)
    return figure


def mixtures(tables: Tables) -> Figure:
    """Draw how many lower units make an upper one, and whether they are of its class."""
    upper = tables["layers"].query("layer > 1 and layers == 3")
    figure, (left, right) = style.subplots(1, 2, 2.8)
    colours = {"turns": style.GREEN, "together": style.BLUE, "joint": style.VERMILION}
    for position, (way, colour) in enumerate(colours.items()):
        for layer in (2, 3):
            own = rows_of(upper, way=way, layer=layer)
            x = 4 * (layer - 2) + position
            look = {"color": colour, "label": WAYS[way] if layer == 2 else None}
            style.bar(left, x, own["carried"], 0.8, 0.2, **look)
            style.bar(right, x, 100 * own["agreement"], 0.8, 0.2, color=colour)
            ends = (x - 0.4, x + 0.4)
            chance = right.hlines(100 * own["chance"].mean(), *ends, color=style.BLACK, lw=2)
    units = upper["units"].max()
    random = units * 2 * norm.sf(np.sqrt(-2 * np.log(SHARE)))
    left.axhline(random, color=style.BLACK, lw=0.8, ls="--", label="random rows")
    left.set(title="lower units that carry 90 % of a row", ylim=(0, units))
    right.set(title="weight on lower units of its class (%)")
    for axes in (left, right):
        axes.set_xticks([1, 5], ["layer 2", "layer 3"])
        axes.grid(visible=False, axis="x")
    chance.set_label("equal weights")
    handles = [*left.get_legend_handles_labels()[0], chance]
    figure.legend(handles=handles, loc="outside lower center", ncols=5)
    return figure


EXPERIMENT = Experiment(
    title="Layers on layers",
    sweeps=[f"depth_{way}" for way in WAYS],
    measure=measure,
    shown={"layers": Shown("Every layer, over the seeds", summary)},
    pictures={"by_layer": by_layer, "mixtures": mixtures},
)
