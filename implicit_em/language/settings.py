"""The settings of a harvest: their schema, and which of them decide what its store holds."""

import re
from typing import Annotated, Any, Literal

from omegaconf import DictConfig
from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, model_validator

from implicit_em.config.schema import FixedSection, Seed, Share, Threads, parsed

SITE = re.compile(r"(resid|mlpin|mlp|attn)\.(\d+)", re.ASCII)
ELSEWHERE: Any = {
    **dict.fromkeys(("store", "kept", "part", "parts"), True),
    "lm": {"path", "package"},
}
"""Settings that say where files lie and who writes which, not what they hold."""


class LanguageModelSettings(FixedSection):
    """Where a language model is, the digest of its weights, and the seed that permutes them."""

    name: str
    package: str | None
    path: str
    sha256: str | None
    permuted: Seed | None = None


class ContextSettings(FixedSection):
    """How documents become contexts."""

    length: PositiveInt
    packing: bool
    truncation: PositiveInt | None
    special_tokens: bool
    padding: Literal["longest", "length", "none"]


class SplitSettings(FixedSection):
    """Shares of the documents for validation and for testing."""

    validation: Share
    test: Share

    @model_validator(mode="after")
    def _leave_some(self) -> "SplitSettings":
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together must be less than 1")
        return self


def _are_sites(sites: list[str]) -> list[str]:
    if not sites or len(set(sites)) < len(sites) or not all(map(SITE.fullmatch, sites)):
        raise ValueError(
            "should be a list of resid.N, mlpin.N, mlp.N and attn.N, each once, with N from 0 on"
        )
    return sites


def _as_list(sites: Any) -> Any:
    return [sites] if isinstance(sites, str) else sites


class HarvestSettings(FixedSection):
    """All settings of a harvest; ``text`` is the node that builds the source of the text."""

    lm: LanguageModelSettings
    text: dict[str, Any]
    sites: Annotated[list[str], BeforeValidator(_as_list), AfterValidator(_are_sites)]
    store: Annotated[str, Field(min_length=1)]
    tokens: PositiveInt | None
    context: ContextSettings
    split: SplitSettings
    batch_size: PositiveInt
    threads: Threads
    device: Literal["cpu", "cuda"]
    dtype: Literal["float16", "bfloat16"]
    shard_tokens: PositiveInt
    seed: Seed
    kept: Annotated[int, Field(ge=0)] | None
    part: Annotated[int, Field(ge=0)]
    parts: PositiveInt

    @model_validator(mode="after")
    def _is_consistent(self) -> "HarvestSettings":
        if self.part >= self.parts:
            last = self.parts - 1
            raise ValueError(f"part={self.part}: of parts={self.parts}, the last is {last}")
        return self

    @classmethod
    def of(cls, cfg: DictConfig) -> "HarvestSettings":
        """Return the settings of a composed configuration, or raise ``ConfigError``."""
        return parsed(cfg, cls)[1]

    def deciding(self) -> dict[str, Any]:
        """Return the settings that decide what the store holds."""
        settings = self.model_dump(exclude=ELSEWHERE)
        if self.lm.permuted is None:  # as in stores from before there was this setting
            del settings["lm"]["permuted"]
        return settings
