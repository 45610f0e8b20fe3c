"""What is asked of a device, in order of value: each a command, and what it leaves behind."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.config import AcceleratorConfig

Table = list[tuple[str, ...]]  # the header first
CLI = ("-m", "parity.cli")
FOUND = "found"  # without the device all ends
GRAPH = "graph"  # where it fails, later stages do without
FAST = ("floor", "jax scratch", "torch mlp")  # what is measured again at other precisions


@dataclass(frozen=True)
class Stage:
    """arguments: of Python. result: the file that it writes into its folder. table: what of that
    file belongs into the summary."""

    name: str
    question: str
    arguments: tuple[str, ...]
    result: str
    table: Callable[[Mapping[str, Any]], Table]

    def forget(self, folder: Path) -> None:
        """Delete what an earlier run wrote: it must not pass for this one's."""
        (folder / self.name / self.result).unlink(missing_ok=True)

    def read(self, folder: Path) -> dict[str, Any] | None:
        """What it wrote; None where it didn't, or not to the end."""
        try:
            return json.loads((folder / self.name / self.result).read_text())
        except (OSError, ValueError):
            return None


def stages(config: AcceleratorConfig, device: str) -> list[Stage]:
    """device: "cpu", "cuda" or "tpu"."""
    out, small = config.out, config.small
    data = ("--data", config.data) if config.data else ()

    def command(name: str, *arguments: str) -> tuple[str, ...]:
        kind, *rest = arguments
        return (*CLI, kind, "--device", device, *data, "--out", str(out / name), *rest)

    def asked(name: str, probe: str = "") -> tuple[str, ...]:
        file = str(out / name / f"{name}.json")
        return ("-m", "parity.studies.accelerator.probes", probe or name, device, file)

    sizes = ("16", "64") if small else ("64", "256", "1024", "4096", "16384")
    batches = ("64", "256") if small else ("64", "256", "1024", "4096", "16384", "65536")
    rounds = ("--rounds", "2" if small else "7")
    rows = ("--rows", "floor", "jax mlp", "--width", "16")
    short = ("--epochs", "1", "--hiddens", "16") if small else ()
    return [
        Stage(FOUND, "What is here?", asked(FOUND), "found.json", _found),
        *[
            Stage(
                GRAPH,
                "Does a whole epoch run as one graph, again and again?",
                asked(GRAPH),
                "graph.json",
                _graph,
            )
        ]
        * (device == "cuda"),
        Stage(
            "ladder",
            "Do JAX and Torch agree on it?",
            command("ladder", "check", *(short or ("--epochs", "2")), "--no-certify"),
            "report.json",
            _ladder,
        ),
        Stage(
            "bits",
            "Are JAX's bits Torch's?" if small else "Are reproducible bits the published ones?",
            command("bits", "bits", *short),
            "bits.json",
            _bits,
        ),
        Stage(
            "precision",
            "How many bits of its operands does a product use?",
            asked("precision"),
            "precision.json",
            _precision,
        ),
        Stage(
            "determinism",
            "Does the same program give the same bits twice, and those of the CPU?",
            asked("determinism"),
            "determinism.json",
            _determinism,
        ),
        Stage(
            "bench",
            "How fast is an epoch, against the floor?",
            command("bench", "bench", *rounds, *(rows if small else ("--quick",))),
            "bench.json",
            _bench,
        ),
        Stage(
            "fused ladder",
            "Do the fused kernels train the same models on it?",
            command("fused ladder", "check", *(short or ("--epochs", "2")), "--no-certify")
            + ("--kernel", "fused"),
            "report.json",
            _ladder,
        ),
        Stage(
            "fused",
            "How much faster are they than the scan, and bytes than floats?",
            command("fused", "bench", *rounds, "--rows", "floor", "jax scratch", "jax fused")
            + ("jax scratch, bytes", "jax fused, bytes")
            + (("--width", "16") if small else ()),
            "bench.json",
            _bench,
        ),
        Stage(
            "launches",
            "How many launches does a step take, and what lies between them?",
            asked("launches", "launches of few steps" if small else ""),
            "launches.json",
            _launches,
        ),
        *(
            Stage(
                precision,
                f"How fast is an epoch with products in {precision}?",
                command(precision, "bench", *rounds, "--precision", precision, "--rows", *FAST),
                "bench.json",
                _bench,
            )
            for precision in ("tf32", "bf16")
            if device != "cpu"  # whose products have one precision
        ),
        Stage(
            "integers",
            "And by integers alone, without float64?",
            command("integers", "bits", "--integers", "--side", "jax", *short),
            "bits.json",
            _bits,
        ),
        Stage(
            "widths",
            "How does the speed grow with the width?",
            command("widths", "bench", "--width", *sizes, *rounds),
            "bench.json",
            _bench,
        ),
        Stage(
            "batches",
            "How does the speed grow with the batch?",
            command("batches", "bench", "--batch", *batches, *rounds)
            + (("--width", "16") if small else ()),
            "bench.json",
            _bench,
        ),
        Stage(
            "every step",
            "Does every step of all epochs stay within its own bound?",
            command("every step", "trajectory", *(short or ("--epochs", "2")), "--copies", "0")
            + (("--model", "scratch") if small else ()),
            "trajectory-scratch.json",
            _trajectory,
        ),
    ]


def _found(found: Mapping[str, Any]) -> Table:
    return [("what", "found"), *((name, str(value)) for name, value in found.items())]


def _graph(found: Mapping[str, Any]) -> Table:
    rows: Table = [("how", "asked of XLA", "ms an epoch", "SHA-256 of the weights")]
    for run in found["runs"]:
        took = ", ".join(f"{1e3 * seconds:.1f}" for seconds in run["seconds"])
        rows.append((run["what"], "yes" if run["told"] else "no", took, run["weights"][:16]))
    return rows


def _ladder(report: Mapping[str, Any]) -> Table:
    rows: Table = [("pair", "level", "in", "found")]
    for pair in report["pairs"]:
        for r in pair["levels"]:
            said = "ok" if r["ok"] else "FAILED"
            if why := r.get("skipped"):
                said = f"skipped: {why:.60}"
            rows.append((pair["pair"], r["level"], r["precision"], said))
    return rows


def _precision(found: Mapping[str, Any]) -> Table:
    return [
        ("side", "setting", "operation", "bits"),
        *((r["side"], r["setting"], r["operation"], f"{r['bits']:.1f}") for r in found["products"]),
    ]


def _determinism(found: Mapping[str, Any]) -> Table:
    return [
        ("side", "what", "same bits"),
        *((r["side"], r["what"], "yes" if r["same"] else "NO") for r in found["runs"]),
    ]


def _bits(found: Mapping[str, Any]) -> Table:
    rows: Table = [("side", "SHA-256 of the weights", "of the losses")]
    rows += [(s, r["weights"][:16], r["losses"][:16]) for s, r in found["runs"].items()]
    return [*rows, ("both", found["verdict"].splitlines()[0], "")]


def _bench(found: Mapping[str, Any]) -> Table:
    rows: Table = [("row", "width", "batch", "epoch ms", "samples/s", "of floor")]
    for row in found["rows"]:
        share = row["share_of_floor"]
        rows.append(
            (
                row["name"],
                str(row["size"]["width"]),
                str(row["size"]["batch"]),
                f"{1e3 * row['epoch']['median']:.1f}",
                f"{row['samples_per_second']:,.0f}",
                f"{share['median']:.0%}" if share else "-",
            )
        )
    rows += [(name, "-", "-", "not measured", reason[:80], "-") for name, reason in
             found["missing"].items()]  # fmt: skip
    return rows


def _launches(found: Mapping[str, Any]) -> Table:
    rows: Table = [("side", "launches a step", "epoch ms", "busy", "median gap us", "longest us",
                    "longest kinds")]  # fmt: skip
    for side, one in found.items():
        if "failed" in one:
            rows.append((side, "-", "-", "-", "-", "-", one["failed"][:80]))
            continue
        kinds = (f"{k['name'][:40]} {k['seconds'] / one['busy']:.0%}" for k in one["longest kinds"])
        rows.append(
            (
                side,
                f"{one['launches a step']:.1f}",
                f"{1e3 * one['span']:.2f}",
                f"{one['busy'] / one['span']:.0%}",
                f"{1e6 * one['median gap']:.2f}",
                f"{1e6 * one['longest gap']:.0f}",
                ", ".join(kinds),
            )
        )
    return rows


def _trajectory(found: Mapping[str, Any]) -> Table:
    rows: Table = [("in", "steps", "ok")]
    rows += [(t["precision"], str(t["steps"]), str(t["ok"])) for t in found["certified"]]
    return rows


def shown(table: Sequence[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    header, *rows = [[cell.replace("|", "\\|") for cell in row] for row in table]
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
