"""DICOM series whose voxels are a ramp over the patient, with the freedom to break anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import dicom_cases
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from badinputs.case import WEIGHTS, Truth
from medidiff.volume import Geometry

LPS = np.diag((-1.0, -1.0, 1.0, 1.0))
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
SAGITTAL = ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
_TILTED = np.linalg.qr(np.array([[0.9, 0.1, 0.3], [0.2, 0.3, -0.9], [-0.3, 0.9, 0.2]]))[0]
OBLIQUE = (tuple(_TILTED[:, 0].tolist()), tuple(_TILTED[:, 1].tolist()))
BIAS = {"CT": -500.0, "MR": 0.0, "PT": 0.0}

Edit = Callable[[Dataset, int], object]


@dataclass(frozen=True, slots=True)
class Plan:
    """A series before anything is broken.

    Args:
        modality: ``"CT"``, ``"MR"`` or ``"PT"``.
        axes: direction of a row and of a column, LPS.
        shape: columns, rows, slices.
        spacing: mm between columns, rows, slices.
        places: where each slice lies along the normal, in steps; 0, 1, 2, ... when empty.
        drift: mm along the row and the column that each step moves in plane.
        origin: first voxel, LPS.
        bias: what is added to the ramp.
    """

    modality: str = "CT"
    axes: tuple = AXIAL
    shape: tuple[int, int, int] = (9, 8, 6)
    spacing: tuple[float, float, float] = (0.7, 0.9, 3.2)
    places: tuple[float, ...] = ()
    drift: tuple[float, float] = (0.0, 0.0)
    origin: tuple[float, float, float] = (-61.3, 17.7, -204.9)
    bias: float | None = None

    @property
    def grid(self) -> Geometry:
        """The RAS+ grid of the ramp, whatever happens to the slices."""
        row, column = np.array(self.axes[0]), np.array(self.axes[1])
        affine = np.eye(4)
        affine[:3, :3] = np.stack([row, column, np.cross(row, column)], axis=1) * self.spacing
        affine[:3, 3] = self.origin
        return Geometry(self.shape, LPS @ affine)

    @property
    def steps(self) -> tuple[float, ...]:
        """Where each slice lies, in steps."""
        return self.places or tuple(range(self.shape[2]))

    @property
    def shift(self) -> float:
        """What is added to the ramp."""
        return BIAS[self.modality] if self.bias is None else self.bias

    def truth(self, **changes: object) -> Truth:
        """What a reader must find."""
        return replace(Truth(self.grid, bias=self.shift, size=(*self.shape[:2], len(self.steps))), **changes)

    def index(self, step: float) -> tuple[float, float, float]:
        """Voxel of the ramp's grid where the slice at a step begins."""
        return step * self.drift[0] / self.spacing[0], step * self.drift[1] / self.spacing[1], step

    def values(self, step: float) -> np.ndarray:
        """(rows, columns) right values of the slice at a step."""
        i, j = np.meshgrid(range(self.shape[0]), range(self.shape[1]))
        first = np.array(self.index(step)) @ WEIGHTS
        return first + i * WEIGHTS[0] + j * WEIGHTS[1] + self.shift


def slices(plan: Plan, *, uids: dict | None = None) -> list[Dataset]:
    """The images of a series, complete and right."""
    uids = uids or {"study": generate_uid(), "series": generate_uid(), "frame": generate_uid()}
    return [_slice(plan, k, uids) for k in range(len(plan.steps))]


def _slice(plan: Plan, k: int, uids: dict) -> Dataset:
    step = plan.steps[k]
    ds = dicom_cases.image(0, modality=plan.modality, uids=uids)
    ds.Rows, ds.Columns, ds.InstanceNumber = plan.shape[1], plan.shape[0], str(k + 1)
    place = (LPS[:3, :3] @ plan.grid.world(plan.index(step))).tolist()
    ds.ImagePositionPatient = [f"{v:.10g}" for v in place]
    ds.ImageOrientationPatient = [f"{v:.12f}" for v in (*plan.axes[0], *plan.axes[1])]
    ds.PixelSpacing = [f"{plan.spacing[1]:.10g}", f"{plan.spacing[0]:.10g}"]
    ds.SliceThickness = f"{plan.spacing[2]:.10g}"
    if plan.modality == "CT":
        ds.RescaleIntercept = "-1024"
    elif plan.modality == "PT":
        ds.Units, ds.RescaleIntercept = "BQML", "0"
        del ds.RescaleType
    put(ds, plan.values(step))
    return ds


def put(ds: Dataset, real: np.ndarray) -> None:
    """Store real values under the image's own slope and intercept, which must exist for CT and PET."""
    slope, intercept = float(ds.get("RescaleSlope", 1)), float(ds.get("RescaleIntercept", 0))
    dicom_cases.set_pixels(ds, np.rint((real - intercept) / slope))


def real(ds: Dataset) -> np.ndarray:
    """Real values of an image as it was made."""
    return dicom_cases.pixels(ds) * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))


def write(
    folder: Path, images: Sequence[Dataset], *, edit: Edit | None = None, syntax: str = ExplicitVRLittleEndian
) -> Path:
    """Write images as ``S000.dcm``, ...; `edit(image, k)` changes one, and leaves it out by returning False."""
    for k, ds in enumerate(images):
        if edit is None or edit(ds, k) is not False:
            dicom_cases.save(ds, folder / f"S{k:03d}.dcm", syntax=syntax)
    return folder


def made(plan: Plan | None = None, edit: Edit | None = None, **how: object) -> Callable[[Path], Path]:
    """A case's `make`: this series, edited."""
    return lambda folder: write(folder, slices(plan or Plan()), edit=edit, **how)


def setting(where: int | None = None, **values: object) -> Edit:
    """An edit that sets attributes of all images, or of one."""

    def edit(ds: Dataset, k: int) -> None:
        if where in (None, k):
            for name, value in values.items():
                setattr(ds, name, value() if callable(value) else value)

    return edit


def dropping(*names: str, where: int | None = None) -> Edit:
    """An edit that removes attributes of all images, or of one."""

    def edit(ds: Dataset, k: int) -> None:
        if where in (None, k):
            for name in names:
                delattr(ds, name)

    return edit


def moving(offset: Sequence[float], where: int) -> Edit:
    """An edit that gives one image another place, in LPS mm, without changing its pixels."""

    def edit(ds: Dataset, k: int) -> None:
        if k == where:
            place = np.asarray(ds.ImagePositionPatient, float) + offset
            ds.ImagePositionPatient = [f"{v:.10g}" for v in place]

    return edit


def both(*edits: Edit) -> Edit:
    """Several edits, one after the other; one that leaves the image out wins."""

    def edit(ds: Dataset, k: int) -> object:
        return False if False in [one(ds, k) for one in edits] else None

    return edit


def without(*missing: int) -> Edit:
    """An edit that leaves images out."""
    return lambda ds, k: k not in missing


def patched(make: Callable[[Path], Path], name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    """A case's `make` whose file `name` gets other bytes."""

    def remake(folder: Path) -> Path:
        path = make(folder)
        file = path if path.is_file() else path / name
        file.write_bytes(change(file.read_bytes()))
        return path

    return remake
