"""Sparse probing: how well a few latents, or all, predict a label of a text.

The protocol is that of Kantamneni et al. 2025 (Are sparse autoencoders useful? A case study in
sparse probing, arXiv 2502.16681), as in their package sae-probes 0.4.2 and in SAEBench.
"""

import hashlib
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from safetensors.torch import save
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn

from implicit_em.base import interruption
from implicit_em.base.digest import digest_over
from implicit_em.base.errors import DamagedError
from implicit_em.base.files import read_json, write_json
from implicit_em.base.progress import Progress
from implicit_em.language.labelled import LabelledTexts
from implicit_em.models.normalizing import Normalized
from implicit_em.trained.reading import Trained

KS = (1, 2, 5)
"""Numbers of latents of a probe."""
TRAINED, LEFT = 1_024, 100
"""Largest number of texts to train on, and the least number that is left to test on."""
VALIDATED, SHARE = 100, 0.2
"""Largest number of training texts that choose the strength, and their largest share."""
FOLDS, FEW = 6, 128
"""Number of folds that choose the strength for fewer training texts than this."""
STRENGTHS = np.logspace(5, -5, 10)
"""Inverse strengths C of the L1 penalty."""
SEED = 42
TINY = 1e-6
"""What keeps the scale of a latent above 0."""
AT_ONCE = 1_024
"""Number of vectors to encode at a time."""
VERSION = 1
"""Version of the protocol: scores that another one gave are measured again."""
SCORES = ("auc", "accuracy", "f1")

Encode = Callable[[Tensor], Tensor]
"""A function from raw vectors ``(N, D)`` to latents ``(N, K)``."""


class Scores(NamedTuple):
    """How well a probe predicts test texts, and the AUC by which its strength was chosen."""

    auc: float
    accuracy: float
    f1: float
    validation_auc: float


def split(labels_N: np.ndarray, seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the texts to train on and to test on, each half of a class, shuffled.

    Args:
        labels_N: labels 0 and 1, about as many of each.
        seed: seed of the choice.
    """
    train = min(len(labels_N) - LEFT, TRAINED)
    rng = np.random.RandomState(seed)
    classes = [np.flatnonzero(labels_N == label) for label in (1, 0)]
    chosen: list[np.ndarray] = []
    for size in (train, len(labels_N) - train - 1):
        sizes = (size - size // 2, size // 2)
        rows = [rng.choice(some, n, replace=False) for some, n in zip(classes, sizes, strict=True)]
        classes = [np.setdiff1d(some, used) for some, used in zip(classes, rows, strict=True)]
        chosen.append(np.concatenate(rows))
    return rng.permutation(chosen[0]), rng.permutation(chosen[1])


def ranked(codes_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Return the latents by the difference of their class means, the largest first; int64.

    Each latent is divided by the mean size of its values that are not 0.

    Args:
        codes_NK: latents of the training texts.
        labels_N: their labels, 0 and 1.
    """
    sizes_K = codes_NK.abs().sum(0) / ((codes_NK != 0).sum(0) + TINY)
    scaled_NK = codes_NK / (sizes_K + TINY)
    difference_K = scaled_NK[labels_N == 1].mean(0) - scaled_NK[labels_N == 0].mean(0)
    return difference_K.abs().argsort(descending=True)


def probed(
    train_NK: np.ndarray,
    labels_N: np.ndarray,
    test_MK: np.ndarray,
    labels_M: np.ndarray,
    seed: int = SEED,
) -> Scores:
    """Return how well an L1 logistic regression predicts labels, 0 and 1.

    Its strength has the largest AUC on the last training rows or, for fewer than ``FEW`` rows, in a
    cross-validation. F1 is the mean of both classes, weighted by their sizes. The solver saga may
    stop after 1,000 passes, before it has converged, as that of the original does. It computes in
    float64, also as in the original: before it has converged, the precision changes its scores.
    """
    train_NK, test_MK = (each_NK.astype(np.float64) for each_NK in (train_NK, test_MK))
    count = len(labels_N)
    held_out = min(int(SHARE * count), VALIDATED)
    folds = [(np.arange(count - held_out), np.arange(count - held_out, count))]
    if count < FEW:
        kind = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        folds = list(kind.split(train_NK, labels_N))

    def fitted(strength: float, rows: np.ndarray) -> LogisticRegression:
        model = LogisticRegression(
            C=strength, l1_ratio=1, solver="saga", random_state=seed, max_iter=1_000
        )
        return model.fit(train_NK[rows], labels_N[rows])

    def validated(strength: float, rows: np.ndarray, others: np.ndarray) -> float:
        chances = fitted(strength, rows).predict_proba(train_NK[others])[:, 1]
        return roc_auc_score(labels_N[others], chances)

    tries = [delayed(validated)(c, *fold) for c in STRENGTHS for fold in folds]
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        workers = Parallel(torch.get_num_threads(), prefer="threads")
        aucs_C = np.reshape(workers(tries), (len(STRENGTHS), -1)).mean(1)
        rows = np.random.RandomState(seed).permutation(count)
        final = fitted(STRENGTHS[aucs_C.argmax()], rows)
    found_M = final.predict(test_MK)
    return Scores(
        roc_auc_score(labels_M, final.predict_proba(test_MK)[:, 1]),
        accuracy_score(labels_M, found_M),
        f1_score(labels_M, found_M, average="weighted"),
        aucs_C.max(),
    )


def scores_of(
    encode: Encode, vectors_ND: Tensor, labels_N: np.ndarray, ks: Sequence[int | None] = KS
) -> dict[int | None, Scores]:
    """Return the scores of probes on the latents of a model, by their numbers of latents.

    Args:
        encode: the model.
        vectors_ND: raw vectors of labelled texts.
        labels_N: labels 0 and 1.
        ks: numbers of latents; ``None`` for all.
    """
    train, test = split(labels_N)
    train_NK = codes_of(encode, vectors_ND[train])
    order_K = ranked(train_NK, torch.from_numpy(labels_N[train]))
    # A latent that is 0 on all training texts has the weight 0, so it only takes time.
    alive = train_NK.any(0).nonzero()[:, 0]
    columns = {k: alive if k is None else order_K[:k] for k in ks}
    used = torch.cat([*columns.values()]).unique()
    test_MU = codes_of(encode, vectors_ND[test], used)
    found = {}
    for k, some in columns.items():
        within = torch.searchsorted(used, some)
        both = (train_NK[:, some].numpy(), labels_N[train], test_MU[:, within].numpy())
        found[k] = probed(*both, labels_N[test])
    return found


@torch.inference_mode()
def codes_of(encode: Encode, vectors_ND: Tensor, columns: Any = slice(None)) -> Tensor:
    """Return some latents of vectors ``(N, D)``, float32 on the CPU; by default all."""
    parts = (encode(some)[:, columns].float().cpu() for some in vectors_ND.split(AT_ONCE))
    return torch.cat([*parts])


def digest_of_model(model: nn.Module) -> str:
    """Return 16 hexadecimal digits over a model's classes, tensors, and settings that are none."""
    settings = [
        {key: value for key, value in vars(part).items() if isinstance(value, int | float | str)}
        for part in model.modules()
    ]
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    return digest_over([str(model), settings, hashlib.sha256(save(tensors)).hexdigest()])


class Probing:
    """Sparse probing on labelled texts, whose vectors are kept, as are the scores of a model.

    Args:
        texts: the labelled texts and their vectors.
    """

    def __init__(self, texts: LabelledTexts) -> None:
        self.texts = texts

    def table(self, coder: Normalized, ks: Sequence[int | None] = KS) -> pd.DataFrame:
        """Return the scores of probes: a row for each set and number of latents.

        The language model reads the texts whose vectors are missing. Scores are kept beside the
        vectors as soon as a set is done, so what was interrupted goes on where it stopped.

        Args:
            coder: the model on raw vectors.
            ks: numbers of latents; ``None`` for all.

        Returns:
            A table with the columns ``set``, ``latents`` and those of ``Scores``.

        Raises:
            ConfigError: if the language model is needed, and not there or another.
            DamagedError: if vectors that were kept are damaged.
            WriteError: if vectors or scores cannot be kept.
            Interrupted: if a signal asked for it.
        """
        self.texts.read_missing()
        rows: list[dict[str, Any]] = []
        digest = digest_of_model(coder)
        with Progress("probing", len(self.texts.sets), "sets") as progress:
            for name in self.texts.sets:
                interruption.stop_if_requested()
                path = self.texts.path(name, self.texts.sites, f"-{digest}.json")
                for k, scores in self._scores(name, coder, ks, path).items():
                    latents = "all" if k is None else k
                    rows.append({"set": name, "latents": latents, **scores._asdict()})
                progress.advance(1)
        return pd.DataFrame(rows)

    def _scores(
        self, name: str, coder: Normalized, ks: Sequence[int | None], path: Path
    ) -> dict[int | None, Scores]:
        """Return the scores of a set, of which a file keeps those that are known."""
        known = _known(path)
        if left := [k for k in ks if k not in known]:
            vectors_ND, labels_N = self.texts.vectors(name), self.texts.labels(name)
            known |= scores_of(coder.encode, vectors_ND, labels_N, left)
            rows = [{"k": k, **scores._asdict()} for k, scores in known.items()]
            write_json(path, {"version": VERSION, "scores": rows})
        return {k: known[k] for k in ks}

    def measured(
        self, found: Trained, all_latents: bool
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Return the means over the sets by the keys of an evaluation, and the rows of ``table``.

        Args:
            found: the trained model.
            all_latents: whether probes are also trained on all latents.
        """
        coder = Normalized(found.model, found.normalizer)
        table = self.table(coder, (*KS, None) if all_latents else KS)
        rows: Any = table.to_dict("records")
        return means_of(table), rows


def _known(path: Path) -> dict[int | None, Scores]:
    """Return the scores in a file by their numbers of latents; none if it is missing or damaged."""
    with suppress(OSError, DamagedError):
        match read_json(path):
            case {"version": version, "scores": rows} if version == VERSION:
                return {row.pop("k"): Scores(**row) for row in rows}
    return {}


def means_of(table: pd.DataFrame) -> dict[str, float]:
    """Return the means over the sets of a table of one model, by the keys of an evaluation."""
    means: dict[str, float] = {"probed_sets": table["set"].nunique()}
    for latents, rows in table.groupby("latents", sort=False):
        start = "probes_all" if latents == "all" else f"probes_top_{latents}"
        means |= {f"{start}_{name}": float(rows[name].mean()) for name in SCORES}
    return means
