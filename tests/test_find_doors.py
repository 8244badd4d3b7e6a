"""Paths of every kind, and files that mean harm: pipes, links, bombs, nesting, directories of other folders."""

from __future__ import annotations

import gzip
import os
import time
from pathlib import Path

import dicom_cases as cases
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, generate_uid

import medidiff.io as mio
from medidiff.errors import InputError
from medidiff.io.dicom.headers.elements import MAX_DEPTH, Window, outline
from medidiff.io.dicom.headers.header import read_dataset

PIXELS = b"\xe0\x7f\x10\x00OW"
DEPTH = 5000


def refused(path: Path | str, code: str) -> str:
    with pytest.raises(InputError) as caught:
        mio.read(path)
    assert caught.value.code == code, caught.value
    return str(caught.value)


def nifti(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.diag((1, 2, 3, 1))), file)
    return file


def reasons(path: Path | str) -> dict[str, str]:
    return {entry.file: entry.reason for entry in mio.inspect(path).skipped}


# -- what is read ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["*.dcm", "IM*", "**/*.dcm", "../study/*.dcm", "*"])
def test_a_pattern_reads_like_its_folder(tmp_path, pattern):
    cases.series(tmp_path / "study")
    scan = mio.read(tmp_path / "study" / pattern)
    assert cases.ramp_error(scan, cases.truth()) < 1e-9
    assert len(mio.sources(str(tmp_path / "study" / pattern))) == 5


def test_a_pattern_takes_what_it_names_and_no_more(tmp_path):
    cases.series(tmp_path / "study" / "a")
    cases.series(tmp_path / "study" / "b", modality="MR")
    assert mio.read(tmp_path / "study" / "a*").modality == "CT"
    refused(tmp_path / "study" / "*", "E-MULTISERIES")
    refused(tmp_path / "study" / "c*", "E-MISSING")
    refused(tmp_path / "study" / "a**b", "E-MISSING")
    assert cases.ramp_error(mio.read(tmp_path / "study" / "[a]"), cases.truth()) < 1e-9
    (tmp_path / "study" / "a").rename(tmp_path / "study" / "[x]")  # a name that looks like a pattern is a name first
    assert mio.read(tmp_path / "study" / "[x]").modality == "CT"


def test_a_folder_without_dicom_holds_its_nifti_files(tmp_path):
    for name in ("sub-2/b.nii.gz", "sub-1/a.nii"):
        nifti(tmp_path / name)
    (tmp_path / "sub-1" / "a.json").write_text("{}")
    found = mio.find(tmp_path)
    assert (found.format, [scan.files[0].name for scan in found.scans]) == ("nifti", ["a.nii", "b.nii.gz"])
    reading = found.scans[0].load()
    assert {entry.file for entry in reading.skipped} == {"a.json", "b.nii.gz"}
    assert mio.read(tmp_path / "sub-1").shape == (2, 3, 4)


def test_nifti_beside_dicom_is_skipped(tmp_path):
    cases.series(tmp_path)
    nifti(tmp_path / "made.nii.gz")
    reading = mio.read_scan(tmp_path)
    assert cases.ramp_error(reading.volume, cases.truth()) < 1e-9
    assert [(entry.file, entry.reason) for entry in reading.skipped] == [
        ("made.nii.gz", "a NIfTI file beside DICOM images")
    ]


def test_content_decides_and_not_the_name(tmp_path):
    for number, file in enumerate(cases.series(tmp_path)):
        file.rename(tmp_path / ("scan.nii", "b.zip", "Thumbs.db", "x.nii.gz", "notes.txt")[number])
    assert cases.ramp_error(mio.read(tmp_path), cases.truth()) < 1e-9


def test_each_file_is_accounted_for(tmp_path):
    cases.series(tmp_path / "a")
    cases.series(tmp_path / "b", modality="MR")
    (tmp_path / "b" / "notes.txt").write_text("x")
    for scan in mio.find(tmp_path).scans:
        reading = scan.load()
        assert len(reading.files) + len(reading.skipped) == 11
    with pytest.raises(AssertionError):  # negative: the law sees a file that is dropped
        assert len(reading.files) + len(reading.skipped[1:]) == 11


# -- doors -------------------------------------------------------------------------------------------------------------


def test_pipes_and_links_are_skipped_and_nothing_hangs(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    cases.series(inside)
    secret = cases.series(outside, modality="MR")[0]
    os.mkfifo(inside / "pipe.dcm")
    (inside / "loop").symlink_to(inside)
    (inside / "self").symlink_to(inside / "self")
    (inside / "away").symlink_to(outside)
    (inside / "away.dcm").symlink_to(secret)
    (inside / "nowhere.dcm").symlink_to(tmp_path / "absent")
    (inside / "device.dcm").symlink_to("/dev/zero")
    (inside / "folder.dcm").mkdir()
    started = time.perf_counter()
    reading = mio.read_scan(inside)
    assert time.perf_counter() - started < 5
    assert cases.ramp_error(reading.volume, cases.truth()) < 1e-9
    names = {"pipe.dcm", "loop", "self", "away", "away.dcm", "nowhere.dcm", "device.dcm"}
    assert {entry.file for entry in reading.skipped} == names
    assert len(reading.files) + len(reading.skipped) == 5 + len(names)
    refused(inside / "pipe.dcm", "E-FORMAT")
    refused(inside / "self", "E-FORMAT")
    assert set(reasons(inside / "*.dcm")) == {"pipe.dcm", "away.dcm", "nowhere.dcm", "device.dcm"}


def test_a_link_inside_the_folder_is_a_file_like_others(tmp_path):
    files = cases.series(tmp_path)
    (tmp_path / "store").mkdir()
    files[2].rename(tmp_path / "store" / "blob")
    files[2].symlink_to(tmp_path / "store" / "blob")
    reading = mio.read_scan(tmp_path)
    assert cases.ramp_error(reading.volume, cases.truth()) < 1e-9
    assert len(reading.files) + len(reading.skipped) == 6


def test_a_dicomdir_is_not_followed(tmp_path):
    cases.series(tmp_path / "in")
    cases.series(tmp_path / "out", modality="MR")
    listing = cases.image(0)
    listing.SOPClassUID = "1.2.840.10008.1.3.10"
    record = Dataset()
    record.add(DataElement("ReferencedFileID", "CS", ["..", "out", "IM0000"], validation_mode=IGNORE))
    listing.DirectoryRecordSequence = [record]
    del listing.PixelData
    cases.save(listing, tmp_path / "in" / "DICOMDIR")
    assert "not followed" in reasons(tmp_path / "in")["DICOMDIR"]
    assert len(mio.inspect(tmp_path / "in").series) == 1


@pytest.mark.parametrize(
    ("uid", "word"),
    [
        ("1.2.840.10008.5.1.4.1.1.88.33", "SR"),
        ("1.2.840.10008.5.1.4.1.1.481.3", "RT Structure Set"),
        ("1.2.840.10008.5.1.4.1.1.481.2", "RT Dose"),
        ("1.2.840.10008.5.1.4.1.1.11.1", "Presentation State"),
        ("1.2.840.10008.5.1.4.1.1.88.59", "Key Object"),
        ("1.2.840.10008.5.1.4.1.1.20", "Nuclear Medicine"),
        ("1.2.840.10008.5.1.4.1.1.7.2", "Secondary Capture"),
    ],
)
def test_other_kinds_of_dicom_are_skipped_or_named_in_the_refusal(tmp_path, uid, word):
    other = cases.image(0)
    other.SOPClassUID, other.NumberOfFrames = uid, "3"
    cases.save(other, tmp_path / "other.dcm")
    assert word in refused(tmp_path, "E-NOIMAGES")
    cases.series(tmp_path)
    assert word in reasons(tmp_path)["other.dcm"]
    assert cases.ramp_error(mio.read(tmp_path), cases.truth()) < 1e-9


# -- headers -----------------------------------------------------------------------------------------------------------


def nested(kind: str, depth: int) -> bytes:
    """A private sequence that holds a sequence that holds a sequence and so on; explicit VR little endian."""
    if kind == "undefined length":
        start = b"\x09\x00\x01\x10SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
        return start * depth + b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0" * depth
    content = b""
    for _ in range(depth):
        item = b"\xfe\xff\x00\xe0" + len(content).to_bytes(4, "little") + content
        content = b"\x09\x00\x01\x10SQ\0\0" + len(item).to_bytes(4, "little") + item
    return content


@pytest.mark.parametrize("kind", ["undefined length", "defined length"])
@pytest.mark.parametrize("where", [b"\x10\x00\x10\x00PN", PIXELS])
def test_thousands_of_nested_sequences_are_stepped_over(tmp_path, kind, where):
    files = cases.series(tmp_path)
    content = files[0].read_bytes()
    at = content.index(where)
    files[0].write_bytes(content[:at] + nested(kind, DEPTH) + content[at:])
    started = time.perf_counter()
    assert cases.ramp_error(mio.read(tmp_path), cases.truth()) < 1e-9
    assert time.perf_counter() - started < 10
    assert 0x00091001 not in read_dataset(files[0], pixels=True)


def test_shallow_sequences_stay(tmp_path):
    file = cases.series(tmp_path)[0]
    content = file.read_bytes()
    at = content.index(b"\x10\x00\x10\x00PN")
    file.write_bytes(content[:at] + nested("undefined length", MAX_DEPTH - 1) + content[at:])
    assert 0x00091001 in read_dataset(file, pixels=False)


def test_a_sequence_without_an_end_is_a_cut_file(tmp_path):
    files = cases.series(tmp_path)
    content = files[4].read_bytes()
    at = content.index(PIXELS)
    files[4].write_bytes(content[:at] + b"\x09\x00\x01\x10SQ\0\0\xff\xff\xff\xff" * DEPTH)
    assert "IM0004.dcm" in refused(tmp_path, "E-TRUNC")


def deflated(file: Path, pixels: bytes) -> None:
    ds = pydicom.dcmread(file)
    ds.file_meta.TransferSyntaxUID, ds.PixelData = DeflatedExplicitVRLittleEndian, pixels
    ds.save_as(file)


def test_deflated_files_are_read_and_bombs_are_not(tmp_path):
    files = cases.series(tmp_path)
    for file in files:
        deflated(file, pydicom.dcmread(file).PixelData)
    assert cases.ramp_error(mio.read(tmp_path), cases.truth()) < 1e-9
    deflated(files[2], bytes(400 * 2**20))
    assert files[2].stat().st_size < 2**20
    assert "IM0002.dcm" in refused(tmp_path, "E-BOMB")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_gzip_bomb_is_not_a_scan(tmp_path, kind):
    bomb = tmp_path / "bomb.nii.gz"
    with gzip.open(bomb, "wb") as stream:
        for _ in range(64):
            stream.write(bytes(2**20))
    with pytest.raises(InputError):
        mio.read(tmp_path if kind == "folder" else bomb)


def test_a_huge_matrix_is_refused_from_its_header(tmp_path):
    def edit(ds: Dataset, k: int) -> None:
        ds.Rows = ds.Columns = 60000

    cases.series(tmp_path, edit=edit)
    message = refused(tmp_path, "E-SIZE")
    assert "60000 x 60000" in message
    assert "6.7 GiB" in message


@pytest.mark.parametrize("cut", [200, 700, -40, -84, -100])
def test_a_cut_file_says_how_many_bytes_it_lacks(tmp_path, cut):
    files = cases.series(tmp_path)
    whole = files[4].read_bytes()
    files[4].write_bytes(whole[:cut])
    message = refused(tmp_path, "E-TRUNC")
    assert "IM0004.dcm" in message
    assert ("where the header declares 84" if -84 <= cut < 0 else f"{len(whole[:cut])} bytes") in message


@pytest.mark.parametrize("mark", [b"DIC\xff", b"D\0\0M", b"\xff\xff\xff\xff"])
def test_an_image_without_its_magic_is_not_taken_for_junk(tmp_path, mark):
    """At the end of the stack, where the volume without it would look whole."""
    cases.patch(cases.series(tmp_path)[4], b"DICM", mark)
    assert "IM0004.dcm" in refused(tmp_path, "E-TRUNC")


def test_a_text_about_dicom_is_no_image(tmp_path):
    cases.series(tmp_path)
    (tmp_path / "notes.txt").write_text("SOP class 1.2.840.10008.5.1.4.1.1.2")
    assert cases.ramp_error(mio.read(tmp_path), cases.truth()) < 1e-9


def test_compressed_pixels_that_are_cut(tmp_path):
    files = cases.series(tmp_path)
    cases.compress(files, pydicom.uid.RLELossless)
    assert cases.ramp_error(mio.read(tmp_path), cases.truth()) < 1e-9
    files[1].write_bytes(files[1].read_bytes()[:-40])
    assert "in its pixels" in refused(tmp_path, "E-TRUNC")


def test_big_endian_without_a_meta_header(tmp_path):
    files = cases.series(tmp_path)
    for file in files:
        ds = Dataset(pydicom.dcmread(file))
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
        cases.save(ds, file, syntax=ExplicitVRBigEndian)
        content = file.read_bytes()
        file.write_bytes(content[content.index(b"\0\x08\0\x05CS") :])
    assert cases.ramp_error(mio.read(tmp_path), cases.truth()) < 1e-9


def test_a_name_in_no_known_charset_does_no_harm(tmp_path):
    def edit(ds: Dataset, k: int) -> None:
        ds.SpecificCharacterSet = "ISO_IR 192"

    files = cases.series(tmp_path / "Ünïcode çafé [1] 日本", edit=edit)
    for file in files:
        cases.patch(file, b"SECRET^NAME", b"\xff\xfe\x80CRET^N\xc3(")
    assert cases.ramp_error(mio.read(tmp_path), cases.truth()) < 1e-9


def test_a_part_of_a_concatenation_is_missed(tmp_path):
    uids = [generate_uid() for _ in range(3)]

    def part(number: int):
        def edit(ds: Dataset) -> None:
            ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = generate_uid(), uids[0], uids[1]
            ds.ConcatenationUID, ds.InConcatenationNumber, ds.InConcatenationTotalNumber = uids[2], number, 3

        return edit

    for number, order in enumerate(((0, 1), (2, 3), (4,)), 1):
        cases.enhanced(tmp_path / f"part{number}.dcm", order=order, edit=part(number))
    assert cases.ramp_error(mio.read(tmp_path), cases.truth()) < 1e-9
    (tmp_path / "part3.dcm").unlink()
    assert "part 3 of 3" in refused(tmp_path, "E-GAP")


def test_the_scan_reads_headers_and_no_pixels(tmp_path):
    """What bounds the time of a scan: blocks of a few kB are read, however large the pixels are."""

    class Counting(Window):
        asked = 0

        def get(self, at: int, count: int) -> bytes:
            Counting.asked = max(Counting.asked, at + count)
            return super().get(at, count)

    file = cases.series(tmp_path, edit=lambda ds, k: setattr(ds, "PixelData", bytes(2**22)))[0]
    with file.open("rb", buffering=0) as stream:
        found = outline(Counting(stream), (), name=file.name)
    assert found.pixels is not None
    assert found.pixels[1] == 2**22
    assert Counting.asked < 2**14
