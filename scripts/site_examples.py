"""Examples in docstrings as code on the site: a paragraph of `>>>` becomes a fenced block."""

from textwrap import dedent
from typing import Any

import griffe


def fenced(text: str) -> str:
    """Markdown of a docstring."""
    parts = text.split("\n\n")
    return "\n\n".join(
        f"```pycon\n{dedent(part).strip()}\n```" if part.lstrip().startswith(">>>") else part
        for part in parts
    )


class Examples(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)
