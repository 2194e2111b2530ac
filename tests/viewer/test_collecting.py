"""Runs below a directory, with a page, an export and a card each, and an index."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file, save_file

import implicit_em
from implicit_em.base.errors import ConfigError
from implicit_em.base.locking import locked
from implicit_em.viewer.collecting import NOTHING, _cell, collect

WILD = "wild/model.safetensors"


def placed(root, **runs):
    for name, run in runs.items():
        shutil.copytree(run, root / name.replace("_", "/"))
    return root


def test_a_collection_has_what_others_need_of_each_run(tmp_path, trained, caplog):
    root = placed(
        tmp_path / "all", a_run2=trained("vectors"), a_run10=trained("vectors", "model=pca")
    )
    (root / "a/half/.hydra").mkdir(parents=True)
    (root / "a/half/.hydra/config.yaml").touch()
    shutil.copytree(root / "a/run2", root / "a/torn")
    (root / "a/torn/model.safetensors").write_text("junk")
    index = collect(root)
    page = index.read_text()
    places = [page.find(f"a/run{n}/explore/index.html") for n in (2, 10)]
    assert places == sorted(places), "2 comes before 10"
    assert places[0] > 0
    assert "2 trained models" in page
    assert "left out: a/half, a/torn" in page
    assert "a/torn/model.safetensors does not fit its model" in caplog.text
    assert '<td class="number">PCA</td>' in page
    assert "SAELens has a form for" in caplog.text
    assert "a/run10/saelens" not in page
    card = (root / "a/run2/saelens/README.md").read_text()
    assert 'SAE.load_from_disk("all/a/run2/saelens")' in card
    assert str(tmp_path) not in card.replace(f"data.root={tmp_path}", "")
    found, alone = implicit_em.load(root / "a/run2/saelens"), implicit_em.load(root / "a/run2")
    assert found.weight.shape == alone.weight.shape
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.safetensors")}
    made = (root / "a/run2/explore/index.html").stat().st_mtime_ns
    collect(root)
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*.safetensors")}
    assert made == (root / "a/run2/explore/index.html").stat().st_mtime_ns


def test_runs_on_a_causal_model_are_measured_inside_it(tmp_path, harvested, models):
    root = placed(tmp_path / "lm", site=harvested("llama"))
    page = collect(root, lm=str(models["llama"])).read_text()
    assert "<th>ce recovered</th>" in page
    assert "<th>site</th>" in page
    assert "<th>target</th>" not in page


def test_a_metric_of_several_sites_shows_all_of_them():
    told = {"fvu": 0.5, "fvu.resid.1": 0.25, "ce_recovered.resid.1": 0.75}
    told["ce_recovered.resid.2"] = 1
    cells = [_cell(told, key) for key in ("fvu", "ce_recovered", "l0")]
    assert cells == ["0.5", "0.75, 1", NOTHING]


def test_two_calls_at_once_wait_for_each_other_at_each_run(tmp_path, trained, caplog):
    root = placed(tmp_path / "all", one=trained("vectors"))
    caplog.set_level("INFO", "implicit_em")
    with ThreadPoolExecutor(1) as pool, locked(root / "one"):
        other = pool.submit(collect, root)
        while "another process is at work there" not in caplog.text:
            assert not other.done()
            time.sleep(0.01)
        assert not (root / "one/explore").exists()
    assert other.result().exists()


def test_a_collection_of_damaged_runs_alone_is_none(tmp_path, trained, caplog):
    with pytest.raises(ConfigError, match="holds no finished run"):
        collect(tmp_path)
    root = placed(tmp_path / "all", torn=trained("vectors"), wild=trained("vectors"))
    (root / "torn/model.safetensors").write_text("junk")
    weights = load_file(root / WILD)
    save_file({k: torch.full_like(v, torch.inf) for k, v in weights.items()}, root / WILD)
    with pytest.raises(ConfigError, match="no page of a run can be made"):
        collect(root)
    assert "an activation is NaN or infinite" in caplog.text
