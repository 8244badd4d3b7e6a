"""Each slice by itself: has it a place, a pixel size and a scale, and what may stand in for them by a named option."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from medidiff.errors import InputError
from medidiff.io.dicom.headers.header import Header
from medidiff.io.dicom.pixels.decode import refuse_undecodable
from medidiff.io.options import ReadOptions

__all__ = ["assume_positions", "prepare_slices"]

_TOLERANCE = 1e-4  # of cosines: what decimals rounded to four places leave of right angles and unit lengths
_FETCH = "Fetch the file again from the archive"
_ANEW = f"{_FETCH}; if that one is the same, export the series again from the scanner."


def prepare_slices(headers: Sequence[Header], options: ReadOptions) -> tuple[list[Header], list[str]]:
    """The slices of one series, each with all that a grid and a unit need, and the repairs that this took.

    Slices without a position come back without one only where `assume_positions` will give them theirs.

    Raises:
        InputError: a slice lacks something, or holds something impossible, and no option says what to do about it.
    """
    refuse_undecodable(headers)
    _check_positions(headers, options)
    decisions: list[str] = []
    kept = _with_pixel_spacing(headers, options, decisions)
    for header in kept:
        _check_geometry(header)
    _check_rescale(kept, options, decisions)
    return kept, decisions


def _check_positions(headers: Sequence[Header], options: ReadOptions) -> None:
    lost = [h for h in headers if h.position_mm is None]
    if not lost:
        return
    everywhere = len(lost) == len(headers)
    if everywhere and options.assume_spacing_mm is not None:
        return
    count = len(headers)
    found = f"missing, as on all {count} slices" if everywhere else f"missing on {len(lost)} of {count} slices"
    mend = f"{_FETCH}; a stack without this slice would have a gap."
    if everywhere:
        mend = f"{_FETCH}, or give the distance of slices with --assume-spacing-mm MM."
    if count == 1:
        found, mend = "missing on a single slice", "Give the folder of the whole series, not one slice."
    attribute = "ImagePositionPatient"
    raise InputError("E-NOIPP", found, wanted="a position", mend=mend, file=lost[0].name, attribute=attribute)


def _with_pixel_spacing(headers: Sequence[Header], options: ReadOptions, decisions: list[str]) -> list[Header]:
    kept, lent = [], 0
    for header in headers:
        if header.spacing_mm is None and header.imager_spacing_mm is not None and options.imager_spacing:
            header, lent = replace(header, spacing_mm=header.imager_spacing_mm), lent + 1
        if header.spacing_mm is None:
            mend = _ANEW
            if header.imager_spacing_mm is not None:
                size = "x".join(f"{value:g}" for value in header.imager_spacing_mm)
                mend = f"{_FETCH}, or take ImagerPixelSpacing, {size} mm at the detector, with --imager-spacing."
            raise InputError(
                "E-NOSPACING",
                "missing",
                wanted="the size of a pixel in mm",
                mend=mend,
                file=header.name,
                attribute="PixelSpacing",
            )
        kept.append(header)
    if lent:
        decisions.append(f"ImagerPixelSpacing taken for PixelSpacing in {lent} slices (--imager-spacing)")
    return kept


def _check_geometry(header: Header) -> None:
    name, spacing = header.name, header.spacing_mm or (0.0, 0.0)
    if min(spacing) <= 0:
        found, attribute = f"{spacing[0]:g} x {spacing[1]:g} mm", "PixelSpacing"
        raise InputError("E-BADSPACING", found, wanted="above 0", mend=_ANEW, file=name, attribute=attribute)
    attribute = "ImageOrientationPatient"
    if header.orientation is None:
        mend = f"{_FETCH}; an orientation is never guessed."
        raise InputError(
            "E-NOIOP", "missing", wanted="six direction cosines", mend=mend, file=name, attribute=attribute
        )
    axes = np.reshape(header.orientation, (2, 3))
    off = float(np.abs(axes @ axes.T - np.eye(2)).max())
    if off > _TOLERANCE:
        found = f"directions of row and column that are {off:.2g} off unit length or a right angle"
        wanted = f"six cosines of two orthogonal unit vectors, to {_TOLERANCE:g}"
        mend = "Export the series again from the scanner or archive, with at least 4 decimals; nothing is rounded here."
        raise InputError("E-BADIOP", found, wanted=wanted, mend=mend, file=name, attribute=attribute)


def _check_rescale(headers: Sequence[Header], options: ReadOptions, decisions: list[str]) -> None:
    """A scale on all slices or on none; CT and PET without one have no unit, and only by option."""
    bare = [h for h in headers if h.rescale is None]
    rules: tuple[tuple[str, str, str, Callable[[Header], bool]], ...] = (
        (
            "E-NORESCALE",
            "RescaleSlope",
            "missing beside a RescaleIntercept",
            lambda h: math.isnan((h.rescale or (0,))[0]),
        ),
        (
            "E-NORESCALE",
            "RescaleIntercept",
            "missing beside a RescaleSlope",
            lambda h: math.isnan((h.rescale or (0,))[-1]),
        ),
        ("E-BADRESCALE", "RescaleSlope", "0", lambda h: h.rescale is not None and h.rescale[0] == 0),
    )
    for code, attribute, found, broken in rules:
        for header in filter(broken, headers):
            raise InputError(
                code,
                found,
                wanted="a slope, not 0, and an intercept",
                mend=_ANEW,
                file=header.name,
                attribute=attribute,
            )
    if not bare:
        return
    first, attribute = bare[0], "RescaleSlope"
    if len(bare) < len(headers):
        found, wanted = f"missing on {len(bare)} of {len(headers)} slices", "all slices on one scale"
        raise InputError("E-NORESCALE", found, wanted=wanted, mend=_ANEW, file=first.name, attribute=attribute)
    if first.modality not in ("CT", "PT"):
        return
    if not options.assume_rescale:
        mend = f"{_FETCH}, or keep the stored values, without a unit, with --assume-rescale."
        found, wanted = f"missing, in {first.modality}, whose values have no unit without it", "a slope and intercept"
        raise InputError("E-NORESCALE", found, wanted=wanted, mend=mend, file=first.name, attribute=attribute)
    decisions.append("no RescaleSlope: stored values kept, without a unit (--assume-rescale)")


def assume_positions(headers: Sequence[Header], spacing_mm: float) -> tuple[list[Header], str]:
    """Slices without any position, put `spacing_mm` apart along their normal in the order of their InstanceNumber.

    Raises:
        InputError: ``E-NOIPP``, the InstanceNumbers do not tell the order.
    """
    numbers = {h.number for h in headers}
    if None in numbers or len(numbers) < len(headers):
        found, mend = "missing, and the InstanceNumbers do not tell the order of slices", _ANEW
        raise InputError("E-NOIPP", found, mend=mend, file=headers[0].name, attribute="ImagePositionPatient")
    ordered = sorted(headers, key=lambda h: h.number or 0)
    row, column = np.reshape(np.asarray(ordered[0].orientation, dtype=np.float64), (2, 3))
    normal = np.cross(row, column)
    step = spacing_mm * normal / np.linalg.norm(normal)
    placed = [replace(h, position_mm=tuple((k * step).tolist())) for k, h in enumerate(ordered)]
    sentence = (
        f"no positions: {len(placed)} slices put {spacing_mm:g} mm apart in the order of InstanceNumber, "
        "the first at the origin (--assume-spacing-mm)"
    )
    return placed, sentence
