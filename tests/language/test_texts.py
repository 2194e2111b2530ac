"""Sources of text: what is installed, files, data sets of the hub."""

import importlib.util
import itertools
import json
import sys
import sysconfig
from types import SimpleNamespace

import pandas as pd
import pytest

from implicit_em.base.errors import ConfigError
from implicit_em.language.texts import Files, Hub, Installed

PROSE = "The cat sat on the mat and thought of nothing at all. " * 5
MODULE = f'"""{PROSE}"""\n\n\ndef f():\n    """{PROSE[::-1]}"""\n    return "\\d"\n'


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """An environment of two packages, with files that are no text beside them."""
    files = {
        "one/__init__.py": MODULE,
        "one/README.md": "# One\n" + PROSE,
        "one/data/numbers.txt": "1.25 3.5 " * 100,
        "one/latin.txt": "é".encode("latin-1") * 300,
        "one/short.rst": "Too short.",
        "one/broken.py": "def f(:\n" * 100,
        "two.py": MODULE.replace("cat", "dog"),
        "one-1.0.dist-info/METADATA": "Name: one\nVersion: 1.0\n\nHow to use one. " + PROSE,
        "one-1.0.dist-info/licenses/LICENSE.txt": PROSE,
        "one-1.0.dist-info/top_level.txt": PROSE,
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    return tmp_path


def read(kinds, seed=0):
    return list(Installed(kinds).documents(seed))


def test_installed_documentation_is_prose_with_its_package(packages):
    found = read(["documentation"])
    assert {(d.text[:5], d.labels["package"]) for d in found} == {
        ("# One", "one"),
        ("How t", "one"),
    }
    assert {d.labels["kind"] for d in found} == {"documentation"}


def test_docstrings_are_those_of_a_module_and_sources_the_file(packages):
    found = {d.labels["package"]: d.text for d in read(["docstrings"])}
    assert found["one"].split() == [*PROSE.split(), *PROSE[::-1].split()]
    assert set(found) == {"one", "two"}
    assert MODULE.strip() in [d.text for d in read(["sources"])]
    assert len(read(["sources"])) == 3, "a source need not be correct"


def test_kinds_take_turns_in_an_order_of_the_seed(packages):
    for number in range(20):
        (packages / f"module{number}.py").write_text(MODULE.replace("mat", f"mat {number}"))
    kinds = ["docstrings", "sources"]
    found = read(kinds)
    modules = {
        kind: {d.labels["package"] for d in found if d.labels["kind"] == kind} for kind in kinds
    }
    assert not modules["docstrings"] & modules["sources"], "a module gives one of them"
    assert [d.labels["kind"] for d in found[:8]] == 4 * kinds
    assert found == read(kinds)
    assert any(read(kinds, seed) != found for seed in range(1, 5))


def test_a_kind_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="poems: allowed are documentation, docstrings, sources"):
        Installed(["poems"])


def test_files_of_every_kind_with_their_labels(tmp_path):
    for folder in ("news", "mail"):
        (tmp_path / folder).mkdir()
    (tmp_path / "news/a.txt").write_text("first")
    (tmp_path / "mail/b.md").write_text("second")
    rows = [{"body": "third", "topic": 3}, {"body": "fourth", "topic": 4}]
    (tmp_path / "news/c.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    pd.DataFrame(rows[:1]).to_parquet(tmp_path / "mail/d.parquet")
    paths = [f"{tmp_path}/*/*.*", f"{tmp_path}/news/a.txt"]
    found = {(d.text, d.labels["label"]) for d in Files(paths, "body", "topic").documents(0)}
    plain = {("first", "news"), ("second", "mail")}
    assert found == plain | {("third", "3"), ("fourth", "4")}
    found = {(d.text, d.labels["label"]) for d in Files(paths, "body", None).documents(0)}
    assert found == plain | {("third", "mail"), ("third", "news"), ("fourth", "news")}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"text": 3}', "text.text=text: .*row 1 holds int, not text"),
        ('["text"]', "text.text=text: .*row 1 lacks it; it has list"),
        ("3", "row 1 lacks it; it has int"),
        ("{", r"rows\.jsonl: Expecting property name"),
    ],
)
def test_rows_that_are_no_documents_are_refused(content, reason, tmp_path):
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(ConfigError, match=reason):
        list(Files(str(tmp_path / "rows.jsonl"), "text", None).documents(0))


def test_files_of_other_kinds_and_without_pyarrow_are_refused(tmp_path, monkeypatch):
    (tmp_path / "a.pdf").touch()
    with pytest.raises(ConfigError, match=r"a\.pdf: allowed are files \.txt, \.md, \.jsonl, \.par"):
        Files([str(tmp_path / "a.pdf")], "text", None)
    (tmp_path / "a.parquet").touch()
    monkeypatch.setattr("implicit_em.language.texts.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="needs pyarrow; pip install pyarrow"):
        Files([str(tmp_path / "a.parquet")], "text", None)


def test_a_data_set_of_the_hub_is_read_row_by_row(monkeypatch):
    asked = []

    def load_dataset(*arguments, **options):
        asked.append((arguments, options))
        if arguments[0] == "no/such":
            raise FileNotFoundError("no data set\nof this name")
        if arguments[0] == "cut/off":
            return (1 / 0 for _ in range(2))
        return ({"text": f"row {n}", "label": n} for n in itertools.count())

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr("implicit_em.language.texts.find_spec", lambda _: True)
    documents = Hub("some/texts", "en", "train", "text", "label").documents(0)
    assert [next(documents).labels["label"] for _ in range(3)] == ["0", "1", "2"]
    assert asked == [(("some/texts", "en"), {"split": "train", "streaming": True})]
    assert next(Hub("some/texts", None, "train", "text", None).documents(0)).labels == {}
    with pytest.raises(ConfigError, match=r"text\.name=no/such: no data set of this name"):
        next(Hub("no/such", None, "train", "text", None).documents(0))
    with pytest.raises(ConfigError, match=r"text\.name=cut/off: division by zero"):
        next(Hub("cut/off", None, "train", "text", None).documents(0))


def test_without_the_package_datasets_the_hub_is_refused(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "implicit_em.language.texts.find_spec", lambda n: None if n == "datasets" else real(n)
    )
    with pytest.raises(ConfigError, match="text=hub: needs the package datasets"):
        Hub("some/texts", None, "train", "text", None)
