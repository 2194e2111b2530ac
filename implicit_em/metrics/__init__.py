"""What a layer of energies is like: metrics, probes, reconstruction, convergence and pictures.

Tensors and arrays in, numbers out; it imports nothing else of the package.
"""

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
