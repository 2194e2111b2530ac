"""Folders that go to SAELens and come from there, in its own environment: ``make test-peers``."""

import json
import subprocess

import numpy as np
import pytest
import torch
from helpers.exchanged import MODELS, UNITS, WIDTH, made
from helpers.paths import ROOT
from safetensors.torch import save_file

import implicit_em
from benchmarks.peers.race import PACKAGES, environment
from implicit_em.models import SparseAutoencoder
from implicit_em.models.normalizing import fit_normalizer
from implicit_em.training.saelens import to_saelens

pytestmark = pytest.mark.peers
KINDS = ("standard", "topk", "jumprelu", "gated")


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory):
    """Folders of all families that SAELens has read, and folders that it has made."""
    folder = tmp_path_factory.mktemp("exchanged")
    words = []
    for name in MODELS:
        model, x_ND = made(name)
        normalizer = fit_normalizer("zca", lambda x_ND=x_ND: [x_ND.double()])
        own = isinstance(model, SparseAutoencoder)
        decoder = None if own else (torch.randn(UNITS, WIDTH), torch.randn(WIDTH))
        config, arrays = to_saelens(model, normalizer, decoder)
        (folder / name).mkdir()
        (folder / name / "cfg.json").write_text(json.dumps(config | {"metadata": {"a": "b"}}))
        save_file(arrays, folder / name / "sae_weights.safetensors")
        words.append(f"read={folder / name}")
    words += [f"{kind}={folder / f'their-{kind}'}" for kind in KINDS]
    np.save(folder / "samples.npy", x_ND.numpy())
    python = environment("SAELens", PACKAGES["SAELens"])
    script = ROOT / "tests" / "helpers" / "with_saelens.py"
    subprocess.run([python, script, folder / "samples.npy", *words], check=True)
    return folder, x_ND


@pytest.mark.parametrize("name", [*MODELS, *(f"their-{kind}" for kind in KINDS)])
def test_both_tools_give_the_same_codes_and_reconstructions(exchanged, name):
    folder, x_ND = exchanged
    model = implicit_em.load(folder / name)
    with np.load(folder / f"{name}.npz") as theirs:
        np.testing.assert_allclose(model.encode(x_ND).detach(), theirs["codes"], atol=1e-5)
        found = model.reconstruct(x_ND).detach()
        np.testing.assert_allclose(found, theirs["reconstructions"], atol=2e-5)
