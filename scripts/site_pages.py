"""What the site has besides docs/: the README as its first page, notebooks, the reference.

Called by mkdocs (`hooks:` in mkdocs.yml). Links that lead out of docs/ in the repository lead to
the page that stands for the file here.
"""

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from site_examples import fenced

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
# Besides what a package exports.
ALSO = {
    "parity": [],
    "jax_mlp": ["jax_mlp.scratch", "jax_mlp.checkpoint", "jax_mlp.sharding"],
    "torch_mlp": ["torch_mlp.checkpoint"],
    "mlp_core": [
        "mlp_core.shell",
        "mlp_core.history",
        "mlp_core.arithmetic",
        "mlp_core.fashion_mnist",
        "mlp_core.schedule",
        "mlp_core.weights",
    ],
}
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")


def on_config(config: Any) -> Any:
    """Pages that nav doesn't name join Guides, those of devices Accelerators."""
    named = re.findall(r"[\w/-]+\.md", str(config.nav))
    docs = Path(config.docs_dir)
    parts = {name: pages for part in config.nav for name, pages in part.items()}
    for path in sorted(docs.rglob("*.md")):
        name = path.relative_to(docs).as_posix()
        if name not in named:
            part = "Accelerators" if name.startswith("accelerators/") else "Guides"
            parts[part].append({path.read_text("utf-8").partition("\n")[0].lstrip("# "): name})
    return config


@event_priority(100)  # before the plugin for notebooks looks for them
def on_files(files: Files, config: Any) -> Files:
    for source, page in PAGES.items():
        text = (ROOT / source).read_text("utf-8")
        files.append(File.generated(config, page, content=LINK.sub(_inside, text)))
    for package, modules in ALSO.items():
        files.append(
            File.generated(config, f"reference/{package}.md", content=reference(package, modules))
        )
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        name = path.relative_to(ROOT).as_posix()
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """`../README.md#same-bits` -> `index.md#same-bits`, from whatever depth."""
    for source, target in PAGES.items():
        depth = page.file.src_uri.count("/")
        markdown = markdown.replace(
            f"]({'../' * (depth + 1)}{source}", f"]({'../' * depth}{target}"
        )
    depth = page.file.src_uri.count("/")
    return markdown.replace(f"]({'../' * (depth + 1)}notebooks/", f"]({'../' * depth}notebooks/")


def _inside(link: re.Match[str]) -> str:
    """A link of a file in the repository's root, as one from the site's root."""
    before, target, after = link.groups()
    return before + PAGES.get(target, target.removeprefix("docs/")) + after


def reference(package: str, modules: list[str]) -> str:
    """The page of a package: what it exports of its own, then some of its modules."""
    source = ast.parse((ROOT / package / "__init__.py").read_text("utf-8"))
    about = fenced((ast.get_docstring(source) or "").strip())
    names, foreign = exported(source, package)
    others = "".join(
        f"\nFrom `{home}`: {', '.join(f'`{n}`' for n in found)}.\n"
        for home, found in foreign.items()
    )
    blocks = "\n".join(f"::: {package}.{name}\n" for name in names)
    blocks += "\n".join(f"\n::: {name}\n" for name in modules)
    return f"# {package}\n\n{about}\n{others}\n{blocks}"


def exported(source: ast.Module, package: str) -> tuple[list[str], dict[str, list[str]]]:
    """`__all__`: the package's own, and those that come from elsewhere, by where."""
    homes = {
        name.asname or name.name: node.module or ""
        for node in ast.walk(source)
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    names = [
        name
        for node in source.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        for name in ast.literal_eval(node.value)
    ]
    foreign: dict[str, list[str]] = {}
    own = []
    for name in names:
        home = homes.get(name, package)
        inside = home.partition(".")[0] == package
        (own if inside else foreign.setdefault(home, [])).append(name)
    return own, foreign
