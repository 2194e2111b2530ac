"""The tables of the full run under docs/results/."""

import pandas as pd
import pytest
from helpers.paths import ROOT

from implicit_em_studies.paper.paper import TABLES


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_every_published_figure(name):
    cells = pd.read_csv(ROOT / "docs" / "results" / "tables" / f"{name}.csv")
    assert cells["paper"].notna().sum() == sum(
        figure.value is not None for row in TABLES[name].rows.values() for figure in row.values()
    )
    assert cells.loc[cells["deviates"].fillna(False).astype(bool), "reason"].notna().all()
