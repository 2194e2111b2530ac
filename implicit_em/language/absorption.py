"""First-letter absorption: how often another latent stands in for the one of a word's first letter.

A latent for words with s may fail for "snake", because a latent for snakes holds the direction of
the letter as well. The measures are those of Chanin et al. 2024 (A is for absorption: studying
feature splitting and absorption in sparse autoencoders, arXiv 2409.14507), as in SAEBench. What
differs from SAEBench:

- Of the vocabulary's words, at most ``WORDS`` are drawn. A word has one prompt, for the probes and
  for the measures alike; the prompt ends behind the word, since nothing later changes its vector.
- Probes are logistic regressions run to convergence, on all words at once; SAEBench trains those on
  vectors, and those that rank latents, by Adam for 50 epochs. There the intercepts of those on
  vectors stay near 0, because vectors have a large mean, which does the same; here those probes
  have none. So the part of a vector along its probe is positive where the probe says yes. With
  intercepts, it would be three times as large on SmolLM2.
- Vectors are divided by one number, so that a column has the variance 1 on average: the penalties
  do not depend on their scale.
- Directions of latents need no length of 1: the part of a latent is ``a_i d_i . p``. SAEBench takes
  ``a_i cos(d_i, p)``, which is the same once the lengths are folded into the activations. Probes on
  latents, too, see ``a_i ||d_i||``.
"""

import logging
import warnings
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from string import ascii_lowercase, ascii_uppercase
from typing import Any, NamedTuple

import numpy as np
import torch
from joblib import Parallel, delayed
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from torch import Tensor, nn

from implicit_em.base import interruption
from implicit_em.base.digest import digest_over
from implicit_em.base.progress import Progress, working
from implicit_em.language.labelled import LabelledSet, LabelledTexts
from implicit_em.language.probing import codes_of
from implicit_em.metrics.sparse import compact
from implicit_em.models.normalizing import Normalized

log = logging.getLogger(__name__)

SAID = " has the first letter: "
"""What stands between a word and its first letter in an example of a prompt."""
EXAMPLES = 10
"""Number of examples in front of a word."""
WORDS = 10_000
"""Largest number of words."""
TRAIN, TEST = "first-letters-train", "first-letters-test"
"""Names of the sets of words that probes are trained on and that are measured."""
SHARE = 0.8
"""Share of the words that probes are trained on."""
SEED = 42
KNOWN, LEAST = 0.6, 20
"""F1 on test words above which the vectors tell a letter, and the least number of such letters."""
MOST, RISE = 10, 0.03
"""Largest number of main latents of a letter, and what each must add to the F1 of its probe."""
ALIGNED_FULLY, ALIGNED = 0.025, 0.1
"""Least cosine with the probe of a latent that absorbs, for full absorption and for fractions."""
COVERED = 0.4
"""Least share of a vector's part along the probe that latents must hold to absorb it."""
TOGETHER = 3
"""Largest number of latents that absorb a word together."""
SILENT = 1e-8
"""Activation below which a main latent is silent."""
MEASURES = ("full", "fraction", "full_centred", "fraction_centred")
"""What is measured of a letter: the means over words of full absorption, and of the fraction.

Both are measured of vectors as they are, as in SAEBench, and of vectors less the reconstruction of
an empty code, the part of which no latent can hold.
"""
PENALTIES = {"vectors": 2.6e-3, "latents": 1e-2}
"""Strengths of the L2 penalty on vectors and the L1 penalty on latents; those of SAEBench."""


def words_of(vocabulary: Sequence[str], special: Collection[int] = ()) -> list[str]:
    """Return the tokens that have only the letters a to z or A to Z, behind at most one space.

    Args:
        vocabulary: the text of each token id, with a space in front of a word.
        special: token ids that are no text.
    """
    letters = {*ascii_lowercase, *ascii_uppercase}
    texts = [text for token, text in enumerate(vocabulary) if token not in special]
    plain = (text.removeprefix(" ") for text in texts)
    found = [text for text, word in zip(texts, plain, strict=True) if word and letters >= {*word}]
    return [*dict.fromkeys(found)]


def prompts_of(words: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Return a prompt for each word: examples of other words on a line each, then the word."""

    def prompt(word: str) -> str:
        drawn = rng.choice(len(words), min(EXAMPLES + 1, len(words)), replace=False)
        others = [other for n in drawn if (other := words[n]) != word][:EXAMPLES]
        return "\n".join(["", *(f"{w}{SAID}{w.lstrip()[0].upper()}" for w in others), word])

    return [*map(prompt, words)]


def word_sets(words: Sequence[str]) -> dict[str, LabelledSet]:
    """Return prompts of random words to train on and to measure; a label is a letter's number.

    The examples of a prompt are of the set of its word.
    """
    rng = np.random.default_rng(SEED)
    drawn = [words[n] for n in rng.permutation(len(words))[:WORDS]]
    end = int(SHARE * len(drawn))
    sets = {}
    for name, some in ((TRAIN, drawn[:end]), (TEST, drawn[end:])):
        prompts = prompts_of(some, rng)
        labels_N = np.array([ascii_lowercase.index(word.lstrip()[0].lower()) for word in some], int)
        sets[name] = LabelledSet(prompts, labels_N, digest_over(prompts))
    return sets


class LetterProbe(NamedTuple):
    """Direction ``(D,)`` that tells a letter, its F1 on test words, and the words it finds, bool.

    The words are those with the letter that the probe says to have it, shape ``(M,)``.
    """

    direction_D: np.ndarray
    f1: float
    found_M: np.ndarray


def letter_probe(
    train_ND: np.ndarray, is_N: np.ndarray, test_MD: np.ndarray, is_M: np.ndarray
) -> LetterProbe:
    """Return a probe on vectors, without an intercept, whose classes have the same weight.

    Args:
        train_ND: vectors of the training words, whose columns have the variance 1 on average.
        is_N: whether a training word has the letter.
        test_MD: vectors of the test words.
        is_M: whether a test word has the letter.
    """
    if not (0 < is_N.sum() < len(is_N) and is_M.any()):
        return LetterProbe(np.zeros(train_ND.shape[1]), 0.0, np.zeros(len(is_M), bool))
    settings = {"fit_intercept": False, "max_iter": 1_000}
    model = _logistic(is_N, PENALTIES["vectors"], **settings).fit(train_ND, is_N)
    said_M = model.predict(test_MD)
    return LetterProbe(model.coef_[0], float(f1_score(is_M, said_M)), said_M & is_M)


def main_latents(train_NK: Any, is_N: np.ndarray, test_MK: Any, is_M: np.ndarray) -> list[int]:
    """Return the latents of a letter: more of them as long as the F1 of their probe rises.

    Latents are ranked by their weights in a logistic regression with an L1 penalty, the largest
    first: only a latent that speaks for the letter counts. The F1 is of test words.

    Args:
        train_NK: latents of the training words, an array or a sparse one, as are the test words'.
        is_N: whether a training word has the letter.
        test_MK: latents of the test words.
        is_M: whether a test word has the letter.
    """
    kind = {"l1_ratio": 1, "solver": "liblinear", "intercept_scaling": 10, "random_state": SEED}
    ranking = _logistic(is_N, PENALTIES["latents"], **kind)
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        ranking.fit(train_NK, is_N)  # the largest weights are known long before
    order_K = np.argsort(-ranking.coef_[0], kind="stable")
    best, main = -np.inf, order_K[:0]
    for some in (order_K[:k] for k in range(1, MOST + 1)):
        probe = LogisticRegression(class_weight="balanced", max_iter=500)
        f1 = f1_score(is_M, probe.fit(train_NK[:, some], is_N).predict(test_MK[:, some]))
        if f1 <= best + RISE:
            break
        best, main = f1, some
    return main.tolist()


def _logistic(is_N: np.ndarray, penalty: float, **settings: Any) -> LogisticRegression:
    """Return a regression with the weights of SAEBench: 1 for a word without the letter.

    The words with the letter weigh as much as all others. scikit-learn's ``balanced`` classes share
    the weight N, and its C is for sums over words.
    """
    share = 1 - is_N.mean()
    return LogisticRegression(
        C=2 * share / (penalty * len(is_N)), class_weight="balanced", **settings
    )


def absorbed(
    codes_NK: Tensor, directions_KD: Tensor, vectors_ND: Tensor, probe_D: Tensor, main: list[int]
) -> tuple[Tensor, Tensor]:
    """Return which words are fully absorbed, bool ``(N,)``, and the fraction absorbed of each.

    Let p be the probe's direction, of length 1. The part of a vector is ``x . p``, and the part of
    a latent is ``a_i d_i . p``.

    A word is fully absorbed if its main latents are silent, and the latent with the largest part
    has a cosine of at least ``ALIGNED_FULLY`` with p and at least the share ``COVERED`` of the
    vector's part. For the fraction, up to ``TOGETHER`` other latents with positive parts and a
    cosine of at least ``ALIGNED`` absorb together. They count for no more than the main latents
    leave of the vector's part, and the fraction is their share of what they and the main latents
    hold. It is 0 if the main latents hold all, or the others less than the share ``COVERED``; it is
    1 if the main latents hold nothing.

    Args:
        codes_NK: activations ``a_i`` for the words.
        directions_KD: directions ``d_i`` among the vectors, of any length.
        vectors_ND: vectors of the words.
        probe_D: direction of the probe, of any length.
        main: the main latents.
    """
    unit_D = nn.functional.normalize(probe_D, dim=0)
    along_K, part_N = directions_KD @ unit_D, vectors_ND @ unit_D
    cosines_K = nn.functional.cosine_similarity(directions_KD, unit_D, dim=1)
    parts_NK = codes_NK * along_K
    main_N = parts_NK[:, main].sum(1)
    absorbing_K = cosines_K >= ALIGNED
    absorbing_K[main] = False
    able_NK = parts_NK.clamp(min=0) * absorbing_K
    others_N = able_NK.topk(min(TOGETHER, able_NK.shape[1])).values.sum(1)
    held_N = torch.minimum(others_N, part_N - main_N)
    fraction_N = torch.where(main_N > 0, held_N / (held_N + main_N), 1)
    counts_N = (part_N > 0) & (main_N < part_N) & (others_N >= COVERED * part_N)
    largest_N, at_N = parts_NK.max(1)
    silent_N = (codes_NK[:, main] < SILENT).all(1)
    enough_N = (part_N > 0) & (largest_N >= COVERED * part_N)
    return silent_N & enough_N & (cosines_K[at_N] >= ALIGNED_FULLY), fraction_N.where(counts_N, 0)


class Absorption:
    """Absorption of first letters, on words whose vectors are kept.

    Args:
        texts: the sets of ``word_sets`` and their vectors.
    """

    def __init__(self, texts: LabelledTexts) -> None:
        self.texts = texts

    @cached_property
    def _vectors(self) -> tuple[Tensor, Tensor]:
        self.texts.read_missing()
        return self.texts.vectors(TRAIN), self.texts.vectors(TEST)

    @cached_property
    def _is(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Whether the words to train on, and those to measure, have each letter."""
        labels = self.texts.labels(TRAIN), self.texts.labels(TEST)
        return [(labels[0] == n, labels[1] == n) for n in range(len(ascii_lowercase))]

    @cached_property
    def scale(self) -> float:
        """Root of the mean variance of the vectors' columns."""
        return self._vectors[0].var(0).mean().sqrt().item()

    @cached_property
    def probes(self) -> list[LetterProbe]:
        """The probes on vectors, one for each letter; raises as ``LabelledTexts.read_missing``."""
        train_ND, test_MD = ((each / self.scale).numpy() for each in self._vectors)
        with working("training probes of first letters"):
            tries = [delayed(letter_probe)(train_ND, n, test_MD, m) for n, m in self._is]
            return [*Parallel(torch.get_num_threads(), prefer="threads")(tries)]

    @property
    def known(self) -> list[int]:
        """The numbers of the letters that the vectors tell."""
        return [n for n, probe in enumerate(self.probes) if probe.f1 > KNOWN]

    def table(self, coder: Normalized) -> list[dict[str, Any]]:
        """Return a row for each letter that the vectors tell.

        A row has the ``letter``, the ``f1`` of its probe, the number of ``words`` that are
        measured, the ``main`` latents, and the means over the words by the names of ``MEASURES``.

        Args:
            coder: the model on raw vectors, with a decoder.

        Raises:
            Interrupted: if a signal asked for it.
        """
        rows_KD = coder.rows.detach().double()
        raw = coder.normalizer
        directions_KD = (rows_KD if raw is None else raw.turned_back(rows_KD)).float().cpu()
        train_NK, codes_MK = (codes_of(coder.encode, each) for each in self._vectors)
        with torch.inference_mode():
            empty_D = coder.decode(coder.weight.new_zeros(1, len(directions_KD))).float().cpu()
        sizes_K = directions_KD.norm(dim=1) / self.scale
        seen = compact((train_NK * sizes_K).numpy(), (codes_MK * sizes_K).numpy())
        found = []
        with Progress("measuring absorption", len(self.known), "letters") as progress:
            for number in self.known:
                interruption.stop_if_requested()
                probe, (is_N, is_M) = self.probes[number], self._is[number]
                main = main_latents(seen[0], is_N, seen[1], is_M)
                some = torch.from_numpy(probe.found_M)
                vectors_MD, probe_D = self._vectors[1][some], torch.from_numpy(probe.direction_D)
                measured = [
                    each.float().mean().item()
                    for moved_MD in (vectors_MD, vectors_MD - empty_D)
                    for each in absorbed(
                        codes_MK[some], directions_KD, moved_MD, probe_D.float(), main
                    )
                ]
                row = {"letter": ascii_lowercase[number], "f1": probe.f1, "words": len(vectors_MD)}
                found.append(row | {"main": main} | dict(zip(MEASURES, measured, strict=True)))
                progress.advance(1)
        return found

    def measured(self, coder: Callable[[], Normalized]) -> tuple[dict[str, Any], list[Any]]:
        """Return the means over letters by the keys of an evaluation, and the rows of ``table``.

        With too few letters there is only their number, which a line of the log explains, and a row
        has no more than the F1 of a letter.

        Args:
            coder: function that returns the model on raw vectors, with a decoder; it is called if
                there are letters enough.

        Raises:
            ConfigError: if the language model is needed, and not there, another or not causal.
            DamagedError: if vectors that were kept are damaged.
            WriteError: if vectors cannot be kept.
            Interrupted: if a signal asked for it.
        """
        means: dict[str, Any] = {"absorption_letters": (count := len(self.known))}
        if count < LEAST:
            log.info(
                "absorption is not measured: probes on vectors tell %d first letters with F1 above "
                "%g, and %d are needed",
                *(count, KNOWN, LEAST),
            )
            pairs = zip(ascii_lowercase, self.probes, strict=True)
            return means, [{"letter": letter, "f1": probe.f1} for letter, probe in pairs]
        rows = self.table(coder())
        for name in MEASURES:
            means[f"absorption_{name}"] = float(np.mean([row[name] for row in rows]))
        return means, rows
