"""Folders that go to SAELens and come from there, in its own environment: ``make test-peers``."""

import subprocess

import numpy as np
import pytest
from helpers.exchanged import MODELS, TRANSCODERS, write_folder
from helpers.paths import ROOT

import implicit_em
from benchmarks.peers.race import PACKAGES, environment

pytestmark = pytest.mark.peers
ENDS = ("", "-whole")
KINDS = [
    f"{name}{end}"
    for name in ("standard", "standard-unscaled", "topk", "topk-rescaled", "jumprelu", "gated")
    for end in ENDS
] + [f"{n}-{s}{e}" for n in ("topk", "batchtopk") for s in ("checkpoint", "trained") for e in ENDS]
KINDS += ["transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"]


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory):
    """Folders of all families that SAELens has read, and folders that it has made."""
    folder = tmp_path_factory.mktemp("exchanged")
    words = []
    for name in (*MODELS, *TRANSCODERS):
        x_ND = write_folder(folder / name, name)
        words.append(f"read={folder / name}")
    words += [f"{kind}={folder / f'their-{kind}'}" for kind in KINDS]
    np.save(folder / "samples.npy", x_ND.numpy())
    python = environment("SAELens", PACKAGES["SAELens"])
    script = ROOT / "tests" / "helpers" / "with_saelens.py"
    subprocess.run([python, script, folder / "samples.npy", *words], check=True)
    return folder, x_ND


@pytest.mark.parametrize("name", [*MODELS, *TRANSCODERS, *(f"their-{kind}" for kind in KINDS)])
def test_both_tools_give_the_same_codes_and_reconstructions(exchanged, name):
    folder, x_ND = exchanged
    model = implicit_em.load(folder / name)
    with np.load(folder / f"{name}.npz") as theirs:
        np.testing.assert_allclose(model.encode(x_ND).detach(), theirs["codes"], atol=1e-5)
        found = model.reconstruct(x_ND).detach()
        np.testing.assert_allclose(found, theirs["reconstructions"], atol=2e-5)
