"""What directions do to the logits of a causal model, against plain torch."""

import json

import pytest
import torch
from helpers.language import make_model, make_text
from helpers.paths import ROOT
from hydra import compose, initialize_config_dir

from implicit_em import explore
from implicit_em.base.errors import ConfigError
from implicit_em.config.harvest import LanguageModelSettings
from implicit_em.harvest.models import CausalModel
from implicit_em.harvest.run import harvest
from implicit_em.training.decoding import decoder_of
from implicit_em.training.loading import load_as_trained
from implicit_em.training.run import train


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    models = {kind: make_model(folder / kind, kind, head=True) for kind in ("llama", "gpt2")}
    return models | {"bert": make_model(folder / "bert", "bert")}


def composed(config, *overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(config, overrides=list(overrides))


def effect_of(folder, vector_D):
    """Return what a vector behind the last block does to the logits of the next token."""
    import transformers

    network = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    if folder.name == "gpt2":
        scaled_D = (vector_D - vector_D.mean()) * network.transformer.ln_f.weight
    else:
        scaled_D = vector_D * network.model.norm.weight
    logits_V = network.lm_head.weight @ scaled_D
    return (logits_V - logits_V.mean()).detach()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_effects_are_those_of_the_head_and_the_norms_gain(models, kind):
    lm = LanguageModelSettings(name="tiny", package=None, path=str(models[kind]), sha256=None)
    model, vectors_ND = CausalModel.load(lm, "cpu"), torch.randn(3, 16)
    norm = model.network.norm if kind == "llama" else model.network.ln_f
    norm.weight.copy_(torch.rand(16))
    expected = []
    for scaled_D in vectors_ND if kind == "llama" else vectors_ND - vectors_ND.mean(1)[:, None]:
        logits_V = model.whole.lm_head.weight @ (scaled_D * norm.weight)
        expected.append(logits_V - logits_V.mean())
    torch.testing.assert_close(model.effects(vectors_ND), torch.stack(expected))


@pytest.mark.parametrize("normalize", ["none", "zca"])
def test_a_page_shows_the_effects_of_raw_directions(models, tmp_path, normalize):
    folder, store, run = models["llama"], tmp_path / "store", tmp_path / "run"
    text = make_text(tmp_path / "rows.jsonl")
    reads = [f"text.paths=[{text}]", "text.label=label", "split.test=0.3", "sites=[resid.1]"]
    size = ["context.length=12", "tokens=null", "threads=1"]
    lm = ["lm=auto", f"lm.path={folder}", "text=files", f"store={store}"]
    harvest(composed("harvest", *lm, *reads, *size))
    data = ["data=activations", f"data.path={store}", f"data.normalize={normalize}"]
    brief = ["model.hidden=5", "trainer.max_epochs=1", "logger=csv", "probe=none", "picture=false"]
    cfg = composed("train", *data, *brief)
    train(cfg, run)
    script = (explore([run], lm=str(folder)).parent / "data" / "0" / "block-0.js").read_text()
    units = json.loads(script.partition(",")[2].removesuffix(")\n"))

    model, normalizer = load_as_trained(run)
    from implicit_em.config.spec import RunSpec

    directions_KD = decoder_of(model, RunSpec.of(cfg).build_data()).weight
    for unit, shown in enumerate(units):
        x_D = torch.zeros(16, requires_grad=True)
        seen_D = x_D if normalizer is None else normalizer(x_D)
        (row_D,) = torch.autograd.grad(model.weight[unit] @ seen_D.to(model.weight.dtype), x_D)
        direction_D = directions_KD[unit]
        if normalizer is not None:
            direction_D = normalizer.inverse(direction_D) - normalizer.inverse(torch.zeros(16))
        for name, vector_D in (("encoder", row_D), ("direction", direction_D)):
            effect_V = effect_of(folder, vector_D.detach().float() / vector_D.norm())
            (promoted, up), (suppressed, down) = shown["effects"][name]
            best = effect_V.topk(8)
            assert set(promoted) == set(best.indices.tolist())
            assert up == pytest.approx(best.values.tolist(), rel=1e-3)
            assert down == pytest.approx((-effect_V).topk(8).values.neg().tolist(), rel=1e-3)
            assert effect_V[suppressed].tolist() == pytest.approx(down, rel=1e-3)


def test_without_a_head_there_are_no_effects_and_it_is_said(trained, tmp_path, caplog):
    caplog.set_level("INFO")
    index = explore([trained("texts")], tmp_path / "page")
    assert '"effects":null' in (index.parent / "data" / "0" / "block-0.js").read_text()
    assert "no effects on logits are shown: lm=tiny: the store does not say where" in caplog.text


def test_a_model_that_is_named_must_be_causal(trained, tmp_path, models):
    with pytest.raises(ConfigError, match=r"lm=tiny: a BertLMHeadModel that reads ahead"):
        explore([trained("texts")], tmp_path / "page", lm=str(models["bert"]))
    assert list(tmp_path.iterdir()) == []
