"""The page of traps between the frameworks: python tests/ports/traps.py > docs/traps.md"""

from collections import Counter
from collections.abc import Iterable

from catalogue import FAMILIES
from defaults import DEFAULTS, FAULTS
from port import Port

from parity.levels.ladder import LEVELS
from parity.studies.faults.catalogue import CATALOGUE

HEAD = """# Traps between Torch and JAX

What goes wrong when a model moves from one framework to the other, and the
[level](checking.md#the-levels) that finds it. Nothing here is an opinion: each error is planted in
a pair of models that agree, and a test holds the ladder to the level that is named. This page is
made from those tests: `python tests/ports/traps.py > docs/traps.md`.

{count} errors, found at: {by_level}.
"""

DIFFER = """## Defaults that differ

The values are read off the installed frameworks. Found at: the first level that shows the error
which comes of keeping the other side's default.
"""

FAMILY = """## Errors in ports

Each table is a small Torch model and its honest JAX port, with one error at a time. Found at: the
first level where the error can show.
"""

TRAINING = """## Errors in data and training

Those of `mlp-parity faults`: planted in the multilayer perceptron, its data, its training or its
evaluation.
"""


def page() -> str:
    """The whole page, in Markdown. Raises KeyError for a default whose error isn't planted."""
    levels = {(port.name, wrong.name): wrong.level for port in FAMILIES for wrong in port.wrong}
    levels |= {(FAULTS, fault.name): fault.level for fault in CATALOGUE}
    found = Counter(levels.values())
    order = [level.name for level in LEVELS if level.name in found]
    by_level = ", ".join(f"{name} {found[name]}" for name in order)
    differ = ((d.what, d.torch, d.jax, d.write, levels[d.error]) for d in DEFAULTS)
    parts = [
        HEAD.format(count=len(levels), by_level=by_level),
        DIFFER,
        table(("of", "Torch", "JAX", "write in the port", "found at"), differ),
        FAMILY,
        *(family(port) for port in FAMILIES),
        TRAINING,
        *(
            f"### {kind.capitalize()}\n\n"
            + table(
                ("error", "what was done", "found at"),
                ((f.name, f.says, f.level) for f in CATALOGUE if f.kind == kind),
            )
            for kind in dict.fromkeys(fault.kind for fault in CATALOGUE)
        ),
    ]
    return "\n".join(parts)


def family(port: Port) -> str:
    rows = ((wrong.name, wrong.says, wrong.level) for wrong in port.wrong)
    title = port.name[0].upper() + port.name[1:]
    return f"### {title}\n\n" + table(("error", "what the porter did", "found at"), rows)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; a bar within a cell is escaped."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


if __name__ == "__main__":
    print(page(), end="")
