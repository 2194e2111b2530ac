"""Which tokens of a store are read, and the statistics of exactly these."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor

from implicit_em.base.errors import ConfigError, WriteError
from implicit_em.base.files import read_bytes
from implicit_em.base.threads import torch_threads
from implicit_em.base.values import check_word
from implicit_em.language.store import ActivationStore, save_tensors

QUANTILES = (0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1.0)
"""Shares of the tokens whose norms are at most the quantile."""
VALUES = 2**22
"""Number of values to add up at a time."""

SAVED = ("count", "mean", "covariance", "fourth", "norms")
"""Names of the fields of ``Statistics`` in the file that keeps them."""
DIGEST = "sha256"
"""Name of their digest there, uint8."""


@dataclass(frozen=True)
class TokenFilter:
    """Tokens that are left out when a store is read.

    Args:
        first_positions: number of first positions of each context that are left out.
        drop_special_tokens: whether special tokens are left out.
        largest_norm: largest norm of a vector; tokens with a larger one are left out. ``None`` for
            no limit.
        limits: pairs of a site and the largest norm there; a token must keep all of them.
    """

    first_positions: int = 0
    drop_special_tokens: bool = False
    largest_norm: float | None = None
    limits: tuple[tuple[str, float], ...] = field(default=(), repr=False)

    def needs(self, site: str) -> tuple[str, ...]:
        """Return the names of the arrays of a shard that decide."""
        sites = dict.fromkeys([site, *(name for name, _ in self.limits)])
        return "token", "position", *(f"norm.{name}" for name in sites)

    def kept(self, arrays: Mapping[str, Tensor], site: str, special: Collection[int]) -> Tensor:
        """Return which tokens of a shard stay, bool, shape ``(N,)``.

        Args:
            arrays: arrays of the shard: those that ``needs`` names.
            site: site of the vectors, whose norms count.
            special: token ids that are no text.
        """
        kept_N = arrays["position"] >= self.first_positions
        if self.drop_special_tokens:
            kept_N &= ~torch.isin(arrays["token"], torch.tensor(sorted(special), dtype=torch.int32))
        if self.largest_norm is not None:
            kept_N &= arrays[f"norm.{site}"] <= self.largest_norm
        for name, largest in self.limits:
            kept_N &= arrays[f"norm.{name}"] <= largest
        return kept_N


@dataclass(frozen=True)
class Statistics:
    """Statistics of the vectors that a filter leaves, float64.

    Args:
        count: number of vectors N.
        mean_D: their mean.
        covariance_DD: their covariance about the mean, divided by N.
        fourth: mean of the fourth power of their distance from the mean, shape ``()``.
        norms_Q: the quantiles of their norms at ``QUANTILES``.
    """

    count: int
    mean_D: Tensor
    covariance_DD: Tensor
    fourth: Tensor
    norms_Q: Tensor

    def digest(self, purpose: str = "") -> str:
        """Return the SHA-256 of all bits of the statistics and of a purpose."""
        found = hashlib.sha256(purpose.encode())
        for name, array in self.arrays().items():
            found.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
            found.update(array.numpy().tobytes())
        return found.hexdigest()

    def arrays(self) -> dict[str, Tensor]:
        """Return the statistics by their names in the file that keeps them."""
        values = (torch.as_tensor(getattr(self, field.name)) for field in fields(self))
        return dict(zip(SAVED, values, strict=True))


def statistics_of(
    store: ActivationStore, site: str, split: str = "train", tokens: TokenFilter = TokenFilter()
) -> Statistics:
    """Return the statistics of a site over exactly the tokens of a split that a filter leaves.

    They are computed in two passes, by one thread, so their bits can be repeated. The store's
    directory keeps them for each filter, with their digest. They are computed again if the digest
    does not match, and each time if nothing can be written.

    Raises:
        ConfigError: if the store lacks the site, or no token is left.
        DamagedError: if a shard is missing or damaged; the message names it.
    """
    check_word(f"{store.path}: site", site, store.manifest.sites)
    file = kept_at(store, site, split, tokens)
    with suppress(Exception):  # a damaged file may raise any
        saved = load(read_bytes(file))
        count, *others = (saved[name] for name in SAVED)
        found = Statistics(int(count), *others)
        if torch.equal(saved[DIGEST], _as_tensor(found.digest(file.stem))):
            return found
    with torch_threads(1):
        found = _computed(store, site, split, tokens)
    with suppress(WriteError):
        save_tensors(file, {**found.arrays(), DIGEST: _as_tensor(found.digest(file.stem))})
    return found


def _as_tensor(digest: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)


def kept_at(store: ActivationStore, site: str, split: str, tokens: TokenFilter) -> Path:
    """Return the file in which the store keeps what ``statistics_of`` returns."""
    shards = [shard.sha256 for shard in store.shards(split)]
    key = json.dumps([site, asdict(tokens), sorted(store.manifest.special_tokens), shards])
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    return store.path / "statistics" / f"{name}.safetensors"


def _computed(store: ActivationStore, site: str, split: str, tokens: TokenFilter) -> Statistics:
    count, norms = 0, []
    total_D, products_DD, fourth = (torch.zeros((), dtype=torch.float64) for _ in range(3))
    for x_BD, norms_B in _vectors(store, site, split, tokens):
        count, total_D = count + len(x_BD), total_D + x_BD.sum(0)
        norms.append(norms_B.numpy())
    if not count:
        raise ConfigError(f"{store.path}: {tokens} leaves no token of {split}")
    mean_D = total_D / count
    for x_BD, _ in _vectors(store, site, split, tokens):
        x_BD -= mean_D
        products_DD = products_DD + x_BD.T @ x_BD
        fourth = fourth + x_BD.square().sum(1).square().sum()
    norms_Q = torch.from_numpy(np.quantile(np.concatenate(norms).astype(np.float64), QUANTILES))
    return Statistics(count, mean_D, products_DD / count, fourth / count, norms_Q)


def _vectors(
    store: ActivationStore, site: str, split: str, tokens: TokenFilter
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield vectors that stay, float64, and their norms, some at a time."""
    size = max(1, VALUES // store.manifest.sites[site])
    for shard in store.shards(split):
        arrays = store.read(shard, [site, *tokens.needs(site)])
        kept = tokens.kept(arrays, site, store.manifest.special_tokens).nonzero()[:, 0]
        for rows in kept.split(size):
            if len(rows):
                yield arrays[site][rows].double(), arrays[f"norm.{site}"][rows]
