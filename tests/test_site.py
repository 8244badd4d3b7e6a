"""The documentation builds without a warning, asks for nothing from outside, and is all there."""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
VOID = {"meta", "link", "img", "input", "br", "hr", "path", "source"}


def build(root, out):
    """Run MkDocs as CI does, but without a network: every proxy leads nowhere."""
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    environment = os.environ | nowhere | {"NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    return subprocess.run(words, cwd=root, env=environment, text=True, capture_output=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    told = build(ROOT, out)
    assert told.returncode == 0, told.stdout + told.stderr
    return out


@pytest.fixture
def hooks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "validation"))
    return importlib.import_module("site_hooks")


class Page(HTMLParser):
    """What a page loads, and the words of its paragraphs."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.paragraphs, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        if tag in ("script", "img", "iframe", "source") and named.get("src"):
            self.loads.append(named["src"])
        if tag == "link" and "canonical" not in named.get("rel", ""):
            self.loads.append(named["href"])
        if tag == "p":
            self.paragraphs.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, text):
        if "p" in self.open and not {"code", "pre"} & set(self.open):
            self.paragraphs[-1] += text


def raw_markdown(text):
    """Paragraphs in which Markdown stands unread: a list, a table, a fence, a heading or a link that was none."""
    mark = re.compile(r"(^|\n)\s*([-*] |\d+\. |\||#+ |```|:::)|\*\*|\]\(")
    return [p for p in Page(text).paragraphs if mark.search(p)]


def outside(text):
    return [address for address in Page(text).loads if re.match(r"[a-z]*:?//", address)]


def test_no_page_asks_for_anything_outside_and_nothing_is_missing(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        text = page.read_text()
        assert not outside(text), page.name
        for address in Page(text).loads:
            if page.name != "404.html" and not address.startswith("data:"):
                assert (page.parent / address.split("?")[0].split("#")[0]).exists(), f"{page.name}: {address}"
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"url\(\s*['\"]?(?:https?:)?//|@import\s+['\"]?(?:https?:)?//", sheet.read_text()), (
            sheet.name
        )


def test_every_page_reads_as_it_was_meant(site):
    faults = {page.name: raw_markdown(page.read_text()) for page in site.rglob("*.html")}
    assert not {name: found for name, found in faults.items() if found}


def test_every_public_name_is_in_the_reference(site):
    import medidiff

    page = (site / "reference" / "index.html").read_text()
    for name in medidiff.__all__:
        if not name.startswith("__"):
            assert f"md.{name}" in page
    restore = (site / "reference" / "restore.html").read_text()
    assert "medidiff.restore.superresolve" in restore
    assert "posterior" in restore


def test_the_search_finds_codes_verbs_and_functions(site):
    found = json.dumps(json.loads((site / "search" / "search_index.json").read_text()))
    for word in ("E-MULTISERIES", "medidiff synthesize", "superresolve", "What it does not do", "certainty"):
        assert word in found


def test_every_page_of_the_repository_is_in_the_site(site):
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs")).with_suffix(".html").is_file()
    for notebook in (ROOT / "notebooks").glob("*.py"):
        assert (site / "repository" / "notebooks" / f"{notebook.name}.html").is_file()


def test_links_hold_in_the_repository_too():
    """What GitHub shows: each relative link of each page leads to a file that is there, each anchor to a heading."""
    faults = []
    pages = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *ROOT.glob("*/README.md"),
        ROOT / "validation" / "DATA.md",
    ]
    for page in pages:
        faults += [f"{page.relative_to(ROOT)}: {fault}" for fault in broken_links(page)]
    assert not faults


def broken_links(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text)):
        file, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = page.parent / file if file else page
        if not path.exists() or (anchor and anchor not in anchors(path.read_text())):
            found.append(target)
    return found


def anchors(text):
    """Of the headings of a page, as GitHub and MkDocs both make them."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


# --- what the tests above would miss if they were blind -------------------------------------------------------------


def test_a_link_that_leads_nowhere_stops_the_build(tmp_path):
    for name in ("docs", "medidiff", "validation", "notebooks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    for name in ("mkdocs.yml", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    page = tmp_path / "docs" / "limits.md"
    page.write_text(page.read_text() + "\n[nowhere](no-such-page.md)\n")
    told = build(tmp_path, tmp_path / "out")
    assert told.returncode != 0
    assert "no-such-page.md" in told.stdout + told.stderr
    assert broken_links(page) == ["no-such-page.md"]


@pytest.mark.parametrize(
    "text",
    [
        "<p>so:\n- one\n- two</p>",
        "<p>a **bold</p>",
        "<p>| a | b |\n|---|---|</p>",
        "<p>[here](there.md)</p>",
        "<p>1. one</p>",
    ],
)
def test_markdown_that_was_not_read_is_seen(text):
    assert raw_markdown(text)
    assert not raw_markdown("<p>a - b, <code>- c</code> | d</p><ul><li>e</li></ul><pre>- f</pre>")


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://x.y/z.js"></script>',
        '<img src="//x.y/z.png">',
        '<link rel="stylesheet" href="http://x.y/z">',
    ],
)
def test_a_request_to_outside_is_seen(text):
    assert outside(text)
    assert not outside('<script src="../a.js"></script><a href="https://x.y">z</a>')


def test_links_are_turned_for_the_site(hooks):
    known = {
        "cli.md",
        "reference/training.run.md",
        "concepts/one-idea.md",
        "repository/validation/DATA.md",
        "repository/notebooks/01.py.md",
    }
    text = (
        "[a](../cli.md#x) [b](../../validation/DATA.md) [c](../../LICENSE) [d](no.md) [e](https://x.y) `[f](../cli.md)`"
    )
    assert hooks.relinked(text, "concepts/one-idea.md", known).startswith(
        "[a](../cli.md#x) [b](../repository/validation/DATA.md) c [d](no.md) [e](https://x.y)"
    )
    back = hooks.relinked("[a](../docs/cli.md) [b](../notebooks/01.py)", "repository/validation/DATA.md", known)
    assert back == "[a](../../cli.md) [b](../notebooks/01.py.md)"
    source = hooks.relinked("[a](../medidiff/training/run.py) [b](../medidiff/store.py)", "cli.md", known)
    assert source == "[a](reference/training.run.md) b"


def test_a_notebook_becomes_a_page(hooks):
    source = "# ---\n# jupyter: x\n# ---\n# %% [markdown]\n# # Title\n#\n# words\n\n# %%\nprint(1)\n"
    assert hooks.notebook(source) == "# Title\n\nwords\n\n```python\nprint(1)\n```\n"


def test_names_are_found_where_they_are_defined(hooks):
    tree = ast.parse("from a.b import c as d\nfrom a import e\n__all__ = ['d', 'e', 'f']\ndef f(): ...\n")
    assert hooks._homes(tree, "a.x") == {"d": "a.b", "e": "a", "f": "a.x"}
