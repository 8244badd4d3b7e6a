"""The look into a file or folder that `medidiff info` prints: headers only, nothing that identifies the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medidiff.errors import InputError
from medidiff.io.contents import Contents, SeriesSummary, Skipped
from medidiff.io.sidecar import labels
from medidiff.volume import Geometry

if TYPE_CHECKING:
    from medidiff.io.dicom_headers import Header

__all__ = ["summarise"]


def summarise(path: Path, format: str) -> Contents:
    """What `path` holds, given the format that its content was found to have."""
    if format == "dicom":
        return _dicom(path)
    try:
        return Contents(format, (_nifti(path) if format == "nifti" else _sitk(path, format),))
    except InputError as error:
        return Contents(format, (SeriesSummary(files=1, problem=str(error)),))


def _placed(summary: SeriesSummary, geometry: Geometry) -> SeriesSummary:
    return replace(
        summary,
        shape=geometry.shape,
        spacing_mm=geometry.spacing_mm,
        orientation=geometry.orientation,
        affine=tuple(tuple(float(v) for v in row) for row in geometry.affine),
    )


def _nifti(path: Path) -> SeriesSummary:
    from medidiff.io.nifti import read_header

    header = read_header(path)
    modality, units = labels(path)
    details = {
        "stored type": str(header.dtype.newbyteorder("=")),
        "slope, intercept": f"{header.slope:g}, {header.intercept:g}",
        "sform code": str(header.sform_code),
        "qform code": str(header.qform_code),
    }
    summary = SeriesSummary(
        files=1,
        modality=modality,
        units=units,
        dtype=str(header.data_type),
        details=tuple(details.items()),
        decisions=header.decisions,
    )
    return _placed(summary, header.geometry)


def _sitk(path: Path, format: str) -> SeriesSummary:
    from medidiff.io.sitk import read_geometry, source_files

    geometry, dtype = read_geometry(path)
    modality, units = labels(path)
    files = len(source_files(path))
    return _placed(SeriesSummary(files, modality, units, str(dtype)), geometry)


def _dicom(path: Path) -> Contents:
    from medidiff.io.dicom_headers import scan
    from medidiff.io.dicom_stack import group_by_series

    headers, skipped = scan(path)
    if not headers:
        found = f"no CT, MR or PT image among {len(skipped)} files"
        raise InputError(
            "E-NOIMAGES", found, wanted="a DICOM series", mend="Give the folder of the slices.", file=path.name
        )
    left_out: list[Skipped] = []
    series = tuple(_series(group, left_out) for group in group_by_series(headers))
    return Contents("dicom", series, (*skipped, *left_out))


def _series(headers: Sequence[Header], left_out: list[Skipped]) -> SeriesSummary:
    from medidiff.io.dicom_read import data_type, details_of, units
    from medidiff.io.dicom_stack import regular_stack

    first = headers[0]
    details = tuple(details_of(first).items())
    try:
        stack = regular_stack(headers)
    except InputError as error:
        return SeriesSummary(files=len(headers), modality=first.modality, details=details, problem=str(error))
    left_out += stack.skipped
    summary = SeriesSummary(
        files=len(stack.files),
        modality=first.modality,
        units=units(stack.slices[0]),
        dtype=str(data_type(stack.slices)),
        details=details,
        decisions=stack.decisions,
    )
    return _placed(summary, stack.geometry)
