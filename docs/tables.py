"""Write the tables of the pages on results, from those of the studies: ``python docs/tables.py``.

A page marks the place of a table by a comment that names one of the ``TABLES``.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from implicit_em.studies.families import name_of

DOCS = Path(__file__).parent
RESULTS = DOCS / "results"
PLACE = re.compile(r"(<!-- docs/tables.py: (\w+) -->\n)(?:\n(?:\|.*\n)+)?")
COMPARED = {
    "MNIST, 64 units": "compare/mnist/equal_width",
    "MNIST, 64 units, decay": "compare/mnist/decay_64",
    "MNIST, 128 units, decay": "compare/mnist/decay_128",
    "Fashion-MNIST, 64 units": "compare/fashion_mnist/equal_width",
    "Fashion-MNIST, 64 units, decay": "compare/fashion_mnist/decay_64",
    "Fashion-MNIST, 128 units, decay": "compare/fashion_mnist/decay_128",
}
UNEQUAL = {
    "MNIST, equal parameters": "compare/mnist/equal_parameters",
    "Fashion-MNIST, equal parameters": "compare/fashion_mnist/equal_parameters",
}
LANGUAGE_MODELS = {"MiniLM": "minilm", "SmolLM2": "smollm2"}
SHOWN_CELLS = ["usual", "harder", "outlier", "middle", "few_features", "sparse"]
LEVEL = 0.05
TOLD_APART = re.compile(
    r"Of (\d+) paired .* equal (?:density|activity), derived is significantly better in (\d+), "
    r"significantly worse in (\d+), and undecided in (\d+); after Holm over all of them, it is "
    r"better in (\d+) and worse in (\d+)"
)
FRONT = re.compile(
    r"On the (?:Pareto )?front (?:of unlike widths )?(?:over density )?of the (grids|finals).*?, a "
    r"setting of (.*) stands at \d of 5 densities(?: \(([^)]*)\))?"
)
CONTROL = re.compile(r"Of the controls, (.*) \((\d+) units, (.* %) of .* best probe, (.* %); above")


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return a table in Markdown."""
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def table(study: str, name: str) -> pd.DataFrame:
    """Read a table of a study."""
    return pd.read_csv(RESULTS / study / "tables" / f"{name}.csv")


def told(pattern: re.Pattern[str], study: str) -> list[Any]:
    """Return what a pattern finds in the findings of a study."""
    content = json.loads((RESULTS / study / "findings.json").read_text())
    return pattern.findall("\n".join(content["findings"]))


def percents(mean: float, deviation: float) -> str:
    """Return the mean and the standard deviation of shares, in per cent."""
    return f"{100 * mean:.2f} ± {100 * deviation:.2f}"


def points(row: Any, sign: int = 1) -> str:
    """Return a difference in points with its interval, and an asterisk if it is significant."""
    low, high = sorted(sign * bound for bound in (row["low"], row["high"]))
    ahead = f"{sign * 100 * row['ahead']:+.2f} [{100 * low:.2f}, {100 * high:.2f}]"
    return ahead + (" *" if row["p_holm"] < LEVEL else "")


def ablation() -> str:
    """What each loss ends with, over three seeds."""
    cells = table("", "table1").set_index(["loss", "quantity"])[["mean", "std"]]
    shown = {
        "dead of 64": ("dead_units", ".1f"),
        "redundancy": ("redundancy", ",.1f"),
        "entropy": ("responsibility_entropy", ".3f"),
        "density, %": ("density", ".1f"),
        "probe, %": ("probe_accuracy", ".2f"),
    }
    rows = []
    for loss in ("lse", "lse_var", "lse_var_tc", "var_tc"):
        row = {"loss": f"`{loss}`"}
        for heading, (quantity, form) in shown.items():
            mean, deviation = cells.loc[(loss, quantity)]
            row[heading] = "–" if pd.isna(mean) else f"{mean:{form}} ± {deviation:{form}}"
        rows.append(row)
    return markdown(rows)


def paired_tests() -> str:
    """How many tests of the comparison tell the derived model apart, and who is on the front."""
    rows = []
    for name, part in (COMPARED | UNEQUAL).items():
        tests, better, worse, undecided, *_ = told(TOLD_APART, part)[0]
        row = {"comparison": name, "tests": tests, "better": better, "worse": worse}
        rows.append(row | {"undecided": undecided, "on the front": fronts(part)["finals", "kin"]})
    return markdown(rows)


def fronts(part: str) -> dict[tuple[str, str], str]:
    """Return the densities at which derived, or a model of its kin, is on a front."""
    found = {}
    for where, families, densities in told(FRONT, part):
        densities = densities.replace(" %", "") or "–"
        kin = "kin" if " or " in families else "derived"
        found |= {(where, kin): densities}
        found.setdefault((where, "kin"), densities)
    return found


def best_others() -> str:
    """By how much derived is ahead of the best other family, at each density."""
    rows = []
    for name, part in COMPARED.items():
        for density, families in table(part, "matched_density").groupby("target"):
            whole = families[families["n"] == families["n"].max()].set_index("family")
            others = whole.drop("derived", errors="ignore")
            best = others.loc[others["mean"].idxmax()]
            ahead = points(best, -1) if "derived" in whole.index else "–"
            row = {"comparison": name, "density": f"{100 * density:g} %"}
            row["best other family"] = name_of(best.name)
            rows.append(row | {"derived is ahead by": ahead})
            name = ""  # once is enough
    return markdown(rows)


def on_mnist() -> str:
    """At which densities derived is significantly better or worse than each family, on MNIST."""
    return each_family("MNIST")


def on_fashion_mnist() -> str:
    """At which densities it is on Fashion-MNIST."""
    return each_family("Fashion-MNIST")


def each_family(data: str) -> str:
    """At which densities derived is significantly better or worse than each family."""
    rows: dict[str, dict[str, str]] = {}
    start = f"{data}, "
    parts = {
        name.removeprefix(start): part for name, part in COMPARED.items() if name.startswith(start)
    }
    for name, part in parts.items():
        tested = table(part, "matched_density").query("family != 'derived'")
        for family, tests in tested.groupby("family", sort=False):
            row = {"derived against": name_of(str(family))} | dict.fromkeys(parts, "–")
            clear = tests[tests["p_holm"] < LEVEL]
            better, worse = clear[clear["ahead"] < 0], clear[clear["ahead"] > 0]
            cell = [
                f"{sign} {', '.join(f'{100 * density:g}' for density in there['target'])}"
                for sign, there in (("+", better), ("−", worse))
                if len(there)
            ]
            rows.setdefault(str(family), row)[name] = "; ".join(cell) or "undecided"
    return markdown(list(rows.values()))


def other_measures() -> str:
    """How often derived is better and worse: after Holm over all tests, and by other measures."""
    rows = []
    for name, part in (COMPARED | UNEQUAL).items():
        *_, better, worse = told(TOLD_APART, part)[0]
        row = {"comparison": name, "probe, Holm over all tests": f"{better} / {worse}"}
        measures = r"([\w ]+), better in (\d+) and worse in (\d+) of \d+[;.]"
        for measure, *counts in told(re.compile(measures), part):
            row[measure.strip()] = " / ".join(counts)
        rows.append(row)
    return markdown(rows)


def all_fronts() -> str:
    """At which densities derived, or a model of its kin, is on the front."""
    rows = []
    for name, part in (COMPARED | UNEQUAL).items():
        on, row = fronts(part), {"comparison": name}
        for where in ("grids", "finals"):
            row[f"{where}: derived"] = on[where, "derived"]
            row[f"{where}: derived or with decay"] = on[where, "kin"]
        rows.append(row)
    return markdown(rows)


def best_controls() -> str:
    """The control with the best probe in each comparison, and where derived is above it."""
    rows = []
    for name, part in (COMPARED | UNEQUAL).items():
        ((control, units, active, probe),) = told(CONTROL, part)
        above = told(re.compile(r"above it are derived \(([^)]*)\)"), part)
        row = {"comparison": name, "control": control, "units": units, "active": active}
        rows.append(row | {"probe": probe, "derived is above at": above[0].replace(" %", "")})
    return markdown(rows)


def equal_activity() -> str:
    """By how much derived is ahead of the best other family, at each number of active units."""
    rows = []
    for name, part in UNEQUAL.items():
        row = {"comparison": name}
        for active, families in table(part, "matched_activity").groupby("target"):
            others = families[families["family"] != "derived"].set_index("family")
            best = others.loc[others.query(f"n == {others['n'].max()}")["mean"].idxmax()]
            row[f"{active:g} active"] = f"{name_of(best.name)}: {points(best, -1)}"
        rows.append(row)
    return markdown(rows)


KNOBS = {"MNIST": "compare/mnist/knobs", "Fashion-MNIST": "compare/fashion_mnist/knobs"}


def moved_density() -> str:
    """How far each setting of the derived model moves the share of active units."""
    rows: dict[str, dict[str, str]] = {}
    for name, part in KNOBS.items():
        settings = table(part, "knobs")
        base = settings.loc[settings["knob"] == "base", "density"]
        for knob, there in settings[settings["knob"] != "base"].groupby("knob", sort=False):
            densities = 100 * pd.concat([base, there["density"]])
            row = rows.setdefault(str(knob), {"setting": name_of(str(knob))})
            row[name] = f"{densities.min():.1f} to {densities.max():.1f} %"
    return markdown(list(rows.values()))


def moved_probe() -> str:
    """Which settings change the probe at the density that they have, by how many points."""
    rows: dict[str, dict[str, str]] = {}
    for name, part in KNOBS.items():
        for _, row in table(part, "knobs").query(f"p_holm < {LEVEL}").iterrows():
            entry = {"setting": f"`{row['settings']}`"} | dict.fromkeys(KNOBS, "–")
            rows.setdefault(row["settings"], entry)[name] = points(row).removesuffix(" *")
    return markdown(list(rows.values()))


def recovered() -> str:
    """What derived and TopK find in some cells, with settings chosen without the truth."""
    tests = table("recover", "tests").query("criterion == 'blind'")
    tests = tests.set_index(["target", "family"])
    cells, rows = table("recover", "cells").set_index("cell"), []
    for name in SHOWN_CELLS:
        cell, found = cells.loc[name], tests.loc[name]
        features = f"{cell['features']:,} in {cell['width']}, {100 * cell['density']:g} %"
        row = {"setting": name.replace("_", " "), "features": features}
        for family in ("derived", "topk"):
            mean, deviation = found.loc[family, ["mean", "std"]]
            row[f"{name_of(family)}, %"] = percents(mean, deviation)
        rows.append(row | {"ahead by": points(found.loc["topk"], -1)})
    return markdown(rows)


def against_each() -> str:
    """In how many cells derived finds significantly more or fewer features than each family."""
    rows: dict[str, dict[str, Any]] = {}
    named = {"blind": "without the truth", "truth": "by the truth"}
    tests = table("recover", "tests").dropna(subset=["p_holm"])
    for (criterion, family), cells in tests.groupby(["criterion", "family"], sort=False):
        clear = cells.loc[cells["p_holm"] < LEVEL, "ahead"]
        row = rows.setdefault(family, {"derived against": name_of(family)})
        counts = (clear < 0).sum(), (clear > 0).sum(), len(cells) - len(clear)
        row[f"chosen {named[criterion]}"] = " / ".join(map(str, counts))
    return markdown(list(rows.values()))


def explained() -> str:
    """The variance that a ridge decoder explains, from the reports on both language models."""
    rows: dict[str, dict[str, str]] = {}
    for name, part in LANGUAGE_MODELS.items():
        report = (RESULTS / "language" / part / "report.md").read_text()
        section = report.partition("## Variance explained by a ridge decoder")[2]
        lines = re.findall(r"^\| (.*) \|$", section.partition("Points ahead")[0], re.MULTILINE)
        heading, *families = [[cell.strip() for cell in line.split("|")] for line in lines]
        for family, *cells in families:
            row = rows.setdefault(family, {"family": family})
            for active in (32, 128):
                row[f"{name}, {active}"] = cells[heading.index(f"{active} active units") - 1]
    return markdown(list(rows.values()))


def best_language_controls() -> str:
    """The control of which most variance is explained, at each number of active units."""
    rows: dict[int, dict[str, Any]] = {}
    for name, part in LANGUAGE_MODELS.items():
        controls = table(f"language/{part}", "controls")
        for active, there in controls.groupby("target"):
            explained = there.groupby("family")["ridge_variance_explained"].agg(["mean", "std"])
            best = explained["mean"].idxmax()
            mean, deviation = explained.loc[best]
            share = f"{100 * mean:.2f}" if pd.isna(deviation) else percents(mean, deviation)
            rows.setdefault(active, {"active units": active})[name] = f"{name_of(best)}: {share}"
    return markdown(list(rows.values()))


def permuted() -> str:
    """What is explained on the language models, and on those with permuted weights."""
    rows: dict[str, dict[str, str]] = {}
    for name, part in LANGUAGE_MODELS.items():
        for where in ("finals", "permuted"):
            runs = table(f"language/{part}", where).query("l0_target == 32")
            for family, there in runs.groupby("family", sort=False):
                row = rows.setdefault(str(family), {"family": name_of(str(family))})
                share = there["ridge_variance_explained"]
                as_it_is = "trained" if where == "finals" else "permuted"
                row[f"{name}, {as_it_is}"] = percents(share.mean(), share.std())
    return markdown([row for row in rows.values() if len(row) == 2 * len(LANGUAGE_MODELS) + 1])


TABLES: dict[str, Callable[[], str]] = {
    make.__name__: make
    for make in (
        ablation,
        paired_tests,
        best_others,
        on_mnist,
        on_fashion_mnist,
        other_measures,
        all_fronts,
        best_controls,
        equal_activity,
        moved_density,
        moved_probe,
        recovered,
        against_each,
        explained,
        best_language_controls,
        permuted,
    )
}


def with_tables(page: str) -> str:
    """Return a page with its tables as the studies have them now."""
    return PLACE.sub(lambda place: f"{place[1]}\n{TABLES[place[2]]()}\n", page)


if __name__ == "__main__":
    for path in sorted(DOCS.rglob("*.md")):
        path.write_text(with_tables(path.read_text()))
