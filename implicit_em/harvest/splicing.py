"""What a language model predicts when the vectors at a site are replaced by others."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from implicit_em.base import interruption
from implicit_em.base.errors import ConfigError
from implicit_em.base.validation import conforming
from implicit_em.config.harvest import ContextSettings
from implicit_em.data.store import TOKENS, ActivationStore, Documents, Split
from implicit_em.data.store_statistics import TokenFilter
from implicit_em.harvest.contexts import Affixes, Batch, batches, cut
from implicit_em.harvest.models import CausalModel

Replacement = Callable[[Tensor], Tensor]
"""A function from vectors of tokens to others, float32, ``(N, D)``, on the model's device."""
LOGITS = 2**25
"""Largest number of logits of a pass; a context that has more makes a pass of its own."""


class Spliced(NamedTuple):
    """What a replacement does, in sums over the predicted tokens of each document.

    Both are in nats, float64, of shape ``(N,)``: the cross-entropy of the next token, and the
    Kullback-Leibler divergence KL(clean || spliced) of its distribution.
    """

    loss_N: Tensor
    divergence_N: Tensor


@dataclass(frozen=True)
class Losses:
    """Sums over the predicted tokens of each document; a bootstrap draws documents.

    Args:
        documents_N: numbers of the documents in the store, int64, ascending.
        predicted_N: number of predicted tokens, int64.
        clean_N: cross-entropy of the model itself in nats, float64.
        zero: what it does to replace the vectors by zeros.
        spliced: what each replacement does, by its name.
    """

    documents_N: Tensor
    predicted_N: Tensor
    clean_N: Tensor
    zero: Spliced
    spliced: dict[str, Spliced]


def spliced_losses(
    store: ActivationStore,
    model: CausalModel,
    site: str,
    tokens: TokenFilter,
    replacements: Mapping[str, Replacement],
    split: Split = "test",
    most: int = 20_000,
) -> Losses:
    """Return the losses of a model whose vectors at a site are replaced.

    The model reads the contexts that were harvested. Only the vectors of tokens that the filter
    keeps are replaced, also those by zeros; a largest norm counts for the model's own float32
    vectors. A predicted token is one of text: each but the first of a context counts if it is no
    special token. Where contexts are packed, the end of the document before it is read, too.

    Whole documents are measured. They are added in a random order, the same for everyone, as long
    as they have at most ``most`` tokens together. So a smaller choice is part of a larger one.
    Memory holds the logits of a pass twice, whatever the number of replacements.

    Args:
        store: where contexts come from.
        model: the model that the store was harvested from.
        site: where vectors are replaced.
        tokens: which tokens are replaced.
        replacements: what maps vectors to their reconstructions, by names.
        split: the split that documents are taken from.
        most: largest number of the documents' tokens; there is one document at least.

    Raises:
        ConfigError: if the model is another, lacks the site, or the split has no documents.
        DamagedError: if the store's documents are damaged.
        Interrupted: if a signal asked for it.
    """
    manifest, documents = store.manifest, store.documents()
    if model.files != manifest.model["files"]:
        raise ConfigError(f"lm={model.name}: {store.path} was harvested from another model")
    model.module(site)
    saved = manifest.settings["context"]
    context = conforming(ContextSettings, saved, f"{store.path}: settings.context")
    affixes = Affixes(manifest.prefix, manifest.suffix)
    numbers_N, contexts_C2 = _choose(documents, cut(documents, split, context, affixes), most)
    if not len(numbers_N):
        raise ConfigError(f"split={split}: {store.path} has no documents there")
    special = torch.tensor(manifest.special_tokens, dtype=torch.int64)
    functions = [torch.zeros_like, *replacements.values()]
    predicted_N = torch.zeros(len(numbers_N), dtype=torch.int64)
    sums_R2N = torch.zeros(1 + len(functions), 2, len(numbers_N), dtype=torch.float64)
    size = max(1, LOGITS // (context.length * model.whole.config.vocab_size))
    with torch.inference_mode():
        for batch in batches(contexts_C2, documents, context, affixes, model.padding_id, size):
            interruption.stop_if_requested()
            targets = _targets(batch, numbers_N, special)
            for target in targets:
                predicted_N += target.owners_P.bincount(minlength=len(predicted_N))
            with model.reading(_sites(site)) as found:
                logits_BLV = model.logits(batch.ids_BL, batch.mask_BL)
            clean = [*map(_clean, _predicting(logits_BLV, targets))]
            _add(sums_R2N[0], logits_BLV, clean, targets)
            del logits_BLV  # before the next pass gives as many
            kept_BL = _kept(batch, found[site], site, tokens, manifest.special_tokens)
            for sums_2N, function in zip(sums_R2N[1:], functions, strict=True):
                with model.giving({**found, site: _replaced(found[site], kept_BL, function)}):
                    logits_BLV = model.logits(batch.ids_BL, batch.mask_BL)
                    _add(sums_2N, logits_BLV, clean, targets)
                    del logits_BLV
    zero, *spliced = (Spliced(*sums_2N) for sums_2N in sums_R2N[1:])
    of_name = dict(zip(replacements, spliced, strict=True))
    return Losses(numbers_N, predicted_N, sums_R2N[0, 0], zero, of_name)


def _choose(documents: Documents, contexts_C2: np.ndarray, most: int) -> tuple[Tensor, np.ndarray]:
    """Return the numbers of the documents that are measured, and their contexts, longest first."""
    starts_N, total = documents.starts_N.numpy(), len(documents.ids_T)
    begun_T, ended_T = (np.bincount(bounds_C, minlength=total + 1) for bounds_C in contexts_C2.T)
    tokens_N = np.diff(_counts((begun_T - ended_T)[:-1].cumsum())[starts_N])
    order_N = np.random.default_rng(0).permutation(np.flatnonzero(tokens_N))
    count = max(1, np.searchsorted(tokens_N[order_N].cumsum(), most, side="right"))
    numbers_N = np.sort(order_N[:count])
    chosen = _counts(np.repeat(np.isin(np.arange(len(documents)), numbers_N), np.diff(starts_N)))
    contexts_C2 = contexts_C2[np.diff(chosen[contexts_C2])[:, 0] > 0]
    longest = np.argsort(contexts_C2[:, 0] - contexts_C2[:, 1], kind="stable")
    return torch.from_numpy(numbers_N), contexts_C2[longest]


def _counts(inside_T: np.ndarray) -> np.ndarray:
    """Return the number of tokens inside before each one and the end, shape ``(T + 1,)``."""
    return np.concatenate([[0], inside_T.cumsum()])


def _sites(site: str) -> list[str]:
    """Return the sites whose vectors a pass needs that begins at a site."""
    kind, _, block = site.partition(".")
    return [f"resid.{int(block) - 1}", site] if kind == "mlp" and int(block) else [site]


class _Targets(NamedTuple):
    """The predicted tokens of a context: the rows of their logits, their ids, their documents."""

    rows_P: Tensor
    ids_P: Tensor
    owners_P: Tensor


def _targets(batch: Batch, numbers_N: Tensor, special: Tensor) -> list[_Targets]:
    """Return the predicted tokens of each context; documents count by their place in numbers."""
    predicted_BL = (batch.place_BL >= 0) & torch.isin(batch.document_BL, numbers_N)
    predicted_BL &= ~torch.isin(batch.ids_BL, special)
    predicted_BL[:, 0] = False
    owners_BL = torch.searchsorted(numbers_N, batch.document_BL)
    return [
        _Targets(predicted_L.nonzero()[:, 0] - 1, ids_L[predicted_L], owners_L[predicted_L])
        for predicted_L, ids_L, owners_L in zip(predicted_BL, batch.ids_BL, owners_BL, strict=True)
    ]


class _Clean(NamedTuple):
    """The model's own distributions p of predicted tokens, and the sums of p log p."""

    chances_PV: Tensor
    own_P: Tensor


def _clean(logits_PV: Tensor) -> _Clean:
    chances_PV = logits_PV.softmax(-1)
    # The same operations as for others: a model that nothing changes then diverges by exactly 0.
    return _Clean(chances_PV, _expected(chances_PV, logits_PV, logits_PV.logsumexp(-1)))


def _expected(chances_PV: Tensor, logits_PV: Tensor, total_P: Tensor) -> Tensor:
    """Return the sums of p log q, given the logits of q and their log-sum-exp."""
    return torch.linalg.vecdot(chances_PV, logits_PV) - total_P


def _predicting(logits_BLV: Tensor, targets: Sequence[_Targets]) -> Iterator[Tensor]:
    """Yield the logits of each context in front of its predicted tokens, (P, V)."""
    for logits_LV, (rows_P, _, _) in zip(logits_BLV, targets, strict=True):
        yield logits_LV[rows_P.to(logits_LV.device)]


def _add(
    sums_2N: Tensor, logits_BLV: Tensor, clean: Sequence[_Clean], targets: Sequence[_Targets]
) -> None:
    """Add the cross-entropies and divergences of each context."""
    logits = _predicting(logits_BLV, targets)
    for logits_PV, (chances_PV, own_P), target in zip(logits, clean, targets, strict=True):
        ids_P1 = target.ids_P[:, None].to(logits_PV.device)
        total_P = logits_PV.logsumexp(-1)
        loss_P = total_P - logits_PV.gather(1, ids_P1)[:, 0]
        divergence_P = own_P - _expected(chances_PV, logits_PV, total_P)
        sums_2N.index_add_(1, target.owners_P, torch.stack([loss_P, divergence_P]).double().cpu())


def _kept(
    batch: Batch, vectors_BLD: Tensor, site: str, tokens: TokenFilter, special: Collection[int]
) -> Tensor:
    """Return which tokens the filter keeps, bool, shape ``(B, L)``; none of the padding."""
    inside_BL = batch.mask_BL.bool()
    tokens_BL = zip(TOKENS, batch.tokens, strict=True)
    arrays = {name: values_BL[inside_BL].int() for name, values_BL in tokens_BL}
    vectors_ND = vectors_BLD.cpu()[inside_BL]
    arrays[f"norm.{site}"] = torch.linalg.vector_norm(vectors_ND, dim=-1)
    return inside_BL.masked_scatter(inside_BL, tokens.kept(arrays, site, special))


def _replaced(vectors_BLD: Tensor, kept_BL: Tensor, function: Replacement) -> Tensor:
    """Return vectors of which those that are kept are replaced."""
    kept_BL = kept_BL.to(vectors_BLD.device)
    vectors_BLD = vectors_BLD.clone()
    if kept_BL.any():
        vectors_BLD[kept_BL] = function(vectors_BLD[kept_BL])
    return vectors_BLD
