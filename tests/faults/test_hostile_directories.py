"""Run and sweep directories that are damaged, downloaded from anybody, or on a full disk."""

import json
import logging
import re
import shutil

import pandas as pd
import pytest
import torch
from helpers.breaking import never_trains
from helpers.disks import fill, make_read_only, small_disk
from helpers.lines import one_line
from helpers.paths import ROOT
from helpers.pickles import Harmful
from helpers.results import results
from helpers.waiting import soon
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from implicit_em.base.errors import ConfigError, DamagedError
from implicit_em.config.fingerprint import config_fingerprint
from implicit_em.sweeps.job_directories import JobDirectories, note_jobs, noted_jobs
from implicit_em.sweeps.summary import read_jobs, summarise
from implicit_em.trained.evaluate import main as evaluate_main
from implicit_em.trained.export import main as export_main
from implicit_em.trained.loading import load
from implicit_em.training import run as training
from implicit_em.training.check import check
from implicit_em.training.checkpoints import OWN, LastCheckpoint, previous
from implicit_em.training.directory import STATISTICS, RunDirectory
from implicit_em.training.history import HistoryLogger
from implicit_em.training.run import train
from implicit_em.training.spec import RunSpec

EPOCHS = 4
NORMALIZER = ("mean", "factor")


def settings(root):
    return [
        f"data.root={root}",
        "data.batch_size=64",
        "model.hidden=5",
        f"trainer.max_epochs={EPOCHS}",
        "metrics_every=1",
        "logger=csv",
        "probe=none",
    ]


@pytest.fixture(scope="module")
def finished(composed, small_mnist, tmp_path_factory):
    """A finished run that nobody writes to."""
    path = tmp_path_factory.mktemp("finished") / "run"
    train(composed(*settings(small_mnist)), path)
    return path


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it, alone in a sweep's directory."""
    return RunDirectory(shutil.copytree(finished, tmp_path / "sweep" / "one"))


@pytest.fixture
def cfg(composed, small_mnist):
    """Its configuration."""
    return composed(*settings(small_mnist))


@pytest.fixture
def command(command_line, small_mnist):
    """Run its command in a directory; gives the exit code."""

    def command(directory, *arguments):
        return command_line(*settings(small_mnist), f"hydra.run.dir={directory}", *arguments)

    return command


def the_only_row(run):
    (row,) = read_jobs(run.path.parent).to_dict("records")
    return row


# A full disk


def no_space(capfd, name):
    """A command has said that a file cannot be written, and nothing of how it came to that."""
    out, err = capfd.readouterr()
    assert f"{name} cannot be written: No space left on device" in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("place", "function", "when", "name"),
    [
        (LastCheckpoint, "_save", lambda _, trainer: trainer.current_epoch == 2, "newest.ckpt"),
        (RunDirectory, "write_metrics", lambda *_: True, "metrics.json"),
    ],
    ids=["at a checkpoint", "at the end"],
)
def test_a_full_disk_is_said_and_after_room_is_made_the_same_bits_come(
    command, finished, tmp_path, monkeypatch, capfd, place, function, when, name
):
    ballast, original = [], getattr(place, function)
    epochs_alone = "trainer.log_every_n_steps=0"  # steps.csv would be the first that has no room

    def full(*arguments):
        if not ballast and when(*arguments):
            ballast.append(fill(disk))
        return original(*arguments)

    monkeypatch.setattr(place, function, full)
    with small_disk(tmp_path / "disk", "2m") as disk:
        path = disk / "run"
        assert command(path, epochs_alone) == 1
        no_space(capfd, name)
        assert not (path / "metrics.json").exists(), "nothing unfinished looks finished"
        assert not list(path.rglob(".*-*")), "nothing half-written"
        checkpoint = torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)
        assert checkpoint["epoch"] == (1 if name == "newest.ckpt" else EPOCHS - 1)

        ballast[0].unlink()
        if name == "metrics.json":
            never_trains(monkeypatch)
        assert command(path, epochs_alone) == 0
        assert results(path) == results(finished)


def test_a_disk_that_is_full_from_the_beginning_is_said(command, tmp_path, capfd):
    with small_disk(tmp_path / "disk") as disk:
        fill(disk)
        assert command(disk / "run") == 1
        no_space(capfd, "config.yaml")
        assert not list((disk / "run" / ".hydra").iterdir())


def test_a_directory_that_cannot_be_written_is_said_in_one_line(command, tmp_path, capfd):
    with small_disk(tmp_path / "disk") as disk:
        (disk / "run").mkdir()
        make_read_only(disk)
        capfd.readouterr()
        assert command(disk / "run") == 1
        out, err = capfd.readouterr()
    assert out + err == f"error: {disk}/run cannot be written: Read-only file system\n"


def test_a_run_that_failed_keeps_its_own_error_on_a_full_disk(cfg, tmp_path, monkeypatch, caplog):
    def fail(*_):
        fill(disk)
        raise ZeroDivisionError("its own")

    monkeypatch.setattr(training, "evaluate_module", fail)
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(ZeroDivisionError, match="its own"):
            train(cfg, disk / "run")
        assert "metrics.json cannot be written: No space left on device" in caplog.text


def test_a_summary_that_cannot_be_written_is_said(command_line, small_mnist, tmp_path, capfd):
    with small_disk(tmp_path / "disk") as disk:
        sweep = ["-m", "seed=1", *settings(small_mnist), f"hydra.sweep.dir={disk / 'sweep'}"]
        assert command_line(*sweep) == 0
        fill(disk)
        (disk / "sweep" / "summary.csv").unlink()
        fill(disk)
        capfd.readouterr()
        assert command_line(*sweep) != 0
        no_space(capfd, "")


# metrics.json and jobs.json

NO_METRICS = {
    "half": '{"status": "completed", "seed"',
    "a list": "[1, 2]",
    "without a status": '{"seed": 1}',
    "a status of no text": '{"status": ["completed"]}',
    "NaN": '{"status": "completed", "final_loss": NaN}',
    "deep": "[" * 100_000,
}


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("content", NO_METRICS)
def test_what_is_no_metrics_is_none(run, cfg, content):
    write(run.metrics, NO_METRICS[content])
    assert run.read_metrics() is None
    assert run.refusal(RunSpec.of(cfg)) is None
    assert the_only_row(run)["status"] == "unfinished"


@pytest.mark.parametrize("content", ["half", "deep"])
def test_a_run_with_what_is_no_metrics_measures_again(run, cfg, finished, monkeypatch, content):
    write(run.metrics, NO_METRICS[content])
    never_trains(monkeypatch)
    assert train(cfg, run.path)["status"] == "completed"
    assert results(run.path) == results(finished)


@pytest.mark.parametrize(
    ("changes", "schema"),
    [({"schema": 1, "config_fingerprint": "0" * 16}, 1), ({"config_fingerprint": None}, 2)],
)
def test_metrics_of_another_version_are_neither_believed_nor_replaced(run, cfg, changes, schema):
    metrics = json.loads(run.metrics.read_text()) | changes
    run.metrics.write_text(json.dumps(metrics))
    with pytest.raises(ConfigError, match=rf"metrics\.json is of schema {schema}"):
        train(cfg, run.path)
    assert json.loads(run.metrics.read_text()) == metrics
    assert the_only_row(run)["status"] == "mismatch"


def test_metrics_that_lack_keys_or_hold_others_make_a_row(run):
    fingerprint = json.loads(run.metrics.read_text())["config_fingerprint"]
    strange = {"status": "completed", "config_fingerprint": fingerprint}
    strange |= {"job": {"a": 1}, "directory": "../..", "dead_units": [3], "density": "much"}
    run.metrics.write_text(json.dumps(strange))
    row = the_only_row(run)
    assert (row["job"], row["directory"]) == ("one", "one")
    assert row["dead_units"] == "[3]"
    assert pd.isna(row["final_loss"])
    assert summarise(run.path.parent)


@pytest.mark.parametrize("content", ["", "{", "[1]", "3", '{"a": NaN}', b"\xff", "[" * 100_000])
def test_a_damaged_list_of_jobs_is_said_and_left_out(run, caplog, content):
    write(run.path.parent / "jobs.json", content)
    assert noted_jobs(run.path.parent) == {}
    assert "jobs that never started are not known" in caplog.text
    assert len(read_jobs(run.path.parent)) == 1
    note_jobs(run.path.parent, {"seed=2": "seed=2"})
    assert noted_jobs(run.path.parent) == {"seed=2": "seed=2"}


def test_a_list_of_jobs_names_no_directory_elsewhere(tmp_path):
    names = ["../x", "..", ".", "", "/etc", "a/b", "a/", "./a", "seed=3"]
    jobs = dict.fromkeys(names, "job") | {"seed=4": 4, "seed=5": None}
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    assert list(noted_jobs(tmp_path)) == ["a/b", "seed=3"]
    assert read_jobs(tmp_path)["directory"].tolist() == ["a/b", "seed=3"]


# history.csv


def change_line(number, change):
    def changed(text):
        lines = text.splitlines(keepends=True)
        lines[number] = change(lines[number])
        return "".join(lines)

    return changed


HISTORIES = {
    "half of the last row": (lambda text: text[: text.rindex(",")], 3),
    "no end of the last row": (lambda text: text[:-1], 3),
    "text for a number": (change_line(3, lambda line: line.replace(".", "x", 1)), 2),
    "no number": (change_line(3, lambda line: line.rpartition(",")[0] + ",nan\n"), 2),
    "an epoch twice": (change_line(3, lambda line: f"2{line[1:]}"), 2),
    "an epoch left out": (change_line(2, lambda line: ""), 1),
    "a row too long": (change_line(4, lambda line: f"{line[:-1]},1.0\n"), 3),
    "a column lost": (change_line(2, lambda line: line.rpartition(",")[0] + "\n"), 1),
    "no header": (change_line(0, lambda line: ""), 0),
    "zeros": (lambda text: text[:30] + "\0" * 40, 0),
    "empty": (lambda text: "", 0),
    "bytes": (lambda text: b"\xff\xfe" + text.encode("utf-16"), 0),
}


@pytest.mark.parametrize("damage", HISTORIES)
def test_a_damaged_history_is_cut_before_its_first_damaged_row(run, caplog, damage):
    change, epochs = HISTORIES[damage]
    whole = HistoryLogger(run.history)
    assert whole.restore() == EPOCHS
    write(run.history, change(run.history.read_text()))
    history = HistoryLogger(run.history)
    assert history.restore() == epochs
    assert history.rows == {epoch: whole.rows[epoch] for epoch in range(1, epochs + 1)}
    said = f"{run.history} is damaged after epoch {epochs}: cut there"
    assert caplog.messages == ([] if damage == "empty" else [said])


@pytest.mark.parametrize("damage", ["half of the last row", "text for a number", "bytes"])
def test_a_run_with_a_damaged_history_goes_on_to_the_same_bits(run, cfg, finished, caplog, damage):
    caplog.set_level(logging.INFO, "implicit_em")
    change, epochs = HISTORIES[damage]
    write(run.history, change(run.history.read_text()))
    run.metrics.unlink()
    train(cfg, run.path)
    assert f"is damaged after epoch {epochs}" in caplog.text
    assert ("goes on after epoch 3 of 4" in caplog.text) == (epochs == 3), "no checkpoint is older"
    assert results(run.path) == results(finished)


def test_a_history_of_another_header_has_no_epochs(run):
    run.history.write_text(run.history.read_text().replace("train/loss", "train/lost"))
    assert HistoryLogger(run.history).restore() == 0


# model.json and model.safetensors

ENCODER = {"_target_": "implicit_em.models.Encoder", "in_features": 64, "hidden": 5}
LSTM = {"_target_": "torch.nn.LSTM", "input_size": 1, "num_layers": 10**7}
NO_MODELS = {
    "half": '{"model": {"_target_"',
    "a list": "[]",
    "no model": "{}",
    "no class": {"in_features": 64},
    "another argument": {**ENCODER, "depth": 3},
    "a missing argument": {"_target_": ENCODER["_target_"]},
    "a text for a number": {**ENCODER, "hidden": "many"},
    "a negative number": {**ENCODER, "hidden": -5},
    "another width": {**ENCODER, "in_features": 65},
    "another model": {**ENCODER, "_target_": "implicit_em.models.SparseAutoencoder"},
    "more than memory holds": {**ENCODER, "hidden": 10**9, "in_features": 10**7},
    "more than can be counted": {**ENCODER, "hidden": 10**30},
    "deep": "[" * 100_000,
    "a class that nobody needs": LSTM,
    "the same as an activation": {**ENCODER, "activation": LSTM},
    "a model of models": {**ENCODER, "activation": ENCODER},
    "no class of a part": {**ENCODER, "activation": {"negative_slope": 0.3}},
    "a list of parts": {**ENCODER, "activation": [{"_target_": "torch.nn.ReLU"}]},
    "an activation alone": {"_target_": "torch.nn.PReLU"},
    "no end of sweeps": {**ENCODER, "_target_": "implicit_em.models.NMF", "sweeps": 10**12},
}


@pytest.mark.parametrize("content", NO_MODELS)
def test_a_damaged_description_of_a_model_is_refused(run, content):
    content = NO_MODELS[content]
    text = content if isinstance(content, str) else json.dumps({"schema": 1, "model": content})
    write(run.model, text)
    with soon(), pytest.raises(ValueError, match=r"model|Encoder") as refused:
        load(run.path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("option", ["../../x", "none", {"centre": 1}, ["centre"], 3])
def test_a_normalisation_that_is_none_of_ours_is_refused(run, option):
    weights = load_file(run.weights) | {f"{STATISTICS}{n}": torch.ones(64) for n in NORMALIZER}
    save_file(weights, run.weights)
    run.model.write_text(json.dumps(run.read_model() | {"normalize": "centre"}))
    load(run.path)
    run.model.write_text(json.dumps(run.read_model() | {"normalize": option}))
    with pytest.raises(DamagedError, match=r"normalize="):
        load(run.path)


def test_a_foreign_class_is_named_in_one_line_by_commands(run, capsys):
    run.model.write_text(json.dumps({"model": {**ENCODER, "_target_": "my_models.Mine"}}))
    assert export_main([str(run.path)]) == 2
    line = "the model needs my_models.Mine: pass the class, load(..., classes=[Mine])"
    assert one_line(capsys) == f"error: {run.model} cannot be built: {line}\n"
    config = OmegaConf.load(run.config)
    config.model._target_ = "my_models.Mine"
    for damaged in (config, OmegaConf.create({"seed": 1})):
        OmegaConf.save(damaged, run.config)
        assert export_main([str(run.path)]) == 2
        assert one_line(capsys).startswith(f"error: {run.config}: model: ")


NO_WEIGHTS = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[:-100],
    "half a header": lambda content: content[:20],
    "a longer header than file": lambda content: b"\xff" * 8 + content[8:],
    "a bit of the header flipped": lambda content: content[:9] + b"\x00" + content[10:],
    "a pickle": lambda content: b"\x80\x02cos\nsystem\n(S'touch called'\ntR.",
}
OTHER_WEIGHTS = {
    "other statistics": lambda weights: weights | {f"{STATISTICS}mean": torch.ones(63)},
    "other shapes": lambda weights: {key: w[:3].contiguous() for key, w in weights.items()},
    "other names": lambda weights: {f"{key}x": weight for key, weight in weights.items()},
    "integers": lambda weights: {key: weight.long() for key, weight in weights.items()},
    "too few": lambda weights: dict(list(weights.items())[:1]),
    "too many": lambda weights: {**weights, "more": torch.zeros(3)},
    "none": lambda weights: {},
}


def assert_no_weights(run, capsys, reason="does not fit its model"):
    with soon(), pytest.raises(DamagedError, match=rf"model\.safetensors:? {reason}"):
        load(run.path)
    assert evaluate_main([str(run.path)]) == 2
    assert reason in one_line(capsys)


@pytest.mark.parametrize("damage", NO_WEIGHTS)
def test_damaged_weights_are_refused(run, damage, capsys, monkeypatch):
    monkeypatch.chdir(run.path)
    write(run.weights, NO_WEIGHTS[damage](run.weights.read_bytes()))
    assert_no_weights(run, capsys)
    assert not (run.path / "called").exists()


@pytest.mark.parametrize("change", OTHER_WEIGHTS)
def test_weights_of_another_model_are_refused(run, change, capsys):
    statistics = {f"{STATISTICS}{name}": torch.ones(64) for name in NORMALIZER}
    save_file(OTHER_WEIGHTS[change](load_file(run.weights) | statistics), run.weights)
    run.model.write_text(json.dumps(run.read_model() | {"normalize": "centre"}))
    assert_no_weights(run, capsys)


def test_loading_draws_no_random_numbers(run):
    before = torch.get_rng_state()
    load(run.path)
    assert torch.equal(torch.get_rng_state(), before)


# Checkpoints


def test_a_checkpoint_of_other_shapes_is_refused_in_one_line(run, cfg, command, tmp_path, capfd):
    run.metrics.unlink()
    wider = RunDirectory(tmp_path / "wider")
    cfg.model.hidden = 7
    train(cfg, wider.path)
    foreign, own = (torch.load(of.checkpoint, weights_only=True) for of in (wider, run))
    torch.save(foreign | {OWN: own[OWN]}, run.checkpoint)
    assert command(run.path) == 2
    out, err = capfd.readouterr()
    reason = (
        "the checkpoint is another model's or an earlier version's: "
        "model.linear.bias=(7,) there, (5,) here; model.linear.weight=(7, 64) there, (5, 64) here"
    )
    assert err == f"error: {reason}\n"
    assert "Traceback" not in out
    assert run.read_metrics()["error"] == reason


def test_a_checkpoint_that_carries_a_pickle_is_not_unpickled(run, cfg, finished, tmp_path, caplog):
    run.metrics.unlink()
    called = tmp_path / "called"
    for path in (run.checkpoint, previous(run.checkpoint)):
        content = torch.load(path, weights_only=True)
        torch.save({**content, "payload": Harmful(called)}, path)
    train(cfg, run.path)
    assert not called.exists()
    assert caplog.text.count("cannot be read (UnpicklingError): not used") == 2
    assert results(run.path) == results(finished)


# Foreign classes

called = []


def foreign(*arguments, **options):
    """What a downloaded directory would like to have called."""
    called.append((arguments, options))


FOREIGN = f"""
{__name__}.foreign os.system builtins.eval torch.load torch.hub.load torch.nn.modules.os.system
torch.nn.Module.__class__ torch.nn.functional.os.system torch.nn.__builtins__.eval torch.nn.
torch.nn.functional.relu torch.nn.Parameter torch.nn.Missing torch.nnx.ReLU Encoder
implicit_em.models.encoder.nn.os.system implicit_em.models.__class__ implicit_em.models.encoder
implicit_em.data.TorchvisionDataModule implicit_em.training.train implicit_em.models.nn.Linear
subprocess.Popen
"""
PLACES = [
    lambda target: {"_target_": target},
    lambda target: {"activation": {"_target_": target}},
    lambda target: {"activation": {"_target_": target, "_args_": ["touch called"]}},
    lambda target: {"activation": {"_target_": target, "_partial_": True}},
    lambda target: {"activation": {"_target_": "torch.nn.Softplus", "beta": {"_target_": target}}},
]


@pytest.mark.parametrize("target", FOREIGN.split())
def test_loading_never_builds_a_foreign_class(run, monkeypatch, target):
    called.clear()
    monkeypatch.chdir(run.path)
    for place in PLACES:
        run.model.write_text(json.dumps({"schema": 1, "model": ENCODER | place(target)}))
        with pytest.raises(ValueError, match=f"the model needs {re.escape(target)}: pass the cl"):
            load(run.path)
    assert not called
    assert not (run.path / "called").exists()


@pytest.mark.parametrize("key", ["_args_", "_partial_", "_recursive_", "_convert_", "_call_"])
def test_hydras_own_keys_mean_nothing_to_loading(run, key):
    for spec in ({**ENCODER, key: True}, {**ENCODER, "activation": {"_target_": "torch.nn.ReLU"}}):
        spec.get("activation", spec)[key] = True
        run.model.write_text(json.dumps({"schema": 1, "model": spec}))
        with pytest.raises(ValueError, match="cannot be built"):
            load(run.path)


def test_a_summary_builds_nothing(run, capfd):
    called.clear()
    config = OmegaConf.load(run.config)
    target = {"_target_": f"{__name__}.foreign"}
    for key in ("model", "data", "optimizer", "logger"):
        config[key] = {**config[key], **target}
    config.loss.lse = {**config.loss.lse, **target}
    config.callbacks = {"foreign": target}
    config.lr.schedule = target
    OmegaConf.save(config, run.config)
    assert not summarise(run.path.parent)
    assert the_only_row(run)["status"] == "mismatch"
    assert run.refusal(RunSpec.of(config)) == (
        f"{run.path}: holds a run of other settings (metrics.json is of schema 2); nothing is "
        "overwritten: choose another directory, or overwrite=true"
    )
    assert not called
    instantiate(config.optimizer)
    assert called, "it would have been, by what does build"


def test_what_builds_says_so(capsys):
    with pytest.raises(SystemExit):
        evaluate_main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "use implicit_em.load for a directory that you do not trust" in shown
    assert "only for a directory that you trust" in (ROOT / "conf" / "train.yaml").read_text()


# Names

LEADING_ELSEWHERE = [
    *("../x", "..", "...", ".", "/etc/x", "seed=1/../../x", "seed=../x", "a/b", "a\\..\\b", "~"),
    *("~/x", "$HOME", "a\0b", "a\nb", "x=a\nb", "x=é", "data.root=/x", "x" * 151, ""),
]


def test_a_job_never_leaves_its_sweep(cfg, tmp_path):
    for name in LEADING_ELSEWHERE:
        directory = JobDirectories(tmp_path).name_of([name], cfg)
        assert directory == config_fingerprint(cfg)
        assert (tmp_path / directory).resolve().parent == tmp_path.resolve()
    typed = ["seed=1", "loss=lse", "logger.mode=offline"]
    assert JobDirectories(tmp_path).name_of(typed, cfg) == "loss=lse,seed=1"
    (tmp_path / "jobs.json").write_text(json.dumps({"../x": "a", "..": "b", "$HOME": "c"}))
    for job in "abc":
        assert JobDirectories(tmp_path).name_of([job], cfg) == job


@pytest.mark.parametrize("key", ["name", "version"])
def test_which_names_of_loggers_are_refused(composed, key):
    cfg = composed("logger=tensorboard")
    for name in ("../x", "/tmp/x", "a/../../x", ".."):
        cfg.logger[key] = name
        with pytest.raises(ConfigError, match=rf"logger\.{key}="):
            check(RunSpec.of(cfg))
    for name in ("ablation/seed 1", "größe", 7, None, "...", "a..b"):
        cfg.logger[key] = name
        check(RunSpec.of(cfg))


# YAML

YAML = {
    "empty": "",
    "a list": "[1, 2]",
    "no YAML": "a: [1, 2",
    "bytes": b"\xff\xfe\x00\x01",
    "deep": "[" * 400_000,
    "deep mappings": "{a: " * 100_000,
    "references to its own settings": "seed: 1\nlr: ${seed}",
    "a circle": "seed: ${seed}",
    "nowhere": "seed: ${nowhere}",
    "the environment": "seed: ${oc.env:SECRET}",
    "the environment, hidden": 'seed: "\\x24{oc.env:SECRET}"',
    "the environment, in parts": "name: env\nseed: ${oc.${name}:SECRET}",
    "the environment, deeper": "name: oc.env\nseed: ${${name}:SECRET}",
    "the environment, in a list": "data: [1, 'x ${oc.env:SECRET}']",
    "a resolver with effects": "seed: ${effect:}",
    "an object": "seed: !!python/object/apply:os.system ['touch called']",
    "a date": "seed: 2001-01-01",
    "a group that is none": "model: 3\nloss: [1]\ndata: x\ntrainer: null",
    "a term that is none": "loss: {lse: 3}",
}


@pytest.fixture
def effects(monkeypatch, tmp_path):
    """A variable that is nobody's business, and a resolver that should not run."""
    monkeypatch.setenv("SECRET", "hunter2")
    monkeypatch.chdir(tmp_path)
    ran = []
    OmegaConf.register_new_resolver("effect", lambda: ran.append(1) or 1)
    yield ran
    OmegaConf.clear_resolver("effect")


@pytest.mark.parametrize("content", YAML)
def test_a_configuration_that_is_none_is_refused_soon(run, effects, tmp_path, capfd, content):
    write(run.config, YAML[content])
    with soon():
        with pytest.raises(DamagedError) as refused:
            run.read_config()
        row = the_only_row(run)
    line = str(refused.value)
    assert line.startswith(str(run.config))
    assert "\n" not in line
    assert len(line) < 500
    assert (row["status"], row["error"]) == ("damaged", line)
    assert not summarise(run.path.parent)
    assert "hunter2" not in line + capfd.readouterr().out
    assert not effects
    assert not (tmp_path / "called").exists()


def test_a_command_refuses_it_in_one_line(run, command, command_line, effects, capfd):
    write(run.config, YAML["the environment"])
    for refused in (
        lambda: command(run.path),
        lambda: command_line(f"resume={run.path}"),
        lambda: evaluate_main([str(run.path)]),
    ):
        assert refused() == 2
        err = one_line(capfd)
        assert str(run.config) in err
        assert "hunter2" not in err
    assert command(run.path, "overwrite=true") == 0


@pytest.mark.parametrize(
    "content", ["", "3", "{a: 1}", "[1]", "[[a]]", "[*a]", "&a [*a]", "[" * 9**6]
)
def test_overrides_that_are_none_are_refused_soon(run, content):
    write(run.overrides, content)
    with soon():
        with pytest.raises(DamagedError):
            run.read_overrides()
        assert the_only_row(run)["status"] == "damaged"


def test_a_run_with_overrides_that_are_none_is_refused_in_one_line(run, command_line, capfd):
    write(run.overrides, "{a: 1}")
    assert command_line(f"resume={run.path}", "trainer.max_epochs=100") == 2
    assert capfd.readouterr().err == f"error: {run.overrides}: no list of overrides\n"
    assert run.completed_metrics(), "all is as it was"


def test_overrides_are_shown_as_they_were_typed(run, effects, capsys):
    typed = ["+a=${oc.env:SECRET}", "+b=${effect:}", "callbacks=[/best]", "x=[red]"]
    OmegaConf.save(OmegaConf.create([]), run.overrides)
    run.overrides.write_text("".join(f"- '{line}'\n" for line in typed))
    assert the_only_row(run)["job"] == ",".join(typed)
    assert summarise(run.path.parent)
    out = capsys.readouterr().out
    assert "hunter2" not in out
    assert "[/best]" in out.replace("\n", "")
    assert not effects


def test_a_saved_configuration_asks_for_nothing_more(composed, small_mnist, tmp_path, monkeypatch):
    monkeypatch.setenv("PIXELS", str(small_mnist))
    cfg = composed(*settings("${oc.env:PIXELS}"), "seed=3", "lr.value=2e-3")
    train(cfg, tmp_path)
    monkeypatch.setenv("PIXELS", "elsewhere")
    there = RunDirectory(tmp_path).read_config()
    assert "${" not in (tmp_path / ".hydra" / "config.yaml").read_text()
    assert there.data.root == str(small_mnist)
    assert (there.data.seed, there.optimizer.lr) == (3, 2e-3)
    assert config_fingerprint(there) == config_fingerprint(cfg)
