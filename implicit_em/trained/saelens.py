"""The format of SAELens: a folder with ``cfg.json`` and ``sae_weights.safetensors``.

Its encoder is ``z = (x - b_dec) W_enc + b_enc``, its decoder ``a W_dec + b_dec``. It is a setting
whether ``b_dec`` is subtracted.
"""

import logging
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from implicit_em.base.errors import ConfigError
from implicit_em.base.values import check_word
from implicit_em.models import (
    BatchTopK,
    Dictionary,
    Encoder,
    Gated,
    JumpReLU,
    Matryoshka,
    SampledEncoder,
    SparseAutoencoder,
    TopK,
)
from implicit_em.models.normalizing import Normalizer

log = logging.getLogger(__name__)

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
PLAIN = (Encoder, SampledEncoder, SparseAutoencoder, Dictionary)
"""Models whose only nonlinearity is ReLU."""
CLASSES = {"standard": Dictionary, "topk": TopK, "jumprelu": JumpReLU, "gated": Gated}
"""Class of the model for each architecture."""
TRANSCODERS = {
    **{"transcoder": "standard", "skip_transcoder": "standard"},
    **{"jumprelu_transcoder": "jumprelu", "jumprelu_skip_transcoder": "jumprelu"},
}
"""The architecture of the same form without a target, for each architecture with a target."""
TRAINED = ("batchtopk", "matryoshka_batchtopk")
"""Architectures of checkpoints that become a ``jumprelu`` after the training."""
ENCODER = {"W_enc": "encoder.linear.weight", "b_enc": "encoder.linear.bias"}
DECODER = {"W_dec": "decoder.weight", "b_dec": "decoder.bias"}
GATES = {"b_gate": "encoder.linear.bias", "r_mag": "log_scale", "b_mag": "magnitude_bias"}
PARAMETERS: Mapping[str, Mapping[str, str]] = {
    "standard": ENCODER | DECODER,
    "topk": ENCODER | DECODER,
    "jumprelu": ENCODER | DECODER | {"threshold": "log_threshold"},
    "gated": DECODER | {"W_enc": ENCODER["W_enc"]} | GATES,
}
"""Names of this package's parameters by the names of SAELens's arrays, for each architecture."""
VERSION = "6.0.0"
"""Version of SAELens that introduced this format. Without it, SAELens drops the metadata."""
DEFAULTS = {"normalize_activations": "none", "reshape_activations": "none"}
BOOLEANS = ("apply_b_dec_to_input", "rescale_acts_by_decoder_norm")
UNFOLDED = ("expected_average_only_in", "covariance_whitening")
"""Normalisations that SAELens folds into the weights after the training. If that was not done, it
takes vectors as they are."""
LEAST_LENGTH = 1e-8
"""Length that SAELens takes for shorter rows of a decoder."""
DTYPES = {str(d)[6:]: d for d in (torch.float32, torch.float64, torch.float16, torch.bfloat16)}


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
    known = (*PLAIN, TopK, BatchTopK, Matryoshka, JumpReLU, Gated)
    if type(model) not in known:
        names = ", ".join(cls.__name__ for cls in known)
        raise ConfigError(f"model: a {type(model).__name__}; SAELens has a form for {names}")
    if not isinstance(own.activation, nn.ReLU):
        raise ConfigError(f"activation: {own.activation}; SAELens has ReLU alone")
    if normalizer is not None and normalizer.mean is None:
        raise ConfigError(f"data.normalize={normalizer.option}: cannot be folded into the weights")
    target = model.out_features
    if target is not None and type(model) in (TopK, Gated):
        kind = type(model).__name__
        raise ConfigError(
            f"model: a {kind} with data.target; SAELens's transcoders are of ReLU and JumpReLU"
        )

    raw = _for_raw(model, normalizer, decoder)
    bias_K = raw.encoder.linear.bias
    tensors = {"W_enc": raw.weight.T, "W_dec": raw.decoder.weight.T, "b_dec": raw.decoder.bias}
    tensors |= {} if raw.skip is None else {"W_skip": raw.skip.weight}
    settings: dict[str, Any] = {"architecture": "standard"}
    if isinstance(model, Gated):
        shift_K = bias_K - own.linear.bias.double()
        tensors |= {"b_gate": bias_K, "r_mag": raw.log_scale}
        tensors["b_mag"] = raw.magnitude_bias + raw.log_scale.exp() * shift_K
        settings = {"architecture": "gated"}
    else:
        tensors["b_enc"] = bias_K
    if isinstance(model, JumpReLU | BatchTopK):
        threshold = (
            model.log_threshold.exp() if isinstance(model, JumpReLU) else model.threshold[:1]
        )
        tensors["threshold"] = threshold.double().expand(len(bias_K))
        settings = {"architecture": "jumprelu"}
    elif isinstance(model, TopK):
        settings = {"architecture": "topk", "k": model.k, "rescale_acts_by_decoder_norm": False}
    if target is not None:
        form = (settings["architecture"], raw.skip is not None)
        known_forms = {(base, "skip" in name): name for name, base in TRANSCODERS.items()}
        settings = {"architecture": known_forms[form], "d_out": target}
    units, width = model.weight.shape
    settings |= {"d_in": width, "d_sae": units, "dtype": "float32"}
    settings |= {"device": "cpu", "apply_b_dec_to_input": False, **DEFAULTS}
    settings["metadata"] = {"sae_lens_version": VERSION}
    return settings, {name: array.detach().float().contiguous() for name, array in tensors.items()}


@torch.no_grad()
def _for_raw(
    model: Any, normalizer: Normalizer | None, decoder: tuple[Tensor, Tensor] | None
) -> Any:
    """Return a float64 copy of a model as an autoencoder of raw samples."""
    raw: Any = deepcopy(model).double()
    if decoder is not None:
        units, width = model.weight.shape
        raw = SparseAutoencoder(width, units, out_features=model.out_features).double()
        raw.encoder.linear.load_state_dict(model.linear.state_dict())
        raw.decoder.weight.copy_(decoder[0].T)
        raw.decoder.bias.copy_(decoder[1])
    if isinstance(raw, Dictionary) and raw.subtract_bias:
        raw.encoder.linear.bias.sub_(raw.weight @ raw.decoder.bias)
        raw.subtract_bias = False
    if normalizer is not None:
        raw.fold(normalizer)
    return raw


def from_saelens(config: Mapping[str, Any], arrays: dict[str, Tensor]) -> nn.Module:
    """Return the model that SAELens would load, in evaluation mode, on the CPU.

    Args:
        config: configuration, as SAELens writes it since 6.0.
        arrays: arrays by their names.

    Raises:
        ConfigError: if the configuration is older, has another architecture, or has a setting that
            this package lacks.
        ValueError: if configuration and arrays do not fit together.
    """
    if config.get("metadata") is None:
        raise ConfigError(f"{CONFIG}: of before SAELens 6.0, which can load it and save it anew")
    architecture, arrays = config["architecture"], dict(arrays)
    check_word("architecture", architecture, (*CLASSES, *TRANSCODERS, *TRAINED))
    _check_options(config)
    if not (arrays.pop("scaling_factor", torch.ones(())) == 1).all():
        raise ConfigError("scaling_factor: allowed are ones alone")
    if architecture in TRAINED:
        architecture = "jumprelu"
        arrays["threshold"] = arrays.pop("topk_threshold").expand(len(arrays["W_dec"]))
    is_transcoder, has_path = architecture in TRANSCODERS, "skip" in architecture
    architecture = TRANSCODERS.get(architecture, architecture)
    parameters = {**PARAMETERS[architecture], **({"W_skip": "skip.weight"} if has_path else {})}
    if different := sorted(set(arrays) ^ set(parameters)):
        raise ValueError(f"{architecture}: missing or unknown: {', '.join(different)}")
    word = str(config.get("dtype", arrays["W_dec"].dtype)).removeprefix("torch.")
    check_word("dtype", word, DTYPES)
    dtype = DTYPES[word]
    arrays = {name: array.to(dtype) for name, array in arrays.items()}
    if config.get("rescale_acts_by_decoder_norm"):
        # Activations times the lengths of the decoder's rows compete for the k largest.
        length_K = arrays["W_dec"].norm(dim=1).clamp(min=LEAST_LENGTH)
        arrays |= {name: arrays[name] * length_K for name in ENCODER}
        arrays["W_dec"] = arrays["W_dec"] / length_K[:, None]
    if "threshold" in arrays:
        arrays["threshold"] = arrays["threshold"].clamp(min=0).log()
    units, target = arrays["W_dec"].shape
    width = len(arrays["W_enc"]) if is_transcoder else target
    for name, size in (("d_in", width), ("d_sae", units), ("d_out", target)):
        check_word(name, config.get(name, size), (size,), " with these weights")
    options = {"k": config["k"]} if architecture == "topk" else {}
    if is_transcoder:
        options = {"out_features": target, "skip": has_path}
    subtract = bool(config.get("apply_b_dec_to_input", True))
    model: Any = CLASSES[architecture](
        width, units, unit_columns=False, subtract_bias=subtract, **options
    )
    state = {
        parameters[name]: array.T if array.dim() == 2 and name != "W_skip" else array
        for name, array in arrays.items()
    }
    model.to(dtype).load_state_dict({**model.state_dict(), **state})
    return model.eval()


def _check_options(config: Mapping[str, Any]) -> None:
    """Refuse what no model here does, and warn of samples that SAELens takes unscaled."""
    for name, word in DEFAULTS.items():
        more = UNFOLDED if name == "normalize_activations" else ()
        check_word(name, config.get(name, word), (word, *more))
    for name in BOOLEANS:
        check_word(name, config.get(name, False), (True, False))
    if (option := config.get("normalize_activations")) in UNFOLDED:
        said = "not folded into the weights; vectors are taken unscaled, as in SAELens"
        log.warning("normalize_activations=%s: %s", option, said)
