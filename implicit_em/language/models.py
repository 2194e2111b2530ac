"""Language models, and the vectors at sites inside them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from functools import partial
from io import StringIO
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from implicit_em.base.errors import ConfigError, raising
from implicit_em.language.configuration import lm_name
from implicit_em.language.model_files import ModelFiles, find
from implicit_em.language.settings import SITE, LanguageModelSettings

BLOCKS: dict[str, dict[str, tuple[str, ...]]] = {
    "encoder.layer": {  # BERT, RoBERTa
        "mlp": ("output.dense",),
        "mlpin": ("intermediate.dense",),
        "attn": ("attention.output.dense",),
    },
    "layers": {  # Llama, Mistral, Qwen, Gemma, GPT-NeoX
        "mlp": ("mlp",),
        "mlpin": ("mlp",),
        "attn": ("self_attn.o_proj", "self_attn.dense", "attention.dense"),
    },
    "h": {"mlp": ("mlp",), "mlpin": ("mlp",), "attn": ("attn.c_proj",)},  # GPT-2
}
"""Path of the blocks in a model, and in a block the paths of the module of each kind of site.

A site is the output of its module; ``mlpin`` is the input of its module.
"""
NORMS = ("norm", "ln_f", "final_layer_norm")
"""Names of the norm behind the last block."""
SHOWN = 8
"""Number of tokens that are shown on each side."""
SPACE = "▁"
"""What SentencePiece writes for a space; decoded alone, a token loses it."""


@torch.no_grad()
def permute_entries(network: nn.Module, seed: int) -> None:
    """Put the entries of each weight matrix in a random order: a control for the trained network.

    What was learned is lost, and the statistics of the entries stay. Heap et al. 2025 (Sparse
    autoencoders can interpret randomly initialized transformers) draw the weights from Gaussians; a
    permutation keeps every entry.

    Parameters of two or more dimensions are permuted, each as a whole and once, also if modules
    share it. Embeddings are among them: else similar tokens would keep similar vectors, which was
    learned, too. Biases and the gains of norms are vectors and stay.

    Args:
        network: network on the CPU, in float32; it is changed.
        seed: seed of the permutations.
    """
    generator = np.random.default_rng(seed)
    for weight in network.parameters():
        if weight.dim() > 1:
            entries = generator.permutation(weight.flatten().numpy())
            weight.copy_(torch.from_numpy(entries).view_as(weight))


def extremes(values_V: Tensor, most: int = SHOWN) -> list[list[list[Any]]]:
    """Return the tokens of the largest values, then of the smallest: their ids, and the values."""
    most = min(most, len(values_V))
    sides = (values_V.topk(most, largest=largest) for largest in (True, False))
    return [[ids.tolist(), values.tolist()] for values, ids in sides]


class LanguageModel:
    """A language model with its tokenizer; ``load`` gives one in float32, without dropout.

    Args:
        network: transformers' model without a head; nothing of it is changed.
        tokenizer: transformers' tokenizer.
        name: name of the model in messages and in the manifest.
        files: SHA-256 of its files by their names.

    Raises:
        ConfigError: if the model's blocks are not where those of known architectures are.
    """

    auto = "AutoModel"
    """Name of transformers' class that loads the network."""
    needs_all_weights = False
    """Whether weights that the files lack are refused; a pooler, for example, plays no part."""

    def __init__(self, network: Any, tokenizer: Any, name: str, files: dict[str, str]):
        self.network = network
        self.tokenizer, self.name, self.files = tokenizer, name, files
        paths = [path for path in BLOCKS if isinstance(_submodule(network, path), nn.ModuleList)]
        if not paths:
            raise ConfigError(
                f"lm={name}: a {type(network).__name__}, whose blocks are not known; known are "
                "models built like BERT, Llama or GPT-2"
            )
        self.blocks: Any = _submodule(network, paths[0])
        self._inside = BLOCKS[paths[0]]
        self.depth = len(self.blocks)

    @classmethod
    def load(cls, lm: LanguageModelSettings, device: str) -> Self:
        """Return the model on a device, with permuted entries if the settings say so.

        Raises:
            ConfigError: if it is not there, is another, or cannot be loaded; if it needs a head and
                has none.
        """
        files = find(lm)
        tokenizer, network, missing = _loaded(lm, files, device, cls.auto)
        model = cls(network, tokenizer, lm_name(lm.name, lm.permuted), files.digests())
        if missing and cls.needs_all_weights:
            raise ConfigError(
                f"lm.path={lm.path}: its head has no weights: {missing[0]} is missing"
            )
        return model

    @property
    def width(self) -> int:
        """Width D of the vectors."""
        return self.network.config.hidden_size

    @property
    def longest(self) -> int | None:
        """Largest number of tokens of a context, if the model has one."""
        embeddings = getattr(self.network, "embeddings", None)
        longest = getattr(self.network.config, "max_position_embeddings", None)
        padding = getattr(embeddings, "padding_idx", None)  # positions of RoBERTa begin behind it
        return longest if longest is None or padding is None else longest - padding - 1

    @property
    def padding_id(self) -> int:
        """Token id that fills up shorter contexts; the model does not attend to it."""
        return self.tokenizer.pad_token_id or 0

    def vocabulary(self) -> list[str]:
        """Return the text of each token id, with the space in front of a word."""
        ids = list(range(len(self.tokenizer)))
        names = self.tokenizer.convert_ids_to_tokens(ids)
        texts = self.tokenizer.batch_decode([[i] for i in ids], clean_up_tokenization_spaces=False)
        return [
            name.replace(SPACE, " ") if name is not None and SPACE in name else text
            for name, text in zip(names, texts, strict=True)
        ]

    def module(self, site: str) -> nn.Module:
        """Return the module whose output a site is, or whose input (``mlpin``).

        Raises:
            ConfigError: if the model has no such site.
        """
        match = SITE.fullmatch(site)
        block = int(match[2]) if match else self.depth
        if match is None or block >= self.depth:
            last = self.depth - 1
            raise ConfigError(
                f"sites={site}: {self.name} has {self.depth} blocks; allowed are resid.0 to "
                f"resid.{last}, and so on for mlpin, mlp and attn"
            )
        if match[1] == "resid":
            return self.blocks[block]
        paths = self._inside[match[1]]
        found = next(filter(None, (_submodule(self.blocks[block], path) for path in paths)), None)
        if found is None:
            raise ConfigError(f"sites={site}: the blocks of {self.name} have no {paths[0]}")
        return found

    def stop_after(self, sites: Sequence[str]) -> None:
        """Drop the blocks behind the last of the sites, where a pass then ends.

        Raises:
            ConfigError: if the model lacks a site.
        """
        for site in sites:
            self.module(site)
        last = max(int(site.rpartition(".")[2]) for site in sites)
        del self.blocks[last + 1 :]

    @contextmanager
    def reading(self, sites: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        """Yield a dictionary that each pass fills with the vectors of the sites, ``(B, L, D)``.

        The output of a block is transformers' own hidden state behind it, bit for bit. Only behind
        the last block may transformers' be another, because it has passed the model's final norm.
        """
        found: dict[str, Tensor] = {}
        with ExitStack() as hooks:
            for site in sites:
                hooks.enter_context(self.hooked(site, partial(_keep, found, site)))
            yield found

    def hooked(self, site: str, hook: Callable[..., Any]) -> RemovableHandle:
        """Call a hook of torch in each pass, whose last argument is what the site gives.

        As a context, the handle that is returned ends that.
        """
        module = self.module(site)
        taken = site.startswith("mlpin")
        add = module.register_forward_pre_hook if taken else module.register_forward_hook
        return add(hook)

    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> None:
        """Let the model read contexts; the mask is 1 for tokens and 0 for padding, int64."""
        _read(self.network, ids_BL, mask_BL)


class CausalModel(LanguageModel):
    """A language model with its head, whose vectors at a site can be replaced.

    Args:
        network: transformers' model with the head that predicts the next token; in evaluation mode.
        tokenizer: transformers' tokenizer.
        name: name of the model in messages.
        files: SHA-256 of its files by their names.

    Raises:
        ConfigError: if it is not causal, or its blocks are not built like those that are known.
    """

    auto = "AutoModelForCausalLM"
    needs_all_weights = True

    def __init__(self, network: Any, tokenizer: Any, name: str, files: dict[str, str]):
        super().__init__(network.base_model, tokenizer, name, files)
        self.whole = network
        outputs: list[Any] = []
        hook = self.blocks[-1].register_forward_hook(lambda *call: outputs.append(call[2]))
        self.forward(torch.tensor([[0, 0], [0, 1]]), torch.ones(2, 2, dtype=torch.int64))
        hook.remove()
        kind = type(network).__name__
        if not isinstance(outputs[0], Tensor):
            raise ConfigError(f"lm={name}: a {kind}, whose blocks give more than their vectors")
        first_BD = outputs[0][:, 0]
        if not torch.allclose(first_BD[0], first_BD[1], atol=1e-4):
            raise ConfigError(
                f"lm={name}: a {kind} that reads ahead; allowed are causal models, which predict "
                "the next token"
            )

    def logits(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Return the logits of the next token, float32, ``(B, L, V)``; the mask as in forward."""
        return _read(self.whole, ids_BL, mask_BL).logits

    def effects(self, vectors_ND: Tensor) -> Tensor:
        """Return what vectors, added behind the last block, change in the logits, ``(N, V)``.

        The tokens are those of the tokenizer: a model may have more logits, which stand for none.
        This is the direct effect ``W_U (g * d)`` with the gain g of the final norm; a LayerNorm
        subtracts the mean of d first. The norm's division is left out, so the scale means nothing.
        The mean over the vocabulary is subtracted, because it changes no probability.
        """
        base, head = self.network, self.whole.get_output_embeddings()
        norm = next((module for name in NORMS if (module := getattr(base, name, None))), None)
        with torch.inference_mode():
            if norm is not None:
                gain = norm(torch.ones_like(vectors_ND[:1]))  # that of an RMSNorm may be 1 + weight
                # Cohere and OLMo have a LayerNorm of their own class, OLMo's without a weight.
                if isinstance(norm, nn.LayerNorm) or not gain.any():
                    vectors_ND = vectors_ND - vectors_ND.mean(-1, keepdim=True)
                    gain = getattr(norm, "weight", 1)
                vectors_ND = vectors_ND * gain
            logits_NV = vectors_ND @ head.weight[: len(self.tokenizer)].T
        return logits_NV - logits_NV.mean(-1, keepdim=True)

    @contextmanager
    def giving(self, vectors: Mapping[str, Tensor]) -> Iterator[None]:
        """Let sites give these vectors, ``(B, L, D)``, in each pass, and compute nothing for them.

        The blocks before a ``resid`` site are not computed either. So a pass equals one in which
        forward hooks replace the outputs, bit for bit. An ``mlpin`` site is what its MLP reads.
        """
        given: dict[nn.Module, Any] = {}
        for site, vectors_BLD in vectors.items():
            module = self.module(site)
            kind, _, block = site.partition(".")
            before = self.blocks[: int(block)] if kind == "resid" else []
            given |= dict.fromkeys([*before, module], partial(_give, vectors_BLD))
            if kind == "mlpin":
                given[module] = partial(_take, module.forward, vectors_BLD)
        for module, forward in given.items():
            module.forward = forward
        try:
            yield
        finally:
            for module in given:
                del module.forward


def _loaded(
    lm: LanguageModelSettings, files: ModelFiles, device: str, auto: str
) -> tuple[Any, Any, list[str]]:
    """Return tokenizer, network by one of transformers' auto classes, and weights it lacks."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: this machine has no CUDA device; allowed is cpu")
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # Transformers raises any error, and shows a progress bar that cannot be turned off.
    with redirect_stderr(StringIO()):
        with raising(ConfigError, f"lm.path={lm.path}: its tokenizer cannot be loaded", Exception):
            tokenizer = transformers.AutoTokenizer.from_pretrained(**files.arguments)
        with raising(ConfigError, f"lm.path={lm.path}: its network cannot be loaded", Exception):
            network, found = getattr(transformers, auto).from_pretrained(
                **files.arguments,
                use_safetensors=None if files.gguf else True,  # never pickle
                dtype=torch.float32,
                output_loading_info=True,
            )
    if lm.permuted is not None:
        permute_entries(network, lm.permuted)
    network = network.to(device).eval().requires_grad_(False)
    return tokenizer, network, sorted(found["missing_keys"])


@torch.inference_mode()
def _read(network: Any, ids_BL: Tensor, mask_BL: Tensor) -> Any:
    device = network.device
    tokens = {"input_ids": ids_BL.to(device), "attention_mask": mask_BL.to(device)}
    return network(**tokens, use_cache=False)  # only text generation needs the keys and values


def _submodule(module: nn.Module, path: str) -> Any:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _keep(found: dict[str, Tensor], site: str, module: nn.Module, *inputs_and_output: Any) -> None:
    vectors = inputs_and_output[-1]
    found[site] = vectors[0] if isinstance(vectors, tuple) else vectors


def _give(vectors: Tensor, *inputs: Any, **settings: Any) -> Tensor:
    return vectors


def _take(forward: Callable[[Tensor], Any], vectors: Tensor, *inputs: Any) -> Any:
    return forward(vectors)
