"""A line of code, as its reader calls it."""

from pathlib import Path


def shortened(line: str) -> str:
    """file:line (function), with the file as seen from the working folder, or its library's."""
    file, colon, rest = line.partition(":")
    path = Path(file)
    if "site-packages" in path.parts:
        file = file.rpartition("site-packages/")[2]
    elif path.is_relative_to(Path.cwd()):
        file = str(path.relative_to(Path.cwd()))
    return file + colon + rest
