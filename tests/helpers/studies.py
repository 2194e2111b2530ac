"""Tables: made up, and those that a part of a study leaves in its directory."""

import json
import re

import pandas as pd


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
