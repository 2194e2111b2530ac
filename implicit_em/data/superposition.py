"""Samples with known features: sparse combinations of more directions than there are inputs."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor

from implicit_em.base.errors import ConfigError
from implicit_em.base.values import check_number, check_whole, check_word
from implicit_em.data.arrays import refuse_beyond_memory
from implicit_em.data.modules import ResidentDataModule

STRENGTHS = ("uniform", "constant", "exponential")
GROUP = 4
"""Number of features in a group whose presences are correlated."""
MOST = 0.5
"""Largest frequency of a feature, where not all are equal."""
STEEPEST = 10
"""Largest exponent of the power law."""
VALUES = 2**22
"""Number of random values to draw at a time."""
STREAMS = (
    *("directions", "lengths", "presence", "coins", "groups", "strengths"),
    *("noise", "offset", "outlier"),
)
"""Streams of random numbers: what a setting adds leaves the numbers of the others as they are."""


@dataclass(frozen=True)
class Superposition:
    """Settings of samples ``x = sum_m s_m f_m + offset + noise`` with M features in D dimensions.

    The directions ``f_m`` are those of independent Gaussian vectors. The strength ``s_m`` is 0
    where feature m is absent.

    **Frequencies.** Feature m is present with probability ``p_m``; the mean of all is ``density``.
    They are equal, or proportional to ``m^-frequencies`` and at most 0.5: larger ones are set to
    0.5, and the others scaled up.

    **Correlation.** Every four successive features are a group. A feature is present
    if a uniform number is below its frequency. With probability ``sqrt(correlation)`` this is the
    number of its group, else its own. So frequencies stay as they are. The presences of two
    features of a group with ``p <= q`` have the correlation
    ``correlation * sqrt(p (1 - q) / (q (1 - p)))``: for equal frequencies, ``correlation``.

    **Hierarchy.** The last features are children. The parents, which are the other features, take
    their children in turn. Of the samples with the parent, a child is present in half. So it is
    half as frequent, and the power law is that of the parents alone. With a correlation, children
    have groups of their own. Their correlation is that among the samples with both parents.

    Args:
        features: number of features M.
        width: number of dimensions D.
        samples: number of training samples, with those held out for validation.
        test_samples: number of test samples.
        data_seed: seed of features and samples; the run's own seed does not affect them.
        density: mean share of the features that are present in a sample, in (0, 1).
        strengths: strengths of the features present: ``uniform`` in [0.5, 1.5], ``constant`` 1, or
            ``exponential`` with mean 1.
        frequencies: exponent of the power law, from 0 (equal frequencies) to 10.
        correlation: correlation of the presences of features in a group, in [0, 1).
        hierarchy: share of features that are children, in [0, 1).
        noise: standard deviation of Gaussian noise on each coordinate; its unit is the root mean
            variance of the coordinates of the clean training samples.
        offset: length of a constant vector in a random direction; its unit is the root mean square
            length of the clean training samples about their mean.
        outlier: factor of one random coordinate, which scales all of it; 0 for none.
        unit_norm: whether features have length 1; if not, the lengths are log-normal(0, 0.5).

    Raises:
        ConfigError: if a value is not allowed, or the frequencies cannot have this mean.
    """

    features: int = 1024
    width: int = 256
    samples: int = 30_000
    test_samples: int = 5_000
    data_seed: int = 0
    density: float = 0.01
    strengths: str = "uniform"
    frequencies: float = 0.0
    correlation: float = 0.0
    hierarchy: float = 0.0
    noise: float = 0.0
    offset: float = 0.0
    outlier: float = 0.0
    unit_norm: bool = True

    def __post_init__(self) -> None:
        least = {"features": 1, "width": 1, "samples": 2, "test_samples": 2, "data_seed": 0}
        for name, lowest in least.items():
            check_whole(name, getattr(self, name), lowest)
        check_number("density", self.density, lambda x: 0 < x < 1, "numbers between 0 and 1")
        for name in ("correlation", "hierarchy"):
            allowed = "numbers from 0 on, less than 1"
            check_number(name, getattr(self, name), lambda x: 0 <= x < 1, allowed)
        for name in ("noise", "offset", "outlier"):
            check_number(name, getattr(self, name), lambda x: x >= 0, "finite numbers from 0 on")
        allowed = f"numbers from 0 to {STEEPEST}"
        check_number("frequencies", self.frequencies, lambda x: 0 <= x <= STEEPEST, allowed)
        check_word("strengths", self.strengths, STRENGTHS)
        check_word("unit_norm", self.unit_norm, (True, False))
        most = MOST * float(self._load_R.sum()) / self.features
        if not self._all_equal and self.density > most:
            raise ConfigError(
                f"density={self.density}: with frequencies={self.frequencies} and hierarchy="
                f"{self.hierarchy}, allowed are numbers up to {most:.4g}, where every feature "
                f"without a parent is present in {MOST:.0%} of the samples"
            )

    @property
    def parents_M(self) -> np.ndarray:
        """The parent of each feature, int64, shape ``(M,)``; -1 for features without one."""
        children = min(round(self.hierarchy * self.features), self.features - 1)
        roots = self.features - children
        return np.concatenate([np.full(roots, -1), np.arange(children) % roots])

    @property
    def frequencies_M(self) -> np.ndarray:
        """The probability that each feature is present, shape ``(M,)``."""
        if self._all_equal:
            return np.full(self.features, float(self.density))
        load_R = self._load_R
        law_R = np.arange(1, len(load_R) + 1) ** -float(self.frequencies)
        # If the first k have the largest frequency, the others have this factor of the law.
        capped_R = MOST * (np.cumsum(load_R) - load_R)
        rest_R = np.cumsum((load_R * law_R)[::-1])[::-1]
        factor_R = (self.features * self.density - capped_R) / rest_R
        first = np.argmax(factor_R * law_R <= MOST * (1 + 1e-9))
        roots_R = np.minimum(factor_R[first] * law_R, MOST)
        parents_C = self.parents_M[len(load_R) :]
        return np.concatenate([roots_R, roots_R[parents_C] / 2])

    @property
    def _all_equal(self) -> bool:
        return self.frequencies == 0 and not (self.parents_M >= 0).any()

    @property
    def _load_R(self) -> np.ndarray:
        """The sum of the frequencies of a feature without parent and its children, in its own."""
        parents_M = self.parents_M
        roots = int((parents_M < 0).sum())
        return 1 + np.bincount(parents_M[roots:], minlength=roots) / 2


@dataclass(frozen=True)
class Truth:
    """The features of a data set and their presence in some of its samples."""

    directions_MD: np.ndarray
    """The features as a model sees them: after the outlier, and the normaliser's matrix; float64.
    Their lengths count. With ``normalize=l2``, whose factor is another for each sample, they are
    those of the samples that were read."""
    matrix_DD: np.ndarray
    """Matrix by which outlier and normaliser multiply a clean sample, up to a shift; float64."""
    strengths_NM: csr_array
    """Strength of each feature in each sample, float64, before normalisation."""
    parents_M: np.ndarray
    """The parent of each feature, int64; -1 for features without one."""

    def undone(self, directions_KD: np.ndarray) -> np.ndarray:
        """Return directions of a model's samples, such as a decoder's, as those of clean samples.

        Among clean samples no coordinate stands out, so that cosines of unrelated directions are
        small. Where one is 30 times as large, half of all directions look alike.
        """
        return np.linalg.solve(self.matrix_DD, directions_KD.T).T

    def undone_rows(self, rows_KD: np.ndarray) -> np.ndarray:
        """Return an encoder's rows as rows for clean samples.

        Their products with clean samples are, up to a constant, those of the encoder's rows with
        its own samples.
        """
        return rows_KD @ self.matrix_DD

    @property
    def presence_NM(self) -> csr_array:
        """Whether each feature is present in each sample, bool."""
        return self.strengths_NM.astype(bool)

    @property
    def l0(self) -> float:
        """Mean number of features in a sample."""
        return self.strengths_NM.nnz / self.strengths_NM.shape[0]

    @property
    def density(self) -> float:
        """Mean share of the features in a sample."""
        return self.l0 / self.strengths_NM.shape[1]


class Drawn(NamedTuple):
    """The features and samples of some settings: those for training, then those for the test."""

    samples_ND: np.ndarray
    """Samples, float32."""
    strengths_NM: csr_array
    """Strength of each feature in each sample, float64."""
    directions_MD: np.ndarray
    """Features in the coordinates of the samples, float64."""
    scale_D: np.ndarray
    """Factor of each coordinate, float64: that of the outlier, or 1."""

    def digest(self) -> str:
        """Return 16 hexadecimal digits over the features and their strengths."""
        strengths = self.strengths_NM
        found = hashlib.sha256(np.ascontiguousarray(self.directions_MD).tobytes())
        for places in (strengths.indptr, strengths.indices):
            found.update(places.astype(np.int64).tobytes())
        found.update(strengths.data.tobytes())
        return found.hexdigest()[:16]


@lru_cache(maxsize=4)
def draw(settings: Superposition) -> Drawn:
    """Draw features and samples. The same settings give the same numbers; do not write to them.

    All random numbers are those of NumPy's generators, and the sums of a sample are in the order of
    its features, so that no library of linear algebra decides how they are rounded.

    Raises:
        ConfigError: if they do not fit into memory.
    """
    features, width = settings.features, settings.width
    count = settings.samples + settings.test_samples
    copies = 24 if settings.noise else 16  # bytes of float64 samples, with what is made of them
    present = int(count * features * settings.density)
    refuse_beyond_memory(copies * count * width + 8 * features * width + 12 * present)
    seeds = np.random.SeedSequence(settings.data_seed).spawn(len(STREAMS))
    streams = {name: np.random.default_rng(s) for name, s in zip(STREAMS, seeds, strict=True)}
    directions_MD = _unit_rows(streams["directions"].standard_normal((features, width)))
    if not settings.unit_norm:
        directions_MD *= streams["lengths"].lognormal(0, 0.5, (features, 1))
    strengths_NM = _draw_strengths(settings, streams)
    samples_ND = strengths_NM @ directions_MD
    spread = math.sqrt(samples_ND[: settings.samples].var(0).mean())
    if settings.noise:
        noise_ND = streams["noise"].standard_normal(samples_ND.shape)
        samples_ND += settings.noise * spread * noise_ND
    offset_1D = _unit_rows(streams["offset"].standard_normal((1, width)))
    samples_ND += settings.offset * spread * math.sqrt(width) * offset_1D
    scale_D = np.ones(width)
    if settings.outlier:
        scale_D[streams["outlier"].integers(width)] = settings.outlier
    samples_ND *= scale_D
    return Drawn(samples_ND.astype(np.float32), strengths_NM, directions_MD * scale_D, scale_D)


def _draw_strengths(
    settings: Superposition, streams: Mapping[str, np.random.Generator]
) -> csr_array:
    """Return the strength of each feature in each sample, a block of samples at a time."""
    parents_M = settings.parents_M
    children = parents_M >= 0
    chances_M = np.where(children, 0.5, settings.frequencies_M)
    roots = int((~children).sum())
    rank_M = np.where(children, np.arange(len(children)) - roots, np.arange(len(children)))
    groups_M = rank_M // GROUP + children * -(-roots // GROUP)
    count = settings.samples + settings.test_samples
    size = max(1, VALUES // settings.features)
    blocks = []
    for first in range(0, count, size):
        shape = (min(size, count - first), settings.features)
        numbers_BM = streams["presence"].random(shape)
        if settings.correlation:
            together_BM = streams["coins"].random(shape) < math.sqrt(settings.correlation)
            shared_BG = streams["groups"].random((shape[0], int(groups_M.max()) + 1))
            numbers_BM = np.where(together_BM, shared_BG[:, groups_M], numbers_BM)
        presence_BM = numbers_BM < chances_M
        presence_BM[:, children] &= presence_BM[:, parents_M[children]]
        block = csr_array(presence_BM, dtype=np.float64)
        block.data = _draw_values(settings.strengths, streams["strengths"], block.nnz)
        blocks.append(block)
    return vstack(blocks, format="csr")


def _draw_values(strengths: str, stream: np.random.Generator, count: int) -> np.ndarray:
    if strengths == "uniform":
        return stream.uniform(0.5, 1.5, count)
    return np.ones(count) if strengths == "constant" else stream.standard_exponential(count)


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class SuperpositionDataModule(ResidentDataModule):
    """Samples that are sparse combinations of known features: ``truth`` returns these.

    Args:
        digest: digest of features and strengths, as in ``Drawn.digest``; others are refused.
            ``None`` accepts any.
        kwargs: settings of ``Superposition``, and arguments of ``ResidentDataModule``.

    Raises:
        ConfigError: if a setting is not allowed.
    """

    def __init__(self, digest: str | None = None, **kwargs: Any) -> None:
        own = {field.name for field in fields(Superposition)} & kwargs.keys()
        self.superposition = Superposition(**{name: kwargs.pop(name) for name in own})
        super().__init__(**kwargs)
        self.digest = digest

    def prepare_data(self) -> None:
        """Refuse features and strengths other than those of ``digest``."""
        if self.digest is not None and self.digest != (found := draw(self.superposition).digest()):
            raise ConfigError(
                f"digest={self.digest}: these settings, with NumPy {np.__version__}, draw features "
                f"and strengths of another digest: {found}"
            )

    def source(self) -> Any:
        """Return the settings; ``None`` for a subclass with its own ``read``."""
        if type(self).read is not SuperpositionDataModule.read:
            return None
        return SuperpositionDataModule, self.superposition

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return the samples ``(N, D)``, float32, and labels ``(N,)`` of a single class."""
        samples = torch.from_numpy(draw(self.superposition).samples_ND[self._rows(train)])
        return samples, torch.zeros(len(samples), dtype=torch.int64)

    def truth(self, train: bool = False) -> Truth:
        """Return the features, and their strengths in samples in the same order as these.

        Args:
            train: ``False`` for the samples of ``final_samples``, ``True`` for those of
                ``starting_samples``: the training samples that are not held out.
        """
        assert self._splits, "setup() comes first"
        drawn = draw(self.superposition)
        strengths_NM = drawn.strengths_NM[self._rows(train or self.final == "validation")]
        if train:
            strengths_NM = strengths_NM[self.train_indices().numpy()]
        elif self.final == "validation":
            strengths_NM = strengths_NM[self.monitored_indices().numpy()]
        directions_MD, matrix_DD = drawn.directions_MD.copy(), np.diag(drawn.scale_D)
        normalizer = self.normalizer
        if normalizer is not None and normalizer.mean is not None:
            matrices = (torch.from_numpy(rows) for rows in (directions_MD, matrix_DD))
            directions_MD, matrix_DD = (normalizer.turned(rows).numpy() for rows in matrices)
        return Truth(directions_MD, matrix_DD.T, strengths_NM, self.superposition.parents_M)

    def _rows(self, train: bool) -> slice:
        count = self.superposition.samples
        return slice(count) if train else slice(count, None)
