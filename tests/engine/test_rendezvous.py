"""Runs that train together: each as if it were alone, whoever is there and whoever leaves."""

import threading
from functools import partial
from itertools import groupby, pairwise
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from helpers import replicas
from helpers.trainers import WITHOUT_REMARKS, bare_trainer
from pytorch_lightning.callbacks import EarlyStopping

from implicit_em.base.errors import NonFiniteLossError
from implicit_em.data import Block, BlockLoader, ResidentLoader
from implicit_em.engine.modules import DERIVED_LOSS, EncoderModule, SparseAutoencoderModule
from implicit_em.engine.rendezvous import Rendezvous, arrange
from implicit_em.training.checkpoints import LastCheckpoint
from implicit_em.training.history import EpochProgress, HistoryLogger

pytestmark = WITHOUT_REMARKS

IMAGES = replicas.IMAGES[:336]
STEPS = 11
"""Batches of 32 and one of 16, an epoch."""
ADAM = {"_target_": "torch.optim.Adam", "lr": 1e-2}
TORCH = "torch.optim.lr_scheduler"


class Epochs(pl.Callback):
    """The logged loss of each epoch."""

    def __init__(self):
        self.losses = []

    def on_validation_epoch_end(self, trainer, module):
        self.losses.append(trainer.callback_metrics["train/loss"].item())

    def on_train_end(self, trainer, module):
        self.losses.append(trainer.callback_metrics["train/loss"].item())


class Job:
    """A run with a Trainer of its own; called, it trains."""

    def __init__(self, seed=0, order=None, epochs=2, kind=EncoderModule, blocks=4, **arguments):
        self.flags = {name: arguments.pop(name) for name in ("precision",) if name in arguments}
        self.callbacks = arguments.pop("callbacks", [])
        self.ckpt_path = arguments.pop("ckpt_path", None)
        torch.manual_seed(seed)
        model = {"in_features": 64, "hidden": 32} | arguments.pop("model", {})
        self.module = kind(model, **{"optimizer": ADAM} | arguments)
        self.loader = ResidentLoader(
            IMAGES, torch.arange(len(IMAGES)), 32, seed=seed if order is None else order
        )
        self.blocks, self.epochs, self.watch = blocks, epochs, Epochs()

    def __call__(self):
        flags = {"max_epochs": self.epochs, "log_every_n_steps": 0, **self.flags}
        checkpoints = any(isinstance(one, LastCheckpoint) for one in self.callbacks)
        callbacks = [self.watch, *self.callbacks]
        trainer = bare_trainer(**flags, enable_checkpointing=checkpoints, callbacks=callbacks)
        loader = BlockLoader(self.loader, self.blocks) if self.blocks else self.loader
        trainer.fit(self.module, loader, ckpt_path=self.ckpt_path, weights_only=True)
        return trainer.global_step

    @property
    def weights(self):
        return list(self.module.model.parameters())


def saving(seed, directory):
    """A job that leaves a checkpoint."""
    history = HistoryLogger(directory / "history.csv")
    return Job(seed, callbacks=[LastCheckpoint(directory / "last.ckpt", "run", history)])


def together(*jobs, workers=1):
    """Run the jobs until all are over; gives their futures."""
    meeting = Rendezvous(workers, threads=1)
    try:
        under_way = [meeting.start(job) for job in jobs]
        meeting.conduct()
    finally:
        meeting.close()
    for _, thread in under_way:
        thread.join(10)
        assert not thread.is_alive()
    return [future for future, _ in under_way]


def assert_weights_as_alone(job, alone):
    alone()
    assert all(map(torch.equal, job.weights, alone.weights))


def assert_as_alone(build, workers=1):
    """Run the jobs together, then each by itself: the same bits."""
    jobs = [make() for make in build]
    futures = together(*jobs, workers=workers)
    for make, job, future in zip(build, jobs, futures, strict=True):
        alone = make()
        assert future.result(0) == alone()
        assert alone.watch.losses == job.watch.losses != []
        assert all(map(torch.equal, job.weights, alone.weights))
    return jobs


@pytest.mark.parametrize(("workers", "sizes"), [(1, [5]), (2, [3, 2]), (3, [2, 2, 1])])
def test_the_number_of_workers_does_not_matter(stacks, workers, sizes):
    assert_as_alone([partial(Job, seed, order=seed // 2) for seed in range(5)], workers)
    assert stacks == sizes


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_runs_that_are_not_alike_train_beside_each_other(stacks, workers):
    loss = DERIVED_LOSS | {"tc": DERIVED_LOSS["tc"] | {"weight": 0.1}}
    without = {name: DERIVED_LOSS[name] for name in ("lse", "var")}
    build = [
        partial(Job, 1),
        partial(Job, 2, loss=loss, optimizer={"_target_": "torch.optim.SGD", "lr": 1e-3}),
        partial(Job, 3, loss=without),
        partial(Job, 4, model={"hidden": 64}),
        partial(Job, 5, model={"activation": {"_target_": "torch.nn.Softplus"}}),
        partial(Job, 6, kind=SparseAutoencoderModule),
        partial(Job, 7, kind=SparseAutoencoderModule, optimizer=ADAM | {"lr": 0.1}),
        partial(Job, 8, blocks=3),
        partial(Job, 9, blocks=None),
        partial(Job, 10, clip={"_target_": "torch.nn.utils.clip_grad_norm_", "max_norm": 1.0}),
        partial(Job, 11, model={"hidden": 5}),
        partial(Job, 12, schedule={"_target_": "implicit_em.schedules.cosine"}),
        partial(Job, 13, schedule={"_target_": f"{TORCH}.StepLR", "step_size": 1}),
        partial(Job, 14, schedule={"_target_": f"{TORCH}.ReduceLROnPlateau", "patience": 0}),
    ]
    assert_as_alone(build, workers)
    assert max(stacks) == 6, "1, 2, 10 and 12 to 14"
    assert 2 in stacks, "the autoencoders"


def test_runs_that_leave_early_leave_the_others_as_they_are(stacks):
    stop = partial(EarlyStopping, "train/loss", patience=1, min_delta=1e9)
    build = [
        partial(Job, 1, epochs=1),
        partial(Job, 2, epochs=4),
        lambda: Job(3, epochs=9, callbacks=[stop(check_on_train_epoch_end=True)]),
        partial(Job, 4, epochs=3),
    ]
    jobs = assert_as_alone(build)
    assert jobs[2].module.trainer.current_epoch == 2
    assert [size for size, _ in groupby(stacks) if size > 1] == [4, 3, 2]


def test_runs_meet_again_after_one_that_goes_on_from_a_checkpoint(stacks, tmp_path):
    first = saving(1, tmp_path)
    together(first, Job(2))
    build = [
        partial(Job, 1, epochs=4, ckpt_path=tmp_path / "last.ckpt"),
        partial(Job, 2, epochs=4),
    ]
    resumed, _ = assert_as_alone(build)
    assert_weights_as_alone(resumed, Job(1, epochs=4))
    assert set(stacks) == {2, 1}


def test_a_diverging_run_fails_and_the_seven_others_are_those_of_a_stack_without_it(stacks):
    build = [partial(Job, seed, order=seed // 3) for seed in range(8)]
    build[5] = partial(Job, 5, order=1, optimizer=ADAM | {"lr": 1e20})
    jobs, seven = [make() for make in build], [make() for make in build[:5] + build[6:]]
    futures = together(*jobs)
    with pytest.raises(NonFiniteLossError, match=r"not finite at step \d+ \(epoch 1\); terms: "):
        futures.pop(5).result(0)
    failed = jobs.pop(5)
    assert all(torch.equal(*pair) for pair in zip(failed.weights, build[5]().weights, strict=True))
    assert stacks == [8, 7]
    others = together(*seven)
    assert stacks == [8, 7, 7]
    for job, future, other, without in zip(jobs, futures, seven, others, strict=True):
        assert future.result(0) == without.result(0) == 2 * STEPS
        assert job.watch.losses == other.watch.losses
        assert all(map(torch.equal, job.weights, other.weights))


class Fails(pl.Callback):
    def on_train_epoch_end(self, *_):
        raise OSError("no space left on the device")


def test_a_run_that_fails_between_its_steps_leaves_the_others_alone():
    failing, fine = Job(1, callbacks=[Fails()]), Job(2)
    futures = together(failing, fine)
    with pytest.raises(OSError, match="no space left"):
        futures[0].result(0)
    assert_weights_as_alone(fine, Job(2))


def at_most_20(energies, calls=[]):  # noqa: B006 (counts its calls)
    calls.append(1)
    if len(calls) > 20:
        raise ArithmeticError("term gave up")
    return energies.square().mean()


def test_an_error_in_a_step_reaches_the_runs_of_its_stack_and_no_other():
    loss = DERIVED_LOSS | {"own": {"_target_": f"{__name__}.at_most_20"}}
    failing, fine = [Job(1, loss=loss), Job(2, loss=loss)], [Job(3), Job(4)]
    futures = together(*failing, *fine, workers=2)
    for future in futures[:2]:
        with pytest.raises(ArithmeticError, match="term gave up"):
            future.result(0)
    assert [future.result(0) for future in futures[2:]] == [2 * STEPS] * 2


class GivesUp(torch.optim.SGD):
    """An optimizer whose fifth step fails."""

    steps = 0

    def step(self, closure=None):
        self.steps += 1
        if self.steps == 5:
            raise ArithmeticError("optimizer gave up")
        return super().step(closure)


def test_an_error_in_a_runs_own_update_is_its_own(stacks):
    own = {"_target_": f"{__name__}.GivesUp", "lr": 1e-3}
    jobs = [Job(1), Job(2, optimizer=own), Job(3)]
    futures = together(*jobs)
    assert stacks == [3, 2]
    with pytest.raises(ArithmeticError, match="optimizer gave up"):
        futures[1].result(0)
    assert_weights_as_alone(jobs[0], Job(1))
    assert_weights_as_alone(jobs[2], Job(3))
    with pytest.raises(ArithmeticError, match="optimizer gave up"):
        Job(2, optimizer=own)()


def test_a_job_that_never_trains_holds_up_nobody():
    def broken():
        raise ValueError("nothing to train on")

    job = Job(1)
    reused, failed, trained = together(lambda: "complete already", broken, job)
    assert reused.result(0) == "complete already"
    assert isinstance(failed.exception(0), ValueError)
    assert trained.result(0) == 2 * STEPS
    assert [future.result(0) for future in together(lambda: 1, lambda: 2)] == [1, 2]


def test_jobs_begin_one_after_the_other():
    begun = []

    class Begins(pl.Callback):
        def on_train_start(self, *_):
            begun.append(("trains", threading.get_ident()))

    class Start(Job):
        def __call__(self):
            begun.append(("begins", threading.get_ident()))
            return super().__call__()

    together(*(Start(seed, callbacks=[Begins()]) for seed in range(3)), workers=3)
    assert [word for word, _ in begun] == ["begins", "trains"] * 3
    assert len({thread for _, thread in begun}) == 3


def request(batches=4, batch=32, order=0, **arguments):
    module = EncoderModule({"in_features": 64, "hidden": 32} | arguments)
    generator = torch.Generator().manual_seed(order)
    indices = [torch.randint(0, 300, (batch,), generator=generator) for _ in range(batches)]
    return SimpleNamespace(module=module, block=Block(IMAGES, indices))


def test_equal_batches_lie_beside_each_other():
    requests = [request(order=order) for order in (2, 1, 2, 1, 1)]
    (stack,) = arrange(requests, workers=1)
    runs = [a.block == b.block for a, b in pairwise(stack)]
    assert sorted(runs) == [False, True, True, True]


@pytest.mark.parametrize(
    ("others", "sizes"),
    [
        ([{}], [3]),
        ([{"hidden": 64}], [2, 1]),
        ([{"activation": {"_target_": "torch.nn.Softplus"}}], [2, 1]),
        ([{"batch": 16}], [2, 1]),
        ([{"batches": 3}], [2, 1]),
        ([{"batch": 30}, {"batch": 30}], [4]),
        ([{"batch": 30, "hidden": 10}, {"batch": 30, "hidden": 10}], [2, 1, 1]),
        ([{"hidden": 1}, {"hidden": 1}], [2, 1, 1]),
        ([{"batch": 1}, {"batch": 1}], [2, 1, 1]),
    ],
)
def test_runs_that_round_as_if_alone_make_a_stack(others, sizes):
    same_size = all(other.get("batch") == 30 and "hidden" not in other for other in others)
    base = {"batch": 30} if same_size else {}
    requests = [request(**base), request(**base), *(request(**other) for other in others)]
    assert [len(stack) for stack in arrange(requests, workers=1)] == sizes


def test_a_checkpoint_holds_the_weights_and_moments_of_its_own_run(tmp_path):
    jobs = [saving(seed, tmp_path / str(seed)) for seed in range(6)]
    together(*jobs)
    for seed in range(6):
        path, path_alone = (tmp_path / name / "last.ckpt" for name in (str(seed), "alone"))
        saving(seed, tmp_path / "alone")()
        found, expected = (torch.load(p, weights_only=True) for p in (path, path_alone))
        assert found["state_dict"].keys() == expected["state_dict"].keys()
        for key, value in expected["state_dict"].items():
            assert torch.equal(found["state_dict"][key], value)
        ((one,), (other,)) = (c["optimizer_states"] for c in (found, expected))
        assert one["param_groups"] == other["param_groups"]
        for number, state in other["state"].items():
            assert set(state) == {"step", "exp_avg", "exp_avg_sq"}
            assert all(torch.equal(one["state"][number][k], v) for k, v in state.items())
        assert found["loops"] == expected["loops"]
        assert found["global_step"] == 2 * STEPS
        elements = 3 * sum(weight.numel() for weight in jobs[seed].weights)
        assert path.stat().st_size < 4 * elements + 40_000
        assert abs(path.stat().st_size - path_alone.stat().st_size) < 2_000


def test_the_progress_counts_the_epochs_of_all_runs(capsys, caplog):
    progress = EpochProgress(epochs=20, runs=3)
    progress.skip(2)
    for _ in range(9):
        progress.log_metrics({"train/loss": 1.0, "epoch": 0})
        progress.log_metrics({"monitor/density": 1.0, "epoch": 0})
        progress.finalize("success")
    progress.close()
    shown = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[0] for line in shown] == [
        f"training 3 runs: {done} of 20 epochs" for done in (4, 6, 8, 10)
    ]
    assert not caplog.records, "they are no run's own"
