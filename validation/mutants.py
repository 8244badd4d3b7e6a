"""Good files of every kind, and seeded ways to damage them: the material of `fuzz.py`."""

from __future__ import annotations

import gzip
import re
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLSLossless,
    RLELossless,
)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import dicom_cases
from badinputs import build, dicom_files, nifti_content

import medidiff.io as mio
from medidiff.errors import MedidiffError
from medidiff.volume import Volume

__all__ = ["DICOM", "NIFTI", "SEEDS", "Seed", "mutant", "write_seed"]

Change = Callable[[np.random.Generator, bytes], bytes]
_UIDS = {"study": "1.2.826.0.1.1", "series": "1.2.826.0.1.2", "frame": "1.2.826.0.1.3"}
_SMALL = build.Plan(shape=(9, 8, 4))
_WIDE = build.Plan(shape=(34, 33, 3), bias=-1000)  # the encoder of JPEG 2000 refuses smaller images
_VRS = b"AE|AS|AT|CS|DA|DS|DT|FL|FD|IS|LO|LT|OB|OW|PN|SH|SL|SQ|SS|ST|TM|UI|UL|UN|US|UT"
_ELEMENT = re.compile(rb"[\x02\x08\x10\x18\x20\x28\x00\xe0\xfe][\x00-\xff]{3}(" + _VRS + rb")")
_ODD = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)
_ODD_FLOATS = (0.0, -0.0, -1.0, 1e-45, 1e30, -1e30, 3.4e38, float("nan"), float("inf"), 352.0, 1e7, 0.5)


@dataclass(frozen=True, slots=True)
class Seed:
    """A good input.

    Args:
        name: what it is.
        make: writes it below a folder and returns the path to read.
        targets: pattern of the files that are damaged, one at a time.
        slices: whether the damage of one file may only ever change one slice.
        share: how often it is taken; those that need a decoder's process are slow, and taken less.
    """

    name: str
    make: Callable[[Path], Path]
    targets: str = "*"
    slices: bool = False
    share: int = 4


def _series(folder: Path, *, plan: build.Plan = _SMALL, syntax: str = "", edit: build.Edit | None = None) -> Path:
    def fixed(ds: object, k: int) -> None:
        setattr(ds, "SOPInstanceUID", f"1.2.826.0.1.4.{k}")  # noqa: B010
        if edit is not None:
            edit(ds, k)

    images = build.slices(plan, uids=_UIDS)
    return build.write(folder, images, edit=fixed, **({"syntax": syntax} if syntax else {}))


def _classic(syntax: str, edit: build.Edit | None = None) -> Callable[[Path], Path]:
    return lambda folder: _series(folder, syntax=syntax, edit=edit)


def _compressed(syntax: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        dicom_cases.compress(sorted(_series(folder, plan=_WIDE).iterdir()), syntax)
        return folder

    return make


def _jpeg(folder: Path) -> Path:
    """Lossless JPEG, which pydicom itself cannot write."""
    import gdcm

    for file in sorted(_series(folder, plan=_WIDE).iterdir()):
        reader = gdcm.ImageReader()
        reader.SetFileName(str(file))
        reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(JPEGLossless)))
        change.SetInput(reader.GetImage())
        change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(file))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.Write()
    return folder


def _zip(folder: Path) -> Path:
    source = _series(folder / "in")
    with zipfile.ZipFile(folder / "scan.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(source.iterdir()):
            archive.writestr(zipfile.ZipInfo(f"a/{file.name}"), file.read_bytes())
            file.unlink()
    source.rmdir()
    return folder / "scan.zip"


def _swap(ds: object, k: int) -> None:
    dicom_files._swapped(ds, k)  # type: ignore[arg-type]


def _through_sitk(name: str, *, packed: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        import SimpleITK

        image = SimpleITK.GetImageFromArray(nifti_content.ramp().astype(np.int16).T)
        image.SetSpacing((1.4, 0.6, 2.3))
        image.SetOrigin((1.0, 2.0, 3.0))
        SimpleITK.WriteImage(image, str(folder / name), packed)
        return folder / name

    return make


_MOSAIC = build.setting(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])
DICOM = (
    Seed("explicit", _series, slices=True),
    Seed("implicit", _classic(ImplicitVRLittleEndian), slices=True),
    Seed("big endian", _classic(ExplicitVRBigEndian, _swap), slices=True),
    Seed("deflated", _classic(DeflatedExplicitVRLittleEndian), slices=True),
    Seed("RLE", _compressed(RLELossless), slices=True),
    Seed("JPEG-LS", _compressed(JPEGLSLossless), slices=True, share=1),
    Seed("JPEG 2000", _compressed(JPEG2000Lossless), slices=True, share=1),
    Seed("JPEG lossless", _jpeg, slices=True, share=1),
    Seed("enhanced", dicom_files.enhanced(plan=_SMALL, order=(0, 1, 2, 3))),
    Seed("mosaic", _classic("1.2.840.10008.1.2.1", _MOSAIC)),
    Seed("zip", _zip),
)
NIFTI = (
    Seed("plain", nifti_content.file()),
    Seed("gzip", nifti_content.file("scan.nii.gz")),
    Seed("big endian", nifti_content.file(order=">")),
    Seed("NIfTI-2", nifti_content.file(kind=nib.Nifti2Image)),
    Seed("scaled", nifti_content.file(data=nifti_content.SCALED, edit={"scl_slope": 0.5, "scl_inter": 2.0})),
    Seed("float", nifti_content.file(data=nifti_content.ramp().astype(np.float32))),
    Seed("four dimensions", nifti_content.file(data=nifti_content.FOUR)),
    Seed("extension", nifti_content.file(extension=b"SECRET comment " * 9)),
    Seed("NRRD", _through_sitk("scan.nrrd", packed=False)),
    Seed("NRRD, gzip", _through_sitk("scan.nrrd", packed=True)),
    Seed("MetaImage", _through_sitk("scan.mha", packed=False)),
    Seed("MetaImage, gzip", _through_sitk("scan.mha", packed=True)),
)
SEEDS = {"dicom": DICOM, "nifti": NIFTI}


def write_seed(seed: Seed, folder: Path) -> tuple[Path, list[Path], Volume | None]:
    """Write a seed; the path to read, the files to damage, and what reading it gives (None when it is refused)."""
    folder.mkdir(parents=True)
    path = seed.make(folder)
    files = sorted(path.glob(seed.targets)) if path.is_dir() else [path]
    try:
        return path, files, mio.read(path)
    except MedidiffError:
        return path, files, None


# -- damage ------------------------------------------------------------------------------------------------------------


def _at(chance: np.random.Generator, content: bytes) -> int:
    """A place, in the first kilobyte as often as anywhere else."""
    end = len(content) if chance.random() < 0.5 else min(len(content), 1024)
    return int(chance.integers(end)) if end else 0


def _flip_bits(chance: np.random.Generator, content: bytes) -> bytes:
    out = bytearray(content)
    for _ in range(int(chance.integers(1, 9))):
        out[_at(chance, content)] ^= 1 << int(chance.integers(8))
    return bytes(out)


def _set_bytes(chance: np.random.Generator, content: bytes) -> bytes:
    at, size = _at(chance, content), int(chance.integers(1, 9))
    new = chance.bytes(size) if chance.random() < 0.5 else bytes([int(chance.choice((0, 0x20, 0x7F, 0xFF)))]) * size
    return content[:at] + new + content[at + size :]


def _cut(chance: np.random.Generator, content: bytes) -> bytes:
    return content[: max(1, _at(chance, content))]


def _insert(chance: np.random.Generator, content: bytes) -> bytes:
    at = _at(chance, content)
    return content[:at] + chance.bytes(int(chance.integers(1, 65))) + content[at:]


def _delete(chance: np.random.Generator, content: bytes) -> bytes:
    at = _at(chance, content)
    return content[:at] + content[at + int(chance.integers(1, 65)) :]


def _swap_blocks(chance: np.random.Generator, content: bytes) -> bytes:
    size = int(chance.integers(4, 129))
    first, second = sorted((_at(chance, content), _at(chance, content)))
    second = max(second, first + size)
    a, b = content[first : first + size], content[second : second + size]
    return content[:first] + b + content[first + size : second] + a + content[second + size :]


def _double(chance: np.random.Generator, content: bytes) -> bytes:
    at, size = _at(chance, content), int(chance.integers(8, 257))
    return content[: at + size] + content[at : at + size] + content[at + size :]


def _element_length(chance: np.random.Generator, content: bytes) -> bytes:
    """The length of one DICOM element says something else."""
    found = [m.end() for m in _ELEMENT.finditer(content)]
    if not found:
        return _set_bytes(chance, content)
    at = int(chance.choice(found))
    wide = content[at - 2 : at] in (b"OB", b"OW", b"SQ", b"UN", b"UT")
    at += 2 if wide else 0
    form = "<I" if wide else "<H"
    held = content[at : at + struct.calcsize(form)]
    if len(held) < struct.calcsize(form):
        return content
    value = (
        int(chance.choice(_ODD))
        if chance.random() < 0.6
        else struct.unpack(form, held)[0] + int(chance.choice((-2, -1, 1, 2)))
    )
    return content[:at] + struct.pack(form, value % 2 ** (8 * struct.calcsize(form))) + content[at + len(held) :]


def _element_value(chance: np.random.Generator, content: bytes) -> bytes:
    """A digit, sign or point of a decimal string, a UID or a number becomes another."""
    found = [m.start() for m in re.finditer(rb"[0-9.\-]", content[:4096])]
    at = int(chance.choice(found)) if found else _at(chance, content)
    new = b"0123456789.-,eE+ \\n"[int(chance.integers(19))]
    return content[:at] + bytes([new]) + content[at + 1 :]


def _header_field(chance: np.random.Generator, content: bytes) -> bytes:
    """One field of a NIfTI header holds an odd value."""
    second = content[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c")
    order = ">" if content[:2] == b"\0\0" else "<"
    fields = (nib.Nifti2Header if second else nib.Nifti1Header).template_dtype.newbyteorder(order).fields
    kind, at = fields[str(chance.choice(sorted(fields)))][:2]
    base = kind.base
    at += base.itemsize * int(chance.integers(max(1, kind.itemsize // base.itemsize)))
    if base.kind == "f":
        new = np.array(chance.choice(_ODD_FLOATS)).astype(base).tobytes()
    elif base.kind in "iu":
        new = np.array(int(chance.choice(_ODD))).astype(base).tobytes()
    else:
        new = chance.bytes(min(4, base.itemsize))
    return content[:at] + new + content[at + len(new) :]


_ANY: tuple[Change, ...] = (_flip_bits, _flip_bits, _set_bytes, _cut, _insert, _delete, _swap_blocks, _double)


def mutant(kind: str, chance: np.random.Generator, content: bytes) -> bytes:
    """The content, damaged in one to three ways; a gzip file is damaged inside or outside its compression."""
    aimed = (_element_length, _element_value) if kind == "dicom" else (_header_field, _header_field, _element_value)
    if content[:2] == b"\x1f\x8b" and chance.random() < 0.6:
        level = int(chance.integers(0, 10))
        return gzip.compress(mutant(kind, chance, gzip.decompress(content)), level, mtime=0)
    made = content
    for _ in range(int(chance.choice((1, 1, 1, 2, 3)))):
        way: Change = (
            _ANY[int(chance.integers(len(_ANY)))] if chance.random() < 0.6 else aimed[int(chance.integers(len(aimed)))]
        )
        made = way(chance, made) or b"\0"
    return made


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for one run."""
    return tempfile.TemporaryDirectory(prefix="medidiff-fuzz-")
