"""Which measures ask for a look: `Check` and `checks`.

A flag is no verdict. It says that a number lies outside the range in which restorations of the bundled sample scan lie
whose truth is known, and which faults of a kind leave it (docs/qc.md has the figures).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from medidiff.qc.measures import Measures
from medidiff.trust import Examined
from medidiff.volume import Provenance

__all__ = ["FEWEST_VOXELS", "Check", "checks", "scope_checks", "sharpness"]

State = Literal["ok", "look", "unread"]

FEWEST_VOXELS = 1000  # of tissue; fewer say nothing reliable
_REMOVED = (0.5, 1.2)  # standard deviation of the change, in noise levels
_CORRELATION = 0.15
_BRIGHTNESS = 0.02  # of the tissue maximum
_RESIDUAL = 1.2  # noise levels
_LEFT = 0.6  # noise of the answer, in noise levels of the scan
_QUIET = 0.01  # of the tissue maximum: what is left below it is not worth a look
_DRIFT = 0.03  # relative change of brightness between slices
_OUTSIDE = 1e-3  # share of the tissue
_TOLD = 0.25  # relative
_SHARP = 1.1  # dB; of four validation scans at 2 to 15 % noise the answers lie within -0.7 to 0.1 (docs/qc.md)
_ABOVE_NOISE = (2.0, 20.0)  # power of detail over that of the noise where sharpness is read
_NO_OTHER = "The prior knows such scans only; what it makes of others is not to be relied on."


@dataclass(frozen=True, slots=True)
class Check:
    """One measure and what is expected of it.

    Args:
        key: short stable name, by which a cohort is filtered.
        name: for people.
        value: as it is shown.
        expected: the range that needs no look.
        state: ``"ok"``, ``"look"``, or ``"unread"`` where it cannot be read.
        meaning: what usually lies behind it when it is outside.
    """

    key: str
    name: str
    value: str
    expected: str
    state: State
    meaning: str


def checks(
    measures: Measures,
    *,
    superresolved: bool = False,
    told: float | None = None,
    support: Examined | None = None,
) -> tuple[Check, ...]:
    """Hold the measures against what they should be, in the order in which they are shown.

    Args:
        measures: of the scan and the answer.
        superresolved: whether the answer is on a finer grid: what was added there is no noise.
        told: noise level that the restoration was told or estimated, in stored units.
        support: what the scan says of the answer; None where it says nothing.
    """
    level = told or measures.noise_before
    found = [_agreement(measures, level), _range(measures), _drift(measures)]
    if not superresolved:
        found = [_removed(measures, level), _correlated(measures), _sharp(measures, level), *found]
    last = (_brightness(measures), _left(measures), _level(measures, told))
    return (_support(measures, support), *found, *last)


def _support(m: Measures, support: Examined | None) -> Check:
    name = "Residual at any place and size"
    meaning = (
        "The answer differs from the scan by more than noise does: at a place, where something was added or removed, "
        "or over the tissue as a whole, also where the noise is stronger or smoother than told."
    )
    expected = "p at least 0.01"
    if support is None or m.voxels < FEWEST_VOXELS:
        return Check("support", name, "cannot be read", expected, "unread", meaning)
    furthest = max(abs(scale.peak) for scale in support.scales)
    count = len(support.flags) + support.more
    places = f", {count} place{'s' * (count > 1)}" if count else ""
    whole = f", {max(scale.spread for scale in support.scales):.3g} times the noise everywhere" * support.everywhere
    value = f"{furthest:.3g} σ, p = {support.p:.2g}{places}{whole}"
    return Check("support", name, value, expected, "look" if count or support.everywhere else "ok", meaning)


def scope_checks(provenance: Provenance | None) -> tuple[Check, ...]:
    """Whether the scan was of the kind that the prior is for, as its record says; nothing where it does not say."""
    told = {} if provenance is None else provenance.scope
    if not told:
        return ()
    score, limit = told.get("score"), "at most 1"
    state: State = "unread" if score is None else "look" if told.get("verdict") == "outside" else "ok"
    shown = "not judged" if score is None else f"{score:.3g}"
    meaning = " ".join(f"The scan {reason}." for reason in told.get("reasons", ()))
    return (Check("scope", "Of the kind that the prior is for", shown, limit, state, meaning or _NO_OTHER),)


def _removed(m: Measures, level: float | None) -> Check:
    meaning = "More than the noise was taken away, or less than half of it; a wrong noise level does both."
    ratio = m.deviation / level if level else None
    return _within("removed", "Change against the noise level", ratio, _REMOVED, meaning, m, unit="σ")


def _correlated(m: Measures) -> Check:
    meaning = "Neighbours changed alike: structure went with the noise, or the noise of the scan is not white."
    worst = max(m.correlation, key=abs)
    bounds = (-_CORRELATION, _CORRELATION)
    return _within("structure", "Autocorrelation of the change", worst, bounds, meaning, m)


def _sharp(m: Measures, level: float | None) -> Check:
    meaning = "Fine detail that stands out of the scan's noise became weaker: the answer is blurred; or stronger."
    return _within("sharp", "Power of fine detail", sharpness(m, level), (-_SHARP, _SHARP), meaning, m, unit="dB")


def _agreement(m: Measures, level: float | None) -> Check:
    meaning = "Seen as the scanner saw it, the answer differs from the scan by more than its noise."
    ratio = m.residual / level if level else None
    return _within("agreement", "Data consistency", ratio, (0.0, _RESIDUAL), meaning, m, unit="σ")


def _range(m: Measures) -> Check:
    meaning = "The answer has values that the scan does not have, even with three noise levels added."
    return _within("range", "Tissue beyond the scan's range", m.outside, (0.0, _OUTSIDE), meaning, m, percent=True)


def _drift(m: Measures) -> Check:
    meaning = "The brightness of some slices was changed and that of others was not."
    return _within("drift", "Drift of brightness along slices", drift(m), (0.0, _DRIFT), meaning, m, percent=True)


def _brightness(m: Measures) -> Check:
    meaning = "The tissue as a whole became brighter or darker; in dark tissue that corrects the bias of Rician noise."
    share, bounds = m.mean / m.tissue, (-_BRIGHTNESS, _BRIGHTNESS)
    return _within("brightness", "Mean change of brightness", share, bounds, meaning, m, percent=True)


def _left(m: Measures) -> Check:
    meaning = "Much of the noise is still there."
    ratio = None
    if m.noise_before and m.noise_after is not None:
        ratio = m.noise_after / m.noise_before if m.noise_after > _QUIET * m.tissue else 0.0
    return _within("left", "Noise that is left", ratio, (0.0, _LEFT), meaning, m, unit="σ")


def _level(m: Measures, told: float | None) -> Check:
    meaning = "The noise level that the restoration worked with is not the one that the scan shows."
    ratio = told / m.noise_before if told and m.noise_before else None
    bounds = (1 - _TOLD, 1 + _TOLD)
    return _within("level", "Level told against level estimated", ratio, bounds, meaning, m)


def drift(m: Measures) -> float | None:
    """How far brightness after over before strays from its median along the slices; None for fewer than two."""
    pairs = zip(m.slices_before, m.slices_after, strict=True)
    ratios = sorted(after / before for before, after in pairs if before and after is not None)
    if len(ratios) < 2:
        return None
    middle = ratios[len(ratios) // 2]
    return max(abs(ratios[0] / middle - 1), abs(ratios[-1] / middle - 1)) if middle else None


def sharpness(m: Measures, level: float | None) -> float | None:
    """How much weaker or stronger the detail of the answer is than that of the scan, in dB.

    Read where the power of the scan, less that of its white noise (σ² ΔV), is between 2 and 20 times the noise: coarser
    detail hardly suffers from a slight blur, finer detail cannot be told from noise. None where no shell is like that.

    Args:
        m: of a scan and an answer on its grid.
        level: of the scan's noise, in stored units.
    """
    noise = level**2 * m.voxel_mm3 if level else 0.0
    found = []
    for before, after in zip(m.spectrum_before.power, m.spectrum_after.power, strict=True):
        detail = before - noise
        if noise and _ABOVE_NOISE[0] <= detail / noise <= _ABOVE_NOISE[1] and after > 0:
            found.append(10 * math.log10(after / detail))
    return sum(found) / len(found) if found else None


def _within(
    key: str,
    name: str,
    value: float | None,
    bounds: tuple[float, float],
    meaning: str,
    m: Measures,
    *,
    unit: str = "",
    percent: bool = False,
) -> Check:
    low, high = bounds

    def shown(number: float) -> str:
        return f"{100 * number:.3g} %" if percent else f"{number:.3g}"

    limits = (
        f"at most {shown(high)}"
        if low == 0
        else f"±{shown(high)}"
        if low == -high
        else f"{shown(low)} to {shown(high)}"
    )
    unit = f" {unit}" if unit else ""
    if value is None or not math.isfinite(value) or m.voxels < FEWEST_VOXELS:
        return Check(key, name, "cannot be read", limits + unit, "unread", meaning)
    state: State = "ok" if low <= value <= high else "look"
    return Check(key, name, shown(value) + unit, limits + unit, state, meaning)
