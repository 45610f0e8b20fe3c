"""What the benchmark measured: rows at each size, as a table and as JSON."""

from dataclasses import asdict, dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from parity.studies.bench.timing import Figure, Row, Size

ROWS = (
    "floor",
    "jax scratch",
    "jax mlp",
    "jax scratch, bytes",
    "jax fused",
    "jax fused, bytes",
    "jax reproducible",
    "jax reproducible, integers",
    "jax nnx.jit a step",
    "torch scratch",
    "torch mlp",
    "torch mlp compiled",
    "torch reproducible",
    "torch plain loop",
    "torch DataLoader, d2l",
    "keras on jax",
    "scikit-learn",
)
QUICK = ("floor", "jax scratch", "jax mlp", "torch mlp", "torch plain loop")
SWEPT = ("floor", "jax scratch", "jax mlp")  # where many sizes are asked for
# Widths around powers of two: is a width divisible by a large one any faster?
ALIGNED = (250, 255, 256, 257, 260, 1020, 1024, 1025, 1026, 1028, 1032)
# An epoch long enough to measure, short enough to repeat: about a second of a fast CPU's work.
MOST_FLOPS = 2e11


@dataclass
class Bench:
    """What was measured: rows at each size, what could not run, and what figures depend on."""

    about: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    peak: float = float("nan")
    interleaved: bool = True  # a round of each row, then the next; else all rounds of each in turn
    job: dict[str, Figure] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def sizes(self) -> list[Size]:
        return list(dict.fromkeys(row.size for row in self.rows))

    def at(self, size: Size) -> dict[str, Row]:
        return {row.name: row for row in self.rows if row.size == size}

    def table(self, size: Size) -> Table:
        rows = self.at(size)
        floor = rows.get("floor")
        table = Table(
            box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=str(size), show_edge=False,
            pad_edge=False,
        )  # fmt: skip
        table.add_column("row", overflow="fold")  # the only one that may wrap
        on_device = any(row.device_bytes for row in rows.values())
        columns = ("compile", "epoch s", "samples/s", "of floor", "of peak", "MB", "device MB")
        for column in columns if on_device else columns[:-1]:
            table.add_column(column, justify="right", no_wrap=True, min_width=len(column))
        for row in rows.values():
            steady = row.epoch.steady
            cells = (
                row.name,
                f"{row.compile_seconds:.2f}",
                str(row.epoch),
                f"{size.examples / row.epoch.median:,.0f}" if steady else "-",
                _percent(row.share(floor)) if floor else "-",
                f"{row.rate / self.peak:.0%}" if steady else "-",
                f"{row.host_bytes / 2**20:,.0f}",
                f"{row.device_bytes / 2**20:,.0f}" if row.device_bytes else "-",
            )
            table.add_row(*cells if on_device else cells[:-1])
        return table

    def print(self, console: Console) -> None:
        for size in self.sizes:
            console.print(self.table(size))
        for name, reason in self.missing.items():
            console.print(f"{name}: not measured: {reason}", highlight=False, markup=False)
        if self.job:
            bare = self.job["import jax, one jit"]
            for name, took in self.job.items():
                ratio = f", {took.median / bare.median:.2f} times that" if took != bare else ""
                console.print(f"{name}: {took} s{ratio}", highlight=False)
        how = "interleaved rounds" if self.interleaved else "rounds, one row after the other"
        console.print(
            f"compile: seconds. epoch s: median of {self.about['rounds']} {how}; a "
            "range where the median isn't known to 10% with 95% confidence, which takes six rounds "
            "at least. of floor: the floor's time over the row's, in the same round. of peak: rate "
            "of the matrix products over that of the largest square one, "
            f"{self.peak / 1e9:,.0f} GFLOP/s. MB: peak memory of the process, and of the "
            f"device. Products in precision {self.about['precision']}.",
            highlight=False,
        )
        if self.interrupted:
            console.print("INTERRUPTED: fewer rounds than were asked for.", style="bold red")

    def to_json(self) -> dict[str, Any]:
        def of(row: Row) -> dict[str, Any]:
            floor = self.at(row.size).get("floor")
            return asdict(row) | {
                "epoch": asdict(row.epoch),
                "steady": row.epoch.steady,
                "samples_per_second": row.size.examples / row.epoch.median,
                "flops_per_second": row.rate,
                "share_of_floor": asdict(row.share(floor)) if floor else None,
                "share_of_peak": row.rate / self.peak,
            }

        return {
            "about": self.about,
            "interrupted": self.interrupted,
            "interleaved": self.interleaved,
            "peak_flops_per_second": self.peak,
            "rows": [of(row) for row in self.rows],
            "missing": self.missing,
            "job": {name: asdict(took) for name, took in self.job.items()},
        }


def _percent(share: Figure) -> str:
    return f"{share.median:.0%}" if share.steady else f"{share.low:.0%}..{share.high:.0%}"
