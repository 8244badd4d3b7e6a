"""Read, write, read: exact for integers, 1e-6 for floats, 1e-6 mm for the grid, and nothing lost on the way."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nifti_cases import ORIENTATIONS, SHAPE, grid, nifti, ramp, ramp_error

import medidiff.io as mio
from medidiff.errors import OutputError
from medidiff.io import ReadOptions
from medidiff.io.sidecar import record_path
from medidiff.volume import Geometry, Provenance, Volume

ENDINGS = (".nii", ".nii.gz", ".nrrd", ".mha")
SHEARED = grid(turn=np.array([[1, 0.2, 0], [0, 1, 0], [0, 0, 1]], float))


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_every_orientation_keeps_its_grid_in_full(tmp_path, ending, order, signs):
    truth = grid(order, signs)
    affine = truth.affine.copy()
    affine[:3, 3] += (1 / 3, 200 / 7, -np.pi)
    truth = Geometry(SHAPE, affine)
    file = mio.write(Volume(ramp().astype(np.int16), truth), tmp_path / f"a{ending}")[0]
    again = mio.read(file)
    assert again.geometry.distance_mm(truth) < 1e-9
    assert ramp_error(again, truth) < 1e-9
    second = mio.write(again, tmp_path / f"b{ending}", like=file)[0]
    assert mio.read(second).geometry.distance_mm(truth) < 1e-9


def test_the_record_is_not_believed_against_the_header(tmp_path):
    file = mio.write(Volume(ramp().astype(np.int16), grid()), tmp_path / "a.nii")[0]
    assert isinstance(nib.load(file), nib.Nifti1Image)
    assert not isinstance(nib.load(file), nib.Nifti2Image)
    image = nib.load(file)
    moved = grid().affine.copy()
    moved[0, 3] += 1e-4
    image.set_sform(moved, code=1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), tmp_path / "b.nii")
    (tmp_path / "b.json").write_bytes((tmp_path / "a.json").read_bytes())
    assert mio.read(tmp_path / "b.nii").geometry.affine[0, 3] == np.float32(moved[0, 3])
    (tmp_path / "a.json").unlink()
    assert 0 < mio.read(file).geometry.distance_mm(grid()) < 1e-4


@pytest.mark.parametrize(
    "text", ["[]", "{", "[" * 100_000, '{"GeneratedBy": [{"Name": "medidiff"}], "AffineRAS": "x"}']
)
def test_a_hostile_record_changes_nothing(tmp_path, text):
    file = nifti(tmp_path / "a.nii")
    (tmp_path / "a.json").write_text(text)
    assert ramp_error(mio.read(file), grid()) < 1e-3


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("scale", "dtype"), [(1 / 3, "f4"), (1e-200, "f8"), (1e300, "f8"), (1e-42, "f8")])
def test_floats_keep_six_digits(tmp_path, ending, scale, dtype):
    data = ramp() * scale
    again = mio.read(mio.write(Volume(data, grid()), tmp_path / f"a{ending}")[0])
    assert again.data.dtype == np.dtype(dtype)
    assert (np.abs(again.data[0] - data) <= 1e-6 * np.abs(data)).all()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("dtype", ["i2", "u2", "i4", "u4", "i8", "u8"])
def test_the_largest_integers_never_wrap(tmp_path, ending, dtype):
    limits = np.iinfo(dtype)
    data = np.zeros(SHAPE, dtype)
    data[0, 0, 0], data[1, 1, 1] = max(limits.min, -(2**53)), min(limits.max, 2**53)
    assert np.array_equal(mio.read(mio.write(Volume(data, grid()), tmp_path / f"a{ending}")[0]).data[0], data)
    if limits.max > 2**53:
        data[0, 0, 0] = limits.max
        with pytest.raises(OutputError, match="E-RANGE"):
            mio.write(Volume(data, grid()), tmp_path / f"b{ending}")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_hounsfield_units_are_stored_plainly(tmp_path, ending):
    data = (ramp() - 1024).astype(np.int16)
    file = mio.write(Volume(data, grid(), "CT", "HU"), tmp_path / f"a{ending}")[0]
    image = nib.load(file)
    assert (image.dataobj.slope, image.dataobj.inter, image.get_data_dtype()) == (1.0, 0.0, np.int16)
    assert np.array_equal(np.asarray(image.dataobj), data)
    assert "CT in HU, as the JSON file beside the scan says" in mio.read_scan(file).decisions


def test_shear_is_kept_by_nifti_and_refused_by_the_others(tmp_path):
    volume = Volume(ramp(), SHEARED)
    file = mio.write(volume, tmp_path / "a.nii.gz")[0]
    assert int(nib.load(file).header["qform_code"]) == 0
    again = mio.read(file, ReadOptions(on_tilt="shear"))
    assert again.geometry.distance_mm(SHEARED) < 1e-9
    for ending in (".nrrd", ".mha"):
        with pytest.raises(OutputError, match="E-SHEAR"):
            mio.write(volume, tmp_path / f"b{ending}")


@pytest.mark.parametrize("ending", ENDINGS)
def test_padding_comes_back_and_filled_voxels_get_a_mask(tmp_path, ending):
    data = ramp().astype(np.int16)
    data[0, 0, :] = -2000
    filled = np.zeros(SHAPE, bool)
    filled[2, 3, 1] = True
    volume = Volume(data, grid(), padding=data == -2000, filled=filled)
    scan, mask, record = mio.write(volume, tmp_path / f"a{ending}")
    assert [scan.name, mask.name, record.name] == [f"a{ending}", f"a_filled{ending}", "a.json"]
    assert np.array_equal(mio.read(scan).data[0], data)
    assert np.array_equal(mio.read(mask).data[0], filled)
    assert mio.read(mask).geometry.distance_mm(grid()) < 1e-4
    assert json.loads(record.read_text())["FilledVoxels"] == 1
    assert len(mio.write(volume, tmp_path / f"a{ending}")) == 3  # its own mask may be replaced
    mio.write(Volume(data, grid()), tmp_path / f"a{ending}")  # nothing filled: the old mask would lie
    assert sorted(place.name for place in tmp_path.iterdir()) == sorted([f"a{ending}", "a.json"])


def test_the_record_is_a_bids_derivative_without_names(tmp_path):
    source = nifti(tmp_path / "sub-SECRET_T1w.nii.gz")
    provenance = Provenance(
        "denoise", "0.1.0", mio.fingerprint(source), settings={"level": float("nan"), "deep": [{"x": 1}]}
    )
    text = mio.write(mio.read(source), tmp_path / "a.nii.gz", like=source, provenance=provenance)[-1].read_text()
    record = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not strict JSON"))
    assert record["GeneratedBy"][0].keys() == {"Name", "Version", "Description"}
    assert record["Sources"] == [f"sha256:{mio.fingerprint(source)[0]}"]
    assert record["SpatialReference"] == "orig"
    assert (record["ResearchUseOnly"], record["Synthetic"]) == (True, False)
    assert record["Provenance"]["settings"] == {"level": "nan", "deep": [{"x": 1}]}
    assert "SECRET" not in text


@pytest.mark.parametrize(("name", "record"), [("a.nii", "a.json"), ("a.b.nii.gz", "a.b.json"), ("a.img.gz", "a.json")])
def test_where_the_record_lies(name, record):
    assert record_path(Path(name)).name == record
