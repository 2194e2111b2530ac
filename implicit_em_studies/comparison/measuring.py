"""The measurements of grids, finals and controls; a run's quality is kept in its directory."""

from collections.abc import Sequence
from itertools import filterfalse
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from implicit_em.metrics.densities import density
from implicit_em.metrics.quality import Encoded, quality
from implicit_em.models import SparseAutoencoder
from implicit_em.training.measurement import energies_of
from implicit_em_studies.shared import planning
from implicit_em_studies.shared.measurements import Measurement, samples_of
from implicit_em_studies.shared.runs import Run, has_diverged, matrices_of

FROM_METRICS = ("parameters", "epochs", "train_seconds", "redundancy", "responsibility_entropy")
BATCH = 2_000  # samples that are decoded at a time


def tuning_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the measurements of complete or diverged runs on held-out samples, a row for each.

    ``density`` counts values that are not exactly zero, as for the finals; ``metrics.json`` counts
    by a threshold.
    """
    held_out: dict[str, Tensor] = {}  # by their normalisation, in which families may differ
    densities: dict[str, float] = {}
    for run in filterfalse(has_diverged, runs):
        how = run.cfg.data.normalize
        if how not in held_out:
            held_out[how] = samples_of(run)[2]
        densities[run.fingerprint] = density(energies_of(run.model(), held_out[how]))
    table = planning.tuning_table(runs, ("probe_accuracy", "silent_units", "final_loss"))
    return table.assign(density=table["run"].map(densities).astype(float))


def measure_all(runs: Sequence[Run], workers: int) -> pd.DataFrame:
    """Return ``quality`` and some metrics of complete runs, a row for each.

    ``units`` is the number K and ``active_units`` the L0. Up to ``workers`` processes measure the
    runs that were not measured before.
    """
    measured = QUALITY.of(runs, workers)
    if measured.empty:
        return measured
    return measured.assign(active_units=measured["exact_density"] * measured["units"])


def _quality(run: Run) -> dict[str, Any]:
    model = run.model()
    train_x, train_labels, test_x, test_labels = samples_of(run)
    train, test = (
        Encoded(x.numpy(), labels.numpy(), energies_of(model, x))
        for x, labels in ((train_x, train_labels), (test_x, test_labels))
    )
    matrices, threads, reconstruction = matrices_of(model), run.cfg.trainer.threads, None
    if isinstance(model, SparseAutoencoder):
        batches = torch.from_numpy(test.activations_NK).split(BATCH)
        with torch.no_grad():
            reconstruction = torch.cat([model.decode(batch) for batch in batches]).numpy()
    encoder, decoder = matrices["encoder"], matrices.get("decoder")
    measures = quality(train, test, encoder, decoder, reconstruction, threads)
    return {"units": train.activations_NK.shape[1]} | measures


QUALITY = Measurement("quality", 1, _quality, FROM_METRICS)
