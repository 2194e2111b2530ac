"""The page of a run: what it holds, against the code of the model, and what is refused."""

import json
import re
import shutil
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.lines import one_line
from helpers.pages import texts_of_store
from helpers.stores import SINK, SITE, make_store

from implicit_em import explore
from implicit_em import features as features_of
from implicit_em.base.errors import ConfigError, DamagedError
from implicit_em.data import as_unit_float
from implicit_em.language.activations import ActivationDataModule
from implicit_em.metrics.dictionaries import cosines
from implicit_em.trained.activity import Unit
from implicit_em.trained.loading import load_as_trained
from implicit_em.training.directory import RunDirectory
from implicit_em.training.spec import RunSpec
from implicit_em.viewer import exploring, features
from implicit_em.viewer.__main__ import main


@pytest.fixture
def page_of(tmp_path):
    """Write the page of runs, and return a function that reads its data."""

    def page_of(*runs, **options):
        index = explore(runs, tmp_path / "page", **options)

        def read(name):
            text = (index.parent / "data" / f"{name}.js").read_text("ascii")
            head, tail = f'explorer("{name}",', ")\n"
            assert text.startswith(head)
            assert text.endswith(tail)
            return json.loads(text[len(head) : -len(tail)])

        return read

    return page_of


def codes_of(run):
    """Return the code of the final samples, their labels, and the data."""
    data = RunSpec.of_settings(RunDirectory(run).read_config()).build_data()
    samples, labels = data.final_samples()
    model, _ = load_as_trained(run)
    with torch.no_grad():
        return model.encode(as_unit_float(samples).float()).numpy(), labels.numpy(), data


@pytest.mark.parametrize("kind", ["texts", "images", "vectors"])
def test_the_table_is_that_of_the_code_and_so_are_features_one_by_one(trained, page_of, kind):
    run = trained(kind)
    codes_NK, _, _ = codes_of(run)
    read, found = page_of(run), features_of(run)
    table, about = (read(f"0/{name}") for name in ("table", "about"))
    assert (about["kind"], about["units"]) == (kind, len(found)) == (kind, codes_NK.shape[1])
    assert table["density"] == pytest.approx((codes_NK > 0).mean(0).tolist(), rel=1e-3)
    assert table["max"] == pytest.approx(codes_NK.max(0).tolist(), rel=1e-3)
    means = [codes[codes > 0].mean() for codes in codes_NK.T]
    assert table["mean"] == pytest.approx(means, rel=1e-3)
    assert json.loads(json.dumps([feature.shown for feature in found])) == read("0/block-0")
    if kind == "texts":
        assert re.search(r" test samples of resid\.\d in \w+$", about["samples"])
        words = about["vocabulary"]
        table["tokens"] = [[words[token] for token in row] for row in table["tokens"]]
    assert found.table().to_dict("list") == table
    assert found[-1].number == len(found) - 1
    assert [feature.number for feature in found[1:3]] == [1, 2]
    with pytest.raises(IndexError):
        found[len(found)]


def test_strongest_and_random_texts_are_those_of_the_code(trained, page_of):
    run = trained("texts")
    codes_NK, _, data = codes_of(run)
    document_N, token_N = (data.column(name, "test").numpy() for name in ("document", "token"))
    for unit, shown in enumerate(page_of(run)("0/block-0")):
        values_N = codes_NK[:, unit]
        best = {}
        for sample in sorted(np.flatnonzero(values_N > 0), key=lambda n: (-values_N[n], n)):
            best.setdefault(document_N[sample], sample)
        expected = list(best.values())[: features.STRONGEST]
        assert [one[0] for one in shown["examples"]["strongest"]] == expected
        ranks_N = (-values_N).argsort(kind="stable").argsort()
        size = (values_N > 0).sum()
        for part, some in enumerate(shown["examples"]["parts"]):
            assert len(some) == features.OF_EACH_PART
            shares = np.array([ranks_N[one[0]] for one in some]) / size
            assert (abs(shares - (part + 0.5) / 5) <= 0.1 + 1 / size).all()
        assert all(values_N[one[0]] <= 0 for one in shown["examples"]["silent"])
        assert sum(shown["histogram"]) == size
        for token, mean, count in shown["tokens"]:
            assert count == (token_N == token).sum()
            assert mean == pytest.approx(values_N[token_N == token].clip(0).mean(), rel=1e-3)


def test_a_text_is_shown_around_its_token_with_the_activation_of_each(trained, page_of):
    run = trained("texts")
    codes_NK, _, data = codes_of(run)
    columns = [data.column(name, "test").tolist() for name in ("document", "place")]
    rows = {key: row for row, key in enumerate(zip(*columns, strict=True))}
    texts = texts_of_store()
    for unit, shown in enumerate(page_of(run)("0/block-0")):
        lists = [shown["examples"]["strongest"], *shown["examples"]["parts"]]
        for sample, value, labels, place, start, ids, values in chain(*lists):
            document = columns[0][sample]
            assert (columns[1][sample], start) == (place, max(0, place - 24))
            assert ids == texts[document][start : place + 13]
            there = [rows.get((document, start + n)) for n in range(len(ids))]
            for token, row, active in zip(ids, there, values, strict=True):
                assert (row is None) == (active is None) == (token == SINK), "its norm is large"
                if row is not None:
                    assert active == pytest.approx(codes_NK[row, unit].clip(0), rel=1e-3)
            assert value == pytest.approx(codes_NK[sample, unit], rel=1e-3)
            assert labels[0] == "xy"[document % 2]


def test_samples_say_where_they_are_from(tmp_path):
    store = make_store(tmp_path / "store", [("train", [9]), ("test", [9])], further={"mlp.1": 3})
    data = ActivationDataModule(store, site=SITE, target="mlp.1")
    seen = data.seen(torch.zeros(2, 6), torch.zeros(2))
    assert seen.place == " of resid.0 in tiny, explaining mlp.1"


def test_images_and_vectors_show_samples_and_labels(trained, page_of):
    run = trained("images")
    codes_NK, labels_N, _ = codes_of(run)
    for unit, shown in enumerate(page_of(run)("0/block-0")):
        expected = np.argsort(-codes_NK[:, unit], kind="stable")[: features.STRONGEST]
        strongest = shown["examples"]["strongest"]
        assert [one[0] for one in strongest] == expected.tolist()
        assert [one[2] for one in strongest] == [[str(labels_N[n])] for n in expected]
        pictures = [shown["weights"], shown["mean"], *(one[3] for one in strongest)]
        assert all(picture.startswith("data:image/png;base64,iVBOR") for picture in pictures)
    for shown in page_of(trained("vectors"))("0/block-0"):
        assert len(shown["row"]) == 6
        assert shown["labels"] == []


def test_of_a_label_no_and_yes_are_both_told_and_of_a_class_of_tokens_its_name():
    numbers_N, values = np.array([0, 0, 1, 1]), ["no", "yes"]
    unit = Unit(0, np.array([0, 1]), np.array([2.0, 3.0]))
    told = {"toxic": [["toxic", "no", 1.0], ["toxic", "yes", 0.0]]}
    told |= {"token: digit": [["token: digit", "", 0.0]]}
    for name, expected in told.items():
        seen = SimpleNamespace(
            labels={name: (numbers_N, values)}, counts={name: np.array([0, 2, 2])}
        )
        assert features.Features._labels(SimpleNamespace(seen=seen), unit) == expected


@pytest.mark.parametrize(("entries", "dense"), [(features.TOGETHER, 0), (40, 1)])
def test_neighbours_are_those_of_directions_and_of_joint_activity(
    trained, page_of, monkeypatch, entries, dense
):
    """Joint activity is counted on as many samples as memory takes."""
    monkeypatch.setattr(features, "TOGETHER", entries)
    monkeypatch.setattr(features, "DENSE", dense)
    run = trained("images", "model=topk", "model.l0=2")
    decoder_KD = load_as_trained(run)[0].decoder.weight.detach().numpy().T
    cosines_KK, active_NK = cosines(decoder_KD, decoder_KD), codes_of(run)[0] > 0
    some_NK = active_NK[: int(entries / active_NK.sum() * len(active_NK))]
    for unit, shown in enumerate(page_of(run)("0/block-0")):
        others = [other for other in range(5) if other != unit]
        expected = {n: cosines_KK[unit, n] for n in others if cosines_KK[unit, n] > 0}
        assert dict(shown["near"]) == pytest.approx(expected, rel=1e-3)
        for other, share in shown["together"]:
            both = (some_NK[:, unit] & some_NK[:, other]).sum()
            either = (some_NK[:, unit] | some_NK[:, other]).sum()
            assert share == pytest.approx(both / either, rel=1e-3)


def test_runs_are_matched_by_their_directions(trained, page_of):
    runs = [trained("images", f"model={name}", "model.l0=2") for name in ("topk", "tied_topk")]
    read = page_of(*runs)
    untied, tied = (load_as_trained(run)[0] for run in runs)
    first, second = untied.decoder.weight.detach().numpy().T, tied.weight.detach().numpy()
    partner, cosine = read("0/matches-1")
    assert sorted(partner) == list(range(5))
    assert cosine == pytest.approx(cosines(first, second)[range(5), partner], rel=1e-3, abs=1e-9)
    back, _ = read("1/matches-0")
    assert [back[unit] for unit in partner] == list(range(5))
    assert [read(f"{run}/about")["name"] for run in (0, 1)] == [run.name for run in runs]


def test_a_unit_without_a_partner_says_so():
    found = {(a, b): (k, c) for a, b, k, c in exploring.matches([np.eye(3), np.eye(3)[1:]])}
    assert found[0, 1][0].tolist() == [-1, 0, 1]
    assert found[0, 1][1].tolist() == [0, 1, 1]
    assert found[1, 0][0].tolist() == [1, 2]


def test_an_earlier_page_is_replaced_and_nothing_else(trained, tmp_path, capsys):
    run = trained("vectors")
    page = tmp_path / "page"
    for _ in range(2):
        assert main([str(run), "--out", str(page)]) == 0
    assert f"Open {page / 'index.html'}" in capsys.readouterr().out
    (page / "notes.txt").write_text("mine, beside an earlier page")
    mine = tmp_path / "mine" / "index.html"
    mine.parent.mkdir()
    mine.write_text("mine")
    for out in (page, mine.parent, mine):
        assert main([str(run), "--out", str(out)]) == 2
        assert f"error: out={out}: holds other files; nothing is overwritten" in one_line(capsys)
    assert mine.read_text() == "mine"


def test_a_page_that_fails_leaves_nothing(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("implicit_em.trained.reading.decoder_of", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        explore([trained("vectors")], tmp_path / "page")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_shown_is_one_line(trained, tmp_path):
    run, other = trained("vectors"), trained("images")
    with pytest.raises(FileNotFoundError, match=r"is no run directory"):
        explore(tmp_path)
    with pytest.raises(ConfigError, match=r"runs: none is named"):
        explore([])
    with pytest.raises(ConfigError, match=r"runs on data of widths 6 and 64: their features"):
        explore([run, other])
    with pytest.raises(ConfigError, match=r"out=\.: needs a name"):
        explore([run], ".")
    assert main([str(tmp_path)]) == 2


def test_a_run_that_is_damaged_or_not_finished_has_nothing_to_show(trained, tmp_path):
    run = shutil.copytree(trained("vectors"), tmp_path / "run")
    for content in (b"", b"\xff\xfe", b"epoch,l0\n1,many\n"):
        (run / "history.csv").write_bytes(content)
        with pytest.raises(DamagedError, match=r"history\.csv: no table: "):
            explore([run])
    (run / "metrics.json").unlink()
    with pytest.raises(ConfigError, match=r"run: not finished: .*; allowed are finished runs"):
        explore([run])


@pytest.mark.parametrize("kind", ["texts", "images", "vectors"])
def test_a_notebook_displays_a_feature_and_runs_nothing_of_its_text(trained, kind):
    feature = features_of(trained(kind))[0]
    shown = feature._repr_html_()
    assert "<b>Feature 0</b>" in shown
    assert "<script" not in shown
    assert repr(feature).startswith("Feature(0, active on ")
    if kind == "texts":
        assert shown.count("<p ") == len(feature.shown["examples"]["strongest"])
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown


def test_the_folder_of_features_goes_with_them(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = features_of(trained("vectors"))
    assert len(list(tmp_path.iterdir())) == 1
    del found
    assert list(tmp_path.iterdir()) == []
