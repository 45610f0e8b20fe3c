"""Tutorials do what they say: the code runs as it stands, and prints what is shown below it."""

import contextlib
import doctest
import io
import re
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parents[1] / "docs" / "tutorials").glob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_a_tutorial_prints_what_it_shows(page):
    names, printed, compared = {"__name__": "__main__"}, "", 0
    checker = doctest.OutputChecker()
    for language, text in BLOCK.findall(page.read_text("utf-8")):
        if language == "python":
            assert not printed, f"{page.name} doesn't show what is printed:\n{printed}"
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(text, page.name, "exec"), names)
            printed = out.getvalue()
        elif printed:
            assert checker.check_output(text, printed, doctest.ELLIPSIS), f"printed:\n{printed}"
            printed, compared = "", compared + 1
    assert compared and not printed


def test_tutorials_are_found():
    assert {page.stem for page in PAGES} >= {"report", "transformer-block"}
