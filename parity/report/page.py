"""Pages that hold everything: one file, no network."""

from pathlib import Path
from typing import Any

from mlp_core.files import write_atomically
from parity.lines import shortened
from parity.locate.alignment import Alignment
from parity.report.graphs import drawing


def save_page(found: Alignment, path: str | Path) -> Path:
    """Write what `align` found, both graphs side by side, as a page. Returns the path.

    Raises OSError if the file can't be written.

        >>> import tempfile
        >>> alignment = align(theirs, ours, (X, None), weights="guess")
        >>> save_page(alignment, tempfile.mkdtemp() + "/step.html").suffix
        '.html'
    """
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
