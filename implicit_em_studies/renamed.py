"""Names of the studies' classes and functions that earlier runs have in their configurations."""

_OLD = {
    "paper.trajectory.Trajectory": "experiments.trajectory.Trajectory",
    "theory.em_measuring.Likelihood": "theory.em_measuring.Likelihood",
    "theory.lse.Square": "theory.lse.Square",
    "theory.volume.UnitRows": "theory.volume.UnitRows",
    "theory.volume.hinge": "theory.volume.hinge",
    "theory.volume.penalty": "theory.volume.penalty",
}
RENAMED = {f"implicit_em.{old}": f"{__package__}.{new}" for new, old in _OLD.items()}
"""The name of today for each earlier ``_target_``."""
