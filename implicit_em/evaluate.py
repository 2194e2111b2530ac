"""``implicit-em evaluate RUN [data=...]``: measure a finished run again."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from implicit_em.base.arguments import Parser
from implicit_em.base.digest import digest_of_file
from implicit_em.base.errors import ConfigError, one_line
from implicit_em.base.quiet import quieten
from implicit_em.config import CONF
from implicit_em.config.composing import composed
from implicit_em.config.schema import to_plain
from implicit_em.config.spec import RunSpec
from implicit_em.data import ActivationDataModule, ResidentDataModule
from implicit_em.data.tensors import FILES
from implicit_em.harvest.model_files import model_of
from implicit_em.harvest.models import CausalModel
from implicit_em.harvest.splicing import spliced_losses
from implicit_em.metrics.language import measured_inside
from implicit_em.models import SparseAutoencoder
from implicit_em.training.decoding import decoder_of, reconstruction
from implicit_em.training.directory import RunDirectory
from implicit_em.training.evaluations import digest_of_samples, record
from implicit_em.training.loading import load_weights
from implicit_em.training.measurement import evaluate_module, probe_module
from implicit_em.training.progress import print_result, working
from implicit_em.training.results import without_infinities


def evaluate(
    run_dir: str | Path,
    data: Mapping[str, Any] | None = None,
    inside: bool = False,
    lm: str | None = None,
) -> dict[str, Any]:
    """Return the metrics of a finished run on its own data, or on other data of the same width.

    They are also kept in the run's ``evaluations/``; see ``training.evaluations.record``. This
    builds the classes that the run's configuration names. Use ``implicit_em.load`` for a directory
    that you do not trust.

    Args:
        run_dir: path of the run directory.
        data: another ``data`` node as plain containers.
        inside: whether to measure the causal language model that the data are from as well, with
            reconstructions in place of its vectors: ``metrics.language.INSIDE``.
        lm: folder, GGUF file or hub name of the language model; ``None`` for the place that
            ``conf/lm`` names.

    Raises:
        FileNotFoundError: if the directory holds no trained model.
        ConfigError: if files are damaged, the data cannot be read or have another width, or
            reconstructions cannot be put into a language model.
    """
    return _measured(run_dir, data, inside, lm)[0]


def _measured(
    run_dir: str | Path, data: Mapping[str, Any] | None, inside: bool, lm: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what ``evaluate`` does, and what is kept of it."""
    quieten()
    run = RunDirectory(run_dir)
    saved = to_plain(run.read_config())
    settings = saved | {"data": dict(data or saved["data"])}
    settings["data"].pop("normalize", None)  # the run's own statistics normalise the samples
    spec = RunSpec.of_settings(settings)
    trained_width = run.read_model()["model"].get("in_features")
    threads = settings["trainer"]["threads"]
    if threads:
        torch.set_num_threads(threads)
    samples = spec.build_data()
    if samples.in_features != trained_width:
        raise ConfigError(
            f"data: samples of width {samples.in_features}, but the model was trained on width "
            f"{trained_width}"
        )
    digest, weights = digest_of_samples(samples), digest_of_file(run.weights)[:16]
    module = spec.build_module(trained_width)
    if (normalizer := load_weights(module.model, run)) is not None:
        samples.normalize_by(normalizer)
    options = {"inside": inside or lm is not None}
    measured = _inside(module.model, samples, lm) if options["inside"] else {}
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False}
    trainer = spec.build_trainer(strategy="auto", devices=1, enable_progress_bar=False, **quiet)
    metrics: dict[str, Any] = evaluate_module(module, samples, trainer)
    if settings["probe"] == "linear":
        metrics["probe_accuracy"] = probe_module(module, samples, threads)
    metrics = without_infinities(metrics | measured)
    own = saved["data"]
    kept = record(run.path, metrics, settings["data"], digest, weights, options, own)
    return {"seed": settings["seed"], "status": "evaluated", **metrics}, kept


def _inside(model: Any, data: ResidentDataModule, lm: str | None) -> dict[str, float]:
    """Return what the language model predicts with the reconstructions of final samples."""
    if not isinstance(data, ActivationDataModule):
        raise ConfigError("inside: the run's data are from no language model; allowed for a store")
    if data.normalizer is not None and data.normalizer.mean is None:
        raise ConfigError("inside: data.normalize=l2 leaves no length to put into the model")
    model.eval()
    own = isinstance(model, SparseAutoencoder)
    with working("measuring inside the language model"):
        causal = CausalModel.load(model_of(data.store.manifest, lm), "cpu")
        decode = model.decode if own else decoder_of(model, data)
        replacements = {"": reconstruction(model, data.normalizer, decode)}
        found = spliced_losses(data.store, causal, data.site, data.rule, replacements, data.final)
    ((spliced_N, divergence_N),) = found.spliced.values()
    sums = (found.predicted_N, found.clean_N, found.zero.loss_N, spliced_N, divergence_N)
    measured = measured_inside(*(values_N.sum().item() for values_N in sums))
    return {key: float(value) for key, value in measured.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate the run named on the command line and print its table; return the exit code."""
    parser = Parser(
        prog="implicit-em evaluate",
        description="Compute the metrics of a finished run again, also on other data. This builds "
        "the classes that the run's configuration names; use implicit_em.load for a directory that "
        "you do not trust.",
    )
    parser.add_argument("run_dir", type=Path)
    typed = "settings of data, e.g. data=kmnist data.root=elsewhere"
    parser.add_argument("overrides", nargs="*", default=[], help=typed)
    inside = (
        "also put reconstructions into the causal language model that the data are from, and "
        "measure what it then predicts"
    )
    parser.add_argument("--inside", action="store_true", help=inside)
    lm = "folder, GGUF file or hub name of the language model of --inside, if it is none of conf/lm"
    parser.add_argument("--lm", help=lm)
    parser.add_argument("--json", action="store_true", help="print what is kept, as JSON, alone")
    parser.add_argument("--conf", type=Path, default=CONF, help="folder of configuration files")
    return parser.run(arguments, _evaluate_and_print)


def _evaluate_and_print(options: argparse.Namespace) -> None:
    try:
        # What is said meanwhile goes to stderr.
        with redirect_stdout(sys.stderr) if options.json else nullcontext():
            data = _data(options)
            metrics, kept = _measured(options.run_dir, data, options.inside, options.lm)
    except (OSError, ImportError, HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_line(error)) from error
    if options.json:
        print(json.dumps(kept, indent=2))
    else:
        print_result(metrics)


def _data(options: argparse.Namespace) -> dict[str, Any]:
    """Return the ``data`` node of the run, or of another option of the group, with overrides."""
    for override in options.overrides:
        if not override.lstrip("+").startswith("data"):
            raise ConfigError(f"{override}: only settings of data can differ from the run's own")
        if override.lstrip("+").startswith("data.normalize"):
            raise ConfigError(f"{override}: samples are normalised by the statistics of the run")
    if any(override.startswith("data=") for override in options.overrides):
        return to_plain(composed("train", options.overrides, options.conf))["data"]
    config = RunDirectory(options.run_dir).read_config()
    for override in OverridesParser.create().parse_overrides(options.overrides):
        if override.is_sweep_override():
            raise ConfigError(f"{override.input_line}: several values; one is measured at a time")
        OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        if override.key_or_group in {f"data.{name}" for name in FILES}:
            config.data.digest = None  # that of the files it was trained on
    return to_plain(config)["data"]


if __name__ == "__main__":
    sys.exit(main())
