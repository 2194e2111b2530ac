"""Measurements of a layer of energies: metrics, probes, reconstruction, convergence, pictures."""

from implicit_em.metrics.energies import (
    SILENT_SHARE,
    DeadUnits,
    Density,
    EnergyMoments,
    MaximumResponsibility,
    Redundancy,
    ResponsibilityEntropy,
    SilentUnits,
    energy_metrics,
    final_metrics,
)

__all__ = [
    "SILENT_SHARE",
    "DeadUnits",
    "Density",
    "EnergyMoments",
    "MaximumResponsibility",
    "Redundancy",
    "ResponsibilityEntropy",
    "SilentUnits",
    "energy_metrics",
    "final_metrics",
]
