"""The protocol of the recovery study, as ``conf/recover.yaml`` fixes it."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from implicit_em_studies.shared.protocol import Grids, Protocol, Some, refuse_others

FOUND = "found_0.8"
"""Share of the features found by a model's directions, with a cosine above 0.8."""
Cells = dict[str, dict[str, Any]]
GROUPS = ("cells", "variations", "toys")
TOYS = "toys"
OF_THE_STAGES = ("seed", "data.final")
"""Settings that only a stage sets."""
COLUMNS = ("pursuit_l0", "ridge_fvu", "found_0.8", "found_0.9", "mean_cosine", "auroc")
"""Measures that may choose a setting."""
NEEDED = ("data.features", "data.width", "data.density")
"""Settings of the middle cell that decide the number of units, and what figures show."""


class RecoveryProtocol(Protocol):
    """What is recovered, and how; each field is explained in ``conf/recover.yaml``."""

    file = "recover.yaml"
    nested = (*GROUPS, "grids", "toy_grids")
    restricted = ("families", "toy_families")
    not_hashed = Protocol.not_hashed | {"toy_grids"}
    set_elsewhere: ClassVar = {"data": "middle", "model.hidden": "variations", "seed": "seeds"}

    middle: dict[str, Any]
    cells: Annotated[Cells, Field(min_length=1)]
    variations: Cells
    toys: Cells
    toy_families: Some[str]
    toy_grids: Grids
    criteria: dict[Literal["blind", "truth"], str]

    @model_validator(mode="after")
    def _is_consistent(self) -> "RecoveryProtocol":
        if missing := [key for key in NEEDED if key not in self.middle]:
            raise ValueError(f"middle.{missing[0]}: missing")
        names = [name for group in GROUPS for name in getattr(self, group)]
        for name in names:
            if fixed := [key for key in OF_THE_STAGES if key in self.of_cell(name)]:
                raise ValueError(f"{name}.{fixed[0]}: a cell cannot set it; a stage does")
            if names.count(name) > 1 or name in GROUPS or not name.isidentifier():
                raise ValueError(
                    f"{name}: must be a plain name of one cell, and none of {', '.join(GROUPS)}"
                )
        refuse_others("toy_families", self.toy_families, self.families)
        if len(self.criteria) < 2:
            raise ValueError("criteria: must be blind and truth")
        for name, column in self.criteria.items():
            if column.removeprefix("-") not in COLUMNS:
                allowed = ", ".join(COLUMNS)
                raise ValueError(f"criteria.{name}={column}: allowed, also with a minus: {allowed}")
        return self

    def chosen(self, words: Sequence[str]) -> list[tuple[str]]:
        """Return the cells that words name, or groups of cells; all if none does."""
        groups = {group: list(getattr(self, group)) for group in GROUPS}
        every = [name for names in groups.values() for name in names]
        asked = self.named(words, [*groups, *every], "cell")
        cells = {name for word in asked for name in groups.get(word, [word])}
        return [(name,) for name in every if name in cells]

    def families_of(self, part: tuple[str, ...]) -> Sequence[str]:
        """Return the families of a cell."""
        return self.toy_families if part[0] in self.toys else self.families

    def group_of(self, cell: str) -> str:
        """Return the group that a cell belongs to."""
        return next(group for group in GROUPS if cell in getattr(self, group))

    def of_cell(self, cell: str) -> dict[str, Any]:
        """Return a cell's settings, with as many units as features unless it says otherwise."""
        settings = self.middle | getattr(self, self.group_of(cell))[cell]
        return {"model.hidden": settings["data.features"], **settings}

    def grids_of(self, cell: str) -> str:
        """Return the field with the grids that are tuned in a cell."""
        return "toy_grids" if cell in self.toys else "grids"
