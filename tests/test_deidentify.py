"""De-identification: nothing of the patient stays, and everything of the picture does."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
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

from medidiff import io
from medidiff.io.dicom.privacy.deidentify import DeidentifyOptions, Key, deidentify
from tests import dicom_cases, planted

KEY = Key(b"0123456789abcdef-not-secret")
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)


def everything(folder: Path) -> bytes:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return b"\n".join(str(f.relative_to(folder)).encode() + b"\n" + f.read_bytes() for f in files)


def write_planted(folder: Path, *, modality: str = "CT", slices: int = 2, **how: object) -> list[Path]:
    uids = {"study": "1.2.3", "series": "1.2.4", "frame": "1.2.5"}
    images = [planted.plant(dicom_cases.image(k, modality=modality, uids=uids)) for k in range(slices)]
    return [planted.save_planted(ds, folder / f"PLANTFILE {k}.dcm", **how) for k, ds in enumerate(images)]


def test_more_than_sixty_identifiers_are_planted_and_found_where_they_are(tmp_path):
    (file,) = write_planted(tmp_path, slices=1)
    assert len(planted.PLANTED) >= 60
    assert planted.found_in(file.read_bytes()) == list(planted.SECRETS)


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize("dates", ["shift", "remove"])
def test_nothing_planted_stays(modality, syntax, dates, tmp_path):
    files = write_planted(tmp_path / "in", modality=modality, syntax=syntax)
    done = deidentify(tmp_path / "in", tmp_path / "out", key=KEY, options=DeidentifyOptions(dates=dates))
    assert len(done.files) == 2
    written = everything(tmp_path / "out") + repr(done.skipped + done.decisions).encode()
    assert planted.found_in(written) == []
    assert planted.found_in(planted.swapped(written)) == []
    assert b"PLANT" not in written.upper()
    for old, new in zip(files, sorted(done.files, key=lambda f: pydicom.dcmread(f).InstanceNumber), strict=True):
        before, after = pydicom.dcmread(old), pydicom.dcmread(new)
        assert after.PixelData == before.PixelData[: len(after.PixelData)]
        assert len(after.PixelData) == 2 * before.Rows * before.Columns
        assert not any(new.read_bytes()[:128])


def pair(folder: Path, *, key: Key = KEY, options: DeidentifyOptions | None = None) -> list[Dataset]:
    """What de-identification makes of a folder, in order of InstanceNumber."""
    out = folder.with_name(f"{folder.name}-out")
    shutil.rmtree(out, ignore_errors=True)
    done = deidentify(folder, out, key=key, options=options)
    return sorted((pydicom.dcmread(file) for file in done.files), key=lambda ds: int(ds.InstanceNumber or 0))


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_compressed_pixels_are_kept_and_comments_in_them_are_not(syntax, tmp_path):
    (file,) = write_planted(tmp_path / "in", slices=1)
    ds = pydicom.dcmread(file)
    ds.PixelData = ds.PixelData[: 2 * ds.Rows * ds.Columns]
    before = np.kron(dicom_cases.pixels(ds), np.ones((8, 8), np.uint16))  # large enough for every codec
    (ds.Rows, ds.Columns), ds.PixelData = before.shape, before.tobytes()
    ds.compress(syntax, generate_instance_uid=False)
    if syntax != RLELossless:
        stream = next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1))
        comment = b"PLANTCOMMENT"
        segment = (b"\xff\x64" if syntax == JPEG2000Lossless else b"\xff\xfe") + bytes([0, 2 + len(comment)]) + comment
        at = 4 + int.from_bytes(stream[4:6], "big") if syntax == JPEG2000Lossless else 2
        stream = stream[:at] + segment + stream[at:].rstrip(b"\0") + b"PLANTTRAILING"
        ds.PixelData = pydicom.encaps.encapsulate([stream])
    ds.save_as(file)
    assert planted.found_in(file.read_bytes(), ["PLANTHOSPITAL"])
    (after,) = pair(tmp_path / "in")
    assert planted.found_in(everything(tmp_path / "in-out")) == []
    assert np.array_equal(after.pixel_array, before)


def test_big_endian_becomes_little(tmp_path):
    ds = planted.plant(dicom_cases.image(0))
    ds.PixelData = ds.PixelData[: 2 * ds.Rows * ds.Columns]
    before = dicom_cases.pixels(ds).copy()
    ds.PixelData = before.byteswap().tobytes()
    dicom_cases.save(ds, tmp_path / "in" / "a", syntax=ExplicitVRBigEndian)
    (after,) = pair(tmp_path / "in")
    assert planted.found_in(everything(tmp_path / "in-out")) == []
    assert after.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert np.array_equal(after.pixel_array, before)


def test_unused_bits_are_cleared_and_signs_stay(tmp_path):
    def twelve_bits(ds: Dataset, k: int) -> None:
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, 1
        del ds.SmallestImagePixelValue
        dicom_cases.set_pixels(ds, ((dicom_cases.pixels(ds).astype(int) - 1100) & 0x0FFF) | 0x5000)

    dicom_cases.series(tmp_path / "in", edit=twelve_bits)
    for k, ds in enumerate(pair(tmp_path / "in")):
        i, j = np.meshgrid(range(dicom_cases.SHAPE[0]), range(dicom_cases.SHAPE[1]))
        assert np.array_equal(dicom_cases.pixels(ds), i + 10 * j + 100 * k - 76)


def test_the_volume_is_the_same(tmp_path):
    dicom_cases.series(tmp_path / "in", modality="MR", axes=dicom_cases.OBLIQUE)
    pair(tmp_path / "in")
    before, after = io.read(tmp_path / "in"), io.read(tmp_path / "in-out")
    assert np.array_equal(before.data, after.data)
    assert before.geometry == after.geometry


def test_two_series_of_one_patient_stay_linked(tmp_path):
    study = {"study": "1.2.3.4", "frame": "1.2.3.5"}
    days = {"A": ("20200229", "20200301"), "B": ("20200303",)}
    for name, dates in days.items():
        for k, day in enumerate(dates):
            ds = dicom_cases.image(k, uids=study | {"series": f"1.2.3.{ord(name)}"})
            ds.SOPInstanceUID, ds.StudyDate, ds.AcquisitionTime = f"1.2.3.{ord(name)}.{k}", day, "101112.5"
            ds.AcquisitionDateTime, ds.InstanceNumber = f"{day}101112.500+0100", ord(name) + k
            reference = Dataset()
            reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = ds.SOPClassUID, "1.2.3.65.0"
            ds.ReferencedImageSequence = [reference]
            dicom_cases.save(ds, tmp_path / "in" / name / str(k))
    first, second, third = pair(tmp_path / "in")
    assert first.PatientID == second.PatientID == third.PatientID == first.PatientName
    assert first.StudyInstanceUID == third.StudyInstanceUID != "1.2.3.4"
    assert first.SeriesInstanceUID == second.SeriesInstanceUID != third.SeriesInstanceUID
    assert third.ReferencedImageSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert third.ReferencedImageSequence[0].ReferencedSOPClassUID == dicom_cases.CLASSES["CT"]
    stamps = [np.datetime64(f"{d[:4]}-{d[4:6]}-{d[6:]}") for d in (x.StudyDate for x in (first, second, third))]
    assert [int((s - stamps[0]).astype(int)) for s in stamps] == [0, 1, 3]
    assert 1 <= int((np.datetime64("2020-02-29") - stamps[0]).astype(int)) <= 365
    assert first.AcquisitionTime == "101112.5"
    assert first.AcquisitionDateTime == f"{first.StudyDate}101112.500"


def test_another_key_gives_other_answers_and_another_patient_other_days():
    other = Key(b"another key of 16+")
    assert KEY.uid("1.2.3") == KEY.uid("1.2.3\0") != other.uid("1.2.3")
    assert KEY.pseudonym("a") != other.pseudonym("a")
    assert KEY.pseudonym("a") != KEY.pseudonym("b")
    assert len({KEY.days(str(n)) for n in range(200)}) > 100
    assert all(1 <= KEY.days(str(n)) <= 365 for n in range(200))
    assert len(KEY.uid("1.2")) <= 64
    assert "secret" not in repr(KEY)
    assert [KEY.shifted(day, "a") for day in ("", "2020", "20201332", "JANE DOE", "00010101")] == [""] * 5


def test_what_was_done_is_declared(tmp_path):
    dicom_cases.series(tmp_path / "in", slices=range(1))
    (ds,) = pair(tmp_path / "in")
    assert ds.PatientIdentityRemoved == "YES"
    assert ds.LongitudinalTemporalInformationModified == "MODIFIED"
    assert [c.CodeValue for c in ds.DeidentificationMethodCodeSequence] == ["113100", "113107"]
    relaxed = DeidentifyOptions(dates="remove", keep_characteristics=True)
    (ds,) = pair(tmp_path / "in", options=relaxed)
    assert ds.LongitudinalTemporalInformationModified == "REMOVED"
    assert [c.CodeValue for c in ds.DeidentificationMethodCodeSequence] == ["113100", "113108"]
    assert (ds.StudyDate, ds.StudyTime) == ("", "")


@pytest.mark.parametrize(("age", "kept"), [("045Y", "045Y"), ("097Y", "089Y"), ("007M", "007M"), ("JANE", None)])
def test_characteristics_stay_only_when_asked_for(age, kept, tmp_path):
    def describe(ds: Dataset, k: int) -> None:
        ds.add(pydicom.DataElement(0x00101010, "AS", age, validation_mode=0))
        ds.PatientWeight, ds.PatientSize, ds.PatientSex = "71.5", "1.68", "F"

    dicom_cases.series(tmp_path / "in", slices=range(1), edit=describe)
    (plain,) = pair(tmp_path / "in")
    assert (plain.PatientSex, plain.get("PatientAge"), plain.get("PatientWeight")) == ("", None, None)
    (ds,) = pair(tmp_path / "in", options=DeidentifyOptions(keep_characteristics=True))
    assert (ds.PatientSex, ds.get("PatientAge"), ds.PatientWeight, ds.PatientSize) == ("F", kept, 71.5, 1.68)


def test_technical_values_stay_and_words_of_no_maker_go(tmp_path):
    def describe(ds: Dataset, k: int) -> None:
        ds.Manufacturer, ds.ManufacturerModelName, ds.ConvolutionKernel = "SIEMENS", "SOMATOM Definition AS", "B31f"
        ds.ScanOptions, ds.StationName = "DOE JANE", "CT99"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", "JANE"]
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "T-A0100", "SRT", "Jane's brain"
        ds.AnatomicRegionSequence = [code]

    dicom_cases.series(tmp_path / "in", slices=range(1), edit=describe)
    (ds,) = pair(tmp_path / "in")
    assert (ds.Manufacturer, ds.ManufacturerModelName, ds.ConvolutionKernel) == (
        "SIEMENS",
        "SOMATOM Definition AS",
        "B31f",
    )
    assert list(ds.ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL"]
    assert "ScanOptions" not in ds
    assert "StationName" not in ds
    region = ds.AnatomicRegionSequence[0]
    assert (region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning) == ("12738006", "SCT", "Brain")


def dciodvfy(file: Path) -> set[str]:
    done = subprocess.run(["dciodvfy", "-new", file], capture_output=True, text=True, check=False)
    return {line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")}


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
@pytest.mark.parametrize("dates", ["shift", "remove"])
def test_no_new_error_by_dciodvfy(modality, dates, tmp_path):
    (source,) = dicom_cases.series(tmp_path / "in", modality=modality, slices=range(1))
    done = deidentify(tmp_path / "in", tmp_path / "out", key=KEY, options=DeidentifyOptions(dates=dates))
    assert dciodvfy(done.files[0]) <= dciodvfy(source)


def test_a_multi_frame_object_is_cleaned_in_every_frame(tmp_path):
    def label(ds: Dataset) -> None:
        for group in ds.PerFrameFunctionalGroupsSequence:
            content = Dataset()
            content.FrameComments, content.FrameAcquisitionDateTime = "PLANTFRAMECOMMENT", "20180713101500"
            content.StackID, content.InStackPositionNumber = "1", 1
            group.FrameContentSequence = [content]

    file = dicom_cases.enhanced(tmp_path / "in" / "a.dcm", edit=label)
    before = io.read(file)
    (ds,) = pair(tmp_path / "in")
    assert planted.found_in(everything(tmp_path / "in-out")) == []
    content = ds.PerFrameFunctionalGroupsSequence[3].FrameContentSequence[0]
    assert content.FrameAcquisitionDateTime[8:] == "101500"
    assert (content.StackID, "FrameComments" in content) == ("1", False)
    again = io.read(tmp_path / "in-out")
    assert np.array_equal(before.data, again.data)
    assert before.geometry == again.geometry
