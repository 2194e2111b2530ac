"""What a user types wrong gives one line that names key, value and what is allowed."""

import os
import subprocess
import sys

import pytest
from helpers.paths import ROOT

from implicit_em.base.errors import ConfigError
from implicit_em.config import composing
from implicit_em.training.check import check
from implicit_em.training.spec import RunSpec

NORMALIZERS = ("none", "centre", "standard", "scale", "l2", "zca")
OF_A_COMMAND = {
    "lr=1e-3": ["lr=1e-3", "write lr.value=1e-3", "constant, cosine, plateau, step, warmup_cosine"],
    "model.hiden=32": ["model.hiden=32", "did you mean model.hidden?"],
    "callbacks=[earlystopping]": ["did you mean early_stopping?", "best, early_stopping, lr_mon"],
    "resume=RUN": ["resume=RUN: no such directory; a relative path starts at /"],
    "hydra/launcher=stacked": ["hydra/launcher=stacked", "add -m"],
    "-m lr.value=interval(1e-4,1e-2)": ["lr.value=interval(1e-4,1e-2): list the"],
    "-m seed=1,2 hydra.launcher.max_stack=3": ["allowed with", "hydra/launcher=stacked"],
    "model.hidden=0": ["model.hidden=0", "greater than 0"],
    "data=mnits": ["data=mnits", "did you mean mnist?", "fashion_mnist, kmnist"],
    "loss=lse,lse_var": ["loss=lse,lse_var", "-m"],
    "trainer=ddp_cpu trainer.strategy=auto": ["trainer.devices=2", "allowed is 1"],
    "+model.bias=false": ["model.bias: no such key of model=encoder"],
    "model=topk loss=gated": ["loss=gated", "model=topk", "l1 needs gates"],
    "loss=sae": ["model=encoder", "needs reconstruction", "x, target, energies, weight"],
    "model=sae loss=lse_var_tc": ["loss=lse_var_tc", "model=sae", "uses the reconstruction"],
    "trainer=gpu": ["trainer: No supported gpu backend found"],
    "seed": ["seed", "key=value"],
    "=": ["=: no such key; allowed: "],
    f"seed={'9' * 5_000}": ["Exceeds the limit (4300 digits)"],
    "seed=${oc.decode:'[1'}": ["seed: ", "missing BRACKET_CLOSE"],
    "-m seed=1,2 model.hidden=${nowhere:1}": ["model.hidden: Unsupported interpolation type"],
    "hydra.run.dir=${oc.env:NOWHERE}": ["hydra.run.dir: ", "'NOWHERE' not found"],
    "-m seed=1,2 hydra.launcher=stacked": ["hydra.launcher=stacked", "write hydra/launcher=sta"],
    "-m hydra/launcher=stacked seed=1,-1": ["seed=-1"],
    **{
        f"-m hydra/launcher=stacked seed=1,2 hydra.launcher.max_stack={value}": ["max_stack", value]
        for value in ("0", "many")
    },
    "-m logger=tensorboard logger.name=x,../../../x": ["logger.name=../../../x: must lead nowhere"],
}
OF_SETTINGS = {
    "trainer.max_epoch=3": ["trainer.max_epoch=3", "did you mean trainer.max_epochs?"],
    "model.hidden=8 model.h=3": ["model.h=3: no such key"],
    "model=topk model.k=8": ["model.k=8: no such key; allowed: ", "model.l0"],
    "model=topk +model.k=8": ["model.k=8: its key is model.l0; leave out model.k"],
    "loss.foo.weight=1": ["loss.foo.weight=1", "allowed: loss.lse, loss.var, loss.tc"],
    "model._target_=implicit_em.models.Encodr": ["no Encodr; did you mean Encoder?"],
    "logger=csv +logger.foo=3": ["logger=", "there is no logger", "logger=tensorboard"],
    "+model.out_features=5": ["model.out_features=5: the data decide it"],
    "+data.shuffle=false": ["data.shuffle: no such key of data"],
    "model.hidden=many": ["model.hidden=many", "integer"],
    "seed=5000000000": ["seed=5000000000", "less than 4294967296"],
    "+trainer.logger=false": ["trainer.logger=False", "no such key"],
    "lr=cosine lr.schedule.final=-1": ["lr.schedule", "final=-1", "[0, 1]"],
    "lr=step lr.schedule._target_=torch.optim.lr_scheduler.Step": ["lr.schedule", "Step"],
    "lr=step +lr.schedule.gama=0.5": ["lr.schedule.gama=0.5", "did you mean gamma?", "step_size"],
    "lr=step lr.schedule.interval=batch": ["lr.schedule.interval=batch", "'epoch' or 'step'"],
    "lr=plateau lr.schedule.monitor=train/mse": ["monitor=train/mse", "train/loss, train/lse"],
    "lr=plateau +lr.schedule.interval=step": ["interval=step", "allowed is epoch"],
    "+lr.schedule._target_=torch.optim.lr_scheduler.OneCycleLR +lr.schedule.max_lr=1 "
    "+lr.schedule.total_steps=99": ["lr.schedule.total_steps=99", "at least 100"],
    "callbacks=best callbacks.best.monitor=monitor/foo": ["monitor/foo", "monitor/redundancy"],
    "callbacks=best callbacks.best.mode=minn": ["callbacks.best", "minn"],
    "seed=true": ["seed=True", "integer"],
    "lr.value=-1e-3": ["lr.value=-0.001", "greater than 0"],
    "lr.value=nan": ["lr.value=nan", "finite"],
    "loss.lse.weight=-1": ["loss.lse.weight=-1", "greater than or equal to 0"],
    "loss.lse=3": ["loss.lse=3: must be a mapping"],
    "loss.lse.reduction=max": ["max", "sum, mean, count"],
    "+loss.lse.temprature=2": ["lse.temprature=2", "did you mean temperature?", "reduction"],
    "model.hidden=null": ["model.hidden=None: allowed are whole numbers"],
    "data.batch_size=1": ["data.batch_size=1", "at least 2", "var"],
    "activation=swish": ["activation=swish", "abs, gelu, identity, leaky_relu, relu, softplus"],
    "trainer.max_epochs=-1": ["trainer.max_epochs=-1", "greater than or equal to 0"],
    "model=pixels model.hidden=5": ["model.hidden=5: must be null"],
    "model.l0=0": ["model.l0=0: should be greater than 0"],
    "model.l0=65": ["model.l0=65: must be at most model.hidden=64"],
    "model=topk model.skip=1": ["model.skip=1: allowed are true, false"],
    "model=topk model.l0=2.5": ["model.l0=2.5: allowed are whole numbers from 1 to 64"],
    "model.l0=8 loss=var_tc": ["model.l0=8: none of the loss terms (var, tc) makes the units sp"],
    "model=l1 model.l0=8 loss.l1.weight=0": ["model.l0=8: none of the loss terms (mse) makes"],
    "model.l0=8 trainer.max_epochs=0": ["model.l0=8: nothing is trained", "max_epochs=0"],
    "model=pca model.l0=8": ["model.l0=8: no such key", "model=encoder, model=frozen_topk"],
    "trainer.precision=16-mixed": ["trainer.precision=16-mixed", "'32-true', 'bf16-mixed'"],
    "trainer.devices=2": ["trainer.devices=2", "allowed is 1", "trainer=ddp_cpu"],
    "trainer=ddp_cpu trainer.num_nodes=2": ["trainer.num_nodes=2: should be 1"],
    "trainer=ddp_cpu trainer.compile=true": ["trainer.devices=2", "trainer.compile=true"],
    "trainer=ddp_cpu activation._target_=torch.nn.RReLU": ["trainer.devices=2", "by itself"],
    "+trainer.accumulate_grad_batches=2": ["accumulate_grad_batches=2: should be 1"],
    "optimizer._target_=torch.optim.LBFGS": ["optimizer"],
    "trainer.threads=100000": ["trainer.threads=100000", "less than or equal to 1024"],
    "loss.lse._target_=nowhere.lse": ["loss", "nowhere"],
    "trainer.log_every_n_steps=often": ["n_steps=often", "auto or a whole number"],
    "trainer.log_every_n_steps=true": ["trainer.log_every_n_steps=True", "from 0 on"],
    "model.activation=gelu": ["model.activation=gelu: ", "did you mean activation=gelu?"],
    "trainer.sparse=on activation=softplus": ["trainer.sparse=on", "activation=relu"],
    "trainer.accelerator=tpu": ["trainer: Requirement 'torch_xla"],
    "trainer.devices=1_000_000_000": ["trainer.devices=1000000000: should be at most 1024"],
    "trainer.devices=0": ["trainer: ", "devices=0"],
    "probe=knn": ["probe=knn", "'linear' or 'none'"],
    "optimizer=sgd +optimizer.betas=[0,1]": ["optimizer", "betas"],
    "loss.lse.weight=0 loss.var.weight=0 loss.tc.weight=0": ["loss", "not 0"],
    "logger.mode=sometimes": ["logger.mode=sometimes", "online", "offline"],
    "data=superposition data.normalize=whiten": ["data.normalize=whiten: ", *NORMALIZERS],
    "optimizer=em": ["optimizer=em: fits models.Mixture, not Encoder"],
    "model=mixture optimizer=em loss=lse": ["optimizer=em: needs lse alone, of weight 1 and reduc"],
    "model=mixture optimizer=em lr.value=2": ["optimizer.lr=2: allowed are numbers above 0"],
}


@pytest.mark.parametrize("typed", OF_A_COMMAND)
def test_a_mistake_gives_one_line_and_trains_nothing(typed, command_line, tmp_path, capfd):
    if typed == "trainer=gpu" and __import__("torch").cuda.is_available():
        typed = "trainer=gpu trainer.devices=99"
    code = command_line(*typed.split())
    out, err = capfd.readouterr()
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for part in OF_A_COMMAND.get(typed, ["trainer"]):
        assert part in err
    assert not list(tmp_path.rglob("*.json"))
    for name in ("outputs", "multirun"):
        assert not (tmp_path / name).exists(), "what is refused leaves no directory"


@pytest.mark.parametrize("typed", OF_SETTINGS)
def test_a_mistake_among_settings_is_refused_in_one_line(typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as refused:
        check(RunSpec.of(composing.composed("train", typed.split())))
    for part in OF_SETTINGS[typed]:
        assert part in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_a_file_with_the_name_of_one_of_ours_is_refused(refused, tmp_path):
    own = tmp_path / "my_conf" / "loss" / "l1.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("{}")
    assert f"{own}: the project has loss/l1.yaml" in refused("--config-dir", "my_conf", "loss=l1")


def test_a_key_that_nothing_reads_gets_a_warning(command_line, small, capfd):
    brief = [*small, "probe=none", "trainer.max_epochs=0"]
    assert command_line(*brief, "+foo.bar=1", "+lr.foo=1", "+k=5", "model.hidden=${k}") == 0
    err = capfd.readouterr().err
    unread = ["+foo.bar=1", "+lr.foo=1"]
    assert err == "".join(f"warning: {line}: nothing reads this key\n" for line in unread)


@pytest.mark.parametrize(
    "typed", ["lr=1e-3", pytest.param("model.hidden=0", marks=pytest.mark.slow)]
)
def test_the_traceback_is_there_on_request(typed, command_line, tmp_path, capfd):
    assert command_line(typed) != 0
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    shown = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), typed],
        cwd=tmp_path,
        env=os.environ | {"HYDRA_FULL_ERROR": "1"},
        capture_output=True,
        text=True,
    )
    assert shown.returncode != 0
    assert "Traceback" in shown.stderr
