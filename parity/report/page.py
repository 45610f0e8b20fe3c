"""Pages that hold everything: one file, no network. Frameworks are not needed to write one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlp_core.files import write_atomically
from parity.lines import shortened

if TYPE_CHECKING:
    from parity.locate.alignment import Alignment


def save_page(found: Alignment, path: str | Path) -> Path:
    """Write what `align` found, both graphs side by side, as a page. Returns the path.

    Raises OSError if the file can't be written.

        >>> import tempfile
        >>> alignment = align(theirs, ours, (X, None), weights="guess")
        >>> save_page(alignment, tempfile.mkdtemp() + "/step.html").suffix
        '.html'
    """
    from parity.report.graphs import drawing

    page = rendered("alignment.html", alignment=found, drawing=drawing(found))
    return write_atomically(Path(path), page.encode())


def rendered(template: str, **what: Any) -> str:
    """One of the templates, filled in."""
    import jinja2

    loader = jinja2.PackageLoader("parity.report")
    # The names of a user's modules and files may be anything: all of them are escaped.
    page = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    page.filters["shortened"] = shortened
    return page.get_template(template).render(**what)
