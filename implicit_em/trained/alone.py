"""A sparse autoencoder that needs PyTorch alone.

``load()`` reads the file ``weights.pt`` beside this one. The model takes raw samples: ``encode``
returns their codes, ``decode`` the samples that codes stand for.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class SparseCoder(nn.Module):
    """Codes inferred in sweeps: each explains what the code so far has left unexplained.

    A unit has a share r, which says how far it is on, and an amplitude c. Its code is ``r c``.

    Args:
        options: numbers of ``sweeps`` and of steps of the ``refit``; whether samples are
            ``scaled``; ``log_odds``, if units are on by degrees; else ``k``, the number of active
            units, or 0 if thresholds decide.
        tensors: what normalises samples (``mean``, ``factor``), what is then subtracted
            (``middle``), matrices and biases of encoder and decoder, ``threshold`` of each sweep,
            ``temperature``.
    """

    mean: Tensor
    factor: Tensor
    middle: Tensor
    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    threshold: Tensor
    temperature: Tensor

    def __init__(self, options: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.options = options
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstructions of raw samples, both ``(..., D)``."""
        return self.decode(self.encode(x))

    def decode(self, codes: Tensor) -> Tensor:
        """Return the raw samples ``(..., D)`` that codes ``(..., K)`` stand for."""
        found = (codes @ self.decoder + self.decoder_bias).double() / self.factor + self.mean
        return found.to(codes.dtype)

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes ``(..., K)`` of raw samples ``(..., D)``."""
        x = ((x.double() - self.mean) * self.factor).to(self.encoder) - self.middle
        scale = x.square().mean(-1, keepdim=True).sqrt() if self.options["scaled"] else 1.0
        x = x / scale
        r, c = self.keep(x @ self.encoder.T + self.encoder_bias, 0)
        for sweep in range(1, self.options["sweeps"]):
            slope = self.slope(x, r, c)
            step = self.size(r, slope) / self.curvature(r, slope)
            r, c = self.keep(c + step.nan_to_num(1) * slope, sweep)
        direction: Any = 0.0
        before: Any = torch.inf
        for _ in range(self.options["refit"]):  # conjugate gradients
            slope = self.slope(x, r, c)
            size = self.size(r, slope)
            direction = slope * (r > 0) + (size / before).nan_to_num(0) * direction
            before = size
            c = c + (size / self.curvature(r, direction)).nan_to_num(0) * direction
        return scale * r * c.relu()

    def keep(self, z: Tensor, sweep: int) -> tuple[Tensor, Tensor]:
        """Return the shares and amplitudes that a sweep keeps of its proposals ``(..., K)``."""
        c = z.relu()
        if "log_odds" in self.options:
            energies = self.options["log_odds"] * self.temperature - c.square() / 2
            s = (0.5 - energies / (6 * self.temperature)).clamp(0, 1)
            r = s.square() * (3 - 2 * s)
        elif self.options["k"]:
            r = torch.zeros_like(c).scatter(-1, c.topk(self.options["k"]).indices, 1) * (c > 0)
        else:
            r = (c > self.threshold[min(sweep, len(self.threshold) - 1)]).to(c.dtype)
        return r, c * (r > 0)

    def slope(self, x: Tensor, r: Tensor, c: Tensor) -> Tensor:
        """Return minus the slope of the free energy by c, divided by r."""
        return (x - (r * c) @ self.decoder) @ self.decoder.T - (1 - r) * c

    def size(self, r: Tensor, slope: Tensor) -> Tensor:
        """Return the square of a slope, ``(..., 1)``."""
        return (r * slope.square()).sum(-1, keepdim=True)

    def curvature(self, r: Tensor, p: Tensor) -> Tensor:
        """Return the second derivative ``(..., 1)`` of the free energy along a movement of c."""
        moved = ((r * p) @ self.decoder).square().sum(-1, keepdim=True)
        return moved + (r * (1 - r) * p.square()).sum(-1, keepdim=True)


def load(folder: str | Path = Path(__file__).parent) -> SparseCoder:
    """Return the model of a folder, in evaluation mode."""
    return SparseCoder(*torch.load(Path(folder) / "weights.pt", weights_only=True)).eval()
