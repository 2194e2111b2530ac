"""What a language model predicts when the vectors at a site are replaced by others."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from implicit_em.base import interruption
from implicit_em.base.errors import ConfigError
from implicit_em.base.progress import Progress
from implicit_em.language.contexts import Batch, batches, contexts_of, cut, harvested_as
from implicit_em.language.models import CausalModel
from implicit_em.language.statistics import TokenFilter
from implicit_em.language.store import ActivationStore, Documents, Split

Replacement = Callable[[Tensor], Tensor]
"""A function from vectors of tokens to others, float32, ``(N, D)``, on the model's device.

Their width may be that of another site.
"""
LOGITS = 2**25
"""Largest number of logits of a pass; a context that has more makes a pass of its own."""

CACHES = ("cache", "past_key_values")
"""Names that transformers has, and had before 5.24, for the keys and values of earlier tokens."""


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


@dataclass(frozen=True)
class Splice:
    """Where vectors inside a language model are replaced: at a site, if a rule keeps the token.

    Args:
        site: the site.
        tokens: the rule.
        special: token ids that are no text.
        reads: sites whose vectors, side by side, a replacement gets; by default the site itself.
    """

    site: str
    tokens: TokenFilter
    special: Sequence[int]
    reads: Sequence[str] = ()

    @property
    def needs(self) -> list[str]:
        """Sites whose vectors are needed."""
        limited = (name for name, _ in self.tokens.limits)
        return [*dict.fromkeys([self.site, *self.reads, *limited])]

    def replaced(
        self, ids_BL: Tensor, mask_BT: Tensor, found: Mapping[str, Tensor], function: Replacement
    ) -> Tensor:
        """Return the site's vectors, replaced for the tokens that the rule keeps.

        Padding stays as it is; it may be on either side.

        Args:
            ids_BL: token ids.
            mask_BT: 1 for tokens and 0 for padding, also for what was read before these tokens.
            found: vectors ``(B, L, D)`` at the sites of ``needs``.
            function: what replaces them.
        """
        vectors_BLD = found[self.site].clone()
        kept_BL = self.kept(ids_BL, mask_BT, found).to(vectors_BLD.device)
        if kept_BL.any():
            read = [found[name][kept_BL] for name in self.reads or [self.site]]
            vectors_BLD[kept_BL] = function(torch.cat(read, dim=-1)).to(vectors_BLD)
        return vectors_BLD

    def kept(self, ids_BL: Tensor, mask_BT: Tensor, found: Mapping[str, Tensor]) -> Tensor:
        """Return which tokens the rule keeps, bool, ``(B, L)``; see ``replaced``."""
        inside_BL = mask_BT[:, -ids_BL.shape[1] :].bool()
        position_BL = mask_BT.cumsum(1)[:, -ids_BL.shape[1] :] - 1
        arrays = {"token": ids_BL[inside_BL].int(), "position": position_BL[inside_BL].int()}
        arrays = {name: values_N.cpu() for name, values_N in arrays.items()}
        for name in self.needs:
            norms_N = torch.linalg.vector_norm(found[name][inside_BL].float(), dim=-1)
            arrays[f"norm.{name}"] = norms_N.cpu()
        inside_BL = inside_BL.cpu()
        kept_N = self.tokens.kept(arrays, self.site, self.special)
        return inside_BL.masked_scatter(inside_BL, kept_N)


@contextmanager
def replacing(model: CausalModel, splice: Splice, function: Replacement) -> Iterator[None]:
    """Replace vectors in each pass of a model, also in one that continues a cache.

    Raises in a pass:
        ConfigError: if it gets vectors in place of token ids, or a mask of another shape; or if a
            site that is read lies behind the one that is replaced.
    """
    read: list[tuple[Tensor, Tensor]] = []
    forward = inspect.signature(model.network.forward)

    def note(network: nn.Module, values: Any, settings: Any) -> None:
        read[:] = [_tokens_of(forward.bind(*values, **settings).arguments)]
        found.clear()

    def replace(module: nn.Module, *values: Any) -> Any:
        vectors_BLD, *others = values[-1] if isinstance(values[-1], tuple) else values[-1:]
        found[splice.site] = vectors_BLD
        if late := [name for name in splice.needs if name not in found]:
            raise ConfigError(f"site={splice.site}: a pass gives {late[0]} behind it")
        replaced_BLD = splice.replaced(*read[0], found, function)
        return (replaced_BLD, *others) if isinstance(values[-1], tuple) else replaced_BLD

    others = [name for name in splice.needs if name != splice.site]
    with (
        model.reading(others) as found,
        model.hooked(splice.site, replace),
        model.network.register_forward_pre_hook(note, with_kwargs=True),
    ):
        yield


def _tokens_of(call: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the token ids of a pass ``(B, L)``, and its mask with what was read before them."""
    ids_BL, mask_BT = call.get("input_ids"), call.get("attention_mask")
    if ids_BL is None:
        raise ConfigError("inputs_embeds: the rule of a run needs token ids; give input_ids")
    caches = [found for name in CACHES if (found := call.get(name)) is not None]
    shape = (len(ids_BL), ids_BL.shape[1] + sum(int(one.get_seq_length()) for one in caches))
    if mask_BT is None:
        mask_BT = ids_BL.new_ones(shape)
    if (found := tuple(getattr(mask_BT, "shape", ()))) != shape:
        raise ConfigError(f"attention_mask of shape {found}: allowed is {shape}, 0 for padding")
    return ids_BL, mask_BT


class Passes:
    """Passes of a model over the contexts that it was harvested from, with vectors replaced.

    Args:
        store: where contexts come from.
        model: the model that the store was harvested from.
        splice: where vectors are replaced.
        split: the split that contexts are taken from.

    Raises:
        ConfigError: if the model is another, or lacks a site.
        DamagedError: if the store's documents are damaged.
    """

    def __init__(
        self, store: ActivationStore, model: CausalModel, splice: Splice, split: Split = "test"
    ) -> None:
        if model.files != store.manifest.model["files"]:
            raise ConfigError(f"lm={model.name}: {store.path} was harvested from another model")
        self.model, self.documents, self.splice = model, store.documents(), splice
        for name in splice.needs:
            model.module(name)
        self._context, self._affixes = harvested_as(store)
        self.contexts_C2 = cut(self.documents, split, self._context, self._affixes)

    def holding(self, documents_E: np.ndarray, places_E: np.ndarray) -> np.ndarray:
        """Return the contexts that hold tokens, given their documents and places there."""
        numbers_E = contexts_of(self.contexts_C2, self.documents, documents_E, places_E)
        return self.contexts_C2[np.unique(numbers_E[numbers_E >= 0])]

    def batches(self, contexts_C2: np.ndarray, shown: str | None = None) -> Iterator[Batch]:
        """Yield contexts in batches, whose logits memory can hold; raises ``Interrupted``.

        Args:
            contexts_C2: contexts.
            shown: name under which progress is shown; ``None`` shows none.
        """
        size = LOGITS // (self._context.length * self.model.whole.config.vocab_size)
        options = (self._context, self._affixes, self.model.padding_id, max(1, size))
        count = len(contexts_C2)
        with Progress(shown, count, "contexts") if shown else nullcontext() as progress:
            for batch in batches(contexts_C2, self.documents, *options):
                interruption.stop_if_requested()
                yield batch
                if progress:
                    progress.advance(len(batch.ids_BL))

    def clean(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits ``(B, L, V)``, and the vectors that ``spliced`` needs."""
        needed = [*_sites(self.splice.site), *self.splice.needs]
        with self.model.reading([*dict.fromkeys(needed)]) as found:
            return self.model.logits(batch.ids_BL, batch.mask_BL), found

    def spliced(
        self, batch: Batch, found: dict[str, Tensor], function: Replacement
    ) -> tuple[Tensor, Tensor]:
        """Return the logits with vectors replaced, and these vectors, ``(B, L, D)``."""
        site = self.splice.site
        vectors_BLD = self.splice.replaced(batch.ids_BL, batch.mask_BL, found, function)
        given = {name: found[name] for name in _sites(site)}
        with self.model.giving({**given, site: vectors_BLD}):
            return self.model.logits(batch.ids_BL, batch.mask_BL), vectors_BLD


@torch.inference_mode()
def spliced_losses(
    store: ActivationStore,
    model: CausalModel,
    site: str,
    tokens: TokenFilter,
    replacements: Mapping[str, Replacement],
    split: Split = "test",
    most: int = 20_000,
    reads: Sequence[str] = (),
    shown: str | None = None,
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
        reads: sites whose vectors, side by side, are mapped; by default the site itself.
        shown: name under which progress is shown; ``None`` shows none.

    Raises:
        ConfigError: if the model is another, lacks the site, or the split has no documents.
        DamagedError: if the store's documents are damaged.
        Interrupted: if a signal asked for it.
    """
    splice = Splice(site, tokens, store.manifest.special_tokens, reads)
    passes = Passes(store, model, splice, split)
    numbers_N, contexts_C2 = _choose(passes.documents, passes.contexts_C2, most)
    if not len(numbers_N):
        raise ConfigError(f"split={split}: {store.path} has no documents there")
    special = torch.tensor(splice.special, dtype=torch.int64)
    functions = [lambda x_ND: x_ND.new_zeros(()), *replacements.values()]
    predicted_N = torch.zeros(len(numbers_N), dtype=torch.int64)
    sums_R2N = torch.zeros(1 + len(functions), 2, len(numbers_N), dtype=torch.float64)
    for batch in passes.batches(contexts_C2, shown):
        targets = _targets(batch, numbers_N, special)
        for target in targets:
            predicted_N += target.owners_P.bincount(minlength=len(predicted_N))
        logits_BLV, found = passes.clean(batch)
        clean = [*map(_clean, _predicting(logits_BLV, targets))]
        _add(sums_R2N[0], logits_BLV, clean, targets)
        for sums_2N, function in zip(sums_R2N[1:], functions, strict=True):
            del logits_BLV  # before the next pass gives as many
            logits_BLV, _ = passes.spliced(batch, found, function)
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
    return [site] if kind == "resid" or not int(block) else [f"resid.{int(block) - 1}", site]


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


class Moved(NamedTuple):
    """What a replacement changes in a language model, over some contexts.

    Args:
        contexts: number of contexts.
        tokens: number of tokens whose vectors it changes.
        loss: change of the mean cross-entropy of a predicted token, in nats.
        chances_V: change of the next token's probabilities, a mean over these tokens, float64; the
            tokens are those of the tokenizer, which a model's logits may exceed.
    """

    contexts: int
    tokens: int
    loss: float
    chances_V: Tensor


@torch.inference_mode()
def moved(passes: Passes, contexts_C2: np.ndarray, function: Replacement) -> Moved:
    """Return what a replacement changes in some of the contexts of a store.

    Losses are those of all predicted tokens in the contexts; see ``spliced_losses``. Probabilities
    are those of the token behind each one whose vector changes.
    """
    numbers_N, special = torch.arange(len(passes.documents)), torch.tensor(passes.splice.special)
    sums_22N = torch.zeros(2, 2, len(numbers_N), dtype=torch.float64)
    tokens, predicted, chances_V = 0, 0, torch.zeros(1, dtype=torch.float64)
    for batch in passes.batches(contexts_C2):
        targets = _targets(batch, numbers_N, special)
        logits_BLV, found = passes.clean(batch)
        spliced_BLV, vectors_BLD = passes.spliced(batch, found, function)
        changed_BL = (vectors_BLD != found[passes.splice.site]).any(-1)
        tokens += int(changed_BL.sum())
        predicted += sum(len(target.ids_P) for target in targets)
        clean = [*map(_clean, _predicting(logits_BLV, targets))]
        for sums_2N, sign, both_BLV in zip(
            sums_22N, (-1, 1), (logits_BLV, spliced_BLV), strict=True
        ):
            _add(sums_2N, both_BLV, clean, targets)
            chances_V = chances_V + sign * both_BLV[changed_BL].softmax(-1).double().sum(0).cpu()
    clean_N, spliced_N = sums_22N[:, 0]
    loss = (spliced_N - clean_N).sum().item() / max(predicted, 1)
    own_V = chances_V[: len(passes.model.tokenizer)]
    return Moved(len(contexts_C2), tokens, loss, own_V / max(tokens, 1))
