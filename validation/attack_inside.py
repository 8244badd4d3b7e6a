"""The attack's scans of the kind that fine-t1 is for, on which false alarms are counted; see `attack_scans.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from attack_scans import Array, Case, Person, Rng, Scan, chosen, level, random, tissue
from scipy import ndimage

__all__ = ["HARSH", "inside"]

Named = Iterator[tuple[str, Scan]]

HARSH = frozenset(  # more than scans of the kind are put through before they are denoised: counted apart
    {
        "bias 40%",
        "resampled 0.8 linear",
        "resampled 0.8 cubic",
        "resampled 1.0 cubic",
        "resampled 1.2 linear",
        "resampled 1.2 cubic",
        "rot 5 linear",
        "rot 5 cubic",
        "rot 10 cubic",
        "z-score",
        "z-score in mask",
    }
)
_PEOPLE = (
    "head 1",
    "clinical 1, study 1",
    "clinical 1, study 2",
    "clinical 2, study 2",
    "resampled 1",
    "brain 1",
    "brain 3",
    "brain 4",
    "brain 5",
    "validation brain 1",
    "validation brain 3",
)


def inside(data: Path, asked: Sequence[str] | None) -> Iterator[Case]:
    """Every case of every person; random numbers run through all of a person's cases."""
    for person, scan in chosen(data, _PEOPLE, asked):
        rng = random(person.seed)
        for case, made in _cases(person, scan, rng):
            yield "in scope", case, person.name, made


def _cases(person: Person, scan: Scan, rng: Rng) -> Named:
    head = tissue(scan.image)
    corners = np.argwhere(head[::2, ::2, ::2]) * 2
    low, high = corners.min(0), corners.max(0) + 1
    yield "as is", scan
    yield from _noise(person, scan, rng)
    if not scan.in_slices:
        yield from _slices(person, scan, rng)
    yield from _parts(person, scan, low, high)
    yield from _masked(person, scan)
    yield "bias 20%", scan.uneven(0.2, rng)
    if person.of_test:
        yield "bias 40%", scan.uneven(0.4, rng)
    yield from _units(person, scan, head)
    if not scan.in_slices:
        yield from _resampled(person, scan)
    yield from _turned(person, scan)
    yield "axes reordered", _reordered(scan)
    yield "zero padded", scan.padded(20)
    if person.of_test:
        for power in (0.85, 1.15):
            bent = (np.maximum(scan.image, 0) / scan.image.max()) ** power * 1000
            yield f"gamma {power}", scan.showing(bent)


def _noise(person: Person, scan: Scan, rng: Rng) -> Named:
    for percent in (3, 5, 10, 15):
        yield f"noise {percent}%", scan.noisy(percent, rng)
    if person.of_test:
        noise = rng.normal(0, 8 / 100 * level(scan.image), scan.image.shape)
        yield "noise gauss 8%", scan.showing((scan.image + noise).astype(np.float32))


def _slices(person: Person, scan: Scan, rng: Rng) -> Named:
    thick = ((2, "S"), (3, "S"), (4, "S"), (5, "S"), (6, "S"), (3, "L"), (5, "L"), (4, "A"), (6, "A"))
    for millimetres, world in thick:
        if person.of_test or millimetres in (3, 6):
            yield f"thick {millimetres}", scan.averaged(scan.axis(world), millimetres)
    upright = scan.axis("S")
    for millimetres in (3, 5):
        yield f"thick gauss {millimetres}", scan.sliced(upright, millimetres)
    yield "thick 4 + noise 5%", scan.averaged(upright, 4).noisy(5, rng)
    yield "thick 6 + noise 9%", scan.averaged(upright, 6).noisy(9, rng)


def _parts(person: Person, scan: Scan, low: Array, high: Array) -> Named:
    yield "crop tight", scan.cut(low, high)
    for world in "SAL":
        axis = scan.axis(world)
        quarter = (high[axis] - low[axis]) // 4
        yield "crop middle half", scan.between(axis, low[axis] + quarter, high[axis] - quarter)
        if person.of_test:
            start = low[axis] + int((high[axis] - low[axis]) * 0.3)
            yield "crop 30% off one end", scan.between(axis, start, scan.image.shape[axis])
    for side in (120, 90):
        yield f"crop {side} mm cube", scan.cube((low + high) // 2, side / 2)


def _masked(person: Person, scan: Scan) -> Named:
    if not person.name.startswith(("brain", "validation brain", "resampled")):
        yield "rough skull strip", stripped(scan)
    yield "defaced", _defaced(scan)


def stripped(scan: Scan) -> Scan:
    """The outer 12 mm of a head taken off."""
    inner = ndimage.distance_transform_edt(tissue(scan.image), sampling=scan.spacing_mm) > 12
    return scan.showing((scan.image * inner).astype(np.float32))


def _defaced(scan: Scan) -> Scan:
    """All that lies beyond an oblique plane in front is blank."""
    voxels, affine = np.indices(scan.image.shape, dtype=np.float32), scan.affine
    world = [
        affine[k, 0] * voxels[0] + affine[k, 1] * voxels[1] + affine[k, 2] * voxels[2] + affine[k, 3] for k in range(3)
    ]
    head = tissue(scan.image)
    middle = [float(along[head].mean()) for along in world]
    made = scan.image.copy()
    made[((world[1] - middle[1]) * 0.7 - (world[2] - middle[2])) > 65] = 0
    return scan.showing(made)


def _units(person: Person, scan: Scan, head: Array) -> Named:
    image = scan.image
    if person.of_test:
        yield "units x37 float", scan.showing(image * np.float32(37.3))
        yield "units 0..1 f64", scan.showing((image / image.max()).astype(np.float64))
    yield "int16 0..1000", scan.showing(np.rint(image / np.percentile(image, 99.9) * 1000).astype(np.int16))
    if image.min() >= 0:  # what is negative (the resampled person's) would come out at the other end of the range
        yield "int16 0..4095", scan.showing(np.rint(image / image.max() * 4095).astype(np.uint16))
    if person.of_test:
        yield "offset +50", scan.showing(image + np.float32(0.05 * level(image)))
        yield "z-score", scan.showing((image - image.mean()) / image.std())
        yield "z-score in mask", scan.showing((image - image[head].mean()) / image[head].std())


def _resampled(person: Person, scan: Scan) -> Named:
    for millimetres in (0.8, 1.2):
        yield f"resampled {millimetres} linear", scan.resampled(millimetres, 1)
    if not person.of_test:
        return
    for millimetres in (0.8, 1.2, 1.0):
        yield f"resampled {millimetres} cubic", scan.resampled(millimetres, 3)
    for degrees, axes, order, word in (
        (5, (0, 1), 1, "linear"),
        (5, (1, 2), 3, "cubic"),
        (10, (0, 2), 3, "cubic"),
    ):
        turned = ndimage.rotate(scan.image, degrees, axes=axes, reshape=False, order=order)
        yield f"rot {degrees} {word}", scan.showing(turned.astype(np.float32))


def _turned(person: Person, scan: Scan) -> Named:
    """Tilted about an axis of the patient, as the affine says."""
    for degrees, axis, word in ((8, 0, "8"), (12, 2, "12"), (20, 0, "20"), (15, 1, "15 roll")):
        if not person.of_test and degrees > 12:
            continue
        i, j = (k for k in range(3) if k != axis)
        angle, turn = np.deg2rad(degrees), np.eye(4)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        yield f"header oblique {word}", Scan(scan.image, turn @ scan.affine)


def _reordered(scan: Scan) -> Scan:
    """The same scan in another order of axes, the first of them turned round."""
    image = np.transpose(scan.image, (2, 0, 1))[::-1]
    affine = scan.affine[:, [2, 0, 1, 3]].copy()
    affine[:3, 3] += affine[:3, 0] * (image.shape[0] - 1)
    affine[:3, 0] *= -1
    return Scan(image, affine)
