"""Exported models that SAEBench measures, in its own environment: ``make test-peers``."""

import json
import os
import re
import subprocess

import numpy as np
import pytest
import torch
from helpers.exchanged import MODELS, write_folder
from helpers.paths import ROOT
from helpers.stores import make_text_store
from safetensors.torch import load_file

import implicit_em
from benchmarks.peers.race import PACKAGES, environment
from implicit_em.language.absorption import absorbed
from implicit_em.trained.export import export

pytestmark = pytest.mark.peers
PAGE = (ROOT / "docs" / "how-to" / "export.md").read_text().partition("## Measure with SAEBench")[2]
NEEDED = re.search(r"pip install (.*)", PAGE)[1].replace('"', "").split()
FOLDS = ", fold_W_dec_norm=True)"
BRIEF = ["logger=csv", "probe=none", "picture=false", "hydra.run.dir=run"]


def saebench(*words):
    python = environment("SAEBench", [*NEEDED, *PACKAGES["SAELens"]])
    command = [python, ROOT / "tests" / "helpers" / "with_saebench.py", *words]
    subprocess.run(command, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})


def lengths(folder):
    """Return the length of each decoder row of a folder of SAELens."""
    return load_file(folder / "sae_weights.safetensors")["W_dec"].norm(dim=1)


def write_patterns(folder):
    """Write samples that each show one of eight orthogonal patterns, which is their label."""
    rng = np.random.default_rng(0)
    patterns = np.linalg.qr(rng.normal(size=(16, 16)))[0][:8]
    for split, count in (("train", 1600), ("test", 400)):
        labels = np.arange(count) % 8
        strengths = rng.uniform(0.5, 1.5, (count, 1))
        noise = 3 + rng.normal(0, 0.02, (count, 16))
        np.save(folder / f"X_{split}.npy", (strengths * patterns[labels] + noise).astype("float32"))
        np.save(folder / f"y_{split}.npy", labels)


@pytest.mark.parametrize(
    ("model", "rescales"),
    [
        (["model=encoder", "data.normalize=zca"], FOLDS),
        (["model=topk", "model.l0=1", "data.normalize=scale"], ")\nsae.fold_and_get_W_dec_norm()"),
    ],
    ids=["encoder", "topk"],
)
def test_probes_on_codes_of_a_run_find_what_is_in_the_labels(
    model, rescales, command_line, tmp_path
):
    write_patterns(tmp_path)
    data = ["data=tensors", "data.path=X_train.npy", "data.test_path=X_test.npy"]
    brief = ["data.batch_size=100", "model.hidden=16", "trainer.max_epochs=40", "lr.value=1e-2"]
    assert command_line(*data, *model, *brief, *BRIEF) == 0
    place = export("run")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert FOLDS in code
    (tmp_path / "code.py").write_text(code.replace(FOLDS, rescales))
    permute = np.random.default_rng(0).permutation
    kinds = {"patterns": lambda y: y, "pairs": lambda y: y // 2, "chance": permute}
    for kind, change in kinds.items():
        (tmp_path / kind / "outputs").mkdir(parents=True)
        (tmp_path / kind / "outputs" / "RUN").symlink_to(tmp_path / "run")
        for split in ("train", "test"):
            (tmp_path / kind / f"X_{split}.npy").symlink_to(tmp_path / f"X_{split}.npy")
            np.save(tmp_path / kind / f"y_{split}.npy", change(np.load(f"y_{split}.npy")))
    saebench("probe", tmp_path / "code.py", *(tmp_path / kind for kind in kinds))

    found = {kind: json.loads((tmp_path / kind / "accuracies.json").read_text()) for kind in kinds}
    found = {kind: {k: [*of.values()] for k, of in ks.items()} for kind, ks in found.items()}
    assert found["patterns"]["1"] == [1] * 8, "a unit for each pattern"
    assert found["pairs"]["1"] == pytest.approx([0.75] * 4, abs=0.02), "a unit has half of a pair"
    assert found["pairs"]["5"] == [1] * 4
    assert np.mean(found["chance"]["1"]) == pytest.approx(0.5, abs=0.05)
    x_ND, y_N = torch.from_numpy(np.load("X_test.npy")), np.load("y_test.npy")
    ours_NK = (implicit_em.load("run").encode(x_ND) * lengths(place)).detach().numpy()
    with np.load(tmp_path / "patterns" / "codes.npz") as codes:
        for label in range(8):
            np.testing.assert_allclose(codes[str(label)], ours_NK[y_N == label], atol=1e-5)


def test_decoder_rows_of_length_1_change_the_scale_of_codes_alone(tmp_path):
    names = [name for name in MODELS if name not in ("topk", "tied_topk")]
    for name in names:
        x_ND = write_folder(tmp_path / name, name)
    np.save(tmp_path / "samples.npy", x_ND)
    saebench("fold", tmp_path / "samples.npy", *(tmp_path / name for name in names))
    for name in names:
        model, lengths_K = implicit_em.load(tmp_path / name), lengths(tmp_path / name)
        assert lengths_K.max() > 1.2 * lengths_K.min()
        with np.load(tmp_path / f"{name}.npz") as theirs:
            codes_NK = (model.encode(x_ND) * lengths_K).detach()
            np.testing.assert_allclose(theirs["codes"], codes_NK, atol=5e-5)
            found_ND = model.reconstruct(x_ND).detach()
            np.testing.assert_allclose(theirs["reconstructions"], found_ND, atol=5e-5)


def test_an_evaluation_takes_a_run_on_a_language_model(command_line, tmp_path):
    make_text_store(tmp_path / "store", list("abcdefghij"), [[2, 3, 4, 6, 7]] * 30)
    data = ["data=activations", "data.path=store", "data.batch_size=16", "model=l1"]
    assert command_line(*data, "model.hidden=12", "trainer.max_epochs=1", *BRIEF) == 0
    saebench("measure", export("run"), tmp_path / "results")
    (file,) = (tmp_path / "results").iterdir()
    result = json.loads(file.read_text())
    measures = result["eval_result_metrics"]["meta_structure"]
    assert measures["decoder_fraction_variance_explained"] < 1
    metadata = result["sae_cfg_dict"]["metadata"]
    assert (metadata["model_name"], metadata["hook_name"]) == ("tiny", "model.layers.0")


def test_absorption_of_given_words_is_the_same(tmp_path):
    rng = np.random.default_rng(0)
    probe, main = np.eye(16)[0], [0, 3]
    rows = rng.normal(0, 1, (24, 16)) + np.where(rng.random((24, 1)) < 0.5, 2, 0.1) * probe
    codes = rng.exponential(0.5, (600, 24)) * (rng.random((600, 24)) < 0.1)
    vectors = codes @ rows + rng.normal(0, 0.5, (600, 16))
    arrays = {"codes": codes, "rows": rows, "vectors": vectors, "probe": 3 * probe}
    ours = {name: torch.from_numpy(array) for name, array in arrays.items()}
    full, fraction = absorbed(*ours.values(), main)
    lengths = np.linalg.norm(rows, axis=1)
    folded = {"codes": codes * lengths, "rows": rows / lengths[:, None]}
    np.savez(tmp_path / "arrays.npz", **arrays | folded, main=main)
    saebench("absorb", tmp_path / "arrays.npz", tmp_path / "found.json")
    theirs = json.loads((tmp_path / "found.json").read_text())
    assert 30 < full.sum() < 300
    assert ((fraction > 0) & (fraction < 1)).sum() > 30
    assert full.tolist() == theirs[0]
    np.testing.assert_allclose(fraction, theirs[1], atol=1e-6)
