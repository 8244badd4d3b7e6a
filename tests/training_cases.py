"""A scan that needs no file from elsewhere, and the smallest recipe that trains on it."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from unittest import mock

import numpy as np
from scipy import ndimage

from medidiff import io
from medidiff.io.text.toml import to_toml
from medidiff.volume import Geometry, Volume

PREPARE = Path(__file__).resolve().parents[1] / "pipelines" / "prepare.py"
TINY = {
    "name": "tiny",
    "summary": "A network of no use, for tests.",
    "seed": 7,
    "data": {
        "root": "scans",
        "sources": [
            {"pattern": "first.nii.gz", "licence": "none", "weight": 0.7},
            {"pattern": "second.nii.gz", "licence": "none", "weight": 0.3},
        ],
    },
    "model": {"channels": [4, 8], "blocks": [1, 1, 1]},
    "fit": {"images": 16, "batch": 2, "patch": 12, "rate": 2e-3, "warmup": 4, "ema": 8.0},
    "validation": {"every": 6, "levels": [0.03, 0.1], "crop": 16, "scans": 1},
}


def phantom(seed: int, *, shape: tuple[int, int, int] = (22, 26, 24)) -> Volume:
    """An ellipsoid of three soft tissues in air, as 16-bit numbers."""
    rng = np.random.default_rng(seed)
    where = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    inside = ndimage.gaussian_filter(((where**2).sum(0) < 0.8).astype(float), 0.7)
    texture = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    tissue = 500 + 200 * np.sign(texture) * (np.abs(texture) > texture.std() / 2)
    return Volume((inside * tissue).astype(np.int16), Geometry.regular(shape), modality="MR")


def changed(**entries: object) -> dict:
    """The tiny recipe with entries replaced: ``changed(fit__images=4)``."""
    recipe = json.loads(json.dumps(TINY))
    for path, value in entries.items():
        *tables, name = path.split("__")
        place = recipe
        for table in tables:
            place = place.setdefault(table, {})
        place[name] = value
    return recipe


def write_case(folder: Path, **entries: object) -> Path:
    """Two scans and a recipe that trains on them; the path of the recipe."""
    (folder / "scans").mkdir(parents=True, exist_ok=True)
    for number, source in enumerate(TINY["data"]["sources"]):
        if not (folder / "scans" / source["pattern"]).exists():
            io.write(phantom(number), folder / "scans" / source["pattern"])
    path = folder / "tiny.toml"
    path.write_text(to_toml(changed(**entries)), encoding="utf-8")
    return path


def script(path: Path, *words: object) -> int:
    """The exit code of a Python file run as `python PATH WORDS`, here: imports take another process ten seconds."""
    modules = [str(path.parent), *sys.path]  # where Python looks first for what a script imports
    with mock.patch.object(sys, "argv", [str(path), *map(str, words)]), mock.patch.object(sys, "path", modules):
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0)
    return 0
