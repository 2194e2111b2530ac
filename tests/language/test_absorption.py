"""First-letter absorption: words and prompts, the probes, both measures, and whole runs."""

from string import ascii_lowercase
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.language import reads
from helpers.lines import one_line
from hypothesis import given
from hypothesis import strategies as st

import implicit_em
from implicit_em.language import absorption
from implicit_em.language.absorption import (
    MEASURES,
    TEST,
    TRAIN,
    Absorption,
    absorbed,
    letter_probe,
    main_latents,
    prompts_of,
    word_sets,
    words_of,
)
from implicit_em.language.models import LanguageModel
from implicit_em.models import SparseAutoencoder
from implicit_em.models.normalizing import Normalized, Normalizer
from implicit_em.trained.evaluate import evaluate, main
from implicit_em.trained.export import export
from implicit_em.trained.reading import typed_data

BRIEF = ("trainer.max_epochs=1", "data.batch_size=64", "logger=csv", "picture=false")
S = ascii_lowercase.index("s")
WIDTH = 40


def test_words_have_letters_alone_behind_at_most_one_space():
    vocabulary = [
        "<s>",
        "end",
        " cat",
        "cat",
        " Dog",
        "",
        " ",
        "  so",
        "it's",
        "é",
        "a1",
        "Z",
        "cat",
    ]
    assert words_of(vocabulary, {1}) == [" cat", "cat", " Dog", "Z"]


def test_a_prompt_ends_in_its_word_behind_ten_others():
    words = [f"{'' if n % 2 else ' '}{letter}x" for n, letter in enumerate("abcdefghijklmnop")]
    for word, prompt in zip(words, prompts_of(words, np.random.default_rng(0)), strict=True):
        first, *examples, last = prompt.split("\n")
        assert (first, last, len({*examples})) == ("", word, 10)
        assert word not in [example.partition(" has")[0] for example in examples]
        for example in examples:
            shown, letter = example.split(" has the first letter: ")
            assert shown in words
            assert letter == shown.strip()[0].upper()
    assert prompts_of(["a", " B"], np.random.default_rng(0)) == [
        "\n B has the first letter: B\na",
        "\na has the first letter: A\n B",
    ]


def test_words_to_train_on_and_to_measure_are_apart(monkeypatch):
    monkeypatch.setattr(absorption, "WORDS", 500)
    words = [f" {first}{second}" for first in ascii_lowercase for second in ascii_lowercase]
    sets = word_sets(words)
    shown = {name: {p.rpartition("\n")[2] for p in one.texts} for name, one in sets.items()}
    assert (len(shown[TRAIN]), len(shown[TEST])) == (400, 100)
    assert not shown[TRAIN] & shown[TEST]
    for name, one in sets.items():
        assert [p.rpartition("\n")[2][1] for p in one.texts] == [
            ascii_lowercase[n] for n in one.labels_N
        ]
        examples = {line.partition(" has")[0] for p in one.texts for line in p.split("\n")[1:-1]}
        assert examples <= shown[name]
    assert word_sets(words)[TEST].digest == sets[TEST].digest != sets[TRAIN].digest


def axes(*numbers, width=8):
    """Return a sum of axes."""
    return sum(torch.eye(width)[n] for n in numbers)


@pytest.mark.parametrize(
    ("codes", "full", "fraction"),
    [
        ([1.0, 0.0, 0.0, 0.0], False, 0),  # the main latent holds all
        ([0.0, 0.5, 0.0, 0.0], True, 1),  # another latent holds half, and the main one is silent
        ([0.0, 0.39, 0.0, 0.0], False, 0),  # too little
        ([0.0, 0.39, 0.2, 0.0], False, 1),  # enough, but only with another one
        ([0.6, 0.5, 0.0, 0.0], False, 0.4),  # no more than the main latent leaves
        ([0.3, 0.45, 0.0, 0.0], False, 0.6),
        ([0.0, 0.0, 0.0, 0.9], True, 0),  # a cosine of .05: for full absorption alone
        ([1e-9, 0.5, 0.0, 0.0], True, 0.5 / (0.5 + 1e-9)),
        ([0.0, 0.0, 0.0, 0.0], False, 0),
    ],
)
def test_the_measures_of_a_word_by_hand(codes, full, fraction):
    slight = axes(0) + axes(1) * (1 / 0.05**2 - 1) ** 0.5  # of cosine .05 with the probe
    directions = torch.stack([axes(0), axes(0, 2), axes(0, 3), slight])
    found = absorbed(torch.tensor([codes]), directions, axes(0, 5)[None], 7 * axes(0), [0])
    assert found[0].tolist() == [full]
    assert found[1].tolist() == pytest.approx([fraction])


def test_three_latents_absorb_together_and_a_vector_against_the_probe_none():
    directions = torch.stack([axes(0), *(axes(0, n) for n in range(1, 6))])
    codes = torch.tensor([[0, 0.13, 0.13, 0.13, 0.13, 0.13], [0, 0.14, 0.14, 0.14, 0, 0]])
    vectors = axes(0)[None]
    assert absorbed(codes, directions, vectors, axes(0), [0])[1].tolist() == [0, 1]
    for vector in (-axes(0), axes(3)):
        full, fraction = absorbed(codes, directions, vector[None], axes(0), [0])
        assert not full.any()
        assert not fraction.any()


@given(st.integers(0, 1000))
def test_lengths_of_directions_matter_only_together_with_activations(seed):
    rng = torch.Generator().manual_seed(seed)
    codes = torch.rand(30, 12, generator=rng) * (torch.rand(30, 12, generator=rng) < 0.3)
    directions, vectors = torch.randn(12, 8, generator=rng), torch.randn(30, 8, generator=rng)
    probe, lengths = (
        torch.randn(8, generator=rng),
        2.0 ** torch.randint(-3, 4, (12,), generator=rng),
    )
    found = absorbed(codes, directions, vectors, probe, [1, 4])
    others = absorbed(codes / lengths, directions * lengths[:, None], vectors, 9 * probe, [1, 4])
    assert torch.equal(found[0], others[0])
    torch.testing.assert_close(found[1], others[1])
    assert 0 <= found[1].min() <= found[1].max() <= 1


def test_a_longer_direction_holds_more():
    codes, directions = torch.tensor([[0.0, 0.3]]), torch.stack([axes(0), axes(0, 1)])
    assert absorbed(codes, directions, axes(0)[None], axes(0), [0])[1].item() == 0
    assert absorbed(codes, 2 * directions, axes(0)[None], axes(0), [0])[1].item() == 1


def test_a_probe_finds_the_words_of_its_letter():
    rng = np.random.default_rng(0)
    is_N = rng.random(600) < 0.1
    vectors_ND = rng.normal(20 * np.eye(8)[0], 1, (600, 8)) + 6 * is_N[:, None] * np.eye(8)[2]
    probe = letter_probe(vectors_ND[:400], is_N[:400], vectors_ND[400:], is_N[400:])
    assert probe.direction_D.argmax() == 2
    assert probe.f1 > 0.9
    assert (probe.found_M <= is_N[400:]).all()
    none = letter_probe(vectors_ND[:400], is_N[:400], vectors_ND[400:], np.zeros(200, bool))
    assert none.f1 == 0
    assert not none.found_M.any()


def test_main_latents_are_those_that_raise_the_f1():
    rng = np.random.default_rng(0)
    is_N, first_N = rng.random(1000) < 0.3, rng.random(1000) < 0.6
    codes_NK = rng.exponential(1, (1000, 12)) * (rng.random((1000, 12)) < 0.1)
    codes_NK[:, 5], codes_NK[:, 8] = 3 * (is_N & first_N), 2 * (is_N & ~first_N)
    codes_NK[:, 9] = 3 * ~is_N * (rng.random(1000) < 0.4)  # speaks against the letter
    halves = codes_NK[:500], is_N[:500], codes_NK[500:], is_N[500:]
    assert sorted(main_latents(*halves)) == [5, 8]
    codes_NK[:, 8] = 2 * (is_N & (rng.random(1000) < 0.01))
    assert main_latents(*halves) == [5]


def planted(normalizer=None, absorbers=5, raw=1.0):
    """Return words of which some with s have a topic, and a model with a latent for each topic.

    In 100 training words and 50 test words of each letter, a vector is the axis of the letter. For
    each topic, two training words and a test word have its axis as well; then the latent of the
    letter is silent, and the latent of the topic holds both axes.
    """
    rng = np.random.default_rng(0)
    vectors, labels = {}, {}
    for name, count, of_topic in ((TRAIN, 100, 2), (TEST, 50, 1)):
        labels[name] = np.repeat(np.arange(26), count)
        clean = 2 * np.eye(WIDTH)[labels[name]] + rng.normal(0, 0.05, (26 * count, WIDTH))
        for topic in range(absorbers):
            start = S * count + topic * of_topic
            clean[start : start + of_topic] += 3 * np.eye(WIDTH)[26 + topic]
        vectors[name] = torch.from_numpy(raw * clean).float()
    texts = SimpleNamespace(
        read_missing=lambda: None, vectors=vectors.__getitem__, labels=labels.__getitem__
    )
    model = SparseAutoencoder(WIDTH, 32)
    rows, columns = torch.eye(WIDTH)[:32], torch.eye(WIDTH)[:32]
    rows[S, 26:] = -1
    columns[26:, S] = 2 / 3
    with torch.no_grad():
        model.weight.copy_(rows)
        model.decoder.weight.copy_(columns.T)
        model.encoder.linear.bias.fill_(-0.5)
        model.decoder.bias.zero_()
    return Absorption(texts), Normalized(model, normalizer)


def test_the_absorption_that_was_planted_is_measured():
    words, coder = planted()
    means, rows = words.measured(lambda: coder)
    of_s = {"letter": "s", "f1": 1, "words": 50, "main": [S]}
    assert rows[S] == of_s | dict.fromkeys(MEASURES, pytest.approx(0.1))
    clean = {row["letter"]: (row["main"], row["full"], row["fraction"]) for row in rows}
    assert clean.pop("s")
    assert clean == {ascii_lowercase[n]: ([n], 0, 0) for n in range(26) if n != S}
    expected = dict.fromkeys([f"absorption_{name}" for name in MEASURES], pytest.approx(0.1 / 26))
    assert means == {"absorption_letters": 26} | expected
    means, _ = (clean := planted(absorbers=0))[0].measured(lambda: clean[1])
    assert (means["absorption_full"], means["absorption_fraction"]) == (0, 0)


def test_vectors_are_also_measured_from_the_reconstruction_of_an_empty_code():
    words, coder = planted()
    _, expected = words.measured(lambda: coder)
    shift_D = torch.full((WIDTH,), 3.0)
    with torch.no_grad():  # the same model, of vectors that have moved
        coder.model.encoder.linear.bias.sub_(coder.model.weight @ shift_D)
        coder.model.decoder.bias.copy_(shift_D)
    vars(words)["_vectors"] = [x + shift_D for x in words._vectors]  # and the probes stay
    rows = words.table(coder)
    for name in ("full", "fraction"):
        wanted = [row[name] for row in expected]
        assert [row[f"{name}_centred"] for row in rows] == pytest.approx(wanted)
        assert [row[name] for row in rows] != pytest.approx(wanted), "the bias has a part, too"


def test_a_code_in_other_units_and_of_normalised_samples_measures_the_same():
    words, coder = planted()
    _, expected = words.measured(lambda: coder)
    with torch.no_grad():
        coder.model.weight[::2] *= 8
        coder.model.encoder.linear.bias[::2] *= 8
        coder.model.decoder.weight[:, ::2] /= 8
    assert words.table(coder) == expected
    factor = torch.linspace(0.5, 2, WIDTH)
    words, coder = planted(
        Normalizer("standard", torch.zeros(WIDTH), 1 / factor), raw=factor.numpy()
    )
    for row, other in zip(words.table(coder), expected, strict=True):
        assert row == other | {name: pytest.approx(other[name]) for name in MEASURES}


def test_too_few_letters_are_said_to_be_too_few(caplog):
    caplog.set_level("INFO")
    words, _ = planted()
    chance = np.random.default_rng(0).permutation
    words.texts.labels = lambda name, of=words.texts.labels: chance(of(name))
    means, rows = words.measured(lambda: pytest.fail("no model is asked"))
    assert means == {"absorption_letters": 0}
    assert (
        "probes on vectors tell 0 first letters with F1 above 0.6, and 20 are needed" in caplog.text
    )
    assert [row["letter"] for row in rows] == [*ascii_lowercase]
    assert max(row["f1"] for row in rows) < 0.3


@pytest.fixture
def run(command_line, command_line_of, tmp_path):
    """Train a run on the vectors of a tiny causal model; gives where the model is."""
    own = [f"store={tmp_path / 'store'}", "sites=[resid.0,resid.2,mlp.2]", "context.length=12"]
    assert command_line_of("harvest", *reads(tmp_path, "gpt2", True), *own, "tokens=null") == 0
    data = ["data=activations", "data.path=store", "data.site=resid.2", "data.normalize=scale"]
    assert (
        command_line(
            *data, "model=topk", "model.hidden=40", "model.l0=8", *BRIEF, "hydra.run.dir=run"
        )
        == 0
    )
    return str(tmp_path / "model")


def test_a_run_is_measured_and_the_language_model_reads_once(
    run, monkeypatch, capsys, caplog, tmp_path
):
    caplog.set_level("INFO")
    monkeypatch.setattr(absorption, "SHARE", 0.5)
    assert main(["run", "--lm", run, "--absorption"]) == 0
    assert caplog.text.count("loading auto") == 1
    assert "first letters with F1 above 0.6, and 20 are needed" in caplog.text
    shown = capsys.readouterr().out
    assert "absorption letters" in shown
    assert "absorption full" not in shown
    assert "ce recovered" not in shown
    kept = implicit_em.Run("run").evaluations["own-absorption"]
    assert [row["letter"] for row in kept["details"]["absorption"]] == [*ascii_lowercase]
    files = {file.name.rpartition("-")[0] for file in tmp_path.glob("outputs/probes/*/resid.2/*")}
    assert files == {TRAIN, TEST}

    monkeypatch.setattr(LanguageModel, "load", None)  # nothing is read again
    monkeypatch.setattr(absorption, "LEAST", 1)
    monkeypatch.setattr(absorption, "KNOWN", 0)
    again = evaluate("run", absorption=True)
    assert again["absorption_letters"] > kept["metrics"]["absorption_letters"]
    assert all(0 <= again[f"absorption_{name}"] <= 1 for name in MEASURES)
    place, data = export("run"), typed_data("run", ["data.batch_size=7"])
    elsewhere = evaluate(place, data, absorption=True, out="other")
    for key in ("letters", *MEASURES):
        name = f"absorption_{key}"
        assert elsewhere[name] == pytest.approx(again[name], abs=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.site=mlp.2"], "--absorption: the data are of mlp.2; allowed is one resid.N"),
        (["data.site=[resid.0,resid.2]"], "the data are of resid.0, resid.2; allowed is one"),
        (["data.normalize=l2"], "--absorption: data.normalize=l2 leaves no length"),
    ],
)
def test_a_place_without_words_to_measure_is_refused(changes, message, run, command_line, capsys):
    data = ["data=activations", "data.path=store", "data.site=resid.2", *changes]
    assert (
        command_line(
            *data, "model=topk", "model.hidden=40", "model.l0=8", *BRIEF, "hydra.run.dir=other"
        )
        == 0
    )
    capsys.readouterr()
    assert main(["other", "--absorption"]) == 2
    assert message in one_line(capsys)


def test_a_model_that_reads_ahead_is_refused(command_line, command_line_of, tmp_path, capsys):
    own = [f"store={tmp_path / 'store'}", "sites=[resid.2]", "context.length=12"]
    assert command_line_of("harvest", *reads(tmp_path, "bert"), *own, "tokens=null") == 0
    data = ["data=activations", "data.path=store"]
    assert (
        command_line(
            *data, "model=topk", "model.hidden=40", "model.l0=8", *BRIEF, "hydra.run.dir=run"
        )
        == 0
    )
    capsys.readouterr()
    assert main(["run", "--absorption", "--lm", str(tmp_path / "model")]) == 2
    assert "allowed are causal models" in one_line(capsys)
