"""NIfTI, NRRD and MetaImage in and out, held to the ramp oracle and to nibabel and SimpleITK."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nifti_cases import ORIENTATIONS, SHAPE, grid, nifti, ramp, ramp_error, sitk_geometry
from scipy.spatial.transform import Rotation

import medidiff.io as mio
from medidiff.errors import InputError, OutputError, SettingsError
from medidiff.io.files import atomic
from medidiff.volume import Geometry, Provenance, Volume

RECORD = Provenance(task="denoise", version="0.1.0", inputs=("ab" * 32,), seed=3)


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "ä [b] c.nii"])
def test_ramp_survives_reading(tmp_path, name, kind):
    scan = mio.read(nifti(tmp_path / name, kind=kind))
    assert ramp_error(scan, grid()) < 1e-3
    assert (scan.data.dtype, scan.modality, scan.units) == (np.int16, "OT", "")


@pytest.mark.parametrize("broken", ["flip", "shift", "slope"])
def test_oracle_notices_a_broken_reader(tmp_path, broken):
    scan = mio.read(nifti(tmp_path / "a.nii"))
    affine = scan.geometry.affine.copy()
    affine[0, 3] += 0.1 if broken == "shift" else 0
    data = scan.data[0][::-1] if broken == "flip" else scan.data[0] * (1.01 if broken == "slope" else 1)
    assert ramp_error(Volume(data, Geometry(SHAPE, affine)), grid()) > 1e-2


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_types_and_byte_orders(tmp_path, dtype, order):
    data = (ramp() % 100).astype(dtype)
    image = nib.Nifti1Image(data, grid().affine, header=nib.Nifti1Header(endianness=order), dtype=data.dtype)
    nib.save(image, tmp_path / "a.nii")
    scan = mio.read(tmp_path / "a.nii")
    assert scan.data.dtype == np.dtype(dtype)
    assert np.array_equal(scan.data[0], data)


@pytest.mark.parametrize(
    ("stored", "slope", "inter", "expected"),
    [
        ("i2", 0.0, 7.0, "i2"),
        ("i2", 1.0, 0.0, "i2"),
        ("i2", 0.5, 3.0, "f4"),
        ("f4", 2.0, 0.0, "f4"),
        ("f8", 2.0, 1.0, "f8"),
        ("i4", 2.0, 1.0, "f8"),
    ],
)
def test_slope_and_intercept(tmp_path, stored, slope, inter, expected):
    data = ramp().astype(stored)
    file = nifti(tmp_path / "a.nii", data=data, edit={"scl_slope": slope, "scl_inter": inter})
    scan = mio.read(file)
    assert scan.data.dtype == np.dtype(expected)
    assert np.allclose(scan.data[0], data if slope == 0 else data * slope + inter, rtol=1e-6)


def test_one_time_point_and_only_one_transform(tmp_path):
    four = nib.Nifti1Image(ramp().astype(np.int16)[..., None], grid().affine)
    nib.save(four, tmp_path / "four.nii")
    assert mio.read(tmp_path / "four.nii").shape == SHAPE
    for codes in ({"sform_code": 0}, {"qform_code": 0}):
        assert ramp_error(mio.read(nifti(tmp_path / "a.nii", edit=codes)), grid()) < 1e-2


def test_sform_wins_within_the_tolerance(tmp_path):
    file = nifti(tmp_path / "a.nii", edit={"qoffset_x": float(grid().affine[0, 3]) + 0.09})
    assert mio.read(file).geometry.distance_mm(grid()) < 1e-4


def test_names_that_lie_about_compression(tmp_path):
    packed, plain = nifti(tmp_path / "a.nii.gz"), nifti(tmp_path / "b.nii")
    packed.rename(tmp_path / "packed.nii")
    plain.rename(tmp_path / "plain.nii.gz")
    for name in ("packed.nii", "plain.nii.gz"):
        assert ramp_error(mio.read(tmp_path / name), grid()) < 1e-3


def test_far_origin_stays_in_double_precision(tmp_path):
    affine = grid().affine.copy()
    affine[:3, 3] = 1e7 + 0.125
    far = Geometry(SHAPE, affine)
    files = mio.write(Volume(ramp(), far), tmp_path / "far.nii.gz")
    assert mio.read(files[0]).geometry.distance_mm(far) < 1e-6
    assert isinstance(nib.load(files[0]), nib.Nifti2Image)


def _frombytes(path: Path, change) -> Path:
    file = nifti(path)
    file.write_bytes(change(file.read_bytes()))
    return file


def _flipped_bit(content: bytes) -> bytes:
    at = len(content) - 6  # in the checksum
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def _with_nan(value: float) -> np.ndarray:
    data = ramp().astype(np.float32)
    data[2, 3, 1] = data[4, 0, 0] = value
    return data


SHEARED = np.array([[1, 0.2, 0], [0, 1, 0], [0, 0, 1]], float)
BROKEN = {
    "NaN voxels": ("E-NONFINITE", lambda p: nifti(p / "a.nii", data=_with_nan(np.nan))),
    "infinite voxels": ("E-NONFINITE", lambda p: nifti(p / "a.nii", data=_with_nan(np.inf))),
    "overflow by slope": ("E-NONFINITE", lambda p: nifti(p / "a.nii", edit={"scl_slope": 3e38})),
    "single slice": ("E-2D", lambda p: nifti(p / "a.nii", edit={"dim": [3, 7, 6, 1, 1, 1, 1, 1]})),
    "two dimensions": ("E-2D", lambda p: nifti(p / "a.nii", edit={"dim": [2, 7, 6, 1, 1, 1, 1, 1]})),
    "one voxel": ("E-TINY", lambda p: nifti(p / "a.nii", edit={"dim": [3, 1, 1, 1, 1, 1, 1, 1]})),
    "dimension 0": ("E-DIM", lambda p: nifti(p / "a.nii", edit={"dim": [3, 7, 0, 5, 1, 1, 1, 1]})),
    "negative dimension": ("E-DIM", lambda p: nifti(p / "a.nii", edit={"dim": [3, 7, -6, 5, 1, 1, 1, 1]})),
    "pixdim 0": ("E-BADSPACING", lambda p: nifti(p / "a.nii", edit={"pixdim": [1, 0, 1, 1, 0, 0, 0, 0]})),
    "pixdim negative": ("E-BADSPACING", lambda p: nifti(p / "a.nii", edit={"pixdim": [1, -1, 1, 1, 0, 0, 0, 0]})),
    "shear": ("E-SHEAR", lambda p: nifti(p / "a.nii", geometry=grid(turn=SHEARED), edit={"qform_code": 0})),
    "sform and qform": ("E-XFORM", lambda p: nifti(p / "a.nii", edit={"qoffset_x": 5.0})),
    "sform and pixdim": (
        "E-XFORM",
        lambda p: nifti(p / "a.nii", edit={"qform_code": 0, "pixdim": [1, 2, 2, 2, 0, 0, 0, 0]}),
    ),
    "no transform": ("E-NOXFORM", lambda p: nifti(p / "a.nii", edit={"sform_code": 0, "qform_code": 0})),
    "singular sform": ("E-XFORM", lambda p: nifti(p / "a.nii", edit={"srow_x": [0, 0, 0, 0]})),
    "NaN in sform": ("E-XFORM", lambda p: nifti(p / "a.nii", edit={"srow_x": [np.nan, 0, 0, 0]})),
    "no rotation": ("E-XFORM", lambda p: nifti(p / "a.nii", edit={"sform_code": 0, "quatern_b": 2.0})),
    "NaN slope": ("E-BADSCALE", lambda p: nifti(p / "a.nii", edit={"scl_slope": np.nan, "scl_inter": 5.0})),
    "NaN intercept": ("E-BADSCALE", lambda p: nifti(p / "a.nii", edit={"scl_slope": 2.0, "scl_inter": np.nan})),
    "metres": ("E-UNITS", lambda p: nifti(p / "a.nii", edit={"xyzt_units": 1})),
    "microns": ("E-UNITS", lambda p: nifti(p / "a.nii", edit={"xyzt_units": 3})),
    "complex": ("E-COMPLEX", lambda p: nifti(p / "a.nii", data=ramp().astype(np.complex64))),
    "colour": ("E-COLOUR", lambda p: nifti(p / "a.nii", edit={"datatype": 128, "bitpix": 24})),
    "unknown type": ("E-DTYPE", lambda p: nifti(p / "a.nii", edit={"datatype": 4096})),
    "128-bit float": ("E-DTYPE", lambda p: nifti(p / "a.nii", edit={"datatype": 1536, "bitpix": 128})),
    "time series": ("E-MULTISERIES", lambda p: nifti(p / "a.nii", data=np.zeros((3, 4, 5, 2), np.int16))),
    "vectors": ("E-5D", lambda p: nifti(p / "a.nii", data=np.zeros((3, 4, 5, 1, 3), np.int16))),
    "large integers": ("E-RANGE", lambda p: nifti(p / "a.nii", data=np.full(SHAPE, 2**60, np.uint64))),
    "header larger than data": ("E-TRUNC", lambda p: nifti(p / "a.nii", edit={"dim": [3, 70, 60, 50, 1, 1, 1, 1]})),
    "cut": ("E-TRUNC", lambda p: _frombytes(p / "a.nii", lambda c: c[:-20])),
    "cut in the header": ("E-TRUNC", lambda p: _frombytes(p / "a.nii", lambda c: c[:200])),
    "cut gzip": ("E-TRUNC", lambda p: _frombytes(p / "a.nii.gz", lambda c: c[:-30])),
    "flipped bit in gzip": ("E-CRC", lambda p: _frombytes(p / "a.nii.gz", _flipped_bit)),
    "huge header on a small gzip": (
        "E-SIZE",
        lambda p: nifti(p / "a.nii.gz", edit={"dim": [3, *[32000] * 3, 1, 1, 1, 1]}),
    ),
    "large header on a small gzip": (
        "E-SIZE",
        lambda p: nifti(p / "a.nii.gz", edit={"dim": [3, *[900] * 3, 1, 1, 1, 1]}),
    ),
    "bad magic": ("E-FORMAT", lambda p: nifti(p / "a.nii", edit={"magic": b"abc"})),
    "random bytes": ("E-FORMAT", lambda p: _frombytes(p / "a.nii", lambda c: bytes(range(7, 207)) * 5)),
    "half of a pair": ("E-PAIR", lambda p: nifti(p / "a.nii", edit={"magic": b"ni1"})),
    "header without its size": ("E-HEADER", lambda p: nifti(p / "a.nii", edit={"sizeof_hdr": 7, "bitpix": 8})),
    "voxels inside the header": ("E-HEADER", lambda p: nifti(p / "a.nii", edit={"vox_offset": 100})),
    "voxels between bytes": ("E-HEADER", lambda p: nifti(p / "a.nii", edit={"vox_offset": 352.5})),
    "empty file": ("E-EMPTY", lambda p: _frombytes(p / "a.nii", lambda c: b"")),
    "a text": ("E-FORMAT", lambda p: _frombytes(p / "a.txt", lambda c: b"hello")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_refused_with_its_code(tmp_path, name):
    code, make = BROKEN[name]
    file = make(tmp_path)
    tracemalloc.start()
    with pytest.raises(InputError) as caught:
        mio.read(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.code == code, str(caught.value)
    assert peak < 2**22  # nothing that a broken header asks for was allocated


def test_non_finite_voxels_are_counted(tmp_path):
    with pytest.raises(InputError, match=r"2 of 210 voxels .* \(2, 3, 1\)"):
        mio.read(BROKEN["NaN voxels"][1](tmp_path))


def test_what_is_no_file(tmp_path):
    with pytest.raises(InputError, match="E-MISSING"):
        mio.read(tmp_path / "absent.nii")
    os.mkfifo(tmp_path / "pipe.nii")
    with pytest.raises(InputError, match="E-FORMAT"):
        mio.read(tmp_path / "pipe.nii")


# -- writing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_every_orientation_goes_round(tmp_path, order, signs):
    truth = grid(order, signs)
    file = mio.write(Volume(ramp().astype(np.int16), truth), tmp_path / "a.nii")[0]
    again = mio.read(file)
    assert np.array_equal(again.data[0], ramp())
    assert ramp_error(again, truth) < 1e-2
    assert again.geometry.distance_mm(truth) < 1e-4
    assert Geometry(SHAPE, nib.load(file).affine).distance_mm(truth) < 1e-4
    assert sitk_geometry(file).distance_mm(truth) < 1e-4
    assert Geometry(SHAPE, nib.load(file).get_qform()).distance_mm(truth) < 0.2


@pytest.mark.parametrize("seed", range(6))
def test_turns_near_180_degrees_where_quaternions_are_coarse(tmp_path, seed):
    rng = np.random.default_rng(seed)
    angle = np.pi - 10.0 ** rng.uniform(-6, -2)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec(angle * np.eye(3)[seed % 3] + rng.normal(size=3) * 1e-4).as_matrix() * 0.5
    wide = Geometry((1000, 2, 750), affine)
    file = mio.write(Volume(np.zeros(wide.shape, np.uint8), wide), tmp_path / "a.nii")[0]
    assert mio.read(file).geometry.distance_mm(wide) < 1e-4
    assert sitk_geometry(file).distance_mm(wide) < 1e-4
    qform, code = nib.load(file).get_qform(coded=True)
    assert code == 1
    assert Geometry(wide.shape, qform).distance_mm(wide) < 1.25e-3 * 625


def test_a_slight_shear_is_kept_by_the_sform_alone(tmp_path):
    slight = grid(turn=np.array([[1, 9.8e-4, 0], [0, 1, 9.8e-4], [0, 0, 1]], float))
    wide = Geometry((700, 700, 2), slight.affine)
    file = mio.write(Volume(np.zeros(wide.shape, np.uint8), wide), tmp_path / "a.nii")[0]
    assert mio.read(file).geometry.distance_mm(wide) < 1e-4


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8"])
def test_values_come_back_exactly(tmp_path, ending, dtype):
    data = (ramp() % 100).astype(dtype)
    data = data / 3 if data.dtype.kind == "f" else data
    files = mio.write(Volume(data, grid(), "MR"), tmp_path / f"a{ending}", provenance=RECORD)
    again = mio.read(files[0])
    assert again.data.dtype == np.dtype("f4" if dtype == "f8" else dtype)
    assert np.array_equal(again.data[0], data.astype(again.data.dtype))
    assert again.geometry.distance_mm(grid()) < 1e-4
    assert sitk_geometry(files[0]).distance_mm(grid()) < 1e-4
    assert again.modality == "MR"


def test_header_policy_of_what_is_written(tmp_path):
    source = nifti(tmp_path / "in.nii", edit={"sform_code": 4, "qform_code": 0, "descrip": b"SECRET NAME"})
    file = mio.write(mio.read(source), tmp_path / "out.nii.gz", like=source)[0]
    header = nib.load(file).header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (4, 4)
    assert header["descrip"].item() == b"medidiff; research use only"
    assert header.get_xyzt_units()[0] == "mm"
    assert b"SECRET" not in gzip.decompress(file.read_bytes())
    assert int(nib.load(mio.write(mio.read(source), tmp_path / "b.nii")[0]).header["sform_code"]) == 1


def test_record_beside_the_scan(tmp_path):
    volume = Volume(ramp(), grid(), "CT", "HU")
    record = json.loads(mio.write(volume, tmp_path / "a.nii.gz", provenance=RECORD)[1].read_text())
    maker = record["GeneratedBy"][0]
    assert (maker["Name"], maker["Version"]) == ("medidiff", "0.1.0")
    assert record["Sources"] == ["sha256:" + "ab" * 32]
    assert (record["Units"], record["ResearchUseOnly"], record["Synthetic"]) == ("HU", True, False)
    assert Provenance.from_json(json.dumps(record["Provenance"])) == RECORD
    assert (mio.read(tmp_path / "a.nii.gz").modality, mio.read(tmp_path / "a.nii.gz").units) == ("CT", "HU")


def test_a_conversion_records_its_source_by_hash(tmp_path):
    source = nifti(tmp_path / "SECRET_NAME.nii")
    record = mio.write(mio.read(source), tmp_path / "out.nii", like=source)[1].read_text()
    assert mio.fingerprint(source)[0] in record
    assert "SECRET" not in record


def test_same_volume_gives_same_bytes(tmp_path):
    volume = Volume(ramp(), grid())
    one, two = (mio.write(volume, tmp_path / name / "a.nii.gz", provenance=RECORD) for name in ("x", "y"))
    assert [f.read_bytes() for f in one] == [f.read_bytes() for f in two]


def test_folder_and_format(tmp_path):
    volume = Volume(ramp(), grid())
    files = mio.write(volume, tmp_path / "out", format="nifti", provenance=RECORD)
    assert files[0].parent == tmp_path / "out"
    assert files[0].name.startswith("medidiff_denoise_")
    for path, options in (("out", {}), ("a.nii", {"format": "dicom"}), ("a.dcm", {}), ("out", {"format": "jpeg"})):
        with pytest.raises(SettingsError, match="E-OUTFORMAT"):
            mio.write(volume, tmp_path / path, **options)


def test_sources_are_never_overwritten(tmp_path):
    source = nifti(tmp_path / "a.nii")
    volume, before = mio.read(source), source.read_bytes()
    (tmp_path / "link.nii").symlink_to(source)
    (tmp_path / "hard.nii").hardlink_to(source)
    for name in ("a.nii", "link.nii", "hard.nii"):
        with pytest.raises(OutputError, match="E-OVERWRITE"):
            mio.write(volume, tmp_path / name, like=source)
    (tmp_path / "b.json").write_text('{"EchoTime": 3}')
    with pytest.raises(OutputError, match="E-OVERWRITE"):
        mio.write(volume, tmp_path / "b.nii", like=source)
    assert source.read_bytes() == before
    for _ in range(2):  # a result of one's own may be replaced
        mio.write(volume, tmp_path / "c.nii", like=source)


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("E-4D", lambda v: v.with_data(np.repeat(v.data, 2, axis=0))),
        ("E-NONFINITE", lambda v: v.with_data(v.data * np.nan)),
        ("E-RANGE", lambda v: v.with_data(v.data.astype(np.int64) + 2**53)),
        ("E-2D", lambda v: Volume(v.data[..., :1], Geometry((7, 6, 1), v.geometry.affine))),
    ],
)
def test_volumes_that_are_not_written(tmp_path, code, change):
    volume = change(Volume(ramp(), grid()))
    with pytest.raises(OutputError, match=code):
        mio.write(volume, tmp_path / "a.nii.gz")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_what_was_there(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")

    def full(name: Path) -> None:
        name.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="E-DISK"):
        atomic.write_file(target, full)
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    assert target.read_bytes() == b"old"


# -- NRRD and MetaImage ------------------------------------------------------------------------------------------------


def _text_edit(path: Path, old: bytes, new: bytes) -> Path:
    volume = Volume(ramp().astype(np.int16), grid())
    mio.write(volume, path)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("code", "make"),
    [
        ("E-NOXFORM", lambda p: _text_edit(p / "a.nrrd", b"space: left-posterior-superior\n", b"space dimension: 3\n")),
        ("E-NOXFORM", lambda p: _text_edit(p / "a.mha", b"ElementSpacing", b"ElementSpacinG")),
        ("E-SIZE", lambda p: _text_edit(p / "a.mha", b"DimSize = 7 6 5", b"DimSize = 700 600 50")),
        ("E-TRUNC", lambda p: _text_edit(p / "a.mha", b"DimSize = 7 6 5", b"DimSize = 7 6 6")),
        ("E-CRC", lambda p: _text_edit(p / "a.mha", b"LOCAL\nx\x5e", b"LOCAL\nx\x5f")),
        ("E-FORMAT", lambda p: _text_edit(p / "a.mha", b"BinaryData = True", b"BinaryData = False")),
        ("E-SIZE", lambda p: _text_edit(p / "a.mha", b"DimSize = 7 6 5", b"DimSize = 60000 60000 50")),
        ("E-2D", lambda p: _text_edit(p / "a.nrrd", b"sizes: 7 6 5", b"sizes: 7 6 1")),
    ],
)
def test_broken_text_headers(tmp_path, code, make):
    with pytest.raises(InputError, match=code):
        mio.read(make(tmp_path))


def test_colour_and_time_are_refused(tmp_path):
    sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkVectorUInt8, 3), str(tmp_path / "c.mha"))
    sitk.WriteImage(sitk.Image([4, 4, 4, 2], sitk.sitkUInt8), str(tmp_path / "t.mha"))
    for name, code in (("c.mha", "E-COLOUR"), ("t.mha", "E-MULTISERIES")):
        with pytest.raises(InputError, match=code):
            mio.read(tmp_path / name)


@pytest.mark.parametrize(("space", "flip"), [("right", 1), ("left", -1)])
def test_nrrd_in_another_space(tmp_path, space, flip):
    text = (
        f"NRRD0004\ntype: short\ndimension: 3\nspace: {space}-anterior-superior\nsizes: 7 6 5\n"
        "space directions: (0.8,0,0) (0,1.1,0) (0,0,2.5)\nkinds: domain domain domain\nendian: little\n"
        "encoding: raw\nspace origin: (-1,2,3)\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(text.encode() + ramp().astype("<i2").tobytes(order="F"))
    scan = mio.read(tmp_path / "a.nrrd")
    assert np.array_equal(scan.data[0], ramp())
    assert np.allclose(scan.geometry.affine, [[0.8 * flip, 0, 0, -flip], [0, 1.1, 0, 2], [0, 0, 2.5, 3], [0, 0, 0, 1]])


def test_two_file_metaimage(tmp_path):
    image = sitk.GetImageFromArray(ramp().astype(np.int16).T)
    sitk.WriteImage(image, str(tmp_path / "a.mhd"))
    assert [p.name for p in mio.sources(tmp_path / "a.mhd")] == ["a.mhd", "a.raw"]
    assert np.array_equal(mio.read(tmp_path / "a.mhd").data[0], ramp())
    (tmp_path / "a.raw").rename(tmp_path / "b.raw")
    with pytest.raises(InputError, match="E-PAIR"):
        mio.read(tmp_path / "a.mhd")


# -- the look from outside ---------------------------------------------------------------------------------------------


def test_inspect_tells_the_header_and_the_problem(tmp_path):
    good = mio.inspect(nifti(tmp_path / "a.nii")).series[0]
    assert (good.shape, good.dtype, good.problem) == (SHAPE, "int16", "")
    assert dict(good.details)["sform code"] == "1"
    bad = mio.inspect(BROKEN["metres"][1](tmp_path))
    assert (bad.format, bad.series[0].problem[:7]) == ("nifti", "E-UNITS")
    other = mio.inspect(mio.write(Volume(ramp(), grid()), tmp_path / "b.mha")[0])
    assert (other.format, other.series[0].shape, other.series[0].dtype) == ("metaimage", SHAPE, "float32")


def test_import_is_light():
    heavy = ("torch", "monai", "nibabel", "pydicom", "SimpleITK")
    code = f"import sys, medidiff.io; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
