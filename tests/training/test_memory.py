"""What training takes of memory, and the refusal of a width that no memory holds."""

import psutil
import pytest

from implicit_em.base.errors import ConfigError
from implicit_em.training.check import refuse_what_memory_cannot_hold
from implicit_em.training.spec import RunSpec


def test_a_width_that_memory_cannot_hold_is_refused_before_anything_trains(
    command_line, small, monkeypatch, capfd, tmp_path
):
    total = psutil.virtual_memory()._replace(total=5 * 10**8)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: total)
    assert command_line(*small, "model.hidden=1000000", "hydra.run.dir=run") == 2
    line = capfd.readouterr().err.strip().splitlines()[-1]
    assert "model.hidden=1000000: training takes at least 0.7 GB for inputs of width 64" in line
    assert "(weights, gradients, pre-activations); there are 0.5 GB" in line
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(("precision", "size"), [("32-true", 4), ("bf16-true", 2), ("64-true", 8)])
def test_what_memory_holds_is_not_refused(composed, small, monkeypatch, precision, size):
    spec = RunSpec.of(composed(*small, "model.hidden=1000", f"trainer.precision={precision}"))
    needed = size * (2 * 65 * 1000 + 64 * 1000)
    for total, fits in ((needed, True), (needed - 1, False)):
        found = psutil.virtual_memory()._replace(total=total)
        monkeypatch.setattr(psutil, "virtual_memory", lambda found=found: found)
        if fits:
            refuse_what_memory_cannot_hold(spec, 64)
        else:
            with pytest.raises(ConfigError, match=r"model\.hidden=1000: training takes at least"):
                refuse_what_memory_cannot_hold(spec, 64)
