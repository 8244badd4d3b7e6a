"""What the text headers of NRRD and MetaImage have in common: fields, numbers, and what they must state."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.io.files.checks import REFETCH, refuse_thin

__all__ = [
    "HEADER_LIMIT",
    "Stated",
    "fields_of",
    "floats",
    "integers",
    "positive",
    "ras_affine",
    "refuse",
    "spatial_shape",
    "stored_type",
]

HEADER_LIMIT = 2**20  # bytes of text before the voxels; tags carried along make some kilobytes
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?|[-+]?(nan|inf)", re.IGNORECASE)
_SIDE_LIMIT = 2**31


@dataclass(frozen=True, slots=True)
class Stated:
    """What a text header states, checked.

    Args:
        dtype: stored type with its byte order.
        shape: voxels of one volume along each axis.
        volumes: how many volumes there are.
        alternating: whether the volumes' voxels alternate instead of following each other.
        affine: (4, 4) voxel index to RAS+ mm; None when the header does not say it all.
        spacing_mm: voxel sizes; empty when the header does not say them.
        missing: what is not stated of the affine.
        packed: whether the voxels are compressed.
        data_file: name of the file of the voxels; empty when they follow the header.
        notes: what was decided.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, int, int]
    volumes: int
    alternating: bool
    affine: NDArray[np.float64] | None
    spacing_mm: tuple[float, ...]
    missing: str
    packed: bool
    data_file: str
    notes: tuple[str, ...] = ()


def refuse(
    code: str, found: str, *, wanted: str = "", mend: str = REFETCH, file: str, attribute: str = ""
) -> InputError:
    """An `InputError` about a header field, to be raised."""
    return InputError(code, found, wanted=wanted, mend=mend, file=file, attribute=attribute)


def fields_of(text: bytes, *, mark: str, lower: bool, file: str) -> dict[str, str]:
    """The fields of a text header, one a line.

    Args:
        text: the header.
        mark: what separates a field from its value.
        lower: whether field names are the same in any case.
        file: name for messages.

    Raises:
        InputError: ``E-HEADER``, a field is stated twice, differently.
    """
    fields: dict[str, str] = {}
    for line in text.decode("latin-1").splitlines():
        key, found, value = line.partition(mark)
        key, value = key.strip().lower() if lower else key.strip(), value.strip()
        if not found or line.startswith("#") or (mark == ":" and value.startswith("=")):
            continue  # a comment, or a key of NRRD's free text, which may name the patient
        if fields.setdefault(key, value) != value:
            raise refuse("E-HEADER", "one field is stated twice, differently", wanted="each once", file=file)
    return fields


def floats(text: str, *, file: str, attribute: str) -> tuple[float, ...]:
    """Numbers between blanks or commas.

    Raises:
        InputError: ``E-HEADER``, something is no number.
    """
    words = text.replace(",", " ").split()
    if len(words) > 64 or not all(_NUMBER.fullmatch(word) for word in words):
        raise refuse("E-HEADER", "a value that is no list of numbers", wanted="numbers", file=file, attribute=attribute)
    return tuple(float(word) for word in words)


def integers(text: str, *, file: str, attribute: str) -> tuple[int, ...]:
    """Whole numbers between blanks.

    Raises:
        InputError: ``E-HEADER``, something is no whole number.
    """
    words = text.split()
    if len(words) > 16 or not all(re.fullmatch(r"[-+]?\d{1,18}", word) for word in words):
        found = "a value that is no list of whole numbers"
        raise refuse("E-HEADER", found, wanted="whole numbers", file=file, attribute=attribute)
    return tuple(int(word) for word in words)


def stored_type(name: str, kinds: Mapping[str, str], *, big: bool, file: str, attribute: str) -> np.dtype[Any]:
    """The type of a word, with its byte order.

    Raises:
        InputError: ``E-DTYPE``, not a type of real numbers that is read.
    """
    if name not in kinds:
        wanted, mend = "integers or floats of known size", "Write it again as integers or floats of up to 64 bits."
        raise refuse("E-DTYPE", "voxels of another type", wanted=wanted, mend=mend, file=file, attribute=attribute)
    return np.dtype(kinds[name]).newbyteorder(">" if big else "<")


def spatial_shape(sizes: tuple[int, ...], *, file: str, attribute: str) -> tuple[int, int, int]:
    """Three sizes of a volume.

    Raises:
        InputError: a size is no size, or there is only one slice.
    """
    if not sizes or min(sizes) < 1 or max(sizes) > _SIDE_LIMIT:
        raise refuse("E-DIM", f"sizes {list(sizes)}", wanted="sizes of at least 1", file=file, attribute=attribute)
    shape = (*sizes, 1, 1)[: max(3, len(sizes))]
    refuse_thin(shape, file=file)
    return shape[0], shape[1], shape[2]


def positive(sizes: tuple[float, ...], *, file: str, attribute: str) -> tuple[float, ...]:
    """Voxel sizes, checked.

    Raises:
        InputError: ``E-BADSPACING``, one is not above 0.
    """
    if not all(math.isfinite(size) and size > 0 for size in sizes):
        found = f"voxel sizes {' x '.join(f'{size:g}' for size in sizes)}"
        mend = "Write the file again with its voxel sizes."
        raise refuse("E-BADSPACING", found, wanted="above 0", mend=mend, file=file, attribute=attribute)
    return sizes


def ras_affine(linear: NDArray[np.float64], origin: Sequence[float], *, frame: Sequence[float]) -> NDArray[np.float64]:
    """The affine of stated directions, without arithmetic that infinite numbers would upset.

    Args:
        linear: (3, 3), the step of each voxel axis in mm, as columns.
        origin: of the first voxel, in mm.
        frame: 1 or -1 for each row, what makes RAS+ of the stated frame.
    """
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, origin
    affine[:3] *= np.reshape(frame, (3, 1))
    return affine
