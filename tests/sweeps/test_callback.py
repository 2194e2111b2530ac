"""What a command does before its first run is checked."""

from contextlib import contextmanager

import pytest
from helpers import composing

from implicit_em.sweeps import callback


@pytest.mark.parametrize("start", ["on_run_start", "on_multirun_start"])
def test_a_terminal_shows_something_before_libraries_are_imported(start, monkeypatch):
    """They take seconds."""
    order = []

    @contextmanager
    def showing(_, say):
        order.append("shown")
        yield

    monkeypatch.setattr(callback, "working", showing)
    monkeypatch.setattr(callback, "_begin", lambda _: order.append("imported"))
    for name in ("_check", "note_jobs"):
        monkeypatch.setattr(callback, name, lambda *_, **__: None)
    monkeypatch.setattr(callback, "composed_jobs", lambda _: iter(()))
    monkeypatch.setattr(callback.CheckCallback, "sweep_directory", None)
    run = composing.composed("train", return_hydra_config=True)
    getattr(callback.CheckCallback(), start)(run)
    assert order == ["shown", "imported"]
