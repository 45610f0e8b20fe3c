"""The list of all primitives that have a rounding rule, as docs/primitives.md.

python -m parity.rounding.catalogue > docs/primitives.md
"""

from __future__ import annotations

import inspect
import sys
from collections import defaultdict

from .arithmetic import FUNCTIONS, Function
from .formulas import FORMULAS
from .jaxpr import CALLS
from .rules import RULES
from .special import SPECIAL
from .walk import CONTROL

_HEAD = """# Primitives with a rounding rule

`parity.rounding.bound` takes any JAX function whose jaxpr holds these primitives alone. This page
is made from the code: `python -m parity.rounding.catalogue > docs/primitives.md`.

A primitive that isn't listed is exact where it takes and gives integers and booleans only, and
is evaluated as it is. Otherwise it's refused with `UnsupportedPrimitive`, which names it and the
line that called it: among others all of linear algebra (`cholesky`, `triangular_solve`, `lu`,
`qr`, `svd`, `eigh`), `fft`, complex numbers, `igamma` and its kind, reductions by a function of
one's own. Second derivatives of pooling (`select_and_gather_add`) have no rule either.
"""


def page() -> str:
    """The whole page, in Markdown."""
    rooms: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    tables = FUNCTIONS | SPECIAL
    for name, rule in RULES.items():
        if name not in tables:
            rooms[rule.__module__][rule.__name__].append(name)
    parts = [_HEAD, _functions("Functions of one number", tables)]
    for module in sorted(rooms):
        about = (inspect.getdoc(sys.modules[module]) or "").split("\n\n")[0].replace("\n", " ")
        rows = [f"- {_names(names)}" for names in rooms[module].values()]
        parts.append(f"## `{module.rpartition('.')[2]}.py`\n\n{about}\n\n" + "\n".join(rows) + "\n")
    parts.append(
        f"## Control flow\n\nCalls, looked through: {_names(sorted(CALLS))}.\n\n"
        f"Read as the formulas that they stand for: {_names(sorted(FORMULAS))}; "
        "and those of `call_hi_primitive`, which JAX itself writes out.\n\n"
        f"By rules of their own: {_names(sorted(CONTROL))}. A loop whose end rounding may move, "
        "or a branch that it may turn, is uncertain; one that integers decide never is.\n"
    )
    return "\n".join(parts)


def _functions(title: str, table: dict[str, Function]) -> str:
    """What each may err by, in units of u |f(x)|: twice what was measured of JAX and Torch."""
    rows = [
        f"| `{name}` | {f.relative[0]} | {f.relative[1]} | {'yes' if f.extra else ''} |"
        for name, f in sorted(table.items())
    ]
    return (
        f"## {title}\n\nAllowed error in units of u\\|f(x)\\|, twice the largest of JAX's and "
        "Torch's that was measured; some have an absolute part or one that grows with x too.\n\n"
        "| Primitive | float32 | float64 | and more |\n| --- | --- | --- | --- |\n"
        + "\n".join(rows)
        + "\n"
    )


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    sys.stdout.write(page())
