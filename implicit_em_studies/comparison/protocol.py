"""The protocol of the comparison, as ``conf/compare.yaml`` fixes it."""

from collections.abc import Sequence
from itertools import chain
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from implicit_em_studies.shared.planning import AXES, Grid
from implicit_em_studies.shared.protocol import (
    Distinct,
    Grids,
    Protocol,
    Some,
    Variants,
    variants_of,
)

Density = Annotated[float, Field(gt=0, lt=1)]
Factor = Annotated[float, Field(ge=1)]


class PartSettings(BaseModel):
    """What sets a part apart; each field is explained in ``conf/compare.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: PositiveInt | None = None
    widths: dict[str, PositiveInt] = {}
    also: Distinct[str] = []
    variants: Variants = {}
    grids: Grids = {}


class ComparisonProtocol(Protocol):
    """What is compared, and how; each field is explained in ``conf/compare.yaml``."""

    file = "compare.yaml"
    nested = ("parts", "grids")
    set_elsewhere: ClassVar = {"data": "datasets", "model.hidden": "width, parts", "seed": "seeds"}

    datasets: Some[str]
    width: PositiveInt
    parts: Annotated[dict[str, PartSettings], Field(min_length=1)]
    densities: Some[Density]
    reach: Factor
    beyond: Factor

    @model_validator(mode="after")
    def _is_consistent(self) -> "ComparisonProtocol":
        taken = {*self.families, *self.controls}
        for part, own in self.parts.items():
            if part in self.datasets or not part.isidentifier():
                raise ValueError(f"parts.{part}: must be a plain name, and not a data set's")
            if twice := [family for family in own.also if family in taken]:
                already = "is among families or controls already"
                raise ValueError(f"parts.{part}.also={twice[0]}: {already}")
            if unknown := [family for family in own.grids if family not in self.grids]:
                allowed = ", ".join(self.grids)
                raise ValueError(f"parts.{part}.grids.{unknown[0]}: allowed: {allowed}")
            self.refuse_variants(f"parts.{part}.variants", own.variants)
        self.require("tuning", "probe", "linear", default="linear")
        return self

    def of_part(self, part: str) -> Self:
        """Return the protocol of one part: with its width, its families, and no other part."""
        own = self.parts[part]
        changed = {name: _changed(self.grids[name], grid) for name, grid in own.grids.items()}
        values = {
            "width": own.width or self.width,
            "families": list(dict.fromkeys([*self.families, *own.also])),
            "grids": self.grids | changed,
            "variants": self.variants | own.variants,
            "parts": {part: own},
        }
        return self.model_copy(update=values)

    @property
    def every_family(self) -> list[str]:
        """The families of all parts."""
        also = chain(*(own.also for own in self.parts.values()))
        return list(dict.fromkeys([*self.families, *also]))

    def only(self, names: Sequence[str]) -> Self:
        """Return the protocol with these families and the reference; with all if none is named."""
        parts = {}
        for part, own in self.parts.items():
            also = [one for one in own.also if one in names]
            left = variants_of({*names, self.reference}, own.variants)
            parts[part] = own.model_copy(update={"also": also, "variants": left})
        return super().only(names).model_copy(update={"parts": parts} if names else {})

    def families_of(self, part: tuple[str, ...]) -> Sequence[str]:
        """Return the families of a part."""
        return self.of_part(part[1]).families

    def deciding(self, part: str) -> dict[str, Any]:
        """Return everything that decides a part's results, including its widths."""
        own = self.of_part(part)
        # Digests of parts without variants are older than these.
        without = set() if own.variants else {"variants"}
        left_out = {*self.not_hashed, "datasets", "parts", *without}
        content = own.model_dump(exclude=left_out)
        return content | {"widths": self.parts[part].widths}

    def chosen(self, words: Sequence[str]) -> list[tuple[str, str]]:
        """Return the data sets and parts that words name; all data sets or parts if none does."""
        asked = self.named(words, [*self.datasets, *self.parts], "part")
        parts = [part for part in self.parts if part in asked] or list(self.parts)
        datasets = [name for name in self.datasets if name in asked] or self.datasets
        return [(dataset, part) for part in parts for dataset in datasets]

    def width_of(self, part: str, family: str) -> int:
        """Return the number of units K that a family has in a part."""
        return self.parts[part].widths.get(family, self.of_part(part).width)


def _changed(grid: Grid, own: Grid) -> Grid:
    """Return a grid with other settings, and with other values of some axes."""
    axes = {**grid.get(AXES, {}), **own.get(AXES, {})}
    return {**grid, **own, **({AXES: axes} if axes else {})}
