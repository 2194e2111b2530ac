"""The protocol of the comparison, as ``conf/compare.yaml`` fixes it."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)
from yaml import YAMLError

from implicit_em.base.errors import ConfigError, one_line
from implicit_em.config.mistakes import nearest


def _distinct(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError("each must be there once")
    return values


Names = Annotated[list[str], Field(min_length=1), AfterValidator(_distinct)]
AnyNames = Annotated[list[str], AfterValidator(_distinct)]
Density = Annotated[float, Field(gt=0, lt=1)]
Factor = Annotated[float, Field(ge=1)]
DERIVED = "derived"
STAGES = ("always", "tuning", "finals")
KNOBS = "knobs"  # the part that varies one setting of the derived model at a time
# Keys of a run that the protocol sets under another name.
SET_ELSEWHERE = {"data": "datasets", "model.hidden": "width, parts", "seed": "seeds"}


class Protocol(BaseModel):
    """What is compared, and how; each field is explained in ``conf/compare.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    datasets: Names
    width: PositiveInt
    parts: Annotated[dict[str, dict[str, PositiveInt]], Field(min_length=1)]
    reference: str
    families: Names
    controls: AnyNames
    knobs: AnyNames
    always: dict[str, Any]
    tuning: dict[str, Any]
    finals: dict[str, Any]
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1), AfterValidator(_distinct)]
    densities: Annotated[list[Density], Field(min_length=1), AfterValidator(_distinct)]
    reach: Factor
    beyond: Factor

    @model_validator(mode="after")
    def _is_consistent(self) -> "Protocol":
        for part in self.parts:
            if part in (KNOBS, *self.datasets) or not part.isidentifier():
                raise ValueError(
                    f"parts.{part}: must be a plain name, and neither a data set's nor {KNOBS}"
                )
        # The test set is kept for the finals.
        for stage, key, allowed in (
            ("tuning", "data.final", "validation"),
            ("finals", "data.final", "test"),
            ("tuning", "probe", "linear"),
        ):
            found = {"probe": "linear", **self.always, **getattr(self, stage)}.get(key)
            if found != allowed:
                raise ValueError(f"{stage}.{key}={found}: must be {allowed}")
        for stage in STAGES:
            for key, name in SET_ELSEWHERE.items():
                if key in getattr(self, stage) and not (stage == "tuning" and key == "seed"):
                    raise ValueError(f"{stage}.{key}: the protocol sets it; allowed: {name}")
        return self

    def of_part(self, part: str) -> dict[str, Any]:
        """Return everything that decides a part's results, including its widths."""
        left_out = {"datasets", "parts"}
        if part == KNOBS:
            left_out |= {"reference", "families", "controls", "finals", "densities"}
        else:
            left_out |= {"knobs"}
        return self.model_dump(exclude=left_out) | {"widths": self.parts.get(part, {})}

    def refuse_own_settings(self, overrides: Sequence[str]) -> None:
        """Refuse settings of all runs that the protocol sets itself."""
        for override in overrides:
            key = override.lstrip("+~").partition("=")[0]
            instead = [f"{name}.{key}" for name in STAGES if key in getattr(self, name)]
            if key in SET_ELSEWHERE:
                instead.append(SET_ELSEWHERE[key])
            if instead:
                raise ConfigError(
                    f"{override}: the protocol sets it; allowed: {', '.join(instead)}"
                )

    def chosen(self, words: Sequence[str]) -> list[tuple[str, str]]:
        """Return the data sets and parts that words name; all data sets or parts if none does."""
        every_part = [*self.parts, *([KNOBS] if self.knobs else [])]
        allowed = [*self.datasets, *every_part]
        if unknown := [word for word in words if word not in allowed]:
            raise ConfigError(f"{unknown[0]}: no such part; allowed: {', '.join(allowed)}")
        datasets, parts = (
            [name for name in names if name in words] or list(names)
            for names in (self.datasets, every_part)
        )
        return [(dataset, part) for part, dataset in product(parts, datasets)]

    def width_of(self, part: str, family: str) -> int:
        """Return the number of units K that a family has in a part."""
        return self.parts.get(part, {}).get(family, self.width)


def read_protocol(conf: Path, changes: Sequence[str] = ()) -> Protocol:
    """Return the protocol of a configuration folder, with changes such as ``seeds=[1,2]``.

    Raises:
        ConfigError: if it cannot be read, or a value is not allowed.
    """
    path = conf / "compare.yaml"
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        for change in changes:
            _change(content, change)
        protocol = Protocol.model_validate(content)
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: {one_line(error)}") from error
    except ValidationError as error:
        raise ConfigError(_describe(error)) from error
    if protocol.reference not in protocol.families:
        raise ConfigError(
            f"reference={protocol.reference}: allowed are the families, "
            f"{', '.join(protocol.families)}"
        )
    return protocol


def _describe(error: ValidationError) -> str:
    """Return the first mistake; a misspelt key comes before the key that it leaves missing."""
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"{key}: no such key; {nearest(key, Protocol.model_fields)}"
    if first["type"] == "missing":
        return f"{key}: missing"
    where = f"{key}={first['input']}: " if key else ""
    return where + first["msg"].removeprefix("Value error, ")


def refuse_misspelt(changes: Sequence[str], conf: Path) -> None:
    """Refuse changes of keys that neither the protocol nor a run's configuration has."""
    groups = [path.name for path in conf.iterdir() if path.is_dir()]
    known = [*Protocol.model_fields, *groups, *map(str, OmegaConf.load(conf / "train.yaml"))]
    for change in changes:
        name = change.lstrip("~").partition("=")[0].partition(".")[0].partition("/")[0]
        if not change.startswith("+") and name not in known:
            raise ConfigError(f"{change}: no such key; {nearest(name, known)}")


def is_of_the_protocol(change: str) -> bool:
    """Return whether a ``KEY=VALUE`` changes the protocol rather than a setting of all runs."""
    return change.partition("=")[0].partition(".")[0] in Protocol.model_fields


def _change(content: Any, change: str) -> None:
    """Set a key; a stage's settings have keys with dots, as in ``tuning.lr.value=1e-3``."""
    key, _, value = change.partition("=")
    name, _, setting = key.partition(".")
    try:
        parsed: Any = OmegaConf.create(f"value: {value}")
    except YAMLError as error:
        raise ConfigError(f"{change}: {one_line(error)}") from error
    parsed = OmegaConf.to_container(parsed)["value"]  # type: ignore[index,call-overload]
    part, _, family = setting.partition(".")
    if not setting:
        content[name] = parsed
    elif name == "parts" and family:
        content[name].setdefault(part, {})[family] = parsed
    elif isinstance(content[name], dict):
        content[name][setting] = parsed
    else:
        raise ConfigError(f"{change}: {name} has no {setting}")
