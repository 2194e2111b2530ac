"""One harvest: from a composed configuration to a store, or to one part of its shards."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from implicit_em.base import interruption
from implicit_em.base.errors import ConfigError, one_line
from implicit_em.base.progress import Progress, working
from implicit_em.base.threads import torch_threads
from implicit_em.language import contexts
from implicit_em.language.contexts import Affixes, Batch, Gathered, PlannedShard
from implicit_em.language.models import LanguageModel
from implicit_em.language.settings import HarvestSettings
from implicit_em.language.store import (
    DOCUMENTS,
    SPLITS,
    TOKENS,
    VOCABULARY,
    Documents,
    Manifest,
    Shard,
)
from implicit_em.language.texts import Source
from implicit_em.language.writing import StoreWriter, refuse_small_disk

log = logging.getLogger(__name__)

LIBRARIES = ("torch", "transformers")
"""Libraries whose versions a store names."""


def harvest(cfg: DictConfig) -> None:
    """Write the shards of this part that are missing; the same call goes on after any end.

    Args:
        cfg: composed configuration.

    Raises:
        ConfigError: if a setting, the model or the text is refused, the directory holds another
            store, or its disk is too small.
        WriteError: if a file cannot be written.
        Interrupted: if a signal asked for it.
    """
    settings = HarvestSettings.of(cfg)
    writer = StoreWriter(settings.store)
    writer.refuse_other(settings.deciding())
    with interruption.listening(), torch_threads(settings.threads):
        work = prepare(settings, writer)
        missing = _missing(writer, work)
        _announce(writer, work.manifest, missing)
        writer.begin(work.manifest, work.documents, work.model.vocabulary())
        mine = [place for place in missing if place % settings.parts == settings.part]
        write_shards(work, writer, mine)
        _conclude(writer, work)


@dataclass(frozen=True)
class Work:
    """What a harvest needs to write any of its shards."""

    settings: HarvestSettings
    model: LanguageModel
    affixes: Affixes
    documents: Documents
    shards: list[PlannedShard]
    manifest: Manifest


def prepare(settings: HarvestSettings, writer: StoreWriter) -> Work:
    """Load the model, read the text, and plan the shards; nothing is written.

    Raises:
        ConfigError: if the model or the text is refused.
    """
    with working(f"loading {settings.lm.name}"):
        model = LanguageModel.load(settings.lm, settings.device)
    model.stop_after(settings.sites)
    affixes = contexts.affixes_of(model, settings.context)
    gathered = _text_of(writer, settings, model, affixes)
    shards = contexts.plan(gathered.documents, settings, affixes)
    manifest = _describe(settings, model, affixes, gathered, shards)
    return Work(settings, model, affixes, gathered.documents, shards, manifest)


def write_shards(work: Work, writer: StoreWriter, places: Sequence[int]) -> None:
    """Write the shards at these places in the list of all.

    Raises:
        ConfigError: if a vector is not finite as a number of the store.
        WriteError: if a file cannot be written.
        Interrupted: if a signal asked for it.
    """
    tokens = sum(work.shards[place].tokens for place in places)
    with Progress("harvesting", tokens, "tokens") as progress:
        for place in places:
            writer.write(place, read_shard(work, work.shards[place], progress.advance))


def build_source(settings: HarvestSettings) -> Source:
    """Return the source of the text that the settings name, or raise ``ConfigError``."""
    try:
        return instantiate(settings.text, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, ConfigError):
            raise error.__cause__ from None
        raise ConfigError(f"text: {one_line(error)}") from error


def _text_of(
    writer: StoreWriter, settings: HarvestSettings, model: LanguageModel, affixes: Affixes
) -> Gathered:
    """Return the documents of the store if it was begun; else read and tokenise them."""
    documents = writer.documents()
    if documents is not None and writer.manifest is not None:
        return Gathered(documents, writer.manifest.labels, writer.manifest.text["sha256"])
    with working("reading the text"):
        return contexts.gather(build_source(settings), model.tokenizer, settings, affixes)


def _describe(
    settings: HarvestSettings,
    model: LanguageModel,
    affixes: Affixes,
    gathered: Gathered,
    shards: list[PlannedShard],
) -> Manifest:
    documents = gathered.documents
    return Manifest(
        settings=settings.deciding(),
        model={
            "name": model.name,
            "architecture": type(model.network).__name__,
            "blocks": model.depth,
            "files": model.files,
        },
        text={
            "documents": len(documents),
            "tokens": len(documents.ids_T),
            "sha256": gathered.sha256,
        },
        versions={library: version(library) for library in LIBRARIES},
        sites=dict.fromkeys(settings.sites, model.width),
        dtype=settings.dtype,
        special_tokens=sorted(model.tokenizer.all_special_ids),
        prefix=affixes.prefix,
        suffix=affixes.suffix,
        labels=gathered.labels,
        files={DOCUMENTS: None, VOCABULARY: None},
        shards=[Shard(split=s.split, number=s.number, tokens=s.tokens) for s in shards],
    )


def _missing(writer: StoreWriter, work: Work) -> list[int]:
    """Return the places of the shards that are missing, of those that are to be written."""
    kept = work.settings.kept
    later = [s.split == "train" and kept is not None and s.number >= kept for s in work.shards]
    return [place for place in writer.missing(work.manifest) if not later[place]]


def _announce(writer: StoreWriter, manifest: Manifest, missing: list[int]) -> None:
    """Say what will be written, and refuse it if the disk is too small."""
    shards = manifest.shards
    tokens = sum(shard.tokens for shard in shards)
    size = tokens * manifest.bytes_a_token / 1e9
    there = len(shards) - len(writer.missing(manifest))
    asked, text = manifest.settings["tokens"], manifest.text
    end = ", all that the text has" if asked is not None and text["tokens"] < asked else ""
    log.info(
        "%s",
        f"{writer.path}: {', '.join(manifest.sites)} of {tokens:,} tokens, "
        f"{text['documents']:,} documents{end}; {len(shards)} shards, {size:.3g} GB; "
        f"{there} shards are there already",
    )
    needed = sum(shards[place].tokens for place in missing) * manifest.bytes_a_token
    refuse_small_disk("store", writer.path, needed)


def _conclude(writer: StoreWriter, work: Work) -> None:
    later, settings = writer.end(), work.settings
    if missing := len(_missing(writer, work)):
        part = f"part {settings.part} of {settings.parts}"
        log.info("%s: %s is complete; %d shards of others are missing", writer.path, part, missing)
    elif later:
        log.info("%s: complete but for %d shards, which data.ahead=N makes", writer.path, later)
    else:
        log.info("%s is complete", writer.path)


def read_shard(
    work: Work, shard: PlannedShard, advance: Callable[[int], Any] = bool
) -> dict[str, Tensor]:
    """Return the arrays of a shard: vectors of every site, their norms, and their tokens.

    Args:
        work: what the harvest needs.
        shard: the shard.
        advance: function that is told how many tokens were read.

    Raises:
        ConfigError: if a vector is not finite as a number of the store.
        Interrupted: if a signal asked for it.
    """
    settings, model = work.settings, work.model
    seed = [settings.seed, SPLITS.index(shard.split), shard.number]
    rows_N = torch.from_numpy(np.random.default_rng(seed).permutation(shard.tokens))
    dtype = getattr(torch, settings.dtype)
    arrays = {name: torch.empty(shard.tokens, dtype=torch.int32) for name in TOKENS}
    for site in settings.sites:
        arrays[site] = torch.empty(shard.tokens, model.width, dtype=dtype)
        arrays[f"norm.{site}"] = torch.empty(shard.tokens)
    done = 0
    with model.reading(settings.sites) as found:
        for batch in batches_of(work, shard):
            interruption.stop_if_requested()
            model.forward(batch.ids_BL, batch.mask_BL)
            inside_BL = batch.mask_BL.bool()
            rows = rows_N[done : done + int(inside_BL.sum())]
            for name, values_BL in zip(TOKENS, batch.tokens, strict=True):
                arrays[name][rows] = values_BL[inside_BL].int()
            for site in settings.sites:
                vectors = found[site].cpu()[inside_BL]
                arrays[site][rows] = vectors.to(dtype)
                arrays[f"norm.{site}"][rows] = torch.linalg.vector_norm(vectors, dim=-1)
            done += len(rows)
            advance(len(rows))
    for site in settings.sites:
        _check_finite(site, arrays[site], arrays[f"norm.{site}"], settings.dtype)
    return arrays


def batches_of(work: Work, shard: PlannedShard) -> Iterator[Batch]:
    """Yield the batches of a shard; those with the longest contexts come first."""
    settings, padding = work.settings, work.model.padding_id
    how = (settings.context, work.affixes, padding, settings.batch_size)
    return contexts.batches(shard.bounds_C2, work.documents, *how)


def _check_finite(site: str, vectors_ND: Tensor, norms_N: Tensor, dtype: str) -> None:
    if not norms_N.isfinite().all():
        raise ConfigError(f"sites={site}: the model gives vectors that are not finite")
    if not vectors_ND.isfinite().all():
        raise ConfigError(
            f"dtype={dtype}: {site} has numbers beyond {torch.finfo(vectors_ND.dtype).max:,.0f}; "
            "allowed is bfloat16"
        )
