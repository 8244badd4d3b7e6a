"""From DICOM headers to one regular stack of slices, or a refusal that says which file breaks it.

Slices are ordered by where they lie along the slice normal, never by InstanceNumber or file name. The frames of an
enhanced file are held to the same rules. Tolerances: orientation cosines and pixel spacings 1e-4; direction of the
stack 1e-3 (0.06 degrees) from the normal; each slice within 1 % of the spacing from its place on the regular grid.
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
from medidiff.io.dicom.headers import Header
from medidiff.io.files.checks import SHEAR_LIMIT, refuse_large
from medidiff.io.options import ReadOptions
from medidiff.volume import Geometry

__all__ = ["LPS_TO_RAS", "Stack", "check_slice", "regular_stack"]

LPS_TO_RAS = np.diag((-1.0, -1.0, 1.0, 1.0))
_TOLERANCE = 1e-4  # of cosines, and of pixel spacings relative to each other
_STEP_TOLERANCE = 0.01
_RESEND = "Send the series again from the archive."


@dataclass(frozen=True, slots=True)
class Stack:
    """One scan: slices in spatial order.

    Args:
        slices: headers of classic images or of frames, ascending along the slice normal.
        geometry: the grid, voxel axes (column index, row index, slice).
        skipped: files that are not part of it.
        decisions: choices made on the way, as sentences.
    """

    slices: tuple[Header, ...]
    geometry: Geometry
    skipped: tuple[Skipped, ...] = ()
    decisions: tuple[str, ...] = ()

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
    """Check the headers of one scan, as `medidiff.io.dicom.split` makes it up, and put them in order.

    Args:
        headers: classic images or frames of one kind, matrix and orientation.
        skipped: files of the same series that were set aside.
        options: which repairs are allowed.
        decisions: how the scan was made up, as sentences.

    Raises:
        InputError: the scan is not one regular stack.
    """
    for header in headers:
        check_slice(header)
    if len(headers) == 1:
        mend = "Give the whole series, not one slice."
        raise InputError("E-2D", "a single slice", wanted="at least 2", mend=mend, file=headers[0].name)
    ordered = _in_order(headers)
    geometry = _geometry(ordered)
    refuse_large(8 * int(np.prod(geometry.shape, dtype=object)), file=ordered[0].name)
    return Stack(tuple(ordered), geometry, tuple(skipped), (*decisions, *_notes(ordered)))


def check_slice(header: Header) -> None:
    """Refuse one slice whose own geometry or scale is missing or impossible.

    Raises:
        InputError: with the attribute at fault.
    """
    name, spacing = header.name, header.spacing_mm
    for value, code, attribute in (
        (header.position_mm, "E-NOIPP", "ImagePositionPatient"),
        (header.orientation, "E-NOIOP", "ImageOrientationPatient"),
        (spacing, "E-NOSPACING", "PixelSpacing"),
    ):
        if value is None:
            raise InputError(code, "missing", wanted="a value", mend=_RESEND, file=name, attribute=attribute)
    if spacing is not None and min(spacing) <= 0:
        found = f"{spacing} mm"
        raise InputError("E-BADSPACING", found, wanted="above 0", mend=_RESEND, file=name, attribute="PixelSpacing")
    axes = np.reshape(header.orientation or (), (2, 3))
    if np.abs(axes @ axes.T - np.eye(2)).max() > _TOLERANCE:
        wanted = f"two orthogonal unit vectors, to {_TOLERANCE:g}"
        raise InputError(
            "E-BADIOP", "wrong cosines", wanted=wanted, mend=_RESEND, file=name, attribute="ImageOrientationPatient"
        )
    if header.rescale is None and header.modality in ("CT", "PT"):
        mend = "Without it the values have no unit; " + _RESEND.lower()
        raise InputError("E-NORESCALE", "missing", wanted="a value", mend=mend, file=name, attribute="RescaleSlope")
    if header.rescale is not None and header.rescale[0] == 0:
        raise InputError("E-BADRESCALE", "0", wanted="not 0", mend=_RESEND, file=name, attribute="RescaleSlope")


def _normal(header: Header) -> NDArray[np.float64]:
    row, column = np.reshape(np.asarray(header.orientation, dtype=np.float64), (2, 3))
    return np.cross(row, column)


def _in_order(headers: Sequence[Header]) -> list[Header]:
    normal = _normal(headers[0])
    ordered = sorted(headers, key=lambda h: float(np.dot(normal, np.asarray(h.position_mm))))
    along = np.array([np.dot(normal, np.asarray(h.position_mm)) for h in ordered])
    steps = np.diff(along)
    if steps.min() < 1e-3:
        _refuse_double(ordered, along)
    _check_steps(ordered, steps)
    return ordered


def _refuse_double(ordered: Sequence[Header], along: NDArray[np.float64]) -> None:
    places = Counter(np.cumsum(np.diff(along, prepend=along[0]) >= 1e-3).tolist())
    first = int(np.argmax(np.diff(along) < 1e-3))
    times = set(places.values())
    if len(places) > 1 and len(times) == 1:
        differing = [n for n, _ in ordered[0].clock if len({dict(h.clock)[n] for h in ordered}) > 1]
        apart = differing[0] if differing else "no attribute"
        found = f"{times.pop()} images at each of {len(places)} positions, told apart by {apart}"
        raise InputError("E-4D", found, wanted="one volume", mend="Put each volume into a folder of its own.")
    names = f"{ordered[first].name} and {ordered[first + 1].name}"
    mend = "Keep one of the two, or separate the acquisitions."
    raise InputError("E-DUPPOS", f"{names} lie at the same position", mend=mend, attribute="ImagePositionPatient")


def _check_steps(ordered: Sequence[Header], steps: NDArray[np.float64]) -> None:
    """Refuse missing slices and uneven spacing along the normal."""
    base = float(steps.min())
    if steps.max() - base <= _STEP_TOLERANCE * base:
        return
    multiples = np.rint(steps / base)
    widest = int(np.argmax(steps))
    names = f"{ordered[widest].name} and {ordered[widest + 1].name}"
    whole = np.abs(steps - multiples * base).max() <= 2 * _STEP_TOLERANCE * base
    if whole:
        found = (
            f"missing slice between {names}: {steps[widest]:.4g} mm apart, {int((multiples - 1).sum())} missing in all"
        )
        raise InputError("E-GAP", found, wanted=f"{base:.4g} mm", mend=_RESEND, attribute="ImagePositionPatient")
    sizes = Counter(np.round(steps, 3).tolist()).most_common(4)
    found = "uneven slice spacing: " + ", ".join(f"{size:g} mm x{count}" for size, count in sizes)
    wanted = f"equal to {_STEP_TOLERANCE:.0%}"
    raise InputError("E-SPACING", f"{found}, widest between {names}", wanted=wanted, attribute="ImagePositionPatient")


def _geometry(ordered: Sequence[Header]) -> Geometry:
    """The RAS+ grid with axes (column index, row index, slice), Eq. C.7.6.2.1-1 of DICOM PS3.3 for the first two."""
    positions = np.array([h.position_mm for h in ordered], dtype=np.float64)
    first, count = ordered[0], len(ordered)
    step = (positions[-1] - positions[0]) / (count - 1)
    _refuse_tilt(step, _normal(first), file=first.name)
    drift = positions - (positions[0] + np.arange(count)[:, None] * step)
    if (worst := float(np.linalg.norm(drift, axis=1).max())) > _STEP_TOLERANCE * np.linalg.norm(step):
        name = ordered[int(np.argmax(np.linalg.norm(drift, axis=1)))].name
        raise InputError(
            "E-SPACING",
            f"a slice {worst:.4g} mm off the straight, regular stack",
            wanted=f"at most {_STEP_TOLERANCE:.0%} of {np.linalg.norm(step):.4g} mm",
            mend=_RESEND,
            file=name,
            attribute="ImagePositionPatient",
        )
    affine = np.eye(4)
    row, column = np.reshape(np.asarray(first.orientation), (2, 3))
    between_rows, between_columns = first.spacing_mm or (1.0, 1.0)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = row * between_columns, column * between_rows, step
    affine[:3, 3] = positions[0]
    return Geometry((first.shape[1], first.shape[0], count), LPS_TO_RAS @ affine)


def _refuse_tilt(step: NDArray[np.float64], normal: NDArray[np.float64], *, file: str) -> None:
    cosine = float(np.dot(step, normal) / np.linalg.norm(step))
    if np.sqrt(max(0.0, 1 - cosine**2)) > SHEAR_LIMIT:
        raise InputError(
            "E-TILT",
            f"slices step {np.degrees(np.arccos(cosine)):.2f} degrees away from their normal (gantry tilt or shear)",
            wanted="a step along the normal",
            mend="Resample the series to an orthogonal grid first.",
            file=file,
        )


def _notes(headers: Sequence[Header]) -> tuple[str, ...]:
    notes = []
    if not headers[0].frame_uid:
        notes.append("no frame of reference in the files; the slices are taken to share one")
    if headers[0].photometric == "MONOCHROME1":
        notes.append("MONOCHROME1: stored values kept, nothing inverted")
    return tuple(notes)
