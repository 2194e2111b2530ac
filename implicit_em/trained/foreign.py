"""Autoencoders of other tools: a folder on the disk, or one on the Hugging Face hub.

Folders of SAELens are read, and folders of dictionary_learning whose weights are no pickle.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load
from torch import Tensor, nn

from implicit_em.base.errors import ConfigError, DamagedError, raising
from implicit_em.base.files import read_bytes, read_json
from implicit_em.base.values import check_word
from implicit_em.trained import hub, saelens

PICKLE = "ae.pt"
CONVERT = (
    "import torch, safetensors.torch as s; s.save_file({k: v.clone().contiguous() for k, v in "
    "torch.load('ae.pt', 'cpu', weights_only=True).items()}, 'ae.safetensors')"
)
"""Program that makes ``ae.safetensors`` of the weights of dictionary_learning."""
CLASSES = {
    **dict.fromkeys(("AutoEncoder", "AutoEncoderNew"), "standard"),
    **{"AutoEncoderTopK": "topk", "GatedAutoEncoder": "gated"},
    **dict.fromkeys(("BatchTopKSAE", "MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder"), "jumprelu"),
}
"""SAELens's architecture for each class of dictionary_learning."""
WHOLE_INPUT = ("AutoEncoderNew", "JumpReluAutoEncoder")
"""Classes that do not subtract the decoder's bias from their input."""
ARRAYS = {
    **{"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec"},
    **dict.fromkeys(("bias", "decoder.bias", "decoder_bias"), "b_dec"),
    **{"gate_bias": "b_gate", "mag_bias": "b_mag"},
}
"""Names of SAELens's arrays by the names in dictionary_learning."""
SUBMODULE = re.compile(r"(resid_post|mlp_out)_layer_(\d+)", re.ASCII)

Content = tuple[dict[str, Any], dict[str, Tensor]]


@dataclass(frozen=True)
class Foreign:
    """An autoencoder that another tool has trained.

    Args:
        address: folder, or address on the hub with the commit in place of its revision.
        name: name for people.
        model: the model, for raw vectors.
        weights: file of the weights.
        metadata: what its configuration says of its origin, such as ``hook_name``.
    """

    address: str
    name: str
    model: nn.Module
    weights: Path
    metadata: dict[str, Any] = field(default_factory=dict)


def _of_dictionary_learning(config: Any, arrays: dict[str, Tensor]) -> Content:
    """Return configuration and arrays as SAELens would have them."""
    trainer = config["trainer"]
    check_word("dict_class", kind := trainer["dict_class"], tuple(CLASSES))
    architecture = CLASSES[kind]
    # Matrices of linear layers are transposed. The other buffers repeat the settings.
    found = {ARRAYS.get(k, k): a.t() if k.endswith(".weight") else a for k, a in arrays.items()}
    threshold = found.pop("threshold", None)
    if architecture == "jumprelu" and threshold is not None:
        found["threshold"] = threshold.expand(len(found["W_dec"]))
    found.pop("group_sizes", None)
    if (own := found.pop("k", None)) is not None:
        check_word("k", trainer.get("k"), [own.item()], " with these weights")
    place = str(trainer.get("submodule_name") or f"resid_post_layer_{trainer['layer']}")
    hook = SUBMODULE.sub(r"blocks.\2.hook_\1", place)
    return {
        "architecture": architecture,
        "k": trainer.get("k"),
        "apply_b_dec_to_input": kind not in WHOLE_INPUT,
        "metadata": {"model_name": trainer.get("lm_name"), "hook_name": hook},
    }, found


FORMS: Mapping[tuple[str, str], Callable[[Any, dict[str, Tensor]], Content]] = {
    (saelens.CONFIG, saelens.WEIGHTS): lambda config, arrays: (config, arrays),
    ("config.json", "ae.safetensors"): _of_dictionary_learning,
}
"""What puts a configuration and its weights into SAELens's form, by the names of the two files."""


def is_foreign(path: str | Path) -> bool:
    """Return whether a path is an address on the hub, or a folder of another tool."""
    there = hub.is_address(path) or Path(path, PICKLE).is_file()
    return there or any(_holds(Path(path), form) for form in FORMS)


def read_foreign(path: str | Path, reading: Collection[str] = ()) -> Foreign:
    """Return the autoencoder at a path for which ``is_foreign`` holds.

    Args:
        path: folder, or address on the hub.
        reading: names of settings that change how a run's codes are read; allowed is none.

    Raises:
        ConfigError: if it is not there, if only its pickle is, if a setting cannot be read, or
            ``reading`` names one.
        DamagedError: if its files do not fit together.
    """
    if reading:
        raise ConfigError(f"{', '.join(reading)}: allowed for a run alone")
    address, folder, name = str(path), Path(path), Path(path).resolve().name
    if hub.is_address(path):
        address, folder = hub.fetch(address, [file for form in FORMS for file in form])
        name = re.sub(r"^hub:|@\w+", "", address)
    form = next((form for form in FORMS if _holds(folder, form)), None)
    if form is None:
        listed = " or ".join(" and ".join(form) for form in FORMS)
        raise ConfigError(
            f"{address}: needs {listed}; a pickle such as {PICKLE} could run code and is not read: "
            f'in its folder, python -c "{CONVERT}" converts it'
        )
    # Damaged files may raise anything.
    with raising(DamagedError, address, Exception):
        weights = load(read_bytes(folder / form[1]))
        config, arrays = FORMS[form](read_json(folder / form[0]), weights)
        model = saelens.from_saelens(config, arrays)
    return Foreign(address, name, model, folder / form[1], config["metadata"])


def _holds(folder: Path, form: tuple[str, str]) -> bool:
    return all((folder / name).is_file() for name in form)
