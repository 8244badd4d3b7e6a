"""From DICOM headers to one regular stack of slices, or a refusal that says which file breaks it.

Slices are ordered by where they lie along the slice normal, never by InstanceNumber or file name. The frames of an
enhanced file are held to the same rules. How far a slice may lie from the regular grid is told by
`medidiff.io.dicom.series.tolerances`; what an option allows to be done about one that does not,
by `medidiff.io.dicom.series.repairs`.
Where SliceThickness or SpacingBetweenSlices say otherwise than the positions, the positions win, with a note.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.io.contents import Skipped
from medidiff.io.dicom.headers.header import Header
from medidiff.io.dicom.series.repairs import LPS_TO_RAS, Course, plan_course
from medidiff.io.dicom.series.slices import assume_positions
from medidiff.io.dicom.series.tolerances import Places, fit_places
from medidiff.io.files.checks import refuse_large
from medidiff.io.options import ReadOptions
from medidiff.volume import Geometry

__all__ = ["LPS_TO_RAS", "Stack", "regular_stack"]

_SAME_PLACE_MM = 1e-3
_NOTED_FROM = 0.01  # relative difference of a header's slice distance from the true one


@dataclass(frozen=True, slots=True)
class Stack:
    """One scan: slices in spatial order.

    Args:
        slices: headers of classic images or of frames, ascending along the slice normal.
        course: the grid, and which part each slice has in it.
        skipped: files that are not part of it.
        decisions: choices made on the way, as sentences.
    """

    slices: tuple[Header, ...]
    course: Course
    skipped: tuple[Skipped, ...] = ()
    decisions: tuple[str, ...] = ()

    @property
    def geometry(self) -> Geometry:
        """The grid, voxel axes (column index, row index, slice)."""
        return self.course.geometry

    @property
    def thickness_mm(self) -> float | None:
        """SliceThickness, where all slices say the same."""
        said = {header.thickness_mm for header in self.slices}
        return said.pop() if len(said) == 1 else None

    @property
    def files(self) -> list[Path]:
        """The files in reading order, each once."""
        return list(dict.fromkeys(header.file for header in self.slices))


def regular_stack(
    headers: Sequence[Header],
    skipped: Sequence[Skipped] = (),
    *,
    options: ReadOptions | None = None,
    decisions: Sequence[str] = (),
) -> Stack:
    """Put the headers of one scan, as `medidiff.io.dicom.series.split` makes it up, on one regular grid.

    Args:
        headers: classic images or frames of one kind, matrix and orientation, as `prepare_slices` returns them.
        skipped: files of the same series that were set aside.
        options: which repairs are allowed.
        decisions: how the scan was made up, as sentences.

    Raises:
        InputError: the scan is not one regular stack, and no option says what to do about it.
    """
    options, said = options or ReadOptions(), list(decisions)
    if len(headers) == 1:
        mend = "Give the whole series, not one slice."
        raise InputError("E-2D", "a single slice", wanted="at least 2", mend=mend, file=headers[0].name)
    if options.assume_spacing_mm is not None and all(h.position_mm is None for h in headers):
        headers, sentence = assume_positions(headers, options.assume_spacing_mm)
        said.append(sentence)
    normal = _normal(headers[0])
    ordered = sorted(headers, key=lambda h: float(normal @ np.asarray(h.position_mm)))
    positions = np.array([h.position_mm for h in ordered], dtype=np.float64)
    _refuse_double(ordered, positions @ normal)
    places = fit_places(positions, normal)
    first = ordered[0]
    refuse_large(8 * (int(places.numbers[-1]) + 1) * first.shape[0] * first.shape[1], file=first.name)
    said += _repairs(ordered, places, options) + _notes(ordered, places.spacing_mm)
    course = plan_course(places, positions, axes=_axes(first), shape=first.shape, options=options)
    refuse_large(8 * int(np.prod(course.geometry.shape, dtype=object)), file=first.name)
    return Stack(tuple(ordered), course, tuple(skipped), tuple(said))


def _normal(header: Header) -> NDArray[np.float64]:
    row, column = np.reshape(np.asarray(header.orientation, dtype=np.float64), (2, 3))
    normal = np.cross(row, column)
    return np.asarray(normal / np.linalg.norm(normal))


def _axes(header: Header) -> NDArray[np.float64]:
    """(3, 2) from one column, and from one row, to the next; Eq. C.7.6.2.1-1 of DICOM PS3.3."""
    row, column = np.reshape(np.asarray(header.orientation, dtype=np.float64), (2, 3))
    between_rows, between_columns = header.spacing_mm or (1.0, 1.0)
    return np.stack([row * between_columns, column * between_rows], axis=1)


def _refuse_double(ordered: Sequence[Header], along: NDArray[np.float64]) -> None:
    near = np.diff(along) < _SAME_PLACE_MM
    if not near.any():
        return
    places = Counter(np.cumsum(np.diff(along, prepend=along[0]) >= _SAME_PLACE_MM).tolist())
    times = set(places.values())
    if len(places) > 1 and len(times) == 1:
        differing = [n for n, _ in ordered[0].clock if len({dict(h.clock)[n] for h in ordered}) > 1]
        apart = differing[0] if differing else "no attribute"
        found = f"{times.pop()} images at each of {len(places)} positions, told apart by {apart}"
        raise InputError("E-4D", found, wanted="one volume", mend="Put each volume into a folder of its own.")
    first = int(np.argmax(near))
    found = f"{ordered[first].name} and {ordered[first + 1].name} lie at the same position"
    if near.sum() > 1:
        found += f", as do {int(near.sum()) - 1} more pairs"
    mend = "Keep one of the two, or put each acquisition into a folder of its own."
    if ordered[first].file == ordered[first + 1].file:
        mend = "Export the series again with one frame at each place."
    raise InputError("E-DUPPOS", found, wanted="one slice a place", mend=mend, attribute="ImagePositionPatient")


def _repairs(ordered: Sequence[Header], places: Places, options: ReadOptions) -> list[str]:
    """What the options let be repaired, as sentences; the first fault that they do not is raised."""
    said = []
    for fault, option, allowed, done in (
        (_gap(ordered, places), "--on-gap resample", options.on_gap != "error", "interpolated and marked as filled"),
        (
            _unevenness(ordered, places),
            "--on-spacing resample",
            options.on_spacing != "error",
            f"interpolated to {places.spacing_mm:.4g} mm, slices that lie at no measured one marked as filled",
        ),
        (
            _tilt(ordered, places),
            f"--on-tilt {options.on_tilt}",
            options.on_tilt != "error",
            "kept as a sheared grid" if options.on_tilt == "shear" else "interpolated in plane to an orthogonal grid",
        ),
    ):
        if fault is None:
            continue
        if not allowed:
            raise fault
        said.append(f"{fault.found}; {done} ({option})")
    return said


def _gap(ordered: Sequence[Header], places: Places) -> InputError | None:
    if not places.missing:
        return None
    jumps = np.rint(np.diff(places.numbers)).astype(int)
    wide = np.flatnonzero(jumps > 1)
    gaps = [
        f"{ordered[i].name} and {ordered[i + 1].name} ({jumps[i] * places.spacing_mm:.4g} mm apart)" for i in wide[:4]
    ]
    more = f" and {len(wide) - 4} more gaps" if len(wide) > 4 else ""
    lost = "a missing slice" if places.missing == 1 else f"{places.missing} missing slices"
    mend = "Fetch the missing slices from the archive, or have them interpolated and marked with --on-gap resample."
    if places.missing > len(ordered):
        mend = "Fetch the missing slices from the archive; they are too many to be interpolated. "
        mend += "If the slices behind the gap belong to another scan, put them into a folder of their own."
    fault = InputError(
        "E-GAP",
        f"{lost} between {', '.join(gaps)}{more}",
        wanted=f"a slice every {places.spacing_mm:.4g} mm",
        mend=mend,
        attribute="ImagePositionPatient",
    )
    if places.missing > len(ordered):
        raise fault
    return fault


def _unevenness(ordered: Sequence[Header], places: Places) -> InputError | None:
    worst = int(np.argmax(places.crooked_mm))
    if places.uneven:
        steps = np.diff(places.numbers) * places.spacing_mm
        sizes = Counter(np.round(steps, 3).tolist()).most_common(6)
        odd = int(np.argmax(np.abs(steps - places.spacing_mm)))
        listed = ", ".join(f"{size:g} mm x{count}" for size, count in sizes)
        pair = f"{ordered[odd].name} and {ordered[odd + 1].name}"
        found = f"uneven distances of slices: {listed}; the oddest, {steps[odd]:.4g} mm, between {pair}"
        wanted = f"{places.spacing_mm:.4g} mm each, to {places.tolerance_mm:.2g} mm"
    elif places.is_crooked:
        found = f"{ordered[worst].name} lies {places.crooked_mm[worst]:.4g} mm sideways of the line of the slices"
        wanted = f"at most {places.sideways_mm:.2g} mm"
    else:
        return None
    mend = "Fetch the series again from the archive, or have it interpolated with --on-spacing resample."
    return InputError("E-SPACING", found, wanted=wanted, mend=mend, attribute="ImagePositionPatient")


def _tilt(ordered: Sequence[Header], places: Places) -> InputError | None:
    if places.tilt_degrees == 0:
        return None
    return InputError(
        "E-TILT",
        f"the line of the slices is tilted {places.tilt_degrees:.2f} degrees away from their normal (gantry tilt)",
        wanted="slices straight above each other",
        mend="Keep the voxels on a sheared grid with --on-tilt shear, or have them interpolated to an orthogonal one "
        "with --on-tilt resample.",
        file=ordered[0].name,
        attribute="ImagePositionPatient",
    )


def _notes(headers: Sequence[Header], spacing_mm: float) -> list[str]:
    first, notes = headers[0], []
    if not first.frame_uid:
        notes.append("no frame of reference in the files; the slices are taken to share one")
    if first.photometric == "MONOCHROME1":
        notes.append("MONOCHROME1: stored values kept, nothing inverted")
    if first.padding:
        notes.append("PixelPaddingValue: such voxels keep their value and stay out of statistics")
    for name, value in (("SpacingBetweenSlices", first.between_mm), ("SliceThickness", first.thickness_mm)):
        if value is not None and abs(abs(value) - spacing_mm) > _NOTED_FROM * spacing_mm:
            notes.append(f"{name} says {value:.4g} mm, the positions {spacing_mm:.4g} mm: the positions are believed")
    return notes
