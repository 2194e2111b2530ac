"""``data=tensors``: samples of one's own, from files."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from helpers.arrays import BRIEF, WIDTH, draw, ready, write
from helpers.breaking import broken_off
from helpers.changes import overwritten
from helpers.pickles import Harmful
from helpers.results import results as results_of
from omegaconf import OmegaConf

import implicit_em
from implicit_em.base.digest import digest_of
from implicit_em.base.errors import ConfigError
from implicit_em.config.fingerprint import config_fingerprint
from implicit_em.data import TensorDataModule, tensors
from implicit_em.training.check import check
from implicit_em.training.spec import RunSpec


@pytest.fixture
def files(tmp_path, monkeypatch):
    """X.npy and y.npy in the working directory, 300 samples of three classes."""
    monkeypatch.chdir(tmp_path)
    samples, labels = draw()
    write(tmp_path / "X.npy", samples=samples)
    write(tmp_path / "y.npy", labels=labels)
    return tmp_path


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".pt"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float16, np.float64])
def test_every_format_gives_the_arrays_as_they_are(tmp_path, suffix, dtype):
    samples, labels = draw(dtype=dtype)
    train, test = (
        write(tmp_path / f"{n}{suffix}", samples=samples[:, ::d].copy())
        for n, d in (("a", 1), ("b", -1))
    )
    y = write(tmp_path / f"y{suffix}", labels=labels.astype(np.uint8))
    data = ready(train, labels=y, test_path=test, test_labels=y)
    for name, order in (("train", 1), ("test", -1)):
        found, targets = data.split(name)
        assert np.array_equal(found.numpy(), samples[:, ::order])
        assert targets.dtype == torch.int64
        assert targets.tolist() == labels.tolist()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
def test_an_archive_holds_samples_and_labels(tmp_path, suffix):
    samples, labels = draw()
    both = write(tmp_path / f"both{suffix}", y=labels, x=samples)
    more = write(tmp_path / f"more{suffix}", y=labels[::-1].copy(), x=samples, z=samples + 1)
    data = ready(both, labels="y", test_path=both)
    assert np.array_equal(data.split("test")[0].numpy(), samples)
    assert data.split("test")[1].tolist() == labels.tolist()
    data = ready(more, labels="y", key="z", test_path=more)
    assert np.array_equal(data.split("train")[0].numpy(), samples + 1)
    assert data.split("test")[1].tolist() == labels.tolist()[::-1]


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".pt"])
def test_samples_in_memory_stay_as_they_were_read(tmp_path, suffix):
    path = write(tmp_path / f"X{suffix}", samples=draw()[0])
    samples = ready(path, test_path=path).split("train")[0]
    overwritten(path)
    assert np.array_equal(samples, draw()[0])


def test_orders_of_bytes_and_axes_do_not_matter(tmp_path):
    samples = draw()[0]
    np.save(tmp_path / "big.npy", samples.astype(">f4"))
    np.save(tmp_path / "columns.npy", np.asfortranarray(samples))
    for name in ("big.npy", "columns.npy"):
        data = ready(tmp_path / name, test_path=tmp_path / name, batch_size=300)
        assert np.array_equal(data.split("train")[0].numpy(), samples)
        ((x, _),) = data.test_dataloader()
        assert np.array_equal(x.numpy(), samples)


def test_a_fraction_is_held_out_by_its_own_seed(files):
    samples, labels = draw()

    def rows(data, name):
        found, targets = data.split(name)
        indices = [int(np.flatnonzero((samples == row).all(1))[0]) for row in found.numpy()]
        assert targets.tolist() == labels[indices].tolist()
        return indices

    data = ready("X.npy", labels="y.npy", test_fraction=0.25)
    train, test = rows(data, "train"), rows(data, "test")
    assert len(test) == 75
    assert sorted(train + test) == list(range(300))
    assert test not in (list(range(75)), list(range(225, 300)))
    assert rows(ready("X.npy", labels="y.npy", test_fraction=0.25, seed=5), "test") == test
    assert rows(ready("X.npy", labels="y.npy", test_fraction=0.25, split_seed=1), "test") != test


def run(command_line, directory, *arguments):
    assert command_line("data=tensors", *BRIEF, *arguments, f"hydra.run.dir={directory}") == 0
    return json.loads((directory / "metrics.json").read_text())


def test_a_run_trains_measures_and_probes_rows_of_any_scale(command_line, files):
    np.save("X.npy", draw(dtype="float64")[0])
    shown = ["data.path=X.npy", "data.labels=y.npy", "picture=true"]
    metrics = run(command_line, files / "run", *shown)
    assert metrics["status"] == "completed"
    assert metrics["probe_accuracy"] > 0.9
    assert metrics["parameters"] == 5 * WIDTH + 5
    encoder = implicit_em.load(files / "run")
    assert encoder(torch.tensor(draw()[0])).shape == (300, 5)
    assert (files / "run/features.png").exists()


@pytest.mark.parametrize("model", ["sampled", "l1"])
def test_a_model_that_starts_from_the_samples_takes_any_precision(command_line, files, model):
    torch.save(torch.tensor(draw()[0]).bfloat16(), "X.pt")
    np.save("X.npy", draw(dtype="float64")[0])
    for name in ("X.pt", "X.npy"):
        options = (f"data.path={name}", f"model={model}", "model.hidden=5")
        assert run(command_line, files / f"run-{name}", *options)["status"] == "completed"


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("pca", "model: PCA with 64 units cannot start from training samples of shape (240, 12): "),
        ("nmf", "model: NMF with 64 units cannot start from training samples of shape (240, 12): "),
        ("pixels", "hidden=64: must be null, as many as inputs"),
    ],
)
def test_a_model_that_cannot_start_from_the_samples_says_so(
    command_line, capfd, files, model, reason
):
    options = ("data.path=X.npy", f"model={model}", "model.hidden=64", "logger=csv")
    assert command_line("data=tensors", *options, f"hydra.run.dir={files}/run") == 2
    out, err = capfd.readouterr()
    assert reason in out + err
    assert "Traceback" not in out + err


def test_in_half_precision_rows_without_labels_are_not_probed(command_line, files):
    metrics = run(command_line, files / "run", "data.path=X.npy", "trainer.precision=bf16-true")
    assert metrics["status"] == "completed"
    assert metrics["probe_accuracy"] is None
    assert metrics["redundancy"] is not None


def test_images_of_bytes_are_scaled(files):
    np.save("X.npy", np.full((10, 4, 4), 51, np.uint8))
    data = ready("X.npy", batch_size=8)
    assert data.sample_shape == (4, 4)
    assert all(torch.allclose(x, torch.tensor(0.2)) for x, _ in data.train_dataloader())


def test_a_stacked_sweep_reads_once_and_equals_runs_alone(command_line, files, monkeypatch):
    reads = []
    read = TensorDataModule._read
    monkeypatch.setattr(TensorDataModule, "_read", lambda *a: reads.append(a) or read(*a))
    arguments = ["data=tensors", "data.path=X.npy", "data.labels=y.npy", *BRIEF, "model.hidden=8"]
    arguments.append("picture=true")
    together = ["-m", *arguments, "seed=1,2", "hydra/launcher=stacked", "hydra.sweep.dir=sweep"]
    with monkeypatch.context() as patch:
        patch.setattr(tensors, "LARGE", 0)
        assert command_line(*together) == 0
    os.utime("X.npy")  # to be read anew
    assert len(reads) == 2, "each split once"
    jobs = sorted((files / "sweep").glob("*/metrics.json"))
    assert len(jobs) == 2
    for seed, job in zip((1, 2), jobs, strict=True):
        alone = files / f"alone{seed}"
        assert command_line(*arguments, f"seed={seed}", f"hydra.run.dir={alone}") == 0
        for name in ("history.csv", "model.safetensors", "features.png"):
            assert (job.parent / name).read_bytes() == (alone / name).read_bytes()


@pytest.fixture
def configured(composed):
    """Compose ``data=tensors`` with overrides."""
    return lambda *overrides: composed("data=tensors", *BRIEF, *overrides)


def test_the_fingerprint_is_that_of_the_content(configured, files):
    def fingerprint(*overrides):
        return config_fingerprint(configured(*overrides))

    first = fingerprint("data.path=X.npy", "data.labels=y.npy")
    (files / "deep").mkdir()
    os.rename("X.npy", "deep/A.npy")
    os.utime("deep/A.npy", (0, 0))
    assert fingerprint(f"data.path={files}/deep/A.npy", "data.labels=y.npy") == first
    assert fingerprint("data.path=deep/A.npy") != first, "without labels"
    third = ("data.path=deep/A.npy", "data.labels=y.npy", "data.test_fraction=0.3")
    assert fingerprint(*third) != first
    samples = draw()[0]
    samples[7, 3] += 1
    state = os.stat("deep/A.npy")
    np.save("deep/A.npy", samples)
    assert os.stat("deep/A.npy").st_size == state.st_size
    assert fingerprint("data.path=deep/A.npy", "data.labels=y.npy") != first
    write(files / "both.npz", x=samples, y=np.arange(300), z=np.arange(300))
    both = [fingerprint("data.path=both.npz", "data.key=x", f"data.labels={n}") for n in "yz"]
    assert both[0] != both[1]


def test_the_same_run_is_found_complete_where_its_files_lie_now(
    command_line, refused, files, capfd
):
    run(command_line, files / "run", "data.path=X.npy")
    os.rename("X.npy", "Y.npy")
    capfd.readouterr()
    run(command_line, files / "run", "data.path=Y.npy")
    assert "is complete already: reused" in capfd.readouterr().out
    arguments = ["data=tensors", *BRIEF, "data.path=Y.npy", f"hydra.run.dir={files / 'run'}"]
    assert "of other settings (seed=1 there, 2 here)" in refused(*arguments, "seed=2")
    np.save("Y.npy", draw(seed=1)[0])
    assert "holds a run of other settings (data.digest=" in refused(*arguments)


def test_a_run_that_never_began_leaves_its_directory_free(command_line, refused, files):
    np.save("text.npy", np.array(["a", "b"] * 150))
    arguments = ["data=tensors", *BRIEF, "data.path=X.npy", "hydra.run.dir=run"]
    line = refused(*arguments, "data.labels=text.npy")
    assert "data.labels=text.npy: holds text; allowed are numbers" in line
    assert command_line(*arguments) == 0


@pytest.fixture
def broken(configured, files, monkeypatch, command_line):
    """A run that broke off, beside an undisturbed one."""
    typed = ["data.path=X.npy", "data.labels=y.npy", "trainer.max_epochs=4"]
    implicit_em.train(configured(*typed), files / "undisturbed")
    broken_off(monkeypatch, configured(*typed), files / "run", block=3)
    overrides = OmegaConf.create(["data=tensors", *BRIEF, *typed])
    (files / "run/.hydra/overrides.yaml").write_text(OmegaConf.to_yaml(overrides))
    return files / "run"


def test_a_run_goes_on_to_the_same_bits_where_its_files_lie_now(command_line, broken, files):
    os.rename("X.npy", "moved.npy")
    assert command_line(f"resume={broken}") == 2
    assert command_line(f"resume={broken}", "data=tensors", "data.path=moved.npy") == 0
    assert results_of(broken) == results_of(files / "undisturbed")


def test_a_run_does_not_go_on_with_other_content(refused, broken):
    np.save("X.npy", draw(seed=1)[0])
    line = refused(f"resume={broken}")
    assert line.startswith("error: data.digest=")
    assert "the content of path=X.npy, or of the files beside it, is another" in line
    write(broken.parent / "X.npy", samples=draw()[0])
    write(broken.parent / "Z.npy", samples=draw(seed=1)[0])
    line = refused(f"resume={broken}", "data=tensors", "data.path=Z.npy")
    assert "data=tensors: makes another experiment" in line


MISTAKES = {
    ("data.path=nowhere.npy",): "data.path=nowhere.npy: no such file",
    (): "error: data.path: missing; write data.path=...",
    ("data.path=null",): "data.path=None: allowed are files .npy, .npz, .safetensors, .pt",
    ("data.path=X.csv",): "data.path=X.csv: allowed are files .npy",
    ("data.path=X.npy", "data.test_path=z.npy"): "data.test_path=z.npy: no such file",
    ("data.path=X.npy", "data.test_labels=y.npy"): "data.test_labels=y.npy: must be given where",
    ("data.path=X.npy", "data.labels=y.npy", "data.test_path=X.npy"): "test_labels=None: must be",
    ("data.path=X.npy", "data.test_fraction=1"): "data.test_fraction=1: allowed are numbers",
    ("data.path=X.npy", "data.split_seed=-1"): "data.split_seed=-1: allowed are whole numbers",
    ("data.path=X.npy", "+data.tset_path=X.npy"): "tset_path",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_refused_before_a_directory_exists(refused, files, typed):
    assert MISTAKES[typed] in refused("data=tensors", *BRIEF, *typed, "hydra.run.dir=run")
    assert not (files / "run").exists()


def test_a_mistake_stops_a_sweep_before_its_first_job(refused, files):
    line = refused("-m", "data=tensors", "data.path=X.npy,deep/no.npy", *BRIEF)
    assert line == "error: data.path=deep/no.npy: no such file\n"
    assert not (files / "multirun").exists()


def refusal_of(path, **arguments):
    with pytest.raises(ConfigError) as refused:
        ready(path, **arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".pt"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "another format", "pickle"])
def test_a_file_that_is_none_is_refused(files, suffix, damage):
    path = write(files / f"A{suffix}", samples=draw()[0])
    content = path.read_bytes()
    other = {
        "truncated": content[: len(content) // 2],
        "empty": b"",
        "another format": b"\x93NUMPY" if suffix == ".npz" else b"PK\3\4" + bytes(100),
        "pickle": pickle.dumps(Harmful("harmed")),
    }
    path.write_bytes(other[damage])
    assert refusal_of(path).removeprefix("path=").startswith(str(path))
    assert not (files / "harmed").exists()


def test_nothing_is_unpickled(files):
    torch.save({"x": Harmful("harmed")}, "A.pt")
    assert refusal_of("A.pt") == "path=A.pt: holds more than dense tensors, and is not unpickled"
    np.save("A.npy", np.array([Harmful("harmed"), None]), allow_pickle=True)
    np.savez("A.npz", np.array([Harmful("harmed"), None]), allow_pickle=True)
    for name in ("A.npy", "A.npz"):
        assert refusal_of(name).startswith(f"path={name}: ")
    assert not (files / "harmed").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x: x.astype(np.int32), "samples of torch.int32; allowed are uint8"),
        (lambda x: x.astype(np.complex64), "samples of torch.complex64; allowed are uint8"),
        (lambda x: x.astype(str), "holds text; allowed are numbers"),
        (lambda x: x[:, 0], r"samples of shape (300,); allowed is (N, ...)"),
        (lambda x: np.float32(3), r"samples of shape (); allowed is (N, ...)"),
        (lambda x: x[:1], "1 samples of shape (12,); at least 2"),
        (lambda x: x[:, :0], "300 samples of shape (0,)"),
        (lambda x: np.where(x == x[200, 7], np.nan, x), "nan at [200, 7]; all must be finite"),
    ],
)
def test_samples_that_cannot_be_trained_on_are_refused(files, monkeypatch, change, reason):
    monkeypatch.setattr("implicit_em.data.checks.VALUES", 5 * WIDTH)
    np.save("A.npy", change(draw()[0]))
    line = refusal_of("A.npy")
    assert line.startswith("path=A.npy: ")
    assert reason in line


@pytest.mark.parametrize(
    "labels", [np.arange(300.0), np.eye(300, dtype=int), np.array(["a"] * 300), np.arange(4)]
)
def test_labels_that_are_none_are_refused(files, labels):
    np.save("A.npy", labels)
    line = refusal_of("X.npy", labels="A.npy")
    reasons = ("allowed are whole numbers of shape (N,)", "holds text", "but 4 labels")
    assert any(reason in line for reason in reasons)


def test_a_path_in_the_home_folder(files, monkeypatch):
    monkeypatch.setenv("HOME", str(files))
    monkeypatch.chdir(files / "..")
    assert digest_of("~/X.npy") == digest_of(files / "X.npy")
    data = ready("~/X.npy", labels="~/y.npy", test_path="~/X.npy", test_labels="~/y.npy")
    assert data.split("test")[0].shape == (300, WIDTH)


def test_the_last_dimensions_make_a_sample(files):
    tokens = np.random.default_rng(0).normal(size=(10, 6, 4)).astype(np.float32)
    np.save("X.npy", tokens)
    np.save("each.npy", np.arange(60).reshape(10, 6))
    np.save("first.npy", np.arange(10))
    for name, expected in (("each.npy", np.arange(60)), ("first.npy", np.repeat(np.arange(10), 6))):
        data = ready("X.npy", labels=name, feature_dims=1)
        assert data.sample_shape == (4,)
        (train, y), (test, t) = data.split("train"), data.split("test")
        assert len(test) == 12, "the test split divides the first dimension"
        found = {tuple(row) for row in test.reshape(2, 24).tolist()}
        assert found < {tuple(row) for row in tokens.reshape(10, 24).tolist()}
        order = [int(np.flatnonzero((tokens.reshape(60, 4) == x).all(1))[0]) for x in train.numpy()]
        assert y.tolist() == expected[order].tolist()
        assert len(set(y.tolist()) | set(t.tolist())) == len(set(expected))
    assert torch.equal(
        ready("X.npy", feature_dims=2).split("train")[0], ready("X.npy").split("train")[0]
    )
    assert "feature_dims=3 leaves no dimension" in refusal_of("X.npy", feature_dims=3)
    assert "feature_dims=0: allowed are null and" in refusal_of("X.npy", feature_dims=0)


def test_flattening_is_said(command_line, files, capfd):
    np.save("X.npy", np.random.default_rng(0).normal(size=(50, 6, 4)))
    line = "data.path=X.npy: each sample of shape (6, 4) is flattened to 24 inputs; "
    line += "data.feature_dims=1 takes its rows as samples of 4 inputs"
    for option, expected in (("null", 1), ("2", 0), ("1", 0)):
        directory = files / f"run{option}"
        run(command_line, directory, "data.path=X.npy", f"data.feature_dims={option}")
        assert capfd.readouterr().out.splitlines().count(line) == expected
    encoder = implicit_em.load(files / "run1")
    assert encoder.weight.shape == (5, 4)


def test_names_of_arrays_are_asked_for_and_listed(files):
    samples, labels = draw()
    write(files / "A.npz", x=samples, y=labels, z=samples)
    listed = "path=A.npz: holds the arrays x, y, z; "
    assert refusal_of("A.npz", labels="y") == listed + "one is to be named by key"
    assert refusal_of("A.npz", key="w") == listed + "none is named w"
    assert refusal_of("A.npz", key="x", labels="w") == f"labels=w in {listed}none is named w"


def test_test_samples_of_another_scale_are_refused(files):
    np.save("A.npy", draw(dtype=np.uint8)[0])
    for path, test_path in (("X.npy", "A.npy"), ("A.npy", "X.npy")):
        assert "one split is of uint8" in refusal_of(path, test_path=test_path)


def test_a_tensor_larger_than_memory_is_refused(files):
    torch.save(torch.zeros(1).expand(10**9, 10**3), "A.pt")
    assert "4000.0 GB of samples must be held in memory" in refusal_of("A.pt")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (torch.eye(5).to_sparse(), "holds a sparse tensor; allowed are dense arrays"),
        ({"x": torch.eye(5).to(torch.complex64)}, "samples of torch.complex64; allowed are uint8"),
        ([torch.eye(5)], "holds a list; allowed are dense arrays"),
        ({"x": {"y": torch.eye(5)}}, "holds a dict; allowed are dense arrays"),
    ],
)
def test_other_things_than_dense_tensors_are_refused(files, content, reason):
    torch.save(content, "A.pt")
    assert reason in refusal_of("A.pt")


def test_a_pt_file_may_hold_parameters_views_and_transposed_tensors(files):
    x = torch.tensor(draw()[0])
    for saved in (torch.nn.Parameter(x), torch.cat([x, x])[300:], x.T.contiguous().T, x[:, ::2]):
        beside = {"shape": x.shape, "dtype": x.dtype, "text": "any", "set": {1}, "other": 3.5}
        torch.save({"x": saved, "y": torch.arange(300), **beside}, "A.pt")
        data = ready("A.pt", key="x", labels="y", test_path="A.pt")
        assert torch.equal(data.split("train")[0], saved.detach())
    layer = torch.nn.Linear(4, 3)
    torch.save(layer.state_dict(), "A.pt")
    assert torch.equal(ready("A.pt", key="weight", test_path="A.pt").split("test")[0], layer.weight)


@pytest.mark.parametrize("length", [2**40, 10**7 + 1])
def test_a_safetensors_file_with_a_header_of_any_length_is_refused(files, length):
    (files / "A.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}")
    assert f"10 bytes, and a header of {length:,}" in refusal_of("A.safetensors")


@pytest.mark.parametrize(
    "entry",
    [
        {"shape": [300, 12], "data_offsets": [0, 10**12]},
        {"shape": [10**9, 12], "data_offsets": [0, 48 * 10**9]},
        {"shape": [-2, -2], "data_offsets": [0, 16]},
        {"shape": [300, 12], "data_offsets": [-9, 14391]},
        {"shape": "ab", "data_offsets": [0, 4]},
        {"shape": [2], "data_offsets": None},
        {},
    ],
)
def test_a_safetensors_file_whose_header_contradicts_it_is_refused(files, entry):
    header = json.dumps({"x": {"dtype": "F32", **entry}}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(14_400)
    (files / "A.safetensors").write_bytes(content)
    assert refusal_of("A.safetensors").startswith("path=A.safetensors: ")


def test_the_check_looks_at_files_only_where_the_run_will_be(configured, files):
    cfg = configured("data.path=X.npy")
    check(RunSpec.of(cfg))
    os.remove("X.npy")
    with pytest.raises(ConfigError, match="no such file"):
        check(RunSpec.of(configured("data.path=X.npy")))
    check(RunSpec.of(configured("data.path=X.npy")), here=False)


def test_data_that_lie_elsewhere_have_no_digest_and_are_taken_as_they_are(configured, files):
    os.rename("X.npy", "Y.npy")
    spec = RunSpec.of(configured("data.path=X.npy"))
    assert spec.settings["data"]["digest"] is None
    os.rename("Y.npy", "X.npy")
    assert spec.build_data().in_features == WIDTH
