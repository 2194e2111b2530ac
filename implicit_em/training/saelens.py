"""The format of SAELens: a folder with ``cfg.json`` and ``sae_weights.safetensors``.

Its encoder is ``z = (x - b_dec) W_enc + b_enc``, its decoder ``a W_dec + b_dec``. It is a setting
whether ``b_dec`` is subtracted.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from implicit_em.base.errors import ConfigError, DamagedError, raising
from implicit_em.base.files import read_json
from implicit_em.base.values import check_word
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
from implicit_em.models.normalizing import Normalizer

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
PLAIN = (Encoder, SampledEncoder, SparseAutoencoder, Dictionary)
"""Models whose only nonlinearity is ReLU."""
CLASSES = {"standard": Dictionary, "topk": TopK, "jumprelu": JumpReLU, "gated": Gated}
"""Class of the model for each architecture."""
VERSION = "6.0.0"
"""Version of SAELens that introduced this format. Without it, SAELens drops the metadata."""
DEFAULTS = {"normalize_activations": "none", "reshape_activations": "none"}
"""Settings of which only these values can be read."""


def to_saelens(
    model: Any, normalizer: Normalizer | None, decoder: tuple[Tensor, Tensor] | None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a model's configuration and weights in SAELens's format, for raw samples.

    Everything affine is folded: the normaliser, and a bias that is subtracted from the input. So
    ``apply_b_dec_to_input`` is false.

    Args:
        model: model for normalised samples.
        normalizer: normaliser of the samples; ``None`` for none.
        decoder: matrix ``(K, D)`` and bias ``(D,)`` of a decoder for a model that has none;
            ``None`` for the model's own.

    Raises:
        ConfigError: if SAELens has no such architecture, or the normaliser is not affine.
    """
    own = model.encoder if isinstance(model, SparseAutoencoder) else model
    known = (*PLAIN, TopK, BatchTopK, JumpReLU, Gated)
    if type(model) not in known:
        names = ", ".join(cls.__name__ for cls in known)
        raise ConfigError(f"model: a {type(model).__name__}; SAELens has a form for {names}")
    if not isinstance(own.activation, nn.ReLU):
        raise ConfigError(f"activation: {own.activation}; SAELens has ReLU alone")
    if normalizer is not None and normalizer.mean is None:
        raise ConfigError(f"data.normalize={normalizer.option}: cannot be folded into the weights")

    rows_KD, bias_K = own.linear.weight.double(), own.linear.bias.double()
    if isinstance(model, SparseAutoencoder):
        directions_KD, middle_D = model.decoder.weight.double().T, model.decoder.bias.double()
    else:
        assert decoder is not None, "a model without decoder needs one"
        directions_KD, middle_D = (part.double() for part in decoder)
    subtracted = isinstance(model, Dictionary) and model.subtract_bias
    shift_K = -rows_KD @ middle_D if subtracted else torch.zeros_like(bias_K)
    if normalizer is not None:
        assert normalizer.mean is not None, "it is affine"
        mean_D = normalizer.mean.double()
        rows_KD = normalizer.turned(rows_KD)
        shift_K = shift_K - rows_KD @ mean_D
        directions_KD = normalizer.turned_back(directions_KD)
        middle_D = normalizer.turned_back(middle_D) + mean_D
    tensors = {"W_enc": rows_KD.T, "W_dec": directions_KD, "b_dec": middle_D}
    settings: dict[str, Any] = {"architecture": "standard"}
    if isinstance(model, Gated):
        scale_K = model.log_scale.double()
        tensors |= {"b_gate": bias_K + shift_K, "r_mag": scale_K}
        tensors["b_mag"] = model.magnitude_bias.double() + scale_K.exp() * shift_K
        settings = {"architecture": "gated"}
    else:
        tensors["b_enc"] = bias_K + shift_K
    if isinstance(model, JumpReLU | BatchTopK):
        threshold = model.log_threshold.exp() if isinstance(model, JumpReLU) else model.threshold
        tensors["threshold"] = threshold.double().expand(len(bias_K))
        settings = {"architecture": "jumprelu"}
    elif isinstance(model, TopK):
        settings = {"architecture": "topk", "k": model.k, "rescale_acts_by_decoder_norm": False}
    settings |= {"d_in": rows_KD.shape[1], "d_sae": len(rows_KD), "dtype": "float32"}
    settings |= {"device": "cpu", "apply_b_dec_to_input": False, **DEFAULTS}
    settings["metadata"] = {"sae_lens_version": VERSION}
    return settings, {name: array.detach().float().contiguous() for name, array in tensors.items()}


def is_saelens(folder: str | Path) -> bool:
    """Return whether a folder is one of SAELens."""
    return Path(folder, CONFIG).is_file() and Path(folder, WEIGHTS).is_file()


def from_saelens(folder: str | Path) -> nn.Module:
    """Return the model in a folder of SAELens, in evaluation mode, on the CPU.

    Raises:
        ConfigError: if it has another architecture, or a setting that this package lacks.
        DamagedError: if the files do not fit together.
    """
    config = read_json(Path(folder, CONFIG))
    architecture = config.get("architecture")
    check_word(f"{folder}: architecture", architecture, CLASSES)
    for name, value in {**DEFAULTS, "rescale_acts_by_decoder_norm": False}.items():
        if config.get(name, value) != value:
            raise ConfigError(f"{folder}: {name}={config[name]}: only {value} can be read")
    damage = (KeyError, ValueError, RuntimeError, SafetensorError)
    with raising(DamagedError, f"{folder}: no model of SAELens", *damage):
        arrays = load_file(Path(folder, WEIGHTS))
        units, width = arrays["W_dec"].shape
        options = {"k": config["k"]} if architecture == "topk" else {}
        subtract = bool(config.get("apply_b_dec_to_input", True))
        model: Any = CLASSES[architecture](
            width, units, unit_columns=False, subtract_bias=subtract, **options
        )
        model.to(arrays["W_dec"].dtype).load_state_dict(
            {**model.state_dict(), **_state_of(architecture, arrays)}
        )
    return model.eval()


def _state_of(architecture: str, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return SAELens's arrays by the names of this package's parameters."""
    bias = "b_gate" if architecture == "gated" else "b_enc"
    found = {
        "encoder.linear.weight": arrays["W_enc"].T,
        "encoder.linear.bias": arrays[bias],
        "decoder.weight": arrays["W_dec"].T,
        "decoder.bias": arrays["b_dec"],
    }
    if architecture == "gated":
        found |= {"log_scale": arrays["r_mag"], "magnitude_bias": arrays["b_mag"]}
    elif architecture == "jumprelu":
        found["log_threshold"] = arrays["threshold"].log()
    return found
