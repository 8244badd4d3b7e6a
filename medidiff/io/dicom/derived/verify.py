"""A written series is read again, image by image, and compared with what was meant, before anybody can see it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array

from medidiff.errors import InputError, OutputError
from medidiff.io.dicom.derived.plan import Plan
from medidiff.io.dicom.headers.header import quietly, read_dataset
from medidiff.io.dicom.read import find_dicom
from medidiff.io.dicom.series.stack import LPS_TO_RAS
from medidiff.io.files.walk import gather
from medidiff.io.options import ReadOptions
from medidiff.volume import Geometry

__all__ = ["verify_geometry", "verify_series"]

_MM = 1e-6
_FLOAT32 = float(np.finfo(np.float32).eps)


def verify_series(files: list[Path], plan: Plan, *, name: str) -> None:
    """Compare a staged series with its plan; never more than one image in memory.

    Args:
        files: its images in order.
        plan: what they should hold.
        name: of the output folder, for the message.

    Raises:
        OutputError: ``E-VERIFY``.
    """
    for k, file in enumerate(files):
        with quietly():
            image = read_dataset(file, pixels=True)
            _verify_pixels(image, plan, k, name=name)
            _verify_place(image, plan.geometry, k, name=name)
    verify_geometry(files[0].parent, plan.geometry, name=name)


def verify_geometry(folder: Path, geometry: Geometry, *, name: str) -> None:
    """Whether the reader finds one scan in a folder, on the grid that was meant.

    Raises:
        OutputError: ``E-VERIFY``.
    """
    scans = find_dicom(gather(folder).files, ReadOptions(on_tilt="shear")).scans
    if len(scans) != 1 or not scans[0].summary.affine:
        refusal = "".join(scan.summary.problem.split(":")[0] for scan in scans[:1])
        raise _differs(f"{len(scans)} scans{', refused as ' + refusal if refusal else ''}", name)
    try:
        again = Geometry(_three(scans[0].summary.shape), np.array(scans[0].summary.affine))
    except InputError as error:
        raise _differs("no grid", name) from error
    apart = again.distance_mm(geometry)
    if not apart <= 10 * _MM:
        raise _differs(f"a grid that lies {apart:.3g} mm off", name)


def _three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    return shape[0], shape[1], shape[2]


def _verify_pixels(image: Dataset, plan: Plan, k: int, *, name: str) -> None:
    stored, values = plan.stored(k), plan.values(k).astype(np.float64)
    pixels = pixel_array(image, raw=True).T
    slope, intercept = float(image.get("RescaleSlope", 1)), float(image.get("RescaleIntercept", 0))
    limit = stored.scale.error + _FLOAT32 * np.abs(values) + 1e-9 * abs(slope)
    if stored.moved is not None:
        limit = limit + stored.moved * abs(slope) * (max(stored.padding) - min(stored.padding) + 2)
    apart = np.abs(pixels.astype(np.float64) * slope + intercept - values)
    if not (apart <= limit).all():
        raise _differs(f"image {k + 1}, {float(apart.max()):.3g} from what was meant", name)
    if tuple(image[word].value for word in _padding_words(image)) != stored.padding:
        raise _differs(f"image {k + 1}, another padding value", name)


def _padding_words(image: Dataset) -> list[str]:
    return [word for word in ("PixelPaddingValue", "PixelPaddingRangeLimit") if word in image]


def _verify_place(image: Dataset, geometry: Geometry, k: int, *, name: str) -> None:
    """The corners of one image, by Eq. C.7.6.2.1-1 of DICOM PS3.3, against the grid."""
    row, column = np.reshape(np.array(image.ImageOrientationPatient, dtype=np.float64), (2, 3))
    down, across = (float(value) for value in image.PixelSpacing)
    position = np.array(image.ImagePositionPatient, dtype=np.float64)
    last = (image.Columns - 1, image.Rows - 1)
    for i, j in ((0, 0), (last[0], 0), (0, last[1]), last):
        found = position + row * across * i + column * down * j
        apart = np.abs(LPS_TO_RAS[:3, :3] @ found - geometry.world((i, j, k))).max()
        if not apart <= _MM:
            raise _differs(f"image {k + 1}, which lies {apart:.3g} mm off", name)


def _differs(found: str, name: str) -> OutputError:
    mend = "Check the disk and run the command again."
    return OutputError("E-VERIFY", f"what was read back differs: {found}", mend=mend, file=name)
