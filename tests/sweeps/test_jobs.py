"""The jobs of a sweep are composed as Hydra composes them."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf

from implicit_em.config import CONF
from implicit_em.sweeps.jobs import JobComposer


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
        ["+loss.lse.temperature=2", "seed=1"],
        ["callbacks=[best]", "trainer.max_epochs=3"],
        ["model=topk", "model.k=3", "seed=2"],
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


def test_a_mistake_is_hydras_own(sweep):
    config, loader = sweep
    with pytest.raises(HydraException, match=r"Could not override 'lr\.valu'"):
        JobComposer(config, loader).compose(["lr.valu=1", "seed=1"])


def test_jobs_that_differ_in_values_alone_are_composed_once(sweep, monkeypatch):
    config, loader = sweep
    composed = []
    load = loader.load_sweep_config
    monkeypatch.setattr(loader, "load_sweep_config", lambda *a: composed.append(a) or load(*a))
    composer = JobComposer(config, loader)
    for loss in ("lse", "lse_var"):
        for seed in range(3):
            assert composer.compose([f"loss={loss}", f"seed={seed}"]).seed == seed
    assert len(composed) == 2
