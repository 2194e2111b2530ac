"""The jobs of a sweep are composed as Hydra composes them."""

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import OmegaConf, open_dict

from implicit_em.config import CONF
from implicit_em.sweeps.jobs import JobComposer, TaskComposer


@pytest.fixture
def sweep():
    """A sweep's configuration and its loader."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", return_hydra_config=True)
        yield config, GlobalHydra.instance().config_loader()


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=1"],
        ["loss=lse", "seed=2"],
        ["seed=3", "lr.value=1e-3", "model.hidden=8"],
        ["+loss.own.weight=2", "seed=1"],
        ["callbacks=[best]", "trainer.max_epochs=3"],
        ["model=topk", "model.l0=3", "seed=2"],
        ["trainer.threads=null", "trainer=gpu"],
        ["loss.lse.weight=0.1", "hydra.job.chdir=true"],
        ["~callbacks", "seed=1"],
    ],
)
def test_a_job_is_what_hydra_composes(sweep, overrides):
    config, loader = sweep
    composer = JobComposer(config, loader)
    composer.compose(["seed=9", "lr.value=5"])  # leaves nothing behind
    expected = loader.load_sweep_config(config, overrides)
    assert OmegaConf.to_yaml(composer.compose(overrides)) == OmegaConf.to_yaml(expected)


@pytest.mark.parametrize(
    ("typed", "axes"),
    [
        (["experiment=dynamics", "model=topk"], ["model.l0=3", "lr.value=1e-2"]),
        (["experiment=ablation", "data.root=here", "optimizer=sgd"], ["loss=lse", "seed=2"]),
        (["experiment=ablation", "+loss.own.weight=2", "~loss.tc"], ["seed=2"]),
    ],
)
def test_a_job_of_a_study_is_what_hydra_composes_without_its_node(typed, axes):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        config = compose("train", overrides=typed, return_hydra_config=True)
        composer = TaskComposer(config, loader)
        composer.compose([*axes, *typed])["seed"] = 9  # leaves nothing behind
        job = composer.compose([*axes, *typed])
        expected = loader.load_sweep_config(config, [*axes, *typed])
    with open_dict(expected):
        del expected["hydra"]
    assert OmegaConf.to_yaml(job) == OmegaConf.to_yaml(expected)
    assert OmegaConf.is_struct(job)


def test_a_study_composes_its_base_once(monkeypatch):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        config = compose("train", overrides=["loss=lse"], return_hydra_config=True)
        monkeypatch.setattr(loader, "load_sweep_config", lambda *_: pytest.fail("composed again"))
        jobs = [TaskComposer(config, loader).compose([f"seed={n}", "loss=lse"]) for n in (1, 2)]
    assert [job.seed for job in jobs] == [1, 2]


def test_the_basic_launcher_has_jobs_that_differ_in_values_composed_once(sweep, monkeypatch):
    config, loader = sweep
    composed = []
    load = loader.load_sweep_config
    monkeypatch.setattr(loader, "load_sweep_config", lambda *a: composed.append(a) or load(*a))
    sweeper = Plugins.instance().instantiate_sweeper(
        hydra_context=HydraContext(loader, Callbacks()), task_function=lambda _: None, config=config
    )
    ours = sweeper.launcher.hydra_context.config_loader
    for overrides in ([f"loss={loss}", f"seed={n}"] for loss in ("lse", "lse_var") for n in (0, 1)):
        found = ours.load_sweep_config(config, overrides)
        assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(load(config, overrides))
    assert len(composed) == 2
