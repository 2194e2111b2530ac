"""``implicit-em export PATH --format ...``: write a trained model for other tools."""

import argparse
import io
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from safetensors.torch import save
from torch import nn

from implicit_em.base.arguments import Parser
from implicit_em.base.errors import ConfigError, raising
from implicit_em.base.files import read_bytes, whole
from implicit_em.base.tables import format_value
from implicit_em.base.values import check_word
from implicit_em.data import ResidentDataModule
from implicit_em.metrics.reconstruction import fvu_of
from implicit_em.models import BatchTopK, SpikeSlab, TopK
from implicit_em.models.normalizing import Normalizer
from implicit_em.trained import alone, evaluations, hub
from implicit_em.trained.reading import Trained, trained
from implicit_em.trained.saelens import CONFIG, WEIGHTS, to_saelens
from implicit_em.training.decoding import BATCH, both_sides, measured

log = logging.getLogger(__name__)

PLACES = {"saelens": "saelens", "safetensors": "export.safetensors", "torch": "torch"}
"""Default folder or file of each format, in the directory for what is made of a model."""
NO_HOOK = "sae"
"""Folder on the hub for a model without a hook: its data are from no language model."""


@dataclass(frozen=True)
class Exported:
    """A trained model in a format of other tools, before it is written.

    Args:
        model: the trained model.
        place: default path of the folder or file.
        config: configuration of the model, as the other tool has it.
        files: content of each file by its name in the folder; ``""`` names the file itself.
    """

    model: Trained
    place: Path
    config: dict[str, Any]
    files: dict[str, bytes]

    @classmethod
    def of(cls, path: str | Path, form: str, first_sweep: bool = False) -> "Exported":
        """Return a trained model in a format; see ``export``."""
        check_word("format", form, PLACES)
        model = trained(path)
        if form == "torch":
            check_word("first_sweep", first_sweep, (False,), " with format=torch")
            return cls._alone(model)
        site = (model.spec.settings["data"] or {}).get("site")
        if isinstance(site, list) and len(site) > 1:
            raise ConfigError(f"data.site=[{','.join(site)}]: {form} has no form for several sites")
        decoder, origin = None, "its own"
        if (fitted := model.coder.decoder) is not None:
            origin = "ridge regression after the training"
            decoder = (fitted.weight, fitted.bias)
        written, said = _simplified(model, first_sweep)
        config, tensors = to_saelens(written, model.normalizer, decoder)
        config["metadata"] |= {**_metadata(model), "implicit_em_decoder": origin, **said}
        files = {CONFIG: json.dumps(config, indent=2).encode(), WEIGHTS: save(tensors)}
        if form == "safetensors":
            files = {"": save(tensors, {"config": json.dumps(config)})}
        return cls(model, model.output / PLACES[form], config, files)

    @classmethod
    def _alone(cls, model: Trained) -> "Exported":
        """Return a trained model as a source file that needs PyTorch alone, and its weights."""
        written = io.BytesIO()
        torch.save(_alone(model.model, model.normalizer), written)
        config = {"metadata": _metadata(model)}
        files = {
            "model.py": Path(alone.__file__).read_bytes(),
            "weights.pt": written.getvalue(),
            CONFIG: json.dumps(config, indent=2).encode(),
        }
        return cls(model, model.output / PLACES["torch"], config, files)

    def write(self, out: str | Path | None) -> Path:
        """Write the folder or file, unless it is there already, and return its path."""
        place = Path(out) if out else self.place
        if place.exists():
            there = all((place / name).is_file() for name in self.files)
            if not there or any(read_bytes(place / n) != file for n, file in self.files.items()):
                raise ConfigError(f"out={place}: is there already; nothing is overwritten")
            return place
        with whole(place) as temporary:
            for name, content in self.files.items():
                (temporary / name).parent.mkdir(exist_ok=True)
                (temporary / name).write_bytes(content)
        return place

    def push(self, repository: str, place: Path) -> str:
        """Upload a folder that was written, and return its address on the hub."""
        files = {name: place / name for name in self.files}
        folder = str(self.config["metadata"].get("hook_name") or NO_HOOK)
        return hub.push(repository, folder, files, self.card())

    def card(self) -> dict[str, Any]:
        """Return the values of a model card: what the model is, and what was measured of it."""
        run = self.model.run
        metrics = dict((run and run.completed_metrics()) or {})
        own = [
            evaluation
            for name, evaluation in evaluations.read(self.model.output).items()
            if evaluation["weights_digest"] == self.model.digest[:16]
            and (run is None or evaluations.is_own(name))
        ]
        if own:
            last = max(own, key=lambda evaluation: evaluation["date"])
            metrics |= last["metrics"] | {"measured_on": last.get("data_digest")}
        shown = {name: format_value(value) for name, value in metrics.items() if value is not None}
        return {"config": self.config, "metadata": self.config["metadata"], "metrics": shown}


def _simplified(model: Trained, first_sweep: bool) -> tuple[Any, dict[str, Any]]:
    """Return a model as other tools can have it, and what its metadata say about the change."""
    own, words = model.model, []
    if own.swept and not first_sweep:
        raise ConfigError(
            "model: infers its codes in sweeps or with a refit, for which SAELens has no form; "
            "--format torch has all of it, --first-sweep writes the first sweep alone"
        )
    written = own
    if own.swept:
        written, words = own.first_sweep(), ["those of the first sweep"]
    if isinstance(own, SpikeSlab):
        written, words = written.hard(), [*words, "on or off, from r = 1/2 on"]
    if not words:
        return own, {}
    found, before = (_fvu(one, model.data) for one in (written, own))
    word = ", ".join(words)
    log.warning("codes are %s, in the export: FVU %.4f; %.4f in the run", word, found, before)
    fvus = {"implicit_em_fvu": found, "implicit_em_fvu_of_run": before}
    return written, {"implicit_em_code": word, **fvus}


def _alone(model: Any, normalizer: Normalizer | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of ``alone.SparseCoder``."""
    known = (TopK, BatchTopK, SpikeSlab)
    if type(model) not in known:
        names = ", ".join(cls.__name__ for cls in known)
        raise ConfigError(f"model: a {type(model).__name__}; --format torch has {names}")
    if model.out_features is not None:
        raise ConfigError("model: has a target; --format torch has models of their own input alone")
    if not isinstance(model.encoder.activation, nn.ReLU):
        name = type(model.encoder.activation).__name__
        raise ConfigError(f"model.activation: a {name}; --format torch has ReLU")
    if normalizer is not None and (normalizer.mean is None or normalizer.factor.dim() == 2):
        raise ConfigError(f"data.normalize={normalizer.option}: has no form in --format torch")
    options = {"sweeps": model.read_sweeps, "refit": model.refit}
    options["scaled"] = isinstance(model, SpikeSlab) and model.scaled
    options["k"] = model.k if type(model) is TopK else 0
    bias, encoder = model.decoder.bias, model.encoder.linear
    tensors = {
        "mean": torch.zeros(len(bias)).double() if normalizer is None else normalizer.mean,
        "factor": torch.ones(len(bias)).double() if normalizer is None else normalizer.factor,
        "middle": bias if model.subtract_bias else torch.zeros_like(bias),
        **{"encoder": encoder.weight, "encoder_bias": encoder.bias},
        **{"decoder": model.decoder.weight.mT, "decoder_bias": bias},
    }
    if isinstance(model, SpikeSlab):
        options["log_odds"], tensors["temperature"] = model.log_odds, model.temperature
    elif isinstance(model, BatchTopK):
        tensors["threshold"] = model.threshold
    # Copies, so that the file has no other numbers that share a tensor's memory.
    return options, {n: t.detach().clone().contiguous() for n, t in tensors.items()}


def _fvu(model: Any, data: ResidentDataModule) -> float:
    """Return the FVU of final samples, as the model takes them, by the model's own decoder."""
    pairs = both_sides(model, measured(data), BATCH)
    return fvu_of((target, model.reconstruct(x)) for x, target in pairs)


def _metadata(model: Trained) -> dict[str, Any]:
    """Return where a model comes from, and which model it is."""
    return {
        **_source_of(model),
        "implicit_em_version": version("implicit-em"),
        "implicit_em_model": type(model.model).__name__,
        "implicit_em_weights": model.digest[:16],
    }


def _source_of(model: Trained) -> dict[str, Any]:
    """Return where a model comes from, and what SAELens wants to know about its vectors."""
    if model.run is None:
        source = {"implicit_em_source": model.address if hub.is_address(model.address) else None}
        return {k: v for k, v in {**model.metadata, **source}.items() if v is not None}
    settings = model.spec.settings["data"]
    found = {
        "implicit_em_run": model.run.read_spec().fingerprint,
        "implicit_em_command": " ".join(["implicit-em train", *model.run.read_overrides()]),
        "implicit_em_data": settings.get("digest"),
    }
    if model.run.finished_metrics()["site"] is None:
        return found
    with raising(ConfigError, "data", InstantiationException, is_group=True):
        data = instantiate(settings)  # its samples are not read
    return found | data.inside("export").metadata()


def export(
    path: str | Path,
    form: str = "saelens",
    out: str | Path | None = None,
    first_sweep: bool = False,
) -> Path:
    """Write a trained model for other tools, which then take raw samples.

    The normalisation is folded into the weights. A model without decoder gets a ridge decoder,
    fitted on the run's training samples. If the same export is there already, it stays.

    Args:
        path: run directory; or folder or address of another tool's model, see ``evaluate``.
        form: ``saelens``, a folder that ``SAE.load_from_disk`` loads; or ``safetensors``, one file
            with the same arrays, and the settings as its metadata; or ``torch``, a folder with a
            model's source and weights, for PyTorch alone.
        out: folder or file; by default in the run directory, or in ``outputs/NAME-DIGEST``.
        first_sweep: whether a model with several sweeps, or a refit, is to be written with its
            first sweep alone. A warning says what the change costs.

    Returns:
        The path that was written.

    Raises:
        FileNotFoundError: if there is no run.
        ConfigError: if the run is not finished, has no form there, or ``out`` holds something else.
    """
    return Exported.of(path, form, first_sweep).write(out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a finished run for other tools, such as SAELens."""
    parser = Parser(
        prog="implicit-em export",
        description="Write a trained model for other tools, with its normalisation in the weights. "
        "This builds the classes that a run's configuration names.",
    )
    path = "run directory, folder of SAELens or dictionary_learning, or hub:OWNER/NAME[:FOLDER]"
    parser.add_argument("path", metavar="PATH", help=path)
    parser.add_argument(
        "--format", default="saelens", help="saelens (default), safetensors or torch"
    )
    first = "of a model with several sweeps or a refit, write the first sweep alone"
    parser.add_argument("--first-sweep", action="store_true", help=first)
    out = "folder or file; default: in the run, or in outputs/NAME-DIGEST"
    parser.add_argument("--out", type=Path, help=out)
    push = "also upload it to the hub, into a folder named by its hook, with a model card"
    parser.add_argument("--push", metavar="OWNER/NAME", help=push)
    return parser.run(arguments, _export_and_push)


def _export_and_push(options: argparse.Namespace) -> None:
    if not options.push:
        place = export(options.path, options.format, options.out, options.first_sweep)
        print(f"Written to {place}")
        return
    if options.format != "saelens":
        raise ConfigError("push: allowed for --format saelens alone")
    hub.check(options.push)  # before anything takes time
    exported = Exported.of(options.path, options.format, options.first_sweep)
    hub.create(options.push)  # before anything is written
    place = exported.write(options.out)
    print(f"Written to {place}")
    print(f"Pushed to {exported.push(options.push, place)}")


if __name__ == "__main__":
    sys.exit(main())
