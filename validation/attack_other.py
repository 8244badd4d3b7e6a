"""The attack's scans of another contrast or body part; see `attack_scans.py`.

One row of random numbers runs through all scans that are taken as they are, so that they are made in one order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from attack_bodies import models
from attack_inside import stripped
from attack_scans import Array, Case, Rng, Scan, chosen, level, random, read, rician, rim, tissue
from scipy import ndimage

__all__ = ["other"]

Named = Iterator[tuple[str, Scan]]

_CONTRASTS = {
    "resampled 1, T2": "mni/patient19/T2",
    "resampled 1, FLAIR": "mni/patient19/FLAIR",
    "clinical 1, study 1, T2": "thick/patient01/study1_T2W",
    "clinical 1, study 2, T2": "thick/patient01/study2_T2W",
    "clinical 1, study 1, FLAIR": "thick/patient01/study1_FLAIR",
    "clinical 1, study 2, FLAIR": "thick/patient01/study2_FLAIR",
    "clinical 2, study 1, T2": "thick/patient03/study1_T2W",
    "clinical 2, study 2, T2": "thick/patient03/study2_T2W",
    "clinical 2, study 1, FLAIR": "thick/patient03/study1_FLAIR",
    "clinical 2, study 2, FLAIR": "thick/patient03/study2_FLAIR",
}
_MAPPED = ("brain 2", "head 1", "clinical 2, study 2")
_EMPTIED = ("head 1", "clinical 2, study 2", "brain 2")
_CHESTS = {"chest 1, first 12 slices": 12, "chest 1": 64}
_CENTRES = ((192, 192), (120, 200), (260, 200), (192, 280), (192, 110))


def other(data: Path, asked: Sequence[str] | None) -> Iterator[Case]:
    """Other contrasts, real and made up; then a chest's CT, models of bodies, and heads without their brain."""
    rng = random(5)
    for name, file in _CONTRASTS.items():
        contrast = name.rsplit(", ", 1)[1]
        for case, made in _contrast(read(data / "ms-open" / f"{file}.nii.gz"), rng):
            yield "contrast", f"{contrast} {case}", name, made
    for person, scan in chosen(data, _MAPPED, asked):
        for case, picture in _mapped(scan.image):
            noise = random(person.seed).normal(0, 8, scan.image.shape)
            yield "contrast", case, person.name, scan.showing((picture * 500 + noise).astype(np.float32))
    whole = read(data / "ct-lung" / "LungFCP-01-0001_ct.nii.gz")
    for name, planes in _CHESTS.items():
        chest = whole.cut((0, 0, 0), (384, 384, planes))
        for case, made in _chest(chest, rng, whole=name == "chest 1"):
            yield "body part", f"CT {case}", name, Scan(made.image.astype(np.float32), made.affine)
    for case, made in models():
        yield "body part", f"model {case}", "model", made
    for person, scan in chosen(data, _EMPTIED, asked):
        yield "body part", "shell of the head, middle blank", person.name, _shell(scan)
        yield "body part", "head warped wildly", person.name, _warped(scan)


def _contrast(scan: Scan, rng: Rng) -> Named:
    yield "as is", scan
    yield "noise 5%", scan.noisy(5, rng)
    yield "noise 10%", scan.noisy(10, rng)
    yield "rough strip", stripped(scan)
    yield "bias 30%", scan.uneven(0.3, rng)
    axis, (low, high) = scan.axis("S"), rim(scan.image)
    size = high[axis] - low[axis]
    yield "middle half", scan.between(axis, low[axis] + size // 4, high[axis] - size // 4)
    yield "upper 65%", scan.between(axis, low[axis] + int(0.35 * size), scan.image.shape[axis])
    if not scan.in_slices:
        yield "thick 4", scan.averaged(axis, 4)
    yield "8 cm cube", scan.cube((low + high) // 2, 40)


def _mapped(image: Array) -> Iterator[tuple[str, Array]]:
    """Contrasts that nobody measured: grey levels of the head mapped to others, its surroundings kept dark."""
    head = tissue(image)
    white = np.percentile(image[head], 97)
    seen = np.clip(image / white, 0, 1.3)
    curves = {
        "synthetic T2*: grey 1.1 of white": ((0, 0.4, 0.65, 1, 1.3), (0, 0.5, 1.05, 0.95, 0.9)),
        "synthetic FLAIR": ((0, 0.25, 0.45, 0.65, 1, 1.3), (0, 0.15, 0.5, 1, 0.75, 0.7)),
        "synthetic WM-nulled": ((0, 0.25, 0.65, 1, 1.3), (0.1, 0.3, 1, 0.15, 0.1)),
        "synthetic grey=0.9": ((0, 0.3, 0.65, 1, 1.3), (0, 0.4, 0.9, 1, 1.1)),
    }
    made = {
        "synthetic PD (flat)": 0.8 + 0.2 * (seen - 0.6),
        "synthetic PD fluid bright": 1.1 - 0.25 * seen,
    } | {name: np.interp(seen, *curve) for name, curve in curves.items()}
    for name, picture in made.items():
        yield name, np.where(head, picture, image / white * 0.3)


def _chest(scan: Scan, rng: Rng, *, whole: bool) -> Named:
    image = scan.image
    absolute = np.clip(image + 1024, 0, None)
    soft = np.clip(image + 200, 0, None)
    narrow = np.clip(image + 200, 0, 500)
    yield "HU", scan
    yield "HU+1024", scan.showing(absolute)
    yield "soft window", scan.showing(np.clip((image + 160) / 400, 0, 1))
    yield "lung window", scan.showing(np.clip((image + 1350) / 1500, 0, 1))
    yield "soft float no top clip", scan.showing(soft)
    yield "HU+1024 + noise 5%", scan.showing(rician(absolute, 5, rng))
    for factor in (0.5, 0.6):
        smaller = _sized(scan, factor, 1)
        yield f"HU+1024 in-plane voxels x{factor}", smaller.showing(absolute)
        yield f"soft window in-plane voxels x{factor} noise", smaller.showing(rician(narrow, 3, rng))
    if whole:
        yield from _parts_of_chest(scan, rng)
        yield from _like_heads(_sized(scan, 0.6, 2.4), rng)


def _parts_of_chest(scan: Scan, rng: Rng) -> Named:
    for x, y in _CENTRES:
        part = scan.cut((x - 100, y - 100, 0), (x + 100, y + 100, 64))
        soft = np.clip(part.image + 200, 0, None)
        yield "15 cm crop HU+1024", part.showing(np.clip(part.image + 1024, 0, None))
        yield "15 cm crop soft", part.showing(soft)
        yield "15 cm crop soft + noise 3%", part.showing(rician(soft, 3, rng))
    absolute = np.clip(scan.image + 1024, 0, None)
    long = ndimage.zoom(absolute[92:292, 92:292], (1, 1, 2.5), order=1)
    yield "15 cm cube stretched", scan.showing(long)
    yield "axes mixed", scan.showing(np.transpose(long, (2, 0, 1)))


def _like_heads(scan: Scan, rng: Rng) -> Named:
    """The chest in a head's size, 18 x 18 x 15 cm."""
    image = scan.image
    yield "head-sized: 18x18x15 cm", scan.showing(np.clip(image + 1024, 0, None))
    yield "head-sized soft", scan.showing(np.clip(image + 200, 0, None))
    yield "head-sized soft noise 3%", scan.showing(rician(np.clip(image + 200, 0, 500), 3, rng))
    within = ndimage.gaussian_filter(image, 2) > -950
    yield "head-sized inverted-ish lungs bright", scan.showing(np.clip(400 - image, 0, 1200) * within)


def _sized(scan: Scan, in_plane: float, across: float) -> Scan:
    """Voxels of other sizes than they have."""
    affine = scan.affine.copy()
    affine[:3, 2] *= across
    affine[:3, :2] *= in_plane
    return Scan(scan.image, affine)


def _shell(scan: Scan) -> Scan:
    """The outer 15 mm of a head alone."""
    made = scan.image.copy()
    made[ndimage.distance_transform_edt(tissue(scan.image), sampling=scan.spacing_mm) > 15] = 0
    return scan.showing(made)


def _warped(scan: Scan) -> Scan:
    """A head bent by centimetres, with noise."""
    image, size = scan.image, scan.spacing_mm
    bends = np.random.default_rng(3).normal(size=(3, 6, 6, 6))
    shape = np.array(image.shape)
    moved = [ndimage.zoom(bend, shape / 6, order=3) * 12 / mm for bend, mm in zip(bends, size, strict=True)]
    places = np.indices(image.shape, dtype=np.float32)
    made = ndimage.map_coordinates(image, [at + by for at, by in zip(places, moved, strict=True)], order=1)
    noise = random(1).normal(0, 0.03 * level(image), image.shape).astype(np.float32)
    return scan.showing(made.astype(np.float32) + noise)
