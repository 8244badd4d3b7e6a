"""A derived classic series: exact values, exact places, a valid object, and nothing of the patient beside it."""

from __future__ import annotations

import dicom_cases as cases
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_written import RECORD, source, validate
from pydicom.dataset import Dataset

import medidiff.io as mio
from medidiff.errors import OutputError, SettingsError
from medidiff.io.dicom.derived.stored import Scale
from medidiff.volume import Geometry, Provenance, Volume

KINDS = ["CT", "MR", "PT", "enhanced CT", "enhanced MR", "enhanced PT"]


def sitk_geometry(files) -> Geometry:
    """The grid as SimpleITK reads it from files that are already in order."""
    stack = sitk.ReadImage([str(file) for file in files])
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(stack.GetDirection(), (3, 3)) * stack.GetSpacing()
    affine[:3, 3] = stack.GetOrigin()
    return Geometry(stack.GetSize(), np.diag((-1, -1, 1, 1)) @ affine)


def _drop(*names):
    def edit(ds: Dataset, k: int) -> None:
        for name in names:
            delattr(ds, name)

    return edit


def _set(**values):
    def edit(ds: Dataset, k: int) -> None:
        for name, value in values.items():
            setattr(ds, name, value)

    return edit


def test_validator_notices_a_broken_file(tmp_path):
    assert validate(cases.series(tmp_path, edit=_drop("ImagePositionPatient"), slices=range(1)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axes", [cases.AXIAL, cases.OBLIQUE])
def test_what_was_read_comes_back_exactly(tmp_path, kind, axes):
    folder = source(tmp_path / "in", kind, axes=axes)
    scan = mio.read(folder)
    files = mio.write(scan, tmp_path / "out", like=folder, provenance=RECORD)
    assert [file.name for file in files] == [f"IM{k:04d}.dcm" for k in range(1, 6)] + ["provenance.json"]
    again = mio.read(tmp_path / "out")
    assert np.array_equal(again.data, scan.data)
    assert (again.modality, again.units) == (scan.modality, scan.units)
    assert again.geometry.distance_mm(scan.geometry) < 1e-9
    assert again.geometry.distance_mm(cases.truth(axes)) < 1e-6
    assert sitk_geometry(files[:-1]).distance_mm(scan.geometry) < 1e-4
    assert validate(files, folder) == []
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


def test_what_the_new_series_keeps_and_what_it_drops(tmp_path):
    source = pydicom.dcmread(cases.series(tmp_path / "in", modality="MR")[0])
    before = mio.fingerprint(tmp_path / "in")
    files = mio.write(mio.read(tmp_path / "in"), tmp_path / "out", like=tmp_path / "in", provenance=RECORD)
    assert mio.fingerprint(tmp_path / "in") == before
    new = pydicom.dcmread(files[0])
    for name in (
        "StudyInstanceUID",
        "FrameOfReferenceUID",
        "PatientName",
        "PatientID",
        "SOPClassUID",
        "AccessionNumber",
    ):
        assert new[name].value == source[name].value
    assert new.SOPInstanceUID != source.SOPInstanceUID
    assert len({pydicom.dcmread(f).SeriesInstanceUID for f in files[:-1]} | {source.SeriesInstanceUID}) == 2
    assert list(new.ImageType) == ["DERIVED", "SECONDARY", "OTHER"]
    assert (new.SyntheticData, new.ContentQualification, new.BodyPartExamined) == ("NO", "RESEARCH", "HEAD")
    assert new.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert new.SourceImageSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert new.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert len(new.SeriesDescription) <= 64
    assert "SmallestImagePixelValue" not in new
    assert not any(element.tag.is_private for element in new)
    assert not any(secret in files[-1].read_text() for secret in cases.SECRETS)


def test_gaps_of_an_anonymised_source_are_closed(tmp_path):
    edit = _drop("FrameOfReferenceUID", "BodyPartExamined", "PatientSex", "AccessionNumber", "ScanOptions", "EchoTime")
    cases.series(tmp_path / "in", modality="MR", edit=edit)
    files = mio.write(mio.read(tmp_path / "in"), tmp_path / "out", like=tmp_path / "in", provenance=RECORD)
    assert validate(files) == []
    assert len({pydicom.dcmread(f).FrameOfReferenceUID for f in files[:-1]}) == 1


@pytest.mark.parametrize(
    ("charset", "name"),
    [("ISO_IR 100", "Müller^Jörg"), (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"), ("ISO_IR 192", "Пётр^И")],
)
def test_names_in_any_script_reach_the_new_series(tmp_path, charset, name):
    edit = _set(SpecificCharacterSet=charset, PatientName=name, BodyPartExamined="KNEE")
    cases.series(tmp_path / "in", modality="MR", edit=edit, slices=range(2))
    files = mio.write(mio.read(tmp_path / "in"), tmp_path / "out", like=tmp_path / "in")
    assert str(pydicom.dcmread(files[0]).PatientName) == name
    assert validate(files) == []


def test_bytes_outside_the_declared_charset_do_no_harm(tmp_path):
    for file in cases.series(tmp_path / "in", modality="MR", slices=range(2)):
        cases.patch(file, b"SECRET^NAME", b"SECR\xff\xfe^NAME")
    files = mio.write(mio.read(tmp_path / "in"), tmp_path / "out", like=tmp_path / "in")
    assert validate(files) == []


def test_a_writer_that_wraps_is_caught_and_leaves_nothing(tmp_path, monkeypatch):
    cases.series(tmp_path / "in")
    scan = mio.read(tmp_path / "in")

    def wraps(self, values):
        return (values + 1024).astype(np.uint8).astype(np.uint16)

    monkeypatch.setattr(Scale, "store", wraps)
    with pytest.raises(OutputError, match="E-VERIFY"):
        mio.write(scan, tmp_path / "out", like=tmp_path / "in")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_places_that_are_refused(tmp_path):
    cases.series(tmp_path / "in")
    scan = mio.read(tmp_path / "in")
    for place in (tmp_path / "in", tmp_path / "in" / "deeper", tmp_path / "in" / ".." / "in"):
        with pytest.raises(OutputError, match="E-OVERWRITE"):
            mio.write(scan, place, like=tmp_path / "in")
    mio.write(scan, tmp_path / "out", like=tmp_path / "in")
    with pytest.raises(OutputError, match="E-EXISTS"):
        mio.write(scan, tmp_path / "out", like=tmp_path / "in")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="E-OUT"):
        mio.write(scan, tmp_path / "file", like=tmp_path / "in")


def test_what_cannot_become_a_derived_series(tmp_path):
    cases.series(tmp_path / "in")
    scan, target = mio.read(tmp_path / "in"), tmp_path / "out"
    synthetic = Provenance(task="synthesise", version="0.1.0", synthetic=True)
    with pytest.raises(SettingsError, match="E-SYNTHETIC"):
        mio.write(scan, target, like=tmp_path / "in", provenance=synthetic)
    with pytest.raises(SettingsError, match="E-LIKE"):
        mio.write(scan, target, format="dicom")
    with pytest.raises(OutputError, match="E-UNITS"):
        mio.write(Volume(scan.data, scan.geometry, "MR"), target, like=tmp_path / "in")
    with pytest.raises(OutputError, match="E-4D"):
        mio.write(scan.with_data(np.repeat(scan.data, 2, axis=0)), target, like=tmp_path / "in")
    with pytest.raises(OutputError, match="E-NONFINITE"):
        mio.write(scan.with_data(scan.data * np.nan), target, like=tmp_path / "in")
    assert not target.exists()
