"""Heads in voxels of 4 mm as sets that `set_figures` compares: real ones brought there, drawn ones as they are.

Real scans come to the frame of the cascade at 1 mm and are averaged over boxes of 4 mm, as the training heads were.
Every head, real or drawn, is then treated alike: what is darker than `brains.AIR` is set to 0, tissue is labelled by
the classifier of `brains.label`, and all figures are read on voxels of 4 mm, MS-SSIM at 4 to 32 mm, random features at
4 to 32 mm, spectra up to 0.125 cycles per mm. A head in which the classifier finds less than three tissues cannot be
described; it is counted and left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from brains import AIR, TISSUES, Brain, framed, label
from numpy.typing import NDArray
from scoring import Array, scored_scans
from set_figures import Shells

from medidiff import io
from medidiff.errors import InputError
from medidiff.io.files.atomic import make_folder, write_file
from medidiff.metrics.features import random_features
from medidiff.metrics.spectrum import radial_power
from medidiff.metrics.tissues import radiomics, volumes_ml

__all__ = ["SHELLS", "described", "described_all", "picture", "real_heads"]

SPACING_MM = (4.0, 4.0, 4.0)
SHELLS = Shells(
    edges=tuple(float(edge) for edge in np.linspace(0.0125, 0.125, 19)),
    bands=((0.0125, 0.05), (0.05, 0.0875), (0.0875, 0.125)),
)
_FACTOR = 4  # voxels of the frame at 1 mm along an axis of a coarse one
_SIDE = 64  # of the cube of air in which features and spectra are read
_LEAST = 48  # voxels along an axis that MS-SSIM needs
_GAP = 2  # voxels between the two slices of a picture


def real_heads(data: Path, split: Path, folder: str, *, part: str, cache: Path | None) -> list[Array]:
    """The real scans of one part of a folder in voxels of 4 mm, tissue maximum 1.

    Args:
        data: the shared data.
        split: TOML that says which subject serves what.
        folder: of the data.
        part: ``"train"``, ``"validation"`` or ``"test"``.
        cache: folder where they are kept by the hash of their files; None for nowhere.

    Raises:
        InputError: a scan is missing or cannot be read.
    """
    return [_coarse(path, cache) for path in scored_scans(data, split, folder, part=part).values()]


def _coarse(path: Path, cache: Path | None) -> Array:
    place = cache and cache / f"{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}-4mm.npy"
    if place and place.is_file():
        kept: Array = np.load(place, allow_pickle=False)
        return kept
    fine = framed(io.read(path))
    i, j, k = (n // _FACTOR for n in fine.shape)
    found = fine.reshape(i, _FACTOR, j, _FACTOR, k, _FACTOR).mean(axis=(1, 3, 5))
    if place:
        make_folder(place.parent)
        write_file(place, lambda partial: np.save(partial, found))
    return found


def described(head: NDArray[np.generic]) -> Brain:
    """Everything that a comparison keeps of a head.

    Args:
        head: (I, J, K) at 4 mm, tissue maximum 1, at most 64 voxels along each axis.

    Raises:
        InputError: ``E-LABELS``, three tissues are not found in it.
    """
    clean = np.where(head > AIR, head, 0).astype(np.float32)
    labels = label(clean)
    cube = _padded(clean, _SIDE)
    return Brain(
        coarse=_padded(clean, _LEAST),
        labels=_padded(labels, _LEAST),
        mosaic=picture(clean),
        features=random_features(cube, cube > AIR),
        spectrum=radial_power(cube, spacing_mm=SPACING_MM, edges=SHELLS.edges),
        radiomics=radiomics(clean, labels, count=len(TISSUES), spacing_mm=SPACING_MM),
        volumes=volumes_ml(labels, count=len(TISSUES), spacing_mm=SPACING_MM),
        overlap=np.empty(0),
    )


def described_all(heads: Iterable[NDArray[np.generic]]) -> tuple[list[Brain], int]:
    """All heads that can be described, and how many cannot."""
    found, failed = [], 0
    for head in heads:
        try:
            found.append(described(head))
        except InputError:
            failed += 1
    return found, failed


def _padded(volume: NDArray[Any], least: int) -> NDArray[Any]:
    """The volume in the middle of air, at least so many voxels along each axis."""
    missing = [max(least - n, 0) for n in volume.shape]
    return np.pad(volume, [(gap // 2, gap - gap // 2) for gap in missing])


def picture(head: NDArray[np.generic]) -> Array:
    """An axial slice above the middle and the coronal one through it, side by side; row 0 on top, left on the left."""
    i, j, k = head.shape
    tiles = [np.asarray(tile, np.float32)[::-1] for tile in (head[:, :, k // 2 + 3].T, head[:, j // 2, :].T)]
    page = np.zeros((max(j, k), 2 * i + _GAP), dtype=np.float32)
    for left, tile in zip((0, i + _GAP), tiles, strict=True):
        top = (page.shape[0] - tile.shape[0]) // 2
        page[top : top + tile.shape[0], left : left + i] = tile
    return page
