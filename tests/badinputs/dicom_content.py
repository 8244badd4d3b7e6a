"""What the voxels mean: bits, sign, scale, colour, padding, text beside the pixels, and attributes that lie."""

from __future__ import annotations

from pathlib import Path

import dicom_cases
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from badinputs.build import Plan, both, dropping, made, patched, put, real, setting, slices, without, write
from badinputs.case import Case
from medidiff.io import ReadOptions

GOOD, MR, PET = Plan(), Plan("MR"), Plan("PT")
SLOPE = "RescaleSlope"


def _scale(slope, intercept):
    """Store the same real values under another scale, which may depend on the slice."""

    def edit(ds: Dataset, k: int) -> None:
        values = real(ds)
        ds.RescaleSlope = f"{slope(k) if callable(slope) else slope:.12g}"
        ds.RescaleIntercept = f"{intercept(k) if callable(intercept) else intercept:.12g}"
        put(ds, values)

    return edit


def _bits(stored: int, *, signed: int = 0, junk: int = 0):
    def edit(ds: Dataset, k: int) -> None:
        values = real(ds)
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = stored, stored - 1, signed
        if signed:
            ds.RescaleIntercept = "400"
            values = values - 400 if "RescaleIntercept" in ds else values
        else:
            values = values - float(ds.get("RescaleIntercept", 0))
        mask = 2**stored - 1
        ds.PixelData = ((np.rint(values).astype(int) & mask) | (junk & ~mask & 0xFFFF)).astype("<u2").tobytes()

    return edit


def _eight_bits(ds: Dataset, k: int) -> None:
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit = 7
    ds.RescaleSlope, ds.RescaleIntercept = "1", "0"
    ds.PixelData = (np.arange(ds.Rows * ds.Columns) % 7).astype(np.uint8).tobytes()


def _corners_padded(value: int, *, signed: bool = False):
    """The four corners of each slice hold the padding value."""

    def edit(ds: Dataset, k: int) -> None:
        stored = dicom_cases.pixels(ds).copy().astype(int)
        stored[[0, 0, -1, -1], [0, -1, 0, -1]] = value
        if signed:
            ds.PixelRepresentation = 1
        dicom_cases.set_pixels(ds, stored)
        ds.PixelPaddingValue = value
        ds["PixelPaddingValue"].VR = "SS" if signed else "US"

    return edit


def _padding_range(ds: Dataset, k: int) -> None:
    stored = dicom_cases.pixels(ds).copy()
    stored[0, 0], stored[-1, -1] = 60001, 60007
    dicom_cases.set_pixels(ds, stored)
    ds.PixelPaddingValue, ds.PixelPaddingRangeLimit = 60000, 60010
    for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        ds[name].VR = "US"


def _colour(planar: int):
    def edit(ds: Dataset, k: int) -> None:
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", planar
        ds.BitsAllocated = ds.BitsStored = 8
        ds.HighBit = 7
        ds.PixelData = bytes(3 * ds.Rows * ds.Columns)

    return edit


def _palette(ds: Dataset, k: int) -> None:
    ds.PhotometricInterpretation = "PALETTE COLOR"


def _bigger(ds: Dataset, k: int) -> None:
    if k == 3:
        ds.Rows, ds.PixelData = 16, ds.PixelData * 2


def _mixed_kind(ds: Dataset, k: int) -> None:
    if k == 2:
        ds.Modality, ds.SOPClassUID = "MR", dicom_cases.CLASSES["MR"]


def _philips_private(ds: Dataset, k: int) -> None:
    """As Philips does: a public rescale to display values, and a private scale slope that is not to be applied."""
    values = real(ds)
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = "2.5", "-10", "normalized"
    put(ds, np.rint((values + 10) / 2.5) * 2.5 - 10)
    ds.add_new(0x20050010, "LO", "Philips Imaging DD 001")
    ds.add_new(0x2005100E, "FL", 0.0123)


def _real_world_map(ds: Dataset, k: int) -> None:
    mapping = Dataset()
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 7.0, 3.0
    mapping.RealWorldValueFirstValueMapped, mapping.RealWorldValueLastValueMapped = 0, 4095
    ds.RealWorldValueMappingSequence = Sequence([mapping])


def _hostile_text(ds: Dataset, k: int) -> None:
    ds.PatientID = "../../etc/SECRET"
    ds.SeriesDescription = "<script>SECRET</script>"
    ds.ProtocolName = "'; DROP TABLE x; -- SECRET"
    ds.StudyDescription = "SECRET\x1b[31m"


def _private_patient(ds: Dataset, k: int) -> None:
    ds.add_new(0x00290010, "LO", "SECRET^MAKER")
    ds.add_new(0x00291020, "PN", "SECRET^NAME")
    ds.BurnedInAnnotation = "YES"


def _report(folder: Path, uid: str, name: str) -> None:
    ds = dicom_cases.image(0)
    ds.SOPClassUID, ds.Modality = uid, "OT"
    dicom_cases.save(ds, folder / name)


def _with_reports(folder: Path) -> Path:
    write(folder, slices(GOOD))
    for number, uid in enumerate(("88.11", "481.3", "481.2", "66.4", "104.1")):
        _report(folder, f"1.2.840.10008.5.1.4.1.1.{uid}", f"other{number}.dcm")
    return folder


def _invert(ds: Dataset, k: int) -> None:
    ds.PhotometricInterpretation = "MONOCHROME1"


def _decimal(old: bytes, new: bytes, *, name: str = "S001.dcm"):
    return patched(made(), name, lambda content: content.replace(old, new))


_LONG = b"(\x000\x00DS\x26\x000.9000000000000000\\0.7000000000000000 "
NORESCALE = dropping("RescaleSlope", "RescaleIntercept")

CASES = (
    Case("signed 12 bits, junk above", made(edit=_bits(12, signed=1, junk=0xA000)), (GOOD.truth(),)),
    Case("unsigned 13 bits, junk above", made(edit=_bits(13, junk=0xE000)), (GOOD.truth(),)),
    Case("unsigned 16 bits with HU intercept", made(edit=_scale(1, -32768)), (GOOD.truth(),)),
    Case("slope a quarter", made(edit=_scale(0.25, -700)), (GOOD.truth(),)),
    Case("odd slope", made(edit=_scale(0.0732600732600733, -1000.5)), (GOOD.truth(within=0.04),)),
    Case("negative slope", made(edit=_scale(-1, 4000)), (GOOD.truth(),)),
    Case("slope by slice", made(PET, _scale(lambda k: 0.125 * (k + 1), 0)), (PET.truth(within=0.4, units="BQML"),)),
    Case("intercept by slice", made(edit=_scale(1, lambda k: -1000 - k)), (GOOD.truth(),)),
    Case("slope 0", made(edit=setting(RescaleSlope="0")), (), "E-BADRESCALE", says=(SLOPE,)),
    Case("slope 0 on one", made(edit=setting(3, RescaleSlope="0")), (), "E-BADRESCALE", says=(SLOPE, "S003.dcm")),
    Case("slope infinite", made(edit=setting(RescaleSlope="1e999")), (), "E-NONFINITE", says=(SLOPE,)),
    Case(
        "slope without intercept",
        made(edit=dropping("RescaleIntercept")),
        (),
        "E-NORESCALE",
        says=("RescaleIntercept",),
    ),
    Case(
        "CT without rescale",
        made(edit=NORESCALE),
        (GOOD.truth(bias=524, units=""),),
        "E-NORESCALE",
        ReadOptions(assume_rescale=True),
        (SLOPE, "--assume-rescale"),
    ),
    Case(
        "one CT slice without rescale",
        made(edit=lambda ds, k: NORESCALE(ds, k) if k == 2 else None),
        (),
        "E-NORESCALE",
        says=("S002.dcm",),
    ),
    Case("MR without rescale", made(MR), (MR.truth(),)),
    Case(
        "look-up table", made(edit=setting(ModalityLUTSequence=lambda: Sequence([Dataset()]))), (), "E-BADRESCALE|E-LUT"
    ),
    Case("Philips with a private scale", made(MR, _philips_private), (MR.truth(within=1.26),)),
    Case("real world map beside the rescale", made(edit=_real_world_map), (GOOD.truth(),)),
    Case("MONOCHROME1 stays as it is", made(edit=_invert), (GOOD.truth(),)),
    Case("RGB by pixel", made(edit=_colour(0)), (), "E-COLOUR"),
    Case("RGB by plane", made(edit=_colour(1)), (), "E-COLOUR"),
    Case("palette", made(edit=_palette), (), "E-COLOUR"),
    Case("padding value", made(edit=_corners_padded(63536)), (GOOD.truth(padding=24),)),
    Case("padding value, signed", made(edit=_corners_padded(-2000, signed=True)), (GOOD.truth(padding=24),)),
    Case("padding range", made(edit=_padding_range), (GOOD.truth(padding=12),)),
    Case("mixed matrix", made(edit=_bigger), (), "E-SHAPE", says=("S000.dcm", "S003.dcm")),
    Case("CT and MR in one series", made(edit=_mixed_kind), (), "E-MIXMODALITY", says=("S002.dcm",)),
    Case("one inverted slice", made(edit=setting(2, PhotometricInterpretation="MONOCHROME1")), (), "E-MIXPHOTOMETRIC"),
    Case("bits that cannot be", made(edit=setting(BitsStored=17)), (), "E-DTYPE"),
    Case("high bit elsewhere", made(edit=setting(HighBit=11)), (), "E-DTYPE"),
    Case("12 bits allocated", made(edit=setting(BitsAllocated=12)), (), "E-DTYPE"),
    Case("declared 60000 x 60000", made(edit=setting(2, Rows=60000, Columns=60000)), (), "E-SIZE", says=("S002.dcm",)),
    Case("declared one row more", made(edit=setting(Rows=9)), (), "E-TRUNC"),
    Case("rows 0", made(edit=setting(Rows=0)), (), "E-TRUNC|E-DIM|E-SHAPE"),
    Case(
        "decimal comma", _decimal(b"0.9\\0.7 ", b"0,9\\0,7 "), (), "E-BADDS", says=("PixelSpacing", "S001.dcm", "0,9")
    ),
    Case("18-character decimals", _decimal(b"(\x000\x00DS\x08\x000.9\\0.7 ", _LONG), (GOOD.truth(),)),
    Case(
        "letters in a slope",
        _decimal(b"DS\x06\x00-1024 ", b"DS\x06\x00-1O24 "),
        (),
        "E-BADDS",
        says=("RescaleIntercept",),
    ),
    Case("hostile text", made(edit=_hostile_text), (GOOD.truth(),)),
    Case(
        "names in Japanese",
        made(edit=setting(SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName="Yamada^Tarou=山田^太郎")),
        (GOOD.truth(),),
    ),
    Case("bytes outside the charset", _decimal(b"SECRET^NAME", b"SECR\xff\xfe^NAME"), (GOOD.truth(),)),
    Case("unknown charset", _decimal(b"ISO_IR 100", b"ISO_IR 999"), (GOOD.truth(),)),
    Case("private tags and burned-in text", made(edit=_private_patient), (GOOD.truth(),)),
    Case(
        "reports, contours and doses beside",
        _with_reports,
        (GOOD.truth(),),
        skipped=tuple(f"other{n}.dcm" for n in range(5)),
    ),
    Case("a name for a unit", made(edit=setting(RescaleType="SECRET^NAME")), (GOOD.truth(units="unlisted"),)),
    Case("a name for a kind of colour", made(edit=setting(PhotometricInterpretation="SECRET")), (), "E-COLOUR"),
    Case("a name for a modality", made(edit=setting(Modality="SECRET")), (GOOD.truth(),)),
    Case("two units", made(edit=setting(3, RescaleType="US")), (), "E-MIXUNITS"),
    Case("no modality", made(edit=dropping("Modality")), (GOOD.truth(),)),
    Case("no frame of reference", made(edit=dropping("FrameOfReferenceUID")), (GOOD.truth(),)),
    Case("frame of reference on all but one", made(edit=dropping("FrameOfReferenceUID", where=1)), (), "E-FOR"),
    Case("no series UID", made(edit=dropping("SeriesInstanceUID")), (), "E-TRUNC|E-NOUID"),
    Case("all SOP UIDs equal", made(edit=setting(SOPInstanceUID="1.2.826.0.1.77")), (), "E-DUPPOS|E-DUPUID"),
    Case("no rescale and a gap", made(edit=both(NORESCALE, without(2))), (), "E-NORESCALE|E-GAP"),
)
