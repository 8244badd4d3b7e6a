"""What an odd sign means, in plain words that follow "the scan"."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from medidiff.trust.reference import Limits

__all__ = ["said"]

_Signs = Mapping[str, float | None]
_NO_GRAIN = 2.0  # decades by which tails are longer than grain's: most of the tissue has none, as in a map of labels
_STILL = -4.9  # decades: next to this, the least that is read, what varies does not
_ALL_ALIKE = 0.2  # share of the tissue that holds one value: more than is cut off by a window


def said(name: str, signs: _Signs, limits: Limits) -> str:
    """What a sign beyond its limits says of the scan, as what follows "the scan" in a sentence.

    Args:
        name: of the sign.
        signs: of the scan.
        limits: of the sign.
    """
    value = signs[name]
    assert value is not None  # what cannot be read is not odd
    return _WORDS[name](value, limits)


def _beyond(value: float, limits: Limits) -> float:
    bound = limits.high if value > limits.middle else limits.low
    return limits.middle if bound is None else bound


def _tissue(value: float, limits: Limits) -> str:
    amount, bound = 10**value, 10 ** _beyond(value, limits)
    if value > limits.middle:
        most = f"no head has over {bound / 1000:.1f} l"
        return f"shows {amount / 1000:.1f} l of tissue, {most}: wrong voxel size or body part"
    return f"shows {amount:.2g} ml of tissue, too little to be told from anything"


def _corner(value: float, limits: Limits) -> str:
    if value > limits.middle:
        return "has noise that is strongest at the finest detail: sharpened, or not a scan"
    return f"has correlated noise, as if blurred over {_blur_voxels(10**value):.1f} voxels: filtered or interpolated"


def _quiet(value: float, limits: Limits) -> str:
    least = f"{100 * 10 ** _beyond(value, limits):.2g} %"
    if value < _STILL:
        return (
            f"has tissue that does not vary at all, in scans of the kind it varies by at least {least} "
            "of the brightness: filtered, or not a scan"
        )
    return (
        f"looks already denoised, smoothed or averaged: its quietest tissue varies by {100 * 10**value:.2g} % "
        f"of the brightness, in scans of the kind by at least {least}"
    )


def _patchy(value: float, limits: Limits) -> str:
    if value > _NO_GRAIN:
        return (
            "has next to no grain in most of its tissue, but steps between even areas: "
            "a map of labels (a segmentation), or very strongly filtered"
        )
    return (
        f"has patchy grain, as filters leave it: its tails are {_percent(value)} % longer than a scanner's noise and "
        f"anatomy explain, in scans of the kind at most {_percent(_beyond(value, limits))} %"
    )


def _top(value: float, _limits: Limits) -> str:
    share = 10**value
    if share > _ALL_ALIKE:
        return (
            f"holds the very highest value in {100 * share:.0f} % of its tissue: clipped, windowed or a map of labels"
        )
    return f"looks clipped or windowed: {100 * share:.2g} % of the tissue holds the very highest value"


def _percent(value: float) -> str:
    """By how much a ratio is off 1, of its logarithm."""
    off = 100 * (10 ** abs(value) - 1)
    return f"{off:.0f}" if off < 1000 else "over 1000"


def _blur_voxels(ratio: float) -> float:
    """Full width at half maximum of the Gaussian that leaves white noise with this ratio of its grain at one and two.

    White noise blurred with standard deviation s has the autocorrelation exp(-d²/4s²), so a second difference over L
    voxels along two axes has the variance ((6 - 8 ρ(L) + 2 ρ(2L)) / 6)².
    """
    widths = np.linspace(0.05, 4, 400)
    one, two = (
        (6 - 8 * np.exp(-((lag / widths) ** 2) / 4) + 2 * np.exp(-((2 * lag / widths) ** 2) / 4)) / 6 for lag in (1, 2)
    )
    width = float(np.interp(-ratio, -one / np.maximum(two, 1e-12), widths))
    return 2 * math.sqrt(2 * math.log(2)) * width


_WORDS: Mapping[str, Callable[[float, Limits], str]] = {
    "tissue": _tissue,
    "whole": lambda v, b: (
        f"has {10**v:.0f} ml of tissue in all, a head has at least {10 ** _beyond(v, b):.0f}: "
        "wrong voxel size or body part"
    ),
    "across": lambda v, b: (
        f"is {10**v / 10:.0f} cm across, no head is over {10 ** _beyond(v, b) / 10:.0f} cm: another body part, "
        "or wrong voxel size"
    ),
    "quiet": _quiet,
    "corner": _corner,
    "loud": lambda v, b: (
        f"has noise of {100 * 10**v:.0f} % of the brightness, "
        f"in scans of the kind at most {100 * 10 ** _beyond(v, b):.0f} %"
    ),
    "linked": lambda v, b: (
        f"has noise that is linked from voxel to voxel along all axes, by {_percent(v)} % where scans of the kind "
        f"reach {_percent(_beyond(v, b))} %: smoothed, filtered or interpolated"
    ),
    "patchy": _patchy,
    "filtered": lambda v, _: (
        f"looks already denoised: its grain is what filters leave rather than a scanner's (by {v:.2f}; 1 for a "
        "filtered scan, -1 for others)"
    ),
    "cliff": lambda v, _: (
        f"looks zero-filled or interpolated: along two axes its k-space ends before the edge, by a drop of power "
        f"to one in {10**v:.0f}"
    ),
    "spike": lambda v, _: (
        f"has stripes: one spatial frequency stands out {10 ** (v / 2):.0f} times above those around it, "
        "as of a spike in k-space"
    ),
    "top": _top,
    "eight": lambda _v, _: "looks windowed to 8 bit: it fills 256 grey levels exactly",
    "air": lambda v, _: f"looks inverted: what surrounds the tissue is {100 * v:.0f} % as bright as the tissue",
    "jump": lambda v, _: (
        f"looks put together wrongly: a slice differs from the next {10**v:.1f} times as much as those around do"
    ),
    "twice": lambda v, _: f"has slices that stand twice: {100 * v:.0f} % of neighbours are the same",
    "blocky": lambda v, _: f"looks compressed with loss: steps at every eighth voxel are {_percent(v)} % larger",
    "match": lambda v, b: (
        f"does not look like a head: it agrees with the mean brain to {v:.2f}, "
        f"scans of the kind to at least {_beyond(v, b):.2f}"
    ),
    "upright": lambda v, _: (
        f"does not lie as its header says: turned or flipped, the mean brain fits better (by {-v:.2f})"
    ),
    "side": lambda v, _: (
        f"looks mirrored: its left side looks like a right one (by {-v:.2f}; 1 for the mirror image of a typical head)"
    ),
    "order": lambda v, b: (
        f"is not of T1-weighted contrast: deep in the brain it is bright where the mean brain is by a rank correlation "
        f"of {v:.2f}, in scans of the kind of at least {_beyond(v, b):.2f}"
    ),
    "grey": lambda v, b: (
        f"is not of T1-weighted contrast: grey matter is {100 * v:.0f} % as bright as white, "
        f"in scans of the kind at most {100 * _beyond(v, b):.0f} %"
    ),
    "fluid": lambda v, b: (
        f"is not of T1-weighted contrast: fluid is {100 * v:.0f} % as bright as white matter, "
        f"in scans of the kind at most {100 * _beyond(v, b):.0f} %"
    ),
    "shading": lambda v, _: (
        f"is of very uneven brightness: white matter varies by a factor of {math.exp(v):.1f} across the head"
    ),
    "ghost": lambda v, _: f"has air round the head that is uneven by {100 * v:.0f} % of the tissue: ghosts, or not air",
}
