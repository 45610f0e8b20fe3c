from pathlib import Path

from parity.rounding.catalogue import page
from parity.rounding.rules import RULES


def test_the_page_of_primitives_is_up_to_date():
    path = Path(__file__).parents[3] / "docs" / "primitives.md"
    written = path.read_text(encoding="utf-8")
    again = "python -m parity.rounding.catalogue > docs/primitives.md"
    assert written == page(), f"{path.name} is not what the code gives: {again}"
    assert all(f"`{name}`" in written for name in RULES)
