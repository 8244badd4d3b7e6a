"""Sources of every kind: tilted, with gaps, lossy, in archives, among others, real ones; and runs that are stopped."""

from __future__ import annotations

import gzip
import os
import shutil
import zipfile
from pathlib import Path

import dicom_cases as cases
import nibabel
import numpy as np
import pydicom
import pytest
from dicom_written import RECORD, source, validate
from pydicom.encaps import encapsulate

import medidiff.io as mio
from medidiff.errors import OutputError
from medidiff.io.dicom.derived import write as dicom_write
from medidiff.io.options import ReadOptions
from medidiff.volume import Geometry, Volume

SHARED = Path(os.environ.get("MEDIDIFF_DATA") or Path(__file__).parents[2] / "shared" / "data") / "dicom"
SERIES = [
    *(f"{maker}/anatomical/001" for maker in ("ge", "hitachi", "hyperfine", "siemens", "siemens_multiframe")),
    *(f"generic/compressed{kind}/001" for kind in ("", "_j2k", "_jpeg", "_jpegls", "_rle")),
    "failing/gantrytilting/001",
]


def tilted(ds, k: int) -> None:
    shift = np.array((0, 0.7 * k, 0))
    ds.ImagePositionPatient = [f"{v:.8g}" for v in np.array(ds.ImagePositionPatient, float) + shift]
    ds.GantryDetectorTilt = "-15.6"


# -- geometry ----------------------------------------------------------------------------------------------------------


def test_a_tilted_series_stays_as_it_is_when_it_was_read_so(tmp_path):
    cases.series(tmp_path / "in", edit=tilted)
    options = ReadOptions(on_tilt="shear")
    scan = mio.read(tmp_path / "in", options)
    files = mio.write(scan, tmp_path / "out", like=tmp_path / "in", options=options)
    again = mio.read(tmp_path / "out", options)
    assert np.array_equal(again.data, scan.data)
    assert again.geometry.distance_mm(scan.geometry) < 1e-6
    assert pydicom.dcmread(files[0]).GantryDetectorTilt == -15.6
    assert validate(files) == []


def test_a_tilted_series_made_orthogonal_has_no_tilt_left(tmp_path):
    cases.series(tmp_path / "in", edit=tilted)
    options = ReadOptions(on_tilt="resample")
    scan = mio.read(tmp_path / "in", options)
    files = mio.write(scan, tmp_path / "out", like=tmp_path / "in", options=options)
    again = mio.read(tmp_path / "out")
    assert again.geometry.distance_mm(scan.geometry) < 1e-6
    first = pydicom.dcmread(files[0])
    assert "GantryDetectorTilt" not in first
    assert first.SourceImageSequence[0].SpatialLocationsPreserved == "NO"
    assert validate(files) == []


def test_shear_that_the_source_has_not_is_refused(tmp_path):
    cases.series(tmp_path / "in")
    scan = mio.read(tmp_path / "in")
    affine = scan.geometry.affine.copy()
    affine[1, 2] += 0.5
    with pytest.raises(OutputError, match="E-SHEAR"):
        mio.write(Volume(scan.data, Geometry(scan.shape, affine), "CT"), tmp_path / "out", like=tmp_path / "in")
    cases.series(tmp_path / "tilted", edit=tilted)
    options = ReadOptions(on_tilt="shear")
    other = Volume(scan.data, Geometry(scan.shape, affine), "CT")
    with pytest.raises(OutputError, match="E-SHEAR"):
        mio.write(other, tmp_path / "out", like=tmp_path / "tilted", options=options)


def test_a_filled_gap_becomes_a_slice_of_its_own(tmp_path):
    cases.series(tmp_path / "in", edit=lambda ds, k: k != 2)
    options = ReadOptions(on_gap="resample")
    scan = mio.read(tmp_path / "in", options)
    files = mio.write(scan, tmp_path / "out", like=tmp_path / "in", options=options, provenance=RECORD)
    again = mio.read(tmp_path / "out")
    assert np.abs(again.data - scan.data).max() <= 0.5
    assert cases.ramp_error(again, cases.truth()) <= 0.5
    assert len(pydicom.dcmread(files[2]).SourceImageSequence) == 2
    assert validate(files) == []


def test_a_nifti_header_that_rounded_the_positions_gives_them_back(tmp_path):
    folder = source(tmp_path / "in", "MR", axes=cases.OBLIQUE)
    scan = mio.read(folder)
    rounded = scan.geometry.affine.astype(np.float32).astype(np.float64)
    mio.write(Volume(scan.data, Geometry(scan.shape, rounded), "MR"), tmp_path / "out", like=folder)
    assert mio.read(tmp_path / "out").geometry.distance_mm(scan.geometry) < 1e-9


# -- what the source went through --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stated", [True, False])
def test_lossy_compression_is_never_forgotten(tmp_path, stated):
    def lossy(ds, k: int) -> None:
        if stated:
            ds.LossyImageCompression, ds.LossyImageCompressionRatio = "01", ["10", "3"]
            ds.LossyImageCompressionMethod = ["ISO_10918_1", "ISO_15444_1"]

    files = cases.series(tmp_path / "in", edit=lossy)
    scan = mio.read(tmp_path / "in")
    if not stated:  # the syntax alone tells it; the stream itself is not decoded here
        for file in files:
            ds = pydicom.dcmread(file)
            ds.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(96) + b"\xff\xd9"])
            ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.91"
            ds.save_as(file)
    new = [pydicom.dcmread(f) for f in mio.write(scan, tmp_path / "out", like=tmp_path / "in")[:-1]]
    assert {image.LossyImageCompression for image in new} == {"01"}
    methods = {str(image.LossyImageCompressionMethod) for image in new}
    assert methods == ({"['ISO_10918_1', 'ISO_15444_1']"} if stated else {"ISO_15444_1"})
    assert all(np.min(image.LossyImageCompressionRatio) >= 1 for image in new)
    assert validate(tmp_path.glob("out/*.dcm")) == []


def test_values_that_the_standard_does_not_allow_are_left_behind(tmp_path):
    def odd(ds, k: int) -> None:
        ds.PatientSex, ds.BurnedInAnnotation, ds.ScanningSequence, ds.MRAcquisitionType = "X", "MAYBE", "FLASH", "4D"
        ds.Laterality, ds.RepetitionTime, ds.BodyPartExamined = "BOTH", "", ["KNEE", "HIP"]
        ds.StationName, ds.TriggerTime, ds.LossyImageCompression = ["ONE", "TWO"], "", ""
        ds.ClinicalTrialProtocolID, ds.ClinicalTrialTimePointDescription = "a part", "of the trial modules"

    cases.series(tmp_path / "in", modality="MR", edit=odd)
    files = mio.write(mio.read(tmp_path / "in"), tmp_path / "out", like=tmp_path / "in")
    assert validate(files) == []


# -- where the source lies ---------------------------------------------------------------------------------------------


def test_a_source_in_an_archive(tmp_path):
    cases.series(tmp_path / "in")
    scan = mio.read(tmp_path / "in")
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for file in sorted((tmp_path / "in").iterdir()):
            archive.write(file, file.name)
    files = mio.write(scan, tmp_path / "out", like=tmp_path / "study.zip")
    assert np.array_equal(mio.read(tmp_path / "out").data, scan.data)
    assert validate(files, tmp_path / "in") == []


def test_one_scan_among_several(tmp_path):
    cases.series(tmp_path / "in" / "a", modality="MR")
    cases.series(tmp_path / "in" / "b", modality="CT")
    options = ReadOptions(scan=2)
    scan = mio.read(tmp_path / "in", options)
    files = mio.write(scan, tmp_path / "out", like=tmp_path / "in", options=options)
    assert pydicom.dcmread(files[0]).Modality == scan.modality == "CT"
    assert np.array_equal(mio.read(tmp_path / "out").data, scan.data)


def test_a_folder_beside_a_single_file_is_no_part_of_the_source(tmp_path):
    file = cases.enhanced(tmp_path / "one.dcm")
    scan = mio.read(file)
    with pytest.raises(OutputError, match="E-OVERWRITE"):
        mio.write(scan, tmp_path, like=file, format="dicom")
    mio.write(scan, tmp_path / "out", like=file)
    assert np.array_equal(mio.read(tmp_path / "out").data, scan.data)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError, OSError(28, "No space left on device")])
def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch, stop):
    cases.series(tmp_path / "in")
    scan, honest = mio.read(tmp_path / "in"), dicom_write.save

    def interrupted(image, file):
        if file.name == "IM0003.dcm":
            raise stop
        honest(image, file)

    monkeypatch.setattr(dicom_write, "save", interrupted)
    with pytest.raises((KeyboardInterrupt, MemoryError, OSError, OutputError)):
        mio.write(scan, tmp_path / "out", like=tmp_path / "in")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


# -- from an enhanced or mosaic object to classic images ---------------------------------------------------------------


def test_what_a_classic_image_says_of_an_enhanced_mr(tmp_path):
    folder = source(tmp_path / "in", "enhanced MR")
    files = mio.write(mio.read(folder), tmp_path / "out", like=folder)
    new = pydicom.dcmread(files[1])
    assert new.SOPClassUID == cases.CLASSES["MR"]
    assert list(new.ImageType) == ["DERIVED", "SECONDARY", "T1"]
    assert (new.RepetitionTime, new.EchoTime, new.InversionTime, new.FlipAngle) == (2300, 2.98, 900, 9)
    assert (list(new.ScanningSequence), new.SequenceVariant, new.ImagedNucleus) == (["GR", "IR"], "SP", "1H")
    assert (new.SequenceName, new.InPlanePhaseEncodingDirection, new.AcquisitionNumber) == ("mprage", "COL", 4)
    assert (new.AcquisitionDate, new.AcquisitionTime) == ("20200101", "120002.5")
    assert "PerFrameFunctionalGroupsSequence" not in new


def test_what_a_classic_image_says_of_an_enhanced_pet(tmp_path):
    folder = source(tmp_path / "in", "enhanced PT")
    files = mio.write(mio.read(folder), tmp_path / "out", like=folder)
    new = pydicom.dcmread(files[0])
    assert (list(new.CorrectedImage), new.DecayCorrection, new.Units) == (["DECY", "ATTN"], "START", "BQML")
    assert (new.SeriesDate, new.SeriesTime) == ("20200101", "115500")  # what decay is corrected to
    dose = new.RadiopharmaceuticalInformationSequence[0]
    assert (dose.RadiopharmaceuticalStartTime, dose.RadionuclideTotalDose) == ("110000", 370000000)
    assert [int(pydicom.dcmread(file).ImageIndex) for file in files[:-1]] == [1, 2, 3, 4, 5]
    assert new.NumberOfSlices == 5


@pytest.mark.parametrize("name", ["siemens_dwi_1000.dcm.gz", "philips_mprage.dcm.gz"])
def test_a_mosaic_and_an_enhanced_file_of_two_makers(tmp_path, name):
    packed = Path(nibabel.__file__).parent / "nicom" / "tests" / "data" / name
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "one.dcm").write_bytes(gzip.decompress(packed.read_bytes()))
    origin = pydicom.dcmread(tmp_path / "in" / "one.dcm", stop_before_pixels=True)
    scan = mio.read(tmp_path / "in")
    files = mio.write(scan, tmp_path / "out", like=tmp_path / "in")
    again = mio.read(tmp_path / "out")
    assert np.array_equal(again.data, scan.data)
    assert again.geometry.distance_mm(scan.geometry) < 1e-6
    assert validate(files[::16]) == []
    for k, file in enumerate(files[:-1]):
        (item,) = pydicom.dcmread(file, stop_before_pixels=True).SourceImageSequence
        assert item.ReferencedSOPInstanceUID == origin.SOPInstanceUID
        assert ("ReferencedFrameNumber" in item) == ("NumberOfFrames" in origin), k


# -- real series -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERIES)
def test_real_series_come_back_exactly(tmp_path, name):
    folder, options = SHARED / name, ReadOptions(on_tilt="shear")
    if not folder.is_dir():
        return  # the scans are kept beside the repository, not in it
    scan = mio.read(folder, options)
    files = mio.write(scan, tmp_path / "out", like=folder, options=options)
    again = mio.read(tmp_path / "out", options)
    assert np.array_equal(again.data, scan.data)
    assert again.geometry.distance_mm(scan.geometry) < 1e-6
    shutil.copytree(folder, tmp_path / "in")
    assert validate(files, tmp_path / "in") == []
