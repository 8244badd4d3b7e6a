"""A second generator of DICOM series: values are a linear function of the place in the patient, on any grid."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import dicom_cases
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from medidiff.volume import Geometry, Volume

WEIGHTS, CONSTANT = np.array([3.0, 5.0, -7.0]), 11.0  # a mm in LPS, and at the origin


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the slices lie.

    Args:
        turn: (3, 3) directions of a row, of a column, and across, in LPS.
        shape: columns, rows, slices.
        spacing: mm between columns, rows, slices.
        origin: first voxel in LPS.
        slope: of the stored values.
        bits: stored, of 16; and whether they are signed.
        modality: kind of image.
        decimals: of the positions.
    """

    turn: np.ndarray = field(default_factory=lambda: np.eye(3))
    shape: tuple[int, int, int] = (9, 6, 7)
    spacing: tuple[float, float, float] = (0.7, 1.3, 2.1)
    origin: tuple[float, float, float] = (3.3, -8.1, 12.9)
    slope: float = 0.02
    signed: bool = False
    modality: str = "MR"
    decimals: int = 8


def turned(seed: int) -> np.ndarray:
    """A rotation, one of all."""
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    turn[:, 2] = np.cross(turn[:, 0], turn[:, 1])
    return turn


def images(grid: Grid, *, places: Sequence[float] = (), plus: float = 0.0) -> list[Dataset]:
    """The images of a series.

    Args:
        grid: where they lie.
        places: of the slices, in steps; whole numbers from 0 when empty.
        plus: added to the ramp, to tell volumes from each other.
    """
    uids = {"study": generate_uid(), "series": generate_uid(), "frame": generate_uid()}
    made = []
    for number, step in enumerate(places or range(grid.shape[2])):
        ds = dicom_cases.image(0, modality=grid.modality, uids=uids)
        ds.InstanceNumber, ds.Rows, ds.Columns = str(number + 1), grid.shape[1], grid.shape[0]
        ds.PixelRepresentation = int(grid.signed)
        ds["SmallestImagePixelValue"].VR = "SS" if grid.signed else "US"
        place(ds, grid, np.asarray(grid.origin) + grid.turn[:, 2] * step * grid.spacing[2], plus=plus)
        made.append(ds)
    return made


def place(ds: Dataset, grid: Grid, first: np.ndarray, *, plus: float = 0.0, slope: float = 0.0) -> None:
    """Put an image where its first voxel is to lie, with the values of that place."""
    slope = slope or grid.slope
    ds.ImagePositionPatient = [f"{v:.{grid.decimals}f}" for v in first]
    ds.ImageOrientationPatient = [f"{v:.10f}" for v in grid.turn[:, :2].T.ravel()]
    ds.PixelSpacing = [f"{grid.spacing[1]:.10g}", f"{grid.spacing[0]:.10g}"]
    i, j = np.meshgrid(range(ds.Columns), range(ds.Rows))
    steps = grid.turn[:, :2] * grid.spacing[:2]
    values = WEIGHTS @ first + (WEIGHTS @ steps)[0] * i + (WEIGHTS @ steps)[1] * j + CONSTANT + plus
    middle = round(float(values.mean())) if grid.signed else round(float(values.min())) - 5
    ds.RescaleSlope, ds.RescaleIntercept = f"{slope:g}", f"{middle}"
    if grid.modality == "PT":
        ds.Units = "BQML"
        ds.pop("RescaleType", None)
    dicom_cases.set_pixels(ds, np.rint((values - middle) / slope))


def error(volume: Volume, *, plus: float = 0.0) -> float:
    """Largest difference between a volume and the ramp, at the places that the volume says its voxels have."""
    places = volume.geometry.world(np.moveaxis(np.indices(volume.shape), 0, -1))
    return float(np.abs(volume.data[0] - places @ (WEIGHTS * (-1, -1, 1)) - CONSTANT - plus).max())


def truth(grid: Grid) -> Geometry:
    """The grid in RAS."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = grid.turn * grid.spacing, grid.origin
    return Geometry(grid.shape, np.diag((-1, -1, 1, 1)) @ affine)


def joined(*series: Sequence[Dataset]) -> list[Dataset]:
    """Images of several series as one series."""
    made = [deepcopy(ds) for one in series for ds in one]
    for number, ds in enumerate(made):
        ds.SeriesInstanceUID, ds.FrameOfReferenceUID = made[0].SeriesInstanceUID, made[0].FrameOfReferenceUID
        ds.InstanceNumber, ds.SOPInstanceUID = str(number + 1), generate_uid()
    return made


def saved(folder: Path, made: Sequence[Dataset], *, order: Sequence[int] = (), **how: str) -> Path:
    """Write images under names in the order given."""
    for name, number in enumerate(order or range(len(made))):
        dicom_cases.save(made[number], folder / f"{name:04d}", **how)
    return folder
