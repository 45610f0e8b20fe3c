"""Which of the named lines is the one at which an error was made."""

import sys
from pathlib import Path

from true_lines import TRUE_LINES

from parity.locate.parting import Parting, Place


def source(place: Place) -> str:
    """The text of a place's line, its file, and what else it is called."""
    file, _, rest = place.line.partition(":")
    text = Path(file).read_text().splitlines()[int(rest.split()[0]) - 1] if file else ""
    return f"{text.strip()} {Path(file).name} {place.given} {place.op}"


def rank(family: str, error: str, parting: Parting | None) -> int | None:
    """Of the true line among those named on a side, from 1; None if it isn't among them."""
    true = TRUE_LINES[family][error]
    texts = (true,) if isinstance(true, str) else true
    found = []
    if parting:
        for places in (parting.torch, parting.jax):
            hits = (any(text in source(p) for text in texts) for p in places)
            found += [i for i, hit in enumerate(hits, 1) if hit]
    return min(found, default=None)


def main(families: list[str]) -> None:
    """Prints the rank of every error's true line."""
    from catalogue import FAMILIES
    from run import climbed

    ranks = []
    for port in FAMILIES:
        for wrong in port.wrong:
            if wrong.name not in TRUE_LINES.get(port.name, {}):
                continue
            if families and not any(name in port.name for name in families):
                continue
            until = wrong.level if wrong.level in ("step", "every step") else "gradients"
            until = "step" if wrong.level == "state" and port.options.get("loss") else until
            until = {"state": "state", "curve": "every step"}.get(wrong.level, until)
            apart = climbed(port.wrongly(wrong), until=until).parting
            ranks.append(rank(port.name, wrong.name, apart))
            if ranks[-1] != 1:
                print(f"{ranks[-1]}  {port.name}: {wrong.name}")
                for s, places in (("torch", apart.torch), ("jax", apart.jax)) if apart else ():
                    for p in places[:3]:
                        print(f"     {s} {p.phase} {source(p)[:100]}")
    first, three = ranks.count(1), sum(r is not None and r <= 3 for r in ranks)
    print(f"{len(ranks)} errors: the true line is first in {first}, in the first three in {three}")


if __name__ == "__main__":
    main(sys.argv[1:])
