"""How the bytes lie: transfer syntaxes, broken and lying encodings, cut files, archives, and enhanced objects."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import dicom_cases
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from badinputs.build import OBLIQUE, Plan, made, patched, setting, slices, without, write
from badinputs.case import Case

GOOD = Plan()
BIG = Plan(shape=(48, 40, 6), bias=-1000)  # the encoder of JPEG 2000 refuses smaller images
AWAY = Plan(origin=(338.7, 417.7, 195.1))
PIXELS = b"\xe0\x7f\x10\x00OW\0\0"
EXPLICIT, IMPLICIT = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0"


def _swapped(ds: Dataset, k: int) -> None:
    ds.PixelData = dicom_cases.pixels(ds).astype(">u2").tobytes()


def compressed(syntax: str, plan: Plan = BIG) -> Callable[[Path], Path]:
    """A case's `make` with compressed pixels."""

    def make(folder: Path) -> Path:
        dicom_cases.compress(sorted(write(folder, slices(plan)).iterdir()), syntax)
        return folder

    return make


def _without_meta(*, implicit: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for file in sorted(write(folder, slices(GOOD)).iterdir()):
            ds = pydicom.dcmread(file)
            del ds.file_meta
            pydicom.dcmwrite(file, ds, implicit_vr=implicit, little_endian=True)
        return folder

    return make


def before_pixels(extra: bytes) -> Callable[[bytes], bytes]:
    """A change of bytes that puts elements in front of the pixels."""
    return lambda content: content.replace(PIXELS, extra + PIXELS, 1)


def every(make: Callable[[Path], Path], change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    """A case's `make` all of whose files get other bytes."""

    def remake(folder: Path) -> Path:
        path = make(folder)
        for file in sorted(path.iterdir()):
            file.write_bytes(change(file.read_bytes()))
        return path

    return remake


def _nested(depth: int) -> bytes:
    """Sequences in sequences, of undefined length, all closed."""
    tag = b"\x01\x70\x01\x10"
    begin = tag + b"SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    return begin * depth + b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0" * depth


def _wrong_class(content: bytes) -> bytes:
    """The class in the meta header is another one than in the object."""
    return content.replace(b"5.1.4.1.1.2\0", b"5.1.4.1.1.4\0", 1)


def _group_lengths(content: bytes) -> bytes:
    """Retired group length elements, which lie."""
    at = content.index(b"\x28\x00\x02\x00US")
    return content[:at] + b"\x28\x00\x00\x00UL\x04\x00" + struct.pack("<I", 77) + content[at:]


def _unknown_vr(content: bytes) -> bytes:
    """PixelSpacing, slope and intercept with VR UN."""
    for tag in (b"\x28\x00\x30\x00", b"\x28\x00\x53\x10", b"\x28\x00\x52\x10"):
        at = content.index(tag + b"DS")
        length = content[at + 6 : at + 8]
        content = content[:at] + tag + b"UN\0\0" + length + b"\0\0" + content[at + 8 :]
    return content


def _wrong_vr(content: bytes) -> bytes:
    """Text attributes whose VR is another text's."""
    return content.replace(b"\x28\x00\x30\x00DS", b"\x28\x00\x30\x00LO").replace(
        b"\x20\x00\x32\x00DS", b"\x20\x00\x32\x00SH"
    )


def _meta_length(content: bytes) -> bytes:
    """(0002,0000) says one byte more than there is."""
    at = content.index(b"\x02\0\0\0UL\x04\0") + 8
    return content[:at] + struct.pack("<I", struct.unpack("<I", content[at : at + 4])[0] + 1) + content[at + 4 :]


def _odd_pixels(content: bytes) -> bytes:
    """One stray byte behind the pixels, counted in their length."""
    at = content.index(PIXELS) + 8
    length = struct.unpack("<I", content[at : at + 4])[0]
    return content[:at] + struct.pack("<I", length + 1) + content[at + 4 : at + 4 + length] + b"\0"


def _trailing(content: bytes) -> bytes:
    """DataSetTrailingPadding behind the pixels."""
    return content + b"\xfc\xff\xfc\xffOB\0\0" + struct.pack("<I", 64) + bytes(64)


def _zipped(folder: Path) -> Path:
    write(folder / "in", slices(GOOD))
    with zipfile.ZipFile(folder / "scan.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted((folder / "in").iterdir()):
            archive.write(file, f"study/{file.name}")
    return folder / "scan.zip"


def _zip_bomb(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("study/S000.dcm", bytes(2**27))
    return folder / "bomb.zip"


def _deflate_bomb(folder: Path) -> Path:
    """A deflated DICOM file of 0.4 MB whose data set inflates to 400 MB."""
    file = dicom_cases.save(slices(GOOD)[0], folder / "S000.dcm")
    content = file.read_bytes()
    start = 144 + struct.unpack("<I", content[140:144])[0]
    meta = content[132:start].replace(EXPLICIT, b"1.2.840.10008.1.2.1.99")
    meta = meta.replace(b"\x02\0\x10\0UI\x14\0", b"\x02\0\x10\0UI\x16\0")
    meta = meta[:8] + struct.pack("<I", len(meta) - 12) + meta[12:]
    packer = zlib.compressobj(9, wbits=-15)
    parts = [packer.compress(content[start:] + b"\xfc\xff\xfc\xffOB\0\0" + struct.pack("<I", 400 * 2**20))]
    parts.append(packer.flush(zlib.Z_FULL_FLUSH))
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)  # the same bytes wherever it stands
    file.write_bytes(content[:132] + meta + b"".join(parts) + block * 400 + packer.flush())
    return folder


def enhanced(
    *, plan: Plan = GOOD, order: tuple[int, ...] = (0, 1, 2, 3, 4, 5), shared: bool = False, edit=None
) -> Callable[[Path], Path]:
    """A case's `make`: one enhanced CT file; `shared` puts orientation and scale into the shared groups."""

    def make(folder: Path) -> Path:
        images = slices(plan)
        ds = images[0]
        moved = ("PixelSpacing", "SliceThickness"), ("RescaleSlope", "RescaleIntercept", "RescaleType")
        common = Dataset()
        common.PixelMeasuresSequence = [_part(ds, *moved[0])]
        if shared:
            common.PlaneOrientationSequence = [_part(ds, "ImageOrientationPatient")]
            common.PixelValueTransformationSequence = [_part(ds, *moved[1])]
        ds.SOPClassUID, ds.NumberOfFrames = "1.2.840.10008.5.1.4.1.1.2.1", len(order)
        ds.PerFrameFunctionalGroupsSequence = [_groups(images[k], number, k, shared) for number, k in enumerate(order)]
        ds.SharedFunctionalGroupsSequence = [common]
        ds.PixelData = b"".join(images[k].PixelData for k in order)
        for name in ("ImagePositionPatient", "ImageOrientationPatient", *moved[0], *moved[1]):
            delattr(ds, name)
        if edit is not None:
            edit(ds)
        return dicom_cases.save(ds, folder / "one.dcm")

    return make


def _part(ds: Dataset, *names: str) -> Dataset:
    part = Dataset()
    for name in names:
        part[name] = ds[name]
    return part


def _groups(ds: Dataset, number: int, k: int, shared: bool) -> Dataset:
    group, content = Dataset(), Dataset()
    content.StackID, content.InStackPositionNumber, content.DimensionIndexValues = "1", k + 1, [1, k + 1]
    group.FrameContentSequence = [content]
    group.PlanePositionSequence = [_part(ds, "ImagePositionPatient")]
    if not shared:
        group.PlaneOrientationSequence = [_part(ds, "ImageOrientationPatient")]
        group.PixelValueTransformationSequence = [_part(ds, "RescaleSlope", "RescaleIntercept", "RescaleType")]
    return group


def _frame(number: int, change: Callable[[Dataset], object]):
    return lambda ds: change(ds.PerFrameFunctionalGroupsSequence[number])


def _two_stacks(ds: Dataset) -> None:
    """The last three frames are another stack, elsewhere."""
    for group in list(ds.PerFrameFunctionalGroupsSequence)[3:]:
        group.FrameContentSequence[0].StackID = "2"
        position = group.PlanePositionSequence[0]
        position.ImagePositionPatient = [str(float(v) + 400) for v in position.ImagePositionPatient]


CUT = lambda count: patched(made(), "S005.dcm", lambda content: content[:count])  # noqa: E731

CASES = (
    Case("implicit", made(syntax=ImplicitVRLittleEndian), (GOOD.truth(),)),
    Case("big endian", made(edit=_swapped, syntax=ExplicitVRBigEndian), (GOOD.truth(),)),
    Case("deflated", made(syntax=DeflatedExplicitVRLittleEndian), (GOOD.truth(),)),
    Case("RLE", compressed(RLELossless), (BIG.truth(),)),
    Case("JPEG-LS", compressed(JPEGLSLossless), (BIG.truth(),)),
    Case("JPEG 2000", compressed(JPEG2000Lossless), (BIG.truth(),)),
    Case("no meta header, implicit", _without_meta(implicit=True), (GOOD.truth(),)),
    Case("no meta header, explicit", _without_meta(implicit=False), (GOOD.truth(),)),
    Case(
        "unknown syntax",
        patched(made(), "S001.dcm", lambda c: c.replace(EXPLICIT, b"1.2.840.10008.1.2.77")),
        (),
        "E-NODECODER",
        says=("1.2.840.10008.1.2.77",),
    ),
    Case(
        "meta says implicit, data are explicit",
        every(made(), lambda c: c.replace(b"UI\x14\0" + EXPLICIT, b"UI\x14\0" + IMPLICIT + b"\0\0")),
        (GOOD.truth(),),
    ),
    Case("pixels cut in one slice", CUT(-40), (), "E-TRUNC", says=("S005.dcm",)),
    Case("cut in the header", CUT(700), (), "E-TRUNC", says=("S005.dcm",)),
    Case("cut in the meta header", CUT(200), (), "E-TRUNC", says=("S005.dcm",)),
    Case("cut behind the preamble", CUT(132), (), "E-TRUNC", says=("S005.dcm",)),
    Case("cut in the preamble", CUT(60), (), "E-TRUNC", says=("S005.dcm",)),
    Case("pixels cut and a gap", patched(made(edit=without(2)), "S005.dcm", lambda c: c[:-40]), (), "E-TRUNC|E-GAP"),
    Case(
        "no pixels in one",
        made(edit=lambda ds, k: ds.__delattr__("PixelData") if k == 3 else None),
        (),
        "E-TRUNC",
        says=("S003.dcm",),
    ),
    Case("5000 nested sequences", patched(made(), "S002.dcm", before_pixels(_nested(5000))), (GOOD.truth(),)),
    Case("40 nested sequences", patched(made(), "S002.dcm", before_pixels(_nested(40))), (GOOD.truth(),)),
    Case(
        "meta header of another class",
        patched(made(), "S004.dcm", _wrong_class),
        (),
        "E-TRUNC|E-MIXMODALITY|E-SOPCLASS",
    ),
    Case("lying group length", every(made(), _group_lengths), (GOOD.truth(),)),
    Case("geometry with VR UN", every(made(), _unknown_vr), (GOOD.truth(),)),
    Case("geometry with another VR", every(made(), _wrong_vr), (GOOD.truth(),)),
    Case("wrong length of the meta header", every(made(), _meta_length), (GOOD.truth(),)),
    Case("an odd byte behind the pixels", every(made(), _odd_pixels), (GOOD.truth(),)),
    Case("trailing padding", every(made(), _trailing), (GOOD.truth(),)),
    Case("zip", _zipped, (GOOD.truth(),)),
    Case("zip bomb", _zip_bomb, (), "E-BOMB"),
    Case("deflate bomb", _deflate_bomb, (), "E-BOMB"),
    Case("enhanced", enhanced(), (GOOD.truth(),)),
    Case("enhanced, oblique", enhanced(plan=Plan(axes=OBLIQUE)), (Plan(axes=OBLIQUE).truth(within=0.01),)),
    Case("enhanced, frames out of order", enhanced(order=(3, 0, 5, 1, 4, 2)), (GOOD.truth(),)),
    Case("enhanced, shared groups", enhanced(shared=True), (GOOD.truth(),)),
    Case("enhanced with a gap", enhanced(order=(0, 1, 3, 4, 5)), (), "E-GAP", says=("frame 2", "frame 3")),
    Case(
        "enhanced, a frame twice", enhanced(order=(0, 1, 2, 2, 3, 4)), (), "E-DUPPOS|E-4D", says=("frame 3", "frame 4")
    ),
    Case(
        "enhanced, a group too few",
        enhanced(edit=lambda ds: ds.PerFrameFunctionalGroupsSequence.pop()),
        (),
        "E-MULTIFRAME",
    ),
    Case(
        "enhanced without groups",
        enhanced(edit=lambda ds: ds.__delattr__("PerFrameFunctionalGroupsSequence")),
        (),
        "E-MULTIFRAME",
    ),
    Case(
        "enhanced, no position of a frame",
        enhanced(edit=_frame(2, lambda g: g.__delattr__("PlanePositionSequence"))),
        (),
        "E-NOIPP",
        says=("frame 3",),
    ),
    Case(
        "enhanced, no orientation",
        enhanced(edit=_frame(2, lambda g: g.__delattr__("PlaneOrientationSequence"))),
        (),
        "E-NOIOP",
    ),
    Case("enhanced, pixels cut", enhanced(edit=lambda ds: setattr(ds, "PixelData", ds.PixelData[:300])), (), "E-TRUNC"),
    Case(
        "enhanced, a million frames declared",
        enhanced(edit=lambda ds: setattr(ds, "NumberOfFrames", 1000000)),
        (),
        "E-TRUNC|E-SIZE|E-MULTIFRAME",
    ),
    Case("enhanced, two stacks", enhanced(edit=_two_stacks), (GOOD.truth(size=(9, 8, 3)), AWAY.truth(size=(9, 8, 3)))),
    Case("classic file with frames", made(edit=setting(NumberOfFrames=2)), (), "E-MULTIFRAME|E-TRUNC"),
    Case(
        "mosaic without its header",
        made(edit=setting(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])),
        (),
        "E-MOSAIC",
    ),
    Case("meta header says explicit, by the book", made(syntax=ExplicitVRLittleEndian), (GOOD.truth(),)),
)
