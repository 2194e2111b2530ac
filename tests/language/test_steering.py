"""Units that steer tiny models, beside transformers with hooks of this file."""

import math
from inspect import signature

import numpy as np
import pytest
import torch
from helpers.composing import composed
from helpers.language import BLOCKS, WIDTH, make_model, make_text
from helpers.lines import one_line

import implicit_em
from implicit_em import steer
from implicit_em.base.errors import ConfigError
from implicit_em.language.harvest import harvest
from implicit_em.language.models import CausalModel, extremes
from implicit_em.language.settings import LanguageModelSettings
from implicit_em.language.splicing import CACHES, Passes, moved
from implicit_em.language.steering import CONTEXTS, Steering, main
from implicit_em.trained.reading import trained
from implicit_em.training.run import train

SITE, UNIT, LENGTH = 2, 5, 12
KINDS = ("llama", "gpt2")
RUNS = {"own": ("model=topk", "model.l0=4", "data.normalize=zca"), "ridge": ("model=sampled",)}
RULE = ("data.first_positions=1", "data.largest_norm=1.1")
BRIEF = ("trainer.max_epochs=1", "model.hidden=12", "data.batch_size=64", "logger=csv")
WORDS = ["cat eel fog", "hat", "key <|end|> low moo a be"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a causal model of each kind, and a run of each name on each."""
    folder = tmp_path_factory.mktemp("steering")
    text = make_text(folder / "rows.jsonl")
    for kind in KINDS:
        lm = ["lm=auto", f"lm.path={make_model(folder / kind, kind, head=True)}", "text=files"]
        store = f"store={folder / f'store-{kind}'}"
        size = [f"context.length={LENGTH}", "tokens=null", "threads=1", "split.test=0.3"]
        sites = f"sites=[resid.{SITE}]"
        harvest(composed("harvest", *lm, f"text.paths=[{text}]", store, sites, *size))
    for kind, name in (("llama", "own"), ("llama", "ridge"), ("gpt2", "own")):
        data = ["data=activations", f"data.path={folder / f'store-{kind}'}", "data.val_size=50"]
        options = [*data, *RULE, *RUNS[name], *BRIEF, "picture=false", "probe=none"]
        train(composed("train", *options), folder / f"{kind}-{name}")
    return folder


@pytest.fixture(scope="module", params=[("llama", "own"), ("llama", "ridge"), ("gpt2", "own")])
def case(request, folder):
    """Transformers' model, its tokenizer, and the steering of a run."""
    import transformers

    kind, name = request.param
    network = transformers.AutoModelForCausalLM.from_pretrained(folder / kind).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / kind)
    tokenizer.pad_token = tokenizer.eos_token
    return network, tokenizer, Steering.of(trained(folder / f"{kind}-{name}"))


def padded(tokenizer, side):
    """A batch of texts, with the positions that GPT-2 does not work out itself."""
    tokenizer.padding_side = side
    batch = dict(tokenizer(WORDS, return_tensors="pt", padding=True))
    return batch | {"position_ids": (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)}


def by_definition(network, steering, ids, change):
    """Logits of a text whose kept tokens move by ``change(own) D_unit``, and which do."""
    coder, rule = steering.coder, steering.data.rule
    end, body = network.config.eos_token_id, network.base_model
    blocks = body.layers if hasattr(body, "layers") else body.h
    base = torch.zeros(1, len(coder.model.weight), dtype=coder.model.weight.dtype)
    direction_D = (coder.decode(base + torch.eye(len(base[0]))[UNIT]) - coder.decode(base))[0]

    def hook(module, inputs, output):
        x_LD = output[0]
        kept = (torch.arange(len(ids)) >= 1) & (ids != end) & (ids != 0)
        kept &= x_LD.norm(dim=-1) <= rule.largest_norm
        own_L = coder.encode(x_LD)[:, UNIT]
        moved_LD = x_LD + (change(own_L)[:, None] * direction_D).float()
        places.extend(at for at in kept.nonzero()[:, 0].tolist() if change(own_L)[at])
        return torch.where(kept[:, None], moved_LD, x_LD)[None]

    places = []
    handle = blocks[SITE].register_forward_hook(hook)
    with torch.no_grad():
        logits_LV = network(ids[None]).logits[0]
    handle.remove()
    return logits_LV, places


CHANGES = {
    ("add", 3.0): lambda own_L: torch.full_like(own_L, 3.0),
    ("set", 2.0): lambda own_L: 2.0 - own_L,
    ("set", 0.0): lambda own_L: -own_L,
}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pull", CHANGES)
def test_kept_tokens_of_padded_batches_move_along_the_raw_direction(case, pull, side):
    network, tokenizer, steering = case
    batch = padded(tokenizer, side)
    with torch.no_grad():
        clean = network(**batch).logits
        with steer(network, steering, {UNIT: pull[1]}, how=pull[0]):
            found = network(**batch).logits
        again = network(**batch).logits
    assert torch.equal(clean, again), "afterwards nothing is steered"
    assert not torch.allclose(clean, found, atol=1e-3)
    for row, mask in enumerate(batch["attention_mask"].bool()):
        ids = batch["input_ids"][row, mask]
        expected, _ = by_definition(network, steering, ids, CHANGES[pull])
        torch.testing.assert_close(found[row, mask], expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("masked", [True, False])
def test_steps_of_one_token_are_a_pass_over_all(case, masked):
    network, tokenizer, steering = case
    batch = padded(tokenizer, "left")
    if not masked:
        batch = {"input_ids": batch["input_ids"][2:]}  # the longest one, without padding
    name = next(name for name in CACHES if name in signature(network.forward).parameters)
    with torch.no_grad(), steer(network, steering, {UNIT: 3.0, 1: -1.0}):
        expected = network(**batch).logits
        cache, found = None, []
        for at in range(expected.shape[1]):
            given = {key: values[:, at : at + 1] for key, values in batch.items()}
            if masked:
                given["attention_mask"] = batch["attention_mask"][:, : at + 1]
            out = network(**given, use_cache=True, **{name: cache})
            cache = getattr(out, name)
            found.append(out.logits)
    inside = batch["attention_mask"].bool() if masked else slice(None)
    torch.testing.assert_close(torch.cat(found, 1)[inside], expected[inside], atol=2e-4, rtol=1e-3)


def test_generation_with_a_cache_is_generation_without(case):
    network, tokenizer, steering = case
    batch = padded(tokenizer, "left")
    del batch["position_ids"]  # generation works them out
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": -1}
    with steer(network, steering, {UNIT: 4.0}):
        ids = [network.generate(**batch, **options, use_cache=cached) for cached in (True, False)]
        alone = tokenizer(WORDS[0], return_tensors="pt")
        single = network.generate(**alone, **options)
    assert torch.equal(*ids)
    assert torch.equal(ids[0][0, -6:], single[0, -6:])
    assert not torch.equal(ids[0], network.generate(**batch, **options))


def test_a_code_that_does_not_change_changes_no_bit_and_without_error_the_rest_goes(case):
    network, tokenizer, steering = case
    batch = padded(tokenizer, "left")
    with torch.no_grad():
        clean = network(**batch).logits
        with steer(network, steering, {UNIT: 0.0}):
            assert torch.equal(network(**batch).logits, clean)
        with steer(network, steering, {UNIT: 0.0}, error=False):
            given = network(**batch).logits
    assert not torch.allclose(given, clean, atol=1e-3), "reconstructions stand for the vectors"
    x_ND = torch.randn(7, WIDTH)
    plain_ND = steering.replacement({UNIT: 0.0}, error=False)(x_ND)
    torch.testing.assert_close(plain_ND, steering.coder(x_ND))
    from_table = steering.replacement({np.int64(UNIT): np.float32(2)})(x_ND)
    assert torch.equal(from_table, steering.replacement({UNIT: 2.0})(x_ND))


def test_what_the_user_gave_stays_as_it_was_also_in_bfloat16(case):
    network, tokenizer, steering = case
    batch = padded(tokenizer, "left")
    small = type(network)(network.config).eval().to(torch.bfloat16)
    small.load_state_dict(network.state_dict())
    settings, grads = small.config.to_dict(), [p.requires_grad for p in small.parameters()]
    with torch.no_grad(), steer(small, steering, {UNIT: 3.0}) as again:
        once = small(**batch).logits
        with steer(small, again, {UNIT: -3.0}, site="resid.1"):
            assert not torch.equal(small(**batch).logits, once)
        assert torch.equal(small(**batch).logits, once)
    assert once.dtype == torch.bfloat16
    assert small.config.to_dict() == settings
    assert [p.requires_grad for p in small.parameters()] == grads
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in small.modules())


def test_the_largest_activation_is_printed_and_a_dead_unit_is_said(case, capsys):
    network, _, steering = case
    with steer(network, steering, {UNIT: 1.0}):
        pass
    samples, model = steering.data.final_samples()[0], steering.coder.model
    values_N = model.encode(samples.float()).detach()[:, UNIT]
    said = (
        f"unit {UNIT}: at most {values_N.max():.4g}, active on {(values_N > 0).float().mean():.3%}"
    )
    assert capsys.readouterr().out == f"{said} of {len(values_N):,} test samples\n"
    steering._known[7] = torch.zeros(9)
    assert steering.reach(7) == "unit 7 is dead: none of 9 test samples activates it"


def test_an_ablation_changes_what_full_passes_say(case, folder, monkeypatch):
    network, _, steering = case
    path = str(folder / network.config.model_type)
    lm = LanguageModelSettings(name="tiny", package=None, path=path, sha256=None)
    model = CausalModel.load(lm, "cpu")
    passes = Passes(steering.data.store, model, steering.splice)
    values_N = steering.activations(UNIT)
    rows_E = values_N.nonzero()[:, 0]
    monkeypatch.setattr("implicit_em.language.splicing.LOGITS", 2**14)  # several batches
    assert steering.ablated(model, UNIT, rows_E).contexts == CONTEXTS
    monkeypatch.setattr("implicit_em.language.steering.CONTEXTS", 999)
    found = steering.ablated(model, UNIT, rows_E)
    documents, sums, chances_V, tokens = passes.documents, np.zeros(3), 0, 0
    columns = [steering.data.column(name, "test")[rows_E] for name in ("document", "place")]
    contexts_C2 = passes.holding(*(column_E.numpy() for column_E in columns))
    for start, end in contexts_C2:
        ids = documents.ids_T[start:end].long()
        with torch.no_grad():
            clean = network(ids[None]).logits[0].log_softmax(-1)
        ablated, here = by_definition(network, steering, ids, lambda own_L: -own_L)
        ablated = ablated.log_softmax(-1)
        text = [at for at in range(1, len(ids)) if ids[at] not in passes.splice.special]
        losses = [-one[[at - 1 for at in text], ids[text]].sum() for one in (clean, ablated)]
        sums += [1, len(text), float(losses[1] - losses[0])]
        chances_V = chances_V + (ablated.exp() - clean.exp())[here].double().sum(0)
        tokens += len(here)
    keys = zip(*(column_E.tolist() for column_E in columns), strict=True)
    starts = {int(documents.starts_N[n]) + at // LENGTH * LENGTH for n, at in keys}
    assert sorted(starts) == contexts_C2[:, 0].tolist()
    assert (found.contexts, found.tokens) == (sums[0], tokens)
    assert found.loss == pytest.approx(sums[2] / sums[1], abs=1e-5)
    torch.testing.assert_close(found.chances_V, chances_V / tokens, atol=1e-6, rtol=1e-3)
    (more, _), (_, values) = extremes(found.chances_V, 2)
    assert (more[0], values[0]) == (found.chances_V.argmax(), found.chances_V.min())
    assert steering.ablated(model, UNIT, torch.tensor([], dtype=torch.int64)) is None
    nothing = moved(passes, passes.contexts_C2[:2], lambda x_ND: x_ND)
    assert (nothing.tokens, nothing.loss, float(nothing.chances_V.abs().max())) == (0, 0, 0)
    model.whole.resize_token_embeddings(len(chances_V) + 3, mean_resizing=False)
    assert len(steering.ablated(model, UNIT, rows_E).chances_V) == len(chances_V), "no padding"
    assert model.effects(torch.ones(1, WIDTH)).shape == (1, len(chances_V))


# --- what is refused


@pytest.mark.parametrize(
    ("units", "options", "reason"),
    [
        ({12: 1.0}, {}, r"^unit=12: allowed are whole numbers from 0 to 11$"),
        ({-1: 1.0}, {}, r"^unit=-1: allowed"),
        ({UNIT: math.nan}, {}, r"^strength=nan: allowed are finite numbers$"),
        ({UNIT: "4"}, {}, r"^strength=4: allowed"),
        ({UNIT: 1.0}, {"how": "times"}, r"^how=times: allowed are add, set$"),
        ({UNIT: 1.0}, {"site": "resid.9"}, r"^sites=resid\.9: LlamaForCausalLM has 4 blocks"),
    ],
)
def test_bad_input_is_one_line(folder, units, options, reason):
    import transformers

    network = transformers.AutoModelForCausalLM.from_pretrained(folder / "llama")
    with (
        pytest.raises(ConfigError, match=reason),
        steer(network, folder / "llama-own", units, **options),
    ):
        pass


@pytest.mark.parametrize(("strength", "dtype"), [(1e99, torch.float32), (1e7, torch.float16)])
def test_a_strength_that_leaves_no_finite_vectors_is_refused(case, strength, dtype):
    pulled = case[2].replacement({UNIT: strength})
    with pytest.raises(ConfigError, match=r"^strength: makes vectors that are not finite"):
        pulled(torch.ones(2, WIDTH, dtype=dtype))


def test_other_models_and_passes_are_refused(case):
    import transformers

    network, _, steering = case
    size = {"vocab_size": 9, "num_hidden_layers": BLOCKS, "num_attention_heads": 2}
    bert = transformers.BertConfig(**size, hidden_size=WIDTH, intermediate_size=8)
    narrow = transformers.LlamaConfig(**size, hidden_size=8, intermediate_size=8)
    for lm, reason in (
        ("smollm2", r"^lm: a str; needs a causal model of transformers in evaluation mode"),
        (transformers.BertLMHeadModel(bert).eval(), r"^lm=BertLMHeadModel: .* reads ahead"),
        (transformers.LlamaForCausalLM(narrow).eval(), r"^lm: vectors of width 8, but the run has"),
        (transformers.LlamaForCausalLM(narrow), r"^lm: in training mode; needs"),
    ):
        with pytest.raises(ConfigError, match=reason), steer(lm, steering, {UNIT: 1.0}):
            pass
    ids = torch.ones(2, 3, dtype=torch.int64)
    with steer(network, steering, {UNIT: 1.0}):
        with pytest.raises(ConfigError, match=r"^inputs_embeds: the rule of a run needs token ids"):
            network(inputs_embeds=torch.randn(1, 3, WIDTH))
        with pytest.raises(ConfigError, match=r"^attention_mask of shape \(2, 1, 3, 3\): allowed"):
            network(ids, attention_mask=torch.ones(2, 1, 3, 3, dtype=torch.bool))


# --- the command


def test_the_command_shows_both_texts_and_what_an_ablation_changes(folder, capsys):
    own = [str(folder / "llama-own"), "--lm", str(folder / "llama"), "--unit", str(UNIT)]
    shown = []
    for further in ([], ["--set"], ["--seed", "3"], ["--seed", "3"]):
        assert main([*own, "--strength", "40", "--prompt", "cat", "--tokens", "8", *further]) == 0
        shown.append(capsys.readouterr().out)
    assert all(f"unit {UNIT}: at most " in text and "as it is" in text for text in shown)
    assert f"unit {UNIT}: add 40 at resid.{SITE}" in shown[0]
    assert f"unit {UNIT}: set 40 at resid.{SITE}" in shown[1]
    assert shown[2] == shown[3] != shown[0]
    assert main([*own, "--remove", "--prompt", "cat", "--tokens", "8"]) == 0
    text = capsys.readouterr().out
    assert f"unit {UNIT}: set 0" in text
    assert all(said in text for said in ("nats a token", "less likely: '", "more likely: '"))


def test_bad_input_of_the_command_is_one_line(folder, small, command_line, capsys):
    own, lm = str(folder / "llama-own"), ["--lm", str(folder / "llama")]
    assert command_line(*small, "trainer.max_epochs=1", "hydra.run.dir=images") == 0
    pull, prompt = ["--unit", "5", "--strength", "4"], ["--prompt", "cat"]
    for arguments, reason in (
        (["images", *pull[:1], "1", *pull[2:], *prompt], "steer: the data are from no language"),
        ([own, *pull[:3], "inf", *prompt, *lm], "strength=inf: allowed are finite numbers"),
        ([own, *pull, "--prompt", "", *lm], "prompt: is empty; needs some text"),
        ([own, *pull, "--prompt", "cat", "--tokens", "99", *lm], "auto takes 32 tokens in all"),
        ([own, *pull, *prompt, "--tokens", "0"], "tokens=0: allowed"),
        ([own, *pull, *prompt, "--seed", str(2**70)], f"seed={2**70}: allowed"),
        ([own, "--unit", "5", *prompt], "steer: needs either --strength or --remove"),
        ([own, *pull, "--remove", *prompt], "steer: needs either --strength or --remove"),
        (
            [own, "--unit", "5", "--remove", "--set", *prompt],
            "steer: --remove sets the activation to",
        ),
        ([own, *pull, *prompt], "the store does not say where it is; --lm names it"),
        ([own, "model.l0=3", *pull, *prompt], "model.l0=3: only settings of data can differ"),
        ([own, "data.kepd=3", *pull, *prompt], "data: "),
    ):
        capsys.readouterr()
        assert main(arguments) == 2, arguments
        assert reason in one_line(capsys), arguments
    assert implicit_em.steer is steer
