"""The notebooks: written as .ipynb from their sources, timed, and looked at in JupyterLab.

    python validation/notebooks.py make                     # after every change of a notebooks/*.py
    python validation/notebooks.py time [NAME ...]          # each from top to bottom, in full, by the wall clock
    python validation/notebooks.py look FOLDER [NAME ...]   # run in JupyterLab under headless Chromium, photographed

The source of a notebook is py:percent, which can be read in a diff. The .ipynb beside it is made from it without
outputs, always the same, so that it opens with a double click; `tests/test_notebooks.py` compares the two. `time` works
on a copy in a scratch folder, as a user's fresh clone would, and writes the seconds as JSON; processor time tells more
than the wall clock where others use the machine. `look` needs JupyterLab
(``pip install "medidiff[notebooks]"``) and asks nothing of the network but its own server on loopback.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import jupytext
import nbformat

ROOT = Path(__file__).parents[1]
HOME = ROOT / "notebooks"
_WIDTH, _HEIGHT = 1250, 16_000  # of the window: JupyterLab draws only the cells that are in it
_SECONDS = 1800.0


def sources(names: Sequence[str] = ()) -> list[Path]:
    """The sources, or those whose names begin with one of some words."""
    found = sorted(HOME.glob("[0-9][0-9]_*.py"))
    return [path for path in found if not names or path.stem.startswith(tuple(names))]


def notebook_of(source: Path) -> str:
    """The text of the .ipynb that a source is: no output, no count, and cells that are numbered."""
    notebook = jupytext.read(source)
    cells = []
    for number, cell in enumerate(notebook.cells):
        make = nbformat.v4.new_markdown_cell if cell.cell_type == "markdown" else nbformat.v4.new_code_cell
        tags = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        cells.append(make(cell.source, id=f"cell-{number:02}", metadata=tags))
    about = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    made = nbformat.v4.new_notebook(cells=cells, metadata=about)
    made.nbformat_minor = 5
    return nbformat.writes(made) + "\n"


def make() -> None:
    """Write all of them."""
    for source in sources():
        source.with_suffix(".ipynb").write_text(notebook_of(source), encoding="utf-8")
        print(f"wrote {source.with_suffix('.ipynb').relative_to(ROOT)}")


@contextmanager
def copied(chosen: Sequence[Path]) -> Iterator[Path]:
    """A scratch folder with the notebooks as a user finds them."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        for source in chosen:
            (Path(scratch) / f"{source.stem}.ipynb").write_text(notebook_of(source), encoding="utf-8")
        yield Path(scratch)


def environment(scratch: Path) -> dict[str, str]:
    """This Python and this package, and no kernel or setting of the user's own."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {
        "JUPYTER_CONFIG_DIR": scratch / ".config",
        "JUPYTER_DATA_DIR": scratch / ".data",
        "IPYTHONDIR": scratch / ".i",
    }
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | {name: str(path) for name, path in own.items()}


def timed(chosen: Sequence[Path], out: Path | None) -> None:
    """Run each from top to bottom and say how long it took, by the wall and in processor time; a failure ends it."""
    took: dict[str, dict[str, float]] = {}
    run = [sys.executable, "-c", "from nbclient.cli import main; main()", "--inplace", f"--timeout={_SECONDS:g}"]
    for source in chosen:
        with copied([source]) as scratch:
            start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([*run, str(scratch / f"{source.stem}.ipynb")], env=environment(scratch), check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        took[source.stem] = {"wall_s": round(time.monotonic() - start, 1), "cpu_s": round(cpu, 1)}
        print(f"{source.stem}: {took[source.stem]}, load {os.getloadavg()[1]:.1f}", flush=True)
        if out is not None:
            shown = {"notebooks": took, "cores": len(os.sched_getaffinity(0))}
            out.write_text(json.dumps(shown, indent=2) + "\n", encoding="utf-8")


# ------------------------------------------------------------------------------------------------------- JupyterLab


@contextmanager
def lab(scratch: Path) -> Iterator[str]:
    """A JupyterLab of our own on loopback; the address of its API of notebooks, with {name} and a token in it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    options = [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    options += ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--ServerApp.root_dir={scratch}"]
    options += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url="]
    options += ["--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"]
    command = [sys.executable, "-m", "jupyterlab", *options]
    with (scratch / ".lab.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment(scratch), stdout=log, stderr=log)
    try:
        end = time.monotonic() + 120
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError((scratch / ".lab.log").read_text())
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/lab/tree/{{name}}?token={token}"
    finally:
        server.terminate()
        server.wait(30)


_READY = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
_RUN = "void window.jupyterapp.commands.execute('notebook:run-all-cells')"
_PROMPTS = "[...document.querySelectorAll('.jp-Notebook .jp-InputPrompt')]"
_BUSY = f"{_PROMPTS}.length === 0 || {_PROMPTS}.some(prompt => prompt.textContent.includes('[*]'))"
_ERRORS = "document.querySelectorAll('.jp-OutputArea-output[data-mime-type*=\"err\"]').length"  # as stderr
_TALL = (
    "Math.max(...[...document.querySelectorAll('.jp-Notebook .jp-Cell')].map(c => c.getBoundingClientRect().bottom))"
)


def looked_at(chosen: Sequence[Path], folder: Path) -> None:
    """Run each in JupyterLab and photograph it; errors, complaints and outside requests are printed."""
    import browser

    folder.mkdir(parents=True, exist_ok=True)
    with copied(chosen) as scratch, lab(scratch) as address, browser.running(loopback=True) as pipe:
        for source in chosen:
            start = time.monotonic()
            page = pipe.open(address.format(name=f"{source.stem}.ipynb"), width=_WIDTH, height=_HEIGHT, seconds=120)
            page.wait(_READY, 120)
            page.run("window.jupyterapp.commands.execute('application:toggle-left-area').then(() => true)")
            page.run(_RUN)
            page.wait(f"!({_BUSY})", _SECONDS)
            time.sleep(2)  # pictures that are being drawn
            picture = folder / f"{source.stem}.png"
            picture.write_bytes(page.photograph(height=float(page.run(_TALL)) + 20))
            away = [
                url
                for url in page.requests
                if not url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:"))
            ]
            seconds = time.monotonic() - start
            print(
                f"{source.stem}: {seconds:.0f} s, {page.run(_ERRORS)} errors, {len(away)} outside requests: {picture}"
            )
            print(*(f"  {each}" for each in [*page.complaints, *away][:20]), sep="\n", flush=True)
            shutil.rmtree(scratch / "out", ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("make")
    clock = verbs.add_parser("time")
    clock.add_argument("names", nargs="*")
    clock.add_argument("--out", type=Path)
    look = verbs.add_parser("look")
    look.add_argument("folder", type=Path)
    look.add_argument("names", nargs="*")
    told = parser.parse_args()
    if told.verb == "make":
        make()
    elif told.verb == "time":
        timed(sources(told.names), told.out)
    else:
        looked_at(sources(told.names), told.folder)
