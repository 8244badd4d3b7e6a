"""The import graph of the package: down the layers only, no cycle, one door per dependency, nothing heavy where it must
be fast.

The sources are parsed, never imported, so a module counts whether or not its dependencies are installed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "medidiff"
ROOT = Path(__file__).parents[1] / PACKAGE

# From the top down. A unit may import units on lower lines only; units on one line never import each other.
# The facade (the package's own __init__), the command line and `python -m medidiff` stand above all.
LAYERS = (
    ("medidiff", "cli", "__main__"),
    ("travel",),
    ("augmentation", "calibrating", "demo", "evaluate", "translation"),
    ("restore", "synthesis", "gates", "training", "tracking", "report", "qc", "batch", "export", "pacs"),
    ("judging",),
    ("question",),
    ("agreeing", "applying"),
    ("settings", "store"),
    ("trust",),
    ("prior",),
    ("io", "prepare", "metrics"),
    ("diffusion",),
    ("physics",),
    ("case",),
    ("volume",),
    ("showing",),
    ("views",),
    ("geometry", "anatomy"),
    ("catalogue",),
    ("errors", "version"),
)

DOORS = {
    "nibabel": ("medidiff.io.nifti*",),
    "pydicom": ("medidiff.io.dicom.*", "medidiff.pacs.dimse"),
    "pynetdicom": ("medidiff.pacs.dimse", "medidiff.pacs.receiver"),
    "dicomweb_client": ("medidiff.pacs.web",),
    "requests": ("medidiff.pacs.web",),
    "highdicom": ("medidiff.io.dicom.*",),
    "SimpleITK": ("medidiff.io.sitk",),
    "mlflow": ("medidiff.store", "medidiff.tracking", "medidiff.travel.pyfunc", "medidiff.travel.served"),
    "skimage": ("medidiff.metrics.*", "medidiff.physics.lowdose"),
    "ipyniivue": ("medidiff.showing.viewer",),
    "matplotlib": ("medidiff.report", "medidiff.showing.drawing", "medidiff.showing.figure"),
    "jinja2": ("medidiff.qc.page",),
    "markupsafe": ("medidiff.qc.page",),
    "PIL": ("medidiff.qc.pictures", "medidiff.showing.page"),
    "submitit": ("medidiff.batch.slurm",),
    "dask": ("medidiff.batch.dask",),
    "distributed": ("medidiff.batch.dask",),
    "dask_jobqueue": ("medidiff.batch.dask",),
    "monai": ("medidiff.diffusion.backbone", "medidiff.augmentation.transform"),
}
DEVELOPMENT_ONLY = (  # in tests and validation only
    "bm4d",
    "datasets",
    "diffusers",
    "dipy",
    "hypothesis",
    "mlcroissant",
    "nilearn",
    "pytest",
    "pywt",
    "webdataset",
)

HEAVY = ("torch", "monai", "mlflow", "matplotlib", "skimage")  # seconds to import
LIGHT = (  # must start at once, with all that they load: --help, a mistyped path, info, convert
    "medidiff",
    "medidiff.cli",
    "medidiff.cli.places",
    "medidiff.cli.info",
    "medidiff.cli.convert",
    "medidiff.cli.exporting",
    "medidiff.cli.verify",
    "medidiff.export",
    "medidiff.cli.pacs",
    "medidiff.io",
    "medidiff.volume",
    "medidiff.errors",
)
NEVER_TORCH = ("medidiff.io.*", "medidiff.volume", "medidiff.errors")


@dataclass(frozen=True)
class Import:
    """One import: who, what (dotted), and whether it runs as soon as the module is loaded."""

    module: str
    target: str
    at_once: bool

    def __str__(self) -> str:
        return f"{self.module} -> {self.target}"


def read_package(root: Path = ROOT) -> dict[str, str]:
    """Source of every module by its dotted name; a package's __init__ has the package's name."""
    sources = {}
    for path in sorted(root.rglob("*.py")):
        parts = (PACKAGE, *path.relative_to(root).with_suffix("").parts)
        sources[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return sources


def imports_of(sources: Mapping[str, str]) -> list[Import]:
    """Every import of every module, resolved to the module that it loads where that is one of ours."""
    packages = {name.rpartition(".")[0] for name in sources} | {PACKAGE}
    found = []
    for module, source in sources.items():
        for node, at_once in _walk(ast.parse(source)):
            found += [Import(module, target, at_once) for target in _targets(node, module, sources, packages)]
    return found


def _walk(node: ast.AST, at_once: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from ((inner, False) for inner in ast.walk(child))
        else:
            yield child, at_once
            yield from _walk(child, at_once and not later)


def _targets(node: ast.AST, module: str, sources: Mapping[str, str], packages: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            home = module.split(".") if module in packages else module.split(".")[:-1]
            base = ".".join([*home[: len(home) - node.level + 1], *([base] if base else [])])
        for alias in node.names:  # `from package import module` loads the module
            inner = f"{base}.{alias.name}"
            yield inner if inner in sources else base


def unit(module: str) -> str:
    """The package or module directly below `medidiff` that a module belongs to."""
    return module.split(".")[1] if "." in module else module


def is_ours(target: str) -> bool:
    return target.split(".")[0] == PACKAGE


# --- the laws: each returns its faults ------------------------------------------------------------------------------


def against_the_layers(sources: Mapping[str, str]) -> list[str]:
    line = {name: number for number, names in enumerate(LAYERS) for name in names}
    unplaced = sorted({unit(module) for module in sources} - line.keys())
    faults = [f"{name} stands on no line of LAYERS" for name in unplaced]
    for each in imports_of(sources):
        above, below = unit(each.module), unit(each.target) if is_ours(each.target) else ""
        if not below or above == below or above in unplaced or line[above] == 0:
            continue
        if below not in line or line[below] <= line[above]:
            faults.append(str(each))
    return faults


def cycles(sources: Mapping[str, str]) -> list[str]:
    graph: dict[str, set[str]] = {module: set() for module in sources}
    for each in imports_of(sources):
        if each.target in sources and each.target != each.module:
            graph[each.module].add(each.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [" -> ".join(error.args[1])]
    return []


def other_doors(sources: Mapping[str, str]) -> list[str]:
    doors = DOORS | dict.fromkeys(DEVELOPMENT_ONLY, ())
    return [
        str(each)
        for each in imports_of(sources)
        if (door := each.target.split(".")[0]) in doors and not any(fnmatch(each.module, way) for way in doors[door])
    ]


def heavy_at_once(sources: Mapping[str, str]) -> list[str]:
    """Heavy modules that loading a light one loads, directly or through others of ours, with the way there."""
    imports = [each for each in imports_of(sources) if each.at_once]
    ways = {module: module for module in sources if module in LIGHT}
    todo, faults = list(ways), []
    while todo:
        module = todo.pop()
        loaded = [each.target for each in imports if each.module == module]
        loaded += [target.rpartition(".")[0] for target in (module, *loaded) if is_ours(target) and "." in target]
        for target in loaded:
            if target.split(".")[0] in HEAVY:
                faults.append(f"{ways[module]} -> {target}")
            elif target in sources and target not in ways:
                ways[target] = f"{ways[module]} -> {target}"
                todo.append(target)
    return faults


def torch_where_it_never_may(sources: Mapping[str, str]) -> list[str]:
    return [
        str(each)
        for each in imports_of(sources)
        if each.target.split(".")[0] in ("torch", "monai")
        and any(fnmatch(each.module, place) for place in NEVER_TORCH)
        and not (each.module in DOORS["monai"] and not each.at_once)
    ]


LAWS = (against_the_layers, cycles, other_doors, heavy_at_once, torch_where_it_never_may)


# --- the package keeps them -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def package() -> dict[str, str]:
    return read_package()


@pytest.mark.parametrize("law", LAWS)
def test_the_package_keeps_the_law(law, package):
    assert law(package) == []


def test_the_whole_package_was_read(package):
    assert {"medidiff.errors", "medidiff.volume", "medidiff.physics", "medidiff.diffusion.samplers"} <= package.keys()


# --- a broken package does not --------------------------------------------------------------------------------------

GOOD = {
    "medidiff": "def __getattr__(name):\n    from medidiff import restore\n    return getattr(restore, name)\n",
    "medidiff.errors": "import math\n",
    "medidiff.volume": "import numpy\nfrom medidiff.errors import InputError\n",
    "medidiff.physics": "from medidiff.physics.noise import Noise\n",
    "medidiff.physics.noise": "import torch\nfrom medidiff.errors import SettingsError\n",
    "medidiff.io": "from medidiff.io.nifti import read\n",
    "medidiff.io.nifti": "import nibabel as nib\nfrom medidiff.volume import Volume\n",
    "medidiff.restore": "import torch\nfrom medidiff.physics import Noise\nfrom ..medidiff import volume\n",
    "medidiff.cli": "from medidiff import io\ndef main():\n    from medidiff import restore\n    import torch\n",
}

BROKEN = {
    "upwards": (against_the_layers, "medidiff.physics.noise", "from medidiff.diffusion import heun"),
    "upwards in a function": (against_the_layers, "medidiff.volume", "def f():\n    import medidiff.physics"),
    "upwards for a type": (
        against_the_layers,
        "medidiff.volume",
        "if TYPE_CHECKING:\n    from medidiff.physics import Noise",
    ),
    "upwards, relative": (against_the_layers, "medidiff.physics.noise", "from ..io import read"),
    "siblings": (against_the_layers, "medidiff.restore", "from medidiff.training import fit"),
    "siblings below": (against_the_layers, "medidiff.geometry", "from medidiff import anatomy"),
    "the facade": (against_the_layers, "medidiff.restore", "from medidiff import denoise"),
    "the command line": (against_the_layers, "medidiff.restore", "import medidiff.cli"),
    "unplaced": (against_the_layers, "medidiff.utils", "import math"),
    "cycle": (cycles, "medidiff.errors", "from medidiff.volume import Volume"),
    "cycle within a package": (cycles, "medidiff.physics.noise", "from medidiff.physics import Noise"),
    "relative cycle": (cycles, "medidiff.physics.noise", "from . import Noise"),
    "second door": (other_doors, "medidiff.cli", "import nibabel.affines"),
    "second door to archives": (other_doors, "medidiff.cli", "import pynetdicom"),
    "an archive restores": (against_the_layers, "medidiff.pacs", "from medidiff.restore import denoise"),
    "second door in a function": (other_doors, "medidiff.restore", "def f():\n    from monai.networks import blocks"),
    "development only": (other_doors, "medidiff.restore", "import dipy.denoise"),
    "heavy command line": (heavy_at_once, "medidiff.cli", "import torch"),
    "heavy convert": (heavy_at_once, "medidiff.cli.convert", "from medidiff.restore import denoise"),
    "heavy facade": (heavy_at_once, "medidiff", "from medidiff.restore import denoise"),
    "heavy in a class": (heavy_at_once, "medidiff.volume", "class Volume:\n    import torch"),
    "heavy at a distance": (heavy_at_once, "medidiff.io", "try:\n    import medidiff.physics.noise\nfinally: pass"),
    "heavy through a package": (heavy_at_once, "medidiff.physics", "import torch\nfrom medidiff.errors import E"),
    "torch in io": (torch_where_it_never_may, "medidiff.io.nifti", "def f():\n    import torch"),
    "torch in volume": (torch_where_it_never_may, "medidiff.volume", "from torch import Tensor"),
}


@pytest.mark.parametrize("law", LAWS)
def test_a_good_package_keeps_the_law(law):
    assert law(GOOD) == []


@pytest.mark.parametrize(("law", "module", "source"), BROKEN.values(), ids=BROKEN)
def test_a_broken_package_breaks_the_law(law, module, source):
    sources = dict(GOOD)
    if law is heavy_at_once and module == "medidiff.physics":
        sources["medidiff.cli"] += "from medidiff.physics.degradation import Degradation\n"
        sources |= {"medidiff.physics.noise": "", "medidiff.physics.degradation": ""}
    sources[module] = f"{sources.get(module, '')}{source}\n"
    assert law(sources) != []


def test_an_import_in_a_function_is_not_at_once():
    source = "import math\ndef f():\n    import torch\n\nif TYPE_CHECKING:\n    import monai\n"
    found = imports_of({"medidiff.cli": source})
    assert {each.target: each.at_once for each in found} == {"math": True, "torch": False, "monai": False}
