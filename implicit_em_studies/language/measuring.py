"""What is measured of a run, and which labels are probed."""

import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from implicit_em.data.modules import fixed_choice
from implicit_em.language.absorption import MEASURES as ABSORBED
from implicit_em.language.activations import ActivationDataModule
from implicit_em.language.inside import Inside
from implicit_em.language.models import CausalModel
from implicit_em.language.probing import means_of
from implicit_em.language.settings import LanguageModelSettings
from implicit_em.language.splicing import spliced_losses
from implicit_em.language.store import Split, save_tensors
from implicit_em.language.token_classes import classes_of, newline_next
from implicit_em.metrics.densities import BINS, density_histogram
from implicit_em.metrics.probe import linear_probe, sparse_probe
from implicit_em.metrics.sparse import compact
from implicit_em.models import SparseAutoencoder
from implicit_em.models.normalizing import Normalized
from implicit_em.models.sweeps import Swept
from implicit_em.trained.loading import load_trusted
from implicit_em.training.decoding import BATCH, RidgeDecoder, encoded, fit_ridge
from implicit_em.training.directory import RunDirectory
from implicit_em.training.measurement import energies_of
from implicit_em_studies.language.protocol import Tokens
from implicit_em_studies.shared.measurements import OF_TRAINING, Measurement
from implicit_em_studies.shared.runs import Run

DECODER = "ridge_decoder.safetensors"
"""File of the ridge decoder, beside the model: its ``weight`` ``(K, D)`` and ``bias`` ``(D,)``."""
RUNS_AT_ONCE = 16
"""Number of runs whose reconstructions share the passes of a language model."""
KIND = "kind"
"""Label of the documents that is probed, where the store has it."""
PROBED_UNITS = (1, 5)
"""Numbers of units of a sparse probe."""
REFIT = 3
"""Steps of a refit, where codes are read with one."""


class Largest:
    """A model of whose code only the k entries of largest magnitude are kept.

    Args:
        model: model whose ``encode`` gives the codes.
        k: number of entries that are kept.
    """

    def __init__(self, model: Any, k: int) -> None:
        self.model, self.k = model, k
        self.weight, self.own_decoder = model.weight, model.own_decoder

    def sides(self, rows: Any) -> tuple[Any, Any]:
        """Return the inputs and targets of rows, as the model does."""
        return self.model.sides(rows)

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes ``(..., K)`` of samples ``(..., D)``."""
        codes = self.model.encode(x)
        kept = codes.abs().topk(min(self.k, codes.shape[-1])).indices
        return torch.zeros_like(codes).scatter(-1, kept, codes.gather(-1, kept))


def quality_of(tokens: Tokens, source: str, k: int | None = None) -> Measurement:
    """Return the measurement of runs; with k, only so many entries of a code are kept.

    ``source`` is the label of documents that are drawn together, as in ``sources_of``.
    """
    name = "language" if k is None else f"language_{k}"
    measure = partial(_quality, tokens=tokens, source=source, k=k)
    schema = f"4, {source}, {tokens.fitted}, {tokens.probed}"
    return Measurement(name, schema, measure, OF_TRAINING)


def losses_of_all(
    runs: Sequence[Run], lm: LanguageModelSettings, tokens: Tokens, source: str
) -> pd.DataFrame:
    """Return sums of losses over the tokens of each source, a row for each run.

    The reconstructions of a run are those of its own decoder or, if it has none, of the ridge
    decoder beside it. ``clean``, ``zero`` and ``spliced`` are sums of cross-entropies and
    ``divergence`` of KL divergences in nats, over ``predicted`` tokens; see
    ``harvest.splicing.spliced_losses``.
    """
    measurement = Measurement("losses", f"2, {source}, {tokens.losses}", None)
    if left := measurement.left(runs):
        language_model = CausalModel.load(lm, "cpu")
    for start in range(0, len(left), RUNS_AT_ONCE):
        some = left[start : start + RUNS_AT_ONCE]
        data = some[0].spec.build_data()
        assert isinstance(data, ActivationDataModule)
        replacements = {run.label: reconstruction_of(run) for run in some}
        found = spliced_losses(
            data.store, language_model, data.site, data.rule, replacements, most=tokens.losses
        )
        _, place_N = sources_of(data, found.documents_N, source)
        shared = {
            "predicted": found.predicted_N,
            "clean": found.clean_N,
            "zero": found.zero.loss_N,
        }
        for run in some:
            own = dict(zip(("spliced", "divergence"), found.spliced[run.label], strict=True))
            sums = {name: _added(each_N, place_N) for name, each_N in (shared | own).items()}
            measurement.keep(run, sums)
    return measurement.table(runs)


def sources_of(
    data: ActivationDataModule, documents_N: Tensor, label: str
) -> tuple[Tensor, Tensor]:
    """Return the sources of documents, ascending, and the place of each document's in them.

    A source is a value of a label, whose documents may be alike: those of one package, say. In a
    store without this label, each document is a source.
    """
    numbers_N = data.store.documents().labels.get(label)
    sources_N = documents_N if numbers_N is None else numbers_N[documents_N]
    return sources_N.unique(return_inverse=True)


def _added(each_N: Tensor, place_N: Tensor) -> list[float]:
    """Return sums of numbers at equal places."""
    sums = torch.zeros(int(place_N.max()) + 1, dtype=torch.float64)
    return sums.index_add_(0, place_N, each_N.double()).tolist()


def probes_of_all(
    runs: Sequence[Run], lm: LanguageModelSettings, sets: Sequence[str], folder: Path
) -> pd.DataFrame:
    """Return the mean AUC of sparse probes on labelled sets, a row for each run.

    Args:
        runs: the runs.
        lm: the language model.
        sets: names of the sets, as in ``implicit_em.language.probing``.
        folder: folder that keeps the vectors of the texts.
    """
    measurement = Measurement("probes", f"2, {', '.join(sets)}", None)
    if left := measurement.left(runs):
        probing = _inside(left[0], lm).probing(sets, folder)
        for run in left:
            coder = Normalized(*load_trusted(RunDirectory(run.directory)))
            means = means_of(probing.table(coder, PROBED_UNITS))
            kept = {f"probes, k = {k}": means[f"probes_top_{k}_auc"] for k in PROBED_UNITS}
            measurement.keep(run, kept)
    return measurement.table(runs)


def absorption_of_all(runs: Sequence[Run], lm: LanguageModelSettings, folder: Path) -> pd.DataFrame:
    """Return the absorption of first letters, a row for each run; null if too few letters are told.

    A run has the decoder of ``reconstruction_of``.

    Args:
        runs: the runs.
        lm: the language model, which is causal.
        folder: folder that keeps the vectors of the words.
    """
    measurement = Measurement("absorption", 1, None)
    if left := measurement.left(runs):
        absorption = _inside(left[0], lm).absorption(folder)
        for run in left:
            means, _ = absorption.measured(partial(reconstruction_of, run))
            kept = {f"absorption, {key}": means.get(f"absorption_{key}") for key in ABSORBED}
            measurement.keep(run, kept)
    return measurement.table(runs)


def readings_of(runs: Sequence[Run], sweeps: Sequence[int], most: int) -> pd.DataFrame:
    """Return what codes of so many sweeps explain of test tokens, and the time that they take.

    Runs are measured one after another, because the time counts. Models whose codes have no sweeps
    are left out.

    Args:
        runs: the runs.
        sweeps: numbers of sweeps, each with a refit and without.
        most: largest number of test tokens.

    Returns:
        A row for each run and way to read: ``read_sweeps``, ``refit``, ``fvu`` by the own decoder,
        ``l0``, and ``microseconds`` to encode a token.
    """
    measure = partial(_readings, sweeps=sweeps, most=most)
    found = Measurement("readings", f"1, {list(sweeps)}, {most}", measure)
    table = found.of([run for run in runs if isinstance(run.model(), Swept)], 1)
    return table.explode(["read_sweeps", "refit", "fvu", "l0", "microseconds"], ignore_index=True)


def _readings(run: Run, sweeps: Sequence[int], most: int) -> dict[str, Any]:
    samples = run.spec.build_data().final_samples()[0]
    x_ND = samples[fixed_choice(len(samples), most)]
    variance = (x_ND.double() - x_ND.double().mean(0)).square().sum()
    found: dict[str, Any] = defaultdict(list)
    for refit, read_sweeps in product((0, REFIT), sweeps):
        reading = {"read_sweeps": read_sweeps, "refit": refit}
        model, _ = load_trusted(RunDirectory(run.directory), reading)
        seconds, error, active = 0.0, 0.0, 0.0
        with torch.no_grad():
            for x_BD in x_ND.split(BATCH):
                started = time.perf_counter()
                codes_BK = model.encode(x_BD)
                seconds += time.perf_counter() - started
                error += (x_BD.double() - model.decode(codes_BK)).square().sum().item()
                active += (codes_BK != 0).sum().item()
        values = {"fvu": error / variance.item(), "l0": active / len(x_ND)}
        row = reading | values | {"microseconds": 1e6 * seconds / len(x_ND)}
        for name, value in row.items():
            found[name].append(value)
    return dict(found)


def _inside(run: Run, lm: LanguageModelSettings) -> Inside:
    data = run.spec.build_data()
    assert isinstance(data, ActivationDataModule)
    return Inside(data, "benchmarks", lm)


def reconstruction_of(run: Run) -> Normalized:
    """Return a run's map from raw vectors ``(N, D)`` to their reconstructions."""
    model, normalizer = load_trusted(RunDirectory(run.directory))
    if isinstance(model, SparseAutoencoder):
        return Normalized(model, normalizer)
    arrays = load_file(run.directory / DECODER)
    return Normalized(model, normalizer, RidgeDecoder(model, arrays["weight"], arrays["bias"]))


def _quality(run: Run, tokens: Tokens, source: str, k: int | None) -> dict[str, Any]:
    model, data = run.model(), run.spec.build_data()
    assert isinstance(data, ActivationDataModule)
    code = model if k is None else Largest(model, k)
    train, rows = data.split("train")[0], data.train_indices()
    fitted = train.index_select(0, rows[fixed_choice(len(rows), tokens.fitted)])
    decoder = fit_ridge(code, fitted, held=data.monitored()[0])
    active = [(codes_BK != 0).sum(0) for codes_BK, _ in encoded(code, fitted, BATCH)]
    if k is None:
        arrays = {"weight": decoder.weight.contiguous(), "bias": decoder.bias}
        save_tensors(run.directory / DECODER, arrays)
    return {
        **_activity(torch.stack(active).sum(0), len(fitted)),
        "ridge_parameters": decoder.weight.numel() + decoder.bias.numel(),
        **_by_source(model, decoder, data, source),
        **_probes(code, data, tokens.probed),
    }


def _activity(active_K: Tensor, tokens: int) -> dict[str, Any]:
    """Return the units that no token activates, and a histogram of the others' densities."""
    counts = density_histogram((active_K.double() / tokens).numpy())
    return {"units": len(active_K), **dict(zip(BINS, counts.tolist(), strict=True))}


def _by_source(
    model: Any, decoder: RidgeDecoder, data: ActivationDataModule, source: str
) -> dict[str, Any]:
    """Return sums over the tokens of each source that is measured.

    ``sources`` holds the numbers of the sources. ``tokens`` and ``active`` count tokens and active
    units. ``variance`` sums squares about the mean of all tokens. ``own`` and ``ridge`` sum squared
    errors: of the model's own decoder, if it has one, and of the ridge decoder.
    """
    samples, _ = data.final_samples()
    numbers_N = data.column("document", data.final)[: len(samples)]
    sources, place_N = sources_of(data, numbers_N, source)
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(len(sources), dtype=torch.float64))
    mean_D = sum(x.double().sum(0) for x in samples.split(BATCH)) / len(samples)
    codes = encoded(decoder.model, samples, BATCH)
    for place_B, (codes_BK, x_BD) in zip(place_N.split(BATCH), codes, strict=True):
        exact_BD = x_BD.double()
        of_each = {
            "tokens": torch.ones(len(x_BD)),
            "active": (codes_BK != 0).sum(-1),
            "variance": (exact_BD - mean_D).square().sum(-1),
            "ridge": (exact_BD - decoder(codes_BK)).square().sum(-1),
        }
        if isinstance(model, SparseAutoencoder):
            own_BD = model.decode(codes_BK.to(model.weight.dtype))
            of_each["own"] = (exact_BD - own_BD).square().sum(-1)
        for name, values_B in of_each.items():
            sums[name].index_add_(0, place_B, values_B.double())
    return {"sources": sources.tolist(), **{name: s.tolist() for name, s in sums.items()}}


def _probes(model: Any, data: ActivationDataModule, most: int) -> dict[str, Any]:
    """Return the accuracies of probes: sparse ones on each label, and a full one on the kind."""
    train, rows = data.split("train")[0], data.train_indices()
    chosen = rows[fixed_choice(len(rows), most)]
    final, _ = data.final_samples()
    measured = fixed_choice(len(final), most)
    codes = compact(
        energies_of(model, train.index_select(0, chosen)),
        energies_of(model, final.index_select(0, measured)),
    )
    labels = [labels_of(data, "train", chosen), labels_of(data, data.final, measured)]
    found: dict[str, Any] = {}
    for name in labels[0]:
        arrays = (codes[0], labels[0][name], codes[1], labels[1][name])
        accuracies = sparse_probe(*arrays, PROBED_UNITS)
        found |= {f"probe_{name}_{size}": value for size, value in accuracies.items()}
        if name == KIND and len(np.unique(labels[0][KIND])) > 1:
            found[f"probe_{KIND}"] = linear_probe(*arrays, threads=1)
    return {name: None if np.isnan(value) else value for name, value in found.items()}


def labels_of(data: ActivationDataModule, split: Split, rows: Tensor) -> dict[str, np.ndarray]:
    """Return labels of some tokens of a split: the kind of text, and classes of tokens.

    The last token of a document has no next one, and counts as one without a newline.
    """
    store = data.store
    token, document, place = (
        data.column(name, split)[rows].numpy() for name in ("token", "document", "place")
    )
    vocabulary, documents = store.vocabulary(), store.documents()
    ids_T, starts_N = documents.ids_T.numpy(), documents.starts_N.numpy()
    labels = {}
    if KIND in documents.labels:
        labels[KIND] = documents.labels[KIND].numpy()[document]
    for name, of_id in classes_of(vocabulary, store.manifest.special_tokens).items():
        labels[name] = of_id[token]
    labels["newline_next"] = newline_next(vocabulary, ids_T, starts_N, document, place)[0]
    return labels
