"""The NRRD header by rule (http://teem.sourceforge.net/nrrd/format.html).

Three axes of space, in an anatomical frame: LPS, RAS or LAS. A fourth axis, first or last, makes several volumes if its
kind is a list or time; colours, complex numbers, vectors and tensors are refused. Raw or gzip; text, hexadecimal,
bzip2, skipped bytes and lists of files are refused. A measurement frame concerns vectors, so it is left out; so are
free text and key/value pairs.
"""

from __future__ import annotations

import math
import re

import numpy as np
from numpy.typing import NDArray

from medidiff.io.files.checks import REFETCH
from medidiff.io.text.header import (
    Stated,
    fields_of,
    floats,
    integers,
    positive,
    ras_affine,
    refuse,
    spatial_shape,
    stored_type,
)

__all__ = ["read_nrrd"]

_FRAMES = {
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
}
_WORDS = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_KINDS = {word: kind for kind, words in _WORDS.items() for word in words}
_SERIES = ("time", "list", "point", "stub", "none", "scalar", "???", "domain", "")
_ENDIAN = {"little": False, "big": True}
_MM = {"mm", "millimeter", "millimeters", "millimetre", "millimetres", "", "???"}


def read_nrrd(text: bytes, *, file: str) -> Stated:
    """What an NRRD header states.

    Args:
        text: the header up to its empty line.
        file: name for messages.

    Raises:
        InputError: it breaks a rule above.
    """
    fields = fields_of(text, mark=":", lower=True, file=file)
    sizes = integers(fields.get("sizes", ""), file=file, attribute="sizes")
    if integers(fields.get("dimension", ""), file=file, attribute="dimension") != (len(sizes),):
        found = f"{len(sizes)} sizes that are not as many as 'dimension' says"
        raise refuse("E-HEADER", found, file=file, attribute="dimension")
    vectors = _vectors(fields.get("space directions", ""), len(sizes), file=file)
    kinds = fields.get("kinds", "").lower().split() or [""] * len(sizes)
    series = _series_axis(sizes, vectors, kinds, file=file)
    space = [axis for axis in range(len(sizes)) if axis != series]
    shape = spatial_shape(tuple(sizes[axis] for axis in space), file=file, attribute="sizes")
    volumes = 1 if series is None else sizes[series]
    if volumes < 1:
        raise refuse("E-DIM", f"sizes {list(sizes)}", wanted="sizes of at least 1", file=file, attribute="sizes")
    _refuse_layout(fields, file=file)
    affine, missing = _affine(fields, [vectors[axis] for axis in space], file=file)
    spacing = _spacing(fields, vectors, space, file=file)
    big = _is_big(fields, file=file)
    notes = ("a measurement frame was left out",) if "measurement frame" in fields else ()
    return Stated(
        stored_type(fields.get("type", "").lower(), _KINDS, big=big, file=file, attribute="type"),
        shape,
        volumes,
        series == 0 and volumes > 1,
        affine,
        spacing,
        missing,
        fields.get("encoding", "").lower() != "raw",
        fields.get("data file") or fields.get("datafile") or "",
        notes,
    )


def _vectors(text: str, rank: int, *, file: str) -> list[tuple[float, ...] | None]:
    """The direction of each axis, None for one that is not of space or not stated."""
    words = re.findall(r"\([^()]*\)|none|\S+", text)
    if words and len(words) != rank:
        found = f"{len(words)} directions for {rank} axes"
        raise refuse("E-HEADER", found, file=file, attribute="space directions")
    vectors = [
        None if word.lower() == "none" else floats(word.strip("()"), file=file, attribute="space directions")
        for word in words
    ]
    if any(vector is not None and len(vector) != 3 for vector in vectors):
        found = "a direction that has not three numbers"
        raise refuse("E-HEADER", found, wanted="(x,y,z)", file=file, attribute="space directions")
    return vectors or [None] * rank


def _series_axis(
    sizes: tuple[int, ...], vectors: list[tuple[float, ...] | None], kinds: list[str], *, file: str
) -> int | None:
    """The axis that is not of space, None when there is none."""
    if len(kinds) != len(sizes):
        raise refuse("E-HEADER", f"{len(kinds)} kinds for {len(sizes)} axes", file=file, attribute="kinds")
    if len(sizes) <= 3:
        _refuse_kinds(kinds, sizes, file=file)
        if len(sizes) == 3 and any(vectors) and None in vectors:
            raise refuse("E-2D", "two axes of space", wanted="three", file=file, attribute="space directions")
        return None
    if len(sizes) > 4:
        mend = "Split it into files of one number a voxel."
        raise refuse("E-5D", f"{len(sizes)} axes", wanted="3 or 4", mend=mend, file=file, attribute="dimension")
    free = [axis for axis, vector in enumerate(vectors) if vector is None] if any(vectors) else []
    free = free or [axis for axis, kind in enumerate(kinds) if kind not in ("domain", "space", "")] or [3]
    if len(free) != 1 or free[0] not in (0, 3):
        found, wanted = "axes of which it is not clear which are of space", "one other axis, first or last"
        raise refuse("E-4D", found, wanted=wanted, mend="Split it into volumes.", file=file, attribute="kinds")
    if sizes[free[0]] > 1:
        _refuse_kinds([kinds[free[0]]], sizes, file=file)
    return free[0]


def _refuse_kinds(kinds: list[str], sizes: tuple[int, ...], *, file: str) -> None:
    for kind in kinds:
        if kind in _SERIES or kind == "space":
            continue
        code, word = "E-5D", "vectors or tensors"
        if "color" in kind:
            code, word = "E-COLOUR", "colours"
        elif kind == "complex":
            code, word = "E-COMPLEX", "complex numbers"
        mend = "Write it again with one number a voxel."
        found = f"{word} on a grid of {'x'.join(str(n) for n in sizes)}"
        raise refuse(code, found, wanted="one real number a voxel", mend=mend, file=file, attribute="kinds")


def _refuse_layout(fields: dict[str, str], *, file: str) -> None:
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        known = encoding if encoding in ("ascii", "text", "txt", "hex", "bzip2", "bz2") else "unknown"
        mend = "Write it again as raw or gzip."
        raise refuse(
            "E-FORMAT", f"voxels in {known} encoding", wanted="raw or gzip", mend=mend, file=file, attribute="encoding"
        )
    for name in ("line skip", "lineskip", "byte skip", "byteskip"):
        if fields.get(name, "0") != "0":
            mend = "Write it again without."
            raise refuse("E-FORMAT", "voxels behind a second header", mend=mend, file=file, attribute=name)
    units = re.findall(r'"([^"]*)"', fields.get("space units", ""))
    if any(unit.strip().lower() not in _MM for unit in units):
        mend = "Write it again in mm."
        raise refuse("E-UNITS", "lengths in another unit", wanted="mm", mend=mend, file=file, attribute="space units")


def _affine(
    fields: dict[str, str], vectors: list[tuple[float, ...] | None], *, file: str
) -> tuple[NDArray[np.float64] | None, str]:
    """The affine, or what is missing for it."""
    missing = [name for name in ("space directions", "space origin") if name not in fields]
    frame = _FRAMES.get(fields.get("space", "").lower(), ())
    if not frame:
        missing = ["an anatomical space", *missing]
    if missing or any(vector is None for vector in vectors):
        return None, " and ".join(missing or ["space directions"])
    origin = floats(fields["space origin"].strip("()"), file=file, attribute="space origin")
    if len(origin) != 3:
        raise refuse("E-HEADER", f"{len(origin)} numbers", wanted="(x,y,z)", file=file, attribute="space origin")
    return ras_affine(np.array(vectors, dtype=np.float64).T, origin, frame=frame), ""


def _spacing(
    fields: dict[str, str], vectors: list[tuple[float, ...] | None], space: list[int], *, file: str
) -> tuple[float, ...]:
    """Voxel sizes, from the directions or from the spacings; empty when neither is stated."""
    stated = [vectors[axis] for axis in space]
    if all(vector is not None for vector in stated):
        lengths = (math.hypot(*vector) for vector in stated if vector is not None)  # silent where it overflows
        return positive(tuple(lengths), file=file, attribute="space directions")
    if "spacings" not in fields:
        return ()
    spacings = floats(fields["spacings"], file=file, attribute="spacings")
    if len(spacings) != len(vectors):
        raise refuse("E-HEADER", f"{len(spacings)} spacings for {len(vectors)} axes", file=file, attribute="spacings")
    return positive(tuple(spacings[axis] for axis in space), file=file, attribute="spacings")


def _is_big(fields: dict[str, str], *, file: str) -> bool:
    order = fields.get("endian", "").lower()
    if order not in _ENDIAN and fields.get("type", "").lower() not in (*_WORDS["i1"], *_WORDS["u1"]):
        mend = "Write it again with its byte order." if not order else REFETCH
        raise refuse("E-HEADER", "no byte order", wanted="little or big", mend=mend, file=file, attribute="endian")
    return _ENDIAN.get(order, False)
