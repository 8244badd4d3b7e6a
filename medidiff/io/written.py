"""What NIfTI, NRRD and MetaImage share on the way out: the type of the voxels, the places, the mask, the record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import OutputError
from medidiff.io.files.atomic import make_folder, output_errors, refuse_source
from medidiff.io.files.checks import refuse_nonfinite, refuse_thin
from medidiff.io.own import refuse_foreign
from medidiff.io.sidecar import holds_mask, record_path, refuse_foreign_record, write_record
from medidiff.volume import Provenance, Volume

__all__ = ["Output", "prepared", "stored_voxels"]

_FLOAT_LOSS = 1e-6  # relative; a larger error in float32 makes the file float64


@dataclass(frozen=True, slots=True)
class Output:
    """The files of one written scan.

    Args:
        path: the scan.
        like: its source, which is never written over.
    """

    path: Path
    like: Path | None = None

    @property
    def mask(self) -> Path:
        """Where the mask of the filled voxels goes: ``scan.nii.gz`` has ``scan_filled.nii.gz``."""
        stem = self.record.stem
        return self.path.with_name(f"{stem}_filled{self.path.name[len(stem) :]}")

    @property
    def record(self) -> Path:
        """Where the JSON record goes."""
        return record_path(self.path)

    def recorded(self, volume: Volume, *, provenance: Provenance, description: str) -> list[Path]:
        """Write the record, which makes the scan complete.

        Returns:
            All files that were written, the record last.
        """
        if volume.filled is None and holds_mask(self.record):  # of an earlier run; beside this scan it would lie
            self.mask.unlink(missing_ok=True)
        write_record(self.record, volume, provenance=provenance, description=description)
        return [self.path, *([] if volume.filled is None else [self.mask]), self.record]


def prepared(output: Output, volume: Volume) -> None:
    """Refuse what would go wrong at the end, and make the folder.

    Raises:
        OutputError: a source or a foreign file stands in the way, or the folder cannot be made.
    """
    places = [output.path, output.record, *([] if volume.filled is None else [output.mask])]
    for place in places:
        refuse_source(place, [] if output.like is None else [output.like])
    with output_errors(output.path.name):
        refuse_foreign(output.path)
    refuse_foreign_record(output.record)
    if volume.filled is not None and output.mask.exists() and not holds_mask(output.record):
        mend = "Choose another output name or folder."
        found = "a file that medidiff did not write stands where the mask of filled voxels would go"
        raise OutputError("E-OVERWRITE", found, mend=mend, file=output.mask.name)
    make_folder(output.path.parent)


def stored_voxels(volume: Volume, *, file: str) -> NDArray[Any]:
    """(I, J, K) voxels in the type that is written: integers as they are, floats as float32 where that is enough.

    Raises:
        OutputError: several channels, a single slice, NaN, or integers that no reader gives back exactly.
    """
    if volume.data.shape[0] != 1:
        mend = "Write each apart."
        raise OutputError("E-4D", f"{volume.data.shape[0]} channels", wanted="one", mend=mend, file=file)
    refuse_thin(volume.shape, file=file, error=OutputError)
    refuse_nonfinite(volume.data, file=file, error=OutputError)
    data: NDArray[Any] = volume.data[0]
    if data.dtype.kind == "b":
        return data.astype(np.uint8)
    if data.dtype.kind in "iu":
        if data.dtype.itemsize == 8 and max(int(data.max()), -int(data.min())) > 2**53:
            found, wanted = "integers beyond 2^53", "values that a float can hold"
            raise OutputError("E-RANGE", found, wanted=wanted, mend="Write floats.", file=file)
        return data
    if data.dtype.itemsize <= 4:
        return data.astype(np.float32, copy=False)
    return data.astype(np.float32 if _is_enough(data) else np.float64, copy=False)


def _is_enough(data: NDArray[Any]) -> bool:
    """Whether float32 keeps every value to 1e-6 of itself."""
    with np.errstate(over="ignore", invalid="ignore"):
        for plane in data.T:
            rounded = plane.astype(np.float32).astype(data.dtype)
            if not (np.abs(rounded - plane) <= _FLOAT_LOSS * np.abs(plane)).all():
                return False
    return True
