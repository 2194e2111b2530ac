"""Finished runs, whose pages are tested."""

import json

import pytest
from helpers.composing import composed
from helpers.language import make_model, make_text
from helpers.pages import HOSTILE, texts_of_store
from helpers.stores import make_text_store

from implicit_em.language.harvest import harvest
from implicit_em.training.run import train

LINE = "1" + "<script>alert('1')</script>" * 400_000
"""A line of ten megabytes, whose hash puts it among the test documents."""
BRIEF = ["trainer.max_epochs=1", "logger=csv", "picture=false", "probe=none"]


@pytest.fixture(scope="session")
def trained(tmp_path_factory, small_mnist):
    """Train a run on ``texts``, ``images`` or ``vectors``, once for its overrides."""
    folder = tmp_path_factory.mktemp("runs")
    store = make_text_store(folder / "store", HOSTILE, texts_of_store())
    data = {
        "texts": ["data=activations", f"data.path={store}", "model.hidden=6", "data.batch_size=32"],
        "images": [f"data.root={small_mnist}", "model.hidden=5", "data.batch_size=64"],
        "vectors": ["data=superposition", "data.features=9", "data.width=6", "data.samples=400"],
    }
    data["vectors"] += ["data.test_samples=90", "model.hidden=4", "data.batch_size=64"]

    def trained(kind, *overrides):
        run = folder / "-".join([kind, *overrides])
        if not run.exists():
            train(composed("train", *data[kind], *BRIEF, *overrides), run)
        return run

    return trained


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folders of tiny language models, by kind; ``bert`` is not causal."""
    folder = tmp_path_factory.mktemp("models")
    models = {kind: make_model(folder / kind, kind, head=True) for kind in ("llama", "gpt2")}
    return models | {"bert": make_model(folder / "bert", "bert")}


@pytest.fixture(scope="session")
def harvested(models, tmp_path_factory):
    """Train a run on a store of a tiny language model, once for its overrides."""
    folder = tmp_path_factory.mktemp("harvested")
    text = make_text(folder / "rows.jsonl")
    line = folder / "line.jsonl"
    row = json.dumps({"text": LINE, "label": "c"}) + "\n"
    line.write_text(text.read_text() + row)

    def harvested(kind, *overrides, text=text):
        store = folder / f"store-{kind}-{text.stem}"
        run = folder / "-".join([kind, text.stem, *overrides])
        if not store.exists():
            lm = ["lm=auto", f"lm.path={models[kind]}", "text=files", f"store={store}"]
            reads = [f"text.paths=[{text}]", "text.label=label", "sites=[resid.1]"]
            size = ["context.length=12", "tokens=null", "threads=1", "split.test=0.3"]
            harvest(composed("harvest", *lm, *reads, *size))
        if not run.exists():
            data = ["data=activations", f"data.path={store}", "model.hidden=5"]
            train(composed("train", *data, *BRIEF, *overrides), run)
        return run

    harvested.line = line
    return harvested
