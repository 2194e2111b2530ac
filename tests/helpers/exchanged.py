"""Models of every family that other tools can read."""

import torch

from implicit_em.models import (
    BatchTopK,
    Dictionary,
    Encoder,
    Gated,
    JumpReLU,
    SampledEncoder,
    SparseAutoencoder,
    TopK,
)

WIDTH, UNITS = 6, 9
MODELS = {
    "encoder": Encoder,
    "sampled": SampledEncoder,
    "sae": SparseAutoencoder,
    "l1": Dictionary,
    "l1_norm": lambda *size: Dictionary(*size, unit_columns=False, subtract_bias=False),
    "topk": lambda *size: TopK(*size, k=3),
    "batch_topk": lambda *size: BatchTopK(*size, k=3),
    "jump_relu": JumpReLU,
    "gated": Gated,
}


def made(name):
    """Return a model of a family with random parameters, and raw samples that are not centred."""
    generator = torch.Generator().manual_seed(0)
    model = MODELS[name](WIDTH, UNITS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        if name == "batch_topk":
            model.threshold.fill_(0.4)
    return model.eval(), 3 + 2 * torch.randn(200, WIDTH, generator=generator)
