"""Autoencoders on the Hugging Face hub, of which a stand-in answers."""

import importlib
import sys

import pytest
import torch
from helpers.exchanged import write_folder
from huggingface_hub import constants

import implicit_em
from implicit_em.base.errors import ConfigError
from implicit_em.training.foreign import read_foreign

FOLDER = "blocks.3.hook_resid_post"


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


def test_what_is_not_there_is_one_line(hub, pushed, tmp_path):
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


def test_without_the_client_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"hub:a/b: huggingface_hub is missing; pip install"):
        implicit_em.load("hub:a/b")
