"""Sources of text: what is installed, files, data sets of the hub.

A source is any class with a method ``documents``, named by ``_target_`` in ``conf/text/``.
"""

import ast
import hashlib
import json
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from glob import glob
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from implicit_em.base.errors import ConfigError, one_line, raising
from implicit_em.base.values import check_word

PLAIN = (".txt", ".md")
SHORTEST = 200
"""Least number of characters of an installed document."""
LETTERS = 0.5
"""Least share of letters among the characters of documentation: with fewer, a .txt holds data."""


class Document(NamedTuple):
    """A text and its labels by their names."""

    text: str
    labels: Mapping[str, str]


class Source(Protocol):
    """Where documents come from."""

    def documents(self, seed: int) -> Iterator[Document]:
        """Yield the documents in an order that follows from the seed, or raise ``ConfigError``."""


class Installed:
    """Documentation, docstrings and sources of the Python packages of this environment.

    Documentation is every .md, .rst and .txt file outside of the metadata, and the description in
    each package's metadata. Docstrings are those of a module, together. A module gives its
    docstrings or its source, not both: one of them could be held out while the other is trained on.
    The kinds take turns, a document each, until one runs out.

    Args:
        kinds: which of the three are read.

    Raises:
        ConfigError: if a kind is none of the three.
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        self.kinds = list(kinds)
        for kind in self.kinds:
            check_word("text.kinds", kind, KINDS)

    def documents(self, seed: int) -> Iterator[Document]:
        """Yield the documents, with the labels ``kind`` and ``package``."""
        root = Path(sysconfig.get_path("purelib"))
        sources = [self._of(kind, root, seed) for kind in self.kinds]
        while sources:
            for source in [*sources]:
                if (document := next(source, None)) is None:
                    sources.remove(source)
                else:
                    yield document

    def _of(self, kind: str, root: Path, seed: int) -> Iterator[Document]:
        patterns, read = KINDS[kind]
        paths = {path.relative_to(root) for pattern in patterns for path in root.rglob(pattern)}
        sharing = [other for other in self.kinds if KINDS[other][0] == patterns]
        for path in _shuffled(paths, seed):
            if _hash(path, "kind")[0] % len(sharing) != sharing.index(kind):
                continue
            try:
                text = read(root / path).strip()
            except (OSError, ValueError, SyntaxError, RecursionError):  # of another encoding, say
                continue
            if len(text) >= SHORTEST:
                package = path.parts[0].partition("-")[0].removesuffix(".py")
                yield Document(text, {"kind": kind, "package": package})


def _documentation(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if any(part.endswith(".dist-info") for part in path.parts):  # headers come first
        text = text.partition("\n\n")[2] if path.name == "METADATA" else ""
    return text if sum(map(str.isalpha, text)) >= LETTERS * len(text) else ""


def _docstrings(path: Path) -> str:
    with warnings.catch_warnings(action="ignore"):  # of invalid escapes, say
        tree = ast.parse(path.read_bytes())
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    return "\n\n".join(filter(None, found))


def _source(path: Path) -> str:
    return path.read_text(encoding="utf-8")


KINDS: Mapping[str, tuple[Sequence[str], Callable[[Path], str]]] = {
    "documentation": (("*.md", "*.rst", "*.txt", "METADATA"), _documentation),
    "docstrings": (("*.py",), _docstrings),
    "sources": (("*.py",), _source),
}
"""Patterns of the files of each kind, and the function that reads one."""


class Files:
    """Files: .txt and .md hold a document each, .jsonl and .parquet one in each row.

    Args:
        paths: patterns of paths, with ``**`` for any folders.
        text: key of the text in a row.
        label: key of the label in a row; with ``None``, and in .txt and .md files, the label is the
            name of the file's folder.

    Raises:
        ConfigError: if a pattern matches no file, or a file is of another kind.
    """

    def __init__(self, paths: str | Sequence[str], text: str, label: str | None) -> None:
        self.text, self.label = text, label
        self.paths: list[Path] = []
        for pattern in [paths] if isinstance(paths, str) else paths:
            found = sorted(glob(str(Path(pattern).expanduser()), recursive=True))
            if not found:
                raise ConfigError(f"text.paths={pattern}: no such file")
            self.paths += [path for path in map(Path, found) if path not in self.paths]
        for path in self.paths:
            if path.suffix not in (*PLAIN, *ROWS):
                allowed = ", ".join((*PLAIN, *ROWS))
                raise ConfigError(f"text.paths={path}: allowed are files {allowed}")
            if path.suffix == ".parquet" and find_spec("pyarrow") is None:
                raise ConfigError(f"text.paths={path}: needs pyarrow; pip install pyarrow")

    def documents(self, seed: int) -> Iterator[Document]:
        """Yield the documents, with the label ``label``."""
        for path in _shuffled(self.paths, seed):
            folder = path.absolute().parent.name
            try:
                if path.suffix in PLAIN:
                    yield Document(path.read_text(encoding="utf-8"), {"label": folder})
                    continue
                for number, row in enumerate(ROWS[path.suffix](path), 1):
                    subject = f"text.paths={path}, row {number}"
                    document = document_of(subject, row, self.text, self.label)
                    yield document._replace(labels={"label": folder, **document.labels})
            except ConfigError:
                raise
            except (OSError, ValueError) as error:
                raise ConfigError(f"text.paths={path}: {one_line(error)}") from error


def _json_rows(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines if line.strip())


def _parquet_rows(path: Path) -> Iterator[Any]:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


ROWS: dict[str, Callable[[Path], Iterator[Any]]] = {".jsonl": _json_rows, ".parquet": _parquet_rows}
"""Functions that read the rows of a file."""


class Hub:
    """A data set of the Hugging Face hub, in its own order, read as it is needed.

    Args:
        name: name of the data set.
        subset: its configuration, if it has several.
        split: its split.
        text: key of the text in a row.
        label: key of the label in a row; ``None`` for no label.

    Raises:
        ConfigError: if the package datasets is not installed.
    """

    def __init__(
        self, name: str, subset: str | None, split: str, text: str, label: str | None
    ) -> None:
        self.name, self.subset, self.split = name, subset, split
        self.text, self.label = text, label
        if find_spec("datasets") is None:
            raise ConfigError('text=hub: needs the package datasets; pip install -e ".[hub]"')

    def documents(self, seed: int) -> Iterator[Document]:
        """Yield the documents, with the label ``label`` if there is a key; no seed is used."""
        from datasets import load_dataset

        subject = f"text.name={self.name}"
        with raising(ConfigError, subject, Exception):  # of the network, the hub, or the data set
            rows = iter(load_dataset(self.name, self.subset, split=self.split, streaming=True))
        for number in count(1):
            with raising(ConfigError, subject, Exception):  # rows are read as they are needed
                row = next(rows, None)
            if row is None:
                return
            yield document_of(f"{subject}, row {number}", row, self.text, self.label)


def document_of(subject: str, row: Any, text: str, label: str | None) -> Document:
    """Return the document of a row, or raise ``ConfigError`` if it lacks a key."""
    for setting, key in (("text", text), ("label", label)):
        if key is not None and (not isinstance(row, Mapping) or row.get(key) is None):
            there = ", ".join(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
            raise ConfigError(f"text.{setting}={key}: {subject} lacks it; it has {there}")
    if not isinstance(row[text], str):
        raise ConfigError(f"text.text={text}: {subject} holds {type(row[text]).__name__}, not text")
    return Document(row[text], {} if label is None else {"label": str(row[label])})


def _shuffled(paths: Iterable[Path], seed: int) -> list[Path]:
    """Return paths in an order that depends on nothing but their names and the seed."""
    return sorted(paths, key=lambda path: _hash(path, seed))


def _hash(path: Path, purpose: Any) -> bytes:
    return hashlib.sha256(f"{purpose} {path}".encode()).digest()
