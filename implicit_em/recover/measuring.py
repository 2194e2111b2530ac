"""What a trained model recovers of the features that made its samples."""

from collections.abc import Sequence
from typing import Any, cast

import pandas as pd

from implicit_em.data import SuperpositionDataModule
from implicit_em.metrics.recovery import recovery
from implicit_em.recover.criteria import blind_score
from implicit_em.studies.execution import has_diverged
from implicit_em.studies.measurements import Measurement, samples_of
from implicit_em.studies.runs import Run, matrices_of
from implicit_em.studies.stages import settings_of
from implicit_em.training.decoding import fit_decoder
from implicit_em.training.measurement import energies_of


def measure_all(runs: Sequence[Run], workers: int) -> pd.DataFrame:
    """Return ``metrics.recovery`` of runs and their blind score, a row for each.

    The numbers of runs that diverged are null, and ``error`` says why.
    """
    diverged = [run for run in runs if has_diverged(run)]
    measured = RECOVERY.of([run for run in runs if run not in diverged], workers)
    if len(measured):
        inputs = (measured[name] for name in ("width", "ridge_fvu", "l0", "units"))
        measured["blind_score"] = blind_score(*inputs)
    lost = [
        {
            "family": run.sweep,
            "settings": settings_of(run),
            "seed": run.cfg.seed,
            "run": run.fingerprint,
            "error": run.metrics()["error"],
        }
        for run in diverged
    ]
    return pd.concat([measured, pd.DataFrame(lost)], ignore_index=True)


def _recovery(run: Run) -> dict[str, Any]:
    model, data = run.model(), cast(SuperpositionDataModule, run.spec.build_data())
    train, _, final, _ = samples_of(run)
    truth, activations_NK = data.truth(), energies_of(model, final)
    decoder = fit_decoder(model, train)
    matrices = matrices_of(model)
    found = recovery(
        truth.directions_MD,
        truth.presence_NM,
        activations_NK,
        {**matrices, "decoder": matrices.get("decoder"), "ridge": decoder.weight.numpy()},
        signed=bool((activations_NK >= 0).all()),
        threads=run.cfg.trainer.threads,
    )
    size = {"units": activations_NK.shape[1], "width": final.shape[1], "true_l0": truth.l0}
    return {**size, "ridge_fvu": decoder.fvu(final), **found}


RECOVERY = Measurement("recovery", 1, _recovery, ("parameters", "epochs", "train_seconds"))
