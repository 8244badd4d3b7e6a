"""NIfTI: type, values, scale and grid."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

from badinputs.case import WEIGHTS, Case, Truth
from medidiff.io import ReadOptions
from medidiff.volume import Geometry

SHAPE, SPACING = (8, 9, 7), (1.4, 0.6, 2.3)
_TURN = np.linalg.qr(np.array([[0.8, -0.3, 0.2], [0.2, 0.9, -0.2], [-0.1, 0.4, 1.0]]))[0]


def grid(turn: np.ndarray = _TURN, *, origin=(12.25, -61.5, 33.125), shape=SHAPE, spacing=SPACING) -> Geometry:
    """The grid of the ramp."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * spacing, origin
    return Geometry(shape, affine)


def ramp(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """The ramp as stored voxels."""
    return np.moveaxis(np.indices(shape), 0, -1) @ WEIGHTS


def truth(geometry: Geometry | None = None, **changes: object) -> Truth:
    """What a reader must find."""
    return Truth(geometry or grid(), **{"within": 0.02, **changes})


def image(
    *,
    data: np.ndarray | None = None,
    geometry: Geometry | None = None,
    codes: tuple[int, int] = (1, 1),
    kind: type = nib.Nifti1Image,
    order: str = "<",
    edit: dict | None = None,
    extension: bytes = b"",
) -> bytes:
    """The bytes of a NIfTI file written by nibabel, with fields of its header changed afterwards."""
    geometry, data = geometry or grid(), ramp().astype(np.int16) if data is None else data
    made = kind(data, geometry.affine, header=kind.header_class(endianness=order), dtype=data.dtype)
    made.set_sform(geometry.affine, code=codes[0])
    made.set_qform(geometry.affine, code=codes[1], strip_shears=True)
    made.header.set_xyzt_units("mm")
    if extension:
        made.header.extensions.append(nib.nifti1.Nifti1Extension("comment", extension))
    content = bytearray(made.to_bytes())
    if edit:
        size = made.header_class.sizeof_hdr
        header = made.header_class(bytes(content[:size]), endianness=order, check=False)
        for name, value in edit.items():
            header[name] = value
        content[:size] = header.binaryblock
    return bytes(content)


def file(
    name: str = "scan.nii", *, change: Callable[[bytes], bytes] | None = None, **how: object
) -> Callable[[Path], Path]:
    """A case's `make`: one NIfTI file, gzip by its name."""

    def make(folder: Path) -> Path:
        content = image(**how)
        content = gzip.compress(content) if name.endswith(".gz") else content
        path = folder / name
        path.write_bytes(change(content) if change else content)
        return path

    return make


def _spoilt(value: float) -> np.ndarray:
    data = ramp().astype(np.float32)
    data[3, 2, 1] = data[5, 5, 5] = value
    return data


def _field(**values: object) -> Callable[[Path], Path]:
    return file(edit=values)


SHEARED = np.array([[1, 0.25, 0], [0, 1, 0], [0, 0, 1]], float)
SCALED = (ramp() / 0.5 - 4).astype(np.int16)  # real = 0.5 * stored + 2
FILL = ReadOptions(on_nan="fill")
FAR = grid(np.eye(3), origin=(1e7, 1e7, 1e7), spacing=(1.0, 1.0, 2.0))
LEFT = grid(_TURN * (-1, 1, 1))
UPRIGHT = grid(np.eye(3), origin=tuple(-(np.array(SHAPE) - 1) / 2 * SPACING))
FOUR = np.stack([ramp(), ramp() + 4000], axis=-1).astype(np.int16)


CASES = (
    Case("good", file(), (truth(),)),
    Case("good, gzip", file("scan.nii.gz"), (truth(),)),
    Case("left-handed", file(geometry=LEFT), (truth(LEFT),)),
    Case("axes along the world", file(geometry=UPRIGHT), (truth(UPRIGHT),)),
    Case("origin at 10 million mm", file(geometry=FAR, kind=nib.Nifti2Image), (truth(FAR),)),
    *(
        Case(f"stored as {kind}", file(data=ramp().astype(kind)), (truth(),))
        for kind in ("i2", "u2", "i4", "u4", "f4", "f8", "i8")
    ),
    Case("big endian", file(order=">"), (truth(),)),
    Case("NIfTI-2", file(kind=nib.Nifti2Image), (truth(),)),
    Case("NIfTI-2, big endian, gzip", file("scan.nii.gz", kind=nib.Nifti2Image, order=">"), (truth(),)),
    Case("scaled", file(data=SCALED, edit={"scl_slope": 0.5, "scl_inter": 2.0}), (truth(),)),
    Case(
        "negative slope", file(data=(-SCALED).astype(np.int16), edit={"scl_slope": -0.5, "scl_inter": 2.0}), (truth(),)
    ),
    Case("slope 0", file(edit={"scl_slope": 0.0, "scl_inter": 9.0}), (truth(),)),
    Case(
        "slope NaN, intercept 5",
        _field(scl_slope=np.nan, scl_inter=5.0),
        (),
        "E-BADSCALE",
        says=("scl_slope", "scan.nii"),
    ),
    Case("slope NaN, intercept NaN", _field(scl_slope=np.nan, scl_inter=np.nan), (), "E-BADSCALE"),
    Case("intercept infinite", _field(scl_slope=1.0, scl_inter=np.inf), (), "E-BADSCALE"),
    Case("slope that overflows", _field(scl_slope=3e38), (), "E-NONFINITE|E-RANGE|E-BADSCALE"),
    Case(
        "NaN voxels", file(data=_spoilt(np.nan)), (), "E-NONFINITE", says=("2 of 504 voxels", "(3, 2, 1)", "--on-nan")
    ),
    Case("infinite voxels", file(data=_spoilt(-np.inf)), (), "E-NONFINITE", says=("2 of 504 voxels",)),
    Case("complex", file(data=ramp().astype(np.complex64)), (), "E-COMPLEX"),
    Case("colour", _field(datatype=128, bitpix=24), (), "E-COLOUR"),
    Case("unknown type", _field(datatype=4096), (), "E-DTYPE"),
    Case("binary type", _field(datatype=1, bitpix=1), (), "E-DTYPE"),
    Case("bitpix that lies", _field(bitpix=8), (truth(),)),
    Case("uint64 beyond 2^53", file(data=np.full(SHAPE, 2**61, np.uint64)), (), "E-RANGE"),
    Case("single slice", _field(dim=[3, 8, 9, 1, 1, 1, 1, 1]), (), "E-2D"),
    Case("one voxel", _field(dim=[3, 1, 1, 1, 1, 1, 1, 1]), (), "E-TINY"),
    Case("dimension 0", _field(dim=[3, 8, 0, 7, 1, 1, 1, 1]), (), "E-DIM", says=("dim",)),
    Case("dimension negative", _field(dim=[3, 8, 9, -7, 1, 1, 1, 1]), (), "E-DIM"),
    Case("rank 0", _field(dim=[0, 8, 9, 7, 1, 1, 1, 1]), (), "E-DIM|E-HEADER"),
    Case("rank 9", _field(dim=[9, 8, 9, 7, 1, 1, 1, 1]), (), "E-DIM|E-HEADER"),
    Case(
        "one time",
        file(data=ramp().astype(np.int16)[..., None], edit={"pixdim": [1, *SPACING, 0, 0, 0, 0]}),
        (truth(),),
    ),
    Case("two times", file(data=FOUR, edit={"pixdim": [1, *SPACING, 0, 0, 0, 0]}), (truth(), truth(bias=4000))),
    Case("vectors", file(data=np.zeros((4, 5, 6, 1, 3), np.int16)), (), "E-5D"),
    Case("pixdim 0", _field(pixdim=[1, 0, 0, 0, 0, 0, 0, 0], sform_code=0, qform_code=0), (), "E-BADSPACING|E-NOXFORM"),
    Case("pixdim 0, sform good", _field(pixdim=[1, 0, 0, 0, 0, 0, 0, 0], qform_code=0), (), "E-BADSPACING|E-XFORM"),
    Case("pixdim negative", _field(pixdim=[1, -1.4, 0.6, 2.3, 0, 0, 0, 0]), (), "E-BADSPACING"),
    Case("pixdim NaN", _field(pixdim=[1, np.nan, 0.6, 2.3, 0, 0, 0, 0]), (), "E-BADSPACING|E-NONFINITE"),
    Case("qfac 0", file(edit={"pixdim": [0, *SPACING, 0, 0, 0, 0], "sform_code": 0}), (truth(),)),
    Case("qfac -1", file(geometry=LEFT, edit={"sform_code": 0}), (truth(LEFT),)),
    Case("sform only", file(codes=(2, 0)), (truth(),)),
    Case("qform only", file(codes=(0, 1)), (truth(),)),
    Case("sform code 5", file(codes=(5, 0)), (truth(),)),
    Case(
        "sheared sform",
        file(geometry=grid(SHEARED), codes=(1, 0), edit={"pixdim": [1, 1.4, 0.6185, 2.3, 0, 0, 0, 0]}),
        (),
        "E-SHEAR",
    ),
    Case(
        "sform and qform 5 mm apart",
        _field(qoffset_x=17.25),
        (truth(),),
        "E-XFORM",
        ReadOptions(on_xform="sform"),
        ("5", "mm", "--on-xform"),
    ),
    Case(
        "no transform",
        file(geometry=UPRIGHT, codes=(0, 0)),
        (truth(UPRIGHT),),
        "E-NOXFORM",
        ReadOptions(assume_affine=True),
        ("sform_code", "--assume-affine"),
    ),
    Case("singular sform", _field(srow_x=[0, 0, 0, 0], qform_code=0), (), "E-XFORM"),
    Case("NaN in sform", _field(srow_y=[np.nan, 0, 0, 0]), (), "E-XFORM|E-NONFINITE"),
    Case("quaternion that is none", _field(sform_code=0, quatern_b=3.0), (), "E-XFORM"),
    Case(
        "sform and pixdim disagree",
        _field(qform_code=0, pixdim=[1, 1.4, 1.2, 2.3, 0, 0, 0, 0]),
        (),
        "E-XFORM|E-SPACING",
    ),
    Case("lengths in metres", _field(xyzt_units=1), (), "E-UNITS", says=("metres",)),
    Case("lengths in an unknown unit", _field(xyzt_units=0), (truth(),)),
    Case("intent and slice codes", _field(intent_code=1007 - 5, slice_code=3, slice_end=6, cal_max=900.0), (truth(),)),
    Case("name of the patient in the header", _field(descrip=b"SECRET^NAME", aux_file=b"SECRET"), (truth(),)),
    Case("constant", file(data=np.full(SHAPE, 7, np.int16)), (truth(weights=(0, 0, 0), bias=7),)),
    Case("all 0", file(data=np.zeros(SHAPE, np.float32)), (truth(weights=(0, 0, 0)),)),
    Case("NaN and no transform", file(data=_spoilt(np.nan), codes=(0, 0)), (), "E-NOXFORM|E-NONFINITE"),
)
