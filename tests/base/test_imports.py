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


def test_what_imports_nothing_leaves_garbage_to_be_found():
    frozen = gc.get_freeze_count()
    with quick_imports():
        import sys  # noqa: F401
    assert gc.get_freeze_count() <= frozen, "what was frozen may have gone meanwhile"


def test_garbage_is_searched_again_after_a_failure():
    with pytest.raises(ModuleNotFoundError), quick_imports():
        import no_such_module  # noqa: F401
    assert gc.isenabled()
