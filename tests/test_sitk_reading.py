"""NRRD and MetaImage in: the ramp, SimpleITK as a second reader, each repair by name, and every refusal."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from nifti_cases import ORIENTATIONS, SHAPE, grid, ramp, ramp_error, sitk_geometry
from sitk_cases import ENDINGS, TRUTH, by_hand, by_sitk

import medidiff.io as mio
from medidiff.errors import InputError, MedidiffError
from medidiff.io import ReadOptions
from medidiff.volume import Geometry, Volume


def refusal(path: Path, options: ReadOptions | None = None) -> MedidiffError:
    with pytest.raises(InputError) as caught:
        mio.read(path, options)
    return caught.value


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS[::5])
def test_what_simpleitk_wrote_is_read_alike(tmp_path, ending, packed, order, signs):
    truth = grid(order, signs)
    scan = mio.read(by_sitk(tmp_path / f"a{ending}", geometry=truth, packed=packed))
    assert ramp_error(scan, truth) < 1e-9
    assert scan.geometry.distance_mm(sitk_geometry(tmp_path / f"a{ending}")) < 1e-9


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_oracle_notices_a_flip(tmp_path, ending):
    scan = mio.read(by_sitk(tmp_path / f"a{ending}"))
    assert ramp_error(Volume(scan.data[0][::-1], scan.geometry), grid()) > 1


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_every_orientation_goes_round(tmp_path, ending, order, signs):
    truth = grid(order, signs)
    file = mio.write(Volume(ramp().astype(np.int16), truth), tmp_path / f"a{ending}")[0]
    again = mio.read(file)
    assert np.array_equal(again.data[0], ramp())
    assert again.geometry.distance_mm(truth) < 1e-6
    assert sitk_geometry(file).distance_mm(truth) < 1e-6


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_every_type(tmp_path, ending, dtype):
    data = (ramp() % 100).astype(dtype)
    scan = mio.read(by_sitk(tmp_path / f"a{ending}", data=data))
    assert scan.data.dtype == np.dtype(dtype)
    assert np.array_equal(scan.data[0], data)


@pytest.mark.parametrize(
    ("name", "edit"),
    [("a.nrrd", ("endian: little", "endian: big")), ("a.mha", ("OrderMSB = False", "OrderMSB = True"))],
)
def test_big_endian(tmp_path, name, edit):
    scan = mio.read(by_hand(tmp_path / name, edit, voxels=ramp().astype(">i2").tobytes(order="F")))
    assert ramp_error(scan, TRUTH) < 1e-9


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_nan_needs_leave(tmp_path, name):
    data = ramp().astype(np.float32)
    data[1, 2, 3] = np.nan
    file = by_sitk(tmp_path / name, data=data)
    assert refusal(file).code == "E-NONFINITE"
    scan = mio.read(file, ReadOptions(on_nan="fill"))
    assert scan.filled is not None
    assert (int(scan.filled.sum()), scan.data[0, 1, 2, 3]) == (1, 0)


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("a.nrrd", ("space: left-posterior-superior\n", "space dimension: 3\n")),
        ("a.nrrd", ("space: left-posterior-superior\n", "space: scanner-xyz\n")),
        ("a.nrrd", ("space origin: (-1,2,3)\n", "")),
        ("a.mha", ("TransformMatrix = 1 0 0 0 1 0 0 0 1\n", "")),
        ("a.mha", ("Offset = -1 2 3\n", "")),
    ],
)
def test_a_grid_that_is_not_stated_needs_leave(tmp_path, name, edit):
    file = by_hand(tmp_path / name, edit)
    error = refusal(file)
    assert (error.code, "--assume-affine" in error.mend) == ("E-NOXFORM", True)
    scan = mio.read(file, ReadOptions(assume_affine=True))
    assert scan.geometry.orientation == "RAS"
    assert scan.geometry.spacing_mm == pytest.approx((0.8, 1.1, 2.5))
    assert any(
        "--assume-affine" in sentence for sentence in mio.read_scan(file, ReadOptions(assume_affine=True)).decisions
    )


def test_without_any_voxel_size_nothing_helps(tmp_path):
    directions = "space directions: (0.8,0,0) (0,1.1,0) (0,0,2.5)\n"
    assume = ReadOptions(assume_affine=True)
    assert refusal(by_hand(tmp_path / "a.nrrd", (directions, "")), assume).code == "E-BADSPACING"
    scan = mio.read(by_hand(tmp_path / "b.nrrd", (directions, "spacings: 0.8 1.1 2.5\n")), assume)
    assert scan.geometry.spacing_mm == pytest.approx((0.8, 1.1, 2.5))
    assert refusal(by_hand(tmp_path / "c.mha", ("ElementSpacing = 0.8 1.1 2.5\n", "")), assume).code == "E-BADSPACING"


@pytest.mark.parametrize(
    ("name", "edit"), [("a.nrrd", ("(0,0,2.5)", "(0.5,0,2.5)")), ("a.mha", ("0 1 0 0 0 1", "0 1 0 0.2 0 0.98"))]
)
def test_shear_needs_leave(tmp_path, name, edit):
    file = by_hand(tmp_path / name, edit)
    assert refusal(file).code == "E-SHEAR"
    kept = mio.read(file, ReadOptions(on_tilt="shear"))
    assert not kept.geometry.is_orthogonal
    made = mio.read(file, ReadOptions(on_tilt="resample"))
    places = made.geometry.world(np.moveaxis(np.indices(made.shape), 0, -1))
    error = np.abs(made.data[0] - kept.geometry.index(places) @ (1, 10, 100))
    assert made.padding is not None
    assert error[~made.padding].max() < 1e-2


SERIES = np.stack([ramp() + 1000 * t for t in range(3)], axis=-1).astype("<i2")
LAST = SERIES.tobytes(order="F")
FIRST = np.moveaxis(SERIES, -1, 0).tobytes(order="F")
FOUR = {
    "nrrd, last": (
        "a.nrrd",
        LAST,
        ("dimension: 3", "dimension: 4"),
        ("7 6 5", "7 6 5 3"),
        ("(0,0,2.5)", "(0,0,2.5) none"),
        ("domain domain domain", "domain domain domain list"),
    ),
    "nrrd, first": (
        "a.nrrd",
        FIRST,
        ("dimension: 3", "dimension: 4"),
        ("7 6 5", "3 7 6 5"),
        ("(0.8,0,0)", "none (0.8,0,0)"),
        ("domain domain domain", "list domain domain domain"),
    ),
    "meta": (
        "a.mha",
        LAST,
        ("NDims = 3", "NDims = 4"),
        ("DimSize = 7 6 5", "DimSize = 7 6 5 3"),
        ("1 0 0 0 1 0 0 0 1", "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1"),
        ("-1 2 3", "-1 2 3 0"),
        ("0.8 1.1 2.5", "0.8 1.1 2.5 1"),
    ),
}


@pytest.mark.parametrize("case", FOUR)
def test_each_time_point_is_a_scan(tmp_path, case):
    name, voxels, *edits = FOUR[case]
    file = by_hand(tmp_path / name, *edits, voxels=voxels)
    assert len(mio.find(file).scans) == 3
    for number in (1, 2, 3):
        scan = mio.read(file, ReadOptions(scan=number))
        assert np.array_equal(scan.data[0], ramp() + 1000 * (number - 1))
        assert scan.geometry.distance_mm(TRUTH) < 1e-9
    assert refusal(file).code == "E-MULTISERIES"
    file.write_bytes(file.read_bytes()[:-3])
    assert refusal(file, ReadOptions(scan=1)).code == "E-TRUNC"


@pytest.mark.parametrize(
    ("code", "name", "edits"),
    [
        ("E-FORMAT", "a.nrrd", [("encoding: raw", "encoding: ascii")]),
        ("E-FORMAT", "a.nrrd", [("encoding: raw", "encoding: bzip2")]),
        ("E-FORMAT", "a.nrrd", [("encoding: raw", "encoding: raw\nbyte skip: 8")]),
        ("E-COLOUR", "a.nrrd", [("kinds: domain", "kinds: RGB-color")]),
        ("E-COMPLEX", "a.nrrd", [("kinds: domain", "kinds: complex")]),
        ("E-5D", "a.nrrd", [("kinds: domain", "kinds: vector")]),
        ("E-DTYPE", "a.nrrd", [("type: short", "type: block")]),
        ("E-HEADER", "a.nrrd", [("endian: little\n", "")]),
        ("E-HEADER", "a.nrrd", [("sizes: 7 6 5", "sizes: 7 6 5\nsizes: 7 6 4")]),
        ("E-HEADER", "a.nrrd", [("(0.8,0,0)", "(0,8,0,0)")]),
        ("E-HEADER", "a.nrrd", [("dimension: 3", "dimension: 4")]),
        ("E-XFORM", "a.nrrd", [("(0,0,2.5)", "(0,2.5,0)")]),
        ("E-BADSPACING", "a.nrrd", [("(0,0,2.5)", "(0,0,nan)")]),
        ("E-BADSPACING", "a.nrrd", [("(0,0,2.5)", "(0,0,0)")]),
        ("E-UNITS", "a.nrrd", [("endian", 'space units: "m" "m" "m"\nendian')]),
        ("E-DIM", "a.nrrd", [("sizes: 7 6 5", "sizes: 7 0 5")]),
        ("E-2D", "a.nrrd", [("sizes: 7 6 5", "sizes: 7 6 1")]),
        ("E-SIZE", "a.nrrd", [("sizes: 7 6 5", "sizes: 70000 60000 50")]),
        ("E-TRUNC", "a.nrrd", [("sizes: 7 6 5", "sizes: 7 6 6")]),
        ("E-FORMAT", "a.mha", [("BinaryData = True", "BinaryData = False")]),
        ("E-FORMAT", "a.mha", [("DimSize", "HeaderSize = 8\nDimSize")]),
        ("E-COLOUR", "a.mha", [("DimSize", "ElementNumberOfChannels = 3\nDimSize")]),
        ("E-BADSCALE", "a.mha", [("DimSize", "ElementToIntensityFunctionSlope = 2\nDimSize")]),
        ("E-DTYPE", "a.mha", [("MET_SHORT", "MET_LONG")]),
        ("E-HEADER", "a.mha", [("BinaryData = True", "BinaryData = Perhaps")]),
        ("E-HEADER", "a.mha", [("Offset = -1 2 3", "Offset = -1 2")]),
        ("E-HEADER", "a.mha", [("NDims = 3", "NDims = 4")]),
        ("E-BADSPACING", "a.mha", [("2.5", "-2.5")]),
        ("E-XFORM", "a.mha", [("1 0 0 0 1 0 0 0 1", "1 0 0 0 1 0 0 1 0")]),
        ("E-UNITS", "a.mha", [("DimSize", "DistanceUnits = m\nDimSize")]),
        ("E-SIZE", "a.mha", [("DimSize = 7 6 5", "DimSize = 70000 60000 50")]),
        ("E-TRUNC", "a.mha", [("DimSize = 7 6 5", "DimSize = 7 6 6")]),
    ],
)
def test_refused_with_its_code(tmp_path, code, name, edits):
    file = by_hand(tmp_path / name, *edits)
    tracemalloc.start()
    error = refusal(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error.code == code, str(error)
    assert mio.inspect(file).series[0].problem == str(error)
    assert peak < 2**22
    assert ramp_error(mio.read(by_hand(tmp_path / f"good{file.suffix}")), TRUTH) < 1e-9


@pytest.mark.parametrize(
    ("name", "edit", "pack"),
    [
        ("a.nrrd", ("encoding: raw", "encoding: gzip"), gzip.compress),
        ("a.mha", ("CompressedData = False", "CompressedData = True"), zlib.compress),
    ],
)
def test_compressed_voxels_are_checked(tmp_path, name, edit, pack):
    plain = np.random.default_rng(0).integers(0, 2000, SHAPE).astype("<i2").tobytes(order="F")
    packed = pack(plain)
    assert mio.read(by_hand(tmp_path / name, edit, voxels=packed)).shape == SHAPE
    assert refusal(by_hand(tmp_path / name, edit, voxels=packed[:-20])).code == "E-TRUNC"
    spoilt = packed[:-6] + bytes([packed[-6] ^ 1]) + packed[-5:]
    assert refusal(by_hand(tmp_path / name, edit, voxels=spoilt)).code == "E-CRC"
    assert refusal(by_hand(tmp_path / name, edit, voxels=pack(plain + bytes(2**25)))).code == "E-BOMB"
    assert mio.read(by_hand(tmp_path / name, edit, voxels=packed + b"more")).shape == SHAPE


@pytest.mark.parametrize("name", ["a.nhdr", "a.mhd"])
@pytest.mark.parametrize(
    "data_file",
    ["b.raw", "../b.raw", "/etc/hostname", "LIST", "b%02d.raw", "a.nhdr", "a.mhd", "link.raw", "absent.raw"],
)
def test_voxels_beside_their_header_only(tmp_path, name, data_file):
    home = tmp_path / "home"
    home.mkdir()
    content = ramp().astype("<i2").tobytes(order="F")
    (tmp_path / "b.raw").write_bytes(content)
    (home / "b.raw").write_bytes(content)
    (home / "link.raw").symlink_to(tmp_path / "b.raw")
    edit = (
        ("encoding: raw\n", f"encoding: raw\ndata file: {data_file}\n")
        if name == "a.nhdr"
        else ("ElementType = MET_SHORT\n", f"ElementType = MET_SHORT\nElementDataFile = {data_file}\n")
    )
    file = by_hand(home / name, edit, voxels=b"")
    if data_file == "b.raw":
        reading = mio.read_scan(file)
        assert [each.name for each in reading.files] == [name, "b.raw"]
        assert reading.sha256 == mio.fingerprint(file)
        assert ramp_error(reading.volume, TRUTH) < 1e-9
    else:
        assert refusal(file).code == "E-PAIR"


def test_a_file_that_changes_after_it_was_found(tmp_path):
    scan = mio.find(by_hand(tmp_path / "a.nrrd")).scans[0]
    by_hand(tmp_path / "a.nrrd", ("sizes: 7 6 5", "sizes: 7 5 6"))
    with pytest.raises(InputError, match="E-CHANGED"):
        scan.load()


def test_free_text_never_reaches_a_message(tmp_path):
    secret = by_hand(tmp_path / "a.nrrd", ("endian", "PatientName:=SECRET^NAME\ntype: SECRET\n# SECRET\nendian"))
    assert "SECRET" not in str(refusal(secret))
    reading = mio.read_scan(by_hand(tmp_path / "b.nrrd", ("endian", "PatientName:=SECRET^NAME\nendian")))
    assert "SECRET" not in " ".join(reading.decisions)


def test_a_measurement_frame_is_left_out(tmp_path):
    file = by_hand(tmp_path / "a.nrrd", ("endian", "measurement frame: (1,0,0) (0,1,0) (0,0,1)\nendian"))
    assert "a measurement frame was left out" in mio.read_scan(file).decisions
    assert isinstance(mio.read(file).geometry, Geometry)


@pytest.mark.parametrize("number", ["1e998", "-1e998", "inf", "nan", "1e308", "1e155"])
@pytest.mark.parametrize(
    ("name", "edits"),
    [
        ("a.nrrd", ["(0.8,0,0)", "({},0,0)"]),
        ("a.nrrd", ["(0.8,0,0)", "(0.8,{},0)"]),
        ("a.nrrd", ["(-1,2,3)", "({},2,3)"]),
        ("a.mha", ["ElementSpacing = 0.8", "ElementSpacing = {}"]),
        ("a.mha", ["TransformMatrix = 1", "TransformMatrix = {}"]),
        ("a.mha", ["Offset = -1", "Offset = {}"]),
        ("a.mha", ["TransformMatrix = 1", "TransformMatrix = {}", "ElementSpacing = 0.8", "ElementSpacing = {}"]),
    ],
)
def test_numbers_beyond_all_reach_are_refused_without_a_warning(tmp_path, name, edits, number):
    pairs = zip(edits[::2], (text.format(number) for text in edits[1::2]), strict=True)
    with pytest.raises(InputError) as caught:
        mio.read(by_hand(tmp_path / name, *pairs))
    assert caught.value.code in ("E-BADSPACING", "E-XFORM")
