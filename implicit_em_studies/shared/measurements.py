"""What a study measures of trained runs, kept in each run's directory."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from implicit_em.base.errors import DamagedError
from implicit_em.base.files import read_json, write_json
from implicit_em.base.threads import torch_threads
from implicit_em.data import as_unit_float
from implicit_em.metrics.dictionaries import stability
from implicit_em_studies.shared.planning import row_of, settings_of
from implicit_em_studies.shared.runs import Run, matrices_of

OF_TRAINING = ("parameters", "epochs", "train_seconds", "l0_target", "l0_reached")
"""Keys of ``metrics.json`` that say how a run was trained."""


@dataclass(frozen=True)
class Measurement:
    """Numbers of a complete run, by name; those known already are not measured again.

    Args:
        name: name of the file, without ``.json``, and of the key under which the numbers are kept.
        schema: version of the measurement, with all that decides it beside the run; another one is
            measured again.
        measure: function of a module, which other processes can import; ``None`` where runs are
            measured together, and ``keep`` takes their numbers.
        metrics: keys of ``metrics.json`` that stand beside the numbers.
    """

    name: str
    schema: int | str
    measure: Callable[[Run], dict[str, Any]] | None
    metrics: Sequence[str] = ()

    def of(self, runs: Sequence[Run], workers: int) -> pd.DataFrame:
        """Return the numbers of runs, a row for each; up to ``workers`` processes measure."""
        left = self.left(runs)
        processes = joblib.Parallel(n_jobs=min(workers, max(1, len(left))))
        with warnings.catch_warnings():
            # joblib replaces a process whose memory has grown, and loses nothing.
            warnings.filterwarnings("ignore", message="A worker stopped")
            processes(joblib.delayed(self._measure)(run) for run in left)
        return self.table(runs)

    def left(self, runs: Sequence[Run]) -> list[Run]:
        """Return the runs that are not measured yet."""
        return [run for run in runs if self.known(run) is None]

    def table(self, runs: Sequence[Run]) -> pd.DataFrame:
        """Return the numbers of measured runs, a row for each."""
        return pd.DataFrame([self._row(run) for run in runs])

    def keep(self, run: Run, values: Mapping[str, Any]) -> None:
        """Write a run's numbers."""
        content = {"schema": self.schema, "run": run.fingerprint, self.name: values}
        write_json(run.directory / f"{self.name}.json", content)

    def known(self, run: Run) -> dict[str, Any] | None:
        """Return a run's earlier measurement; ``None`` if it is missing or damaged."""
        with suppress(OSError, DamagedError):
            match read_json(run.directory / f"{self.name}.json"):
                case {"schema": self.schema, "run": run.fingerprint, self.name: dict(values)}:
                    return values
        return None

    def _row(self, run: Run) -> dict[str, Any]:
        metrics = run.metrics()
        row = row_of(run) | {key: metrics.get(key) for key in self.metrics}
        known = self.known(run) or {}
        return row | {key: np.nan if value is None else value for key, value in known.items()}

    def _measure(self, run: Run) -> None:
        threads = run.cfg.trainer.threads
        assert self.measure is not None
        with torch_threads(threads) if threads else nullcontext():
            self.keep(run, self.measure(run))


def stabilities(runs: Sequence[Run], varies_D: np.ndarray | None = None) -> pd.DataFrame:
    """Return how alike the weight rows of each setting's seeds are, for runs on one data set.

    ``encoder_stability`` and ``decoder_stability`` are null for a single seed or a missing matrix.
    Encoder rows are compared on the inputs that ``varies_D`` marks, by default on all.
    """
    by_setting: dict[tuple[str, str], list[dict[str, np.ndarray]]] = {}
    for run in runs:
        by_setting.setdefault((run.sweep, settings_of(run)), []).append(matrices_of(run.model()))
    rows = []
    for (family, settings), seeds in by_setting.items():
        inputs = slice(None) if varies_D is None else varies_D
        encoder = stability([seed["encoder"][:, inputs] for seed in seeds])
        decoder = stability([seed["decoder"] for seed in seeds if "decoder" in seed])
        rows.append((family, settings, encoder, decoder))
    columns = ["family", "settings", "encoder_stability", "decoder_stability"]
    return pd.DataFrame(rows, columns=columns)


def samples_of(run: Run) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a run's training samples and labels, then those that it is measured on."""
    data = run.spec.build_data()
    samples, labels = data.split("train")
    indices = data.train_indices()
    final, final_labels = data.final_samples()
    return _floats(samples[indices]), labels[indices], _floats(final), final_labels


def _floats(samples: Tensor) -> Tensor:
    """Return samples in a precision that numpy has."""
    x = as_unit_float(samples)
    return x.to(torch.promote_types(x.dtype, torch.float32))
