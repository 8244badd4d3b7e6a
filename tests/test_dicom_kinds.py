"""Files of another kind are set aside only where the whole file agrees on it; a damaged slice is never one of them."""

from __future__ import annotations

import dicom_cases
import pytest
from pydicom.dataset import Dataset

import medidiff.io as mio
from medidiff.errors import InputError

CT, ULTRASOUND, REPORT, CAPTURE = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.6.1",
    "1.2.840.10008.5.1.4.1.1.88.11",
    "1.2.840.10008.5.1.4.1.1.7",
)


def _stack(folder, where, edit):
    for k, file in enumerate(dicom_cases.series(folder)):
        if k == where:
            ds = dicom_cases.pydicom.dcmread(file)
            edit(ds)
            ds.save_as(file)


@pytest.mark.parametrize("where", [0, 4])
@pytest.mark.parametrize("meta", ["other", "same", "absent"])
@pytest.mark.parametrize("kind", [ULTRASOUND, CAPTURE, REPORT])
def test_a_slice_whose_class_has_changed_is_not_left_out(tmp_path, where, meta, kind):
    def edit(ds):
        ds.SOPClassUID = kind
        if meta == "same":
            ds.file_meta.MediaStorageSOPClassUID = kind
        elif meta == "absent":
            del ds.file_meta.MediaStorageSOPClassUID

    _stack(tmp_path, where, edit)
    with pytest.raises(InputError) as caught:
        mio.read(tmp_path)
    assert caught.value.code in ("E-TRUNC", "E-MIXMODALITY")


@pytest.mark.parametrize("lost", ["ImagePositionPatient", "ImageOrientationPatient"])
@pytest.mark.parametrize("kind", [ULTRASOUND, CAPTURE])
def test_half_a_place_is_enough_to_be_a_slice(tmp_path, kind, lost):
    def edit(ds):
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = kind
        delattr(ds, lost)

    _stack(tmp_path, 4, edit)
    with pytest.raises(InputError, match="E-MIXMODALITY"):
        mio.read(tmp_path)


@pytest.mark.parametrize("where", [0, 4])
def test_a_class_only_in_the_meta_header_is_damage(tmp_path, where):
    def edit(ds):
        del ds.SOPClassUID
        ds.file_meta.MediaStorageSOPClassUID = ULTRASOUND

    _stack(tmp_path, where, edit)
    with pytest.raises(InputError, match="E-TRUNC"):
        mio.read(tmp_path)


@pytest.mark.parametrize("placed", [False, True])
@pytest.mark.parametrize("meta", [True, False])
@pytest.mark.parametrize("kind", [ULTRASOUND, CAPTURE, REPORT, "1.3.12.2.1107.5.9.1"])
def test_what_is_another_kind_of_object_is_set_aside(tmp_path, kind, meta, placed):
    files = dicom_cases.series(tmp_path)
    ds = dicom_cases.image(0)  # in a series of its own
    ds.SOPClassUID = kind
    if not placed:
        del ds.ImagePositionPatient, ds.ImageOrientationPatient
    dicom_cases.save(ds, tmp_path / "other")
    if not meta:
        content = (tmp_path / "other").read_bytes()
        (tmp_path / "other").write_bytes(content[content.index(b"\x08\0\x05\0CS") :])
    found = mio.find(tmp_path)
    assert [len(scan.files) for scan in found.scans] == [len(files)]
    assert [entry.file for entry in found.skipped] == ["other"]
    assert dicom_cases.ramp_error(mio.read(tmp_path), dicom_cases.truth()) == 0


def test_a_report_in_the_series_itself_is_set_aside(tmp_path):
    files = dicom_cases.series(tmp_path)
    series = dicom_cases.pydicom.dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID = REPORT, "1.2.3.4", series
    dicom_cases.save(ds, tmp_path / "other")
    assert mio.read(tmp_path).shape == dicom_cases.SHAPE
