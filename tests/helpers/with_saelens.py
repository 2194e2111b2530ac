"""What SAELens itself does with folders; runs in its own environment: ``read`` or ``make``."""

import sys
from pathlib import Path

import numpy as np
import sae_lens
import torch
from sae_lens import SAE

UNFOLDED = {"normalize_activations": "expected_average_only_in"}
OUT = {"d_out": 4, "apply_b_dec_to_input": False}
KINDS = {
    "standard": ("StandardSAE", {}),
    "standard-unscaled": ("StandardSAE", UNFOLDED),
    "topk": ("TopKSAE", {"k": 4}),
    "topk-rescaled": ("TopKSAE", {"k": 4, "rescale_acts_by_decoder_norm": True}),
    "topk-checkpoint": ("TopKTrainingSAE", {"k": 4}),
    "topk-trained": ("TopKTrainingSAE", {"k": 4}),
    "batchtopk-checkpoint": ("BatchTopKTrainingSAE", {"k": 4}),
    "batchtopk-trained": ("BatchTopKTrainingSAE", {"k": 4}),
    "jumprelu": ("JumpReLUSAE", {}),
    "gated": ("GatedSAE", {}),
    "transcoder": ("Transcoder", OUT),
    "skip_transcoder": ("SkipTranscoder", OUT),
    "jumprelu_transcoder": ("JumpReLUTranscoder", OUT),
    "jumprelu_skip_transcoder": ("JumpReLUSkipTranscoder", OUT),
}
"""By name, class and options of a model. ``checkpoint`` is a folder of the training, ``trained``
its end. ``-whole`` behind a name stands for a model whose input keeps ``b_dec``.
"""


def answer(sae, folder, samples):
    """Write the codes and reconstructions of samples beside a folder."""
    with torch.no_grad():
        codes = sae.encode(torch.from_numpy(samples))
        found = sae(torch.from_numpy(samples)) if hasattr(sae.cfg, "d_out") else sae.decode(codes)
        arrays = {"codes": codes.numpy(), "reconstructions": found.numpy()}
    np.savez(Path(folder).with_suffix(".npz"), **arrays)


def make(kind, folder, samples):
    """Make a model with random weights, save it, and answer."""
    torch.manual_seed(0)
    name = kind.removesuffix("-whole")
    cls, more = KINDS[name]
    how = {"apply_b_dec_to_input": name == kind, **more}
    config = getattr(sae_lens, f"{cls}Config")(d_in=samples.shape[1], d_sae=12, **how)
    sae = getattr(sae_lens, cls)(config)
    with torch.no_grad():
        for part, parameter in sae.named_parameters():
            parameter.copy_(torch.rand_like(parameter) - (0 if part == "threshold" else 0.5))
        if hasattr(sae, "topk_threshold"):
            sae.topk_threshold.fill_(0.3)
    (sae.save_inference_model if name.endswith("-trained") else sae.save_model)(folder)
    if name == "batchtopk-checkpoint":  # what SAELens measures is the model of its end
        make(kind.replace("checkpoint", "trained"), Path(folder).with_suffix(".end"), samples)
    else:
        answer(sae if name == "topk-checkpoint" else SAE.load_from_disk(folder), folder, samples)


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
