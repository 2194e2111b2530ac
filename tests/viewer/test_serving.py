"""A page that answers inputs: what it answers, and what it refuses."""

import http.client
import json
import os
import re
import signal
import socket
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from helpers.pages import running

import implicit_em
from implicit_em.base.errors import ConfigError
from implicit_em.language import trials
from implicit_em.trained.loading import load, load_as_trained
from implicit_em.training.directory import RunDirectory
from implicit_em.training.spec import RunSpec
from implicit_em.viewer import serving
from implicit_em.viewer.__main__ import main
from implicit_em.viewer.exploring import served


@contextmanager
def serving_of(run, lm=None):
    """Serve a run in a thread; gives a function that asks, and the address."""
    with served([run], lm) as (address, server), running(server):
        host = address.removeprefix("http://").rstrip("/")

        def ask(content, path="/encode", method="POST", **headers):
            usual = {"Origin": f"http://{host}", "Content-Type": "application/json"}
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection = http.client.HTTPConnection(host, timeout=20)
            connection.request(method, path, body or None, {**usual, **given})
            response = connection.getresponse()
            text = response.read()
            connection.close()
            return response.status, text

        yield ask, address


def features_of(pairs, size):
    codes_K = np.zeros(size)
    for unit, value in pairs:
        codes_K[unit] = value
    return codes_K


def test_a_drawn_image_gets_its_features(trained):
    run = trained("images", "data.normalize=scale")
    pixels_D = torch.rand(64, generator=torch.Generator().manual_seed(0))
    with serving_of(run) as (ask, _):
        status, text = ask({"pixels": pixels_D.tolist()})
        refused = [ask({"pixels": pixels})[0] for pixels in ([1], [2.0] * 64, ["a"] * 64, None)]
    assert (status, refused) == (200, [400] * 4)
    expected_K = load(run).encode(pixels_D).detach().numpy()
    found_K = features_of(json.loads(text)["features"], 5)
    np.testing.assert_allclose(found_K, expected_K.clip(0), rtol=1e-3)


def test_a_text_gets_the_features_that_it_has_in_the_store(harvested, models):
    run = harvested("bert")
    data = RunSpec.of_settings(RunDirectory(run).read_config()).build_data()
    store, model = data.store, load_as_trained(run)[0]
    columns = (data.column(name, "test").tolist() for name in ("document", "place"))
    rows = {key: row for row, key in enumerate(zip(*columns, strict=True))}
    codes_NK = model.encode(data.final_samples()[0].float()).detach().numpy()
    documents, vocabulary = store.documents(), store.vocabulary()
    short = next(n for n, _ in rows if len(documents.ids(n)) <= 10)
    ids = documents.ids(short).tolist()
    text = " ".join(vocabulary[token].strip() for token in ids)
    with serving_of(run, str(models["bert"])) as (ask, _):
        status, answer = ask({"text": text})
        long = json.loads(ask({"text": "cat " * 40})[1])
        refused = [ask({"text": words})[0] for words in ("", "a" * 2001, 3, None)]
        broken = [ask(body)[0] for body in (b"{", b"[]", b"3")]
    found = json.loads(answer)
    assert (status, refused, broken, found["cut"]) == (200, [400] * 4, [400] * 3, False)
    assert found["ids"] == [*store.manifest.prefix, *ids, *store.manifest.suffix]
    assert found["features"][0] is found["features"][-1] is None, "special tokens are left out"
    for place, pairs in enumerate(found["features"][1:-1]):
        expected_K = codes_NK[rows[short, place]].clip(0)
        np.testing.assert_allclose(features_of(pairs, 5), expected_K, rtol=2e-3, atol=2e-3)
    assert (len(long["ids"]), long["cut"]) == (12, True)


def test_a_feature_is_pulled_beside_the_text_without(harvested, models, monkeypatch):
    monkeypatch.setattr(trials, "WRITTEN", 8)
    run, lm = harvested("llama"), models["llama"]
    question = {"text": "cat eel", "unit": 2, "strength": 40.0, "how": "add"}
    wrong = [{"unit": 5}, {"unit": True}, {"unit": [2]}, {"strength": "4"}, {"strength": 1e999}]
    wrong += [{"how": "times"}, {"text": ""}, {"text": "cat " * 40}]
    with serving_of(run, str(lm)) as (ask, _):
        status, text = ask(question, "/steer")
        without = json.loads(ask({**question, "strength": 0}, "/steer")[1])
        shown = ask(b"", "/", "GET")[1].decode()
    with serving_of(run, str(lm)) as (ask, _):
        refused = [ask({**question, **one}, "/steer") for one in wrong]
    found = json.loads(text)
    assert (status, 'data-served="encode steer"' in shown) == (200, True)
    assert {code for code, _ in refused} == {400}
    assert all("error" in json.loads(said) for _, said in refused)
    assert without["pulled"] == without["clean"] == found["clean"] != found["pulled"]
    network, tokenizer = (
        getattr(transformers, auto).from_pretrained(lm)
        for auto in ("AutoModelForCausalLM", "AutoTokenizer")
    )
    ids = tokenizer("cat eel", return_tensors="pt")["input_ids"]
    options = {"max_new_tokens": trials.WRITTEN, "do_sample": False, "pad_token_id": 0}
    with implicit_em.steer(network, run, {2: 40.0}):
        written = network.generate(ids, **options)[0, ids.shape[1] :]
    assert found["pulled"] == tokenizer.decode(written)


def test_what_is_not_causal_is_not_pulled(harvested, models, trained):
    for run, lm in ((harvested("bert"), str(models["bert"])), (trained("images"), None)):
        with serving_of(run, lm) as (ask, _):
            assert ask({}, "/steer")[0] in (404, 405)
            assert 'data-served="encode"' in ask(b"", "/", "GET")[1].decode()


def test_other_pages_hosts_and_sizes_are_refused(trained):
    with serving_of(trained("images")) as (ask, _):
        question = {"pixels": [0.5] * 64}
        assert ask(question)[0] == 200
        assert ask(question, Origin="https://example.org")[0] == 403
        assert ask(question, Origin="null")[0] == 403
        assert ask(question, Content_Type="text/plain")[0] == 403
        assert ask(question, Host="example.org")[0] == 403
        assert ask(b"", "/index.html", "GET", Host="example.org:80")[0] == 403
        assert ask(b"", "/index.html", "HEAD", Host="example.org:80")[0] == 403
        assert ask(question, "/elsewhere")[0] == 404
        assert ask(b"", Content_Length=str(serving.MOST_BYTES + 1))[0] == 413
        assert ask(b"", "/index.html", "GET")[0] == 200
        assert ask(b"", "/../../../../etc/passwd", "GET")[0] == 404
        assert ask(b"", "/../" + Path(__file__).name, "GET")[0] == 404


def test_it_ends_and_leaves_nothing(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with serving_of(trained("images")) as (ask, address):
        assert len(list(tmp_path.iterdir())) == 1
        assert "connect-src 'self'" in ask(b"", "/", "GET")[1].decode()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="refused"):
        http.client.HTTPConnection(address.split("/")[2], timeout=2).request("GET", "/")


MALFORMED = {
    b"POST /encode HTTP/1.1\r\nContent-Length: " + b"9" * 5000: 400,
    "POST /encode HTTP/1.1\r\nContent-Length: ²".encode(): 400,
    b"POST /encode HTTP/1.1\r\nContent-Length: -1": 413,
    b"POST /encode HTTP/1.1": 400,
    b"GET /data/" + b"a" * 999 + b" HTTP/1.1": 404,
}


def test_what_is_malformed_is_refused_without_a_word(trained, capfd):
    with serving_of(trained("images")) as (ask, address):
        host, port = address.removeprefix("http://").rstrip("/").split(":")
        found = {}
        for request in MALFORMED:
            with closing(socket.create_connection((host, int(port)), timeout=5)) as client:
                client.sendall(request + f"\r\nHost: {host}:{port}\r\n\r\n".encode())
                said = re.search(rb"(HTTP/1.0 |Error code: )(\d+)", client.recv(9999))
                found[request] = int(said[2])
        huge = b'{"pixels": [' + b"9" * 400 + b",0" * 63 + b"]}"
        assert [ask(body)[0] for body in (huge, b"\xff", b"[" * 30_000)] == [400] * 3
        assert ask({"pixels": [0.5] * 64})[0] == 200
    assert found == MALFORMED
    assert capfd.readouterr().err == ""


def test_ctrl_c_ends_it_at_once(trained, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with served([trained("images")]) as (address, server):
            place = serving.HOST, int(address.rstrip("/").rpartition(":")[2])
            with closing(socket.create_connection(place)) as slow:
                slow.sendall(b"POST /encode HTTP/1.1\r\n")
                threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
                start = time.monotonic()
                with pytest.raises(KeyboardInterrupt):
                    server.serve_forever()
        assert time.monotonic() - start < 2
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_the_command(trained, monkeypatch, capsys):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(serving.Server, "serve_forever", interrupted)
    assert main([str(trained("images")), "--serve"]) == 0
    assert "Open http://127.0.0.1:" in capsys.readouterr().out


def test_what_cannot_be_tried_is_one_line(trained, harvested, models, capsys):
    with pytest.raises(ConfigError, match="serve, but for images: the data are from no"):
        served([trained("vectors")]).__enter__()
    with pytest.raises(ConfigError, match="lm=tiny: the store does not say where it is"):
        served([trained("texts")]).__enter__()
    with pytest.raises(ConfigError, match="not the files that the store was harvested"):
        served([harvested("bert")], str(models["gpt2"])).__enter__()
    assert main([str(trained("images")), "--serve", "--out", "page"]) == 2
    assert main([str(trained("images")), "--serve", "--port", "99999"]) == 2
    assert capsys.readouterr().err.count("error: ") == 2
