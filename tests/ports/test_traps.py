from pathlib import Path

from traps import page

HERE = Path(__file__).parents[2] / "docs" / "traps.md"


def test_the_page_of_traps_is_what_the_ports_and_the_frameworks_say():
    again = "python tests/ports/traps.py > docs/traps.md"
    assert HERE.read_text(encoding="utf-8") == page(), f"docs/traps.md is stale: {again}"
