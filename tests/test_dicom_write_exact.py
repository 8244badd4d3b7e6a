"""Nothing drifts, wraps or moves: axes, other grids, 16-bit steps, padding, and the way through NIfTI."""

from __future__ import annotations

import itertools
import json

import dicom_cases as cases
import numpy as np
import pydicom
import pytest
from dicom_written import RECORD, pet, source, validate
from hypothesis import given, settings
from hypothesis import strategies as st

import medidiff.io as mio
from medidiff.errors import OutputError
from medidiff.io.dicom.derived.layout import laid_like
from medidiff.io.dicom.derived.plan import Plan
from medidiff.io.dicom.derived.source import find_source
from medidiff.io.dicom.derived.stored import Scale, plan_storage
from medidiff.volume import Geometry, Volume

KINDS = ["CT", "MR", "PT", "enhanced CT", "enhanced MR", "enhanced PT"]
TURNS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def turned(scan: Volume, order: tuple, signs: tuple) -> Volume:
    """The same scan with its voxel axes in another order and direction."""
    affine = scan.geometry.affine.copy()
    affine[:3, :3] = affine[:3, order] * signs
    data = scan.data[0].transpose(order)
    last = np.where(np.array(signs) < 0, np.array(data.shape) - 1, 0)
    affine[:3, 3] -= affine[:3, :3] @ last
    steps = tuple(slice(None, None, sign) for sign in signs)
    padding = None if scan.padding is None else scan.padding.transpose(order)[steps]
    return Volume(data[steps], Geometry(data.shape, affine), scan.modality, scan.units, padding)


# -- axes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "signs"), TURNS, ids=str)
def test_any_of_the_48_axis_orders_is_laid_like_the_source(tmp_path, order, signs):
    cases.series(tmp_path / "in", axes=cases.OBLIQUE)
    scan = mio.read(tmp_path / "in")
    again = laid_like(turned(scan, order, signs), scan.geometry)
    assert np.array_equal(again.data, scan.data[0])
    assert again.geometry.distance_mm(scan.geometry) < 1e-9


@pytest.mark.parametrize(("order", "signs"), TURNS, ids=str)
def test_turned_volumes_are_written_as_they_lie(tmp_path, order, signs):
    cases.series(tmp_path / "in", axes=cases.OBLIQUE)
    scan = mio.read(tmp_path / "in")
    mio.write(turned(scan, order, signs), tmp_path / "out", like=tmp_path / "in")
    again = mio.read(tmp_path / "out")
    assert np.array_equal(again.data, scan.data)
    assert cases.ramp_error(again, cases.truth(cases.OBLIQUE)) < 1e-6


def test_a_layout_that_forgets_a_flip_breaks_the_law(tmp_path):
    cases.series(tmp_path / "in")
    scan = mio.read(tmp_path / "in")
    flipped = Volume(scan.data[0][::-1], scan.geometry, "CT", "HU")
    mio.write(flipped, tmp_path / "out", like=tmp_path / "in")
    assert cases.ramp_error(mio.read(tmp_path / "out"), cases.truth()) > 1


# -- other grids -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [2, 3])
def test_a_finer_grid_keeps_the_ramp_and_names_its_sources(tmp_path, kind, factor):
    folder = source(tmp_path / "in", kind, axes=cases.OBLIQUE)
    scan = mio.read(folder)
    across, down, apart = scan.geometry.spacing_mm
    finer = scan.geometry.with_spacing((across / 1.5, down, apart / factor))
    made = Volume(cases.ramp(finer, cases.truth(cases.OBLIQUE)).astype(np.float32), finer, scan.modality, scan.units)
    files = mio.write(made, tmp_path / "out", like=folder, provenance=RECORD)
    again = mio.read(tmp_path / "out")
    images = [pydicom.dcmread(file) for file in files[:-1]]
    assert again.geometry.distance_mm(finer) < 1e-6
    assert np.abs(again.data - made.data).max() <= {"MR": 0.5, "CT": 0.005, "PT": 0.008}[scan.modality] * 1.001
    assert validate(files, folder) == []
    assert [int(image.InstanceNumber) for image in images] == list(range(1, 5 * factor + 1))
    assert all(float(image.SliceThickness) == pytest.approx(apart / factor) for image in images)
    assert {code.CodeValue for image in images for code in image.DerivationCodeSequence} == {"113085", "RESTORE"}
    assert_all_contribute(images, folder)


def assert_all_contribute(images: list, folder) -> None:
    """Every image names just the source images within a slice distance of its slab; together they name all."""
    origin = find_source(folder)
    places = {(h.sop_uid, h.frame if h.enhanced else None): origin.heights()[k] for k, h in enumerate(origin.images)}
    apart = float(np.diff(origin.heights()).mean())
    named = set()
    for image in images:
        height = float(origin.normal @ np.array(image.ImagePositionPatient, float))
        reach = apart + float(image.SliceThickness) / 2
        keys = set()
        for item in image.SourceImageSequence:
            frames = np.atleast_1d(item.get("ReferencedFrameNumber", 0)).astype(int)
            keys |= {(item.ReferencedSOPInstanceUID, int(frame) - 1 if frame else None) for frame in frames}
            assert item.SpatialLocationsPreserved == "NO"
        assert keys == {key for key, place in places.items() if abs(place - height) < reach * 0.999}
        named |= keys
    assert named == set(places)


def test_a_coarser_grid_names_every_image_that_it_swallows(tmp_path):
    folder = source(tmp_path / "in", "MR")
    scan = mio.read(folder)
    coarse = scan.geometry.with_spacing((*scan.geometry.spacing_mm[:2], 6.25))
    made = Volume(cases.ramp(coarse, cases.truth()).astype(np.float32), coarse, "MR")
    files = mio.write(made, tmp_path / "out", like=folder, provenance=RECORD)
    assert_all_contribute([pydicom.dcmread(file) for file in files[:-1]], folder)


@pytest.mark.parametrize("kind", KINDS)
def test_on_its_own_grid_each_image_names_one_source(tmp_path, kind):
    folder = source(tmp_path / "in", kind)
    files = mio.write(mio.read(folder), tmp_path / "out", like=folder)
    origin = find_source(folder)
    for header, file in zip(origin.images, files[:-1], strict=True):
        image = pydicom.dcmread(file)
        (item,) = image.SourceImageSequence
        assert item.ReferencedSOPInstanceUID == header.sop_uid
        assert item.get("ReferencedFrameNumber") == (header.frame + 1 if header.enhanced else None)
        assert item.SpatialLocationsPreserved == "YES"
        assert image.ReferencedSeriesSequence[0].SeriesInstanceUID == header.series_uid


# -- sixteen bits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
@pytest.mark.parametrize(
    "values",
    [
        [-3024, 0, 3071],
        [-32768, 32767],
        [0, 65535],
        [-70000, -69000],
        [-1000.5, 0, 3000.25],
        [0, 1e-7],
        [-5e8, 5e8],
        [0.2, 700.4],
        [2**40, 2**40 + 7],
        [0.5, 0.5],
        [0, 0],
        [1e30, -1e30],
    ],
    ids=str,
)
def test_stored_values_never_wrap(values, modality):
    data = np.array([values])
    storage = plan_storage(lambda k: data, [Scale(1.0, 0.0, signed=False)], modality=modality)
    (scale,) = storage.scales
    again = scale.real(scale.store(data))
    exact = data.dtype.kind == "i" and scale.exact
    assert np.abs(again - data).max() <= (0 if exact else scale.error + np.abs(data).max() * 1e-9)
    assert bool(storage.note) == (not scale.exact)
    assert scale.slope <= max(np.abs(data).max() / 32766, np.ptp(data) / 65534 * 2.51, 1.0)
    assert all(len(str(pydicom.valuerep.DSfloat(v, auto_format=True))) <= 16 for v in (scale.slope, scale.intercept))
    assert modality != "PT" or scale.intercept == 0


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
@pytest.mark.parametrize("ends", [(0.2, 700.4), (-1000.5, 3000.25), (1e-3, 0.7), (-70000.3, 5e8)], ids=str)
def test_bounds_are_never_stored_closer_together(ends, modality):
    data = np.random.default_rng(1).uniform(*ends, (20, 20))
    for towards, sign in (("down", 1), ("up", -1)):
        (scale,) = plan_storage(lambda k: data, [Scale(1.0, 0.0, False)], modality=modality, towards=towards).scales
        apart = sign * (data - scale.real(scale.store(data)))
        assert apart.min() >= -2e-6 * scale.slope - 1e-12 * np.abs(data).max()
        assert apart.max() <= scale.slope * (1 + 1e-6)
    (near,) = plan_storage(lambda k: data, [Scale(1.0, 0.0, False)], modality=modality).scales
    assert (data - near.real(near.store(data))).min() < 0 < (data - near.real(near.store(data))).max()


def test_whole_bounds_stay_as_they_are():
    data = np.array([[0.0, 5.0000001, 1000.0, 899.9999999, 70.4]])
    for towards, last in (("down", 70), ("up", 71)):
        (scale,) = plan_storage(lambda k: data, [Scale(1.0, 0.0, False)], modality="MR", towards=towards).scales
        assert scale.store(data).tolist() == [[0, 5, 1000, 900, last]]


def test_a_series_of_bounds_holds_what_they_held(tmp_path):
    cases.series(tmp_path / "in", modality="MR")
    scan = mio.read(tmp_path / "in")
    rng = np.random.default_rng(4)
    middle = scan.with_data((scan.data + 600 * rng.random(scan.data.shape)).astype(np.float32))
    assert scan.modality == "MR"
    for kind, below in (("lower", True), ("upper", False), ("scan", None)):
        mio.write(middle, tmp_path / kind, like=tmp_path / "in", provenance=RECORD, kind=kind)
        apart = middle.data - mio.read(tmp_path / kind).data
        assert np.abs(apart).max() > 0.4
        assert below is None or ((apart >= 0) if below else (apart <= 0)).all()
        if below is None:
            assert apart.min() < 0 < apart.max()


def test_bounds_that_would_read_as_padding_go_outwards_too(tmp_path):
    def padded(ds, k):
        ds.PixelPaddingValue = 5

    cases.series(tmp_path / "in", modality="MR", edit=padded)
    scan = mio.read(tmp_path / "in")
    values = np.linspace(0.0, 900.0, scan.data.size, dtype=np.float32).reshape(scan.data.shape)
    values[0, 2:4, 2:4, 1:3] = 5.3
    for kind, stored in (("lower", 4), ("upper", 6)):
        mio.write(scan.with_data(values), tmp_path / kind, like=tmp_path / "in", provenance=RECORD, kind=kind)
        again = mio.read(tmp_path / kind)
        assert again.padding is None or not again.padding[2:4, 2:4, 1:3].any()
        assert (again.data[0, 2:4, 2:4, 1:3] == stored).all()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["CT", "MR"]),
    st.lists(st.integers(-40000, 40000), min_size=2, max_size=9),
    st.sampled_from([(1.0, 0.0), (1.0, -1024.0), (0.1, -5.0), (2.4420024420024, 0.0)]),
)
def test_values_of_the_source_lattice_come_back_exactly(modality, steps, lattice):
    scale = Scale(*lattice, signed=min(steps) < 0)
    low, high = scale.limits
    reals = scale.real(np.clip(np.array([steps]), low, high)).astype(np.float32)
    storage = plan_storage(lambda k: reals, [scale], modality=modality)
    again = storage.scales[0].real(storage.scales[0].store(reals)).astype(np.float32)
    assert np.array_equal(again, reals)


def test_pet_keeps_the_slope_of_each_slice_and_adds_its_own_when_changed(tmp_path):
    cases.series(tmp_path / "in", modality="PT", edit=pet)
    scan = mio.read(tmp_path / "in")
    files = mio.write(scan, tmp_path / "same", like=tmp_path / "in")
    assert [float(pydicom.dcmread(f).RescaleSlope) for f in files[:-1]] == [0.5, 1.0, 1.5, 2.0, 2.5]
    rng = np.random.default_rng(3)
    noisy = scan.with_data((scan.data + rng.random(scan.data.shape)).astype(np.float32))
    mio.write(noisy, tmp_path / "noisy", like=tmp_path / "in", provenance=RECORD)
    again = mio.read(tmp_path / "noisy")
    peak = noisy.data.max(axis=(0, 1, 2))
    assert (np.abs(again.data - noisy.data).max(axis=(0, 1, 2)) <= peak / 65534 * 1.001).all()


def test_the_record_tells_what_sixteen_bits_cost(tmp_path):
    cases.series(tmp_path / "in")
    scan = mio.read(tmp_path / "in")
    exact = mio.write(scan, tmp_path / "same", like=tmp_path / "in")
    rough = mio.write(scan.with_data(scan.data + 0.03), tmp_path / "rough", like=tmp_path / "in")
    said = [json.loads(files[-1].read_text())["Provenance"]["decisions"] for files in (exact, rough)]
    assert said[0] == []
    assert said[1] == ["stored in steps of 0.01: at most 0.005 off"]


@pytest.mark.parametrize("broken", ["Scale.store", "Plan.nearest", "Scale.real"])
def test_a_broken_writer_is_caught_and_leaves_nothing(tmp_path, monkeypatch, broken):
    cases.series(tmp_path / "in")
    scan = mio.read(tmp_path / "in")
    shifted = scan.geometry.affine.copy()
    shifted[:3, 3] += 1
    breaks = {
        "Scale.store": (Scale, "store", lambda self, values: (values + 1024).astype(np.uint8).astype(np.uint16)),
        "Scale.real": (Scale, "holds", lambda self, values: True),
        "Plan.nearest": (Plan, "geometry", property(lambda self: Geometry(scan.shape, shifted))),
    }
    data = scan.data + (0.3 if broken == "Scale.real" else 0)
    if broken == "Plan.nearest":
        from medidiff.io.dicom.derived import image

        monkeypatch.setattr(image, "LPS_TO_RAS", np.diag((1.0, 1.0, 1.0, 1.0)))
    else:
        monkeypatch.setattr(*breaks[broken])
    with pytest.raises(OutputError, match="E-VERIFY"):
        mio.write(scan.with_data(data), tmp_path / "out", like=tmp_path / "in")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


# -- through NIfTI -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axes", [cases.AXIAL, cases.OBLIQUE])
def test_dicom_to_nifti_to_dicom_is_exact(tmp_path, kind, axes):
    folder = source(tmp_path / "in", kind, axes=axes)
    scan = mio.read(folder)
    nifti = mio.write(scan, tmp_path / "scan.nii.gz", like=folder)[0]
    mio.write(mio.read(nifti), tmp_path / "out", like=folder)
    again = mio.read(tmp_path / "out")
    assert np.array_equal(again.data, scan.data)
    assert again.geometry.distance_mm(scan.geometry) < 1e-6


# -- padding -----------------------------------------------------------------------------------------------------------


def padded(value: int, limit: int | None = None):
    """An edit: the first two columns hold padding, the value signed when it is negative."""

    def edit(ds, k: int) -> None:
        stored = cases.pixels(ds).astype(int)
        if value < 0:
            ds.PixelRepresentation, ds.RescaleIntercept = 1, "0"
            stored -= 1024
        stored[:, 0] = value
        stored[:, 1] = value if limit is None else limit
        ds.PixelPaddingValue = value
        ds["PixelPaddingValue"].VR = "SS" if value < 0 else "US"
        if limit is not None:
            ds.PixelPaddingRangeLimit = limit
            ds["PixelPaddingRangeLimit"].VR = "SS" if value < 0 else "US"
        cases.set_pixels(ds, stored)

    return edit


@pytest.mark.parametrize("case", [(-2000, None), (-2000, -1999), (65535, None), (3, None)], ids=str)
@pytest.mark.parametrize("way", ["as read", "through NIfTI"])
def test_padding_comes_back_with_its_value(tmp_path, case, way):
    folder = tmp_path / "in"
    cases.series(folder, edit=padded(*case))
    scan = mio.read(folder)
    kept = scan if way == "as read" else mio.read(mio.write(scan, tmp_path / "scan.nii.gz", like=folder)[0])
    files = mio.write(kept, tmp_path / "out", like=folder)
    again = mio.read(tmp_path / "out")
    assert np.array_equal(again.data, scan.data)
    assert scan.padding is not None
    assert np.array_equal(again.padding, scan.padding)
    assert scan.padding.sum() == 2 * 6 * 5
    assert pydicom.dcmread(files[0]).PixelPaddingValue == pydicom.dcmread(folder / "IM0000.dcm").PixelPaddingValue
    assert validate(files) == []


def test_a_result_never_turns_into_padding_nor_padding_into_a_result(tmp_path):
    folder = tmp_path / "in"
    cases.series(folder, edit=padded(-2000))
    scan = mio.read(folder)
    data = scan.data.astype(np.float32) + 0.25
    data[0, 4, 4, 2] = -2000  # a measured voxel that happens to hold the padding value
    files = mio.write(scan.with_data(data), tmp_path / "out", like=folder)
    again = mio.read(tmp_path / "out")
    assert np.array_equal(again.padding, scan.padding)
    assert np.allclose(again.data[0][again.padding], -2000, atol=1e-3)
    assert np.abs(again.data[0] - data[0])[~again.padding].max() < 0.21
    assert "1 measured voxels moved" in str(json.loads(files[-1].read_text())["Provenance"]["decisions"])
