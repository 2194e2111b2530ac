"""Any configuration passes the check or is refused, and so is any directory by what reads it."""

import copy
import json
import math
import shutil
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
import yaml
from helpers.shapes import Shapes
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from implicit_em.base.errors import ConfigError, DamagedError
from implicit_em.sweeps.summary import group_over_seeds, read_jobs
from implicit_em.trained.loading import load
from implicit_em.training.check import check
from implicit_em.training.checkpoints import previous, resume_point
from implicit_em.training.directory import RunDirectory
from implicit_em.training.history import HistoryLogger
from implicit_em.training.run import train
from implicit_em.training.spec import RunSpec

HANGS = timedelta(seconds=20)
"""No input takes a tenth of a second."""
FEW, MANY = 15, 6_000
AT_LEAST = 10_000


def passes_or_says_why(function: Callable[[], Any], errors: Any) -> None:
    """Call a function, which may raise one of the errors, of one line."""
    try:
        function()
    except errors as error:
        said = str(error)
        assert said
        assert "\n" not in said


def count(accept: Callable[[Any], None], inputs: st.SearchStrategy, examples: int) -> int:
    """Give a function many inputs; returns how many it has accepted without an error."""
    accepted = 0

    @settings(
        max_examples=examples,
        deadline=HANGS,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def accept_all(value):
        nonlocal accepted
        accept(value)
        accepted += 1

    accept_all()
    return accepted


NAMES = [
    *("auto", "cpu", "gpu", "cuda", "mps", "tpu", "ddp", "fsdp", "ddp_spawn", "deepspeed"),
    *("64-true", "bf16-true", "16-mixed", "warn", "simple", "advanced", "norm", "value"),
    *("linear", "none", "min", "max", "mean", "sum", "online", "tanh", "epoch", "step"),
    *("monitor/redundancy", "train/loss", "00:00:01:00", "1_000_000_000_000", "-1", "0,1", "1e9"),
    *("???", "${seed}", "${model}", "${nowhere}", "${lr.value}", "${oc.env:HOME}", "a\nb", ""),
    *("nan", "../..", "/", ".", "\0", "é", "🦆"),
]
TARGETS = [
    *("torch.nn.ReLU", "torch.nn.Linear", "torch.nn.Module", "torch.nn", "torch.optim.LBFGS"),
    *("torch.optim.SGD", "torch.optim.Adam", "torch.optim.lr_scheduler.StepLR", "torch.zeros"),
    *("implicit_em.losses.lse", "implicit_em.losses.l1", "implicit_em.schedules.cosine"),
    *("implicit_em.models.Encoder", "implicit_em.models.SparseAutoencoder"),
    *("pytorch_lightning.callbacks.ModelCheckpoint", "pytorch_lightning.callbacks.Timer"),
    *("builtins.dict", "builtins.int", "builtins.len", "math.log", "nowhere.Missing", "x", "", "."),
]
NUMBERS = [
    *(0, 1, -1, 2, 3, 64, 2**31, 2**32, 10**9, 10**12, 2**63, 2**64, 10**30, -(10**30)),
    *(0.0, -0.0, 0.5, 1.0, 1e-30, 5e-324, 1e30, 1e308, math.nan, math.inf, -math.inf),
]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
SCALARS |= st.sampled_from(NUMBERS) | st.sampled_from(NAMES) | st.sampled_from(TARGETS)
KEYS = st.text(max_size=5) | st.integers(0, 3)
KEYS |= st.sampled_from(["_target_", "_args_", "_partial_", "weight", "hidden", "x", "in_features"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


def places(node, path=()):
    """Return the paths of all nodes of nested containers, but for the root."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    found = []
    for key, value in items:
        found.append((*path, key))
        if isinstance(value, dict | list):
            found += places(value, (*path, key))
    return found


ALIKE = {
    bool: st.booleans(),
    int: st.integers(1, 100) | st.sampled_from([n for n in NUMBERS if isinstance(n, int)]),
    float: st.floats(0, 1) | st.sampled_from([n for n in NUMBERS if isinstance(n, float)]),
    str: st.sampled_from([*NAMES, *TARGETS]),
}
"""What gets past the first look at a value of a type."""


@st.composite
def mutated(draw, originals):
    """Containers of which some nodes are replaced, removed or added."""
    content = copy.deepcopy(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 3))):
        paths = places(content)
        if not paths:
            break
        *parents, key = draw(st.sampled_from(paths))
        node = content
        for parent in parents:
            node = node[parent]
        what = draw(st.sampled_from(["alike", "alike", "alike", "replace", "remove", "add"]))
        if what == "remove":
            del node[key]
        elif what == "add" and isinstance(node, dict):
            node[draw(KEYS)] = draw(VALUES)
        elif what == "alike" and type(node[key]) in ALIKE:
            node[key] = draw(ALIKE[type(node[key])])
        else:
            node[key] = draw(VALUES)
    return content


BASES = [
    [],
    ["model=sae"],
    ["lr=warmup_cosine", "optimizer=momentum", "activation=gelu", "data=kmnist"],
    ["callbacks=[best,early_stopping,lr_monitor]", "activation=softplus", "logger=tensorboard"],
    ["loss=var_tc", "optimizer=adamw", "activation=leaky_relu", "logger=csv", "trainer=default"],
]


@pytest.fixture(scope="module")
def configurations(composed):
    """Configurations that pass, as plain containers."""
    return [OmegaConf.to_container(composed(*overrides)) for overrides in BASES]


@pytest.fixture
def process():
    """Put back what a Trainer sets for a process."""
    yield
    torch.autograd.set_detect_anomaly(False)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False


def passes_or_is_refused(content):
    try:
        cfg = OmegaConf.create(content)
    except (OmegaConfBaseException, ValueError):  # nobody can compose it
        reject()
    passes_or_says_why(lambda: check(RunSpec.of(cfg)), ConfigError)


def test_any_configuration_passes_or_is_refused(configurations, process):
    assert count(passes_or_is_refused, mutated(configurations), FEW) >= FEW // 2


def test_the_check_makes_nothing_large(composed):
    with Shapes() as shapes:
        check(RunSpec.of(composed("model.hidden=10_000_000", "data.batch_size=10_000_000")))
    assert shapes.seen
    assert max(map(math.prod, shapes.seen)) < 2_000_000


@pytest.fixture(scope="module")
def files(composed, small_mnist, tmp_path_factory):
    """The files of a finished run, by their paths within it, and its configuration."""
    overrides = [f"data.root={small_mnist}", "model.hidden=3", "trainer.max_epochs=3"]
    overrides += ["logger=csv", "probe=none", "metrics_every=2"]
    cfg = composed(*overrides)
    path = tmp_path_factory.mktemp("fuzz") / "seed=1"
    train(cfg, path)
    run = RunDirectory(path)
    run.overrides.write_text("- seed=1\n- model.hidden=3\n")
    paths = (run.config, run.overrides, run.metrics, run.history, run.model, run.weights)
    paths += (run.checkpoint, previous(run.checkpoint))
    return {str(p.relative_to(path)): p.read_bytes() for p in paths}, cfg


@st.composite
def damaged(draw, contents, name):
    """The bytes of a file, of which something is changed, or ``None`` for no file."""
    content = contents[name]
    kinds = [*3 * ["inside"], "bits", "cut", "other", "any", "no"]
    kind = draw(st.sampled_from(kinds))
    if kind == "no":
        return None
    if kind == "other":
        return contents[draw(st.sampled_from(sorted(contents)))]
    if kind == "any":
        return draw(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
    if kind == "cut":
        return content[: draw(st.integers(0, len(content)))]
    if kind == "inside" and name.endswith(".json"):
        return json.dumps(draw(mutated([json.loads(content)]))).encode()
    if kind == "inside" and name.endswith(".yaml"):
        return yaml.dump(draw(mutated([yaml.safe_load(content)])), allow_unicode=True).encode()
    if kind == "inside" and name.endswith(".csv"):
        rows = draw(mutated([[line.split(",") for line in content.decode().split("\n")]]))
        rows = [row if isinstance(row, list) else [row] for row in rows]
        return "\n".join(",".join(map(str, row)) for row in rows).encode()
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        changed[draw(st.integers(0, len(changed) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(changed)


@st.composite
def directories(draw, contents):
    names = draw(st.lists(st.sampled_from(sorted(contents)), min_size=1, max_size=2, unique=True))
    return {name: draw(damaged(contents, name)) for name in names}


def reads(path, cfg, contents):
    """Read a directory of these files by everything that reads one, as its documentation says."""
    shutil.rmtree(path.parent, ignore_errors=True)
    for name, content in contents.items():
        if content is not None:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    run = RunDirectory(path)
    documented = {
        run.read_config: (FileNotFoundError, DamagedError),
        run.read_overrides: DamagedError,
        run.read_metrics: (),
        run.completed_metrics: (),
        run.read_model: (FileNotFoundError, DamagedError),
        lambda: run.refusal(RunSpec.of(cfg)): (),
        lambda: load(path): (FileNotFoundError, ValueError),
        lambda: (jobs := read_jobs(path.parent)).empty or group_over_seeds(jobs): (),
        lambda: resume_point(run.checkpoint, "run", HistoryLogger(run.history).restore()): (),
    }
    for read, errors in documented.items():
        passes_or_says_why(read, errors)


@pytest.fixture
def directories_read(files, tmp_path):
    """Read so many directories; gives how many were accepted."""
    contents, cfg = files

    def accept(changes):
        reads(tmp_path / "sweep" / "seed=1", cfg, contents | changes)

    return lambda examples: count(accept, directories(contents), examples)


def test_any_run_directory_is_read_or_refused(directories_read):
    assert directories_read(FEW) >= FEW // 2


@pytest.mark.slow
def test_ten_thousand_inputs(configurations, directories_read, process):
    counts = {
        "configurations": count(passes_or_is_refused, mutated(configurations), MANY),
        "directories": directories_read(MANY),
    }
    print(counts)
    assert sum(counts.values()) >= AT_LEAST
