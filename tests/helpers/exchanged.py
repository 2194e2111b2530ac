"""Models of every family that other tools can read."""

import json

import torch
from safetensors.torch import save_file

from implicit_em import models
from implicit_em.models.normalizing import Normalizer, fit_normalizer
from implicit_em.trained.saelens import to_saelens

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
TARGET = 4
TRANSCODERS = {
    "transcoder-encoder": (models.Encoder, {}),
    "transcoder-sae": (models.SparseAutoencoder, {}),
    "transcoder-l1": (models.Dictionary, {}),
    "transcoder-l1-skip": (models.Dictionary, {"skip": True}),
    "transcoder-batch_topk": (models.BatchTopK, {"k": 3}),
    "transcoder-jump_relu": (models.JumpReLU, {}),
    "transcoder-jump_relu-skip": (models.JumpReLU, {"skip": True}),
}
"""Those of another target than their input, with arguments."""


def made(name):
    """Return a model of a family with random parameters, and raw samples that are not centred."""
    generator = torch.Generator().manual_seed(0)
    if name in TRANSCODERS:
        cls, options = TRANSCODERS[name]
        model = cls(WIDTH, UNITS, out_features=TARGET, **options)
    else:
        model = MODELS[name](WIDTH, UNITS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        if isinstance(model, models.BatchTopK):
            model.threshold.fill_(0.4)
    return model.eval(), 3 + 2 * torch.randn(200, WIDTH, generator=generator)


def normalizer_of(model, option, x_ND):
    """Return the normaliser of samples, and of targets beside them if the model has others."""
    parts = [x_ND] if model.out_features is None else [x_ND, x_ND[:, :TARGET] * 3 - 1]
    own = [fit_normalizer(option, lambda part=part: [part.double()]) for part in parts]
    return Normalizer.side_by_side(own)


def write_folder(folder, name):
    """Write a whitened model of a family as a folder of SAELens; gives raw samples."""
    model, x_ND = made(name)
    normalizer = normalizer_of(model, "zca", x_ND)
    own, width = isinstance(model, models.SparseAutoencoder), model.out_features or WIDTH
    decoder = None if own else (torch.randn(UNITS, width), torch.randn(width))
    config, arrays = to_saelens(model, normalizer, decoder)
    config["metadata"]["note"] = name
    folder.mkdir()
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file(arrays, folder / "sae_weights.safetensors")
    return x_ND
