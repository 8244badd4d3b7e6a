"""How long training waits for its images: `python validation/loading.py RECIPE [--data DIR|PACK] [--cache DIR] ...`.

Some steps of the recipe's run are made, and of their time the share is told that went by before their images were
there: planned, cut, bent, measured and on the device. Without --data, scans of noise of the size of a head stand in;
they take as long as real ones. The weights are thrown away.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from medidiff.diffusion.denoiser import restoration_loss
from medidiff.diffusion.whole import whole_loss
from medidiff.io import write
from medidiff.training.cache import stored_scans
from medidiff.training.coarse import _untrained
from medidiff.training.coarse_recipe import CoarseRecipe, read_any
from medidiff.training.data import find_scans
from medidiff.training.fit import FitState, Step, fit
from medidiff.training.heads import Heads, about, read_atlas, read_heads
from medidiff.training.patches import Patches
from medidiff.training.recipe import Recipe, Scans
from medidiff.training.run import load_scans
from medidiff.volume import Geometry, Volume

HEAD = (176, 208, 176)  # voxels of 1 mm


def stand_in(recipe: Recipe, folder: Path, scans: int) -> Recipe:
    """Scans of noise in an ellipsoid, and the recipe that reads them."""
    rng, where = np.random.default_rng(0), np.indices(HEAD, dtype=np.float32)
    middle = (np.array(HEAD, np.float32) - 1) / 2
    inside = sum(((axis - m) / m) ** 2 for axis, m in zip(where, middle, strict=True)) < 1
    for number in range(scans):
        voxels = (inside * rng.integers(400, 800, HEAD)).astype(np.int16)
        write(Volume(voxels, Geometry.regular(HEAD), modality=recipe.modality), folder / f"{number}.nii.gz")
    sources = tuple(Scans(f"{number}.nii.gz", "none") for number in range(scans))
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, sources=sources, root=".", split=""))


def steps_of(recipe: Recipe, folder: Path, options: argparse.Namespace) -> Iterator[Step]:
    """The steps of a fine prior."""
    if options.cache is None:
        scans, weights = load_scans(recipe, folder, options.data, part="train")
        patches = Patches(scans, weights, recipe, device=options.device, workers=options.workers)
    else:
        found = find_scans(recipe.data, folder=folder, root=options.data, part="train")
        stored = stored_scans(found, recipe, options.cache)
        patches = Patches(stored, [e.weight for e in found], recipe, device=options.device, workers=options.workers)
    state = FitState(recipe, device=options.device, autocast=_autocast(options))
    return fit(state, patches, recipe.fit, loss=restoration_loss)


def steps_of_coarse(recipe: CoarseRecipe, options: argparse.Namespace) -> Iterator[Step]:
    """The steps of a coarse prior, from a pack of heads."""
    heads, atlas = read_heads(options.data, part="train"), read_atlas(options.data)
    vocabulary, _ = about(heads)
    denoiser = _untrained(recipe, vocabulary, atlas, _autocast(options))
    state = FitState(recipe, device=options.device, denoiser=denoiser)
    return fit(state, Heads(heads, atlas, recipe, vocabulary, device=options.device), recipe.fit, loss=whole_loss)


def _autocast(options: argparse.Namespace) -> torch.dtype | None:
    return torch.bfloat16 if options.device.startswith("cuda") else None


def measured(steps: Iterator[Step], *, warm: int, count: int) -> dict[str, float]:
    """The share of each step's time that was spent in waiting, and the rate, after some steps to warm up."""
    for _ in range(warm):
        step = next(steps)
    first, begun, shares = step.images, time.perf_counter(), []
    for _ in range(count):
        step = next(steps)
        shares.append(step.waiting)
    seconds = time.perf_counter() - begun
    return {
        "waiting_median": statistics.median(shares),
        "waiting_largest": max(shares),
        "images_per_second": (step.images - first) / seconds,
        "looks": count,
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path, help="of a fine or a coarse prior")
    parser.add_argument("--data", type=Path, help="folder of scans or a pack; a coarse prior needs a pack")
    parser.add_argument("--cache", type=Path, help="cut patches from a cache in this folder")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw patches ahead")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--scans", type=int, default=4, help="of noise, where there is no --data")
    parser.add_argument("--warm", type=int, default=3, help="looks at the loss before those that count")
    parser.add_argument("--looks", type=int, default=20, help="that count: steps on a CPU, 20 steps each on a GPU")
    options = parser.parse_args()
    recipe, folder = read_any(options.recipe), options.recipe.parent
    with tempfile.TemporaryDirectory() as scratch:
        if isinstance(recipe, CoarseRecipe):
            steps = steps_of_coarse(recipe, options)
        else:
            if options.data is None:
                folder = Path(scratch)
                recipe = stand_in(recipe, folder, options.scans)
            steps = steps_of(recipe, folder, options)
        found = measured(steps, warm=options.warm, count=options.looks)
    told = {"recipe": recipe.name, "batch": recipe.fit.batch, "device": options.device, "workers": options.workers}
    told |= {"cache": options.cache is not None, "threads": torch.get_num_threads()}
    print(json.dumps(told | {name: round(value, 4) for name, value in found.items()}))


if __name__ == "__main__":
    main()
