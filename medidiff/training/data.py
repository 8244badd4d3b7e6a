"""Clean scans: which files a recipe names, and how one of them comes to network scale."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from medidiff.anatomy import foreground
from medidiff.errors import InputError, SettingsError
from medidiff.io import read
from medidiff.io.files.names import inside
from medidiff.physics.framing import see_in_frame, upright
from medidiff.physics.lowdose import Beam, added_noise
from medidiff.prepare import fit_intensity, readable, with_filler_marked, without_padding
from medidiff.training.degrade import cut_side
from medidiff.training.patches import Scan
from medidiff.training.recipe import DataRecipe, Recipe, read_toml
from medidiff.training.repeats import refuse_overlaps
from medidiff.training.slabs import Slab, cut_slab, read_slab
from medidiff.volume import Geometry, Volume

__all__ = ["Found", "find_scans", "in_larger_voxels", "load_scan"]


class Found(NamedTuple):
    """A scan that a recipe names: its file, how often a patch comes from it, and which of its slices are meant."""

    path: Path
    weight: float
    slab: Slab


def find_scans(recipe: DataRecipe, *, folder: Path, root: Path | None, part: str) -> list[Found]:
    """The files of one part of the split, each with its weight and its slices.

    Args:
        recipe: which sources.
        folder: where the recipe lies; its relative paths start there.
        root: data folder to use instead of the recipe's.
        part: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        SettingsError: a file or a table of the split is missing; ``E-SHARED``, a subject stands in two of its parts.
        InputError: a name leads out of the data folder.
    """
    root = folder / recipe.root if root is None else root
    split = _read_split(folder / recipe.split) if recipe.split else {}
    found: list[Found] = []
    for source in recipe.sources:
        if source.split and part not in split.get(source.split, {}):
            raise SettingsError("E-SPLIT", f"no list '{part}' in table '{source.split}'", file=recipe.split)
        if source.split:
            refuse_overlaps(split[source.split], name=source.split, file=recipe.split)
        slabs = [read_slab(entry) for entry in split[source.split][part]] if source.split else [Slab("")]
        for slab in slabs:
            path = inside(root, source.pattern.replace("{subject}", slab.subject), error=InputError)
            found.append(Found(path, source.weight / len(slabs), slab))
    missing = [each.path.name for each in found if not each.path.is_file()]
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


def load_scan(found: Found, recipe: Recipe) -> Scan:
    """Read one clean scan, bring it to network scale, and simulate the noise of the recipe's doses.

    Padding, and the filler of a CT, count as they do in `medidiff.restore`: the network sees the lowest measured value
    there, and no patch is centred on them. Patches of a slab are centred so that they do not stick out of its ends,
    which are no air.
    """
    volume = read(found.path)
    if volume.modality == "OT":  # the recipe knows it where the file does not say
        volume = dataclasses.replace(volume, modality=recipe.modality)
    volume = cut_slab(with_filler_marked(volume), found.slab)
    scale, where = fit_intensity(volume), readable(volume)
    volume = volume.with_data(without_padding(volume))
    image = torch.from_numpy(scale.apply(volume.data[0]))
    if recipe.data.spacing_mm:
        volume, where = in_larger_voxels(volume.with_data(image.numpy()), recipe.data.spacing_mm), None
        image = torch.from_numpy(volume.data[0].copy())
    tissue = foreground(volume.data[0], measured=where)
    if where is not None and (tissue & where).any():
        tissue &= where
    centres = np.argwhere(tissue)
    if found.slab.end is not None:
        centres = _within(centres, volume.shape[2], cut_side(recipe.fit.patch, recipe.degradation))
    noise, levels = _noise(volume, tissue, recipe, gain=scale.gain)
    sha256 = hashlib.sha256(image.numpy().tobytes()).hexdigest()
    return Scan(image, torch.from_numpy(centres.astype(np.int16)), sha256, noise, levels)


def in_larger_voxels(volume: Volume, spacing_mm: float) -> Volume:
    """The scan, upright, in cubic voxels that are boxes of a side."""
    image, spacing = upright(volume)
    shape = [math.ceil(n * own / spacing_mm) for n, own in zip(image.shape[1:], spacing, strict=True)]
    return see_in_frame(volume, Geometry.regular(shape, spacing_mm=[spacing_mm] * 3))


def _within(centres: NDArray[np.intp], slices: int, side: int) -> NDArray[np.intp]:
    """The centres about which a cut fits between the ends of a slab; the middle slices where it never does."""
    low = min(side // 2, (slices - 1) // 2)
    high = max(slices - (side + 1) // 2, slices // 2)
    return centres[(centres[:, 2] >= low) & (centres[:, 2] <= high)]


def _noise(
    volume: Volume, tissue: NDArray[np.bool_], recipe: Recipe, *, gain: float
) -> tuple[torch.Tensor | None, tuple[float, ...]]:
    """Noise of each dose with unit standard deviation in the tissue, and that deviation at network scale."""
    doses = recipe.low_dose
    if doses is None:
        return None, ()
    beam = Beam(doses.photons, doses.electronic, doses.views, window=doses.window, overlap=doses.overlap)
    fields = added_noise(volume, doses.doses, seed=recipe.seed, beam=beam)
    levels = [float(field[tissue].std()) for field in fields]
    scaled = [torch.from_numpy(field / level).half() for field, level in zip(fields, levels, strict=True)]
    return torch.stack(scaled), tuple(level / gain for level in levels)
