"""Clean scans: which files a recipe names, and how one of them comes to network scale."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medidiff.anatomy import foreground
from medidiff.errors import InputError, SettingsError
from medidiff.io import read
from medidiff.io.files.names import inside
from medidiff.prepare import fit_intensity
from medidiff.training.patches import Scan
from medidiff.training.recipe import DataRecipe, read_toml

__all__ = ["find_scans", "load_scan"]


def find_scans(recipe: DataRecipe, *, folder: Path, root: Path | None, part: str) -> list[tuple[Path, float]]:
    """The files of one part of the split, each with its weight.

    Args:
        recipe: which sources.
        folder: where the recipe lies; its relative paths start there.
        root: data folder to use instead of the recipe's.
        part: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        SettingsError: a file or a table of the split is missing.
        InputError: a name leads out of the data folder.
    """
    root = folder / recipe.root if root is None else root
    split = _read_split(folder / recipe.split) if recipe.split else {}
    found: list[tuple[Path, float]] = []
    for source in recipe.sources:
        if source.split and part not in split.get(source.split, {}):
            raise SettingsError("E-SPLIT", f"no list '{part}' in table '{source.split}'", file=recipe.split)
        subjects = split[source.split][part] if source.split else [""]
        names = [source.pattern.replace("{subject}", subject) for subject in subjects]
        found += [(inside(root, name, error=InputError), source.weight / len(names)) for name in names]
    missing = [path.name for path, _ in found if not path.is_file()]
    if missing:
        raise SettingsError(
            "E-DATA",
            f"{len(missing)} training scans are not there, first {missing[0]}",
            mend="Name the folder that holds them with --data DIR, or correct the patterns of the recipe.",
        )
    return found


def _read_split(path: Path) -> dict[str, Any]:
    try:
        split = read_toml(path)
    except OSError as error:
        mend = "Correct the recipe's entry data.split, a path from the folder of the recipe."
        raise SettingsError("E-SPLIT", "no such file, or it cannot be read", file=path.name, mend=mend) from error
    except (ValueError, RecursionError) as error:
        raise SettingsError("E-SPLIT", "not TOML", mend="Correct the file of subjects.", file=path.name) from error
    for name, table in split.items():
        lists = table.values() if isinstance(table, dict) else [None]
        if not all(isinstance(each, list) and all(isinstance(s, str) for s in each) for each in lists):
            wanted = "tables of lists of subjects"
            raise SettingsError(
                "E-SPLIT", "an entry of another kind", wanted=wanted, file=path.name, attribute=name[:80]
            )
    return split


def load_scan(path: Path) -> Scan:
    """Read one clean scan and bring it to network scale."""
    volume = read(path)
    image = torch.from_numpy(fit_intensity(volume).apply(volume.data[0]))
    centres = torch.from_numpy(np.argwhere(foreground(volume.data[0])).astype(np.int16))
    return Scan(image, centres, hashlib.sha256(image.numpy().tobytes()).hexdigest())
