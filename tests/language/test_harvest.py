"""Harvests of tiny random models: their vectors, bytes and settings, and how they end and go on."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from functools import partial
from importlib.util import find_spec
from io import StringIO
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from helpers.breaking import fails_once
from helpers.composing import composed
from helpers.language import BLOCKS, LONGEST, WIDTH, make_model, make_text
from helpers.paths import ROOT
from helpers.processes import wait_for
from rich.console import Console
from safetensors.torch import load_file
from torch import nn

from implicit_em.base import files
from implicit_em.base.errors import ConfigError, WriteError
from implicit_em.language import model_files, writing
from implicit_em.language.configuration import digest_of_store
from implicit_em.language.harvest import batches_of, harvest, prepare
from implicit_em.language.models import LanguageModel, permute_entries
from implicit_em.language.producing import Harvest
from implicit_em.language.settings import HarvestSettings
from implicit_em.language.store import ActivationStore, read_manifest
from implicit_em.language.writing import StoreWriter

KINDS = ("bert", "llama", "gpt2")
SMALL = ("sites=[resid.1]", "batch_size=4", "context.length=12", "shard_tokens=120")
SMALL += ("threads=1", "tokens=null")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """The folder of a tiny model of each kind."""
    folder = tmp_path_factory.mktemp("models")
    return {kind: make_model(folder / kind, kind) for kind in KINDS}


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    return make_text(tmp_path_factory.mktemp("text") / "rows.jsonl")


@pytest.mark.parametrize(("kind", "places"), [("Roberta", 18), ("Bert", 20)])
def test_positions_of_roberta_begin_behind_the_padding(kind, places):
    import transformers

    sizes = {"vocab_size": 9, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = getattr(transformers, f"{kind}Config")(**sizes, max_position_embeddings=20)
    network = getattr(transformers, f"{kind}Model")(config)
    assert LanguageModel.longest.fget(SimpleNamespace(network=network)) == places
    network(torch.full((1, places), 5))
    with pytest.raises((IndexError, RuntimeError)):
        network(torch.full((1, places + 1), 5))


@pytest.fixture
def overrides(models, text, tmp_path):
    """The overrides of a harvest of a kind of model."""

    def overrides(*further, kind="bert"):
        reads = ["text=files", f"text.paths=[{text}]", "text.label=label"]
        return ["lm=auto", f"lm.path={models[kind]}", *reads, *SMALL, *further]

    return overrides


@pytest.fixture
def harvested(overrides, tmp_path):
    """Harvest into a directory; gives the directory."""

    def harvested(*further, kind="bert", store="store"):
        lines = overrides(*further, f"store={tmp_path / store}", kind=kind)
        harvest(composed("harvest", *lines))
        return tmp_path / store

    return harvested


@pytest.fixture
def prepared(overrides):
    """Prepare a harvest; gives its work."""

    def prepared(*further, kind="bert"):
        cfg = composed("harvest", *overrides(*further, kind=kind))
        return prepare(HarvestSettings.of(cfg), StoreWriter("nowhere"))

    return prepared


def content(store):
    """Return the bytes of each file of a store."""
    paths = [path for path in store.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(store)): path.read_bytes() for path in paths}


def read_all(store):
    """Return all shards of a store, one after another."""
    shards = [store.read(shard) for shard in store.manifest.shards]
    return {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}


# --- the vectors


@pytest.mark.parametrize("kind", KINDS)
def test_the_vectors_are_the_librarys_hidden_states_bit_for_bit(kind, harvested, models):
    import transformers

    sites = [f"resid.{n}" for n in range(BLOCKS)]
    path = harvested("batch_size=1", f"sites=[{','.join(sites)}]", kind=kind)
    store = ActivationStore(path)
    arrays, documents = read_all(store), store.documents()
    network = transformers.AutoModel.from_pretrained(models[kind]).eval()
    prefix, suffix = store.manifest.prefix, store.manifest.suffix
    size = 12 - len(prefix) - len(suffix)
    seen = 0
    for number in range(len(documents)):
        for first in range(0, len(documents.ids(number)), size):
            ids = [*prefix, *documents.ids(number)[first : first + size].tolist(), *suffix]
            with torch.no_grad():
                states = network(torch.tensor([ids]), output_hidden_states=True).hidden_states
            places = torch.arange(first, first + size)
            of_document = arrays["document"] == number
            rows = of_document & torch.isin(arrays["place"], places.int())
            where = arrays["position"][rows].long()
            assert torch.equal(arrays["token"][rows], torch.tensor(ids).int()[where])
            for block in range(BLOCKS - (kind != "bert")):  # behind the last one comes a norm
                expected = states[block + 1][0, where]
                assert torch.equal(arrays[f"resid.{block}"][rows], expected.half())
                norms = torch.linalg.vector_norm(expected, dim=-1)
                assert torch.equal(arrays[f"norm.resid.{block}"][rows], norms)
            if kind != "bert":
                last = network.norm if kind == "llama" else network.ln_f
                model = LanguageModel(network, None, kind, {})
                with model.reading([f"resid.{BLOCKS - 1}"]) as found, torch.no_grad():
                    network(torch.tensor([ids]))
                    raw = found[f"resid.{BLOCKS - 1}"][0]
                    assert torch.equal(last(raw), states[-1][0])
                assert torch.equal(arrays[f"resid.{BLOCKS - 1}"][rows], raw[where].half())
            seen += int(rows.sum())
    assert seen == int((arrays["place"] >= 0).sum()) == len(documents.ids_T)


@pytest.mark.parametrize(
    ("kind", "site", "module"),
    [
        ("bert", "mlp", "output.dense"),
        ("llama", "mlp", "mlp"),
        ("bert", "mlpin", "attention.output"),  # the norm in front of the MLP
        ("llama", "mlpin", "post_attention_layernorm"),
        ("gpt2", "mlpin", "ln_2"),
        ("bert", "attn", "attention.output.dense"),
        ("llama", "attn", "self_attn"),
        ("gpt2", "attn", "attn"),
    ],
)
def test_a_site_inside_of_a_block_is_the_output_of_a_module(
    kind, site, module, harvested, prepared
):
    site = f"{site}.1"
    settings = (f"sites=[{site}]", "dtype=bfloat16", "context.padding=length")
    store = ActivationStore(harvested(*settings, kind=kind))
    assert store.manifest.sites == {site: WIDTH}
    work, kept = prepared(*settings, kind=kind), []

    def keep(module, inputs, output):
        kept.append(output[0] if isinstance(output, tuple) else output)

    work.model.blocks[1].get_submodule(module).register_forward_hook(keep)
    for planned, shard in zip(work.shards, store.manifest.shards, strict=True):
        found = []
        for batch in batches_of(work, planned):
            assert batch.ids_BL.shape[1] == 12
            work.model.forward(batch.ids_BL, batch.mask_BL)
            found.append(kept.pop()[batch.mask_BL.bool()])
        vectors, expected = store.read(shard, [site])[site], torch.cat(found).bfloat16()
        assert sorted(vectors.tolist()) == sorted(expected.tolist())
        assert not torch.equal(vectors, expected), "the tokens are shuffled"


def test_a_pass_ends_at_the_last_site(prepared):
    work = prepared("sites=[mlp.0,resid.1]")
    assert (len(work.model.blocks), work.manifest.model["blocks"]) == (2, BLOCKS)


def test_vectors_beyond_the_numbers_of_the_store_are_refused(harvested, monkeypatch):
    load = LanguageModel.load
    monkeypatch.setattr(LanguageModel, "load", lambda *a: scaled(load(*a)))
    with pytest.raises(ConfigError, match=r"dtype=float16: resid\.0 has numbers beyond 65,504"):
        harvested("sites=[resid.0]")
    harvested("sites=[resid.0]", "dtype=bfloat16", store="other")


def scaled(model):
    """The model, with the last layer norm of its first block 100,000 times as large."""
    with torch.no_grad():
        model.blocks[0].output.LayerNorm.weight.mul_(1e5)
    return model


# --- a permuted model


@pytest.mark.parametrize("kind", KINDS)
def test_permuting_moves_the_entries_of_matrices_and_leaves_vectors(kind, models):
    import transformers

    network = transformers.AutoModel.from_pretrained(models[kind])
    network.register_parameter("experts", nn.Parameter(torch.empty(2, 3, 4)))
    for parameter in network.parameters():
        parameter.detach().uniform_()
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    permute_entries(network, 3)
    for name, value in network.named_parameters():
        assert torch.equal(value, before[name]) == (value.dim() == 1), name
        assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values)
    assert {value.dim() for value in before.values()} == {1, 2, 3}


def test_neither_modules_that_share_a_matrix_nor_its_order_in_memory_matter():
    rows, shared = nn.Linear(5, 4), nn.Sequential(nn.Linear(5, 4), nn.Linear(5, 4))
    columns = nn.Linear(5, 4)
    shared[0].weight = shared[1].weight = nn.Parameter(rows.weight.detach().clone())
    columns.weight = nn.Parameter(rows.weight.detach().T.contiguous().T)
    for network in (rows, shared, columns):
        permute_entries(network, 0)
    assert shared[0].weight is shared[1].weight
    assert torch.equal(shared[0].weight, rows.weight)
    assert torch.equal(columns.weight, rows.weight)


def test_a_store_of_a_permuted_model_has_other_vectors_of_the_same_tokens(harvested):
    paths = [harvested(store="trained")]
    for name, seed in (("permuted", 3), ("again", 3), ("other", 4)):
        torch.manual_seed(len(paths))
        paths.append(harvested(f"lm.permuted={seed}", store=name))
    _, first, again, other = map(content, paths)
    assert first == again
    assert not {*first.items()} & {i for i in other.items() if i[0].startswith("train")}
    trained, permuted, *_ = map(ActivationStore, paths)
    theirs, ours = read_all(trained), read_all(permuted)
    assert torch.equal(ours["token"], theirs["token"])
    assert not torch.isclose(ours["resid.1"], theirs["resid.1"]).all(1).any()
    assert permuted.manifest.model == {**trained.manifest.model, "name": "auto-permuted-3"}
    settings = trained.manifest.settings
    assert permuted.manifest.settings == settings | {"lm": {**settings["lm"], "permuted": 3}}
    assert "permuted" not in settings["lm"], "as in stores from before there was this setting"
    with pytest.raises(ConfigError, match=r"another store \(lm\.permuted=None there, 3 here\);"):
        harvested("lm.permuted=3", store="trained")
    named = HarvestSettings.of(composed("harvest", "lm=smollm2", "lm.permuted=0"))
    assert named.store == "stores/smollm2-q4_1-permuted-0"


# --- the text


def test_the_store_shows_contexts_labels_and_splits(harvested, text):
    path = harvested("split.validation=0.3", "split.test=0.2")
    store = ActivationStore(path)
    documents, words = store.documents(), store.vocabulary()
    rows = [json.loads(line) for line in text.read_text().splitlines()]
    texts = {row["text"]: row["label"] for row in rows}
    assert len(documents) == len(texts)
    for number in range(len(documents)):
        shown = " ".join(words[token] for token in documents.ids(number))
        label = store.manifest.labels["label"][documents.labels["label"][number]]
        assert texts[shown] == label
    assert documents.splits_N.tolist() == sorted(documents.splits_N.tolist())
    counts = np.bincount(documents.splits_N, minlength=3)
    assert (counts > 0).all()
    for split, name in enumerate(("train", "validation", "test")):
        for shard in store.shards(name):
            found = documents.splits_N[store.read(shard, ["document"])["document"].long()]
            assert (found == split).all()


def test_a_document_keeps_its_split_when_others_come(harvested):
    few, many = (
        ActivationStore(harvested(f"tokens={tokens}", store=str(tokens))).documents()
        for tokens in (100, 300)
    )
    assert len(few) < len(many)
    of_text = {tuple(many.ids(n).tolist()): int(many.splits_N[n]) for n in range(len(many))}
    for number in range(len(few)):
        assert of_text[tuple(few.ids(number).tolist())] == few.splits_N[number]


def test_contexts_are_padded_left_out_packed_and_truncated_as_asked(harvested):
    stores = {
        name: ActivationStore(harvested(*settings, store=name))
        for name, settings in {
            "longest": [],
            "none": ["context.padding=none"],
            "packed": ["context.packing=true"],
            "cut": ["context.truncation=1"],
            "bare": ["context.special_tokens=false"],
        }.items()
    }
    tokens = {n: sum(s.tokens for s in store.manifest.shards) for n, store in stores.items()}
    text = {name: len(store.documents().ids_T) for name, store in stores.items()}
    assert tokens["bare"] == text["bare"] == text["longest"]
    assert tokens["packed"] < tokens["longest"], "fewer contexts have fewer special tokens"
    assert tokens["none"] % 12 == 0 < tokens["none"] < tokens["longest"]
    assert max(len(stores["cut"].documents().ids(n)) for n in range(40)) == 10
    packed = read_all(stores["packed"])
    assert (packed["place"][packed["position"] == 0] == -1).all()
    assert stores["bare"].manifest.prefix == stores["bare"].manifest.suffix == []


def test_a_text_that_comes_twice_is_read_once(harvested, text, tmp_path):
    shutil.copy(text, tmp_path / "again.jsonl")
    both = harvested(f"text.paths=[{text},{tmp_path / 'again.jsonl'}]")
    assert len(ActivationStore(both).documents()) == 40


# --- the same bytes


def test_a_harvest_killed_three_times_leaves_the_same_bytes(harvested, monkeypatch):
    undisturbed = content(harvested(store="undisturbed"))
    passes, forward = [], LanguageModel.forward
    save, note = writing.store.tensors_file, writing.store.write_manifest

    def counted(self, *arguments):
        passes.append(arguments)
        forward(self, *arguments)

    def half(path, tensors):
        left = path.with_name(f".0123456789ab-{path.name}")
        with save(left, dict(list(tensors.items())[:2])):
            pass
        raise RuntimeError("killed")

    monkeypatch.setattr(LanguageModel, "forward", counted)
    kills = (
        (LanguageModel, "forward", fails_once(counted, lambda *_: len(passes) == 5)),
        (writing.store, "tensors_file", lambda p, t: (half if "00002" in p.name else save)(p, t)),
        (writing.store, "write_manifest", fails_once(note, lambda _, m: sum_written(m) == 5)),
    )
    for place, name, kill in kills:
        with monkeypatch.context() as patch:
            patch.setattr(place, name, kill)
            with pytest.raises(RuntimeError, match="killed"):
                harvested()
    assert content(harvested()) == undisturbed
    once = len(passes)
    passes.clear()
    harvested(store="again")
    assert once <= len(passes) + 3 * 3, "at most the batches of one shard again for each kill"
    passes.clear()
    harvested()
    assert not passes, "a complete store is not written again"


def sum_written(manifest):
    return sum(shard.sha256 is not None for shard in manifest.shards)


def test_four_parts_make_the_store_of_one_process(harvested, command_line_of, overrides, tmp_path):
    alone = content(harvested())
    parts = ["-m", "part=2,0,3,1", "parts=4", f"store={tmp_path / 'parts'}"]
    assert command_line_of("harvest", *parts, *overrides()) == 0
    assert content(tmp_path / "parts") == alone


def test_the_seed_deals_contexts_anew(harvested):
    stores = [ActivationStore(harvested(f"seed={seed}", store=f"{seed}")) for seed in (0, 1)]
    first, second = ([s.tokens for s in store.manifest.shards] for store in stores)
    assert sum(first) == sum(second)
    shards = [store.read(store.shards("train")[0])["document"].tolist() for store in stores]
    assert sorted(shards[0]) != sorted(shards[1])


@pytest.mark.slow
def test_four_parts_by_joblib_and_sigkill_leave_the_same_bytes(
    harvested, overrides, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    alone = content(harvested())
    command = [sys.executable, "-m", "implicit_em.cli", "harvest", *overrides()]
    joblib = ["-m", "hydra/launcher=joblib_local", "hydra.launcher.n_jobs=2", "parts=4"]
    joblib += ["part=0,1,2,3", f"store={tmp_path / 'joblib'}"]
    subprocess.run([*command, *joblib], cwd=tmp_path, check=True)
    assert content(tmp_path / "joblib") == alone

    store = tmp_path / "killed"
    for written in (1, 3, 5):
        process = subprocess.Popen([*command, f"store={store}"], cwd=tmp_path)
        while process.poll() is None and len(list(store.glob("t*.safetensors"))) < written:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([*command, f"store={store}"], cwd=tmp_path, check=True)
    assert content(store) == alone


# --- shards that are made while a run trains


def test_what_a_harvest_leaves_is_made_later_with_the_same_bytes(
    harvested, models, tmp_path, caplog
):
    caplog.set_level("INFO")
    whole = content(harvested(store="whole"))
    plan = harvested("kept=1")
    shards = sorted(name for name in whole if name.startswith("train"))
    left = f"complete but for {len(shards) - 1} shards, which data.ahead=N makes"
    assert caplog.messages[-1].endswith(left)
    there = {name for name in content(plan) if name[:5] in ("train", "valid", "test-")}
    assert there == {name for name in whole if name[:5] in ("valid", "test-")} | {shards[0]}
    assert digest_of_store(plan, 1) == digest_of_store(tmp_path / "whole", 1)
    write = Harvest(str(models["bert"])).open(plan)
    for place in range(1, len(shards)):
        written = write(place, "ahead")
        assert (plan / "ahead" / written.file).read_bytes() == whole[written.file]
    assert content(plan)["manifest.json"] == whole["manifest.json"]
    shutil.rmtree(plan / "ahead")
    assert content(harvested()) == whole, "the same command without kept makes the store whole"


@pytest.mark.slow
def test_three_kills_on_each_side_leave_the_weights_of_a_whole_store(
    harvested, models, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
    monkeypatch.setenv("SECONDS_A_BATCH", "0.1")
    whole, plan = harvested(store="whole"), harvested("kept=1")
    command = [sys.executable, "-m", "implicit_em.cli", "train", "data=activations", "data.ahead=1"]
    command += ["data.kept=1", "data.tokens=500", "data.batch_size=16", "data.buffer=8000"]
    command += [f"data.producer.lm={models['bert']}", "model.hidden=5", "trainer.max_epochs=1"]
    command += ["+callbacks.slow._target_=helpers.slow.Slow", "checkpoint.steps=1", "probe=none"]
    command += ["logger=csv"]

    def run(store, name):
        where = [f"data.path={store}", f"hydra.run.dir={tmp_path / name}"]
        return subprocess.Popen([*command, *where])

    def producer_of(process):
        children = psutil.Process(process.pid).children()
        return next((c for c in children if "spawn_main" in " ".join(c.cmdline())), None)

    def noted():
        return sum(shard.sha256 is not None for shard in read_manifest(plan).shards)

    def in_the_ring():
        return len(list((plan / "ahead").glob("*.safetensors")))

    for count in range(noted() + 1, noted() + 4):
        process = run(plan, "ring")
        wait_for(lambda count=count: noted() >= count, process, 0.05)
        process.kill()
        process.wait()
    for count in (0, 1, 1):
        process = run(plan, "ring")
        wait_for(partial(producer_of, process), process, 0.05)
        wait_for(lambda count=count: in_the_ring() >= count, process, 0.05)
        producer_of(process).kill()
        assert process.wait() == 1
    said = (tmp_path / "ring" / "train.log").read_text()
    assert said.count("was killed by SIGKILL; the same command goes on") == 3
    assert run(plan, "ring").wait() == run(whole, "alone").wait() == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("ring", "alone")]
    assert weights[0] == weights[1]
    assert [path.name for path in (plan / "ahead").iterdir()] == [".lock"]


def test_another_model_makes_no_shards(harvested, models):
    plan = harvested("kept=0")
    with pytest.raises(ConfigError, match="not the files that the store was harvested from"):
        Harvest(str(models["llama"])).open(plan)
    with pytest.raises(ConfigError, match="no store; implicit-em harvest begins one"):
        Harvest().open(plan / "nowhere")
    (plan / "documents.safetensors").unlink()
    with pytest.raises(ConfigError, match="no store; implicit-em harvest begins one"):
        Harvest(str(models["bert"])).open(plan)


def test_a_shard_that_is_harvested_again_with_other_bits_is_refused(harvested, monkeypatch):
    path = harvested()
    before = content(path)
    (path / "train-00001.safetensors").unlink()
    with monkeypatch.context() as patch:
        load = LanguageModel.load
        patch.setattr(LanguageModel, "load", lambda *a: scaled(load(*a)))
        with pytest.raises(
            ConfigError, match=r"train-00001\.safetensors: has other bits than when"
        ):
            harvested()
    assert content(path) == {k: v for k, v in before.items() if k != "train-00001.safetensors"}
    assert content(harvested()) == before


# --- what is refused


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            ["sites=[resid.4]"],
            r"sites=resid\.4: auto has 4 blocks; allowed are resid\.0 to resid\.3",
        ),
        (["sites=[head.0]"], r"sites=\['head\.0'\]: should be a list of resid\.N, mlpin\.N, mlp"),
        (["lm.path=nowhere"], r"lm\.path=nowhere: no such folder or file, and not on the hub: \w"),
        (["lm=minilm"], r"lm=minilm: its weights are not installed; make language-models"),
        (["lm.sha256=abc"], r"lm\.sha256=abc: .* holds other weights, of digest [0-9a-f]{64}$"),
        (["lm.permuted=-1"], r"lm\.permuted=-1: should be greater than or equal to 0"),
        (["context.length=2"], rf"context\.length=2: auto takes 3 to {LONGEST} tokens"),
        (["context.length=99"], rf"context\.length=99: auto takes 3 to {LONGEST} tokens"),
        (["context.lenth=9"], r"context\.lenth=9: no such key; did you mean context\.length\?"),
        (["text.paths=[no/*.txt]"], r"text\.paths=no/\*\.txt: no such file"),
        (
            ["text.label=topic"],
            r"text\.label=topic: .*rows\.jsonl, row 1 lacks it; it has text, label",
        ),
        (["split.test=0.95"], r"split=.*: validation and test together must be less than 1"),
        (["part=4", "parts=4"], r"part=4: of parts=4, the last is 3"),
        (["hydra/launcher=joblib_local"], r"hydra/launcher=joblib_local: .*add -m"),
        (["lm=gpt5"], r"lm=gpt5: no such option; .*auto, minilm, smollm2"),
        (["device=cuda"], r"device=cuda: this machine has no CUDA device; allowed is cpu"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_mistake_gives_one_line_and_leaves_nothing(
    settings, reason, command_line_of, overrides, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    installed = lambda name: None if "minilm" in name else find_spec(name)  # noqa: E731
    monkeypatch.setattr(model_files, "find_spec", installed)
    before = sorted(tmp_path.rglob("*"))
    lines = overrides(f"store={tmp_path / 'store'}")
    if any(s.startswith("lm=") for s in settings):
        lines = [line for line in lines if not line.startswith("lm")]
    assert command_line_of("harvest", *lines, *settings) == 2
    err = capfd.readouterr().err
    assert re.fullmatch(rf"error: .*{reason.removesuffix('$')}.*\n", err), err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("remove", "reason"),
    [
        ("tokenizer*", "its tokenizer cannot be loaded"),
        ("*.safetensors", "has no weights"),
        ("config.json", "has no config.json"),
    ],
)
def test_a_model_that_lacks_a_file_is_refused(remove, reason, harvested, models, tmp_path):
    folder = shutil.copytree(models["llama"], tmp_path / "model")
    for path in folder.glob(remove):
        path.unlink()
    with pytest.raises(ConfigError, match=reason) as refused:
        harvested(f"lm.path={folder}")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "store").exists()


def test_weights_in_pickle_are_not_read(harvested, models, tmp_path):
    folder = shutil.copytree(models["llama"], tmp_path / "model")
    (weights,) = folder.glob("*.safetensors")
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.rename(folder / "other.safetensors")
    with pytest.raises(ConfigError, match="its network cannot be loaded"):
        harvested(f"lm.path={folder}")


def test_without_transformers_one_line_says_what_to_install(harvested, monkeypatch):
    monkeypatch.setattr(model_files, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"transformers is missing; pip install -e \"\.\[lang"):
        harvested()


def test_empty_text_is_refused(harvested, tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(ConfigError, match="text: Files gives no text"):
        harvested(f"text.paths=[{tmp_path / 'empty.txt'}]")


def test_a_store_of_other_settings_is_refused(harvested, command_line_of, overrides, capfd):
    path = harvested()
    before = content(path)
    lines = overrides(f"store={path}", "batch_size=5", "context.packing=true")
    assert command_line_of("harvest", *lines) == 2
    shown = capfd.readouterr().err
    assert "batch_size=4 there, 5 here; context.packing=False there, True here" in shown
    assert shown.count("\n") == 1
    assert content(path) == before


def test_another_model_under_the_same_settings_is_refused(harvested, models):
    path = harvested(kind="llama")
    with pytest.raises(ConfigError, match=r"holds another store \(model\.architecture=Llama"):
        harvested(kind="gpt2")
    assert ActivationStore(path).manifest.model["architecture"] == "LlamaModel"


def test_too_small_a_disk_is_refused_before_anything_is_written(harvested, monkeypatch, tmp_path):
    disk = namedtuple("disk", "free")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: disk(1000))
    with pytest.raises(ConfigError, match=r"the shards need .* GB more, but 1e-06 GB are free"):
        harvested()
    assert not (tmp_path / "store").exists()


def test_a_full_disk_ends_it_in_one_line(harvested, monkeypatch):
    from safetensors import SafetensorError

    from implicit_em.language import store

    def full(*_):
        raise SafetensorError("No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(store, "save_file", full)
        with pytest.raises(
            WriteError, match=r"documents\.safetensors cannot be written: No space left"
        ):
            harvested()
    ActivationStore(harvested())


def test_a_store_half_written_is_no_store(harvested, monkeypatch, tmp_path):
    killed = fails_once(writing.store.write_manifest, lambda _, m: sum_written(m) == 2)
    monkeypatch.setattr(writing.store, "write_manifest", killed)
    with pytest.raises(RuntimeError, match="killed"):
        harvested()
    with pytest.raises(ConfigError, match=r"store: not complete: \d+ of \d+ shards are missing"):
        ActivationStore(tmp_path / "store")


# --- progress and the end


@pytest.mark.parametrize(("asked", "end"), [("null", ""), ("5000", ", all that the text has")])
def test_the_size_is_said_before_and_progress_in_tenths(harvested, caplog, asked, end):
    caplog.set_level("INFO")
    harvested(f"tokens={asked}")
    said = [record.getMessage() for record in caplog.records]
    size = rf"resid\.\d of [\d,]+ tokens, 40 documents{end}; \d+ shards, .* GB"
    assert re.search(size, said[2])
    rates = [line for line in said if "tokens/s" in line]
    assert 1 <= len(rates) <= 10
    assert re.match(r"harvesting: [\d,]+ of [\d,]+ tokens  [\d,.]+ tokens/s  \d+ s left", rates[0])
    assert said[-1].endswith("store is complete")


def test_a_terminal_shows_a_bar_with_the_rate(harvested, monkeypatch):
    shown = StringIO()
    console = Console(file=shown, force_terminal=True, color_system=None, width=100)
    monkeypatch.setattr("rich.console.Console", lambda: console)
    harvested()
    assert re.search(r"harvesting.* (\d+)/\1 tokens  [\d,.]+ tokens/s 0:00:00", shown.getvalue())


def test_a_signal_ends_it_and_it_goes_on(
    harvested, command_line_of, overrides, tmp_path, monkeypatch
):
    store = tmp_path / "store"
    forward, passes = LanguageModel.forward, []

    def signalled(self, *arguments):
        passes.append(None)
        if len(passes) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        forward(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "forward", signalled)
        assert command_line_of("harvest", *overrides(f"store={store}")) == 143
    assert command_line_of("harvest", *overrides(f"store={store}")) == 0
    assert content(store) == content(harvested(store="undisturbed"))
