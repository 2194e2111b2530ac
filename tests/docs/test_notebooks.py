"""The notebooks run from a clean kernel."""

import nbformat
import pytest
from helpers.paths import ROOT
from nbclient import NotebookClient

NOTEBOOKS = ROOT / "notebooks"


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_from_a_clean_kernel(path):
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(NOTEBOOKS)}}

    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()

    assert outputs(notebook)
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
