"""Uncertainty as a Parametric Map: floats as they are, in place, with a unit, valid, and readable again."""

from __future__ import annotations

import json
import warnings

import dicom_cases as cases
import highdicom
import numpy as np
import pydicom
import pytest
from dicom_written import RECORD, enhanced, source, validate

import medidiff.io as mio
from medidiff.errors import InputError, OutputError, SettingsError
from medidiff.io.dicom.derived import parametric
from medidiff.volume import Provenance, Volume

KINDS = ["CT", "MR", "PT", "enhanced CT", "enhanced MR", "enhanced PT"]
UNITS = {"CT": "[hnsf'U]", "MR": "1", "PT": "Bq/ml"}


def spread_of(scan: Volume, *, seed: int = 0) -> Volume:
    rng = np.random.default_rng(seed)
    return scan.with_data(rng.gamma(2.0, 1.7, scan.data.shape).astype(np.float32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axes", [cases.AXIAL, cases.OBLIQUE])
def test_a_spread_comes_back_bit_for_bit(tmp_path, kind, axes):
    folder = source(tmp_path / "in", kind, axes=axes)
    scan = mio.read(folder)
    spread = spread_of(scan)
    files = mio.write(spread, tmp_path / "out", like=folder, provenance=RECORD, kind="spread")
    assert [file.name for file in files] == ["PM0001.dcm", "provenance.json"]
    again = mio.read(tmp_path / "out")
    assert np.array_equal(again.data, spread.data)
    assert again.data.dtype == np.float32
    assert (again.modality, again.units) == (scan.modality, scan.units)
    assert again.geometry.distance_mm(scan.geometry) < 1e-6
    assert validate(files, folder) == []


def test_highdicom_reads_the_same_numbers_at_the_same_places(tmp_path):
    folder = source(tmp_path / "in", "CT", axes=cases.OBLIQUE)
    scan = mio.read(folder)
    ramp = scan.with_data(scan.data.astype(np.float32) / 7)
    files = mio.write(ramp, tmp_path / "out", like=folder, kind="spread")
    other = highdicom.imread(files[0]).get_volume()
    places = np.moveaxis(np.indices(other.spatial_shape), 0, -1) @ other.affine[:3, :3].T + other.affine[:3, 3]
    index = np.rint(scan.geometry.index(places @ np.diag((-1, -1, 1)))).astype(int)
    assert np.array_equal(ramp.data[0][tuple(np.moveaxis(index, -1, 0))], other.array.astype(np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_map_says_of_itself(tmp_path, kind):
    folder = source(tmp_path / "in", kind)
    scan = mio.read(folder)
    origin = pydicom.dcmread(next(folder.rglob("*.dcm")))
    files = mio.write(spread_of(scan), tmp_path / "out", like=folder, provenance=RECORD, kind="spread")
    image = pydicom.dcmread(files[0])
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientName", "PatientID", "AccessionNumber"):
        assert image[name].value == origin[name].value
    assert image.SOPClassUID == "1.2.840.10008.5.1.4.1.1.30"
    assert (image.SyntheticData, image.ContentQualification) == ("NO", "RESEARCH")
    assert image.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    mapping = image.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == UNITS[scan.modality]
    assert len(image.SeriesDescription) <= 64
    named = set()
    for group in image.PerFrameFunctionalGroupsSequence:
        (item,) = group.DerivationImageSequence[0].SourceImageSequence
        named.add((item.ReferencedSOPInstanceUID, item.get("ReferencedFrameNumber")))
    assert len(named) == 5
    assert not any(secret in files[-1].read_text() for secret in cases.SECRETS)


@pytest.mark.parametrize("sex", ["", "U", "other and long"])
def test_a_strange_header_does_no_harm(tmp_path, sex):
    def strange(ds, k: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds.PatientSex, ds.StudyTime, ds.SeriesNumber = sex, "12:00:00 h", ""

    cases.series(tmp_path / "in", modality="MR", edit=strange)
    scan = mio.read(tmp_path / "in")
    files = mio.write(spread_of(scan), tmp_path / "out", like=tmp_path / "in", kind="spread")
    assert validate(files) == []


def test_a_spread_on_a_finer_grid(tmp_path):
    folder = source(tmp_path / "in", "MR")
    scan = mio.read(folder)
    finer = scan.geometry.with_spacing((*scan.geometry.spacing_mm[:2], 1.25))
    made = spread_of(Volume(np.zeros(finer.shape, np.float32), finer, "MR"))
    files = mio.write(made, tmp_path / "out", like=folder, kind="spread")
    again = mio.read(tmp_path / "out")
    assert np.array_equal(again.data, made.data)
    assert again.geometry.distance_mm(finer) < 1e-6
    assert validate(files, folder) == []


def test_a_map_whose_frames_are_mixed_up_is_caught(tmp_path, monkeypatch):
    folder = source(tmp_path / "in", "MR")
    honest = parametric._built

    def mixed(*args):
        image = honest(*args)
        half = len(image.FloatPixelData) // 5
        image.FloatPixelData = image.FloatPixelData[half:] + image.FloatPixelData[:half]
        return image

    monkeypatch.setattr(parametric, "_built", mixed)
    with pytest.raises(OutputError, match="E-VERIFY"):
        mio.write(spread_of(mio.read(folder)), tmp_path / "out", like=folder, kind="spread")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_maps_that_are_refused(tmp_path):
    folder = source(tmp_path / "in", "CT")
    spread = spread_of(mio.read(folder))
    invented = Provenance(task="synthesise", version="0.1.0", synthetic=True)
    with pytest.raises(SettingsError, match="E-SYNTHETIC"):
        mio.write(spread, tmp_path / "out", like=folder, provenance=invented, kind="spread")
    files = mio.write(spread, tmp_path / "out", like=folder, kind="spread")
    with pytest.raises(OutputError, match="E-EXISTS"):
        mio.write(spread, tmp_path / "out", like=folder, kind="spread")
    with pytest.raises(OutputError, match="E-SOPCLASS"):
        mio.write(spread, tmp_path / "more", like=tmp_path / "out")
    image = pydicom.dcmread(files[0])
    image.FloatPixelData = np.full(spread.data.size, np.nan, "<f4").tobytes()
    image.save_as(files[0])
    with pytest.raises(InputError, match="E-NONFINITE"):
        mio.read(tmp_path / "out")


def test_a_map_of_integers_is_left_aside(tmp_path):
    file = enhanced(tmp_path / "one.dcm", "CT")
    image = pydicom.dcmread(file)
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.30"
    image.save_as(file)
    with pytest.raises(InputError, match="E-NOIMAGES"):
        mio.read(tmp_path)


def test_float64_is_rounded_and_the_record_says_so(tmp_path):
    folder = source(tmp_path / "in", "MR")
    spread = spread_of(mio.read(folder))
    files = mio.write(spread.with_data(spread.data / np.float64(3)), tmp_path / "out", like=folder, kind="spread")
    assert json.loads(files[-1].read_text())["Provenance"]["decisions"] == ["stored in float32, as Parametric Maps are"]
    assert np.allclose(mio.read(tmp_path / "out").data, spread.data / 3, rtol=1e-6)
