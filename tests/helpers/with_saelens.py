"""What SAELens itself does with folders; runs in its own environment: ``read`` or ``make``."""

import sys
from pathlib import Path

import numpy as np
import torch
from sae_lens import (
    SAE,
    GatedSAE,
    GatedSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
)

KINDS = {
    "standard": (StandardSAE, StandardSAEConfig, {}),
    "topk": (TopKSAE, TopKSAEConfig, {"k": 4}),
    "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig, {}),
    "gated": (GatedSAE, GatedSAEConfig, {}),
}


def answer(sae, folder, samples):
    """Write the codes and reconstructions of samples beside a folder."""
    with torch.no_grad():
        codes = sae.encode(torch.from_numpy(samples))
        arrays = {"codes": codes.numpy(), "reconstructions": sae.decode(codes).numpy()}
    np.savez(Path(folder).with_suffix(".npz"), **arrays)


def make(kind, folder, samples):
    """Make a model with random weights, save it, and answer."""
    torch.manual_seed(0)
    cls, config, more = KINDS[kind]
    sae = cls(config(d_in=samples.shape[1], d_sae=12, apply_b_dec_to_input=kind != "topk", **more))
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(torch.rand_like(parameter) - (0 if name == "threshold" else 0.5))
    sae.save_model(folder)
    answer(sae, folder, samples)


if __name__ == "__main__":
    samples = np.load(sys.argv[1])
    for word in sys.argv[2:]:
        kind, _, folder = word.partition("=")
        if kind == "read":
            sae = SAE.load_from_disk(folder)
            assert sae.cfg.metadata.note == Path(folder).name
            answer(sae, folder, samples)
        else:
            make(kind, folder, samples)
