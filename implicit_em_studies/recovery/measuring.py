"""What a trained model recovers of the features that made its samples."""

from collections.abc import Sequence
from typing import Any, cast

import pandas as pd
from threadpoolctl import threadpool_limits

from implicit_em.data import SuperpositionDataModule
from implicit_em.metrics.pursuit import pursuit_l0
from implicit_em.metrics.recovery import recovery
from implicit_em.training.decoding import fit_ridge
from implicit_em.training.measurement import energies_of
from implicit_em_studies.shared.measurements import OF_TRAINING, Measurement, samples_of
from implicit_em_studies.shared.planning import row_of
from implicit_em_studies.shared.runs import Run, has_diverged, matrices_of

OF_DIRECTIONS = ("found_0.8", "found_0.9", "mean_cosine", "split", "merged")
"""Measures of a matrix of directions that the truth gives."""


def measure_all(runs: Sequence[Run], workers: int) -> pd.DataFrame:
    """Return ``metrics.recovery`` of runs and their ``pursuit_l0``, a row for each.

    Columns without the name of a matrix, such as ``found_0.8``, are those of a model's directions:
    the columns of its own decoder or, if it has none, the rows of a ridge decoder. So is
    ``pursuit_l0``. The numbers of runs that diverged are null, and ``error`` says why.
    """
    diverged = [run for run in runs if has_diverged(run)]
    measured = RECOVERY.of([run for run in runs if run not in diverged], workers)
    if len(measured):
        for name in OF_DIRECTIONS:
            own = measured[f"decoder_{name}"].astype(float)
            measured[name] = own.fillna(measured[f"ridge_{name}"])
    lost = [row_of(run) | {"error": run.metrics()["error"]} for run in diverged]
    return pd.concat([measured, pd.DataFrame(lost)], ignore_index=True)


def _recovery(run: Run) -> dict[str, Any]:
    model, data = run.model(), cast(SuperpositionDataModule, run.spec.build_data())
    train, _, final, _ = samples_of(run)
    truth, activations_NK = data.truth(), energies_of(model, final)
    decoder = fit_ridge(model, train)
    matrices, ridge_KD = matrices_of(model), decoder.weight.numpy()
    own_KD = matrices.get("decoder")
    with threadpool_limits(limits=run.cfg.trainer.threads):
        found: dict[str, Any] = recovery(
            truth.undone(truth.directions_MD),
            truth.presence_NM,
            activations_NK,
            {
                "encoder": truth.undone_rows(matrices["encoder"]),
                "decoder": None if own_KD is None else truth.undone(own_KD),
                "ridge": truth.undone(ridge_KD),
            },
            signed=bool((activations_NK >= 0).all()),
        )
        pursued = pursuit_l0(ridge_KD if own_KD is None else own_KD, final.numpy())
    more = {
        "units": activations_NK.shape[1],
        "width": final.shape[1],
        "true_l0": truth.l0,
        "ridge_fvu": decoder.fvu(final),
        "pursuit_l0": pursued,
    }
    return {**more, **found}


RECOVERY = Measurement("recovery", 5, _recovery, OF_TRAINING)
