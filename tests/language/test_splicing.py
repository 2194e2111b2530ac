"""Losses of tiny models with replaced vectors, beside transformers that knows no store."""

import json
from functools import cache
from itertools import chain

import pytest
import torch
from helpers.composing import composed
from helpers.language import BLOCKS, WIDTH, make_model, make_text

from implicit_em.base.errors import ConfigError
from implicit_em.language import splicing
from implicit_em.language.harvest import harvest
from implicit_em.language.models import CausalModel
from implicit_em.language.settings import LanguageModelSettings
from implicit_em.language.splicing import spliced_losses
from implicit_em.language.statistics import TokenFilter
from implicit_em.language.store import ActivationStore

KINDS = ("llama", "gpt2")
SITES = ("resid.0", "resid.2", f"resid.{BLOCKS - 1}", "mlp.0", "mlp.2", "mlpin.1", "attn.2")
LENGTH, END = 12, "<|end|>"
ALL = 10**9
EVERY = TokenFilter()


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """The folder of a causal model of each kind; Llama's tokenizer marks where a context starts."""
    folder = tmp_path_factory.mktemp("causal")
    return {kind: marked(make_model(folder / kind, kind, head=True), kind) for kind in KINDS}


def marked(folder, kind):
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    if kind == "llama":
        tokenizer = AutoTokenizer.from_pretrained(folder)
        marks = [(END, tokenizer.convert_tokens_to_ids(END))]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            f"{END} $A", special_tokens=marks
        )
        tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """Documents, of which every third has a special token inside."""
    path = make_text(tmp_path_factory.mktemp("text") / "rows.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows[::3]:
        row["text"] = row["text"].replace(" ", f" {END} ", 1) + END + "moo"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def harvested(models, text, tmp_path_factory):
    """Return the store of a kind of model; each is harvested once."""
    stores = {}

    def harvested(kind, *further):
        if (kind, further) not in stores:
            path = tmp_path_factory.mktemp("stores") / "store"
            overrides = ["lm=auto", f"lm.path={models[kind]}", "text=files", f"store={path}"]
            overrides += [f"text.paths=[{text}]", f"sites=[{','.join(SITES)}]", "threads=1"]
            overrides += [f"context.length={LENGTH}", "tokens=null", "split.test=0.3"]
            harvest(composed("harvest", *overrides, *further))
            stores[kind, further] = ActivationStore(path)
        return stores[kind, further]

    return harvested


@pytest.fixture(scope="session")
def loaded(models):
    """The models with their heads, as they are spliced."""
    return {kind: CausalModel.load(settings_of(models[kind]), "cpu") for kind in KINDS}


def settings_of(folder):
    return LanguageModelSettings(name="tiny", package=None, path=str(folder), sha256=None)


def halved(x_ND):
    """A reconstruction that is far from the vectors and not linear in them."""
    return x_ND.abs() / 2 + 0.1


def filter_with_a_sink(store, site):
    """A filter that leaves out special tokens, first positions, and a fifth by their norms."""
    norms_N = store.column(f"norm.{site}", "test")
    return TokenFilter(1, drop_special_tokens=True, largest_norm=norms_N.quantile(0.8).item())


# --- beside a pass that computes everything


@cache
def network_of(folder):
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def full_pass(folder, ids):
    with torch.no_grad():
        return network_of(folder)(ids[None]).logits[0].double().log_softmax(-1)


@cache
def clean_pass(folder, ids):
    """A pass with nothing replaced, which is the same for every site."""
    return full_pass(folder, torch.tensor(ids))


def by_definition(folder, store, site, tokens, function, reads=()):
    """Return predicted tokens, clean and spliced loss and divergence of each document."""
    modules = {
        name: network_of(folder).get_submodule(place_of(name, folder.name))
        for name in (*reads, site)
    }
    seen = {}
    hooks = [
        modules[name].register_forward_hook(
            lambda *call, name=name: seen.update({name: vectors_of(call[2])[0]})
        )
        for name in reads
    ]
    documents, manifest = store.documents(), store.manifest
    special = torch.tensor(manifest.special_tokens)
    numbers = [n for n in range(len(documents)) if documents.splits_N[n] == 2]
    pieces = [[(n, token) for token in documents.ids(n).tolist()] for n in numbers]
    pieces = [[*chain(*pieces)]] if manifest.settings["context"]["packing"] else pieces
    size, sums = LENGTH - len(manifest.prefix), {n: torch.zeros(4).double() for n in numbers}
    for context in (p[first : first + size] for p in pieces for first in range(0, len(p), size)):
        ids = torch.tensor([*manifest.prefix, *(token for _, token in context)])

        def replace(module, inputs, output, ids=ids):
            kept = torch.arange(len(ids)) >= tokens.first_positions
            kept &= ~torch.isin(ids, special) | (not tokens.drop_special_tokens)
            x_LD = seen[site] = vectors_of(output)[0]
            for name, largest in tokens.limits or [(site, tokens.largest_norm or torch.inf)]:
                kept &= seen[name].norm(dim=-1) <= largest
            given_LD = function(torch.cat([seen[name] for name in reads or [site]], dim=1))
            return in_place_of(output, torch.where(kept[:, None], given_LD, x_LD)[None])

        clean = clean_pass(folder, tuple(ids.tolist()))
        hook = modules[site].register_forward_hook(replace)
        spliced = full_pass(folder, ids)
        hook.remove()
        for at in range(1, len(ids)):
            place = at - len(manifest.prefix)
            if place >= 0 and ids[at] not in special:
                p, q = clean[at - 1], spliced[at - 1]
                both = torch.stack([-p[ids[at]], -q[ids[at]], (p.exp() * (p - q)).sum()])
                sums[context[place][0]] += torch.cat([torch.ones(1), both])
    for hook in hooks:
        hook.remove()
    return numbers, torch.stack(list(sums.values())).T


def place_of(site, kind):
    """Path of a site's module in transformers' model with a head."""
    name, _, block = site.partition(".")
    blocks = "model.layers" if kind == "llama" else "transformer.h"
    inside = {
        "llama": {"mlp": ".mlp", "mlpin": ".post_attention_layernorm", "attn": ".self_attn"},
        "gpt2": {"mlp": ".mlp", "mlpin": ".ln_2", "attn": ".attn"},
    }
    return f"{blocks}.{block}{inside[kind].get(name, '')}"


def vectors_of(output):
    """Return the vectors of a module's output: those of attention begin a tuple."""
    return output[0] if isinstance(output, tuple) else output


def in_place_of(output, vectors):
    return (vectors, *output[1:]) if isinstance(output, tuple) else vectors


@pytest.mark.parametrize(
    ("site", "packing"),
    [
        *((site, False) for site in SITES),
        ("resid.2", True),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_sums_of_documents_are_those_of_full_passes_one_context_at_a_time(
    kind, site, packing, harvested, loaded, models, monkeypatch
):
    monkeypatch.setattr(splicing, "LOGITS", 2**14)  # several batches, each of several contexts
    store = harvested(kind, f"context.packing={packing}")
    tokens = filter_with_a_sink(store, site)
    functions = {"half": halved, "same": lambda x_ND: x_ND, "none": torch.zeros_like}
    found = spliced_losses(store, loaded[kind], site, tokens, functions, most=ALL)
    numbers, (count, clean, loss, divergence) = by_definition(
        models[kind], store, site, tokens, halved
    )
    zero = by_definition(models[kind], store, site, tokens, torch.zeros_like)[1]
    assert found.documents_N.tolist() == numbers
    assert found.predicted_N.tolist() == count.tolist()
    for sums_N, expected_N in (
        (found.clean_N, clean),
        (found.spliced["half"].loss_N, loss),
        (found.spliced["half"].divergence_N, divergence),
        (found.zero.loss_N, zero[2]),
        (found.zero.divergence_N, zero[3]),
    ):
        assert sums_N.dtype == torch.float64
        torch.testing.assert_close(sums_N, expected_N, rtol=1e-5, atol=1e-5)
    assert min(divergence.sum(), zero[3].sum()) > 0.003 * count.sum(), "replacing them matters"
    assert torch.equal(found.spliced["same"].loss_N, found.clean_N)
    assert not found.spliced["same"].divergence_N.any()
    assert all(map(torch.equal, found.spliced["none"], found.zero))


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_that_begins_at_a_site_is_a_full_pass_bit_for_bit(kind, site, loaded, models):
    network = network_of(models[kind])
    module = network.get_submodule(place_of(site, kind))
    torch.manual_seed(0)
    ids, mask = torch.randint(1, 200, (3, LENGTH)), torch.ones(3, LENGTH, dtype=torch.int64)
    mask[1, 5:] = 0
    other = torch.randn(3, LENGTH, WIDTH)
    hook = module.register_forward_hook(lambda *call: in_place_of(call[2], other))
    expected = network(ids, attention_mask=mask).logits
    hook.remove()
    clean = network(ids, attention_mask=mask).logits

    model, computed = loaded[kind], []
    with model.reading(splicing._sites(site)) as states:
        assert torch.equal(model.logits(ids, mask), clean)
    hooks = [
        next(block.children()).register_forward_hook(lambda *_, n=n: computed.append(n))
        for n, block in enumerate(model.blocks)
    ]
    with model.giving({**states, site: other}):
        assert torch.equal(model.logits(ids, mask), expected)
    for hook in hooks:
        hook.remove()
    kind, _, block = site.partition(".")
    assert computed == list(range(int(block) + (kind == "resid"), BLOCKS))
    assert torch.equal(model.logits(ids, mask), clean), "afterwards it computes all again"
    assert not torch.equal(clean, expected)


# --- what is replaced


def test_a_site_is_replaced_by_what_others_give(harvested, loaded, models):
    """A transcoder of two sites; tokens stay if the rules of all sites keep them."""
    store, reads, site = harvested("llama"), ("mlpin.1", "resid.0"), "mlp.2"
    limits = tuple(
        (name, store.column(f"norm.{name}", "test").quantile(0.8).item()) for name in (*reads, site)
    )
    rule, matrix = TokenFilter(1, True, limits=limits), torch.randn(2 * WIDTH, WIDTH)
    functions = {"linear": lambda x_ND: x_ND @ matrix, "zero": lambda x_ND: 0 * x_ND[:, :WIDTH]}
    found = spliced_losses(store, loaded["llama"], site, rule, functions, most=ALL, reads=reads)
    numbers, (count, clean, loss, _) = by_definition(
        models["llama"], store, site, rule, functions["linear"], reads
    )
    assert found.documents_N.tolist() == numbers
    assert found.predicted_N.tolist() == count.tolist()
    torch.testing.assert_close(found.spliced["linear"].loss_N, loss, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.spliced["zero"].loss_N, found.zero.loss_N)
    assert loss.sum() > clean.sum() + 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_only_tokens_that_the_filter_keeps_are_replaced(kind, harvested, loaded):
    store, site, given = harvested(kind), "resid.2", []
    tokens = filter_with_a_sink(store, site)

    def noted(x_ND):
        assert (x_ND.dtype, x_ND.shape[1]) == (torch.float32, WIDTH)
        given.append(x_ND.norm(dim=-1))
        return x_ND * 0

    found = spliced_losses(store, loaded[kind], site, tokens, {"noted": noted}, most=ALL)
    columns = {name: store.column(name, "test") for name in tokens.needs(site)}
    kept_N = tokens.kept(columns, site, store.manifest.special_tokens)
    expected_N = columns[f"norm.{site}"][kept_N]
    torch.testing.assert_close(torch.cat(given).sort().values, expected_N.sort().values)
    assert torch.equal(found.spliced["noted"].loss_N, found.zero.loss_N)

    nothing = TokenFilter(largest_norm=0.5 * columns[f"norm.{site}"].min().item())
    found = spliced_losses(store, loaded[kind], site, nothing, {"noted": noted}, most=ALL)
    assert torch.equal(found.zero.loss_N, found.clean_N), "all tokens are left out"


# --- which documents are measured


@pytest.mark.parametrize("packing", [False, True])
def test_whole_documents_are_chosen_and_fewer_are_part_of_more(packing, harvested, loaded):
    store = harvested("llama", f"context.packing={packing}")
    documents = store.documents()
    whole = spliced_losses(store, loaded["llama"], "resid.2", EVERY, {}, most=ALL)
    row = {number: at for at, number in enumerate(whole.documents_N.tolist())}
    counts_N = documents.starts_N.diff()
    before: set[int] = set()
    for most in (1, 60, 120, 240):
        found = spliced_losses(store, loaded["llama"], "resid.2", EVERY, {}, most=most)
        chosen = found.documents_N.tolist()
        assert chosen == sorted(chosen)
        assert before <= set(chosen) < set(row)
        assert len(chosen) == 1 or most - counts_N.max() < counts_N[chosen].sum() <= most
        rows = [row[number] for number in chosen]
        assert found.predicted_N.tolist() == whole.predicted_N[rows].tolist()
        torch.testing.assert_close(found.clean_N, whole.clean_N[rows], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.zero.loss_N, whole.zero.loss_N[rows], rtol=1e-5, atol=1e-5)
        before = set(chosen)
    assert len(before) > 2
    again = spliced_losses(store, loaded["llama"], "mlp.2", EVERY, {"half": halved}, most=240)
    assert again.documents_N.tolist() == chosen


def test_a_document_without_a_full_context_is_not_there_if_these_are_left_out(harvested, loaded):
    store = harvested("llama", "context.padding=none")
    found = spliced_losses(store, loaded["llama"], "resid.2", EVERY, {}, most=ALL)
    documents, size = store.documents(), LENGTH - 1
    long = [
        n
        for n in range(len(documents))
        if documents.splits_N[n] == 2 and len(documents.ids(n)) >= size
    ]
    assert found.documents_N.tolist() == long
    assert len(long) < (documents.splits_N == 2).sum()


# --- what is refused


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("bert", r"^lm=tiny: a BertLMHeadModel that reads ahead; allowed"),
        ("llama", r"its head has no weights: lm_head\.weight is missing"),
    ],
)
def test_a_model_that_cannot_be_spliced_is_refused(kind, reason, tmp_path):
    with pytest.raises(ConfigError, match=reason):
        CausalModel.load(settings_of(make_model(tmp_path / kind, kind)), "cpu")


def test_a_model_whose_blocks_give_more_than_vectors_is_refused():
    import transformers

    config = transformers.FalconConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    network = transformers.FalconForCausalLM(config)
    with pytest.raises(ConfigError, match=r"^lm=own: a FalconForCausalLM, whose blocks give more"):
        CausalModel(network, None, "own", {})


def test_what_does_not_fit_the_store_is_refused(harvested, loaded):
    store = harvested("llama")
    measure = lambda kind, *rest: spliced_losses(store, loaded[kind], *rest)  # noqa: E731
    with pytest.raises(ConfigError, match=r"^lm=tiny: .*store was harvested from another model"):
        measure("gpt2", "resid.2", EVERY, {})
    with pytest.raises(ConfigError, match=r"^sites=resid\.4: tiny has 4 blocks; allowed are"):
        measure("llama", "resid.4", EVERY, {})
    store = harvested("llama", "split.validation=0.0")
    with pytest.raises(ConfigError, match=r"^split=validation: .*store has no documents there"):
        measure("llama", "resid.2", EVERY, {}, "validation")
