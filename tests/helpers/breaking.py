"""Runs that break off where a test wants it."""

import pytest

from implicit_em.data import modules as data_modules
from implicit_em.engine.stack import Stack
from implicit_em.training.run import train


def fails_once(function, when):
    """The function, but for an error the first time that a condition holds."""
    failed = []

    def wrapped(*arguments, **options):
        if not failed and when(*arguments):
            failed.append(True)
            raise RuntimeError("killed")
        return function(*arguments, **options)

    return wrapped


def every_block(monkeypatch, batches):
    """Make blocks of so many batches, where a run may be saved and broken off."""
    monkeypatch.setattr(data_modules, "BLOCK", batches)


def broken_off(monkeypatch, cfg, directory, block):
    """Train until before the n-th block, as if killed there."""
    seen = []
    break_off(
        monkeypatch, cfg, directory, Stack, "train", lambda *_: seen.append(1) or len(seen) == block
    )


def break_off(monkeypatch, cfg, directory, place, name, when=lambda *_: True):
    """Train until a function of a class or a module is called and a condition holds."""
    with monkeypatch.context() as patch:
        patch.setattr(place, name, fails_once(getattr(place, name), when))
        with pytest.raises(RuntimeError, match="killed"):
            train(cfg, directory)


def never_trains(monkeypatch):
    """Let a test fail that takes a step."""
    monkeypatch.setattr(Stack, "train", lambda *_: pytest.fail("trained again"))


def steps_of(monkeypatch, cfg, directory):
    """Train; returns the number of steps that it took."""
    steps, train_blocks = [], Stack.train

    def counting(self, blocks):
        losses = train_blocks(self, blocks)
        steps.append(len(losses))
        return losses

    with monkeypatch.context() as patch:
        patch.setattr(Stack, "train", counting)
        train(cfg, directory)
    return sum(steps)
