"""The terms of the objective, pure functions of tensors, and their weighted sum."""

from implicit_em.losses.derived import decay, decorrelation, lse, orthogonality, variance
from implicit_em.losses.objective import Objective, StackedObjective, Term
from implicit_em.losses.reconstruction import (
    auxk,
    gates_l1,
    gates_mse,
    l1,
    l1_norm,
    mse,
    nested_mse,
    slab,
    target_l0,
)
from implicit_em.losses.stacking import makes_sparse, takes_codes, takes_stacks
