"""Activations as Delphi caches them: ``MODULE/START_END.safetensors`` and ``MODULE/config.json``.

Delphi (EleutherAI) lets a language model explain units. Its ``LatentDataset`` reads, from each
file, the ``tokens`` ``(C, L)`` of all contexts and, for each active entry, its ``activations`` and
its ``locations``: number of the context, position there, and unit, counted from START.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors.numpy import save

from implicit_em.base.errors import ConfigError
from implicit_em.base.files import whole, write_json
from implicit_em.language.activations import ActivationDataModule
from implicit_em.language.contexts import batches, contexts_of, cut, harvested_as
from implicit_em.language.hooks import hooks_of
from implicit_em.trained.activity import Activity
from implicit_em.trained.reading import Trained
from implicit_em.training.progress import RateProgress

FILES = 8
"""Largest number of files."""


def write(found: Trained, place: Path) -> None:
    """Write the activations of a trained model on the test documents of its store into a folder.

    Delphi's contexts have one length, so those that are shorter are left out. So are special tokens
    around a context, whose activations no page of Delphi shows.

    Raises:
        ConfigError: if the samples are from no language model, or no context has full length.
    """
    if not isinstance(data := found.data, ActivationDataModule):
        raise ConfigError("format=delphi: the data are from no language model")
    manifest, (samples, _) = data.store.manifest, data.split("test")
    documents, (context, affixes) = data.store.documents(), harvested_as(data.store)
    contexts_C2 = cut(documents, "test", context, affixes)
    contexts_C2 = contexts_C2[np.diff(contexts_C2)[:, 0] == context.length - affixes.size]
    if not len(contexts_C2):
        raise ConfigError("format=delphi: no test document fills a context of the store")
    read = batches(contexts_C2, documents, context, affixes, 0, len(contexts_C2))
    tokens_CL = next(read).ids_BL.int().numpy()
    document_N, place_N, position_N = (
        data.column(name, "test").numpy() for name in ("document", "place", "position")
    )
    context_N = contexts_of(contexts_C2, documents, document_N, place_N)
    _, module, *_ = hooks_of(data.site, manifest.model.get("architecture", ""))
    with TemporaryDirectory(prefix="implicit-em-") as folder:
        with RateProgress(f"{found.address}: encoding", len(samples), "samples") as progress:
            activity = Activity.record(found.model, samples, Path(folder), progress.advance)
        with whole(place) as temporary:
            (temporary / module).mkdir(parents=True)
            for blocks in np.array_split(np.arange(activity.blocks), min(FILES, activity.blocks)):
                units = [unit for block in blocks for unit in activity.block(int(block))]
                start, end = units[0].number, units[-1].number
                rows_E = np.concatenate([unit.samples_E for unit in units])
                values_E = np.concatenate([unit.values_E for unit in units])
                sizes = [len(unit.samples_E) for unit in units]
                unit_E = np.repeat(np.arange(len(units)), sizes)
                order_E = np.lexsort((position_N[rows_E], context_N[rows_E], unit_E))
                order_E = order_E[context_N[rows_E[order_E]] >= 0]
                rows_E = rows_E[order_E]
                columns = (context_N[rows_E], position_N[rows_E], unit_E[order_E])
                arrays = {"locations": np.stack(columns, 1).astype(np.uint32), "tokens": tokens_CL}
                content = save({**arrays, "activations": values_E[order_E]})
                (temporary / module / f"{start}_{end}.safetensors").write_bytes(content)
            length, name = context.length, manifest.model["name"]
            settings = {"model_name": name, "ctx_len": length, "cache_ctx_len": length}
            settings |= {"n_tokens": tokens_CL.size, "n_splits": min(FILES, activity.blocks)}
            write_json(temporary / module / "config.json", settings)
