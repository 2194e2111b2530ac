"""From trained models to a page of their features."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from weakref import finalize

import numpy as np
import pandas as pd
import torch
from omegaconf import OmegaConf
from scipy.optimize import linear_sum_assignment
from torch import nn

from implicit_em.base.errors import ConfigError, DamagedError, raising
from implicit_em.base.progress import Progress, working
from implicit_em.metrics.dictionaries import cosines
from implicit_em.models import Encoder
from implicit_em.trained.activity import BLOCK, Activity, Unit
from implicit_em.trained.finished import Run
from implicit_em.trained.reading import Trained, trained
from implicit_em.training.decoding import BATCH, encoded
from implicit_em.viewer.features import Features
from implicit_em.viewer.page import Page, scratch
from implicit_em.viewer.seen import seen_of, short
from implicit_em.viewer.serving import Server
from implicit_em.viewer.trying import trials_of

PLACE = "explore"
"""Default folder of a page, in the directory of the first run."""
CONTROLS = 32
"""Largest number of units that are compared with random directions."""


def explore(
    runs: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    lm: str | None = None,
    data: Mapping[str, Any] | None = None,
    ablate: Sequence[int] = (),
) -> Path:
    """Write a page of the features of trained models; it opens in a browser without a server.

    The samples are the final samples of the runs, or of other ``data``. Features of several models
    are matched by their directions. This builds the classes that the runs' configurations name.

    Args:
        runs: a run directory, or the folder or address of another tool's model (see ``evaluate``);
            or several, whose data must have one width.
        out: folder of the page; by default, ``explore`` in the first run's directory or, for
            another tool's model, in ``outputs/NAME-DIGEST``. An earlier page there is replaced.
        lm: folder, GGUF file or hub name of the language model that a store was harvested from;
            ``None`` for the place that ``conf/lm`` names. A causal one shows which tokens a feature
            promotes.
        data: ``data`` node as plain containers; ``None`` for each run's own.
        ablate: units of the first run that are set to 0 inside the language model, which must be
            causal; their pages show what changes. See ``implicit_em.steer``.

    Returns:
        The path of the file to open.

    Raises:
        ConfigError: if no run is named, one is not finished, its data or the language model cannot
            be read, a unit is out of range, or something else is at ``out``.
        FileNotFoundError: if there is no run.
    """
    named = [runs] if isinstance(runs, str | Path) else runs
    if not named:
        raise ConfigError("runs: none is named")
    models = [trained(run, data) for run in named]
    page = Page(Path(out) if out else models[0].output / PLACE)
    page.check()
    return _write(page, models, lm, ablate)


@contextmanager
def served(
    runs: Sequence[str | Path],
    lm: str | None = None,
    port: int = 0,
    data: Mapping[str, Any] | None = None,
    ablate: Sequence[int] = (),
) -> Iterator[tuple[str, Server]]:
    """Serve a page of models to this machine alone, on which inputs of the first can be tried.

    The page lies in a temporary folder, and is gone at the end.

    Args:
        runs: as for ``explore``.
        lm: as for ``explore``.
        port: port; 0 takes a free one.
        data: as for ``explore``.
        ablate: as for ``explore``.

    Yields:
        The page's address, and the server: ``serve_forever`` answers, ``shutdown`` ends it.

    Raises:
        ConfigError: as ``explore`` does; if the first model's samples are neither images nor of a
            language model; or if the port is taken.
    """
    models = [trained(run, data) for run in runs]
    trials = trials_of(models[0], lm)
    with TemporaryDirectory(prefix="implicit-em-") as folder:
        page = Page(Path(folder, "page"), served=trials)
        with Server(page.path, trials, port) as server:
            _write(page, models, lm, ablate)
            yield f"http://{server.names[0]}/", server


def features(
    run: str | Path,
    lm: str | None = None,
    data: Mapping[str, Any] | None = None,
    ablate: Sequence[int] = (),
) -> Features:
    """Return the features of a trained model; a notebook displays ``features(run)[12]``.

    The samples are the final samples of the run, or of other ``data``. What activates the features
    lies in a temporary folder, which is removed with the result. This builds the classes that the
    run's configuration names.

    Args:
        run: run directory, or the folder or address of another tool's model.
        lm: as for ``explore``.
        data: as for ``explore``.
        ablate: as for ``explore``.

    Raises:
        ConfigError: if the run is not finished, a unit is out of range, or its data or the
            language model cannot be read.
        FileNotFoundError: if there is no run.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="implicit-em-"))
        found = _features(trained(run, data), Path(folder), lm, ablate)
        finalize(found, stack.pop_all().close)
    return found


def _features(found: Trained, folder: Path, lm: str | None, ablate: Sequence[int]) -> Features:
    """Encode the final samples into a folder, and return the features of a model."""
    model, data = found.model, found.data
    ablations = data.inside("ablate", lm).ablations(found, ablate) if ablate else None
    is_inside = data.origin()["site"] is not None
    effects = data.inside("explore", lm).effects() if is_inside else None
    samples, labels = data.final_samples()
    with Progress(f"{found.address}: encoding", len(samples), "samples") as progress:
        activity = Activity.record(model, samples, folder, progress.advance)
    directions_KD = found.coder.rows.cpu().numpy()
    encoder_KD = model.weight.detach().cpu().numpy()
    seen = seen_of(data, samples, labels)
    return Features(activity, seen, encoder_KD, directions_KD, effects, ablations, data.parts)


def _write(page: Page, models: Sequence[Trained], lm: str | None, ablate: Sequence[int]) -> Path:
    """Write everything of a page, and return the path to open."""
    widths = {found.model.out_features or found.model.weight.shape[1] for found in models}
    if len(widths) > 1:
        listed = " and ".join(map(str, sorted(widths)))
        raise ConfigError(f"runs on data of widths {listed}: their features cannot be matched")
    return page.write(_content(page.path, models, lm, ablate), len(models))


def _content(
    place: Path, models: Sequence[Trained], lm: str | None, ablate: Sequence[int]
) -> Iterator[tuple[str, Any]]:
    """Yield the data of all models and of their matches, each beside its name."""
    directions = []
    for number, found in enumerate(models):
        with scratch(place) as folder:
            units = _features(found, folder, lm, () if number else ablate)
            for name, content in _of_model(found, units):
                yield f"{number}/{name}", content
        directions.append(units.directions_KD)
    for first, second, partner_K, cosine_K in matches(directions):
        yield f"{first}/matches-{second}", [partner_K.tolist(), list(map(short, cosine_K))]


def _of_model(model: Trained, found: Features) -> Iterator[tuple[str, Any]]:
    """Yield the data of a model: its features, block by block, their table, and what it is."""
    rows = []
    with Progress(f"{model.address}: writing", len(found), "features") as progress:
        for block in range(found.activity.blocks):
            units = found.block(block)
            yield f"block-{block}", [unit.shown for unit in units]
            rows += [unit.row for unit in units]
            progress.advance(len(units))
    yield "table", {name: [row[name] for row in rows] for name in rows[0]}
    with working(f"{model.address}: random directions, for comparison"):
        control = _control(found, rows, model.data.final_samples()[0])
    yield "about", _about(model, found) | {"control": control}


def _about(model: Trained, found: Features) -> dict[str, Any]:
    """Return what a model is, how it was trained, and what its samples are."""
    own = "its own decoder" if model.has_decoder else "a ridge decoder, fitted afterwards"
    return {
        "name": model.name,
        "model": type(model.model).__name__,
        "units": len(found),
        "block": BLOCK,
        "decoder": own,
        "samples": f"{found.activity.samples:,} {model.data.final} samples{found.seen.place}",
        "kind": found.seen.kind,
        "labels": list(found.seen.labels),
        **_of_training(model),
        **found.seen.about(),
    }


def _of_training(model: Trained) -> dict[str, Any]:
    """Return what is known of a model's training."""
    if (run := model.run) is None:
        told = {"address": model.address, "weights": model.digest, "metadata": model.metadata}
        settings = {**told, "data": model.spec.settings["data"]}
        command, metrics, curves = f"implicit-em explore {model.address}", {}, pd.DataFrame()
    else:
        settings = run.read_spec().settings
        command = " ".join(["implicit-em train", *run.read_overrides()])
        metrics = run.completed_metrics() or {}
        with raising(DamagedError, f"{run.history}: no table", ValueError):
            curves = Run(run.path).history.reset_index().astype(float)
    return {
        "command": command,
        "metrics": {key: v for key, v in metrics.items() if not isinstance(v, dict | list)},
        "history": {
            name: [short(value) if np.isfinite(value) else None for value in curves[name]]
            for name in curves
        },
        "settings": OmegaConf.to_yaml(OmegaConf.create(settings)),
    }


def _control(found: Features, rows: Sequence[dict[str, Any]], samples: Any) -> list[list[float]]:
    """Return the AUROC of the best label of some features, and of as many random directions."""
    chosen = evenly_spaced([row["density"] for row in rows])
    if not chosen or rows[chosen[0]]["auroc"] is None:
        return []
    size = found.activity.samples
    counts = [max(1, round(rows[unit]["density"] * size)) for unit in chosen]
    controls = random_units(samples, found.encoder_KD.shape[1], counts)
    pairs = [(rows[k]["auroc"], found.best_auroc(c)) for k, c in zip(chosen, controls, strict=True)]
    return [list(values) for values in zip(*pairs, strict=True)]


def matches(directions: Sequence[np.ndarray]) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Yield, for each pair of runs, the partner of each unit of the first, and their cosine.

    The Hungarian method makes the sum of the cosines as large as it can be. A unit without a
    partner has -1. The pairs are ordered: each comes twice.
    """
    for first, second in permutations(range(len(directions)), 2):
        cosines_KL = cosines(directions[first], directions[second])
        rows, columns = linear_sum_assignment(cosines_KL, maximize=True)
        partner_K, cosine_K = np.full(len(cosines_KL), -1), np.zeros(len(cosines_KL))
        partner_K[rows], cosine_K[rows] = columns, cosines_KL[rows, columns]
        yield first, second, partner_K, cosine_K


def evenly_spaced(densities_K: Sequence[float]) -> list[int]:
    """Return units that are active at all, evenly spaced by how often they are."""
    order_K = np.argsort(densities_K, kind="stable")
    live_L = order_K[np.asarray(densities_K)[order_K] > 0]
    places = np.linspace(0, len(live_L) - 1, min(CONTROLS, len(live_L))).round().astype(int)
    return live_L[places].tolist()


def random_units(samples: Any, width: int, counts_C: Sequence[int]) -> list[Unit]:
    """Return units of random directions, which are normally distributed.

    Each is active on the samples with the largest products with its direction, and its activation
    is the product less the largest product of the samples on which it is silent.

    Args:
        samples: samples ``(N, D)`` that a model of the run takes.
        width: their width D.
        counts_C: number of samples that activate each unit, above 0 and at most N.
    """
    target = samples.shape[-1] - width or None
    model = Encoder(width, len(counts_C), nn.Identity(), target)
    generator = torch.Generator().manual_seed(0)
    nn.init.normal_(model.weight, generator=generator)
    nn.init.zeros_(model.linear.bias)
    with torch.no_grad():
        products_NC = torch.cat([z_BC for z_BC, _ in encoded(model, samples, BATCH)]).numpy()
    return [
        _most_active(number, products_N, count)
        for number, (products_N, count) in enumerate(zip(products_NC.T, counts_C, strict=True))
    ]


def _most_active(number: int, products_N: np.ndarray, count: int) -> Unit:
    order_N = np.argsort(-products_N, kind="stable")
    samples_E = np.sort(order_N[:count])
    silent = products_N[order_N[count]] if count < len(order_N) else products_N.min() - 1
    return Unit(number, samples_E, products_N[samples_E] - silent)
