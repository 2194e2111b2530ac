"""Probes on given latents, held against sae-probes in its own environment: ``make test-peers``."""

import json
import subprocess
from importlib.machinery import PathFinder

import numpy as np
import pytest
import sklearn
import torch
from helpers.paths import ROOT

from benchmarks.peers.race import environment
from implicit_em.language import labelled
from implicit_em.language.labelled import read_set
from implicit_em.language.probing import KS, ranked, scores_of, split

pytestmark = pytest.mark.peers
SETS = ("95_toxic_is", "41_truthqa_tf", "94_ai_gen")
"""The smallest two, and one of the largest."""
NAMES = ("test_auc", "test_acc", "test_f1", "val_auc")
"""Keys of what ``Scores`` holds."""
UNITS = 48
PACKAGES = ("sae-probes==0.4.2", f"scikit-learn=={sklearn.__version__}")


@pytest.fixture
def python(monkeypatch):
    """The interpreter of the other environment, whose labelled sets are read here as well."""
    python = environment("sae-probes", PACKAGES)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    place = subprocess.run([python, "-c", where], check=True, capture_output=True, text=True)
    found = PathFinder.find_spec("sae_probes", [place.stdout.strip()])
    monkeypatch.setattr(labelled, "find_spec", lambda name: found)
    labelled.files.cache_clear()
    yield python
    labelled.files.cache_clear()


def latents_of(labels_N, seed):
    """Sparse latents of very different sizes: some tell the labels a little, some are silent."""
    rng = np.random.default_rng(seed)
    told_NK = rng.normal(0, 1, (len(labels_N), UNITS)) + 0.01 * np.arange(UNITS) * labels_N[:, None]
    latents_NK = np.maximum(told_NK - 1, 0) * 10.0 ** rng.uniform(-2, 2, UNITS)
    latents_NK[:, rng.permutation(UNITS)[:6]] = 0
    return torch.from_numpy(latents_NK.astype("float32"))


def test_scores_and_latents_are_those_of_sae_probes(python, tmp_path):
    folder = tmp_path / "model_activations_given"
    folder.mkdir()
    latents = {name: latents_of(read_set(name).labels_N, n) for n, name in enumerate(SETS)}
    for name, latents_NK in latents.items():
        torch.save(latents_NK, folder / f"{name}_latents.pt")
    script = ROOT / "tests" / "helpers" / "with_sae_probes.py"
    words = [tmp_path, tmp_path / "results", json.dumps([*KS, UNITS]), *SETS]
    subprocess.run([python, "-W", "ignore", script, *words], check=True)

    for name, latents_NK in latents.items():
        labels_N = read_set(name).labels_N
        (file,) = (tmp_path / "results").rglob(f"{name}_*.json")
        theirs = {row["k"]: row for row in json.loads(file.read_text())}
        train, _ = split(labels_N)
        order_K = ranked(latents_NK[train], torch.from_numpy(labels_N[train]))
        ours = scores_of(lambda x_NK: x_NK, latents_NK, labels_N, (*KS, None))
        for k, scores in ours.items():
            row = theirs[k or UNITS]
            assert k is None or order_K[:k].tolist() == row["indices"]
            assert scores == pytest.approx([row[key] for key in NAMES], abs=1e-6), (name, k)
            assert k != 5 or 0.6 < scores.auc < 0.9, "neither chance nor all"
