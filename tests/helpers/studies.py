"""Tables: made up, and those that a part of a study leaves in its directory."""

import json
import re

import pandas as pd

from implicit_em_studies.shared.planning import describe


def crossed(**axes):
    """A row for each combination of values."""
    return pd.MultiIndex.from_product(axes.values(), names=axes).to_frame(index=False)


def changed(experiment, table, column, value, **where):
    """Return a function that sets a column of a table of evidence, where others have some values.

    The value may be a function of the column.
    """

    def change(evidence):
        frame = evidence[experiment][table].reset_index(drop=True)
        rows = pd.Series(True, frame.index)
        for key, wanted in where.items():
            rows &= frame[key].isin(wanted if isinstance(wanted, tuple) else (wanted,))
        old = frame[column].astype(float)
        new = old.mask(rows, value(old) if callable(value) else value)
        own = {**evidence[experiment], table: frame.assign(**{column: new})}
        return {**evidence, experiment: own}

    return change


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
