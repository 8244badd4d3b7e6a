"""Clean scans in memory, and the patches that are cut from them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medidiff.anatomy import foreground
from medidiff.diffusion.condition import Condition
from medidiff.diffusion.denoiser import diffuse
from medidiff.errors import InputError, SettingsError
from medidiff.io import read
from medidiff.io.files.names import inside
from medidiff.prepare import fit_intensity
from medidiff.training.chance import Chance
from medidiff.training.degrade import measure, random_view
from medidiff.training.recipe import DataRecipe, Recipe, read_toml

__all__ = ["Batch", "Patches", "Scan", "find_scans", "load_scan"]


@dataclass(frozen=True, slots=True)
class Scan:
    """A clean scan at network scale.

    Args:
        image: (I, J, K) float32, tissue maximum about 1.
        centres: (N, 3) voxels that a patch may be centred on.
        sha256: of the image's bytes, for the data fingerprint.
    """

    image: Tensor
    centres: Tensor
    sha256: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Patches ready for the loss: x₀, what was measured of it, σ (B,), and the diffused state x_σ."""

    x: Tensor
    condition: Condition
    sigma: Tensor
    state: Tensor


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


class Patches:
    """Training patches, each a function of the seed and of its number alone.

    Args:
        scans: clean scans.
        weights: how often a patch comes from each.
        recipe: sizes, ranges and the seed.
    """

    def __init__(self, scans: Sequence[Scan], weights: Sequence[float], recipe: Recipe) -> None:
        self.scans, self.weights, self.recipe = tuple(scans), tuple(weights), recipe

    def batch(self, images: Sequence[int]) -> Batch:
        """The patches with these numbers."""
        examples = [self._example(Chance(self.recipe.seed, image)) for image in images]
        x, image, certainty, noise, sigma, state = (torch.cat(part) for part in zip(*examples, strict=True))
        return Batch(x, Condition(image, certainty, noise), sigma, state)

    def _example(self, chance: Chance) -> tuple[Tensor, ...]:
        fit, ranges = self.recipe.fit, self.recipe.degradation
        x = random_view(self._cut(chance), ranges, chance)[None, None].contiguous()
        condition = measure(x, ranges, chance)
        told = bool((condition.certainty > 0).any())
        mean_only = told and chance.happens(fit.posterior_mean)
        sigma = torch.tensor([float("inf") if mean_only else chance.log_uniform(*fit.sigma)])
        return x, condition.image, condition.certainty, condition.noise, sigma, diffuse(x, sigma, chance.generator)

    def _cut(self, chance: Chance) -> Tensor:
        """A cube about a random voxel of tissue; what sticks out of the scan is air, 0."""
        scan = self.scans[chance.pick(self.weights)]
        centre = scan.centres[chance.below(len(scan.centres))].tolist()
        side = self.recipe.fit.patch
        cube = torch.zeros((side,) * 3)
        low = [c - side // 2 for c in centre]
        source = tuple(slice(max(a, 0), min(a + side, n)) for a, n in zip(low, scan.image.shape, strict=True))
        target = tuple(slice(s.start - a, s.stop - a) for s, a in zip(source, low, strict=True))
        cube[target] = scan.image[source]
        return cube
