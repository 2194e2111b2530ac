"""An export that needs PyTorch alone, and the exports of models that sweep."""

import importlib.util
import json
import logging

import numpy as np
import pytest
import torch

import implicit_em
from implicit_em.trained.export import export, main

SWEPT = {
    "topk": ["model=topk", "model.sweeps=3", "model.refit=2"],
    "tied": ["model=tied_topk", "model.sweeps=3"],
    "batch": ["model=tied_batch_topk", "model.sweeps=2", "model.read_sweeps=4"],
    "slab": ["model=spike_slab", "model.sweeps=2", "model.refit=2", "data.normalize=standard"],
    "once": ["model=spike_slab", "data.normalize=scale"],
}


def trained_run(command_line, tmp_path, *typed):
    np.save(tmp_path / "x.npy", 2 + np.random.default_rng(0).normal(size=(300, 6)).astype("f"))
    brief = ["trainer.max_epochs=2", "model.hidden=9", "model.l0=3", "data.batch_size=50"]
    brief += ["logger=csv", "picture=false", "probe=none", "data=tensors", "data.normalize=scale"]
    path = f"data.path={tmp_path}/x.npy"
    assert command_line(*brief, path, *typed, f"hydra.run.dir={tmp_path / 'run'}") == 0
    return tmp_path / "run"


@pytest.mark.parametrize("name", SWEPT)
def test_a_model_alone_has_the_codes_of_the_run(name, command_line, tmp_path):
    run = trained_run(command_line, tmp_path, *SWEPT[name])
    folder = export(run, "torch")
    source = importlib.util.spec_from_file_location("alone_in_a_folder", folder / "model.py")
    module = importlib.util.module_from_spec(source)
    source.loader.exec_module(module)
    model, ours = module.load(), implicit_em.load(run)
    x_ND = torch.tensor(np.load(tmp_path / "x.npy"))
    codes_NK = model.encode(x_ND)
    assert 0 < (codes_NK > 0).double().mean() < 1
    torch.testing.assert_close(codes_NK, ours.encode(x_ND), atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(model(x_ND), ours.reconstruct(x_ND), atol=5e-4, rtol=1e-3)
    said = json.loads((folder / "cfg.json").read_text())["metadata"]
    assert said["implicit_em_model"] == type(getattr(ours, "model", ours)).__name__
    assert main([str(run), "--format", "torch"]) == 0, "the same export stays"


@pytest.mark.parametrize("name", ["topk", "batch", "slab"])
def test_saelens_gets_a_first_sweep_on_request_alone(name, command_line, tmp_path, capsys, caplog):
    run = trained_run(command_line, tmp_path, *SWEPT[name])
    capsys.readouterr()
    assert main([str(run)]) == 2
    assert "--format torch has all of it, --first-sweep writes" in capsys.readouterr().err
    assert not (run / "saelens").exists()
    with caplog.at_level(logging.WARNING):
        assert main([str(run), "--first-sweep"]) == 0
    said = json.loads((run / "saelens" / "cfg.json").read_text())["metadata"]
    assert said["implicit_em_code"].startswith("those of the first sweep")
    fvus = said["implicit_em_fvu"], said["implicit_em_fvu_of_run"]
    assert f"FVU {fvus[0]:.4f}; {fvus[1]:.4f} in the run" in caplog.text
    if name == "topk":
        x_ND = torch.tensor(np.load(tmp_path / "x.npy"))
        first = implicit_em.load(run, read_sweeps=1, refit=0).encode(x_ND)
        found = implicit_em.load(run / "saelens").encode(x_ND)
        torch.testing.assert_close(found, first, atol=1e-4, rtol=1e-4)


def test_what_has_no_form_for_pytorch_alone_is_refused(command_line, tmp_path, capsys):
    run = trained_run(command_line, tmp_path, "model=gated", "data.normalize=none")
    for more, said in (
        ([], "model: a Gated; --format torch has TopK, BatchTopK, SpikeSlab"),
        (["--first-sweep"], "first_sweep=true with format=torch: allowed is false"),
    ):
        assert main([str(run), "--format", "torch", *more]) == 2
        assert said in capsys.readouterr().err


def test_an_activation_that_the_source_does_not_have_is_refused(command_line, tmp_path, capsys):
    run = trained_run(command_line, tmp_path, "model=topk", "activation=softplus")
    assert main([str(run), "--format", "torch"]) == 2
    assert "model.activation: a Softplus; --format torch has ReLU" in capsys.readouterr().err
