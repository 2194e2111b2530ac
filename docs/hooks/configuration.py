"""The reference of the configuration, made from its files when the site is built."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CONFS = [
    ROOT / name / "conf" for name in ("implicit_em", "implicit_em/language", "implicit_em_studies")
]
FRAMEWORK, WING, STUDIES = CONFS
PLACE = "<!-- every group, option and key -->"
GROUPS = {
    "model": "The network. Each model chooses the loss that goes with it.",
    "loss": "The terms of the objective and their weights.",
    "activation": "The function from pre-activations to energies.",
    "data": "What to train on.",
    "optimizer": "How the weights move.",
    "lr": "The learning rate and its schedule.",
    "trainer": "Where a run computes, and for how long.",
    "callbacks": "What goes on beside training. For several: `callbacks=[best,lr_monitor]`.",
    "logger": "Where curves go, beside `history.csv`, which is always written.",
    "hydra/launcher": "How the jobs of a sweep are started. Hydra's own `basic` runs one after "
    "another, and `stacked` (see [sweeps](../how-to/sweeps.md)) trains them together; both have no "
    "file here.",
    "hydra/sweeper": "How the jobs of a sweep are chosen. The default, `checked`, takes every "
    "combination of the listed values, as Hydra's own `basic` does. Neither has a file here.",
    "lm": "The language model of a [harvest](../how-to/harvest.md).",
    "text": "What the language model reads.",
    "experiment": "The sweeps of the paper's study, `-m experiment=ablation`. For more units than "
    "inputs: `overcomplete`, the recommended start, and `derived`, the paper's objective.",
}
"""The config groups, in the order of the page."""
PROTOCOLS = {
    "The protocol of the comparison": "compare.yaml",
    "The protocol of the recovery study": "recover.yaml",
    "The protocol of the study of language models": "language.yaml",
    "The protocol of the study of explaining away": "explaining_away.yaml",
    "The sweeps of the theory's open questions": "theory.yaml",
}
"""The files of studies, which are shown as they are."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the reference where a page asks for it."""
    return markdown.replace(PLACE, reference()) if PLACE in markdown else markdown


def reference() -> str:
    """Return the reference of all folders of configuration files, in Markdown."""
    sections = [
        _section("## A run", FRAMEWORK / "train.yaml", ""),
        _section("## A harvest", WING / "harvest.yaml", ""),
    ]
    for group, purpose in GROUPS.items():
        sections.append(f"## {group}\n\n{purpose}\n")
        files = [file for conf in CONFS for file in (conf / group).glob("*.yaml")]
        sections += [
            _section(f"### {group}={file.stem}", file, group.replace("/", ".") + ".")
            for file in sorted(files, key=lambda file: file.stem)
        ]
    for heading, name in PROTOCOLS.items():
        file = STUDIES / name
        place = f"The file `{file.relative_to(ROOT)}`:"
        sections.append(f"## {heading}\n\n{place}\n\n```yaml\n{file.read_text()}```\n")
    return "\n".join(sections)


def _section(heading: str, file: Path, prefix: str) -> str:
    lines = file.read_text().splitlines()
    is_global = "@package _global_" in lines[0]
    root = yaml.compose(file.read_text())
    rows = list(_keys(root, "" if is_global else prefix, lines)) if root.value else []
    parts = [heading, "", purpose(file), ""]
    if builds_on := [row[1] for row in rows if row[0] == "defaults"]:
        parts += [f"Builds on {builds_on[0]}.", ""]
    for key, value, comment in rows:
        if key != "defaults":
            parts.append(f"- `{key}={value}`" + (f": {comment}" if comment else ""))
    return "\n".join([*parts, ""])


def purpose(file: Path) -> str:
    """Return the comment that opens a file, without Hydra's own line above it."""
    comment = []
    for line in file.read_text().splitlines():
        if not line.startswith("# "):
            break
        if "@package" not in line:
            comment.append(line[2:])
    return " ".join(comment)


def _keys(node: yaml.MappingNode, prefix: str, lines: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yield the dotted name, the default and the comment of every key."""
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if key.value == "defaults" and key.start_mark.column == 0:
            yield "defaults", _defaults(value), ""
        elif isinstance(value, yaml.MappingNode) and value.value:
            yield from _keys(value, f"{name}.", lines)
        else:
            yield name, _default(value), _comment(key, value, lines)


def _default(node: yaml.Node) -> str:
    """Return a value as it would be typed."""
    if isinstance(node, yaml.SequenceNode):
        return f"[{', '.join(map(_default, node.value))}]"
    return node.start_mark.buffer[node.start_mark.index : node.end_mark.index].strip()


def _comment(key: yaml.Node, value: yaml.Node, lines: list[str]) -> str:
    """Return the comment beside a key or, where there is none, the one above it."""
    end = value.end_mark
    beside = (
        re.search(r"\s#\s(.*)", lines[end.line][end.column :]) if end.line < len(lines) else None
    )
    if beside:
        return beside[1]
    above = []
    for line in reversed(lines[: key.start_mark.line]):
        if not line.strip().startswith("# ") or "@package" in line:
            break
        above.append(line.strip()[2:])
    opens_the_file = len(above) == key.start_mark.line
    return "" if opens_the_file else " ".join(reversed(above))


def _defaults(node: yaml.SequenceNode) -> str:
    """Return what a defaults list names, as it would be typed."""
    names = []
    for entry in yaml.safe_load(yaml.serialize(node)):
        if isinstance(entry, str):
            names.append(entry)
        else:
            names += [
                f"{group.removeprefix('override ').lstrip('/')}={option}"
                for group, option in entry.items()
                if option
            ]
    return ", ".join(f"`{name}`" for name in names if name != "_self_")
