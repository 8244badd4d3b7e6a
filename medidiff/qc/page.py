"""A page that stands alone: one file, no request, and a policy under which only its own script and style run.

Every value is escaped by Jinja2 (autoescape), and characters that a reader would not see are replaced
(`medidiff.errors.printable`). The policy is a ``Content-Security-Policy`` in a meta tag: nothing is loaded
(``default-src 'none'``), pictures are data URIs, and the script and the style are named by their SHA-256, so that a
string that gets past the escaping is still not run.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from medidiff.errors import printable
from medidiff.io.files.atomic import make_folder, write_file
from medidiff.version import __version__

__all__ = ["policy", "render", "write_page"]


def policy(*, script: str, style: str) -> str:
    """The Content-Security-Policy of a page with this script and this style."""
    parts = (
        "default-src 'none'",
        "img-src data:",
        f"script-src {_hash(script)}",
        f"style-src {_hash(style)}",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return "; ".join(parts)


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def render(template: str, **values: Any) -> str:
    """The page of a template, with the script of its name and the common style.

    Args:
        template: ``"case"`` or ``"cohort"``.
        values: what the template shows; all of it is escaped.
    """
    script, style = _part(f"{template}.js"), _part("style.css")
    return (
        _environment()
        .get_template(f"{template}.html")
        .render(
            policy=policy(script=script, style=style),
            script=Markup(script),  # noqa: S704 # our own file, no value in it
            style=Markup(style),  # noqa: S704
            version=__version__,
            **values,
        )
    )


@cache
def _part(name: str) -> str:
    return files("medidiff.qc").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("medidiff.qc"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_seen,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _seen(value: Any) -> Any:
    """Text without what no reader sees: control characters and marks that turn the writing direction."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def write_page(path: Path, page: str) -> Path:
    """Write a page, whole or not at all.

    Raises:
        OutputError: the system refuses.
    """
    make_folder(path.parent)
    write_file(path, lambda name: name.write_bytes(page.encode()))
    return path
