"""Heads for a coarse prior, from scans: for `prepare.py`.

Whole heads in one frame with the shares of their tissue, from DIPY's hidden Markov random field classifier (Zhang et
al. 2001, doi 10.1109/42.906424) on the frame's voxels, and the atlas of the training heads; about ten seconds a head on
one core.
"""

from __future__ import annotations

import csv
import hashlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from dipy.segment.tissue import TissueClassifierHMRF
from numpy.typing import NDArray

from medidiff.diffusion.atlas import Atlas
from medidiff.errors import InputError
from medidiff.io import read
from medidiff.io.files.names import inside
from medidiff.physics.framing import see_in_frame
from medidiff.prepare import fit_intensity
from medidiff.prior.asking import Sex
from medidiff.training.coarse_recipe import CoarseRecipe, HeadSource
from medidiff.training.data import find_scans
from medidiff.training.groupwise import channel_weights, groupwise
from medidiff.training.heads import LABELS, Head, about, coarse_state
from medidiff.training.recipe import DataRecipe, Scans
from medidiff.volume import Geometry

Part = Literal["train", "validation"]


def scans(recipe: CoarseRecipe, folder: Path, data: Path | None, *, part: Part) -> Iterator[Callable[[], Head]]:
    """The scans of one part, each to be seen in the finer frame, with its tissue, when it is called for."""
    root = folder / recipe.data.root if data is None else data
    shape = [n * recipe.data.finer for n in recipe.data.shape]
    frame = Geometry.regular(shape, spacing_mm=[recipe.data.spacing_mm / recipe.data.finer] * 3)
    for source in recipe.data.sources:
        people = participants(inside(root, source.participants, error=InputError))
        plain = DataRecipe(sources=(Scans(source.pattern, source.licence, source.split),), split=recipe.data.split)
        for scan in find_scans(plain, folder=folder, root=root, part=part):
            yield partial(head, scan.path, frame, source, people[scan.slab.subject])


def head(path: Path, frame: Geometry, source: HeadSource, person: tuple[float, Sex]) -> Head:
    """One scan in the frame, with the shares of its tissue."""
    volume = read(path)
    sha256 = hashlib.sha256(np.ascontiguousarray(volume.data).tobytes() + volume.geometry.affine.tobytes()).hexdigest()
    volume = volume.with_data(fit_intensity(volume).apply(volume.data))
    image = see_in_frame(volume, frame).data[0]
    labels = tissue(image)
    shares = np.stack([labels == label for label in range(1, len(LABELS) + 1)])
    age, sex = person
    packed = torch.from_numpy(255 * shares.astype(np.uint8))
    nowhere = torch.zeros(3, 1, 1, 1)  # its shape is found when all heads are there
    return Head(torch.from_numpy(image.copy()).half(), packed, nowhere, source.contrast, age, sex, sha256)


def with_shapes(parts: dict[Part, list[Head]], recipe: CoarseRecipe) -> tuple[dict[Part, list[Head]], Atlas]:
    """The heads with their shapes, and the atlas of the training heads."""
    spacing, (vocabulary, _) = recipe.data.spacing_mm, about(parts["train"])
    people = [[number or 0.0 for number in vocabulary.person(head.age, head.sex)] for head in parts["train"]]
    states = {part: [coarse_state(head, recipe.data.finer) for head in found] for part, found in parts.items()}
    atlas, knots = groupwise(torch.stack(states["train"]), people, recipe.atlas, spacing_mm=spacing)
    weight = channel_weights(1 + len(LABELS))
    fitted = [atlas.fitted(state, weight, spacing_mm=spacing) for state in states["validation"]]
    shaped: dict[Part, list[Head]] = {}
    for part, shapes in (("train", list(knots)), ("validation", fitted)):
        shaped[part] = [replace(head, knots=shape) for head, shape in zip(parts[part], shapes, strict=True)]
    return shaped, atlas


def tissue(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """0 outside, then CSF, gray and white matter, of a brain-extracted T1-weighted scan.

    Clipped at 1, the tissue maximum: the classifier begins with classes of equal width up to the brightest voxel, and
    vessels would take one for themselves. Stopped early it left one of five brains without gray matter.

    Raises:
        InputError: ``E-LABELS``, the scan shows less than three tissues.
    """
    bright = np.clip(image, 0, 1).astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        _, found, _ = TissueClassifierHMRF(verbose=False).classify(bright, 3, 0.1, tolerance=1e-4, max_iter=30)
    labels: NDArray[np.uint8] = np.asarray(found, np.uint8)
    if len(np.unique(labels[image > 0])) < len(LABELS):
        raise InputError("E-LABELS", "less than three tissues in a scan", wanted="CSF, gray and white matter")
    return labels


def participants(table: Path) -> dict[str, tuple[float, Sex]]:
    """Age and sex of each participant of a BIDS table."""
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    sexes: dict[str, Sex] = {"f": "F", "m": "M"}
    return {
        row["participant_id"]: (float(row["age"]), sexes[(row.get("sex") or row["gender"])[:1].lower()]) for row in rows
    }
