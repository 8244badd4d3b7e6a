"""From kept results to every table and figure of the repository: `python validation/report.py --help`.

``keep RAW NAME`` takes the raw figures that a validation command wrote (``out/validation/denoising.json``), makes an
MLflow run of them and exports it to ``validation/results/NAME.json``, to be committed; ``again`` prints the commands
that measure kept results anew. ``fill`` writes the tables of the README and of ``docs/`` that are marked
``<!-- results: NAME -->`` to ``<!-- end -->``. ``build`` makes one self-contained page: every table, the curves of
every kept training run, every picture of ``docs/``. Nothing of that is typed by hand. Tables of numbers that the pages
have and no kept result fills are copied to its end, each under the name of its page.
"""

from __future__ import annotations

import argparse
import base64
import difflib
import html
import io
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from findings import RESULTS, Finding, keep
from observer_tables import OBSERVERS
from scope_tables import SCOPE
from set_tables import SETS
from tables import BUNDLED, MAIN, NAMES, ROOT, Results, Table, every_figure
from trust_tables import TRUST

from medidiff.errors import InputError, MedidiffError
from medidiff.io.files.atomic import write_file

BLOCKS = MAIN | OBSERVERS | SCOPE | SETS | TRUST
MARK = re.compile(r"(<!-- results: ([a-z0-9-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
CELL = re.compile(r"(?<!\\)\|")
NUMBER = re.compile(r"[*+<≤-]*\d")
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{border:1px solid #ccc;padding:.2rem .6rem;text-align:right}"
    "td:first-child,th:first-child{text-align:left}.note,figcaption{color:#555;font-size:.85rem}"
    "img{max-width:100%}.banner{background:#fff3cd;padding:.5rem 1rem}nav li{display:inline-block;margin-right:1rem}"
)


def block(name: str, results: Results) -> str:
    """The Markdown of one block.

    Raises:
        InputError: no such block, or a result that it needs is not kept.
    """
    if name not in BLOCKS:
        raise InputError("E-DATA", f"no block '{name}'", wanted=", ".join(sorted(BLOCKS)))
    try:
        made = BLOCKS[name](results)
    except KeyError as error:
        raise InputError(
            "E-DATA", f"block '{name}' needs {error}, which is not kept", wanted="a kept result"
        ) from error
    return made.markdown() if isinstance(made, Table) else made


def filled(text: str, results: Results) -> str:
    """A page with every marked block written anew."""
    return MARK.sub(lambda m: f"{m[1]}{block(m[2], results)}\n{m[4]}", text)


def pages() -> list[Path]:
    """The README and all pages of the documentation."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def copied(text: str) -> list[tuple[str, Table]]:
    """Tables of numbers in a page that no kept result fills, each with the heading that it stands under."""
    found, heading, rows = [], "", list[tuple[str, ...]]()
    for line in [*FENCE.sub("", MARK.sub("", text)).splitlines(), ""]:
        if line.startswith("|"):
            rows.append(
                tuple(cell.strip().replace(r"\|", "|") for cell in CELL.split(line.strip()[1:].removesuffix("|")))
            )
            continue
        cells = [cell for row in rows[2:] for cell in row[1:]]
        if cells and sum(bool(NUMBER.match(cell)) for cell in cells) > len(cells) / 2:
            found.append((heading, Table(rows[0], tuple(rows[2:]))))
        rows = []
        heading = line.lstrip("# ") if line.startswith("#") else heading
    return found


def stale(results: Results) -> dict[str, str]:
    """Pages whose marked blocks are not what the kept results give, and how they differ."""
    found = {}
    for page in pages():
        text = page.read_text(encoding="utf-8")
        wanted = filled(text, results)
        if text != wanted:
            lines = difflib.unified_diff(
                text.splitlines(), wanted.splitlines(), "as it stands", "as measured", n=0, lineterm=""
            )
            found[str(page.relative_to(ROOT))] = "\n".join(lines)
    return found


def fill(results: Results) -> list[str]:
    """Write every marked block; returns the pages that changed."""
    changed = list(stale(results))
    for name in changed:
        page = ROOT / name
        text = filled(page.read_text(encoding="utf-8"), results)
        write_file(page, lambda path, text=text: path.write_text(text, encoding="utf-8"))
    return changed


def again(results: Results, names: Sequence[str]) -> str:
    """The commands that measure results anew and keep them, a line for each; for a shell.

    Raises:
        InputError: one of the names is not kept.
    """
    unknown = sorted(set(names) - set(results))
    if unknown:
        raise InputError("E-DATA", f"no result {', '.join(unknown)}", wanted=", ".join(results))
    lines = []
    for name in names or results:
        command = results[name].params["command"]
        script, folder = Path(command.split()[1]).stem, f"out/again/{name}"
        steps = [command, command.replace(".py score", ".py report")] if ".py score" in command else [command]
        steps = [f"{step} --out {folder}" for step in steps]
        lines.append(" && ".join([*steps, f"python validation/report.py keep {folder}/{script}.json {name}"]))
    return "\n".join([*lines, "python validation/report.py fill"])


def curves(record: dict[str, Any]) -> str:
    """A kept training run as a picture: loss, then every validation score, against images seen."""
    from matplotlib.figure import Figure

    metrics = record["metrics"]
    shown = [name for name in metrics if name == "loss" or name.startswith("validation/")]
    columns = min(3, len(shown))
    figure = Figure(figsize=(4 * columns, 2.6 * -(-len(shown) // columns)), layout="constrained")
    for place, name in enumerate(shown, start=1):
        axes = figure.add_subplot(-(-len(shown) // columns), columns, place)
        points = np.asarray(metrics[name], dtype=float)
        axes.plot(points[:, 0], points[:, 1], linewidth=0.8)
        axes.set_title(name.removeprefix("validation/"), fontsize=9)
        axes.set_xlabel("images seen", fontsize=8)
        axes.tick_params(labelsize=7)
    return _png(figure)


def chart(found: Finding) -> str:
    """PSNR of each method over what is told apart first; empty for a result that has none."""
    from matplotlib.figure import Figure

    rows = [keys for keys in found.rows() if len(keys) == 2 and f"psnr_db/{'/'.join(keys)}" in found.figures]
    if not rows:
        return ""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.add_subplot()
    places = list(dict.fromkeys(keys[0] for keys in rows))
    methods = list(dict.fromkeys(keys[1] for keys in rows))
    for number, method in enumerate(methods):
        values = {p: found.of("psnr_db", p, method) for p in places if (p, method) in rows}
        at = [places.index(p) + 0.8 * (number + 0.5) / len(methods) - 0.4 for p in values]
        error = [float(np.std(v, ddof=1)) if len(v) > 1 else 0.0 for v in values.values()]
        heights = [float(np.mean(v)) for v in values.values()]
        axes.bar(at, heights, 0.8 / len(methods), yerr=error, capsize=2, label=NAMES.get(method, method))
    axes.set_xticks(range(len(places)), places, fontsize=8)
    axes.set_ylabel("PSNR (dB)")
    axes.legend(fontsize=7, ncols=4)
    return _png(figure)


def build(results: Results) -> str:
    """The whole page, as HTML without any outside request."""
    sections: list[tuple[str, str]] = []
    for name in BLOCKS:
        made = BLOCKS[name](results)
        sections.append((f"table: {name}", made.html() if isinstance(made, Table) else f"<p>{html.escape(made)}</p>"))
    for name, found in results.items():
        picture = chart(found)
        drawn = _figure(picture, "PSNR, mean and standard deviation over the cases") if picture else ""
        sections.append((f"result: {name}", every_figure(found).html() + drawn))
    for path in sorted(BUNDLED.glob("*.mlflow.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        rows = tuple((key, value) for key, value in {**record["params"], **record["tags"]}.items())
        caption = f"{record['name']}: {record['status'].lower()}"
        settings = f"<details><summary>settings</summary>{Table(('', ''), rows).html()}</details>"
        sections.append((f"training: {record['name']}", _figure(curves(record), caption) + settings))
    for page in pages():
        for caption, target in PICTURE.findall(page.read_text(encoding="utf-8")):
            path = (page.parent / target).resolve()
            kind = "jpeg" if path.suffix in (".jpg", ".jpeg") else path.suffix[1:]
            data = f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
            sections.append((f"picture: {path.stem}", _figure(data, f"{caption} ({page.relative_to(ROOT)})")))
    for page in pages():
        for heading, table in copied(page.read_text(encoding="utf-8")):
            sections.append((f"copied: {page.relative_to(ROOT)}, {heading}", table.html()))
    links = "".join(f"<li><a href='#s{n}'>{html.escape(title)}</a></li>" for n, (title, _) in enumerate(sections))
    parts = "".join(f"<section id='s{n}'><h2>{html.escape(t)}</h2>{b}</section>" for n, (t, b) in enumerate(sections))
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>medidiff: every figure</title>"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><style>{_STYLE}</style></head><body>'
        "<h1>medidiff: every table and figure</h1><p class='banner'>Research use only: not a medical device. Made by "
        "<code>python validation/report.py build</code> from committed MLflow exports; the tables at its end, which no "
        "kept result fills, are copied from the pages.</p>"
        f"<nav><ul>{links}</ul></nav>{parts}</body></html>\n"
    )


def _figure(data: str, caption: str) -> str:
    words = html.escape(caption)
    return f"<figure><img src='{data}' alt='{words}'><figcaption>{words}</figcaption></figure>"


def _png(figure: Any) -> str:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = out.add_subparsers(dest="verb", required=True)
    take = verbs.add_parser("keep", help="export what a validation command wrote")
    take.add_argument("raw", type=Path, help="the JSON that it wrote")
    take.add_argument("name", help="of the result, e.g. denoising")
    take.add_argument("--peers-of", type=Path, help="a kept result of the same scans whose peers' rows go in too")
    take.add_argument("--mlflow", default="", help="tracking URI; empty for a store beside RAW")
    anew = verbs.add_parser("again", help="print the commands that measure kept results anew")
    anew.add_argument("names", nargs="*", help="results; all if none")
    verbs.add_parser("fill", help="write the marked tables of README.md and docs/")
    verbs.add_parser("check", help="say which of them are not what was measured; 1 when there are any")
    make = verbs.add_parser("build", help="one page with everything")
    make.add_argument("--out", type=Path, default=Path("out/report.html"), help="the page")
    for verb in verbs.choices.values():
        verb.add_argument("--results", type=Path, default=RESULTS, help="folder of the kept results")
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    options = parser().parse_args(arguments)
    try:
        if options.verb == "keep":
            told = {"uri": options.mlflow or None, "folder": options.results, "peers": options.peers_of}
            print(keep(options.raw, options.name, **told))
        elif options.verb == "build":
            text = build(Results(options.results))
            write_file(options.out, lambda path: path.write_text(text, encoding="utf-8"))
            print(options.out)
        elif options.verb == "again":
            print(again(Results(options.results), options.names))
        elif options.verb == "fill":
            print("\n".join(fill(Results(options.results))) or "nothing to change")
        else:
            found = stale(Results(options.results))
            print("\n".join(f"{page}\n{how}" for page, how in found.items()) or "every table is as measured")
            return int(bool(found))
    except MedidiffError as refusal:
        print(refusal, file=sys.stderr)
        return refusal.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
