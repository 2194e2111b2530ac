"""Finished runs, whose pages are tested."""

import pytest
from helpers.pages import HOSTILE, texts_of_store
from helpers.paths import ROOT
from helpers.stores import make_text_store
from hydra import compose, initialize_config_dir

from implicit_em.training.run import train


@pytest.fixture(scope="session")
def trained(tmp_path_factory, small_mnist):
    """Train a run on ``texts``, ``images`` or ``vectors``, once for its overrides."""
    folder = tmp_path_factory.mktemp("runs")
    store = make_text_store(folder / "store", HOSTILE, texts_of_store())
    common = ["trainer.max_epochs=1", "logger=csv", "picture=false", "probe=none"]
    data = {
        "texts": ["data=activations", f"data.path={store}", "model.hidden=6", "data.batch_size=32"],
        "images": [f"data.root={small_mnist}", "model.hidden=5", "data.batch_size=64"],
        "vectors": ["data=superposition", "data.features=9", "data.width=6", "data.samples=400"],
    }
    data["vectors"] += ["data.test_samples=90", "model.hidden=4", "data.batch_size=64"]

    def trained(kind, *overrides):
        run = folder / "-".join([kind, *overrides])
        if not run.exists():
            with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
                cfg = compose("train", overrides=[*data[kind], *common, *overrides])
            train(cfg, run)
        return run

    return trained
