"""What a NIfTI file must be asked for by name: each repair, its record, and the refusal without it."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nifti_cases import SHAPE, grid, nifti, ramp, ramp_error

import medidiff.io as mio
from medidiff.errors import InputError, MedidiffError
from medidiff.io import ReadOptions
from medidiff.io.files import stream
from medidiff.volume import Geometry

SHEAR = np.array([[1, 0, 0.25], [0, 1, 0], [0, 0, 1]], float)  # slices that drift, as with a tilted gantry


def refusal(path: Path, options: ReadOptions | None = None) -> MedidiffError:
    with pytest.raises(InputError) as caught:
        mio.read(path, options)
    return caught.value


def decided(path: Path, options: ReadOptions | None = None) -> str:
    return "; ".join(mio.read_scan(path, options).decisions)


# -- values ------------------------------------------------------------------------------------------------------------


def test_nan_is_filled_and_marked_only_when_asked_for(tmp_path):
    data = ramp().astype(np.float32)
    data[2, 3, 1], data[4, 0, 0], data[0, 0, 0] = np.nan, np.inf, -np.inf
    file = nifti(tmp_path / "a.nii.gz", data=data)
    error = refusal(file)
    assert (error.code, "--on-nan fill" in error.mend) == ("E-NONFINITE", True)
    assert "3 of 210 voxels" in error.found
    reading = mio.read_scan(file, ReadOptions(on_nan="fill"))
    scan = reading.volume
    assert scan.filled is not None
    assert np.array_equal(scan.filled, ~np.isfinite(data))
    assert np.array_equal(scan.data[0], np.where(np.isfinite(data), data, 0))
    assert any("3 NaN or infinite voxels" in sentence for sentence in reading.decisions)
    assert ramp_error(scan, grid()) > 1  # the oracle sees what was filled


@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_scan_is_read_and_said_to_be_one(tmp_path, value):
    file = nifti(tmp_path / "a.nii", data=np.full(SHAPE, value, np.int16))
    assert f"constant: every voxel is {value}" in decided(file)
    assert "constant" not in decided(nifti(tmp_path / "b.nii"))


def test_a_scaled_scan_is_scaled_by_planes(tmp_path):
    data = np.zeros((64, 64, 64), np.int16)
    file = nifti(tmp_path / "a.nii", data=data, geometry=Geometry.regular(data.shape), edit={"scl_slope": 0.5})
    tracemalloc.start()
    scan = mio.read(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * scan.data.nbytes + 2**21


# -- transforms --------------------------------------------------------------------------------------------------------


def test_which_transform_to_believe(tmp_path):
    file = nifti(tmp_path / "a.nii", edit={"qoffset_x": float(grid().affine[0, 3]) + 5})
    error = refusal(file)
    assert (error.code, "--on-xform sform" in error.mend) == ("E-XFORM", True)
    assert "5 mm at the farthest corner" in error.found
    assert "degrees" in error.found
    for name, shift in (("sform", 0.0), ("qform", 5.0)):
        options = ReadOptions(on_xform=name)
        assert mio.read(file, options).geometry.affine[0, 3] == pytest.approx(grid().affine[0, 3] + shift, abs=1e-4)
        assert f"the {name} was asked for" in decided(file, options)


@pytest.mark.parametrize("edit", [{"srow_x": [0, 0, 0, 0]}, {"srow_x": [np.nan, 0, 0, 0]}])
def test_a_broken_transform_beside_a_good_one(tmp_path, edit):
    file = nifti(tmp_path / "a.nii", edit=edit)
    assert refusal(file).code == "E-XFORM"
    assert ramp_error(mio.read(file, ReadOptions(on_xform="qform")), grid()) < 1e-2
    assert "the sform is broken and was ignored" in decided(file, ReadOptions(on_xform="qform"))


def test_a_small_difference_of_transforms_is_recorded(tmp_path):
    file = nifti(tmp_path / "a.nii", edit={"qoffset_x": float(grid().affine[0, 3]) + 0.09})
    assert "sform and qform agree to 0.09 mm" in decided(file)


def test_sform_of_other_lengths_than_pixdim(tmp_path):
    file = nifti(tmp_path / "a.nii", edit={"pixdim": [1, 2, 2, 2, 0, 0, 0, 0], "qform_code": 0})
    assert refusal(file).code == "E-XFORM"
    assert ramp_error(mio.read(file, ReadOptions(on_xform="sform")), grid()) < 1e-2


def test_no_transform_needs_leave(tmp_path):
    file = nifti(tmp_path / "a.nii", edit={"sform_code": 0, "qform_code": 0})
    error = refusal(file)
    assert (error.code, "--assume-affine" in error.mend) == ("E-NOXFORM", True)
    scan = mio.read(file, ReadOptions(assume_affine=True))
    assert scan.geometry.orientation == "RAS"
    assert scan.geometry.spacing_mm == pytest.approx((0.8, 1.1, 2.5))
    assert np.allclose(scan.geometry.world((np.array(SHAPE) - 1) / 2), 0)
    assert "axes taken as RAS+" in decided(file, ReadOptions(assume_affine=True))
    assert refusal(nifti(tmp_path / "b.nii", edit={"pixdim": [1, 0, 1, 1, 0, 0, 0, 0]})).code == "E-BADSPACING"


def sheared(path: Path) -> tuple[Path, Geometry]:
    affine = grid().affine.copy()
    affine[:3, :3] = affine[:3, :3] @ SHEAR
    geometry = Geometry(SHAPE, affine)
    return nifti(path, geometry=geometry, data=ramp().astype(np.float32), edit={"qform_code": 0}), geometry


def test_shear_is_refused_kept_or_resampled(tmp_path):
    file, truth = sheared(tmp_path / "a.nii")
    error = refusal(file)
    assert error.code == "E-SHEAR"
    assert all(option in error.mend for option in ("--on-tilt resample", "--on-tilt shear"))
    assert "4.57 degrees" in error.found  # 0.25 of an axis of 0.8 mm against one of 2.5 mm
    kept = mio.read(file, ReadOptions(on_tilt="shear"))
    assert kept.geometry.distance_mm(truth) < 1e-4
    assert ramp_error(kept, truth) < 1e-3


def test_resampled_shear_keeps_the_ramp_and_marks_what_is_outside(tmp_path):
    file, truth = sheared(tmp_path / "a.nii")
    scan = mio.read(file, ReadOptions(on_tilt="resample"))
    assert scan.geometry.is_orthogonal
    assert scan.padding is not None
    places = scan.geometry.world(np.moveaxis(np.indices(scan.shape), 0, -1))
    error = np.abs(scan.data[0] - truth.index(places) @ (1, 10, 100))
    assert error[~scan.padding].max() < 1e-2
    assert error[scan.padding].max() > 1  # unmarked, they would break the law
    assert (~scan.padding).sum() > 0.5 * np.prod(SHAPE)
    assert (scan.data[0][scan.padding] == scan.data.min()).all()


# -- units -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "factor", "word"), [(1, 1e-3, "metres"), (3, 1e3, "microns")])
def test_other_units_are_converted_when_that_makes_voxels_of_a_scan(tmp_path, code, factor, word):
    affine = np.diag((factor, factor, factor, 1.0)) @ grid().affine
    file = nifti(tmp_path / "a.nii", geometry=Geometry(SHAPE, affine), edit={"xyzt_units": code})
    assert ramp_error(mio.read(file), grid()) < 1e-2
    assert f"lengths converted from {word} to mm" in decided(file)
    wrong = refusal(nifti(tmp_path / "b.nii", edit={"xyzt_units": code}))  # mm under the code of another unit
    assert (wrong.code, word in wrong.found) == ("E-UNITS", True)
    assert refusal(nifti(tmp_path / "c.nii", edit={"xyzt_units": 5})).code == "E-UNITS"


# -- several volumes, two files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_each_time_point_is_a_scan(tmp_path, name):
    data = np.stack([ramp() + 1000 * t for t in range(3)], axis=-1).astype(np.int16)
    nib.save(nib.Nifti1Image(data, grid().affine), tmp_path / name)
    found = mio.find(tmp_path / name)
    assert len(found.scans) == 3
    assert dict(found.scans[1].summary.details)["volume"] == "2 of 3"
    for number in (1, 2, 3):
        scan = mio.read(tmp_path / name, ReadOptions(scan=number))
        assert np.array_equal(scan.data[0], ramp() + 1000 * (number - 1))
        assert ramp_error(scan.with_data(scan.data - 1000 * (number - 1)), grid()) < 1e-3
    assert refusal(tmp_path / name).code == "E-MULTISERIES"


def test_a_cut_series_is_refused_at_each_time_point(tmp_path):
    data = np.random.default_rng(0).integers(0, 99, (*SHAPE, 3)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, grid().affine), tmp_path / "a.nii")
    content = (tmp_path / "a.nii").read_bytes()[:-10]
    (tmp_path / "a.nii").write_bytes(content)
    (tmp_path / "b.nii").write_bytes(gzip.compress(content))
    for name in ("a.nii", "b.nii"):
        assert refusal(tmp_path / name, ReadOptions(scan=1)).code == "E-TRUNC"


def pair(folder: Path) -> tuple[Path, Path]:
    image = nib.Nifti1Pair(ramp().astype(np.int16), grid().affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, folder / "a.img")
    return folder / "a.hdr", folder / "a.img"


def test_both_halves_of_a_pair_are_one_scan(tmp_path):
    files = pair(tmp_path)
    for half in files:
        reading = mio.read_scan(half)
        assert ramp_error(reading.volume, grid()) < 1e-3
        assert reading.files == files
        assert reading.sha256 == mio.fingerprint(half)
        assert mio.inspect(half).series[0].files == 2
    for half, other in (files, files[::-1]):
        half.rename(tmp_path / "away")
        assert refusal(other).code == "E-PAIR"
        (tmp_path / "away").rename(half)


def test_a_pair_in_a_folder_is_one_scan(tmp_path):
    files = pair(tmp_path)
    assert [scan.files for scan in mio.find(tmp_path).scans] == [files]
    files[0].rename(tmp_path / "b.hdr")
    assert [scan.summary.problem[:6] for scan in mio.find(tmp_path).scans] == ["E-PAIR", "E-PAIR"]


@pytest.mark.parametrize("value", [2, 8])
def test_voxels_that_look_like_dicom(tmp_path, value):
    image = nib.Nifti1Pair(np.full(SHAPE, value, np.int16), grid().affine)
    for name in ("a.img", "b.img.gz"):
        nib.save(image, tmp_path / name)
        assert (mio.read(tmp_path / name).data == value).all()


def test_analyze_is_refused_for_its_sides(tmp_path):
    nib.save(nib.AnalyzeImage(ramp().astype(np.int16), np.diag((1, 1, 1, 1))), tmp_path / "a.img")
    for name in ("a.hdr", "a.img"):
        error = refusal(tmp_path / name)
        assert (error.code, "left from right" in error.found) == ("E-FORMAT", True)


# -- headers that are not quite right ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_wrong_length_of_the_header_is_forgiven_when_all_else_fits(tmp_path, kind):
    file = nifti(tmp_path / "a.nii", kind=kind, edit={"sizeof_hdr": 7})
    assert ramp_error(mio.read(file), grid()) < 1e-3
    assert "wrong length" in decided(file)
    for fault in ({"bitpix": 8}, {"datatype": 77}, {"dim": [9, 7, 6, 5, 1, 1, 1, 1]}):
        assert refusal(nifti(tmp_path / "b.nii", kind=kind, edit={"sizeof_hdr": 7} | fault)).code == "E-HEADER"


def test_extensions_are_skipped_and_never_copied(tmp_path):
    image = nib.Nifti1Image(ramp().astype(np.int16), grid().affine)
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, b"SECRET NAME"))
    nib.save(image, tmp_path / "a.nii")
    assert ramp_error(mio.read(tmp_path / "a.nii"), grid()) < 1e-3
    assert "header extensions were left out" in decided(tmp_path / "a.nii")
    out = mio.write(mio.read(tmp_path / "a.nii"), tmp_path / "b.nii", like=tmp_path / "a.nii")
    assert all(b"SECRET" not in file.read_bytes() for file in out)


def test_voxels_far_behind_the_header(tmp_path):
    assert refusal(nifti(tmp_path / "a.nii", edit={"vox_offset": 2.0**30})).code == "E-HEADER"
    assert refusal(nifti(tmp_path / "a.nii", edit={"vox_offset": 1000})).code == "E-TRUNC"


# -- bytes -------------------------------------------------------------------------------------------------------------


def test_what_was_read_is_what_was_hashed(tmp_path):
    for name in ("a.nii", "a.nii.gz"):
        file = nifti(tmp_path / name)
        assert mio.read_scan(file).sha256 == mio.fingerprint(file)


def test_a_file_that_changes_after_it_was_found(tmp_path):
    for name in ("a.nii", "a.nii.gz"):
        scan = mio.find(nifti(tmp_path / name)).scans[0]
        nifti(tmp_path / name, data=ramp().astype(np.float32))
        with pytest.raises(InputError, match="E-CHANGED"):
            scan.load()


def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch):
    file = nifti(tmp_path / "a.nii")
    whole = stream.voxels

    def meanwhile(*args: object, **kwargs: object) -> np.ndarray:
        with file.open("ab") as other:
            other.write(b"x")
        return whole(*args, **kwargs)

    monkeypatch.setattr("medidiff.io.nifti.file.voxels", meanwhile)
    assert refusal(file).code == "E-CHANGED"


def test_gzip_of_several_members_and_with_zeros_behind(tmp_path):
    content = nifti(tmp_path / "a.nii").read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(content[:500]) + gzip.compress(content[500:]) + bytes(512))
    assert ramp_error(mio.read(tmp_path / "b.nii.gz"), grid()) < 1e-3


def test_a_bomb_behind_the_voxels(tmp_path):
    content = nifti(tmp_path / "a.nii").read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(content + bytes(2**25)))
    assert refusal(tmp_path / "b.nii.gz").code == "E-BOMB"


@pytest.mark.parametrize(
    ("needed", "held", "code"), [(2**36, 2**36, "E-SIZE"), (2**32, 2**23, "E-BOMB"), (2**20, 1000, "E-SIZE")]
)
def test_sizes_that_are_refused_before_anything_is_allocated(needed, held, code):
    with pytest.raises(InputError, match=code):
        stream.refuse_bomb(needed, held=held, packed=True, file="a.nii.gz")
    stream.refuse_bomb(2**31, held=2**22, packed=True, file="a.nii.gz")  # a label map of zeros


@pytest.mark.parametrize("seed", range(8))
def test_every_bit_of_the_compressed_voxels_counts(tmp_path, seed):
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 2000, SHAPE).astype(np.int16)
    file = nifti(tmp_path / "a.nii.gz", data=data)
    content = bytearray(file.read_bytes())
    content[int(rng.integers(len(content) - 200, len(content)))] ^= 1 << int(rng.integers(8))
    file.write_bytes(content)
    assert refusal(file).code in ("E-CRC", "E-TRUNC")
