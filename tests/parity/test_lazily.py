"""`from parity import check` beside a broken library: its own words are said."""

import importlib

import pytest

import parity


def test_an_attribute_that_a_library_lacks_is_not_taken_for_one_of_ours(monkeypatch):
    def broken(name):
        raise AttributeError("module 'library' has no attribute 'Thing'")

    monkeypatch.setattr(importlib, "import_module", broken)
    monkeypatch.delitem(vars(parity), "check", raising=False)
    with pytest.raises(ImportError, match="parity.check: module 'library' has no attribute"):
        parity.__getattr__("check")
