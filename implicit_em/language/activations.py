"""Vectors from inside a language model, read from a store."""

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from implicit_em.base.digest import state_of
from implicit_em.base.errors import ConfigError
from implicit_em.base.values import check_number, check_whole, check_word
from implicit_em.data.arrays import ArrayOnDisk
from implicit_em.data.modules import ResidentDataModule, fixed_choice
from implicit_em.data.on_disk import Samples, SamplesOnDisk, WindowLoader
from implicit_em.data.resident import ResidentLoader, in_one_window
from implicit_em.language.ahead import Making, Producer, Stream, StreamLoader
from implicit_em.language.hooks import site_of
from implicit_em.language.statistics import Statistics, TokenFilter, kept_at, statistics_of
from implicit_em.language.store import SPLITS, ActivationStore, Shard, Split, is_whole
from implicit_em.language.writing import refuse_small_disk
from implicit_em.models.normalizing import Normalizer, normalizer_of

if TYPE_CHECKING:
    from implicit_em.language.inside import Inside
    from implicit_em.language.seen import Texts

log = logging.getLogger(__name__)

HALF, FLOAT32 = 2, 4
"""Bytes of a number in the store, and of a normalised one."""
SURE = 0.99
"""Share of its tokens, as estimated from some shards, that a store surely has."""
STARTED = 2**17
"""Largest number of vectors that a model starts from."""
PROBED = 20_000
"""Largest number of tokens that the linear probe is trained on, and measured on."""


@dataclass(frozen=True)
class Kept:
    """The tokens of a store that a rule leaves.

    Args:
        tokens: the rule, with the largest norm as a number.
        rows: of each split, the rows of these tokens; they count over the split's shards, int64.
        ends: of each split, the number of tokens left up to the end of each shard, int64.
    """

    tokens: TokenFilter
    rows: dict[Split, Tensor]
    ends: dict[Split, Tensor]


class ActivationDataModule(ResidentDataModule):
    """Tokens of a store that ``implicit-em harvest`` has written.

    The documents of the store's split ``train`` are trained on, those of ``validation`` are held
    out, and those of ``test`` are measured at the end. Of the held-out tokens, the first
    ``val_size`` are used, or all if there are fewer; shards mix all documents of a split.

    Tokens that a rule leaves out stay in the store. If all others fit into ``buffer`` as float32,
    they are held in memory, beside a copy as they were read. Otherwise they stay in their files. An
    epoch then goes through windows of shards, in a random order. A window takes at most half of
    ``buffer``, and its tokens are shuffled. The next one is read meanwhile. A file that changes
    after ``setup`` is never taken for what it was: reading it raises ``DamagedError``, and so does
    saving a checkpoint.

    With ``ahead``, the store need not be complete: training shards that it lacks are made while a
    run trains, see ``language.ahead.Stream``. There is one epoch, and its windows follow the order
    of the shards. The largest norm, the statistics and ``split`` take training tokens of the first
    ``kept`` shards alone. These, and the shards of the other splits, are made first and stay.

    Args:
        path: directory of the store.
        site: place in the model whose vectors are taken; ``None`` if the store has only one. With a
            list, the vectors of a token at these sites stand side by side, for a crosscoder.
        label: label of the documents that the probe predicts; ``None`` probes nothing.
        first_positions: number of first positions of each context that are left out.
        special_tokens: whether special tokens are kept.
        largest_norm: largest norm of a vector, in medians of the training tokens that the other
            rules leave; tokens with a larger one are left out. ``None`` for no limit.
        buffer: number of bytes for vectors in memory.
        digest: digest of the store, from ``configuration.digest_of_store``; any other store is
            refused. ``None`` accepts any. With ``ahead``, it is that of the plan.
        ahead: number of shards that are made ahead of the window that is trained on; ``None`` to
            read a whole store.
        kept: number of training shards that stay, with ``ahead``.
        tokens: number of tokens of the epoch, of those that are left, with ``ahead``.
        producer: what makes shards, with ``ahead``; see ``language.ahead.Producer``.
        target: place whose vectors are to be explained; ``None`` for the ``site``, ``mlp`` for the
            output of the MLP in its block. A row of the data holds a sample and its target. Each
            place is normalised by itself, and a token stays if the rules leave it at each.
        kwargs: arguments of ``ResidentDataModule``.

    Raises:
        ConfigError: if there is no store, it is not complete, or a setting does not fit it.
        DamagedError: if its manifest is damaged.
    """

    def __init__(
        self,
        path: str | Path,
        site: str | Sequence[str] | None = None,
        label: str | None = None,
        first_positions: int = 0,
        special_tokens: bool = False,
        largest_norm: float | None = 10.0,
        buffer: float = 2e9,
        digest: str | None = None,
        ahead: int | None = None,
        kept: int = 8,
        tokens: int | None = None,
        producer: Producer | None = None,
        target: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_whole("ahead", ahead, 1, or_null=True)
        check_whole("kept", kept, 1)
        if ahead is not None:
            check_whole("tokens", tokens, 2)
        elif tokens is not None:
            raise ConfigError(f"tokens={tokens}: only with data.ahead; an epoch takes all tokens")
        self.store = ActivationStore(path, None if ahead is None else kept)
        manifest = self.store.manifest
        if site is None and len(manifest.sites) == 1:
            (site,) = manifest.sites
        sites, target = _places(site, target, manifest.sites, f" in the store {path}")
        explained = sites if target is None else [target]
        columns = sites if target is None else [*sites, target]
        check_word("label", label, (None, *manifest.labels), f" in the store {path}")
        check_whole("first_positions", first_positions, 0)
        check_word("special_tokens", special_tokens, (True, False))
        check_number("buffer", buffer, lambda x: x > 0, "numbers greater than 0")
        if largest_norm is not None:
            check_number("largest_norm", largest_norm, lambda x: x > 0, "numbers greater than 0")
        super().__init__(**kwargs)
        self.sites: tuple[str, ...] = tuple(sites)
        """Places whose vectors make a sample."""
        self.site = "+".join(self.sites)
        self.columns: tuple[str, ...] = tuple(columns)
        """Places whose vectors stand side by side in a row."""
        if self.normalize == "l2" and len(self.columns) > 1:
            raise ConfigError("normalize=l2: a sample is of several sites, and has no one length")
        self.out_features = None if target is None else manifest.sites[target]
        self.sample_shape = (sum(manifest.sites[name] for name in self.columns),)
        ends = [0, *accumulate(manifest.sites[name] for name in explained)]
        self.parts = dict(zip(explained, map(slice, ends, ends[1:]), strict=False))
        self.tokens = TokenFilter(first_positions, not special_tokens, largest_norm)
        self.label, self.buffer, self.digest = label, buffer, digest
        self.ahead, self.epoch_tokens, self.producer = ahead, tokens, producer
        self._stream: Stream | None = None
        self._ends: list[int] = []  # see Stream

    @staticmethod
    def for_one_run(settings: Mapping[str, Any]) -> str | None:
        """Return why only one run can use a store, if its shards are made ahead of a training."""
        path = Path(settings["path"]).expanduser()
        if settings.get("ahead") is None or is_whole(path):
            return None
        return (
            f"data.ahead: {path} is made as it is read, which a single run may do; implicit-em "
            "harvest makes a whole store, for any number of runs"
        )

    @staticmethod
    def refusal(settings: Mapping[str, Any], epochs: int, processes: bool) -> str | None:
        """Return why a run cannot read shards that are made ahead of its training."""
        if (ahead := settings.get("ahead")) is None:
            return None
        if epochs > 1:
            return (
                f"trainer.max_epochs={epochs}: with data.ahead={ahead}, allowed is 1: each shard "
                "is read once"
            )
        if processes:
            return f"data.ahead={ahead}: one process trains; choose another trainer"
        return None

    @classmethod
    def placed(
        cls, settings: Mapping[str, Any], metadata: Mapping[str, Any], out_features: int | None
    ) -> Mapping[str, Any]:
        """Return settings whose site, and target, are those that the model's hooks name.

        Raises:
            ConfigError: if the store is of another model or lacks a site, or if another site was
                typed.
        """
        store, target = ActivationStore(settings["path"]), settings.get("target")
        site = site_of(metadata, store, settings.get("site"))
        if out_features is None:
            return {**settings, "site": site}
        if target == "mlp" and isinstance(site, str):
            target = f"mlp.{site.rpartition('.')[2]}"
        return {**settings, "site": site, "target": site_of(metadata, store, target, "target")}

    def origin(self) -> dict[str, Any]:
        """Return the sites of a sample, and of what is explained if it is another place."""
        return {**super().origin(), "site": self.site}

    def content_digest(self) -> str | None:
        """Return the digest of the store."""
        return self.store.digest

    def seen(self, samples: Samples, labels: Tensor) -> "Texts":
        """Return the tokens of final samples, which a viewer shows in their documents."""
        from implicit_em.language.seen import Texts  # here and below: a training shows nothing

        return Texts(self, samples)

    def inside(self, purpose: str, lm: str | None = None) -> "Inside":
        """Return what can be measured inside the store's language model; it is found on use."""
        from implicit_em.language.inside import Inside

        return Inside(self, purpose, lm)

    def prepare_data(self) -> None:
        """Refuse another store, and one with damaged files; make what is missing and stays."""
        if self.digest not in (None, self.store.digest):
            raise ConfigError(
                f"digest={self.digest}: path={self.store.path} is another store: "
                f"{self.store.digest}"
            )
        if self.ahead is not None and (missing := self.store.missing()):
            self._make(missing)
        for shard in self.store.held:
            self.store.check(shard)

    def _make(self, missing: Sequence[int]) -> None:
        """Make shards that stay."""
        manifest, path = self.store.manifest, self.store.path
        tokens = sum(manifest.shards[place].tokens for place in missing)
        refuse_small_disk("path", path, tokens * manifest.bytes_a_token)
        log.info(
            "data: harvesting the shards that stay: %d, %s tokens", len(missing), f"{tokens:,}"
        )
        with closing(Making(self.producer, path)) as making:
            for place in missing:
                making.ask(place, "")
            for _ in missing:
                making.answer()
        self.store = ActivationStore(path, self.store.kept)

    def source(self) -> Any:
        """Return the store with the state of its files, and the settings that select from it."""
        choice = (self.columns, self.label, self.tokens, self.val_size, self.buffer)
        files = [state_of(self.store.file(shard)) for shard in self.store.held]
        return ActivationDataModule, self.store.path.resolve(), self.store, choice, files

    def setup(self, stage: str | None = None) -> None:
        """Read and normalise the vectors, unless a module with the same source has done so."""
        held_out = len(self._kept.rows["validation"])
        if self.final == "validation" and held_out < 2:
            raise ConfigError(f"final=validation: {_too_few(self.store.path, held_out)}")
        self.val_size = min(self.val_size, held_out)
        if self.ahead is not None:
            self._refuse_too_many_tokens()
        super().setup(stage)

    def _refuse_too_many_tokens(self) -> None:
        """Refuse more tokens than the training shards have, judged by those that stay."""
        shards = [shard for shard in self.store.manifest.shards if shard.split == "train"]
        stay = self.store.shards("train")
        every, read = (sum(shard.tokens for shard in some) for some in (shards, stay))
        left = len(self._kept.rows["train"]) * every / read
        if self.epoch_size > (most := int(SURE * left)):
            raise ConfigError(
                f"tokens={self.epoch_size}: allowed are up to {most}, judged by the {len(stay)} "
                "shards that stay"
            )

    def read(self, train: bool) -> tuple[Any, Tensor]:
        """Return vectors ``(N, D)``, those held out last, and the numbers of their labels."""
        if not train:
            files, rows, labels = self._split("test")
        else:
            files, rows, labels = self._split("train")
            if self.val_size:
                start = sum(file.shape[0] for file, *_ in files)
                further, held_out, others = self._split("validation")
                files = [*files, *further]
                rows = torch.cat([rows, start + held_out[: self.val_size]])
                labels = torch.cat([labels, others[: self.val_size]])
        samples = SamplesOnDisk(files)[rows]
        return samples.in_memory() if self._in_memory else samples, labels

    def _split(self, name: Split) -> tuple[list[list[ArrayOnDisk]], Tensor, Tensor]:
        """Return a split's vectors, and the rows and labels of its tokens that are left."""
        files = [self.store.arrays(shard, self.columns) for shard in self.store.shards(name)]
        rows = self._kept.rows[name]
        if self.label is None:
            return files, rows, torch.zeros(1, dtype=torch.int64).expand(len(rows))
        numbers_N = self.store.documents().labels[self.label].long()
        return files, rows, numbers_N[self.column("document", name)]

    @property
    def _in_memory(self) -> bool:
        count = sum(map(len, self._kept.rows.values()))
        return FLOAT32 * count * self.sample_shape[0] <= self.buffer

    @cached_property
    def _kept(self) -> Kept:
        return _kept(self.store, self.columns, self.tokens)

    def _fitted(self, splits: Any) -> Normalizer:
        parts = [
            normalizer_of(self.normalize, s.count, s.mean_D, s.covariance_DD, s.fourth)
            for s in map(self.statistics, self.columns)
        ]
        return Normalizer.side_by_side(parts)

    def statistics(self, site: str | None = None) -> Statistics:
        """Return the statistics of the training tokens that are left; the store keeps them.

        Args:
            site: one of ``columns``; ``None`` for the first.
        """
        return _statistics(self.store, site or self.columns[0], "train", self.rule)

    @property
    def normalized_by(self) -> str | None:
        """SHA-256 of the statistics that normalise the samples; ``None`` without any."""
        if self.normalizer is None:
            return None
        first, *others = (self.statistics(name).digest() for name in self.columns)
        return hashlib.sha256("".join([first, *others]).encode()).hexdigest() if others else first

    def _remarks(self) -> list[str]:
        found = [self.statistics(name) for name in self.columns]
        count, total = found[0].count, sum(shard.tokens for shard in self.store.shards("train"))
        anisotropies = [float(s.mean_D.norm() / s.covariance_DD.trace().sqrt()) for s in found]
        named = zip(anisotropies, self.columns, strict=True)
        listed = ", ".join(f"{a:.2f}" + f" at {site}" * (len(found) > 1) for a, site in named)
        again = f"data: {self.store.path} cannot be written: each run computes its statistics again"
        is_kept = kept_at(self.store, self.columns[0], "train", self.rule).exists()
        return [
            *([] if is_kept else [again]),
            f"data: {count:,} training tokens, {total - count:,} left out; "
            f"anisotropy |mean|/|std| {listed}",
            *self._remarks_on_order(),
            *super()._remarks(),
        ]

    def _remarks_on_order(self) -> list[str]:
        if self.ahead is None:
            return []
        stream = self._streamed(self.ahead)
        largest = max(map(len, stream.windows))
        return [
            f"data: an epoch of {len(stream):,} tokens, in windows of up to {largest} shards; a "
            f"window and the shards ahead of it take up to {stream.most_bytes / 1e9:.3g} GB of disk"
        ]

    @property
    def epoch_size(self) -> int:
        """Number of training tokens of an epoch."""
        return super().epoch_size if self.epoch_tokens is None else self.epoch_tokens

    def _training_batches(self, kind: type[ResidentLoader] = ResidentLoader) -> ResidentLoader:
        if self.ahead is None:
            on_disk = isinstance(self.split("train")[0], SamplesOnDisk)
            return super()._training_batches(WindowLoader if on_disk else ResidentLoader)
        stream = self._stream = self._streamed(self.ahead)
        none = torch.empty(0)  # no training reads labels
        rows = range(len(stream))
        return StreamLoader(stream, none, self.batch_size, indices=rows, drop_last=self.drop_last)

    def _streamed(self, ahead: int) -> Stream:
        """Return the training tokens in the order of their shards."""
        shards = self.store.manifest.shards
        places = [place for place, shard in enumerate(shards) if shard.split == "train"]
        sizes = {place: shards[place].tokens for place in places}
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        return Stream(
            self.store,
            torch.Size((self.epoch_size, *self.sample_shape)),
            self.normalizer,
            together(sizes, self._window_size),
            self._samples_of,
            self.seed,
            ahead,
            self.producer,
            self._ends,
            device,
            lambda: self.on_progress(),
        )

    def _samples_of(self, shards: Sequence[Shard]) -> SamplesOnDisk:
        """Return the vectors of shards whose tokens are left."""
        special, site = self.store.manifest.special_tokens, self.columns[0]
        columns = [self.store.read(shard, self.rule.needs(site)) for shard in shards]
        kept = torch.cat([self.rule.kept(arrays, site, special) for arrays in columns])
        samples = SamplesOnDisk([self.store.arrays(shard, self.columns) for shard in shards])
        return samples[kept.nonzero()[:, 0]]

    @property
    def progress(self) -> str:
        """How many shards were made for the training; empty if none has to be made."""
        return "" if self._stream is None else self._stream.progress

    def state_dict(self) -> dict[str, Any]:
        """Return the ends of the windows of a stream; raise ``DamagedError`` for changed files."""
        return super().state_dict() | ({} if self.ahead is None else {"ends": [*self._ends]})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the windows of a stream."""
        self._ends[:] = state["ends"]

    def teardown(self, stage: str) -> None:
        """Drop the shards that were made for a training that has finished."""
        if self._stream is not None:
            self._stream.close(drop=True)

    def on_exception(self, exception: BaseException) -> None:
        """Make no more shards for a training that does not go on."""
        if self._stream is not None:
            self._stream.close()

    def _shuffled(self) -> Tensor:
        """Return the rows: those held out first, then the others, which their shards mix."""
        return torch.arange(len(self._kept.rows["train"]) + self.val_size).roll(self.val_size)

    @property
    def rule(self) -> TokenFilter:
        """The rule that leaves tokens out, with the largest norm as a number."""
        return self._kept.tokens

    def column(self, name: str, split: Split) -> Tensor:
        """Return an array of the store, such as ``token``, for the tokens of a split that are left.

        Those of ``train`` come in the order of ``train_indices``.
        """
        return self.store.column(name, split)[self._kept.rows[split]]

    def probed(self, labels: Tensor) -> Tensor:
        """Return which tokens of a split a probe takes: at most ``PROBED``, with a label."""
        rows = fixed_choice(len(labels), PROBED)
        return rows[labels.cpu()[rows] >= 0]

    def starting_samples(self, most: int | None = None) -> Tensor:
        """Return training vectors ``(N, D)`` to start a model from, at most ``STARTED``."""
        return super().starting_samples(min(most or STARTED, STARTED))

    def shuffle(self, rows: Tensor, generator: np.random.Generator) -> list[Tensor]:
        """Return the training rows in windows of shards, whose tokens are shuffled."""
        if self._in_memory:
            return super().shuffle(rows, generator)
        ends = self._kept.ends["train"].tolist()
        shards = [rows[start:end] for start, end in pairwise([0, *ends])]
        return in_windows(shards, self._window_size, generator)

    @property
    def _window_size(self) -> int:
        """Largest number of tokens of a window of several shards."""
        return int(self.buffer / 2 / (HALF * self.sample_shape[0]))


def _places(
    site: Any, target: str | None, known: Collection[str], where: str
) -> tuple[list[str], str | None]:
    """Return the sites that are read and the one that is explained, or raise ``ConfigError``."""
    is_one = isinstance(site, str) or not isinstance(site, Sequence)
    sites = [site] if is_one else [*site]
    for one in sites:
        check_word("site", one, known, where)
    if target == "mlp" and len(sites) == 1:
        target = f"mlp.{sites[0].rpartition('.')[2]}"
    check_word("target", target, (None, *known), where)
    named = [*sites, *([] if target is None else [target])]
    if not sites or len(set(named)) < len(named):
        listed = sites[0] if is_one else f"[{', '.join(sites)}]"
        raise ConfigError(
            f"site={listed}, target={target or 'null'}: needs a site, and each site is named once"
        )
    return sites, target


def in_windows(shards: Sequence[Tensor], most: int, generator: np.random.Generator) -> list[Tensor]:
    """Return the rows of all shards in windows, which follow one another.

    A window takes whole shards, in a random order, and its rows are shuffled. It takes at most
    ``most`` rows, or one shard that has more.
    """
    numbers = generator.permutation(len(shards)).tolist()
    windows = together({number: len(shards[number]) for number in numbers}, most)
    rows = [torch.cat([shards[number] for number in window]) for window in windows]
    return [in_one_window(window, generator)[0] for window in rows]


def together(sizes: Mapping[int, int], most: int) -> list[list[int]]:
    """Return names in their order, in groups of at most a size, or of one that is larger.

    Args:
        sizes: size of each, by its name.
        most: largest size of several together.
    """
    groups: list[list[int]] = []
    room = 0
    for name, size in sizes.items():
        if not groups or size > room:
            groups.append([])
            room = most
        groups[-1].append(name)
        room -= size
    return groups


@lru_cache(maxsize=4)
def _kept(store: ActivationStore, sites: Sequence[str], tokens: TokenFilter) -> Kept:
    """Return the tokens that are left."""
    special, site = store.manifest.special_tokens, sites[0]
    needed = dict.fromkeys(name for one in sites for name in tokens.needs(one))
    columns: dict[Split, dict[str, Tensor]] = {
        split: {name: store.column(name, split) for name in needed} for split in SPLITS
    }
    if (medians := tokens.largest_norm) is not None:
        others = replace(tokens, largest_norm=None).kept(columns["train"], site, special)
        norms = [columns["train"][f"norm.{one}"][others].double().numpy() for one in sites]
        largest = [medians * float(np.median(n)) if len(n) else np.nan for n in norms]
        limits = tuple(zip(sites, largest, strict=True)) if len(sites) > 1 else ()
        tokens = replace(tokens, largest_norm=None if limits else largest[0], limits=limits)
    rows: dict[Split, Tensor] = {}
    ends: dict[Split, Tensor] = {}
    for split in SPLITS:
        kept = tokens.kept(columns[split], site, special)
        rows[split] = kept.nonzero()[:, 0]
        if split != "validation" and len(rows[split]) < 2:
            raise ConfigError(f"{split}: {_too_few(store.path, len(rows[split]))}")
        sizes_S = torch.tensor([shard.tokens for shard in store.shards(split)], dtype=torch.int64)
        ends[split] = torch.searchsorted(rows[split], sizes_S.cumsum(0))
    return Kept(tokens, rows, ends)


_statistics = lru_cache(maxsize=8)(statistics_of)


def _too_few(path: Path, count: int) -> str:
    return f"{count} tokens of path={path} are left; at least 2 are needed"
