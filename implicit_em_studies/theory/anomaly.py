"""Experiment: the evidence of a sample as an anomaly score.

The mixture is not normalised, so its evidence compares samples under one model, not models. That is
all that an anomaly score needs. A score is larger for what it takes for an anomaly.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy import ndimage
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torchvision.datasets import FashionMNIST

from implicit_em.base.errors import ConfigError
from implicit_em.base.threads import cores
from implicit_em.data import TorchvisionDataModule, as_unit_float
from implicit_em.data.sharing import Source
from implicit_em.models import GaussianMixture, KMeans, Mixture, SparseAutoencoder
from implicit_em_studies.shared import figures as style
from implicit_em_studies.shared.experiment import Experiment, Shown, Tables
from implicit_em_studies.shared.measurements import Measurement
from implicit_em_studies.shared.runs import Run
from implicit_em_studies.shared.tables import over_runs, rows_of

log = logging.getLogger(__name__)

METHODS = {
    "today": "evidence",
    "decay": "evidence, weight decay",
    "today_sum": "sum of energies",
    "decay_sum": "sum of energies, weight decay",
    "today_active": "active units",
    "decay_active": "active units, weight decay",
    "mixture": "explicit mixture",
    "gmm": "Gaussian mixture, diagonal",
    "kmeans": "distance to k-means",
    "forest": "isolation forest",
    "sae": "error of the SAE",
}
"""Scores, as the tables show them; the evidence of the derived model comes first."""
REFERENCES = ("gmm", "kmeans", "forest", "sae")
"""Scores that the evidence has to beat."""
KINDS = {"fashion": "Fashion-MNIST", "digit": "held-out digit", "corrupted": "corrupted digits"}
"""Kinds of tasks, as the tables show them."""
UNITS = 64
STEPS = 50
"""Maximum number of EM steps of the Gaussian mixture."""


class WithoutDigit(TorchvisionDataModule):
    """An image data set without the images of one class.

    Args:
        digit: the class; ``None`` keeps all.
        kwargs: arguments of ``TorchvisionDataModule``.
    """

    def __init__(self, digit: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.digit = digit

    def source(self) -> Source | None:
        """Return the source of all images, and the class that is left out."""
        whole = TorchvisionDataModule(self.dataset, self.root).source()
        return None if whole is None else Source((whole.what, self.digit), whole.files)

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return the images ``(N, H, W)``, uint8, and labels ``(N,)`` of the other classes."""
        images, labels = super().read(train)
        kept = labels != (-1 if self.digit is None else self.digit)
        return images[kept], labels[kept]

    def held_out(self) -> Tensor:
        """Return the test images ``(N, H, W)``, uint8, of the class that is left out."""
        images, labels = super().read(train=False)
        return images[labels == self.digit]


def corrupted(images_NHW: np.ndarray) -> dict[str, np.ndarray]:
    """Return images in [0, 1] with each corruption, shape ``(N, H, W)``; draws are always the same.

    ``noise`` adds Gaussian noise of deviation 0.2. ``blur`` is Gaussian with a deviation of 1/28 of
    the height. ``occlusion`` blackens a square of a third of the height, whose middle is drawn from
    the middle half of the image. ``inversion`` is ``1 - x``. ``rotation`` turns every other image
    by 30 degrees to the left, and the rest to the right.
    """
    random = np.random.default_rng(0)
    samples, height, width = images_NHW.shape
    noise_NHW = random.normal(0, 0.2, images_NHW.shape)
    middles_N2 = random.uniform(0.25, 0.75, (samples, 2)) * (height, width)
    rows_NH = np.abs(np.arange(height) + 0.5 - middles_N2[:, :1]) < height / 6
    columns_NW = np.abs(np.arange(width) + 0.5 - middles_N2[:, 1:]) < height / 6
    turned_NHW = np.empty_like(images_NHW)
    for first, angle in enumerate((30, -30)):
        one = ndimage.rotate(images_NHW[first::2], angle, axes=(2, 1), reshape=False, order=1)
        turned_NHW[first::2] = one
    blur = height / 28
    return {
        "noise": (images_NHW + noise_NHW).clip(0, 1),
        "blur": ndimage.gaussian_filter(images_NHW, (0, blur, blur)),
        "occlusion": images_NHW * ~(rows_NH[:, :, None] & columns_NW[:, None, :]),
        "inversion": 1 - images_NHW,
        "rotation": turned_NHW,
    }


Score = Callable[[Tensor], dict[str, Tensor]]
"""Function of samples ``(N, D)`` that returns scores ``(N,)`` by method."""


@torch.no_grad()
def score(model: Any, x: Tensor, name: str = "today") -> dict[str, Tensor]:
    """Return the scores ``(N,)`` of samples ``(N, D)`` by a trained model, and by simple baselines.

    Args:
        name: name of the derived model's evidence.
    """
    if isinstance(model, SparseAutoencoder):
        return {"sae": (model.reconstruct(x) - x).square().sum(-1)}
    energies_NK = model.encode(x).double()
    evidence_N = -(-energies_NK).logsumexp(-1)
    if isinstance(model, Mixture):  # whose energies lack what all components share
        return {"mixture": evidence_N + x.double().square().sum(-1) / 2}
    active_N = (energies_NK > 0).sum(-1)
    return {name: evidence_N, f"{name}_sum": energies_NK.sum(-1), f"{name}_active": active_N}


def fit_references(x: Tensor, seed: int, units: int = UNITS) -> Score:
    """Fit the references that are not trained by gradients to samples ``(N, D)``."""
    torch.manual_seed(seed)
    mixture = GaussianMixture(x.shape[1], units, iterations=STEPS)
    centres = KMeans(x.shape[1], units)
    mixture.start(x)
    centres.start(x)
    forest = IsolationForest(random_state=seed).fit(x.numpy())

    @torch.no_grad()
    def by_method(x: Tensor) -> dict[str, Tensor]:
        return {
            "gmm": -(-mixture(x).double()).logsumexp(-1),
            "kmeans": torch.cdist(x, centres.weight).amin(-1),
            "forest": -torch.from_numpy(forest.score_samples(x.numpy())),
        }

    return by_method


def aurocs(score: Score, normal: Tensor, anomalies: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the AUROC of each method and task, by ``"METHOD TASK"``.

    It is the share of pairs of an anomaly and a normal sample in which the anomaly scores higher,
    so below 0.5 the score takes anomalies for the more normal samples.

    Args:
        normal: samples ``(N, D)``.
        anomalies: samples ``(M, D)`` by task.
    """
    usual, found = score(normal), {}
    for task, x in anomalies.items():
        labels = np.repeat([0, 1], [len(normal), len(x)])
        for method, values in score(x).items():
            both = torch.cat([usual[method], values])
            found[f"{method} {task}"] = float(roc_auc_score(labels, both.numpy()))
    return found


def fashion(root: str) -> Tensor:
    """Return the test images of Fashion-MNIST in a folder, ``(N, H, W)``, uint8.

    Raises:
        ConfigError: if they are not there; they are not downloaded.
    """
    return TorchvisionDataModule(FashionMNIST, root).read(train=False)[0]


def _samples(run: Run) -> tuple[WithoutDigit, Tensor, dict[str, Tensor]]:
    """Return a run's data, normal test samples ``(N, D)``, and anomalies ``(M, D)`` by task."""
    data: Any = run.spec.build_data()
    normal = as_unit_float(data.final_samples()[0])
    if data.digit is not None:
        images = {str(data.digit): as_unit_float(data.held_out())}
    else:
        grey = corrupted(normal.view(-1, *data.sample_shape).numpy())
        images = {name: torch.from_numpy(one).to(normal.dtype) for name, one in grey.items()}
        with suppress(ConfigError):
            images["fashion"] = as_unit_float(fashion(data.root))
    return data, normal, {task: one.flatten(1) for task, one in images.items()}


def _by_model(run: Run) -> dict[str, float]:
    _, normal, anomalies = _samples(run)
    decays = run.cfg.loss.get("decay", {"weight": 0})["weight"] > 0
    own = partial(score, run.model(), name="decay" if decays else "today")
    return aurocs(own, normal, anomalies)


def _by_references(run: Run) -> dict[str, float]:
    data, normal, anomalies = _samples(run)
    return aurocs(fit_references(data.starting_samples(), run.cfg.seed), normal, anomalies)


def measure(runs: Sequence[Run]) -> Tables:
    """Return ``aurocs``, a row for each method, task and seed; what is known is kept by the runs.

    References are fitted once for each seed and digit. Without Fashion-MNIST, its task is left out.
    """
    schema = "1 with Fashion-MNIST"
    try:
        fashion(runs[0].spec.settings["data"]["root"])
    except ConfigError as error:
        schema = "1 without Fashion-MNIST"
        log.info("Fashion-MNIST is left out; data/README.md says where to put it: %s", error)
    own = Measurement("anomaly", schema, _by_model).of(runs, cores())
    derived = [run for run in runs if run.sweep == "anomaly_derived"]
    once = [run for run in derived if run.cfg.loss.decay.weight == 0]
    references = Measurement("references", schema, _by_references).of(once, cores())
    return {"aurocs": pd.concat([_rows(own), _rows(references)], ignore_index=True)}


def _rows(wide: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each method, task and seed of columns ``"METHOD TASK"``."""
    columns = [name for name in wide.columns.astype(str) if " " in name]
    rows = wide.melt("seed", columns, value_name="auroc").dropna(subset="auroc")
    rows[["method", "task"]] = rows["variable"].str.split(" ", expand=True)
    rows["kind"] = rows["task"].map(_kind)
    return rows[["method", "kind", "task", "seed", "auroc"]]


def _kind(task: str) -> str:
    return "digit" if task.isdigit() else "fashion" if task == "fashion" else "corrupted"


def over_tasks(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean AUROC over the tasks of a kind, by ``method`` and ``kind``, a row a seed."""
    return table.groupby(["method", "kind", "seed"])["auroc"].mean().reset_index()


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each method: its AUROC in each kind of task and each corruption."""
    texts = _over_seeds(table, partial(over_runs, form=".3f")).fillna("–")
    return texts.rename(METHODS).rename_axis("score").reset_index()


def _over_seeds(table: pd.DataFrame, value: Callable[[pd.Series], Any]) -> pd.DataFrame:
    """Return a value of the AUROCs over the seeds: a row a method, then a column a kind and task.

    The tasks are the corruptions. The columns have the names that are printed.
    """
    kinds = over_tasks(table)
    shown = {name: rows_of(kinds, kind=kind) for kind, name in KINDS.items()}
    corruptions = rows_of(table, kind="corrupted").groupby("task", sort=False)
    shown |= {str(task): rows for task, rows in corruptions}
    by_name = {n: rows.groupby("method")["auroc"].agg(value) for n, rows in shown.items()}
    return pd.DataFrame(by_name).reindex(list(METHODS)).dropna(axis=1, how="all")


def scores(tables: Tables) -> Figure:
    """Draw the mean AUROC of each score in each kind of task, and for each corruption."""
    figure, axes = style.subplots(1, 1, 4.2)
    means = _over_seeds(tables["aurocs"], pd.Series.mean)
    axes.imshow(means, cmap="RdBu_r", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(means.to_numpy()):
        colour = "white" if abs(value - 0.5) > 0.35 else style.BLACK
        look: Any = {"ha": "center", "va": "center", "fontsize": 8, "color": colour}
        axes.text(column, row, f"{value:.2f}", **look)
    corruptions = tables["aurocs"].query("kind == 'corrupted'")["task"].nunique()
    axes.axvline(means.shape[1] - corruptions - 0.5, color="white", lw=4)
    axes.set_xticks(range(means.shape[1]), means.columns, rotation=30, ha="right")
    axes.set_yticks(range(len(means)), METHODS.values())
    axes.grid(False)
    return figure


DRAWN = {
    "today": (style.BLACK, "o"),
    "decay": (style.VERMILION, "s"),
    "mixture": (style.GREY, "D"),
    "gmm": (style.BLUE, "^"),
    "kmeans": (style.SKY, "v"),
    "forest": (style.GREEN, "P"),
    "sae": (style.ORANGE, "X"),
}
"""How the scores of the second figure are drawn."""


def digits(tables: Tables) -> Figure:
    """Draw the AUROC of each held-out digit, means over the seeds."""
    figure, axes = style.subplots(1, 1, 3.0)
    table = tables["aurocs"].query("kind == 'digit'").astype({"task": int})
    means = table.groupby(["method", "task"])["auroc"].mean()
    for place, (method, (colour, marker)) in enumerate(DRAWN.items()):
        own = means[method]
        shift = 0.1 * (place - len(DRAWN) // 2)
        axes.plot(own.index + shift, own, marker, color=colour, ms=4.5, label=METHODS[method])
    axes.axhline(0.5, color=style.GREY, lw=0.8)
    axes.set(xlabel="held-out digit", ylabel="AUROC", xticks=means["today"].index)
    figure.legend(loc="outside right center")
    return figure


EXPERIMENT = Experiment(
    title="Evidence at work",
    sweeps=["anomaly_derived", "anomaly_mixture", "anomaly_sae"],
    measure=measure,
    shown={"aurocs": Shown("AUROC over the seeds; means over the tasks of a kind", summary)},
    pictures={"scores": scores, "digits": digits},
)
