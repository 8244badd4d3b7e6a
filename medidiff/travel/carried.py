"""The code that a model needs, gathered from the package: every module that an entry reaches, under another name.

An import of a name from a package is pointed at the module that defines it, so that no package's ``__init__`` travels,
nor what only that would load. Denoising needs a seventh of medidiff: no reader, no writer, no command line.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medidiff.errors import MedidiffError
from medidiff.version import __version__

__all__ = ["Carried", "carry"]

_PACKAGE = "medidiff"
_ROOT = Path(__file__).parents[1]
_VERSION = f'"""The version that this code was taken from."""\n\n__version__ = "{__version__}"\n'


@dataclass(frozen=True, slots=True)
class Carried:
    """Modules under another package's name.

    Args:
        sources: text of each module by its path below the package, e.g. ``"diffusion/backbone.py"``.
        needs: top-level packages that they import, beside Python's own.
        data: files that they read, by their paths below the package.
    """

    sources: dict[str, str]
    needs: frozenset[str]
    data: dict[str, bytes] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, bytes]:
        """All of it, by path below the package."""
        return {name: text.encode() for name, text in self.sources.items()} | self.data

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        found = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            found.update(f"{name} {len(content)}\n".encode() + content)
        return found.hexdigest()

    def write(self, folder: Path) -> None:
        """Put the files into a folder, which becomes the package."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def carry(entry: str, package: str, *, data: Sequence[Path] = ()) -> Carried:
    """A module and all that it imports of medidiff, as a package of another name.

    Args:
        entry: dotted name of the module, e.g. ``"medidiff.travel.entry"``.
        package: name of the new package; every import of medidiff becomes one of it.
        data: files of medidiff's own folder that the code reads beside itself.

    Raises:
        MedidiffError: ``E-CARRY``, a module is written so that it cannot be followed.
    """
    sources: dict[str, str] = {"__init__.py": f'"""What a prior of medidiff {__version__} needs; Apache-2.0."""\n'}
    needs: set[str] = set()
    waiting = [entry]
    while waiting:
        module = waiting.pop()
        name = f"{module.removeprefix(f'{_PACKAGE}.').replace('.', '/')}.py"
        if name in sources:
            continue
        text = _VERSION if module == f"{_PACKAGE}.version" else _source(module)
        sources[name], reached, other = _pointed(text, package, module)
        for parent in list(Path(name).parents)[:-1]:
            sources.setdefault(f"{parent}/__init__.py", f'"""Part of `{package}`."""\n')
        waiting += reached
        needs |= other
    read = {path.relative_to(_ROOT).as_posix(): path.read_bytes() for path in data}
    return Carried(dict(sorted(sources.items())), frozenset(needs), read)


def _path(module: str) -> Path:
    """The file of a module or package; a path that is none where it is neither."""
    place = _ROOT.joinpath(*module.split(".")[1:])
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def _source(module: str) -> str:
    path = _path(module)
    if path.name == "__init__.py" or not path.is_file():
        raise MedidiffError("E-CARRY", f"{module} is no module that can be carried")
    return path.read_text(encoding="utf-8")


def _pointed(text: str, package: str, module: str) -> tuple[str, list[str], set[str]]:
    """A module with its imports pointed at the new package, the modules that they reach, and others' packages."""
    lines = text.splitlines(keepends=True)
    reached: list[str] = []
    needs: set[str] = set()
    for node in sorted(_imports(ast.parse(text)), key=lambda node: -node.lineno):
        if isinstance(node, ast.Import):
            names = {alias.name.partition(".")[0] for alias in node.names}
            if _PACKAGE in names:
                raise MedidiffError("E-CARRY", f"{module} imports {_PACKAGE} whole")
            needs |= names
            continue
        home = node.module or ""
        if node.level:
            raise MedidiffError("E-CARRY", f"{module} has a relative import")
        if home.partition(".")[0] != _PACKAGE:
            needs.add(home.partition(".")[0])
            continue
        places = [(_home_of(home, alias.name), alias) for alias in node.names]
        reached += [place for place, _ in places]
        lines[node.lineno - 1 : node.end_lineno] = [
            f"{' ' * node.col_offset}from {package}.{place.partition('.')[2]} import {ast.unparse(alias)}\n"
            for place, alias in places
        ]
    return "".join(lines), reached, {name for name in needs if name not in sys.stdlib_module_names}


def _imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node


def _home_of(home: str, name: str) -> str:
    """The module that defines a name which is imported from a module or a package."""
    path = _path(home)
    if path.name != "__init__.py":
        return home
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and name in {a.asname or a.name for a in node.names}:
            return _home_of(node.module, name)
    raise MedidiffError("E-CARRY", f"{home} does not say where {name} comes from")
