"""What pages and tables show of units that are removed inside a language model."""

import pandas as pd
import pytest
from helpers.lines import one_line

from implicit_em import features
from implicit_em.base.errors import ConfigError
from implicit_em.language.models import extremes
from implicit_em.language.steering import Steering
from implicit_em.trained.reading import trained as trained_of
from implicit_em.viewer.__main__ import main


def test_the_table_and_the_pages_have_what_an_ablation_changes(harvested, models, monkeypatch):
    run, lm = harvested("llama"), str(models["llama"])
    measured, own = [], Steering.ablated
    monkeypatch.setattr(
        Steering, "ablated", lambda *given: measured.append(given[2]) or own(*given)
    )
    found = features(run, lm, ablate=[3, 1])
    found.table()
    steering = Steering.of(trained_of(run))
    model = steering.data.inside("ablate", lm).model
    table, vocabulary = found.table(), model.vocabulary()
    for unit in (1, 3):
        moved = steering.ablated(model, unit, steering.activations(unit).nonzero()[:, 0])
        sides = extremes(moved.chances_V, 8)
        more, less = ([vocabulary[token] for token in ids] for ids, _ in sides)
        row = table.loc[unit]
        assert row["ablation_loss"] == pytest.approx(moved.loss, rel=1e-3)
        assert (row["ablation_less"], row["ablation_more"]) == (less, more)
        shown = found[unit].shown["ablation"]
        assert (shown["contexts"], shown["tokens"]) == (moved.contexts, moved.tokens)
        assert shown["less"][1] == sorted(shown["less"][1])
        assert shown["less"][1][0] == pytest.approx(moved.chances_V.min().item(), rel=1e-3)
    assert sorted(measured) == [1, 1, 3, 3], "once for tables and pages, and once here"
    assert table["ablation_loss"].isna().tolist() == [True, False, True, False, True]
    assert all(value is None or pd.isna(value) for value in table["ablation_less"][[0, 2, 4]])
    assert found[0].shown["ablation"] is None
    assert not {"ablation_loss", "ablation_less"} & {*features(run, lm).table()}


def test_what_cannot_be_ablated_is_one_line(harvested, models, trained, tmp_path, capsys):
    run, lm = harvested("llama"), str(models["llama"])
    with pytest.raises(ConfigError, match=r"^unit=5: allowed are whole numbers from 0 to 4$"):
        features(run, lm, ablate=[5])
    with pytest.raises(ConfigError, match=r"^lm=auto: a BertLMHeadModel that reads ahead"):
        features(harvested("bert"), str(models["bert"]), ablate=[1])
    with pytest.raises(ConfigError, match=r"^ablate: the data are from no language model"):
        features(trained("images"), ablate=[1])
    for typed, reason in (
        (["--ablate", "x"], "unit=x: allowed are"),
        (["--ablate", "1,9"], "unit=9: allowed are"),
        (["--ablate", ""], "unit=: allowed are"),
        (["--port", "80"], "port=80: needs --serve"),
    ):
        arguments = [str(run), "--lm", lm, *typed, "--out", str(tmp_path / "page")]
        capsys.readouterr()
        with pytest.raises(SystemExit, match="2"):
            raise SystemExit(main(arguments))
        assert reason in one_line(capsys)
    assert list(tmp_path.iterdir()) == []
