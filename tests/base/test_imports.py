"""Imports that no search for garbage slows down."""

import gc
import sys

import pytest

from implicit_em.base.imports import quick_imports


def test_nothing_is_searched_while_modules_are_imported(tmp_path, monkeypatch):
    (tmp_path / "imported_quickly.py").write_text("import gc\nsearched = gc.isenabled()\n")
    monkeypatch.syspath_prepend(tmp_path)
    frozen = gc.get_freeze_count()
    with quick_imports():
        import imported_quickly
    monkeypatch.delitem(sys.modules, "imported_quickly")
    assert not imported_quickly.searched
    assert gc.isenabled()
    assert gc.get_freeze_count() > frozen
    frozen = gc.get_freeze_count()
    with pytest.raises(ModuleNotFoundError), quick_imports():
        import no_such_module  # noqa: F401
    assert gc.isenabled()
    assert gc.get_freeze_count() <= frozen, "what imports nothing leaves garbage to be found"
