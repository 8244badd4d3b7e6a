"""From stored bits to values: signs, junk, slopes, byte order, padding, and every transfer syntax."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import _gdcm
import dicom_cases as cases
import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000, JPEG2000Lossless, JPEGLSLossless, JPEGLSNearLossless, RLELossless

import medidiff.io as mio
from medidiff.errors import InputError
from medidiff.io.dicom.headers.header import Header
from medidiff.io.dicom.pixels import decode
from medidiff.io.dicom.pixels.values import data_type, padding_of, put, stored_values

NEAR = (folder / "shared" / "data" for folder in Path(__file__).resolve().parents[2:])
SHARED = Path(os.environ.get("MEDIDIFF_DATA") or next((p for p in NEAR if p.is_dir()), "shared"))
LOSSLESS_JPEG = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
BASELINE, EXTENDED = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
GOOD = (RLELossless, JPEGLSLossless, JPEG2000Lossless, *LOSSLESS_JPEG)


def refused(path: Path, code: str) -> InputError:
    with pytest.raises(InputError) as caught:
        mio.read(path)
    assert caught.value.code == code, str(caught.value)
    assert not any(secret in str(caught.value) for secret in cases.SECRETS)
    return caught.value


def header(**values) -> Header:
    return Header(file=Path("x.dcm"), modality="CT", **values)


# -- bits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("allocated", [8, 16, 32])
@pytest.mark.parametrize("signed", [0, 1])
def test_used_bits_and_sign_against_plain_arithmetic(allocated, signed):
    rng = np.random.default_rng(allocated + signed)
    for stored in sorted({1, 2, allocated // 2, allocated - 1, allocated} - {1 if signed else 0}):
        cells = rng.integers(0, 2**allocated, (5, 4), dtype=np.uint64).astype(f">u{allocated // 8}")
        values = stored_values(cells, header(bits=(allocated, stored, stored - 1, signed)))
        for cell, value in zip(cells.ravel().tolist(), values.ravel().tolist(), strict=True):
            number = cell % 2**stored
            assert value == (number - 2**stored if signed and number >= 2 ** (stored - 1) else number)


@pytest.mark.parametrize(
    ("bits", "rescale", "expected"),
    [
        ((16, 12, 11, 0), None, "int16"),
        ((16, 16, 15, 0), None, "uint16"),
        ((16, 16, 15, 0), (1.0, -1024.0), "int32"),
        ((16, 16, 15, 0), (1.0, -32768.0), "int16"),
        ((16, 16, 15, 1), (1.0, 32768.0), "uint16"),
        ((32, 32, 31, 0), (1.0, -5.0), "int64"),
        ((8, 8, 7, 0), (2.0, 0.0), "float32"),
        ((16, 16, 15, 0), (1.0, 0.5), "float32"),
        ((32, 32, 31, 0), (0.5, 0.0), "float64"),
    ],
)
def test_type_in_memory_holds_every_value(bits, rescale, expected):
    image = header(bits=bits, rescale=rescale)
    assert data_type([image]) == expected
    low, high = (-(2 ** (bits[1] - 1)), 2 ** (bits[1] - 1) - 1) if bits[3] else (0, 2 ** bits[1] - 1)
    stored = np.array([[low, high]], dtype=f"{'i' if bits[3] else 'u'}{bits[0] // 8}")
    out = np.empty(stored.shape, expected)
    put(stored, image, out)
    slope, intercept = rescale or (1, 0)
    assert out.tolist() == [[low * slope + intercept, high * slope + intercept]]


def _bits_8(ds: Dataset, k: int) -> None:
    real = cases.pixels(ds).astype(int) - 1024
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.RescaleSlope, ds.RescaleIntercept = "4", "0"
    ds.PixelData = np.rint(real / 4).astype("u1").tobytes()
    ds.PixelData += b"\0" * (len(ds.PixelData) % 2)


def _bits_32(ds: Dataset, k: int) -> None:
    real = cases.pixels(ds).astype(int) - 1024
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 32, 32, 31, 1
    ds.RescaleIntercept = "70000"
    ds.PixelData = (real - 70000).astype("<i4").tobytes()


@pytest.mark.parametrize(("edit", "near"), [(_bits_8, 2.0), (_bits_32, 1e-9)])
def test_cells_of_other_sizes(tmp_path, edit, near):
    cases.series(tmp_path, edit=edit)
    assert cases.ramp_error(mio.read(tmp_path), cases.truth()) <= near


@pytest.mark.parametrize("edit", [_bits_8, _bits_32])
@pytest.mark.parametrize("vr", ["OW", "OB"])
def test_big_endian_cells(tmp_path, edit, vr):
    for file in cases.series(tmp_path, edit=edit):
        ds = Dataset(pydicom.dcmread(file))
        kind = f"u{ds.BitsAllocated // 8}"
        cells = np.frombuffer(ds.PixelData, f"<{kind}").astype(f">{kind}").tobytes()
        if kind == "u1" and vr == "OW":
            cells = np.frombuffer(cells, "<u2").astype(">u2").tobytes()
        elif vr == "OB" and kind != "u1":
            return
        ds.PixelData = cells
        ds["PixelData"].VR = vr
        cases.save(ds, file, syntax="1.2.840.10008.1.2.2")
    assert cases.ramp_error(mio.read(tmp_path), cases.truth()) <= 2


def test_twelve_bits_allocated_are_refused(tmp_path):
    cases.series(tmp_path, edit=lambda ds, k: [setattr(ds, "BitsAllocated", 12), setattr(ds, "BitsStored", 12)])
    refused(tmp_path, "E-DTYPE")


# -- padding -----------------------------------------------------------------------------------------------------------


def padded(ds: Dataset, k: int) -> None:
    """A signed CT whose corner holds the padding value."""
    real = cases.pixels(ds).astype(int) - 1024
    ds.PixelRepresentation, ds.PixelPaddingValue, ds.RescaleIntercept = 1, -2000, "-10"
    ds["PixelPaddingValue"].VR = "SS"
    stored = real + 10
    stored[:2, :3] = -2000
    cases.set_pixels(ds, stored)


def test_padding_keeps_its_value_and_is_marked(tmp_path):
    cases.series(tmp_path, edit=padded)
    reading = mio.read_scan(tmp_path)
    scan, corner = reading.volume, np.zeros(cases.SHAPE, bool)
    corner[:3, :2] = True
    assert np.array_equal(scan.padding, corner)
    assert (scan.data[0][corner] == -2010).all()
    assert np.abs(scan.data[0] - cases.ramp(scan.geometry, cases.truth()))[~corner].max() < 1e-9
    assert any("PixelPaddingValue" in text for text in reading.decisions)


def test_padding_by_range_and_with_a_slope_of_each_slice(tmp_path):
    def edit(ds: Dataset, k: int) -> None:
        padded(ds, k)
        stored = cases.pixels(ds).copy()
        stored[:2, :3] -= np.arange(6, dtype=np.int16).reshape(2, 3)
        cases.set_pixels(ds, stored)
        ds.PixelPaddingRangeLimit, ds.RescaleSlope = -2005, str(1 + k)
        ds["PixelPaddingRangeLimit"].VR = "SS"

    cases.series(tmp_path, edit=edit)
    scan = mio.read(tmp_path)
    assert scan.padding.sum() == 6 * 5
    assert scan.padding[:3, :2].all()
    assert scan.data[0, 0, 0].tolist() == [-2000 * (1 + k) - 10 for k in range(5)]


@pytest.mark.parametrize(
    ("bits", "pattern", "cells", "expected"),
    [
        ((16, 16, 15, 1), 63536, [63536, 63535, 0], [True, False, False]),  # -2000 that a header calls unsigned
        ((16, 12, 11, 0), 63536, [63536, 2096, 0], [True, False, False]),  # wider than the bits that are used
        ((16, 12, 11, 0), 4095, [0xFFFF, 4095, 0], [True, True, False]),  # junk above a padding that fits
        ((16, 12, 11, 1), 63536, [63536, 0x0830, 0], [True, True, False]),
        ((8, 8, 7, 0), 255, [255, 254, 0], [True, False, False]),
    ],
)
def test_which_cells_are_padding(bits, pattern, cells, expected):
    image = header(bits=bits, padding=(pattern,))
    array = np.array([cells], f"u{bits[0] // 8}")
    assert padding_of(array, stored_values(array, image), image).tolist() == [expected]
    assert padding_of(array, array, header(bits=bits)) is None


def test_padding_that_is_declared_and_never_used_marks_nothing(tmp_path):
    def edit(ds: Dataset, k: int) -> None:
        ds.PixelPaddingValue = 63536
        ds["PixelPaddingValue"].VR = "US"

    cases.series(tmp_path, edit=edit)
    assert mio.read(tmp_path).padding is None


# -- files that change -------------------------------------------------------------------------------------------------


def test_what_is_hashed_is_what_was_read(tmp_path):
    files = cases.series(tmp_path)
    reading = mio.read_scan(tmp_path)
    assert list(reading.files) == files
    assert reading.sha256 == tuple(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)


@pytest.mark.parametrize("change", ["grown", "gone", "replaced"])
def test_a_file_that_changes_after_it_was_found(tmp_path, change):
    files = cases.series(tmp_path)
    scan = mio.find(tmp_path).scans[0]
    if change == "grown":
        files[2].write_bytes(files[2].read_bytes() + b"\0\0")
    elif change == "gone":
        files[2].unlink()
    else:
        other, held = tmp_path.parent / f"{tmp_path.name}-other", files[2].read_bytes()
        uid = pydicom.dcmread(files[2]).SOPInstanceUID.encode()
        changed = uid[:-1] + (b"1" if uid.endswith(b"2") else b"2")
        other.write_bytes(held.replace(uid, changed))  # another image in a file of the same size
        other.replace(files[2])
    with pytest.raises(InputError, match=r"E-CHANGED: IM0002\.dcm"):
        scan.load()


# -- compressed pixels -------------------------------------------------------------------------------------------------


def larger(ds: Dataset, k: int) -> None:
    ds.Columns, ds.Rows = 56, 48
    i, j = np.meshgrid(range(56), range(48))
    cases.set_pixels(ds, i + 10 * j + 100 * k + 1024)


def small_values(ds: Dataset, k: int) -> None:
    """8 bits, smooth."""
    ds.Columns, ds.Rows, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 56, 48, 8, 8, 7
    ds.RescaleSlope, ds.RescaleIntercept = "4", "0"
    i, j = np.meshgrid(range(56), range(48))
    ds.PixelData = np.rint((i + 10 * j + 100 * k) / 4).astype("u1").tobytes()


def gdcm(files: list[Path], *how: str) -> None:
    program = Path(_gdcm.__file__).with_name("gdcmconv")  # what the script of that name starts
    for file in files:
        subprocess.run([program, *how, file, file], check=True, capture_output=True)


def squeeze(files: list[Path], syntax: str) -> None:
    if syntax in LOSSLESS_JPEG:
        gdcm(files, "--jpeg")
        if syntax == LOSSLESS_JPEG[0]:  # selection value 1 is one of those that .57 allows
            for file in files:
                cases.patch(file, LOSSLESS_JPEG[1].encode(), LOSSLESS_JPEG[0].encode())
    else:
        cases.compress(files, syntax)
    assert {pydicom.dcmread(f).file_meta.TransferSyntaxUID for f in files} == {syntax}


def signed(ds: Dataset, k: int) -> None:
    larger(ds, k)
    real = cases.pixels(ds).astype(int) - 1024
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.RescaleIntercept = 12, 11, 1, "300"
    cases.set_pixels(ds, real - 300)


@pytest.mark.parametrize("edit", [larger, signed])
@pytest.mark.parametrize("syntax", GOOD)
def test_lossless_syntaxes_are_exact(tmp_path, syntax, edit):
    squeeze(cases.series(tmp_path, edit=edit), syntax)
    assert cases.ramp_error(mio.read(tmp_path), cases.truth()) < 1e-9


@pytest.mark.parametrize("syntax", [BASELINE, EXTENDED, JPEGLSNearLossless, JPEG2000])
def test_lossy_syntaxes_are_near(tmp_path, syntax):
    files = cases.series(tmp_path, edit=small_values)
    if syntax in (BASELINE, EXTENDED):
        gdcm(files, "--jpeg", "--lossy", "-q", "98")
        if syntax == EXTENDED:  # a baseline stream is an extended one
            for file in files:
                cases.patch(file, BASELINE.encode(), EXTENDED.encode())
    else:
        for file in files:
            ds = pydicom.dcmread(file)
            how = {"jls_error": 1} if syntax == JPEGLSNearLossless else {"j2k_cr": [2]}
            ds.compress(syntax, generate_instance_uid=False, **how)
            ds.save_as(file)
    assert {pydicom.dcmread(f).file_meta.TransferSyntaxUID for f in files} == {syntax}
    assert cases.ramp_error(mio.read(tmp_path), cases.truth()) < 4 * 5


def test_compressed_frames_of_an_enhanced_file(tmp_path):
    file = cases.enhanced(tmp_path / "one.dcm", order=(2, 0, 4, 1, 3))
    cases.compress([file], JPEGLSLossless)
    assert len(list(generate_frames(pydicom.dcmread(file).PixelData, number_of_frames=5))) == 5
    assert cases.ramp_error(mio.read(file), cases.truth()) < 1e-9


@pytest.mark.parametrize("syntax", GOOD)
@pytest.mark.parametrize("damage", ["cut", "zeros", "noise", "other size"])
def test_damaged_streams_are_refused_and_the_process_lives(tmp_path, syntax, damage):
    files = cases.series(tmp_path, edit=larger, slices=range(4))
    squeeze(files, syntax)
    ds = pydicom.dcmread(files[2])
    stream = bytearray(next(generate_frames(ds.PixelData, number_of_frames=1)))
    if damage == "cut":
        stream = stream[: len(stream) // 2]
    elif damage == "zeros":
        stream[len(stream) // 4 :] = bytes(len(stream) - len(stream) // 4)
    elif damage == "noise":
        stream[: len(stream) // 2] = np.random.default_rng(0).bytes(len(stream) // 2)
    else:
        ds.Rows, ds.Columns = 56, 48
    ds.PixelData = encapsulate([bytes(stream)])
    ds.save_as(files[2])
    if damage == "other size":
        for file in (files[0], files[1], files[3]):
            file.unlink()
        twin = pydicom.dcmread(files[2])
        twin.SOPInstanceUID, twin.ImagePositionPatient = "1.2.3", [*ds.ImagePositionPatient[:2], "100"]
        twin.save_as(files[3])
        if syntax == RLELossless:  # which holds no size, and so fits any of as many pixels
            return
    fault = refused(tmp_path, "E-DECODE")
    assert fault.file == ("IM0002.dcm")


def test_a_decoder_that_dies_or_hangs_ends_nothing_else(tmp_path, monkeypatch):
    files = cases.series(tmp_path, edit=larger)
    cases.compress(files, JPEGLSLossless)
    crash, hang = tmp_path / "crash.py", tmp_path / "hang.py"
    crash.write_text("import os, sys\nsys.stdin.buffer.read(4)\nos.abort()\n")
    hang.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(decode, "_SECONDS", 0.5)
    for program in (crash, hang):
        monkeypatch.setattr(decode.decode_child, "__file__", str(program))
        assert "broke down" in refused(tmp_path, "E-DECODE").found


def test_a_decoder_that_cannot_be_started(tmp_path, monkeypatch):
    cases.compress(cases.series(tmp_path, edit=larger, slices=range(2)), JPEGLSLossless)
    monkeypatch.setattr(decode.sys, "executable", str(tmp_path / "nowhere"))
    assert "cannot be started" in refused(tmp_path, "E-DECODE").found


@pytest.mark.parametrize(
    ("syntax", "name", "package"),
    [
        (JPEGLSLossless, "JPEG-LS Lossless", "pyjpegls"),
        (JPEG2000Lossless, "JPEG 2000", "pylibjpeg-openjpeg"),
        (LOSSLESS_JPEG[1], "JPEG Lossless", "python-gdcm"),
    ],
)
def test_a_missing_decoder_is_named_with_its_package(tmp_path, monkeypatch, syntax, name, package):
    squeeze(cases.series(tmp_path, edit=larger), syntax)
    monkeypatch.setattr(decode, "_installed", lambda plugin: False)
    fault = refused(tmp_path, "E-NODECODER")
    assert name in fault.found
    assert f"pip install {package}" in fault.mend
    assert "E-NODECODER" in mio.inspect(tmp_path).series[0].problem


def test_one_missing_decoder_is_replaced_by_another(tmp_path, monkeypatch):
    squeeze(cases.series(tmp_path, edit=larger), JPEGLSLossless)
    monkeypatch.setattr(decode, "_installed", lambda plugin: plugin == "gdcm")
    assert cases.ramp_error(mio.read(tmp_path), cases.truth()) < 1e-9


def test_a_syntax_that_nobody_decodes(tmp_path):
    for file in cases.series(tmp_path):
        cases.patch(file, b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4.")
    assert "unknown transfer syntax" in refused(tmp_path, "E-NODECODER").found


REAL = ("compressed", "compressed_rle", "compressed_jpeg", "compressed_jpegls", "compressed_j2k")


@pytest.mark.parametrize("kind", REAL)
def test_real_compressed_series_agree_with_their_reference(kind):
    folder = SHARED / "dicom" / "generic" / kind
    assert folder.is_dir(), "set MEDIDIFF_DATA to the folder of shared data"
    scan = mio.read(folder / "001")
    reference = nibabel.load(folder / "001_ground_truth.nii.gz")
    values = np.asarray(reference.dataobj)
    places = scan.geometry.world(np.moveaxis(np.indices(scan.shape), 0, -1))
    index = np.linalg.solve(reference.affine[:3, :3], (places - reference.affine[:3, 3])[..., None])[..., 0]
    nearest = np.rint(index).astype(int)
    assert np.abs(nearest - index).max() < 0.01
    assert np.array_equal(values[tuple(np.moveaxis(nearest, -1, 0))], scan.data[0])
