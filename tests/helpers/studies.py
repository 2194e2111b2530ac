"""Tables: made up, and those that a part of a study leaves in its directory."""

import json
import re

import pandas as pd

from implicit_em_studies.shared.planning import describe


def crossed(**axes):
    """A row for each combination of values."""
    return pd.MultiIndex.from_product(axes.values(), names=axes).to_frame(index=False)


def table(directory, name):
    return pd.read_csv(directory / "tables" / f"{name}.csv")


def report_of(directory):
    """Return the report of a trial; it says what was found, and shows no number that is none."""
    text = (directory / "report.md").read_text()
    said = json.loads((directory / "findings.json").read_text())["findings"]
    assert said
    assert all(sentence in text for sentence in said)
    assert "> **TRIAL with" in text
    assert "nan" not in re.findall(r"[\w-]+", text)
    return text


def tuned_in(tuning):
    """The settings of each family in a table of committed results; ``model.l0`` was ``model.k``."""
    settings = tuning["settings"].str.replace(r"\bk=", "l0=", regex=True)
    return set(zip(tuning["family"], settings, strict=True))


def as_tuned(settings):
    """Composed settings as such a table names them."""
    return {(one.family, describe(one.cfg, one.axes)) for one in settings}
