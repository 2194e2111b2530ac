"""Runs below a directory, with a page, an export and a card each, and an index."""

import shutil

import pytest

import implicit_em
from implicit_em.base.errors import ConfigError
from implicit_em.viewer.collecting import collect


def placed(root, **runs):
    for name, run in runs.items():
        shutil.copytree(run, root / name.replace("_", "/"))
    return root


def test_a_collection_has_what_others_need_of_each_run(tmp_path, trained, caplog):
    root = placed(tmp_path / "all", a_one=trained("vectors"), a_pca=trained("vectors", "model=pca"))
    (root / "a/half/.hydra").mkdir(parents=True)
    (root / "a/half/.hydra/config.yaml").touch()
    index = collect(root)
    page = index.read_text()
    assert "a/one/explore/index.html" in page
    assert "a/pca/explore/index.html" in page
    assert "2 trained models" in page
    assert "left out: a/half" in page
    assert "SAELens has a form for" in caplog.text
    assert "a/pca/saelens" not in page
    card = (root / "a/one/saelens/README.md").read_text()
    assert 'SAE.load_from_disk("all/a/one/saelens")' in card
    assert str(tmp_path) not in card.replace(f"data.root={tmp_path}", "")
    found, alone = implicit_em.load(root / "a/one/saelens"), implicit_em.load(root / "a/one")
    assert found.weight.shape == alone.weight.shape
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.safetensors")}
    made = (root / "a/one/explore/index.html").stat().st_mtime_ns
    collect(root)
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*.safetensors")}
    assert made == (root / "a/one/explore/index.html").stat().st_mtime_ns


def test_runs_on_a_causal_model_are_measured_inside_it(tmp_path, harvested, models):
    root = placed(tmp_path / "lm", site=harvested("llama"))
    page = collect(root, lm=str(models["llama"])).read_text()
    assert "<th>ce recovered</th>" in page


def test_a_directory_without_a_finished_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no finished run"):
        collect(tmp_path)
