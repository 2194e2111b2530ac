"""``implicit-em steer RUN --unit N --strength S --prompt "..."``: steer by a unit."""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from implicit_em.base.arguments import Parser
from implicit_em.base.errors import ConfigError
from implicit_em.base.progress import working
from implicit_em.base.values import check_number, check_whole, check_word
from implicit_em.data.modules import fixed_choice
from implicit_em.language.models import CausalModel, extremes
from implicit_em.language.splicing import Moved, Passes, Replacement, Splice, moved, replacing
from implicit_em.models.normalizing import Normalized
from implicit_em.trained.reading import Trained, trained, typed_data
from implicit_em.training.decoding import BATCH, encoded

if TYPE_CHECKING:
    from implicit_em.language.activations import ActivationDataModule

CONTEXTS = 32
"""Largest number of contexts in which an ablation is measured."""


@dataclass(frozen=True)
class Steering:
    """A trained model whose units steer the language model that its samples are from.

    Args:
        coder: the model on raw vectors, with a decoder.
        data: its samples.
        splice: where vectors are replaced.
    """

    coder: Normalized
    data: "ActivationDataModule"
    splice: Splice
    _known: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, found: Trained) -> "Steering":
        """Return the steering of a trained model; one without decoder gets a ridge decoder.

        Raises:
            ConfigError: if its samples are from no language model, or have no length.
        """
        inside = found.data.inside("steer")
        inside.check_length()
        data = inside.data
        if len(data.parts) > 1:
            raise ConfigError(
                f"steer: the run explains {', '.join(data.parts)}; allowed is one site"
            )
        (place,) = data.parts
        return cls(found.coder, data, inside.splice(place, data.columns))

    def replacement(
        self, units: Mapping[int, float], how: str = "add", error: bool = True
    ) -> Replacement:
        """Return the replacement of vectors that changes units; see ``steer``."""
        check(self.coder.model, units, how)
        coder, numbers = self.coder, list(units)
        strengths_U = torch.tensor(list(units.values()), dtype=torch.float64)

        def pulled(rows: Tensor) -> Tensor:
            x_ND, own_NT = coder.model.sides(rows)
            code_NK = coder.encode(x_ND)
            own_NU = code_NK[:, numbers] if how == "add" else 0
            changed_NK = code_NK.clone()
            changed_NK[:, numbers] = (own_NU + strengths_U.to(code_NK)).to(code_NK)
            found_NT = coder.decode(changed_NK, x_ND)
            if error:  # an unchanged code then changes no bit
                change_NT = found_NT - coder.decode(code_NK, x_ND)
                found_NT = own_NT.to(change_NT.device) + change_NT
            if not (found_NT := found_NT.to(own_NT)).isfinite().all():
                raise ConfigError("strength: makes vectors that are not finite; allowed is less")
            return found_NT

        return pulled

    def activations(self, unit: int) -> Tensor:
        """Return the unit's activation on each of the final samples, shape ``(N,)``."""
        if unit not in self._known:
            samples, _ = self.data.final_samples()
            with working("encoding the samples", say=None):
                codes = encoded(self.coder.model, samples, BATCH)
                self._known[unit] = torch.cat([code_BK[:, unit].cpu() for code_BK, _ in codes])
        return self._known[unit]

    def reach(self, unit: int) -> str:
        """Return a line with a unit's largest activation, and how often it is active."""
        values_N = self.activations(unit)
        samples = f"{len(values_N):,} {self.data.final} samples"
        share = (values_N > 0).float().mean()
        if not share:
            return f"unit {unit} is dead: none of {samples} activates it"
        return f"unit {unit}: at most {values_N.max():.4g}, active on {share:.3%} of {samples}"

    def ablated(self, model: CausalModel, unit: int, rows_E: Tensor) -> Moved | None:
        """Return what setting a unit to 0 changes; ``None`` if nothing activates it.

        It is measured in a fixed choice of at most 32 contexts that activate the unit.

        Args:
            model: the language model that the samples are from.
            unit: number of the unit.
            rows_E: rows of the final samples that activate it.
        """
        passes = Passes(self.data.store, model, self.splice, self.data.final)
        columns = (self.data.column(name, self.data.final) for name in ("document", "place"))
        contexts_C2 = passes.holding(*(column_N[rows_E].numpy() for column_N in columns))
        if not len(contexts_C2):
            return None
        some_C2 = contexts_C2[fixed_choice(len(contexts_C2), CONTEXTS).numpy()]
        return moved(passes, some_C2, self.replacement({unit: 0.0}, "set"))

    def write(self, model: CausalModel, prompt: str, tokens: int, seed: int | None = None) -> str:
        """Return how a model continues a prompt: greedily or, with a seed, sampled.

        Raises:
            ConfigError: if the prompt is empty, or the model cannot take as many tokens.
        """
        own = model.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids = [*self.data.store.manifest.prefix, *own]
        if not own:
            raise ConfigError("prompt: is empty; needs some text")
        if model.longest is not None and len(ids) + tokens > model.longest:
            said = f"prompt of {len(ids)} tokens and tokens={tokens}"
            raise ConfigError(f"{said}: {model.name} takes {model.longest} tokens in all")
        sampled = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0}
        options: dict[str, Any] = {"do_sample": False} if seed is None else sampled
        options |= {"max_new_tokens": tokens, "use_cache": True, "pad_token_id": model.padding_id}
        ids_1L = torch.tensor([ids], device=model.whole.device)
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            torch.manual_seed(seed or 0)
            mask_1L = torch.ones_like(ids_1L)
            found_1L = model.whole.generate(ids_1L, attention_mask=mask_1L, **options)
        return model.tokenizer.decode(found_1L[0, len(ids) :])


def check(model: Any, units: Mapping[int, float], how: str) -> None:
    """Raise ``ConfigError`` for a unit that a model lacks, a wrong strength, or a wrong ``how``."""
    check_word("how", how, ("add", "set"))
    for pair in units.items():  # numbers of numpy are what a table gives
        unit, strength = (one.item() if isinstance(one, np.generic) else one for one in pair)
        check_whole("unit", unit, 0, len(model.weight) - 1)
        check_number("strength", strength, lambda _: True, "finite numbers")


@contextmanager
def steer(
    lm: Any,
    run: str | Path | Steering,
    units: Mapping[int, float],
    site: str | None = None,
    how: str = "add",
    error: bool = True,
    data: Mapping[str, Any] | None = None,
) -> Iterator[Steering]:
    """Steer a language model by units of a trained model, as long as the context lasts.

    The vector x of a token becomes ``x + D(a') - D(a)``. Here a is the code of x, a' the code with
    the units changed, and D the decoder. Tokens that the settings of the run's data leave out stay
    as they are: special tokens, first positions, large norms. So does padding, on either side.
    Generation may keep its keys and values. The run computes on the CPU, wherever the language
    model is. A line for each unit says its largest activation on the run's final samples.

    Args:
        lm: a causal model of transformers in evaluation mode, of any floating-point type.
        run: run directory, or folder or address of another tool's model; or what an earlier context
            has yielded, so that nothing is read again.
        units: strength for each unit, by its number, on the scale of its activation.
        site: site whose vectors are changed; ``None`` for that of the run. The largest norm is that
            of the run's own site.
        how: ``add`` adds the strength to the activation; ``set`` replaces it, 0 removes the unit.
        error: whether the part of x stays that the decoder does not reconstruct; if not, x becomes
            ``D(a')``.
        data: ``data`` node as plain containers; ``None`` for that of the run. Another tool's model
            needs one.

    Yields:
        The steering: ``activations(unit)`` has a unit's activation on the final samples.

    Raises:
        FileNotFoundError: if there is no run.
        ConfigError: if the run's data are from no language model, a unit or strength is out of its
            range, or the language model is not causal, lacks the site, or has another width.
    """
    steering = run if isinstance(run, Steering) else Steering.of(trained(run, data))
    splice = steering.splice
    if site is not None and site != splice.site:
        if steering.data.out_features is not None:
            raise ConfigError(f"site={site}: the run's target is {splice.site}; allowed is null")
        splice = replace(splice, site=site, reads=[site])
    if not hasattr(lm, "base_model") or lm.training:
        state = "in training mode" if hasattr(lm, "base_model") else f"a {type(lm).__name__}"
        raise ConfigError(f"lm: {state}; needs a causal model of transformers in evaluation mode")
    model = CausalModel(lm, None, type(lm).__name__, {})
    width = steering.data.store.manifest.sites[steering.splice.site]
    if model.width != width:
        raise ConfigError(f"lm: vectors of width {model.width}, but the run has width {width}")
    function = steering.replacement(units, how, error)
    for unit in units:
        print(steering.reach(unit))
    with replacing(model, splice, function):
        yield steering


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a text of a language model steered by a unit of a run, beside the text without."""
    parser = Parser(
        prog="implicit-em steer",
        description="Continue a prompt: by the language model as it is, and steered by a unit at "
        "the site of the run. This builds the classes that the run's configuration names.",
    )
    add = parser.add_argument
    add("path", metavar="PATH", help="run directory, or a model of another tool")
    typed = "settings of data, which another tool's model needs: data=activations data.path=STORE"
    add("overrides", nargs="*", default=[], help=typed)
    add("--unit", type=int, required=True, help="number of the unit")
    add("--strength", type=float, help="what is added to the unit's activation")
    add("--set", action="store_true", help="set the activation to the strength")
    add("--remove", action="store_true", help="set it to 0, and measure what this changes")
    add("--prompt", required=True, help="text to continue")
    add("--tokens", type=int, default=40, help="number of new tokens; default: 40")
    add("--seed", type=int, help="seed of sampled tokens; without it, the most likely follow")
    add("--no-error", action="store_true", help="leave out what the decoder does not reconstruct")
    add("--lm", help="folder, GGUF file or hub name of the language model, if none of conf/lm")
    return parser.run(arguments, _steer_and_print)


def _steer_and_print(options: argparse.Namespace) -> None:
    if options.remove == (options.strength is not None):
        raise ConfigError("steer: needs either --strength or --remove")
    if options.remove and options.set:
        raise ConfigError("steer: --remove sets the activation to 0; leave out --set")
    check_whole("tokens", options.tokens, 1)
    check_whole("seed", options.seed, 0, 2**32 - 1, or_null=True)
    found = trained(options.path, typed_data(options.path, options.overrides))
    unit, how = options.unit, "set" if options.set or options.remove else "add"
    strength = 0.0 if options.remove else options.strength
    check(found.model, {unit: strength}, how)
    steering = Steering.of(found)
    store = steering.data.store
    model = found.data.inside("steer", options.lm).model
    pulled = steer(model.whole, steering, {unit: strength}, how=how, error=not options.no_error)
    texts = []
    for context in (nullcontext(), pulled):
        with context:
            texts.append(steering.write(model, options.prompt, options.tokens, options.seed))
    table = Table("as it is", f"unit {unit}: {how} {strength:g} at {steering.splice.site}")
    table.add_row(*map(Text, texts))
    Console().print(table)
    if options.remove:
        rows_E = steering.activations(unit).nonzero()[:, 0]
        with working("measuring the ablation"):
            changes = steering.ablated(model, unit, rows_E)
        if changes is not None:
            print(told(changes, store.vocabulary()))


def told(found: Moved, vocabulary: Sequence[str]) -> str:
    """Return lines that say what an ablation changes."""
    lines = [
        f"without it, in {found.contexts} contexts: {found.loss:+.4f} nats a token; "
        f"behind its {found.tokens} active tokens, these become"
    ]
    for word, side in zip(("more", "less"), extremes(found.chances_V), strict=True):
        pairs = zip(*side, strict=True)
        shown = (f"{vocabulary[token]!r} {100 * change:+.2f} %" for token, change in pairs)
        lines.append(f"  {word} likely: {', '.join(shown)}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
