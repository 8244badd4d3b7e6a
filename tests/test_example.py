"""The example study: what a scanner with thick slices would have made of the bundled scan, as valid DICOM of nobody."""

from importlib.resources import files

import numpy as np
import pydicom
import pytest

import medidiff as md
from medidiff.errors import SettingsError
from medidiff.io import inspect, read
from medidiff.io.dicom.example import example_scan, example_study
from medidiff.physics import slices
from tests.dicom_written import validate


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return example_study(tmp_path_factory.mktemp("example") / "study")


@pytest.fixture(scope="module")
def fine():
    return read(files("medidiff") / "sample/t1-brain.nii.gz")


def mean_of_four(fine, geometry):
    """What slices of 4 mm see of the bundled scan, by the operator of the package."""
    import torch

    image = torch.from_numpy(np.ascontiguousarray(fine.data[0].astype(np.float32)))
    seen = slices(fine.shape[2], factor=4.0)(image[None, None])[0, 0].numpy()
    coarse = md.Volume(seen, fine.geometry.with_spacing((*fine.geometry.spacing_mm[:2], 4.0)), "MR")
    where = geometry.world(np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), axis=-1))
    i, j, k = np.moveaxis(np.rint(coarse.geometry.index(where)).astype(int), -1, 0)
    assert coarse.geometry.distance_mm(md.Geometry(coarse.shape, coarse.geometry.affine)) == 0
    return coarse.data[0][i, j, k]


def test_it_is_read_as_slices_of_the_bundled_scan(study, fine):
    thick = read(study)
    assert thick.modality == "MR"
    assert thick.thickness_mm == pytest.approx(4.0, abs=1e-5)
    assert sorted(thick.geometry.spacing_mm) == pytest.approx([0.868, 0.868, 4.0], abs=1e-3)
    expected = mean_of_four(fine, thick.geometry)
    bright = expected > 0.3 * expected.max()
    assert np.abs(thick.data[0] - expected)[bright].std() < 0.012 * expected.max()
    assert np.abs(thick.data[0][:, ::-1] - expected)[bright].std() > 0.1 * expected.max()  # turned, it is another scan


def test_it_is_valid_and_names_nobody(study):
    images = sorted(study.rglob("*.dcm"))
    assert len(images) == 18
    assert validate(images) == []
    for path in images:
        image = pydicom.dcmread(path)
        assert (image.PatientName, image.PatientIdentityRemoved) == ("Example^Study", "YES")
        dates = [e for e in image if e.VR in ("DA", "TM", "DT") and e.value]
        assert dates == []
    (series,) = inspect(study).series
    assert series.problem == ""


def test_it_is_always_the_same_and_never_overwritten(study, tmp_path):
    again = example_study(tmp_path / "again")
    pairs = zip(sorted(study.rglob("*.dcm")), sorted(again.rglob("*.dcm")), strict=True)
    assert all(a.read_bytes() == b.read_bytes() for a, b in pairs)
    first = next(again.rglob("*.dcm"))
    first.write_bytes(b"mine")
    example_study(again)
    assert first.read_bytes() == b"mine"
    uids = {pydicom.dcmread(p).SeriesInstanceUID for p in example_study(tmp_path / "other", factor=8).rglob("*.dcm")}
    assert uids.isdisjoint({pydicom.dcmread(p).SeriesInstanceUID for p in study.rglob("*.dcm")})


def test_results_go_back_into_it(study, tmp_path):
    scan = read(study)
    written = md.write(scan, tmp_path / "derived", like=study, provenance=md.Provenance("denoise", "0.1.0"))
    images = [path for path in written if path.suffix == ".dcm"]
    assert validate(images, study) == []
    assert read(tmp_path / "derived").geometry.distance_mm(scan.geometry) < 1e-3


def test_another_factor_is_refused():
    with pytest.raises(SettingsError, match="E-FACTOR"):
        example_scan(5)
