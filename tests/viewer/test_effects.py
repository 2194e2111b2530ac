"""What directions do to the logits of a causal model, against plain torch."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from implicit_em import explore
from implicit_em.base.errors import ConfigError
from implicit_em.language.effects import Effects
from implicit_em.language.inside import Inside
from implicit_em.language.models import CausalModel
from implicit_em.language.settings import LanguageModelSettings
from implicit_em.trained.loading import load_as_trained
from implicit_em.training.decoding import decoder_of
from implicit_em.training.directory import RunDirectory
from implicit_em.training.spec import RunSpec


def effect_of(folder, vector_D):
    """Return what a vector behind Llama's last block does to the logits of the next token."""
    import transformers

    network = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    logits_V = network.lm_head.weight @ (vector_D * network.model.norm.weight)
    return (logits_V - logits_V.mean()).detach()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma", "cohere", "olmo"])
def test_effects_are_those_of_the_head_and_of_norms_of_any_gain_or_mean(models, kind):
    from transformers.models.cohere.modeling_cohere import CohereLayerNorm
    from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
    from transformers.models.olmo.modeling_olmo import OlmoLayerNorm

    path = str(models["gpt2" if kind == "gpt2" else "llama"])
    lm = LanguageModelSettings(name="tiny", package=None, path=path, sha256=None)
    model, vectors_ND = CausalModel.load(lm, "cpu"), torch.randn(3, 16)
    norms = {"gemma": GemmaRMSNorm, "cohere": CohereLayerNorm, "olmo": OlmoLayerNorm}
    weight_D, centred_ND = torch.rand(16), vectors_ND - vectors_ND.mean(-1, keepdim=True)
    if kind in norms:
        model.network.norm = norms[kind](16)
    if kind != "olmo":
        norm = model.network.ln_f if kind == "gpt2" else model.network.norm
        norm.weight.data.copy_(weight_D)
    scaled = {"llama": vectors_ND * weight_D, "gemma": vectors_ND * (1 + weight_D)}
    scaled |= dict.fromkeys(["gpt2", "cohere"], centred_ND * weight_D)
    expected_NV = scaled.get(kind, centred_ND) @ model.whole.lm_head.weight.T
    expected_NV -= expected_NV.mean(-1, keepdim=True)
    torch.testing.assert_close(model.effects(vectors_ND), expected_NV, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("normalize", ["none", "zca"])
def test_a_page_shows_the_effects_of_raw_directions(models, harvested, normalize):
    folder, run = models["llama"], harvested("llama", f"data.normalize={normalize}")
    script = (explore([run], lm=str(folder)).parent / "data" / "0" / "block-0.js").read_text()
    units = json.loads(script.partition(",")[2].removesuffix(")\n"))

    model, normalizer = load_as_trained(run)
    data = RunSpec.of_settings(RunDirectory(run).read_config()).build_data()
    directions_KD = decoder_of(model, data).weight
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


def test_a_transcoder_has_effects_of_its_directions_alone():
    model = SimpleNamespace(effects=lambda vectors_BD: vectors_BD @ torch.ones(3, 20))
    rows_BD = np.ones((2, 3), np.float32)
    for target, sides in ((None, ["direction", "encoder"]), (3, ["direction"])):
        found = Effects(lambda: model, None, target)(rows_BD, rows_BD)
        assert [list(unit) for unit in found] == [sides, sides]


@pytest.mark.parametrize(
    ("sites", "explained"),
    [
        (["mlpin.1"], ["mlpin.1"]),
        (["resid.0"], ["mlpin.1"]),
        (["resid.0", "resid.1"], ["resid.0", "resid.1"]),
        (["resid.0", "resid.1"], ["mlp.1"]),
    ],
)
def test_there_are_none_of_what_an_mlp_reads_and_of_several_places(sites, explained):
    data = SimpleNamespace(sites=sites, parts=dict.fromkeys(explained))
    assert Inside(data, "explore").effects() is None


def test_without_a_causal_model_there_are_no_effects_and_it_is_said(
    trained, harvested, models, tmp_path, caplog
):
    caplog.set_level("INFO")
    index = explore([trained("texts")], tmp_path / "page")
    assert '"effects":null' in (index.parent / "data" / "0" / "block-0.js").read_text()
    explore([harvested("bert")], tmp_path / "page", lm=str(models["bert"]))
    for reason in (
        "lm=tiny: the store does not say where",
        "lm=auto: a BertLMHeadModel that reads",
    ):
        assert f"no effects on logits are shown: {reason}" in caplog.text


def test_a_model_that_is_named_must_be_that_of_the_store(harvested, models, tmp_path):
    for path, said in ((models["gpt2"], "not the files that"), ("none", "no such folder")):
        with pytest.raises(ConfigError, match=rf"lm.path={path}: .*{said}"):
            explore([harvested("llama")], tmp_path / "page", lm=str(path))
    assert list(tmp_path.iterdir()) == []
