"""``implicit-em evaluate PATH [data=...]``: measure a trained model again."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from implicit_em.base.arguments import Parser
from implicit_em.base.errors import ConfigError, one_line
from implicit_em.base.quiet import quieten
from implicit_em.config import CONF
from implicit_em.trained.evaluations import OPTIONS, record
from implicit_em.trained.reading import Trained, trained, typed_data, typed_reading
from implicit_em.training.measurement import evaluate_module, probe_module
from implicit_em.training.results import print_result, without_infinities


def evaluate(
    path: str | Path,
    data: Mapping[str, Any] | None = None,
    inside: bool = False,
    lm: str | None = None,
    out: str | Path | None = None,
    probes: Sequence[str] | None = None,
    all_latents: bool = False,
    absorption: bool = False,
    **reading: int | None,
) -> dict[str, Any]:
    """Return the metrics of a trained model on the data of its run, or on data of the same width.

    The metrics are also kept in ``evaluations/`` of the run's directory; see
    ``trained.evaluations.record``. This builds the classes that the run's configuration names. Use
    ``implicit_em.load`` for a directory that you do not trust.

    Args:
        path: run directory; folder of SAELens or of dictionary_learning; or such a folder on the
            hub, ``hub:OWNER/NAME[@REVISION][:FOLDER]``.
        data: another ``data`` node as plain containers; a model of another tool needs one. Such a
            model takes raw samples, and its ``hook_name`` chooses the site of a store.
        inside: whether to measure the causal language model that the data are from as well, with
            reconstructions in place of its vectors.
        lm: folder, GGUF file or hub name of the language model; ``None`` for the place that
            ``conf/lm`` names. Alone, it asks for ``inside``.
        out: directory for ``evaluations/``; by default the run directory or, for another tool's
            model, ``outputs/NAME-DIGEST``.
        probes: names of labelled sets of text on which sparse probes are trained; empty for all,
            ``None`` for no probes. See ``language.probing``.
        all_latents: whether probes are also trained on all latents, which takes minutes a set.
        absorption: whether to measure the absorption of first letters in the causal language model
            that the data are from. See ``language.absorption``.
        reading: ``read_sweeps`` or ``refit`` of a run's model that can sweep, in place of those
            that it was trained with; see ``models.sweeps.Swept``.

    Raises:
        FileNotFoundError: if there is no run.
        ConfigError: if the run is not finished, files are damaged, the data cannot be read, have
            another width or are of another place, reconstructions cannot be put into a language
            model, there is no such labelled set, ``all_latents`` is asked for without ``probes``,
            absorption cannot be measured, or codes cannot be read in that way.
    """
    quieten()
    options = dict(zip(OPTIONS, (inside, probes, all_latents, absorption), strict=True))
    return _measured(path, data, options, lm, out, reading)[0]


def _measured(
    path: str | Path,
    data: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    lm: str | None,
    out: str | Path | None,
    reading: Mapping[str, int | None],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what ``evaluate`` returns, and what is kept of it."""
    if options["all_latents"] and options["probes"] is None:
        raise ConfigError("--all-latents: no probes are asked for; allowed with --probes only")
    found = trained(path, data, reading)
    settings = found.spec.settings
    if threads := settings["trainer"]["threads"]:
        torch.set_num_threads(threads)
    if lm is not None and options["probes"] is None and not options["absorption"]:
        options = {**options, "inside": True}
    samples = found.data
    within, details = _inside(found, options, lm)
    trainer = found.spec.build_trainer(
        strategy="auto",
        devices=1,
        enable_progress_bar=False,
        logger=False,
        enable_checkpointing=False,
    )
    module = found.module
    metrics: dict[str, Any] = evaluate_module(module, samples, trainer)
    if settings["probe"] == "linear":
        metrics["probe_accuracy"] = probe_module(module, samples, threads)
    metrics = without_infinities(metrics | within)
    kept = record(found, metrics, options, Path(out) if out else None, details, reading)
    named = {"seed": settings["seed"]} if found.run else {"model": found.address}
    return {**named, "status": "evaluated", **metrics}, kept


def _inside(
    found: Trained, options: Mapping[str, Any], lm: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is measured inside the language model, and what it is a mean of."""
    samples, metrics, details = found.data, dict[str, Any](), dict[str, Any]()
    probing = absorption = None
    if options["probes"] is not None:  # a name that is wrong is refused before anything long
        probing = samples.inside("--probes", lm).probing(options["probes"])
    if options["absorption"]:
        absorption = samples.inside("--absorption", lm).absorption()
    if options["inside"]:
        metrics |= samples.inside("inside", lm).losses(found.coder, samples.final)
    if probing is not None:
        means, details["probes"] = probing.measured(found, options["all_latents"])
        metrics |= means
    if absorption is not None:
        means, details["absorption"] = absorption.measured(lambda: found.coder)
        metrics |= means
    return metrics, details


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure a finished run again, also on other data."""
    parser = Parser(
        prog="implicit-em evaluate",
        description="Compute the metrics of a trained model again, also on other data. This builds "
        "the classes that a run's configuration names; use implicit_em.load for a directory that "
        "you do not trust.",
    )
    path = "run directory, folder of SAELens or dictionary_learning, or hub:OWNER/NAME[:FOLDER]"
    parser.add_argument("path", metavar="PATH", help=path)
    typed = (
        "settings of data, e.g. data=kmnist data.root=elsewhere; or model.read_sweeps=N and "
        "model.refit=N, how codes are read"
    )
    parser.add_argument("overrides", nargs="*", default=[], help=typed)
    inside = (
        "also put reconstructions into the causal language model that the data are from, and "
        "measure what it then predicts"
    )
    parser.add_argument("--inside", action="store_true", help=inside)
    probes = "also train sparse probes on labelled sets of text; without a name on all of them"
    parser.add_argument("--probes", nargs="*", metavar="SET", help=probes)
    latents = "with --probes, also on all latents, which takes minutes a set"
    parser.add_argument("--all-latents", action="store_true", help=latents)
    absorbing = "also measure the absorption of first letters, in a causal language model"
    parser.add_argument("--absorption", action="store_true", help=absorbing)
    lm = "folder, GGUF file or hub name of the language model, if it is none of conf/lm"
    parser.add_argument("--lm", help=lm)
    parser.add_argument("--json", action="store_true", help="print only what is kept, as JSON")
    out = "directory for evaluations/; default: the run, or outputs/NAME-DIGEST"
    parser.add_argument("--out", type=Path, help=out)
    parser.add_argument("--conf", type=Path, default=CONF, help="folder of configuration files")
    return parser.run(arguments, _evaluate_and_print)


def _evaluate_and_print(options: argparse.Namespace) -> None:
    try:
        # What is said meanwhile goes to stderr.
        with redirect_stdout(sys.stderr) if options.json else nullcontext():
            overrides, reading = typed_reading(options.overrides)
            data = typed_data(options.path, overrides, options.conf)
            asked = {name: getattr(options, name) for name in OPTIONS}
            metrics, kept = _measured(options.path, data, asked, options.lm, options.out, reading)
    except (OSError, ImportError, HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_line(error)) from error
    if options.json:
        print(json.dumps(kept, indent=2))
    else:
        print_result(metrics)


if __name__ == "__main__":
    sys.exit(main())
