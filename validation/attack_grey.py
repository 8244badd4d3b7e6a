"""The attack's scans in other grey levels: 256 of them, or inverted; see `attack_scans.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from attack_scans import Array, Case, chosen, level, random, rician, tissue

__all__ = ["grey"]

Named = Iterator[tuple[str, Array]]

_PEOPLE = ("brain 6", "head 1", "clinical 2, study 2")


def grey(data: Path, asked: Sequence[str] | None) -> Iterator[Case]:
    """Both kinds of each person; one draw of noise serves both."""
    for person, scan in chosen(data, _PEOPLE, asked):
        image, head = scan.image, tissue(scan.image)
        noisy = rician(image, 10, random(person.seed, 3))
        named = (*_windows(image, head), *_levels(image), *_of_noisy(noisy))
        for case, made in (*named, ("64 levels", np.rint(_window(image, 0, _top(image)) * 63))):
            yield "8 bit", case, person.name, scan.showing(made)
        each = _in_each_plane(image, scan.axis("S"))
        yield "8 bit", "per-slice min-max 8 bit", person.name, scan.showing(each)
        for words, picture in (("", image), (" noise 10%", noisy)):
            for case, made in _inverted(picture, head):
                yield "inverted", case + words, person.name, scan.showing(made.astype(np.float32))
        for case, made in _otherwise_inverted(image, head):
            yield "inverted", case, person.name, scan.showing(made.astype(np.float32))


def _window(image: Array, low: float, high: float) -> Array:
    """From 0 to 1 between two values."""
    made: Array = np.clip((image - low) / (high - low), 0, 1)
    return made


def _top(image: Array) -> float:
    return np.percentile(image, 99.9)  # type: ignore[no-any-return]


def _byte(image: Array, low: float, high: float) -> Array:
    return np.rint(_window(image, low, high) * 255)


def _windows(image: Array, head: Array) -> Named:
    """Windows between percentiles, and about a middle."""
    for first, last in ((0.5, 99.5), (1, 99), (0, 99.9), (2, 98), (0, 100)):
        low, high = np.percentile(image, first), np.percentile(image, last)
        grey_levels = _byte(image, low, high)
        name, back = f"pct {first}-{last}", grey_levels / 255 * (high - low) + low
        yield f"{name} uint8", grey_levels.astype(np.uint8)
        if (first, last) in ((0.5, 99.5), (1, 99), (0, 100)):
            yield f"{name} back to units", back.astype(np.float32)
        if (first, last) in ((0.5, 99.5), (0, 100)):
            yield f"{name} back, int16", np.rint(back).astype(np.int16)
            yield f"{name} floor", (_window(image, low, high) * 255).astype(np.uint8)
    for name, values, first in (
        ("pct of tissue 1-99", image[head], 1),
        ("pct of nonzero .5-99.5", image[image > 0], 0.5),
    ):
        made = _byte(image, np.percentile(values, first), np.percentile(values, 100 - first))
        yield name, made.astype(np.uint8)
    brightest = level(image)
    middle, width = brightest * 0.55, brightest * 0.7
    ends = middle - width / 2, middle + width / 2
    yield "centre/width narrow", _byte(image, *ends).astype(np.uint8)
    yield "centre/width narrow float no rounding", _window(image, *ends).astype(np.float32)


def _levels(image: Array) -> Named:
    """Other ways to come to 256 levels, or nearly so."""
    low, high, top = np.percentile(image, 0.5), np.percentile(image, 99.5), _top(image)
    yield "fixed wide: max at 213", _byte(image, 0, 1.2 * image.max()).astype(np.uint8)
    yield "fixed wide: max at 170", _byte(image, 0, 1.5 * image.max()).astype(np.uint8)
    yield "top 8 of 12 bits (>>4)", (np.rint(image / image.max() * 4000).astype(np.int32) >> 4).astype(np.uint8)
    yield "pct 0-99.9, 254 levels", np.rint(_window(image, 0, top) * 254).astype(np.uint8)
    yield "1..255", 1 + np.rint(_window(image, low, high) * 254)
    yield "clip only .5-99.5", np.clip(image, low, high)
    yield "clip only 2-98", np.clip(image, np.percentile(image, 2), np.percentile(image, 98))
    yield "8 bit + gamma 0.7", np.rint(_window(image, 0, top) ** 0.7 * 255).astype(np.uint8)
    yield "CLAHE-ish equalised 8 bit", _equalised(image)


def _of_noisy(noisy: Array) -> Named:
    low, high = np.percentile(noisy, 0.5), np.percentile(noisy, 99.5)
    yield "noise 10% then pct .5-99.5", _byte(noisy, low, high).astype(np.uint8)
    yield "noise 10% then min-max", np.rint(noisy / noisy.max() * 255).astype(np.uint8)


def _equalised(image: Array) -> Array:
    from skimage.exposure import equalize_hist

    return np.rint(equalize_hist(image, 1024, mask=image > 0.05 * image.max()) * 255)


def _in_each_plane(image: Array, axis: int) -> Array:
    """Every plane stretched to 256 levels by itself."""
    planes = np.moveaxis(image, axis, 0).copy()
    for number, plane in enumerate(planes):
        planes[number] = np.rint((plane - plane.min()) / max(np.ptp(plane), 1e-6) * 255)
    return np.moveaxis(planes, 0, axis)


def _inverted(image: Array, head: Array) -> Named:
    inner = image[head]
    bottom, top = np.percentile(inner, 1), np.percentile(inner, 99)
    yield "max - x", image.max() - image
    yield "-x", -image
    yield "p99.5 - x clipped", np.clip(np.percentile(image, 99.5) - image, 0, None)
    yield "max+min-x in mask, air 0", np.where(head, image.max() - image, 0)
    yield "p99 - x in mask, air 0", np.where(head, np.clip(top - image, 0, None), 0)
    yield "p99+p1-x in mask, air kept", np.where(head, np.clip(top + bottom - image, 0, None), image)


def _otherwise_inverted(image: Array, head: Array) -> Named:
    yield "2 mean - x", np.clip(2 * image[head].mean() - image, 0, None)
    yield "255 - uint8", 255 - _byte(image, 0, _top(image))
    yield "1/(x+c)", 1 / (image + 0.2 * level(image))
    shown = image[image > 0]
    yield "p99 + p1 - x where x>0", np.where(image > 0, np.clip(np.percentile(shown, 99.5) - image, 0, None), 0)
