"""The protocol of a study as its file in ``conf/`` fixes it; the changes that make it a trial."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from yaml import YAMLError

from implicit_em.base.errors import ConfigError, nearest, raising
from implicit_em.base.validation import first_mistake
from implicit_em.config import CONF
from implicit_em.config.fingerprint import affects_results, config_fingerprint, deciding
from implicit_em_studies import CONF as STUDIES
from implicit_em_studies.shared.targets import Target

V = TypeVar("V")


def distinct(values: list[Any]) -> list[Any]:
    """Refuse a list that has a value twice."""
    if len(set(values)) < len(values):
        raise ValueError("each must be there once")
    return values


def _with_axes(grid: dict[str, Any]) -> dict[str, Any]:
    """Refuse a grid with an axis that has no text."""
    axes = grid.get("axes", {})
    if not isinstance(axes, dict) or any(isinstance(v, dict | list | None) for v in axes.values()):
        raise ValueError("axes must be a mapping, with the values of each axis in a text: '1,2'")
    return grid


Grids = dict[str, Annotated[dict[str, Any], AfterValidator(_with_axes)]]
"""Grids by name: settings, and under ``axes`` those that vary."""
OF = "of"
Variants = dict[str, dict[str, Any]]
"""Controls that are trained, by name: with the settings that were chosen for the family ``of``, and
settings of their own.
"""
Distinct = Annotated[list[V], AfterValidator(distinct)]
Some = Annotated[Distinct[V], Field(min_length=1)]
STAGES = ("always", "tuning", "finals")


class Protocol(BaseModel):
    """Families that are tuned on a grid; what is chosen is trained over seeds.

    A study adds its own fields; its file explains each of them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: ClassVar[str]
    """Name of the file in ``conf/``."""
    nested: ClassVar[Sequence[str]] = ()
    """Fields that hold settings by name, as ``parts.NAME.KEY=VALUE`` changes them.

    Such a change needs a name that is there; ``parts.NAME={...}`` adds one.
    """
    set_elsewhere: ClassVar[dict[str, str]] = {"seed": "seeds"}
    """Keys of a run that the protocol sets under another name."""
    restricted: ClassVar[Sequence[str]] = ("families",)
    """Fields that list families. If some are named, these keep them and the reference alone."""
    measures: ClassVar[Mapping[str, str]] = {}
    """Titles of the measures by which targets may judge."""
    not_hashed: ClassVar[frozenset[str]] = frozenset({"quick", "grids", "targets"})
    """Fields that no digest needs: the fingerprints of the runs cover the grids, and targets judge
    what was measured.
    """

    reference: str
    families: Some[str]
    controls: Distinct[str]
    always: dict[str, Any]
    tuning: dict[str, Any]
    finals: dict[str, Any]
    seeds: Some[NonNegativeInt]
    quick: list[str] = []
    grids: Grids
    variants: Variants = {}
    targets: list[Target] = []

    @model_validator(mode="after")
    def _is_consistent_in_itself(self) -> Self:
        self.require("tuning", "data.final", "validation")  # the test set is for the finals
        self.require("finals", "data.final", "test")
        self.refuse_variants("variants", self.variants)
        for number, target in enumerate(self.targets):
            key = f"targets[{number}]"
            refuse_others(key, [*target.of, target.over], list(self.grids))
            refuse_others(f"{key}.by", [target.by], list(self.measures))
        for stage in STAGES:
            for key, name in self.set_elsewhere.items():
                if key in getattr(self, stage) and not (stage == "tuning" and key == "seed"):
                    raise ValueError(f"{stage}.{key}: the protocol sets it; allowed: {name}")
        return self

    def require(self, stage: str, key: str, allowed: Any, default: Any = None) -> None:
        """Refuse another value of a stage's setting; ``default`` is that of ``train.yaml``."""
        found = {key: default, **self.always, **getattr(self, stage)}[key]
        if found != allowed:
            raise ValueError(f"{stage}.{key}={found}: must be {allowed}")

    def refuse_variants(self, key: str, variants: Variants) -> None:
        """Refuse variants of what is no family, or with the name of a family."""
        for name, variant in variants.items():
            refuse_others(f"{key}.{name}.{OF}", [variant.get(OF)], list(self.grids))
            if name in self.grids:
                raise ValueError(f"{key}.{name}: is the name of a family")

    @classmethod
    def read(cls, conf: Path, changes: Sequence[str] = ()) -> Self:
        """Return the protocol of a configuration folder, with changes such as ``seeds=[1,2]``.

        Raises:
            ConfigError: if it cannot be read, or a value is not allowed.
        """
        content = read_yaml(folder_of(conf) / cls.file)
        for change in changes:
            cls._change(content, change)
        try:
            protocol = cls.model_validate(content)
        except ValidationError as error:
            raise ConfigError(first_mistake(error, cls)) from error
        if protocol.reference not in protocol.families:
            allowed = f"families=[{','.join(protocol.families)}]"
            raise ConfigError(f"reference={protocol.reference}: must be one of {allowed}")
        return protocol

    @classmethod
    def _change(cls, content: Any, change: str) -> None:
        """Set a key; a stage's settings have keys with dots, as in ``tuning.lr.value=1e-3``."""
        key, _, value = change.partition("=")
        name, _, setting = key.partition(".")
        with raising(ConfigError, change, YAMLError, OmegaConfBaseException):
            typed = OmegaConf.create(f"value: {value}")
        parsed = OmegaConf.to_container(typed)["value"]  # type: ignore[index,call-overload]
        part, _, own = setting.partition(".")
        if not setting:
            content[name] = parsed
        elif name in cls.nested and own:
            try:
                if part not in content[name]:
                    hint = nearest(part, content[name])
                    raise ConfigError(f"{change}: {name} has no {part}; {hint}")
                content[name][part][own] = parsed
            except TypeError as error:
                raise ConfigError(f"{change}: {name}.{part} has no keys") from error
        elif isinstance(content.get(name), dict):
            content[name][setting] = parsed
        else:
            raise ConfigError(f"{change}: {name} has no {setting}")

    @property
    def levels(self) -> Sequence[Mapping[str, Any]]:
        """Settings of the finals; a chosen setting is trained with each of them in turn."""
        return [{}]

    @property
    def tuned_levels(self) -> Sequence[Mapping[str, Any]]:
        """Settings of the runs of the grids; each setting is trained with each of them."""
        return [{}]

    def seeds_for(self, family: str) -> Sequence[int]:
        """Return the seeds of a family's finals."""
        return self.seeds

    def deciding(self, part: str) -> dict[str, Any]:
        """Return everything that decides a part's results, beside its runs."""
        return self.model_dump(exclude={*self.not_hashed})

    @property
    def every_family(self) -> list[str]:
        """The families of all parts."""
        return self.families

    def named(self, words: Sequence[str], allowed: Sequence[str], kind: str) -> list[str]:
        """Return those of the allowed names that words name; all if none does.

        Raises:
            ConfigError: if a word is none of them; ``kind`` is what a name stands for.
        """
        if unknown := [word for word in words if word not in allowed]:
            names = f"{', '.join(allowed)}, and families: {', '.join(self.every_family)}"
            raise ConfigError(f"{unknown[0]}: no such {kind} or family; allowed: {names}")
        return [name for name in allowed if name in words or not words]

    def chosen(self, words: Sequence[str]) -> Sequence[tuple[str, ...]]:
        """Return the names of each part that words name; of all if none does.

        Raises:
            ConfigError: if a word names none.
        """
        raise NotImplementedError

    def families_of(self, part: tuple[str, ...]) -> Sequence[str]:
        """Return the families of a part."""
        return self.families

    def only(self, names: Sequence[str]) -> Self:
        """Return the protocol with these families and the reference; with all if none is named."""
        if not names:
            return self
        kept = {*names, self.reference}
        left: dict[str, Any] = {
            key: [one for one in getattr(self, key) if one in kept] for key in self.restricted
        }
        return self.model_copy(update=left | {"variants": variants_of(kept, self.variants)})

    @classmethod
    def refuse_misspelt(cls, changes: Sequence[str], conf: Path) -> None:
        """Refuse changes of keys that neither the protocol nor a run's configuration has."""
        groups = [path.name for path in conf.iterdir() if path.is_dir()]
        known = [*cls.model_fields, *groups, *map(str, OmegaConf.load(conf / "train.yaml"))]
        for change in changes:
            name = change.lstrip("~").partition("=")[0].partition(".")[0].partition("/")[0]
            if not change.startswith("+") and name not in known:
                raise ConfigError(f"{change}: no such key; {nearest(name, known)}")

    @classmethod
    def has(cls, change: str) -> bool:
        """Return whether a ``KEY=VALUE`` changes the protocol rather than a setting of all runs."""
        return change.partition("=")[0].partition(".")[0] in cls.model_fields

    def refuse_own_settings(self, overrides: Sequence[str]) -> None:
        """Refuse settings of all runs that the protocol sets itself."""
        for override in overrides:
            key = override.lstrip("+~").partition("=")[0]
            instead = [f"{name}.{key}" for name in STAGES if key in getattr(self, name)]
            instead += [name for own, name in self.set_elsewhere.items() if own == key]
            if instead:
                allowed = ", ".join(instead)
                raise ConfigError(f"{override}: the protocol sets it; allowed: {allowed}")


def variants_of(families: Collection[str], variants: Variants) -> Variants:
    """Return the variants of these families."""
    return {name: one for name, one in variants.items() if one[OF] in families}


def folder_of(conf: Path) -> Path:
    """Return the folder of a study's files for a folder of configuration files.

    Another folder than the framework's own holds everything.
    """
    return STUDIES if conf.resolve() == CONF else conf


def read_yaml(path: Path) -> Any:
    """Return the content of a file as plain containers, or raise ``ConfigError``."""
    with raising(ConfigError, f"{path}", OSError, YAMLError, OmegaConfBaseException):
        return OmegaConf.to_container(OmegaConf.load(path), resolve=True)


def read_grids(file: Path) -> dict[str, dict[str, Any]]:
    """Return the grids of a file that holds nothing else, or raise ``ConfigError``."""
    try:
        return TypeAdapter(Grids).validate_python(read_yaml(file))
    except ValidationError as error:
        raise ConfigError(f"{file}: {first_mistake(error, Protocol)}") from error


def digest(
    cfgs: Iterable[DictConfig | Mapping[str, Any]], fixed: Mapping[str, Any] | None = None
) -> str:
    """Return 16 hexadecimal digits that identify a set of runs, whatever their order and device.

    What is ``fixed`` beside the runs is hashed, too.
    """
    every = list(map(deciding, cfgs))
    for settings in every:
        settings["trainer"] |= {"accelerator": "cpu", "threads": 1}
    more = [] if fixed is None else [json.dumps(fixed, sort_keys=True)]
    text = ",".join([*more, *sorted(map(config_fingerprint, every))])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def trial_label(changes: Sequence[str]) -> str | None:
    """Return the label of a trial with these ``KEY=VALUE``; ``None`` if none affects results."""
    decisive = sorted(filter(affects_results, changes))
    return f"TRIAL with {', '.join(decisive)}" if decisive else None


def refuse_others(key: str, values: Iterable[Any], allowed: Sequence[Any]) -> None:
    """Refuse a value of a key that is not allowed."""
    for value in values:
        if value not in allowed:
            raise ValueError(f"{key}={value}: allowed: {', '.join(map(str, allowed))}")
