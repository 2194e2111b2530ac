"""Sparse probing: the split, the choice of latents, the probes, and the texts behind them."""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.language import LONGEST, WORDS, make_model, reads
from helpers.lines import one_line
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import implicit_em
from implicit_em.base.errors import INTERRUPTED, ConfigError, DamagedError
from implicit_em.language import labelled, probing
from implicit_em.language.contexts import Affixes
from implicit_em.language.labelled import last_vectors
from implicit_em.language.models import LanguageModel
from implicit_em.language.probing import FEW, SHARE, STRENGTHS, probed, ranked, scores_of, split
from implicit_em.language.settings import LanguageModelSettings
from implicit_em.trained.evaluate import evaluate, main
from implicit_em.trained.export import export
from implicit_em.trained.reading import typed_data
from implicit_em.training.directory import RunDirectory

BRIEF = ("trainer.max_epochs=1", "data.batch_size=64", "logger=csv", "picture=false")
ENDINGS = WORDS[::2]
"""Words at the end of a text that make the label of one set."""


@given(st.integers(75, 1500), st.integers(0, 3))
def test_the_halves_of_a_split_are_balanced_and_apart(pairs, seed):
    count = 2 * pairs
    labels_N = np.random.default_rng(seed).permutation(np.arange(count) % 2)
    train, test = split(labels_N, seed)
    assert len(train) == min(count - 100, 1024)
    assert len(train) + len(test) == count - 1
    assert len({*train, *test}) == count - 1
    for rows in (train, test):
        assert labels_N[rows].sum() == -(-len(rows) // 2)


def test_latents_are_ranked_by_the_difference_of_class_means_in_units_of_their_size():
    rng = np.random.default_rng(0)
    codes_NK = rng.normal(0, 1, (60, 8)) * (rng.random((60, 8)) < 0.4) * 10.0 ** np.arange(-4, 4)
    codes_NK[:, 3] = 0
    labels_N = np.arange(60) % 2
    expected = []
    for codes_N in codes_NK.T:
        active_N = codes_N[codes_N != 0]
        scaled_N = codes_N / np.abs(active_N).mean() if len(active_N) else codes_N
        expected.append(abs(scaled_N[labels_N == 1].mean() - scaled_N[labels_N == 0].mean()))
    found_K = ranked(torch.from_numpy(codes_NK), torch.from_numpy(labels_N))
    # What keeps the scale above 0 is as large as the smallest latents, so these lose.
    large_K = [k for k in found_K.tolist() if k > 2]
    assert large_K == sorted(range(3, 8), key=lambda k: -expected[k])


@pytest.mark.parametrize("count", [FEW - 8, 240])
def test_the_strength_is_chosen_without_the_test_texts(count):
    """The strength, found here by hand, decides the scores; texts that are held out come last.

    All is in float64, though latents are float32.
    """
    rng = np.random.default_rng(count)
    codes_NK = rng.exponential(1, (count + 200, 30)).astype("float32")
    labels_N = (codes_NK[:, 0] + rng.normal(0, 1, count + 200) > 1).astype(int)
    train_NK, test_MK = codes_NK[:count], codes_NK[count:]
    found = probed(train_NK, labels_N[:count], test_MK, labels_N[count:])
    train_NK, test_MK = train_NK.astype(float), test_MK.astype(float)
    end = count - min(int(SHARE * count), 100)
    order = np.random.RandomState(42).permutation(count)
    aucs, by_validation = [], []
    for strength in STRENGTHS:
        settings = {"C": strength, "l1_ratio": 1, "solver": "saga", "random_state": 42}
        model = LogisticRegression(**settings, max_iter=1000)
        model.fit(train_NK[:end], labels_N[:end])
        chances_V = model.predict_proba(train_NK[end:])[:, 1]
        by_validation.append(roc_auc_score(labels_N[end:count], chances_V))
        model.fit(train_NK[order], labels_N[:count][order])
        aucs.append(roc_auc_score(labels_N[count:], model.predict_proba(test_MK)[:, 1]))
    assert len({*aucs}) > 3, "the strength matters"
    if count < FEW:
        assert found.auc in aucs
        assert found.validation_auc not in by_validation, "a cross-validation chooses"
    else:
        assert found.validation_auc == max(by_validation)
        assert found.auc == aucs[int(np.argmax(by_validation))]


def test_one_latent_may_tell_all_and_all_latents_are_those_that_are_not_silent():
    rng = np.random.default_rng(0)
    labels_N = np.arange(400) % 2
    codes_NK = np.maximum(rng.normal(0, 1, (400, 12)), 0).astype("float32")
    codes_NK[:, 7] = labels_N
    codes_NK[:, 9:] = 0
    vectors_NK = torch.from_numpy(codes_NK)
    found = scores_of(lambda x_ND: x_ND, vectors_NK, labels_N, (1, None))
    assert found[1] == (1, 1, 1, 1)
    train, test = split(labels_N)
    assert found[None] == probed(codes_NK[train], labels_N[train], codes_NK[test], labels_N[test])
    chance = rng.permutation(labels_N)
    assert scores_of(lambda x_ND: x_ND, vectors_NK, chance, (2,))[2].auc == pytest.approx(
        0.5, abs=0.08
    )


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_the_last_token_is_none_of_the_padding_or_the_marks(kind, tmp_path):
    import transformers

    folder = make_model(tmp_path, kind)
    settings = LanguageModelSettings(name="x", package=None, path=str(folder), sha256=None)
    model = LanguageModel.load(settings, "cpu")
    texts = ["a", " ".join(WORDS), "cat do", " ".join([*WORDS] * 5), "moo"]
    affixes = Affixes([2], [3]) if kind == "bert" else Affixes([], [])
    found = torch.empty(len(texts), model.width)
    for rows, vectors in last_vectors(model, texts, affixes, ["resid.1"]):
        found[rows] = vectors["resid.1"]
    network = transformers.AutoModel.from_pretrained(folder).eval()
    for text, vector_D in zip(texts, found, strict=True):
        own = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = [*affixes.prefix, *own[-(LONGEST - affixes.size) :], *affixes.suffix]
        assert len(ids) <= LONGEST
        with torch.no_grad():
            states = network(torch.tensor([ids]), output_hidden_states=True).hidden_states
        expected_D = states[2][0, len(ids) - affixes.size // 2 - 1]
        torch.testing.assert_close(vector_D, expected_D, atol=1e-5, rtol=1e-4)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package like sae-probes, which must not be imported; gives its folder of data."""
    data = tmp_path / "packages" / "sae_probes" / "data"
    data.mkdir(parents=True)
    (data.parent / "__init__.py").write_text("raise ImportError('it is data')")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(260)]
    ends = np.isin([text.split()[-1] for text in texts], ENDINGS)
    rows = np.concatenate([np.flatnonzero(ends == end)[:110] for end in (False, True)])
    names = np.array(["no", "yes"])
    for number, target in enumerate((names[ends.astype(int)], rng.integers(0, 3, len(texts)))):
        some = pd.DataFrame({"prompt": texts, "target": target}).iloc[rows]
        some.to_csv(data / f"{number}_set.csv.zst", index=False)
    kinds = ["Binary Classification", "Multiclass Classification"]
    listed = {"Dataset save name": ["0_set.csv", "1_set.csv"], "Data type": kinds}
    pd.DataFrame(listed).to_csv(data / "probing_datasets_MASTER.csv.zst", index=False)
    monkeypatch.syspath_prepend(data.parents[1])
    labelled.files.cache_clear()
    yield data
    labelled.files.cache_clear()


@pytest.fixture
def run(command_line, command_line_of, tmp_path):
    """Train a run on the vectors of a tiny model that reads ahead; gives where the model is."""
    own = [f"store={tmp_path / 'store'}", "sites=[resid.0,resid.2]", "context.length=12"]
    assert command_line_of("harvest", *reads(tmp_path, "bert"), *own, "tokens=null") == 0
    data = ["data=activations", "data.path=store", "data.site=resid.2", "data.normalize=scale"]
    model = ["model=topk", "model.hidden=40", "model.l0=8"]
    assert command_line(*data, *model, *BRIEF, "hydra.run.dir=run") == 0
    return str(tmp_path / "model")


def test_a_run_is_probed_and_the_language_model_reads_once(
    run, package, monkeypatch, capsys, caplog
):
    caplog.set_level("INFO")
    assert main(["run", "--lm", run, "--probes", "--all-latents"]) == 0
    assert "reading labelled texts: 220 of 220 texts" in caplog.text
    shown = capsys.readouterr().out
    assert "probes top 1 auc" in shown
    assert "ce recovered" not in shown
    kept = implicit_em.Run("run").evaluations["own-probes-all_latents"]
    rows, metrics = kept["details"]["probes"], kept["metrics"]
    assert [row["latents"] for row in rows] == [1, 2, 5, "all"]
    assert metrics["probed_sets"] == 1
    assert metrics["probes_top_5_f1"] == rows[2]["f1"]
    assert metrics["probes_all_auc"] == rows[3]["auc"] > max(0.8, rows[0]["auc"])

    monkeypatch.setattr(LanguageModel, "load", None)  # nothing is read again
    again = evaluate("run", probes=["0_set"], all_latents=True)
    assert {key: again[key] for key in metrics} == metrics
    place = export("run")
    elsewhere = evaluate(place, typed_data("run", ["data.batch_size=7"]), probes=[], out="other")
    for k in (1, 2, 5):
        assert elsewhere[f"probes_top_{k}_auc"] == pytest.approx(
            again[f"probes_top_{k}_auc"], abs=0.02
        )


def test_what_is_kept_is_of_one_set_one_model_and_whole(run, package, tmp_path):
    first = evaluate("run", probes=[], lm=run)
    (file,) = tmp_path.glob("outputs/probes/*/resid.2/0_set-*.safetensors")
    (scores,) = tmp_path.glob("outputs/probes/*/resid.2/0_set-*.json")
    file.write_bytes(file.read_bytes()[:-1])
    scores.write_text("{")  # what is damaged and can be measured again is
    with pytest.raises(DamagedError, match=r"0_set-\w+\.safetensors: damaged; delete it"):
        evaluate("run", probes=[])
    file.unlink()
    with pytest.raises(ConfigError, match="the store does not say where it is"):
        evaluate("run", probes=[])
    assert evaluate("run", probes=[], lm=run) == first
    rows = pd.read_csv(package / "0_set.csv.zst")
    rows["target"] = rows["target"].sample(frac=1, random_state=0).to_numpy()
    rows.to_csv(package / "0_set.csv.zst", index=False)
    changed = evaluate("run", probes=[], lm=run)
    assert changed["probes_top_5_auc"] != first["probes_top_5_auc"]
    assert len([*tmp_path.glob("outputs/probes/*/resid.2/0_set-*.safetensors")]) == 2


@pytest.fixture
def measured(monkeypatch):
    """The numbers of latents of each set whose scores are measured, in turn."""
    calls, measure = [], probing.scores_of

    def scores_of(encode, vectors_ND, labels_N, ks):
        calls.append([*ks])
        return measure(encode, vectors_ND, labels_N, ks)

    monkeypatch.setattr(probing, "scores_of", scores_of)
    return calls


def test_an_interrupted_evaluation_goes_on_behind_the_sets_that_were_done(
    run, package, measured, monkeypatch
):
    rows = pd.read_csv(package / "0_set.csv.zst")
    rows.iloc[::-1].to_csv(package / "2_set.csv.zst", index=False)
    listed = pd.read_csv(package / "probing_datasets_MASTER.csv.zst")
    listed.loc[2] = ["2_set.csv", "Binary Classification"]
    listed.to_csv(package / "probing_datasets_MASTER.csv.zst", index=False)
    measure = probing.scores_of

    def interrupted(*arguments):
        found = measure(*arguments)
        if len(measured) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(probing, "scores_of", interrupted)
        assert main(["run", "--probes", "--lm", run]) == INTERRUPTED
    assert measured == [[1, 2, 5]] * 2
    first = evaluate("run", probes=[])
    assert measured == [[1, 2, 5]] * 3, "the second set again"
    more = evaluate("run", probes=[], all_latents=True)
    assert {key: more[key] for key in first} == first
    assert measured[3:] == [[None]] * 2
    for file in Path("outputs/probes").rglob("*.json"):
        file.unlink()
    assert evaluate("run", probes=[]) == first


def test_scores_are_of_one_set_of_weights_and_settings(run, package, measured):
    first = evaluate("run", probes=[], lm=run)
    place = RunDirectory(Path("run"))
    weights, description = load_file(place.weights), place.model.read_text()
    assert evaluate("run", probes=[]) == first
    assert len(measured) == 1
    changed = {name: each.flip(-1) if each.dim() == 2 else each for name, each in weights.items()}
    save_file(changed, place.weights)
    assert evaluate("run", probes=[])["probes_top_5_auc"] != first["probes_top_5_auc"]
    save_file(weights, place.weights)
    assert '"k": 8' in description
    place.model.write_text(description.replace('"k": 8', '"k": 30'))
    assert evaluate("run", probes=[])["probes_top_5_auc"] != first["probes_top_5_auc"]
    assert len(measured) == 3


def test_what_cannot_be_probed_is_refused_in_one_line(run, package, monkeypatch, capsys):
    capsys.readouterr()
    assert main(["run", "--all-latents", "--absorption"]) == 2
    assert "--all-latents: no probes are asked for; allowed with --probes" in one_line(capsys)
    assert main(["run", "--probes", "O_set"]) == 2
    assert "--probes O_set: no such set; did you mean 0_set?" in one_line(capsys)
    shutil.rmtree(package.parent)
    labelled.files.cache_clear()
    monkeypatch.setattr(labelled, "find_spec", lambda name: None)
    assert main(["run", "--probes"]) == 2
    assert "pip install --no-deps sae-probes" in one_line(capsys)
