"""What the documentation site has beside ``docs/``: the reference, files of the repository, and links that hold.

MkDocs calls these functions (``hooks`` in ``mkdocs.yml``). The reference is read from the sources, never imported.
Links are written for the repository; where one leaves ``docs/`` it leads to a page made of that file, or, for a file
that is no page, becomes its name.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
MODULES = (  # of the reference, from what a user asks for down to the parts
    "restore",
    "settings",
    "synthesis",
    "translation",
    "augmentation",
    "volume",
    "io",
    "prior",
    "physics",
    "diffusion",
    "prepare",
    "metrics",
    "gates",
    "export",
    "qc",
    "trust",
    "training.adapt",
    "training.recipe",
    "training.run",
    "showing",
    "tracking",
    "errors",
)
FILES = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "validation/DATA.md", "notebooks/README.md")
_LINK = re.compile(r"(?<!!)\[([^\]\[]+)\]\(([^)\s#]+)(#[^)\s]*)?\)")
_CELL = re.compile(r"^# %%(.*)$", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the pages that are made here in the navigation."""
    config.nav = _with_pages(config.nav)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference and the files of the repository that the site shows."""
    for where, text in {**reference(), **repository()}.items():
        files.append(File.generated(config, where, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let each link lead to a page of the site."""
    return relinked(markdown, page.file.src_uri, {file.src_uri for file in files})


def relinked(markdown: str, page: str, known: set[str]) -> str:
    """A page with its links as the site needs them.

    Args:
        markdown: the page as it stands in the repository.
        page: its address in the site.
        known: the addresses of all pages and pictures of the site.
    """
    here = page.removeprefix("repository/") if page.startswith("repository/") else f"docs/{page}"

    def turned(found: re.Match[str]) -> str:
        words, target, anchor = found[1], found[2], found[3] or ""
        if re.match(r"[a-z]+:", target):
            return found[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
        inside = [file.removeprefix("docs/")] if file.startswith("docs/") else []
        module = f"reference/{file.removeprefix('medidiff/').removesuffix('.py').replace('/', '.')}.md"
        shown = [*inside, module, f"repository/{file}", f"repository/{file}.md", f"repository/{file}/README.md"]
        for address in shown:
            if address in known:
                return f"[{words}]({posixpath.relpath(address, posixpath.dirname(page) or '.')}{anchor})"
        return words if (ROOT / file).exists() and not inside else found[0]

    return _LINK.sub(turned, markdown)


def repository() -> dict[str, str]:
    """Pages made of files outside ``docs/``, by address."""
    pages = {f"repository/{name}": (ROOT / name).read_text(encoding="utf-8") for name in FILES}
    for path in sorted((ROOT / "notebooks").glob("*.py")):
        pages[f"repository/notebooks/{path.name}.md"] = notebook(path.read_text(encoding="utf-8"))
    return pages


def notebook(source: str) -> str:
    """A notebook (py:percent) as a page: its words, and its code in fences."""
    kinds, cells = _CELL.findall(source), _CELL.split(source)[2::2]
    out = []
    for kind, cell in zip(kinds, cells, strict=True):
        text = cell.strip("\n")
        if "[markdown]" in kind:
            out.append("\n".join(line.removeprefix("#").removeprefix(" ") for line in text.splitlines()))
        elif text:
            out.append(f"```python\n{text}\n```")
    return "\n\n".join(out) + "\n"


def reference() -> dict[str, str]:
    """Pages of the reference, by address; mkdocstrings fills them in."""
    rows = []
    for name, home in sorted(_defined("medidiff").items(), key=lambda pair: pair[0].lower()):
        rows.append(f"| [`md.{name}`][{home}.{name}] | {_summary(home, name)} |")
    table = "\n".join(["| name | what it is |", "|---|---|", *rows])
    links = "\n".join(f"- [`medidiff.{name}`]({name}.md): {_first(_parsed(f'medidiff.{name}'))}" for name in _present())
    text = f"# Python reference\n\n`import medidiff as md` gives\n\n{table}\n\n## Modules\n\n{links}\n"
    pages = {"reference/index.md": text}
    shown = set()
    for name in _present():
        module = f"medidiff.{name}"
        homes = _defined(module)
        names = [f"{home}.{each}" for each, home in homes.items()]
        parts = [
            f"See [`{each}`][]." if each in shown else f"::: {each}\n    options: {{heading_level: 2}}"
            for each in names
        ]
        shown |= set(names)
        head = f"# {module}\n\n::: {module}\n    options: {{members: false, show_root_heading: false}}\n"
        pages[f"reference/{name}.md"] = "\n\n".join([head, *parts]) + "\n"
    for name, home in _defined("medidiff").items():
        if f"{home}.{name}" not in shown:  # public, but of no module above
            pages["reference/index.md"] += f"\n::: {home}.{name}\n    options: {{heading_level: 3}}\n"
    return pages


def _present() -> list[str]:
    return [name for name in MODULES if _path(f"medidiff.{name}").is_file()]


def _path(module: str) -> Path:
    place = ROOT.joinpath(*module.split("."))
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def _parsed(module: str) -> ast.Module:
    return ast.parse(_path(module).read_text(encoding="utf-8"))


def _homes(tree: ast.Module, module: str) -> dict[str, str]:
    """The public names of a module, and the module that defines each."""
    values: dict[str, Any] = {}
    imported = _imports(tree)
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                values[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    lazily = values.get("_HOME", {})
    names = values.get("__all__", list(lazily))
    return {name: lazily.get(name) or imported.get(name, module) for name in names if not name.startswith("__")}


def _imports(tree: ast.Module) -> dict[str, str]:
    """What a module takes from others, and from which."""
    found = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
    return {each.asname or each.name: str(node.module) for node in found for each in node.names}


def _defined(module: str) -> dict[str, str]:
    """The public names of a module, and where each is defined; packages pass names on from their own modules."""
    found = {}
    for name, home in _homes(_parsed(module), module).items():
        before = ""
        while home != before and _path(home).is_file():
            before, home = home, _imports(_parsed(home)).get(name, home)
        found[name] = home
    return found


def _summary(module: str, name: str) -> str:
    """The first line of a name's docstring, from where it is defined."""
    return next((_first(node) for node in _definitions(_parsed(module)) if node.name == name), "")


def _definitions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    return (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef))


def _first(node: ast.Module | ast.FunctionDef | ast.ClassDef) -> str:
    return (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def _with_pages(nav: list[Any]) -> list[Any]:
    """The navigation, with the modules after the reference's first page and the notebooks after theirs."""
    out = []
    for entry in nav:
        title, target = next(iter(entry.items()))
        if isinstance(target, list):
            out.append({title: _with_pages(target)})
        elif target == "reference/index.md":
            modules = [{f"medidiff.{name}": f"reference/{name}.md"} for name in _present()]
            out.append({title: [target, *modules]})
        elif target == "repository/notebooks/README.md":
            names = sorted((ROOT / "notebooks").glob("*.py"))
            out.append({title: [target, *(f"repository/notebooks/{path.name}.md" for path in names)]})
        else:
            out.append(entry)
    return out
