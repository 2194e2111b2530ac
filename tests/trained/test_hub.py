"""Autoencoders on the Hugging Face hub, of which a stand-in answers."""

import importlib
import json
import logging
import sys

import pytest
import torch
from helpers.exchanged import write_folder
from helpers.hub_server import TOKEN
from helpers.stores import make_text_store
from huggingface_hub import ModelCard, constants

import implicit_em
from implicit_em.base.digest import digest_of_file
from implicit_em.base.errors import ConfigError
from implicit_em.base.tables import format_value
from implicit_em.trained.evaluate import evaluate
from implicit_em.trained.export import main
from implicit_em.trained.foreign import read_foreign

# The client's own upload.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")
FOLDER = "blocks.3.hook_resid_post"


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pushed(hub, tmp_path):
    """A repository of two commits with SAEs in folders of different kinds; gives their ids."""
    commits = []
    for number, name in enumerate(("topk", "l1")):
        write_folder(tmp_path / name, name)
        files = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        there = {f"{FOLDER}/{file}": data for file, data in files.items()}
        others = {f"{FOLDER}/ae.pt": b"pickle", f"{FOLDER}/sparsity.safetensors": b"", "ae.pt": b""}
        commits.append(hub.commit("me/saes", {**there, **others, "README.md": b"%d" % number}))
    return commits


def test_a_folder_of_the_hub_is_read_and_its_commit_recorded(hub, pushed, tmp_path):
    for address, commit, name in (
        (f"hub:me/saes:{FOLDER}", pushed[1], "l1"),
        (f"hub:me/saes@{pushed[0]}:{FOLDER}/", pushed[0], "topk"),
    ):
        hub.asked.clear()
        found = read_foreign(address)
        assert found.address == f"hub:me/saes@{commit}:{FOLDER}"
        assert found.name == f"me/saes:{FOLDER}"
        ours, x_ND = implicit_em.load(tmp_path / name), torch.randn(20, 6)
        assert torch.equal(found.model.encode(x_ND), ours.encode(x_ND))
        needed = [f"{FOLDER}/cfg.json", f"{FOLDER}/sae_weights.safetensors"]
        assert sorted(hub.downloads()) == needed


def test_the_cache_is_enough_without_a_network(hub, pushed, monkeypatch):
    address = f"hub:me/saes:{FOLDER}"
    online = implicit_em.load(address)
    hub.asked.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    importlib.reload(constants)
    assert torch.equal(implicit_em.load(address).weight, online.weight)
    with pytest.raises(ConfigError, match=r"hub:me/others: .*offline mode|hub:me/others: .*cached"):
        implicit_em.load("hub:me/others")
    assert not hub.asked


def test_what_is_not_there_is_one_line(hub, pushed, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    for address, said in (
        ("hub:me", "write hub:OWNER/NAME[@REVISION][:FOLDER]"),
        ("hub:me/saes:../../secret", "write hub:OWNER/NAME"),
        ("hub:me/none", "Repository Not Found"),
        ("hub:me/saes@none", "Revision Not Found"),
        ("hub:me/saes", "needs cfg.json and sae_weights.safetensors or config.json and ae."),
        ("hub:me/saes:none", "a pickle such as ae.pt could run code"),
    ):
        with pytest.raises(ConfigError) as refused:
            implicit_em.load(address)
        assert said in str(refused.value), refused.value
        assert str(refused.value).startswith("hub:me")
    assert not [path for path in hub.downloads() if path.endswith(".pt")]
    assert not caplog.records  # of the client


def test_without_the_client_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"hub:a/b: huggingface_hub is missing; pip install"):
        implicit_em.load("hub:a/b")


@pytest.fixture
def run(command_line, tmp_path):
    """A finished run on a store."""
    store = make_text_store(tmp_path / "store", list("abcdefghij"), [[2, 3, 4, 6, 7]] * 30)
    data = ["data=activations", f"data.path={store}", "data.batch_size=16", "model=topk"]
    brief = ["model.hidden=4", "model.l0=2", "trainer.max_epochs=1", "logger=csv"]
    assert command_line(*data, *brief, "picture=false", f"hydra.run.dir={tmp_path / 'run'}") == 0
    return tmp_path / "run"


def test_a_push_needs_a_token_before_anything_is_written(hub, run, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "another")
    assert main([str(run), "--push", "me/saes"]) == 2
    assert "push=me/saes: Client error '401 Unauthorized'" in capsys.readouterr().err
    monkeypatch.delenv("HF_TOKEN")
    assert main([str(run), "--push", "me/saes"]) == 2
    line = "push: no token of the hub; set HF_TOKEN, or run hf auth login"
    assert line in capsys.readouterr().err
    assert not (run / "saelens").exists()
    assert not hub.repositories
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for _ in range(2):  # the same command again, also when all is there
        assert main([str(run), "--push", "me/saes"]) == 0


def test_what_was_pushed_is_found_by_its_hook_and_says_what_it_is(hub, run, capsys):
    evaluate(run)
    capsys.readouterr()
    hub.commit("me/saes", {"README.md": b"# Mine"})
    assert main([str(run), "--push", "me/saes"]) == 0
    address = "hub:me/saes:model.layers.0"
    assert capsys.readouterr().out.endswith(f"Pushed to {address}\n")
    files = hub.files("me/saes")
    place = "model.layers.0/"  # where SAELens looks for it, given the hook as its id
    names = ("cfg.json", "sae_weights.safetensors", "README.md")
    assert files.keys() == {"README.md", *(place + name for name in names)}
    assert files["README.md"] == b"# Mine"
    x_ND = torch.randn(20, 3)
    loaded, local = implicit_em.load(address), implicit_em.load(run / "saelens")
    assert torch.equal(loaded.reconstruct(x_ND), local.reconstruct(x_ND))
    card = ModelCard(files[f"{place}README.md"].decode())
    assert card.data.library_name == "saelens"
    metrics = json.loads((run / "metrics.json").read_text())
    config = json.loads((run / "saelens" / "cfg.json").read_text())
    manifest = config["metadata"]
    assert manifest["implicit_em_decoder"] == "its own"
    for said in (
        "`implicit-em train data=activations",
        f"| trained on data of digest | {manifest['implicit_em_data']} |",
        f"| measured on data of digest | {manifest['implicit_em_data']} |",
        f"| made of weights of digest | {digest_of_file(run / 'model.safetensors')[:16]} |",
        f"| `fvu` | {format_value(metrics['fvu'])} | sum (x - x')²",
        'SAE.from_pretrained("me/saes", "model.layers.0")',
    ):
        assert said in card.content, card.content


def test_a_model_of_another_tool_is_pushed_with_a_card_of_the_repository(hub, tmp_path, capsys):
    write_folder(tmp_path / "mine", "jump_relu")
    before = sorted((tmp_path / "mine").iterdir())
    assert main([str(tmp_path / "mine"), "--push", "me/new"]) == 0
    assert capsys.readouterr().out.endswith("Pushed to hub:me/new:sae\n")
    files = hub.files("me/new")
    assert files["README.md"] == files["sae/README.md"]
    assert sorted((tmp_path / "mine").iterdir()) == before
    x_ND = torch.randn(20, 6)
    ours, theirs = implicit_em.load(tmp_path / "mine"), implicit_em.load("hub:me/new:sae")
    torch.testing.assert_close(theirs.reconstruct(x_ND), ours.reconstruct(x_ND))
    assert main(["hub:me/new:sae", "--push", "me/again"]) == 0
    (commit,) = hub.repositories["me/new"]
    assert f"| made of | hub:me/new@{commit}:sae |" in hub.files("me/again")["README.md"].decode()
