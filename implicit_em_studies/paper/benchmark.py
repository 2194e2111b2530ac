"""Experiment 3, benchmark: the derived encoder against the standard SAE."""

from collections.abc import Sequence

from implicit_em_studies.paper.tables import beside_published, printed
from implicit_em_studies.shared.experiment import Experiment, Measured
from implicit_em_studies.shared.measurements import samples_of
from implicit_em_studies.shared.runs import Run, table


def measure(runs: Sequence[Run]) -> Measured:
    """Return the runs as ``benchmark``, and table 2.

    ``reconstruction`` is the mean squared error by the decoder or the transposed encoder,
    ``unexplained`` the same over the variance of the test images.
    """
    benchmark = table(runs, ["benchmark"])
    _, _, images, _ = samples_of(runs[0])
    error = benchmark[["reconstruction_mse", "transpose_reconstruction_mse"]]
    benchmark["reconstruction"] = error.bfill(axis=1).iloc[:, 0]
    variance = float(images.double().var(0, unbiased=False).mean())
    benchmark["unexplained"] = benchmark["reconstruction"] / variance
    return {"benchmark": benchmark, **beside_published("table2", benchmark)}


EXPERIMENT = Experiment(
    title="Experiment 3: benchmark",
    sweeps=["benchmark"],
    protocol="b98e3525a25d7037",
    measure=measure,
    printed={"table2": printed("table2")},
    unwritten=["benchmark", "deviations"],
)
