"""What `mlp-parity report` takes."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from parity.config import numbers


@dataclass(frozen=True)
class ReportConfig:
    """Compare two reports: what got better or worse from one to the other.

    Exits with 0 if nothing got worse, 1 if something did, 2 if a file isn't a report.

    Examples:

    mlp-parity report main/report report

    mlp-parity report before.json after.json --out changes
    """

    before: Positional[Path]
    """A report: its folder, or its report.json."""
    after: Positional[Path]
    """A later one: its folder, or its report.json."""
    out: Path | None = None
    """Folder for changes.json and changes.html; the default writes nothing."""

    def __post_init__(self) -> None:
        numbers.check(self)
