"""The base of the models: what the engine may ask of every model."""

from typing import Any, ClassVar

from torch import Tensor, nn

from implicit_em.models.declarations import Steered
from implicit_em.models.linear import Linear, SharedInput


class Model(nn.Module):
    """Base of ``Encoder`` and ``SparseAutoencoder``, with the defaults of what a model may have.

    A model knows which columns of the data are its inputs and which are its targets.

    Args:
        out_features: width T of a target that is not the input; ``None`` if the model explains its
            input.
    """

    steered: ClassVar[Steered | None] = None
    """What ``model.l0`` sets; ``None`` for weights of the loss."""
    provides: ClassVar[tuple[str, ...]] = ()
    """Names of the tensors for loss terms, beside ``x``, ``energies`` and ``weight``."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Names of tensors that a loss term must use; otherwise a part of the model is not trained."""
    settings: ClassVar[tuple[str, ...]] = ()
    """Arguments in which replicas of a stack may differ; a stack has a list of their values."""
    tied: bool = False
    """Whether the rows of the encoder are the columns of a decoder."""
    swept: bool = False
    """Whether codes come from more than one pass; see ``models.sweeps``."""
    start: Any = None
    """Method that sets weights from training samples ``(N, D)``; ``None`` for a random start."""
    before_step: Any = None
    """Method that a step calls once the gradients are there; ``None`` for none."""
    after_step: Any = None
    """Method that a step calls once the weights have moved; ``None`` for none."""

    def __init__(self, out_features: int | None = None) -> None:
        super().__init__()
        self.out_features = out_features
        self.skip: Linear | None = None

    def encode(self, x: Any) -> Tensor:
        """Return the energies or hidden activations ``(..., K)`` of inputs ``(..., D)``."""
        raise NotImplementedError

    def decode(self, activations: Any, x: Tensor | None = None) -> Tensor:
        """Return reconstructions of what ``encode`` returns; a linear path needs the inputs."""
        raise NotImplementedError

    @property
    def own_decoder(self) -> tuple[Tensor, Tensor] | None:
        """Weight ``(K, T)`` and bias ``(T,)`` of the decoder; ``None`` without a linear one.

        A decoder with a linear path of the inputs is none of the code alone.
        """
        return None

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the reconstructions ``(..., D)``, or ``(..., T)`` of a target, of inputs.

        Raises what ``decode`` raises.
        """
        return self.decode(self.encode(x), x)

    def sides(self, rows: Any) -> tuple[Any, Any]:
        """Return inputs ``(..., D)`` and targets ``(..., T)``, which stand side by side in rows.

        Rows are a tensor or a ``SharedInput``. Inputs that stand alone have targets of no width.
        If the model explains its input, the rows are both inputs and targets.
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
        """Return what the linear path of the inputs leaves of a target; without one, the target."""
        return target if self.skip is None else target - self.skip(x)
