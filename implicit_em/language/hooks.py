"""The names that other tools have for a site of a language model."""

import re
from collections.abc import Mapping
from typing import Any

from implicit_em.base.errors import ConfigError
from implicit_em.language.store import ActivationStore, Manifest

MODULES = {
    "GPT2": ("transformer.h", "attn", "ln_2"),
    "GPTNeoX": ("gpt_neox.layers", "attention", "post_attention_layernorm"),
    "Bert": ("bert.encoder.layer", "attention.output.dense", "attention.output"),
}
"""For transformers' causal models, by the beginning of their class's name: the path of the blocks,
and in a block the module of its attention, and the norm in front of its MLP."""
OTHERS = ("model.layers", "self_attn", "post_attention_layernorm")
"""The same of any other model, such as Llama, Mistral or Qwen."""
FAMILIES = re.compile(
    r"(.*/)?(distilgpt2|gpt2|gpt-(neo|j)|pythia|bloom|mgpt|opt-|phi-|gemma|(meta-)?llama|codellama|"
    r"mistral|mixtral|qwen|olmo|stablelm|tiny-?stories|yi-).*",
    re.IGNORECASE,
)
"""Names of models of which TransformerLens 3.9 knows the families."""
HUB_NAME, NO_NAME = re.compile(r"([\w.-]+/)?[a-zA-Z0-9][\w.-]*", re.ASCII), "auto"
"""Names on the hub, which paths are not, and the name of a model that was given none."""


def hooks_of(site: str, architecture: str) -> list[str]:
    """Return the names of a site: in TransformerLens, in transformers, and others that exist.

    BERT has a norm behind each block, and its blocks give normalised vectors.
    """
    kind, _, number = site.partition(".")
    block = int(number)
    found = next((m for name, m in MODULES.items() if architecture.startswith(name)), OTHERS)
    lens, path, attention, norm = f"blocks.{block}", f"{found[0]}.{block}", *found[1:]
    behind = "hook_normalized_resid_post" if architecture.startswith("Bert") else "hook_resid_post"
    return {
        "mlp": [f"{lens}.hook_mlp_out", f"{path}.mlp"],
        "attn": [f"{lens}.hook_attn_out", f"{path}.{attention}"],
        "mlpin": [f"{lens}.mlp.hook_in", f"{path}.{norm}", f"{lens}.ln2.hook_normalized"],
        "resid": [f"{lens}.{behind}", path, f"blocks.{block + 1}.hook_resid_pre"],
    }[kind]


def metadata_of(manifest: Manifest, site: str) -> dict[str, Any]:
    """Return what SAELens wants to know about vectors of a store."""
    name, architecture = manifest.model["name"], manifest.model.get("architecture", "")
    lens, transformers, *_ = hooks_of(site, architecture)
    known = architecture.startswith("Bert") or FAMILIES.fullmatch(name)
    return {
        "model_name": name,
        "model_class_name": "HookedTransformer" if known else "AutoModelForCausalLM",
        "hook_name": lens if known else transformers,
        "context_size": manifest.settings["context"]["length"],
        "prepend_bos": bool(manifest.prefix),
    }


def site_of(
    metadata: Mapping[str, Any], store: ActivationStore, site: str | None, key: str = "site"
) -> str | None:
    """Return the site of a store that a model's metadata names, or else the one that was given.

    Args:
        metadata: ``hook_name``, ``hook_name_out`` and ``model_name``, if they are known.
        store: the store.
        site: site that was asked for; ``None`` for the one that is named.
        key: ``site``, or ``target`` for that of ``hook_name_out``.

    Raises:
        ConfigError: if the store is of another model or lacks the site, or if another site was
            asked for.
    """
    name = {"site": "hook_name", "target": "hook_name_out"}[key]
    manifest, hook = store.manifest, metadata.get(name)
    theirs, ours = str(metadata.get("model_name") or ""), manifest.model["name"]
    if _differ(theirs, ours):
        raise ConfigError(f"model_name={theirs}: {store.path} holds vectors of {ours}")
    if not hook:
        return site
    names = {s: hooks_of(s, manifest.model.get("architecture", "")) for s in manifest.sites}
    found = next((s for s, hooks in names.items() if hook in hooks), None)
    if found is None:
        listed = ", ".join(f"{s} ({hooks[0]})" for s, hooks in names.items())
        raise ConfigError(f"{name}={hook}: not in the store {store.path}, which has {listed}")
    if site not in (None, found):
        raise ConfigError(f"data.{key}={site}: the model is of {found}, its {name}={hook}")
    return found


def _differ(*names: str) -> bool:
    """Return whether names cannot be of one model: none contains the first word of the other."""
    if NO_NAME in names or not all(map(HUB_NAME.fullmatch, names)):
        return False
    words = [re.findall("[a-z0-9]+", name.rpartition("/")[2].lower()) for name in names]
    first, second = ("".join(one) for one in words)
    return words[0][0] not in second and words[1][0] not in first
