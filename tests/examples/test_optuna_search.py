"""The search by Optuna trains its trials, and goes on where it was stopped."""

from importlib.util import module_from_spec, spec_from_file_location

import pytest
from helpers.paths import ROOT
from helpers.results import finished, metrics_of

FILE = ROOT / "examples" / "optuna_search.py"


def test_a_search_finds_its_best_trial_and_goes_on(small, tmp_path, monkeypatch, capsys, caplog):
    pytest.importorskip("optuna", minversion="4")
    spec = spec_from_file_location(FILE.stem, FILE)
    example = module_from_spec(spec)
    spec.loader.exec_module(example)
    brief = ["trainer.max_epochs=1", "data.val_size=100", "data.final=validation"]
    monkeypatch.setattr(example, "FIXED", [*small, *brief])
    monkeypatch.setattr(example, "DIRECTORY", tmp_path / "search")
    monkeypatch.setattr(example, "TRIALS", 2)
    caplog.set_level("INFO")
    example.main()
    runs = finished(tmp_path / "search")
    assert len(runs) == 2
    best = max(metrics_of(path.parent)["probe_accuracy"] for path in runs)
    assert f"probe accuracy {best:.4f}" in capsys.readouterr().out
    example.main()
    assert caplog.text.count("is complete already: reused") == 2
    assert finished(tmp_path / "search") == runs
