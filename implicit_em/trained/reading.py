"""A trained model of raw samples, and the samples that it is measured on."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_class
from omegaconf import OmegaConf

from implicit_em.base.digest import digest_of_file
from implicit_em.base.errors import ConfigError, one_line
from implicit_em.base.progress import working
from implicit_em.config import CONF
from implicit_em.config.composing import REFUSALS, composed, key_of
from implicit_em.config.schema import to_plain
from implicit_em.data import ResidentDataModule
from implicit_em.data.tensors import FILES
from implicit_em.engine.modules import EnergyModule
from implicit_em.models import SparseAutoencoder
from implicit_em.models.normalizing import Normalized, Normalizer
from implicit_em.trained.foreign import Foreign, is_foreign, read_foreign
from implicit_em.trained.loading import READING, load_trusted
from implicit_em.training.decoding import decoder_of
from implicit_em.training.directory import RunDirectory
from implicit_em.training.measurement import Measured
from implicit_em.training.spec import RunSpec

OUTPUTS = Path("outputs")
"""Where runs lie, and what is made of the models of other tools."""


@dataclass(frozen=True)
class Trained:
    """A trained model of raw samples, and the samples that it is measured on.

    Args:
        address: run directory, folder of another tool, or address on the hub with the commit.
        name: name for people.
        model: the model, for samples that ``normalizer`` has normalised.
        weights: file of the weights.
        spec: settings of the samples and of a Trainer; for a run, also of its training.
        output: directory for what is made of the model.
        normalizer: normaliser of raw samples; ``None`` for a model that takes raw samples.
        run: the run that trained the model; ``None`` for a model of another tool.
        metadata: what another tool says of the model's origin.
    """

    address: str
    name: str
    model: Any
    weights: Path
    spec: RunSpec
    output: Path
    normalizer: Normalizer | None = None
    run: RunDirectory | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of the file of the weights."""
        return digest_of_file(self.weights)

    @property
    def has_decoder(self) -> bool:
        """Whether the model has a decoder of its own."""
        return isinstance(self.model, SparseAutoencoder)

    @cached_property
    def _read(self) -> tuple[ResidentDataModule, str | None]:
        width, target = self.model.weight.shape[1], self.model.out_features
        if self.spec.settings["data"] is None:
            raise ConfigError(
                f"{self.address}: says nothing of its data; write data=activations data.path=STORE"
            )
        data = self.spec.build_data()
        widths = {"data": (data.in_features, width), "data.target": (data.out_features, target)}
        for key, (found, own) in widths.items():
            if found != own:
                raise ConfigError(
                    f"{key}: samples of width {found}, but the model was trained on width {own}"
                )
        digest = data.content_digest()
        if self.normalizer is not None:
            data.normalize_by(self.normalizer)
        return data, digest

    @property
    def data(self) -> ResidentDataModule:
        """The samples, as the model takes them.

        Raises:
            ConfigError: if none are named, they cannot be read, or they have another width.
        """
        return self._read[0]

    @property
    def data_digest(self) -> str | None:
        """Digest of the samples as they were read; raises as ``data`` does."""
        return self._read[1]

    @property
    def module(self) -> EnergyModule:
        """A module that measures the model."""
        if self.run is None:
            return Measured(self.model)
        module = self.spec.build_module(self.model.weight.shape[1], self.model.out_features)
        module.model = self.model
        return module

    @cached_property
    def coder(self) -> Normalized:
        """The model on raw vectors, with its own decoder or, if it has none, a ridge decoder."""
        decoder = None
        if not self.has_decoder:
            with working(f"{self.address}: fitting a ridge decoder"):
                decoder = decoder_of(self.model, self.data)
        return Normalized(self.model, self.normalizer, decoder)


def trained(
    path: str | Path,
    data: Mapping[str, Any] | None = None,
    reading: Mapping[str, int | None] = MappingProxyType({}),
) -> Trained:
    """Return the trained model of a run, or one of another tool.

    This builds the classes that a run's configuration names. A folder of another tool names none.

    Args:
        path: run directory; or what ``foreign.read_foreign`` takes.
        data: ``data`` node as plain containers; ``None`` for the run's own.
        reading: how codes are read, if not as the run was trained; see ``loading.load``.

    Raises:
        FileNotFoundError: if there is no run.
        ConfigError: if the run is not finished, files are damaged, the data contradict what
            another tool says of a model's origin, or codes cannot be read in that way.
    """
    if is_foreign(path):
        return _of_foreign(read_foreign(path, reading), data)
    run = RunDirectory(path)
    model, normalizer = load_trusted(run, reading)
    settings = to_plain(run.read_config())
    return Trained(
        address=str(path),
        name=run.path.resolve().name,
        model=model,
        weights=run.weights,
        spec=_with_data(settings, data or settings["data"]),
        output=run.path,
        normalizer=normalizer,
        run=run,
    )


def _of_foreign(found: Foreign, data: Mapping[str, Any] | None) -> Trained:
    model: Any = found.model
    if data is not None:
        module: type[ResidentDataModule] = get_class(data["_target_"])
        data = module.placed(data, found.metadata, model.out_features)
    digest = digest_of_file(found.weights)[:16]
    output = OUTPUTS / re.sub(r"[^\w.-]+", "-", f"{found.name}-{digest}")
    return Trained(
        **vars(found), spec=_with_data(to_plain(composed("train", [])), data), output=output
    )


def _with_data(settings: Mapping[str, Any], data: Mapping[str, Any] | None) -> RunSpec:
    """Return settings with other data, unnormalised: the model's own normaliser is used."""
    raw = None if data is None else {k: v for k, v in data.items() if k != "normalize"}
    return RunSpec.of_settings({**settings, "data": raw})


def typed_reading(overrides: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Divide overrides of a command line: those of other keys, and how codes are read.

    Raises:
        ConfigError: if an override cannot be parsed, or has several values.
    """
    keys = {f"model.{name}": name for name in READING}
    others = [override for override in overrides if key_of(override) not in keys]
    own = [override for override in overrides if key_of(override) in keys]
    try:
        return others, {keys[key]: value for key, value in _parsed(own)}
    except REFUSALS as error:
        raise ConfigError(one_line(error)) from error


def _parsed(overrides: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of overrides, of which each has to have one."""
    for parsed in OverridesParser.create().parse_overrides(list(overrides)):
        if parsed.is_sweep_override():
            line = parsed.input_line
            raise ConfigError(f"{line}: several values; one is measured at a time")
        yield parsed.key_or_group, parsed.value()


def typed_data(
    path: str | Path, overrides: Sequence[str], conf: Path = CONF
) -> dict[str, Any] | None:
    """Return the ``data`` node that overrides of a command line name; ``None`` without any.

    They change the node of a run. With ``data=OPTION``, and for a model of another tool, the node
    is composed from a folder of configuration files.

    Raises:
        ConfigError: if an override is no setting of data, normalises them, or has several values.
    """
    for override in overrides:
        key = key_of(override)
        if key.partition(".")[0] != "data":
            raise ConfigError(f"{override}: only settings of data can differ from the run's own")
        if key == "data.normalize":
            why = "samples are normalised by the statistics of the run"
            why = "the model takes raw samples" if is_foreign(path) else why
            raise ConfigError(f"{override}: {why}")
    if not overrides:
        return None
    if is_foreign(path) or any(override.startswith("data=") for override in overrides):
        return to_plain(composed("train", overrides, conf))["data"]
    config = RunDirectory(path).read_config()
    try:
        for key, value in _parsed(overrides):
            OmegaConf.update(config, key, value, merge=True)
            if key in {f"data.{name}" for name in FILES}:
                config.data.digest = None  # the digest is of other files
        return to_plain(config)["data"]
    except REFUSALS as error:
        raise ConfigError(one_line(error)) from error
