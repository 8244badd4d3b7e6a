"""DICOM in and out, held to the ramp oracle."""

from __future__ import annotations

from pathlib import Path

import dicom_cases as cases
import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

import medidiff.io as mio
from medidiff.errors import InputError, MedidiffError
from medidiff.io.dicom.series.split import find_stack
from medidiff.volume import Geometry, Volume

# -- the oracle itself -------------------------------------------------------------------------------------------------


def test_good_ct_is_the_ramp_exactly(tmp_path):
    cases.series(tmp_path)
    scan = mio.read(tmp_path)
    assert cases.ramp_error(scan, cases.truth()) < 1e-9
    assert (scan.modality, scan.units, scan.data.dtype) == ("CT", "HU", np.int32)
    assert scan.geometry.distance_mm(cases.truth()) < 1e-9


@pytest.mark.parametrize("broken", ["flip", "shift", "slope", "swap"])
def test_oracle_notices_a_broken_reader(tmp_path, broken):
    cases.series(tmp_path)
    scan = mio.read(tmp_path)
    data, affine = scan.data[0].copy(), scan.geometry.affine.copy()
    if broken == "flip":
        data = data[:, :, ::-1]
    elif broken == "shift":
        affine[2, 3] += 0.1
    elif broken == "slope":
        data = data * 1.01
    else:
        data[:, :, [1, 2]] = data[:, :, [2, 1]]
    assert cases.ramp_error(Volume(data, Geometry(scan.shape, affine)), cases.truth()) > 1e-3


# -- what must be read right -------------------------------------------------------------------------------------------


def _shuffle_numbers(ds: Dataset, k: int) -> None:
    ds.InstanceNumber = str((3, 1, 5, 2, 4)[k])


def _no_number(ds: Dataset, k: int) -> None:
    del ds.InstanceNumber


def _slope_by_slice(ds: Dataset, k: int) -> None:
    real = cases.pixels(ds).astype(int) - 1024
    slope = 0.5 if k % 2 else 0.25
    ds.RescaleSlope, ds.RescaleIntercept = str(slope), "-100"
    cases.set_pixels(ds, (real + 100) / slope)


def _signed_12_bits(ds: Dataset, k: int) -> None:
    real = cases.pixels(ds).astype(int) - 1024
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.RescaleIntercept = 12, 11, 1, "300"
    junk = 0x5000 if k % 2 else 0xA000
    ds.PixelData = (((real - 300) & 0x0FFF) | junk).astype("<u2").tobytes()


def _inverted(ds: Dataset, k: int) -> None:
    ds.PhotometricInterpretation = "MONOCHROME1"


def _misleading(ds: Dataset, k: int) -> None:
    ds.SliceThickness, ds.SpacingBetweenSlices, ds.SliceLocation = "99", "42", str(-k)


def _larger(ds: Dataset, k: int) -> None:
    ds.Columns, ds.Rows = 56, 48
    i, j = np.meshgrid(range(56), range(48))
    cases.set_pixels(ds, i + 10 * j + 100 * k + 1024)


def _padding(ds: Dataset, k: int) -> None:
    ds.PixelPaddingValue = 0
    ds["PixelPaddingValue"].VR = "US"


@pytest.mark.parametrize("axes", [cases.AXIAL, cases.OBLIQUE])
@pytest.mark.parametrize(
    "edit", [None, _shuffle_numbers, _no_number, _slope_by_slice, _signed_12_bits, _inverted, _misleading, _padding]
)
def test_ramp_survives(tmp_path, edit, axes):
    cases.series(tmp_path, edit=edit, axes=axes)
    assert cases.ramp_error(mio.read(tmp_path), cases.truth(axes)) < 1e-5


def test_unsafe_names_and_order_of_files_do_not_matter(tmp_path):
    for number, file in enumerate(cases.series(tmp_path / "source", modality="MR")):
        file.rename(tmp_path / "source" / ("z", "b", "ä ö", "a", "m")[number])
    scan = mio.read(tmp_path / "source")
    assert cases.ramp_error(scan, cases.truth()) < 1e-9
    assert (scan.modality, scan.units, scan.data.dtype) == ("MR", "", np.uint16)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_compressed_pixels_are_exact(tmp_path, syntax):
    cases.compress(cases.series(tmp_path, edit=_larger), syntax)
    assert cases.ramp_error(mio.read(tmp_path), cases.truth()) < 1e-9


def test_big_endian(tmp_path):
    for file in cases.series(tmp_path):
        ds = Dataset(pydicom.dcmread(file))
        ds.PixelData = cases.pixels(ds).astype(">u2").tobytes()
        cases.save(ds, file, syntax="1.2.840.10008.1.2.2")
    assert cases.ramp_error(mio.read(tmp_path), cases.truth()) < 1e-9


def test_files_without_preamble_or_meta_header(tmp_path):
    for file in cases.series(tmp_path):
        ds = pydicom.dcmread(file)
        del ds.file_meta
        pydicom.dcmwrite(file, ds, implicit_vr=True, little_endian=True)
    assert cases.ramp_error(mio.read(tmp_path), cases.truth()) < 1e-9


def test_decimal_strings_longer_than_sixteen_characters(tmp_path):
    for file in cases.series(tmp_path):
        content = file.read_bytes()
        old = b"(\x000\x00DS\x08\x00" + b"0.5\\0.75"
        assert old in content
        file.write_bytes(content.replace(old, b"(\x000\x00DS\x26\x00" + b"0.5000000000000000\\0.7500000000000000 "))
    assert cases.ramp_error(mio.read(tmp_path), cases.truth()) < 1e-9


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 0, 4, 1, 3)])
def test_enhanced_multiframe(tmp_path, order):
    file = cases.enhanced(tmp_path / "one.dcm", order=order)
    scan = mio.read(file)
    assert cases.ramp_error(scan, cases.truth()) < 1e-9
    assert scan.units == "HU"
    assert mio.sources(file) == (file,)


@pytest.mark.parametrize("axes", [cases.AXIAL, cases.OBLIQUE])
def test_simpleitk_and_highdicom_agree(tmp_path, axes):
    files = cases.series(tmp_path, axes=axes)
    scan = mio.read(tmp_path)
    assert sitk_geometry(files).distance_mm(scan.geometry) < 1e-4
    other = highdicom.get_volume_from_series([pydicom.dcmread(f) for f in files])
    affine = np.diag((-1, -1, 1, 1)) @ other.affine[:, [2, 1, 0, 3]]
    places = Geometry(scan.shape, affine).world(np.moveaxis(np.indices(scan.shape), 0, -1))
    index = np.rint(scan.geometry.index(places)).astype(int)
    assert np.abs(scan.geometry.world(index) - places).max() < 1e-4
    assert np.array_equal(scan.data[0][tuple(np.moveaxis(index, -1, 0))], other.array.transpose(2, 1, 0))


def sitk_geometry(files) -> Geometry:
    """The grid as SimpleITK reads it from files that are already in order."""
    stack = sitk.ReadImage([str(file) for file in files])
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(stack.GetDirection(), (3, 3)) * stack.GetSpacing()
    affine[:3, 3] = stack.GetOrigin()
    return Geometry(stack.GetSize(), np.diag((-1, -1, 1, 1)) @ affine)


def test_pet_has_a_slope_and_unit_of_its_own(tmp_path):
    def pet(ds: Dataset, k: int) -> None:
        ds.Units, ds.RescaleSlope, ds.RescaleIntercept = "BQML", str(0.5 * (k + 1)), "0"
        cases.set_pixels(ds, (cases.pixels(ds) - 1024.0) * 2)

    cases.series(tmp_path, modality="PT", edit=pet)
    scan = mio.read(tmp_path)
    assert (scan.modality, scan.units, scan.data.dtype) == ("PT", "BQML", np.float32)
    assert np.array_equal(scan.data[0], cases.ramp(scan.geometry, cases.truth()).round() * np.arange(1, 6))


def test_junk_is_skipped_with_a_record(tmp_path):
    cases.series(tmp_path)
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "notes.dcm").write_text("not a scan")
    (tmp_path / "Thumbs.db").write_bytes(bytes(range(256)) * 8)
    report = cases.image(0)
    report.SOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    cases.save(report, tmp_path / "sub" / "structures.dcm")
    report.SOPClassUID = "1.3.12.2.1107.5.9.1"  # a maker's private object
    cases.save(report, tmp_path / "sub" / "private.dcm")
    assert cases.ramp_error(mio.read(tmp_path), cases.truth()) < 1e-9
    reasons = {entry.file: entry.reason for entry in mio.inspect(tmp_path).skipped}
    assert set(reasons) == {"empty.dcm", "notes.dcm", "Thumbs.db", "structures.dcm", "private.dcm"}


def test_identical_copy_is_kept_once(tmp_path):
    files = cases.series(tmp_path)
    (tmp_path / "copy.dcm").write_bytes(files[2].read_bytes())
    assert cases.ramp_error(mio.read(tmp_path), cases.truth()) < 1e-9
    assert any("identical copy" in text for text in mio.inspect(tmp_path).series[0].decisions)
    assert len(mio.fingerprint(tmp_path)) == 5


@pytest.mark.parametrize("flagged", [True, False])
def test_localiser_is_set_aside(tmp_path, flagged):
    files = cases.series(tmp_path)
    scout = pydicom.dcmread(files[0])
    scout.SOPInstanceUID, scout.ImageOrientationPatient = generate_uid(), [0, 1, 0, 0, 0, -1]
    if flagged:
        scout.ImageType, scout.Rows = ["ORIGINAL", "PRIMARY", "LOCALIZER"], 3
    cases.save(scout, tmp_path / "scout.dcm")
    assert cases.ramp_error(mio.read(tmp_path), cases.truth()) < 1e-9
    assert [entry.file for entry in mio.inspect(tmp_path).skipped] == ["scout.dcm"]


# -- what must be refused ----------------------------------------------------------------------------------------------


def _drop(*names):
    def edit(ds: Dataset, k: int) -> None:
        for name in names:
            delattr(ds, name)

    return edit


def _set(where=None, **values):
    def edit(ds: Dataset, k: int) -> None:
        if where is None or k == where:
            for name, value in values.items():
                setattr(ds, name, value)

    return edit


def _move(offset, *, where=None):
    def edit(ds: Dataset, k: int) -> None:
        if where is None or k == where:
            shift = np.asarray(offset, float) * (k if where is None else 1)
            ds.ImagePositionPatient = [f"{v:.8g}" for v in np.array(ds.ImagePositionPatient, float) + shift]

    return edit


def _without(missing):
    return lambda ds, k: k != missing


def _other_class(ds: Dataset, k: int) -> None:
    if k == 2:
        ds.Modality, ds.SOPClassUID = "MR", cases.CLASSES["MR"]


def _colour(ds: Dataset, k: int) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 1
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = bytes(3 * ds.Rows * ds.Columns)


def _bigger(ds: Dataset, k: int) -> None:
    if k == 3:
        ds.Rows, ds.PixelData = 12, ds.PixelData * 2


def _lut(ds: Dataset, k: int) -> None:
    ds.ModalityLUTSequence = Sequence([Dataset()])


BROKEN = {
    "missing slice": ("E-GAP", _without(2)),
    "two missing slices": ("E-GAP", lambda ds, k: k not in (1, 2)),
    "uneven spacing": ("E-SPACING", _move((0, 0, 0.4), where=2)),
    "one slice out of line": ("E-SPACING", _move((1, 0, 0), where=2)),
    "two slices at one position": ("E-DUPPOS", _move((0, 0, 2.5), where=2)),
    "gantry tilt": ("E-TILT", _move((0, 0.5, 0))),
    "drift in plane": ("E-TILT", _move((0.1, 0, 0))),
    "no position on one": ("E-NOIPP", lambda ds, k: _drop("ImagePositionPatient")(ds, k) if k == 1 else None),
    "no position on all": ("E-NOIPP", _drop("ImagePositionPatient")),
    "no orientation": ("E-NOIOP", _drop("ImageOrientationPatient")),
    "no pixel spacing": ("E-NOSPACING", _drop("PixelSpacing")),
    "spacing 0": ("E-BADSPACING", _set(PixelSpacing=["0", "0"])),
    "spacing negative": ("E-BADSPACING", _set(PixelSpacing=["-0.5", "0.75"])),
    "cosines not orthonormal": ("E-BADIOP", _set(ImageOrientationPatient=["1", "0", "0", "0.1", "1", "0"])),
    "three spacings": ("E-BADDS", _set(PixelSpacing=["1", "1", "1"])),
    "mixed matrix": ("E-SHAPE", _bigger),
    "mixed pixel spacing": ("E-MIXSPACING", _set(where=3, PixelSpacing=["0.6", "0.75"])),
    "two modalities": ("E-MIXMODALITY", _other_class),
    "two frames of reference": ("E-FOR", _set(where=4, FrameOfReferenceUID=generate_uid())),
    "mixed photometric": ("E-MIXPHOTOMETRIC", _set(where=4, PhotometricInterpretation="MONOCHROME1")),
    "mixed units": ("E-MIXUNITS", _set(where=4, RescaleType="US")),
    "colour": ("E-COLOUR", _colour),
    "huge matrix": ("E-SIZE", _set(Rows=60000, Columns=60000)),
    "pixels shorter than declared": ("E-TRUNC", _set(where=1, PixelData=bytes(20))),
    "no pixels": ("E-TRUNC", lambda ds, k: _drop("PixelData")(ds, k) if k == 4 else None),
    "no rescale": ("E-NORESCALE", _drop("RescaleSlope", "RescaleIntercept")),
    "slope 0": ("E-BADRESCALE", _set(RescaleSlope="0")),
    "mosaic": ("E-MOSAIC", _set(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])),
    "look-up table": ("E-BADRESCALE", _lut),
    "odd bits": ("E-DTYPE", _set(HighBit=14)),
    "single slice": ("E-2D", lambda ds, k: k == 2),
    "two orientations": (
        "E-ORIENTATION",
        lambda ds, k: _set(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])(ds, k) if k < 2 else None,
    ),
}


def refused(path: Path, code: str) -> str:
    with pytest.raises(MedidiffError) as caught:
        mio.read(path)
    message = str(caught.value)
    assert caught.value.code == code, message
    assert not any(secret in message for secret in cases.SECRETS), message
    return message


@pytest.mark.parametrize("name", BROKEN)
def test_refused_with_its_code(tmp_path, name):
    code, edit = BROKEN[name]
    cases.series(tmp_path, edit=edit)
    refused(tmp_path, code)
    if name not in ("pixels shorter than declared", "no pixels"):  # these two show when the pixels are read
        assert code in mio.inspect(tmp_path).series[0].problem


def test_the_gap_names_its_neighbours(tmp_path):
    cases.series(tmp_path, edit=_without(2))
    message = refused(tmp_path, "E-GAP")
    assert "IM0001.dcm and IM0003.dcm" in message
    assert "5 mm" in message
    assert "2.5 mm" in message


def test_nothing_to_read(tmp_path):
    refused(tmp_path, "E-NOIMAGES")
    refused(tmp_path / "absent", "E-MISSING")
    (tmp_path / "readme.txt").write_text("text")
    refused(tmp_path, "E-NOIMAGES")
    refused(tmp_path / "readme.txt", "E-FORMAT")


def test_two_series_are_listed(tmp_path):
    cases.series(tmp_path / "a")
    cases.series(tmp_path / "b", modality="MR")
    message = refused(tmp_path, "E-MULTISERIES")
    assert "CT 7x6x5, 5 files" in message
    assert "MR 7x6x5, 5 files" in message
    assert [s.modality for s in mio.inspect(tmp_path).series] == ["CT", "MR"]


def test_dynamic_series(tmp_path):
    for time in range(3):
        uid = "1.2.3.4"
        edit = _set(SeriesInstanceUID=uid, FrameOfReferenceUID=uid, TemporalPositionIdentifier=str(time))
        cases.series(tmp_path / str(time), modality="MR", edit=edit)
    refused(tmp_path, "E-MULTISERIES")
    for number in (1, 2, 3):
        reading = mio.read_scan(tmp_path, mio.ReadOptions(scan=number))
        assert cases.ramp_error(reading.volume, cases.truth()) < 1e-9
        assert f"TemporalPositionIdentifier {number - 1}" in " ".join(reading.decisions)


def test_same_uid_with_other_content(tmp_path):
    files = cases.series(tmp_path)
    ds = pydicom.dcmread(files[1])
    ds.PixelData = bytes(len(ds.PixelData))
    ds.save_as(tmp_path / "other.dcm")
    refused(tmp_path, "E-DUPPOS")


@pytest.mark.parametrize("cut", [60, 140, 180, 250, 425, 430, 500, 900, -40])
def test_a_cut_last_slice_never_gives_a_shorter_volume(tmp_path, cut):
    last = cases.series(tmp_path)[-1]
    last.write_bytes(last.read_bytes()[:cut])
    refused(tmp_path, "E-TRUNC")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\0\0DICM", b"\0DICM\0"),
        (b"\x02\0\x02\0UI\x1a\x001.2.840.10008.5.1.4.1.1.2", b"\x02\0\x02\0UI\x1a\x001.2.840.10008.5.1.4.1.1.5"),
        (b"\x08\0\x16\0UI\x1a\x001.2.840.10008.5.1.4.1.1.2", b"\x08\0\x16\0UI\x1a\x001.2.840.10008.5.1.4.1.1.1"),
    ],
)
def test_a_damaged_last_slice_is_not_taken_for_junk(tmp_path, old, new):
    cases.patch(cases.series(tmp_path)[-1], old, new)
    refused(tmp_path, "E-TRUNC")


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [(b"0.5\\0.75", b"0,5\\0,75", "E-BADDS"), (b"-27.5 ", b"nan   ", "E-NONFINITE")],
)
def test_broken_decimal_strings(tmp_path, old, new, code):
    files = cases.series(tmp_path)
    cases.patch(files[2], old, new)
    refused(tmp_path, code)


def test_deflated_and_unknown_syntaxes(tmp_path):
    files = cases.series(tmp_path)
    cases.patch(files[0], b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.77")
    refused(tmp_path, "E-NODECODER")
    cases.patch(files[0], b"1.2.840.10008.1.2.77", b"1.2.840.10008.1.2.1\0")
    deflated = pydicom.dcmread(files[0])
    deflated.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    deflated.save_as(files[0])
    assert cases.ramp_error(mio.read(tmp_path), cases.truth()) < 1e-9


def test_thousands_of_nested_sequences_do_no_harm(tmp_path):
    files = cases.series(tmp_path)
    content = files[0].read_bytes()
    at = content.index(b"\xe0\x7f\x10\x00OW")  # before the pixel data
    begin = b"\x01\x70\x01\x10SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    files[0].write_bytes(content[:at] + begin * 5000 + content[at:])
    refused(tmp_path, "E-TRUNC")


@pytest.mark.parametrize(
    ("code", "edit"),
    [
        ("E-4D", lambda ds: _double_frames(ds)),
        ("E-MULTIFRAME", lambda ds: ds.PerFrameFunctionalGroupsSequence.pop()),
        ("E-NORESCALE", lambda ds: [delattr(g, "PixelValueTransformationSequence") for g in _frames(ds)]),
        ("E-NOIPP", lambda ds: delattr(_frames(ds)[1], "PlanePositionSequence")),
        ("E-TRUNC", lambda ds: setattr(ds, "PixelData", ds.PixelData[:100])),
    ],
)
def test_broken_enhanced_files(tmp_path, code, edit):
    refused(cases.enhanced(tmp_path / "one.dcm", edit=edit), code)


def _frames(ds: Dataset) -> Sequence:
    return ds.PerFrameFunctionalGroupsSequence


def _double_frames(ds: Dataset) -> None:
    ds.NumberOfFrames, ds.PixelData = 10, ds.PixelData * 2
    ds.PerFrameFunctionalGroupsSequence = [*_frames(ds), *_frames(ds)]


def test_enhanced_gap_names_frames(tmp_path):
    message = refused(cases.enhanced(tmp_path / "one.dcm", order=(0, 1, 3, 4)), "E-GAP")
    assert "one.dcm frame 2 and one.dcm frame 3" in message


def test_inspect_shows_nothing_of_the_patient(tmp_path):
    cases.series(tmp_path)
    contents = mio.inspect(tmp_path)
    assert contents.format == "dicom"
    only = contents.series[0]
    assert (only.files, only.shape, only.dtype, only.units, only.problem) == (5, cases.SHAPE, "int32", "HU", "")
    assert only.spacing_mm == pytest.approx(cases.SPACING)
    assert not any(secret in str(contents) for secret in (*cases.SECRETS, "ACC1"))


def test_series_becomes_nifti(tmp_path):
    cases.series(tmp_path / "in", axes=cases.OBLIQUE)
    files = mio.write(mio.read(tmp_path / "in"), tmp_path / "scan.nii.gz", like=tmp_path / "in")
    again = mio.read(files[0])
    assert cases.ramp_error(again, cases.truth(cases.OBLIQUE)) < 1e-2
    assert again.geometry.distance_mm(cases.truth(cases.OBLIQUE)) < 1e-4
    assert (again.modality, again.units) == ("CT", "HU")
    assert not any(secret in files[1].read_text() for secret in cases.SECRETS)
    assert tuple(find_stack(tmp_path / "in")[0].files) == mio.sources(tmp_path / "in")


def test_refusals_are_input_errors():
    with pytest.raises(InputError, match="E-MISSING"):
        mio.inspect("nowhere")
