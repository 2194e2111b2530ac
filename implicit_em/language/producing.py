"""Shards that are harvested beside a training: ``data.producer``."""

from collections.abc import Callable
from pathlib import Path

import torch

from implicit_em.base.errors import ConfigError
from implicit_em.base.validation import conforming
from implicit_em.language.harvest import prepare, read_shard
from implicit_em.language.model_files import model_of
from implicit_em.language.settings import HarvestSettings
from implicit_em.language.store import Shard
from implicit_em.language.writing import StoreWriter


class Harvest:
    """Harvests the shards of a store that was begun, by the settings in its manifest.

    If these name a CUDA device, it takes the last visible one. A training on one device takes the
    first.

    Args:
        lm: folder, GGUF file or name on the hub of the language model; ``None`` for the place that
            ``conf/lm`` names.
    """

    def __init__(self, lm: str | None = None) -> None:
        self.lm = lm

    def open(self, store: Path) -> Callable[[int, str], Shard]:
        """Return a function that writes a shard, given its place and a folder of the store.

        Raises:
            ConfigError: if there is no store that was begun, or the model is not there, or another.
            DamagedError: if the store is damaged.
        """
        writer = StoreWriter(store)
        # Without documents, the source of text that a manifest names would be built.
        if writer.manifest is None or writer.documents() is None:
            raise ConfigError(f"path={store}: no store; implicit-em harvest begins one")
        lm = model_of(writer.manifest, self.lm)
        elsewhere = {"lm": lm, "store": str(store), "kept": None, "part": 0, "parts": 1}
        saved = {**writer.manifest.settings, **elsewhere}
        settings = conforming(HarvestSettings, saved, f"{store}: settings")
        torch.set_num_threads(settings.threads)
        if settings.device == "cuda" and (count := torch.cuda.device_count()):
            torch.cuda.set_device(count - 1)
        work = prepare(settings, writer)
        writer.begin(work.manifest, work.documents, work.model.vocabulary())

        def write(place: int, folder: str) -> Shard:
            return writer.write(place, read_shard(work, work.shards[place]), folder)

        return write
