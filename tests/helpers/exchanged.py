"""Models of every family that other tools can read."""

import json

import torch
from safetensors.torch import save_file

from implicit_em import models
from implicit_em.models.normalizing import fit_normalizer
from implicit_em.training.saelens import to_saelens

WIDTH, UNITS = 6, 9
MODELS = {
    "encoder": models.Encoder,
    "sampled": models.SampledEncoder,
    "sae": models.SparseAutoencoder,
    "l1": models.Dictionary,
    "l1_norm": lambda *size: models.Dictionary(*size, unit_columns=False, subtract_bias=False),
    "topk": lambda *size: models.TopK(*size, k=3),
    "batch_topk": lambda *size: models.BatchTopK(*size, k=3),
    "tied_topk": lambda *size: models.TopK(*size, k=3, tied=True),
    "tied_batch_topk": lambda *size: models.BatchTopK(*size, k=3, tied=True),
    "matryoshka": lambda *size: models.Matryoshka(*size, k=3, prefixes=[0.5]),
    "jump_relu": models.JumpReLU,
    "gated": models.Gated,
}


def made(name):
    """Return a model of a family with random parameters, and raw samples that are not centred."""
    generator = torch.Generator().manual_seed(0)
    model = MODELS[name](WIDTH, UNITS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        if isinstance(model, models.BatchTopK):
            model.threshold.fill_(0.4)
    return model.eval(), 3 + 2 * torch.randn(200, WIDTH, generator=generator)


def write_folder(folder, name):
    """Write a whitened model of a family as a folder of SAELens; gives raw samples."""
    model, x_ND = made(name)
    normalizer = fit_normalizer("zca", lambda: [x_ND.double()])
    own = isinstance(model, models.SparseAutoencoder)
    decoder = None if own else (torch.randn(UNITS, WIDTH), torch.randn(WIDTH))
    config, arrays = to_saelens(model, normalizer, decoder)
    config["metadata"]["note"] = name
    folder.mkdir()
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file(arrays, folder / "sae_weights.safetensors")
    return x_ND
