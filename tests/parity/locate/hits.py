"""Which of the named lines is the one at which an error was made.

As a program, with names of families or none: prints the rank of every error's true line that isn't
named first, and how many are.
"""

import sys
from pathlib import Path

from catalogue import FAMILIES
from port import Port, Wrong
from run import climbed
from true_lines import TRUE_LINES

from parity.locate.parting import Parting, Place

# An error of the state shows in it, after a step; one of the curve in its steps.
UNTIL = {"step": "step", "every step": "every step", "curve": "every step", "state": "state"}
ERRORS = [
    (port, wrong)
    for port in FAMILIES
    for wrong in port.wrong
    if wrong.name in TRUE_LINES.get(port.name, {})
]


def source(place: Place) -> str:
    """The text of a place's line, its file, and what else it is called."""
    file, _, rest = place.line.partition(":")
    text = Path(file).read_text().splitlines()[int(rest.split()[0]) - 1] if file else ""
    return f"{text.strip()} {Path(file).name} {place.given} {place.op}"


def rank(port: Port, wrong: Wrong, parting: Parting | None) -> int | None:
    """Of the true line among those named on a side, from 1; None if it isn't among them."""
    true = TRUE_LINES[port.name][wrong.name]
    texts = (true,) if isinstance(true, str) else true
    sides = (parting.torch, parting.jax) if parting else ()
    found = [
        i
        for places in sides
        for i, place in enumerate(places, 1)
        if any(text in source(place) for text in texts)
    ]
    return min(found, default=None)


def named(port: Port, wrong: Wrong) -> Parting | None:
    """What `check` names for an error."""
    until = UNTIL.get(wrong.level, "gradients")
    return climbed(port.wrongly(wrong), until=until).parting


def main(families: list[str]) -> None:
    chosen = [e for e in ERRORS if not families or any(f in e[0].name for f in families)]
    ranks = []
    for port, wrong in chosen:
        parting = named(port, wrong)
        ranks.append(rank(port, wrong, parting))
        if ranks[-1] != 1:
            print(f"{ranks[-1]}  {port.name}: {wrong.name}\n{parting}", flush=True)
    first, three = ranks.count(1), sum(r is not None and r <= 3 for r in ranks)
    print(f"{len(ranks)} errors: the true line is first in {first}, in the first three in {three}")


if __name__ == "__main__":
    main(sys.argv[1:])
