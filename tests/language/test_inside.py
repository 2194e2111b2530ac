"""A finished run is measured inside the language model that its data are from."""

import re

import numpy as np
import pytest
import torch
from helpers.language import reads
from helpers.lines import one_line
from torch.nn.functional import cross_entropy, kl_div

import implicit_em
from implicit_em.base.errors import ConfigError
from implicit_em.language.metrics import INSIDE, measured_inside
from implicit_em.language.steering import main as steer
from implicit_em.language.store import ActivationStore
from implicit_em.trained.evaluate import evaluate, main
from implicit_em.trained.export import export
from implicit_em.trained.reading import typed_data

SITE = 2
BRIEF = ("trainer.max_epochs=1", "model.hidden=12", "data.batch_size=64", "logger=csv")
BRIEF += ("picture=false",)
RUNS = {
    "own": ("model=topk", "model.l0=4"),
    "ridge": ("model=sampled", "trainer.precision=64-true"),
    "lengths": ("model=topk", "model.l0=4", "data.normalize=l2"),
}


@pytest.fixture
def harvested(command_line_of, tmp_path):
    """Harvest a tiny model's vectors at sites; gives the overrides of a run on them."""

    def harvested(*sites, kind="llama"):
        own = [f"store={tmp_path / 'store'}", f"sites=[{','.join(sites)}]", "context.length=12"]
        lines = [*reads(tmp_path, kind, head=kind != "bert"), *own, "tokens=null"]
        assert command_line_of("harvest", *lines) == 0
        return ["data=activations", f"data.path={tmp_path / 'store'}", "data.val_size=50", *BRIEF]

    return harvested


@pytest.fixture
def trained(harvested, command_line, tmp_path):
    """Train a run on the vectors of a tiny model; gives where the model is."""

    def trained(kind="llama", name="own"):
        data = harvested(f"resid.{SITE}", kind=kind)
        assert command_line(*data, *RUNS[name], "hydra.run.dir=run") == 0
        return tmp_path / "model"

    return trained


def contexts_to_measure(store):
    """Yield the token ids of each context of the documents that are tested on."""
    documents = store.documents()
    for number in np.flatnonzero(documents.splits_N.numpy() == 2):
        yield from documents.ids(number).long().split(12)


def test_the_losses_are_those_of_transformers_with_a_hook_also_of_an_export(
    trained, tmp_path, caplog
):
    import transformers

    folder = trained()
    caplog.set_level("INFO")
    found = evaluate("run", inside=True, lm=str(folder))
    line = rf"measuring inside the language model, resid.{SITE}: (\d+) of \1 contexts"
    assert re.search(line, caplog.text), "how much is done"
    model = implicit_em.load("run")
    sums = np.zeros(5)
    network = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    replace = {
        "clean": lambda x_LD: x_LD,
        "zero": torch.zeros_like,
        "spliced": lambda x_LD: model.reconstruct(x_LD[0])[None],
    }
    for ids_L in contexts_to_measure(ActivationStore(tmp_path / "store")):
        chances = {}
        for name, function in replace.items():
            block = network.model.layers[SITE]
            hook = block.register_forward_hook(lambda m, i, o, f=function: f(o))
            with torch.no_grad():
                chances[name] = network(ids_L[None]).logits[0, :-1].double().log_softmax(-1)
            hook.remove()
        losses = [cross_entropy(chance, ids_L[1:], reduction="sum") for chance in chances.values()]
        spliced, clean = chances["spliced"], chances["clean"]
        divergence = kl_div(spliced, clean, reduction="sum", log_target=True)
        sums += [len(ids_L) - 1, *losses, divergence]
    expected = measured_inside(*sums)
    assert np.isfinite(list(expected.values())).all()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-4), key
    # A folder of another tool is measured alike.
    place, data = export("run"), typed_data("run", ["data.batch_size=7"])
    exported = evaluate(place, data, inside=True, lm=str(folder), out="elsewhere")
    for key in (*INSIDE, "fvu", "ridge_fvu", "l0", "inactive_units", "redundancy"):
        assert exported[key] == pytest.approx(found[key], rel=1e-3, abs=1e-5), key
    assert exported["site"] == f"resid.{SITE}"
    with pytest.raises(ConfigError, match=r"data\.site=resid\.1: the model is of resid\.2, its"):
        evaluate(place, {**data, "site": "resid.1"})


def test_a_run_without_decoder_gets_one_and_the_table_shows_what_it_does(trained, capsys):
    folder = trained(name="ridge")
    capsys.readouterr()
    assert main(["run", "--lm", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert all(key.replace("_", " ") in shown for key in (*INSIDE, "inactive_units", "ridge_fvu"))
    assert "responsibility entropy" in shown, "its energies are those of a mixture"
    assert "dead units" not in shown
    kept = implicit_em.Run("run").evaluations["own-inside"]
    assert (kept["options"]["inside"], kept["metrics"]["site"]) == (True, f"resid.{SITE}")
    assert np.isfinite([kept["metrics"][key] for key in INSIDE]).all()
    assert not set(INSIDE) & set(evaluate("run")), "it is measured only if it is asked for"


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        ("bert", "own", "that reads ahead; allowed are causal models"),
        ("llama", "lengths", "inside: data.normalize=l2 leaves no length to put into the model"),
    ],
)
def test_a_model_that_cannot_take_reconstructions_is_refused(kind, name, reason, trained, capsys):
    folder = trained(kind, name)
    capsys.readouterr()
    assert main(["run", "--inside", "--lm", str(folder)]) == 2
    assert reason in one_line(capsys)


def test_a_transcoder_is_put_where_it_explains_and_a_crosscoder_into_one_site_at_a_time(
    harvested, command_line, tmp_path
):
    """The losses are those of transformers with a hook, on whole documents."""
    import transformers

    data = harvested(f"mlpin.{SITE}", f"mlp.{SITE}")
    data += ["data.largest_norm=null", "data.special_tokens=true"]
    transcoder = [f"data.site=mlpin.{SITE}", "data.target=mlp", "model=l1", "model.skip=true"]
    crosscoder = [f"data.site=[mlpin.{SITE},mlp.{SITE}]", "model=l1"]
    found = {}
    for name, typed in (("transcoder", transcoder), ("crosscoder", crosscoder)):
        assert command_line(*data, *typed, f"hydra.run.dir={name}") == 0
        found[name] = evaluate(name, inside=True, lm=str(tmp_path / "model"))
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    mlp = network.model.layers[SITE].mlp
    models = {name: implicit_em.load(name) for name in found}
    width = network.config.hidden_size

    def replaced(name):
        def hook(module, inputs, output):
            rows = inputs[0] if name == "transcoder" else torch.cat([inputs[0], output], -1)
            return models[name].reconstruct(rows)[..., -width:]

        return hook

    for name, key in (("transcoder", "ce_nats"), ("crosscoder", f"ce_nats.mlp.{SITE}")):
        total, count = 0.0, 0
        handle = mlp.register_forward_hook(replaced(name))
        for ids_L in contexts_to_measure(ActivationStore(tmp_path / "store")):
            with torch.no_grad():
                logits = network(ids_L[None]).logits[0, :-1].double()
            total += cross_entropy(logits, ids_L[1:], reduction="sum").item()
            count += len(ids_L) - 1
        handle.remove()
        assert found[name][key] == pytest.approx(total / count, rel=1e-5)
    names = [f"{key}.{site}.{SITE}" for key in INSIDE for site in ("mlpin", "mlp")]
    assert {*names} <= {*found["crosscoder"]}
    assert "ce_nats" not in found["crosscoder"]
    assert {*INSIDE} <= {*found["transcoder"]}


def test_several_sites_that_explain_one_are_shown_and_pulled_there(
    harvested, command_line, tmp_path
):
    data = harvested(f"mlpin.{SITE}", f"mlp.{SITE}", f"resid.{SITE}")
    data += [f"data.site=[mlpin.{SITE},mlp.{SITE}]", f"data.target=resid.{SITE}", *RUNS["own"]]
    assert command_line(*data, "hydra.run.dir=run") == 0
    lm = str(tmp_path / "model")
    shown = implicit_em.explore("run", lm=lm, ablate=[0])
    assert shown.exists(), "its rows are of several places, so that there are no effects"
    pulled = ["--unit", "0", "--strength", "2", "--prompt", "cat", "--tokens", "4"]
    assert steer(["run", *pulled, "--lm", lm]) == 0
