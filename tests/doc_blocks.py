"""The code blocks of the pages: found, run where the small sample stands in for a study, or, if marked, only checked.

A block runs as its reader would run it, the blocks of a page one after the other in one folder; commands of medidiff
run in this process. A block that needs what no test has is marked on the line above, ``<!-- not run: REASON -->``; its
commands are then read by the parsers that would read them, so that no option in it is invented.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medidiff import cli, io
from medidiff.cli.options import parse
from medidiff.cli.verbs import VERBS
from medidiff.errors import MedidiffError
from medidiff.volume import Geometry, Volume
from tests import dicom_cases, export_cases

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")])
REASONS = (  # why a block is only checked; no other reason counts
    "installs software",
    "needs a PACS",
    "needs a cluster",
    "needs another program",
    "needs the training scans",
    "takes minutes or hours",
)
LANGUAGES = ("python", "sh", "toml", "sql", "text")
SIDE = 16  # voxels of the scans that stand in for those of the pages
_OUT_OF_SCOPE = 3  # done and marked: so small a corner has too little tissue to be told from anything
_FENCE = re.compile(r"^(?:<!-- not run: (.*?) -->\n)?^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FOREIGN = ("pip", "jupyter", "mlflow", "mkdocs", "cd", "bash", "git", ".")  # programs that are not ours


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `reason` says why it is not run."""

    page: str
    line: int
    language: str
    text: str
    reason: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(text: str, page: str = "page.md") -> list[Block]:
    """Every fenced block of a page."""
    return [
        Block(page, text.count("\n", 0, m.start()) + 1, m[2].strip(), m[3], m[1] or "") for m in _FENCE.finditer(text)
    ]


def misplaced(text: str) -> list[str]:
    """Fences and marks of a page that belong to no block, or to one of an unknown kind."""
    blocks = blocks_of(text)
    faults = [f"{block}: {block.language or 'no language'}" for block in blocks if block.language not in LANGUAGES]
    faults += [f"{block}: {block.reason}" for block in blocks if block.reason and block.reason not in REASONS]
    if len(re.findall(r"^<!-- not run", text, re.MULTILINE)) != sum(bool(block.reason) for block in blocks):
        faults.append("a mark above no block")
    if len(re.findall(r"^\s*```", text, re.MULTILINE)) != 2 * len(blocks):
        faults.append("a fence that is indented or not closed")
    return faults


# --- the folder in which they run -----------------------------------------------------------------------------------


def furnish(folder: Path) -> Path:
    """The names that the pages use, made of a corner of the bundled sample."""
    scan = io.read(ROOT / "medidiff" / "sample" / "t1-brain.nii.gz")
    at = [(n - SIDE) // 2 for n in scan.geometry.shape]
    corner = np.ascontiguousarray(scan.data[0][tuple(slice(a, a + SIDE) for a in at)])
    fine, thick = Geometry.regular((SIDE,) * 3), Geometry.regular((SIDE, SIDE, SIDE // 4), spacing_mm=(1.0, 1.0, 4.0))
    slices = corner.reshape(SIDE, SIDE, -1, 4).mean(axis=3)
    rng = np.random.default_rng(0)
    noisy = [np.abs(corner + 40 * rng.standard_normal(corner.shape)).astype(np.float32) for _ in range(3)]
    named = {"t1.nii.gz": noisy[0], "scan.nii.gz": noisy[1], "reference.nii.gz": corner}
    named |= {"out/noisy.nii.gz": noisy[0]}
    named |= {"studies/a/t1.nii.gz": noisy[1], "studies/b/t1.nii.gz": noisy[2]}
    named |= {"bids/sub-01/anat/sub-01_T1w.nii.gz": noisy[0], "bids/sub-02/anat/sub-02_T1w.nii.gz": noisy[1]}
    for name, values in named.items():
        io.write(Volume(values, fine, "MR"), folder / name)
    for name in ("flair.nii.gz", "bids/sub-01/anat/sub-01_FLAIR.nii.gz"):
        io.write(Volume(slices, thick, "MR"), folder / name)
    units = np.where(corner > 0, corner / corner.max() * 100, -1000).astype(np.float32)
    io.write(Volume(units, fine, "CT", "HU"), folder / "ct.nii.gz")
    labels = np.digitize(corner, np.quantile(corner, (0.1, 0.3, 0.6))).astype(np.uint8)
    io.write(Volume(labels, fine, "MR"), folder / "labels.nii.gz")
    about = {"Name": "two people", "BIDSVersion": "1.10.0"}
    (folder / "bids" / "dataset_description.json").write_text(json.dumps(about))
    (folder / "list.csv").write_text("id,input\none,t1.nii.gz\ntwo,scan.nii.gz\n")
    for name, thickness in (("T1w", 2), ("FLAIR", 4)):
        series(folder / "study" / name, corner.reshape(SIDE, SIDE, -1, thickness).mean(axis=3), float(thickness))
    export_cases.written(folder / "brains", "bids")
    shutil.copytree(folder / "study", folder / "other")
    (folder / "pipelines").symlink_to(ROOT / "pipelines")
    (folder / "validation").symlink_to(ROOT / "validation")
    return folder


def series(folder: Path, values: np.ndarray, thickness: float) -> list[Path]:
    """A DICOM series of MR slices, voxels of 1 mm in the plane."""

    def edit(ds: Any, k: int) -> None:
        ds.Rows, ds.Columns = values.shape[1], values.shape[0]
        ds.PixelSpacing, ds.SliceThickness = ["1", "1"], str(thickness)
        ds.ImagePositionPatient = ["-12", "-12", str(k * thickness)]
        ds.BodyPartExamined, ds.SeriesDescription = "BRAIN", folder.name
        dicom_cases.set_pixels(ds, np.round(values[:, :, k]).T)

    return dicom_cases.series(folder, modality="MR", edit=edit, slices=range(values.shape[2]))


# --- running and checking -------------------------------------------------------------------------------------------


def run(block: Block, names: dict[str, Any]) -> list[str]:
    """Run a block in the current folder; what went wrong, empty when nothing did.

    Args:
        block: not marked; TOML that begins with the name of a file is written there.
        names: of the Python blocks before it on its page, changed by this one.
    """
    if block.language == "python":
        try:
            exec(compile(block.text, str(block), "exec"), names)
        except Exception as error:
            return [f"{block}: {type(error).__name__}: {error}"]
    elif block.language == "sh":
        faults = shell_faults(block)
        for words in commands(block.text):
            faults += [] if faults else _run_command(words, block)
        return faults
    elif block.language == "toml":
        named = re.match(r"# ([a-z-]+\.toml)\n", block.text)
        if named:
            Path(named[1]).write_text(block.text)
        return check(block)
    return []


def check(block: Block) -> list[str]:
    """Whether a block could run: its grammar, its imports, and every option of our commands."""
    if block.language == "toml":
        with suppress(tomllib.TOMLDecodeError):
            tomllib.loads(block.text)
            return []
        return [f"{block}: no TOML"]
    if block.language == "python":
        return python_faults(block)
    if block.language != "sh":
        return []
    faults = shell_faults(block)
    script = block.text.startswith("#!")
    for words in commands(block.text):
        faults += [f"{block}: {fault}" for fault in command_faults(words, script=script)]
    return faults


def shell_faults(block: Block) -> list[str]:
    """What the shell says of a block's grammar."""
    told = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)
    return [f"{block}: {told.stderr.strip()}"] if told.returncode else []


def python_faults(block: Block) -> list[str]:
    """Whether a block is Python, and whether what it imports is there."""
    try:
        tree = ast.parse(block.text)
    except SyntaxError as error:
        return [f"{block}: {error}"]
    faults = []
    for node in ast.walk(tree):
        names = [(node.module, each.name) for each in node.names] if isinstance(node, ast.ImportFrom) else []
        names += [(each.name, "") for each in node.names] if isinstance(node, ast.Import) else []
        for module, name in names:
            try:
                found = importlib.import_module(str(module))
            except ImportError as error:
                return [f"{block}: {error}"]
            faults += [f"{block}: {module} has no {name}"] if name and not hasattr(found, name) else []
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "md":
            faults += [] if hasattr(importlib.import_module("medidiff"), node.attr) else [f"{block}: no md.{node.attr}"]
    return faults


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a block, each as its words."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;"):
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def command_faults(words: list[str], *, script: bool = False) -> list[str]:
    """What is wrong with a command line that is not run."""
    program, rest = Path(words[0]).name or words[0], words[1:]
    if program == "medidiff":
        return _refused(lambda: parse(rest, VERBS, version="", epilog=""), words)
    if program == "medidiff-bids":
        return _read_by(importlib.import_module("medidiff.cli.bids").main, words)
    if program in ("python", "python3") and rest[:1] == ["-m"]:
        return command_faults(["medidiff", *rest[2:]]) if rest[1] == "medidiff" else _module_faults(rest[1])
    if program in ("python", "python3"):
        path = ROOT / rest[0]
        return _read_by(lambda: _script(path), rest) if path.is_file() else [f"no {rest[0]}"]
    if program == "torchrun":
        start = next((n for n, word in enumerate(rest) if word == "-m" or word.endswith(".py")), 0)
        return command_faults(["python", *rest[start:]])
    if program == "sbatch":
        place = next((n for n, word in enumerate(rest) if word.endswith(".sbatch")), None)
        if place is None or not (ROOT / rest[place]).is_file():
            return [f"no script in {' '.join(words)}"]
        given = rest[place + 1 :]
        verb = ["train", given[0], "-o", *given[1:]] if rest[place].endswith("train.sbatch") else ["batch", *given]
        return command_faults(["medidiff", *verb])
    return [] if script or program in _FOREIGN else [f"an unknown program: {program}"]


def _run_command(words: list[str], block: Block) -> list[str]:
    program, rest = words[0], words[1:]
    alone = program == "medidiff" and rest[0] == "batch" and rest[1] in ("denoise", "superresolve", "joint")
    rest = [*rest, "--workers", "1"] if alone and "--workers" not in rest else rest  # in this process, not in many
    called = {"medidiff": cli.main, "medidiff-bids": importlib.import_module("medidiff.cli.bids").main}.get(program)
    if called is None:
        return [f"{block}: {program} is not run here; mark the block"]
    code = called(rest)
    restoring = program == "medidiff" and rest[0] in ("denoise", "superresolve")
    done = (0, _OUT_OF_SCOPE) if restoring else (0,)
    return [] if code in done else [f"{block}: exit code {code}: {' '.join(words)}"]


def _refused(read: Any, words: list[str]) -> list[str]:
    try:
        read()
    except MedidiffError as error:
        return [f"{' '.join(words)}: {error}"]
    return []


class _Read(Exception):
    """A command line was read to its end."""


def _read_by(begin: Callable[[], object], words: list[str]) -> list[str]:
    """Whether a program takes these words: it begins, and runs up to where argparse has read them."""
    plain, argv, paths = argparse.ArgumentParser.parse_args, sys.argv, list(sys.path)

    def parse_args(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        plain(self, args, namespace)
        raise _Read

    argparse.ArgumentParser.parse_args = parse_args  # type: ignore[method-assign]
    sys.argv = words
    try:
        begin()
    except _Read:
        return []
    except (SystemExit, MedidiffError) as error:
        return [f"{' '.join(words)}: {error}"]
    finally:
        argparse.ArgumentParser.parse_args, sys.argv = plain, argv  # type: ignore[method-assign]
        sys.path[:] = paths
    return [f"did not read {' '.join(words)}"]


def _script(path: Path) -> None:
    sys.path.insert(0, str(path.parent))  # for what lies beside it
    runpy.run_path(str(path), run_name="__main__")


def _module_faults(name: str) -> list[str]:
    return [] if importlib.util.find_spec(name.split(".")[0]) else [f"no module {name}"]


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """With a folder as the current one."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
