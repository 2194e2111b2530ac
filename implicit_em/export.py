"""``implicit-em export RUN --format ...``: write a finished run for other tools."""

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save

from implicit_em.base.arguments import Parser
from implicit_em.base.errors import ConfigError, raising
from implicit_em.base.files import whole, write_json
from implicit_em.base.quiet import quieten
from implicit_em.base.values import check_word
from implicit_em.data import ActivationDataModule
from implicit_em.models import SparseAutoencoder
from implicit_em.training.decoding import decoder_of
from implicit_em.training.directory import RunDirectory
from implicit_em.training.loading import load_trusted
from implicit_em.training.progress import working
from implicit_em.training.saelens import CONFIG, WEIGHTS, to_saelens

PLACES = {"saelens": "saelens", "safetensors": "export.safetensors"}
"""Default folder or file of each format, in the run's directory."""
HOOKS = {"resid": "blocks.{}.hook_resid_post", "mlp": "blocks.{}.hook_mlp_out"}
"""Names that TransformerLens has for sites."""


def export(run_dir: str | Path, form: str = "saelens", out: str | Path | None = None) -> Path:
    """Write a finished run for other tools, which then take raw samples.

    The normalisation is folded into the weights. A model without decoder gets a ridge decoder,
    fitted on the run's training samples.

    Args:
        run_dir: path of the run directory.
        form: ``saelens``, a folder that ``SAE.load_from_disk`` loads; or ``safetensors``, one file
            with the same arrays, and the settings as its metadata.
        out: folder or file; by default, in the run directory.

    Returns:
        The path that was written.

    Raises:
        FileNotFoundError: if the directory holds no run.
        ConfigError: if the run is not finished, has no form there, or ``out`` holds something.
    """
    run = RunDirectory(run_dir)
    spec = run.read_spec()
    check_word("format", form, PLACES)
    place = Path(out) if out else run.path / PLACES[form]
    if place.exists():
        raise ConfigError(f"out={place}: is there already; nothing is overwritten")
    model, normalizer = load_trusted(run)
    data = spec.build_data()
    decoder, origin = None, "its own"
    if not isinstance(model, SparseAutoencoder):
        origin = "ridge regression after the training"
        with working("fitting a ridge decoder"):
            fitted = decoder_of(model, data)
        decoder = (fitted.weight, fitted.bias)
    config, tensors = to_saelens(model, normalizer, decoder)
    config["metadata"] |= {
        "implicit_em_version": version("implicit-em"),
        "implicit_em_run": spec.fingerprint,
        "implicit_em_model": type(model).__name__,
        "implicit_em_decoder": origin,
        **(_source_of(data) if isinstance(data, ActivationDataModule) else {}),
    }
    content = save(tensors, {"format": "pt", "config": json.dumps(config)})
    is_folder = form == "saelens"
    with whole(place / WEIGHTS if is_folder else place) as temporary:
        temporary.write_bytes(content)
    if is_folder:
        write_json(place / CONFIG, config)  # last: it makes the folder whole
    return place


def _source_of(data: ActivationDataModule) -> dict[str, Any]:
    """Return what the field's tools want to know about the activations."""
    manifest = data.store.manifest
    kind, _, block = data.site.partition(".")
    return {
        "model_name": manifest.model["name"],
        "hook_name": HOOKS[kind].format(block),
        "context_size": manifest.settings["context"]["length"],
        "prepend_bos": bool(manifest.prefix),
    }


def push(folder: Path, repository: str) -> str:
    """Upload a folder to the Hugging Face hub, and return its address.

    Raises:
        ConfigError: if the hub's library or a token is missing, or the hub refuses.
    """
    try:
        from huggingface_hub import HfApi, get_token
    except ModuleNotFoundError as error:
        raise ConfigError('push: huggingface_hub is missing; pip install -e ".[hub]"') from error
    if get_token() is None:
        raise ConfigError("push: no token of the hub; set HF_TOKEN, or run hf auth login")
    with raising(ConfigError, f"push={repository}", Exception):  # of the name, network or server
        api = HfApi()
        api.create_repo(repository, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder))


def main(arguments: Sequence[str] | None = None) -> int:
    """Export the run named on the command line; return the exit code."""
    parser = Parser(
        prog="implicit-em export",
        description="Write a finished run for other tools, with its normalisation in the weights. "
        "This builds the classes that the run's configuration names.",
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN")
    parser.add_argument("--format", default="saelens", help="saelens (default) or safetensors")
    parser.add_argument("--out", type=Path, help="folder or file; default: in the run directory")
    parser.add_argument("--push", metavar="NAME/REPO", help="upload the folder to the hub as well")
    return parser.run(arguments, _export_and_push)


def _export_and_push(options: argparse.Namespace) -> None:
    if options.push and options.format != "saelens":
        raise ConfigError("push: allowed for --format saelens alone")
    quieten()
    place = export(options.run_dir, options.format, options.out)
    print(f"Written to {place}")
    if options.push:
        print(push(place, options.push))


if __name__ == "__main__":
    sys.exit(main())
