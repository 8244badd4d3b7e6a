"""Line charts as numbers; the template draws them as SVG: no picture, no script, and text that can be searched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medidiff.qc.measures import Measures, Spectrum

__all__ = ["Chart", "Curve", "brightness_chart", "spectrum_chart"]

WIDTH, HEIGHT = 600.0, 290.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 14.0, 14.0, 44.0
_HEADROOM = 0.06  # of the span, above and below the curves


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of a chart, or several pieces of one.

    Args:
        kind: the class that styles it.
        name: in the key.
        pieces: the points of each piece, as SVG has them.
    """

    kind: str
    name: str
    pieces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart ready to be drawn in a box of 600 by 290.

    Args:
        x_name: below the horizontal axis.
        y_name: beside the vertical axis.
        x_ticks: place and label of each.
        y_ticks: place and label of each.
        curves: the lines.
        plot: left, top, right and bottom of the plotting area.
    """

    x_name: str
    y_name: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    curves: tuple[Curve, ...]
    plot: tuple[float, float, float, float] = (_LEFT, _TOP, WIDTH - _RIGHT, HEIGHT - _BOTTOM)


_Points = Sequence[tuple[float, float | None]]


def spectrum_chart(m: Measures, *, interpolated: bool) -> Chart | None:
    """Power over frequency in dB; 0 dB is white noise level where that is known, else the scan's peak.

    Args:
        m: the measures.
        interpolated: whether the scan was brought to the grid of the answer, which takes its noise's whiteness.
    """
    power = [p for p in m.spectrum_before.power if p > 0]
    if not power:
        return None
    white = bool(m.noise_before) and not interpolated
    zero = (m.noise_before or 1.0) ** 2 * m.voxel_mm3 if white else max(power)
    lines: list[tuple[str, str, _Points]] = [
        ("before", "before", _decibels(m.spectrum_before, zero)),
        ("after", "after", _decibels(m.spectrum_after, zero)),
    ]
    if white:
        ends = m.spectrum_before.frequency[0], m.spectrum_before.frequency[-1]
        lines.append(("level", "white noise level", [(x, 0.0) for x in ends]))
    name = "power (dB over the scan's white noise)" if white else "power (dB below the scan's peak)"
    return _chart("spatial frequency (cycles per mm)", name, lines)


def _decibels(spectrum: Spectrum, zero: float) -> _Points:
    pairs = zip(spectrum.frequency, spectrum.power, strict=True)
    return [(f, 10 * math.log10(p / zero) if p > 0 else None) for f, p in pairs]


def brightness_chart(m: Measures, units: str) -> Chart | None:
    """Mean of the tissue in each slice, before and after."""
    lines: list[tuple[str, str, _Points]] = [
        ("before", "before", list(enumerate(m.slices_before, 1))),
        ("after", "after", list(enumerate(m.slices_after, 1))),
    ]
    if sum(y is not None for _, y in lines[0][2]) < 2:
        return None
    return _chart(f"slice along axis {'IJK'[m.axis]}", f"mean of the tissue ({units or 'a.u.'})", lines)


def _chart(x_name: str, y_name: str, lines: Sequence[tuple[str, str, _Points]]) -> Chart:
    xs = [x for _, _, points in lines for x, y in points if y is not None]
    ys = [y for _, _, points in lines for _, y in points if y is not None]
    span = max(ys) - min(ys) or abs(max(ys)) or 1.0
    low, high = min(ys) - _HEADROOM * span, max(ys) + _HEADROOM * span
    left, right = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1

    def across(x: float) -> float:
        return round(_LEFT + (x - left) / (right - left) * (WIDTH - _LEFT - _RIGHT), 1)

    def up(y: float) -> float:
        return round(HEIGHT - _BOTTOM - (y - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM), 1)

    curves = []
    for kind, name, points in lines:
        pieces: list[list[str]] = [[]]
        for x, y in points:
            if y is None:
                pieces.append([])
            else:
                pieces[-1].append(f"{across(x):g},{up(y):g}")
        curves.append(Curve(kind, name, tuple(" ".join(piece) for piece in pieces if piece)))
    return Chart(
        x_name,
        y_name,
        tuple((across(x), f"{x:g}") for x in _ticks(left, right)),
        tuple((up(y), f"{y:g}") for y in _ticks(low, high)),
        tuple(curves),
    )


def _ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers between two ends, about as many as wanted."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    digits = max(0, 1 - math.floor(math.log10(step)))
    return [round(float(v), digits) + 0.0 for v in np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step]
