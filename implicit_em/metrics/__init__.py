"""Measurements of a layer of energies: metrics, probes, reconstruction, convergence, pictures."""

from implicit_em.metrics.energies import (
    L0,
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
