"""Values as the command line shows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medidiff.volume import Geometry

__all__ = ["geometry", "shown"]


def geometry(grid: Geometry) -> dict[str, Any]:
    """A grid as JSON values."""
    return {
        "shape": list(grid.shape),
        "spacing_mm": list(grid.spacing_mm),
        "orientation": grid.orientation,
        "affine": grid.affine.tolist(),
    }


def shown(files: Sequence[Path]) -> Path:
    """What stands for the files of one scan: the file itself, or the folder of a series."""
    scans = [file for file in files if file.suffix != ".json"]
    return scans[0] if len(scans) == 1 else scans[0].parent
