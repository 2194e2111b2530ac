"""What Delphi's ``LatentDataset`` reads of an export, by what its loader asks for."""

import json
import sys

import numpy as np
import pytest
from helpers.lines import one_line
from safetensors.numpy import load_file

from implicit_em.base.errors import ConfigError
from implicit_em.language import delphi
from implicit_em.trained import activity
from implicit_em.trained.export import export, main
from implicit_em.trained.reading import trained as trained_of

LENGTH = 12


def test_each_activation_is_at_its_token_in_contexts_of_full_length(
    harvested, tmp_path, monkeypatch
):
    monkeypatch.setattr(activity, "BLOCK", 2)
    monkeypatch.setattr(delphi, "FILES", 2)
    run = harvested("llama", "data.first_positions=1")
    folder = export(run, "delphi", tmp_path / "cache") / "model.layers.1"
    config = json.loads((folder / "config.json").read_text())
    files = sorted(folder.glob("*.safetensors"))
    edges = [tuple(map(int, file.stem.split("_"))) for file in files]
    assert edges == [(0, 3), (4, 4)], "each follows the one before, to the last unit"
    assert (config["model_name"], config["cache_ctx_len"]) == ("auto", LENGTH)

    data, codes = trained_of(run).data, {}
    samples, documents = data.final_samples()[0], data.store.documents()
    columns = [data.column(name, "test").tolist() for name in ("document", "place", "position")]
    code_NK = trained_of(run).model.encode(samples.float()).detach().numpy()
    tokens_CL = load_file(files[0])["tokens"]
    for (start, end), file in zip(edges, files, strict=True):
        arrays = load_file(file)
        locations_E3, values_E = arrays["locations"], arrays["activations"]
        assert np.array_equal(arrays["tokens"], tokens_CL)
        assert locations_E3.dtype == np.uint32
        assert values_E.dtype == np.float32
        assert locations_E3[:, 2].max() <= end - start
        order_E = np.lexsort(locations_E3.T[[1, 0, 2]])
        assert order_E.tolist() == list(range(len(values_E))), "by unit, context, position"
        for (context, position, unit), value in zip(locations_E3.tolist(), values_E, strict=True):
            codes[context, position, unit + start] = value

    expected, rows = {}, [documents.ids(n).tolist() for n in range(len(documents))]
    texts = [tuple(row) for row in tokens_CL.tolist()]
    assert tokens_CL.shape == (len(set(texts)), LENGTH)
    for number, (document, place, position) in enumerate(zip(*columns, strict=True)):
        first = place - position
        text = tuple(rows[document][first : first + LENGTH])
        if len(text) == LENGTH:
            for unit in code_NK[number].nonzero()[0].tolist():
                key = (texts.index(text), position, unit)
                expected[key] = code_NK[number, unit]
    assert codes == pytest.approx(expected)
    assert len(codes) > 50
    assert all(position >= 1 for _, position, _ in codes), "what the run leaves out is not active"


def test_what_has_no_cache_is_one_line(harvested, trained, tmp_path, capsys, monkeypatch):
    run, images = harvested("llama"), str(trained("images"))
    out = ["--out", str(tmp_path / "cache")]
    assert main([str(run), "--format", "delphi", *out]) == 0
    capsys.readouterr()
    for arguments, reason in (
        ([str(run), "--format", "delphi", *out], "is there already; nothing is overwritten"),
        ([images, "--format", "delphi"], "the data are from no language model"),
        ([str(run), "--format", "delphi", "--push", "me/it"], "push: allowed for --format saelens"),
    ):
        assert main(arguments) == 2
        assert reason in one_line(capsys)
    with monkeypatch.context() as patch:
        patch.setattr(delphi, "save", sys.exit)
        with pytest.raises(SystemExit):
            export(run, "delphi", tmp_path / "other")
    monkeypatch.setattr(delphi, "cut", lambda *_: np.empty((0, 2), np.int64))
    with pytest.raises(ConfigError, match=r"no test document fills a context of the store$"):
        export(run, "delphi", tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["cache"], "nothing is there in part"
