"""Models that remember their arguments, and know what a row of data holds."""

from typing import Any, ClassVar

from torch import Tensor, nn

from implicit_em.models.declarations import Steered
from implicit_em.models.linear import SharedInput


class Described(nn.Module):
    """Base of the models: ``made_with`` has the positional arguments and those by name."""

    steered: ClassVar[Steered | None] = None
    """What ``model.l0`` sets; ``None`` for weights of the loss."""
    provides: ClassVar[tuple[str, ...]] = ()
    """Names of the tensors for loss terms, beside ``x``, ``energies`` and ``weight``."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Names of tensors that a loss term must use; otherwise a part of the model is not trained."""
    settings: ClassVar[tuple[str, ...]] = ()
    """Arguments in which replicas of a stack may differ; a stack holds a list of their values."""
    tied: bool = False
    """Whether the rows of the encoder are the columns of a decoder."""
    before_step: Any = None
    """Method that a step calls once the gradients are there; ``None`` for none."""
    after_step: Any = None
    """Method that a step calls once the weights have moved; ``None`` for none."""
    made_with: tuple[tuple[Any, ...], dict[str, Any]]
    out_features: int | None = None
    """Width T of a target that is not the input; ``None`` if the input is to be explained."""

    def __new__(cls, *arguments: Any, **by_name: Any) -> "Described":
        """Note the arguments, also those of a subclass that its ``__init__`` does not pass on."""
        made = super().__new__(cls)
        vars(made)["made_with"] = (arguments, by_name)
        return made

    def sides(self, rows: Any) -> tuple[Any, Any]:
        """Return inputs ``(..., D)`` and targets ``(..., T)``, which stand side by side in rows.

        Rows are a tensor or a ``SharedInput``. Inputs that stand alone have targets of no width.
        If the model explains its input, both are the rows themselves.
        """
        if self.out_features is None:
            return rows, rows
        if isinstance(rows, SharedInput):
            x, target = self.sides(rows.batches)
            return SharedInput(x, rows.counts), SharedInput(target, rows.counts)
        weight: Any = self.weight
        x, target = rows.tensor_split([weight.shape[-1]], dim=-1)
        return x.contiguous(), target.contiguous()

    def to_explain(self, x: Any, target: Tensor) -> Tensor:
        """Return what a linear path of the inputs leaves of a target: here all, without one."""
        return target
