"""Stacks that are no regular grid: refused by default, repaired by name, exact on a ramp, and marked."""

from __future__ import annotations

from pathlib import Path

import dicom_cases as cases
import numpy as np
import pytest
from pydicom.dataset import Dataset

import medidiff.io as mio
from medidiff.errors import InputError
from medidiff.io import ReadOptions
from medidiff.io.dicom.series import repairs
from medidiff.io.dicom.series.repairs import shifted
from medidiff.volume import Volume


def lying(*, missing=(), along=None, sideways=None, degrees=0.0, count=8, axes=cases.AXIAL, **values):
    """An edit that puts slice k where it is asked to lie, with the ramp's values there."""
    grid = cases.truth(axes)
    normal = np.cross(*axes)
    tilt = np.tan(np.radians(degrees)) * np.asarray(axes[1])

    def edit(ds: Dataset, k: int) -> bool:
        if k in missing:
            return False
        place = 2.5 * k + (along or {}).get(k, 0.0)
        offset = normal * (place - 2.5 * k) + tilt * place + np.asarray(axes[0]) * (sideways or {}).get(k, 0.0)
        position = np.array(ds.ImagePositionPatient, float) + offset
        ds.ImagePositionPatient = [f"{v:.11g}" for v in position]
        pixel = np.asarray(axes[0])[:, None] * 0.75 * np.arange(7)
        down = np.asarray(axes[1])[:, None] * 0.5 * np.arange(6)
        world = position[:, None, None] + down[:, :, None] + pixel[:, None, :]
        world = np.moveaxis(world, 0, -1) * (-1, -1, 1)
        # stored to 1/32 of a unit, so that the ramp is a line at any position
        ds.RescaleSlope, ds.RescaleIntercept = str(1 / 32), "-200"
        cases.set_pixels(ds, np.rint((grid.index(world) @ cases.WEIGHTS + 200) * 32))
        for name, value in values.items():
            setattr(ds, name, value)
        return True

    return edit, range(count)


def written(folder: Path, **asked) -> Path:
    axes = asked.get("axes", cases.AXIAL)
    edit, slices = lying(**asked)
    cases.series(folder, edit=edit, slices=slices, axes=axes)
    return folder


def error(scan: Volume, axes=cases.AXIAL, *, where=None) -> float:
    where = scan.measured if where is None else where
    apart = np.abs(scan.data[0] - cases.ramp(scan.geometry, cases.truth(axes)))
    return float(apart[where].max())


def refused(folder: Path, **options) -> InputError:
    with pytest.raises(InputError) as caught:
        mio.read(folder, ReadOptions(**options))
    assert not any(secret in str(caught.value) for secret in cases.SECRETS)
    return caught.value


EXACT = 0.035  # half a stored step, twice


# -- gaps --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [cases.AXIAL, cases.OBLIQUE])
@pytest.mark.parametrize("missing", [(3,), (2, 3, 5)])
def test_a_gap_is_filled_by_name_and_marked(tmp_path, missing, axes):
    folder = written(tmp_path, missing=missing, axes=axes)
    fault = refused(folder)
    assert fault.code == "E-GAP"
    assert "--on-gap resample" in fault.mend
    reading = mio.read_scan(folder, ReadOptions(on_gap="resample"))
    scan = reading.volume
    assert scan.shape == (7, 6, 8)
    assert error(scan, axes, where=np.ones(scan.shape, bool)) < EXACT
    assert sorted(set(np.nonzero(scan.filled)[2])) == list(missing)
    assert scan.filled[:, :, list(missing)].all()
    assert scan.padding is None
    assert any("--on-gap resample" in text for text in reading.decisions)
    assert len(reading.files) == 8 - len(missing)


def test_the_gap_message_names_neighbours_distance_and_spacing(tmp_path):
    text = str(refused(written(tmp_path, missing=(2, 3, 5))))
    for part in ("3 missing slices", "IM0001.dcm and IM0004.dcm (7.5 mm", "IM0004.dcm and IM0006.dcm (5 mm", "2.5 mm"):
        assert part in text


def test_too_many_missing_slices_are_never_made_up(tmp_path):
    folder = written(tmp_path, missing=(2, 3, 4, 5, 6))
    assert refused(folder, on_gap="resample").code == "E-GAP"


def test_a_filled_slice_of_a_broken_repair_fails_the_ramp(tmp_path, monkeypatch):
    folder = written(tmp_path, missing=(3,))
    along = repairs._along

    def lazy(places):
        count, shares, filled = along(places)
        return count, tuple(tuple((k, 1.0 if w == 1 else 0.75 * w) for k, w in s) for s in shares), filled

    monkeypatch.setattr(repairs, "_along", lazy)
    scan = mio.read(folder, ReadOptions(on_gap="resample"))
    assert error(scan, where=np.ones(scan.shape, bool)) > 1


# -- uneven spacing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [cases.AXIAL, cases.OBLIQUE])
def test_uneven_spacing_is_resampled_by_name(tmp_path, axes):
    folder = written(tmp_path, along={3: 0.7, 4: 0.7, 5: 0.7, 6: 0.7, 7: 0.7}, axes=axes)
    fault = refused(folder)
    assert fault.code == "E-SPACING"
    for part in ("3.2 mm", "2.5 mm x6", "IM0002.dcm and IM0003.dcm", "--on-spacing resample"):
        assert part in str(fault)
    assert refused(folder, on_gap="resample").code == "E-SPACING"
    scan = mio.read(folder, ReadOptions(on_spacing="resample"))
    assert scan.geometry.spacing_mm[2] == pytest.approx(2.5, abs=0.01)
    assert error(scan, axes, where=np.ones(scan.shape, bool)) < EXACT
    assert sorted(set(np.nonzero(scan.filled)[2])) == [3, 4, 5, 6, 7]


def test_a_slice_pushed_sideways(tmp_path):
    folder = written(tmp_path, sideways={4: 1.125})
    fault = refused(folder)
    assert fault.code == "E-SPACING"
    assert "IM0004.dcm lies 1.125 mm sideways" in fault.found
    scan = mio.read(folder, ReadOptions(on_spacing="resample"))
    assert scan.shape == (9, 6, 8)
    assert error(scan) < EXACT
    assert scan.padding[:, :, 0].sum() == 2 * 6
    assert scan.padding[:, :, 4].sum() == 3 * 6  # 7 pixels half a pixel off give 6


# -- tilt --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [cases.AXIAL, cases.OBLIQUE])
@pytest.mark.parametrize("degrees", [-20.0, 0.5, 15.0])
def test_tilt_is_kept_as_shear_or_resampled_by_name(tmp_path, degrees, axes):
    folder = written(tmp_path, degrees=degrees, axes=axes)
    fault = refused(folder, on_gap="resample", on_spacing="resample")
    assert fault.code == "E-TILT"
    assert f"{abs(degrees):.2f} degrees" in fault.found
    assert "--on-tilt shear" in fault.mend
    sheared = mio.read(folder, ReadOptions(on_tilt="shear"))
    assert not sheared.geometry.is_orthogonal
    assert sheared.filled is None
    assert error(sheared, axes) < EXACT
    scan = mio.read(folder, ReadOptions(on_tilt="resample"))
    assert scan.geometry.is_orthogonal
    assert error(scan, axes) < EXACT
    assert (scan.data[0][scan.padding] == -1024).all()
    assert scan.padding.mean() < 0.9


def test_padding_of_a_resampled_tilt_in_other_units_is_0(tmp_path):
    edit, slices = lying(degrees=10.0)
    cases.series(tmp_path, edit=edit, slices=slices, modality="MR")
    scan = mio.read(tmp_path, ReadOptions(on_tilt="resample"))
    assert (scan.data[0][scan.padding] == 0).all()


def test_two_faults_need_two_options_and_name_the_first_missing(tmp_path):
    folder = written(tmp_path, missing=(3, 5), degrees=12.0)
    assert refused(folder).code == "E-GAP"
    assert refused(folder, on_tilt="resample").code == "E-GAP"
    assert refused(folder, on_gap="resample").code == "E-TILT"
    for way in ("shear", "resample"):
        scan = mio.read(folder, ReadOptions(on_gap="resample", on_tilt=way))
        measured = np.ones(scan.shape, bool) if scan.padding is None else ~scan.padding
        assert error(scan, where=measured) < EXACT
        assert sorted(set(np.nonzero(scan.filled)[2])) == [3, 5]
    uneven = written(tmp_path / "uneven", along={2: 0.7}, degrees=12.0)
    assert refused(uneven, on_tilt="shear").code == "E-SPACING"
    assert refused(uneven, on_spacing="resample").code == "E-TILT"
    assert error(mio.read(uneven, ReadOptions(on_spacing="resample", on_tilt="resample"))) < EXACT


# -- padding meets interpolation ---------------------------------------------------------------------------------------


def test_padding_is_never_blended_into_what_was_measured(tmp_path):
    edit, slices = lying(missing=(3,), PixelPaddingValue=0)

    def padded(ds: Dataset, k: int) -> object:
        if edit(ds, k) is False:
            return False
        ds["PixelPaddingValue"].VR = "US"
        values = cases.pixels(ds).copy()
        values[0, :2] = 0
        if k == 4:
            values[5, 6] = 0
        return cases.set_pixels(ds, values)

    cases.series(tmp_path, edit=padded, slices=slices)
    scan = mio.read(tmp_path, ReadOptions(on_gap="resample"))
    assert error(scan) < EXACT
    assert error(scan, where=~scan.padding) < EXACT
    assert scan.padding[:2, 0].all()
    assert scan.padding[6, 5].tolist() == [False, False, False, True, True, False, False, False]
    assert scan.data[0, 0, 0, 1] == -200
    assert scan.data[0, 6, 5, 3] == -1024


def test_a_shift_by_whole_pixels_is_exact_and_by_parts_linear():
    values = np.arange(12.0).reshape(3, 4)
    moved, lost = shifted(values, None, start=(-1.0, 0.0), shape=(3, 6))
    assert np.array_equal(moved[:, 1:5], values)
    assert lost[:, [0, 5]].all()
    assert not lost[:, 1:5].any()
    moved, lost = shifted(values, values == 5, start=(0.25, 0.5), shape=(3, 4))
    assert moved[0, 2] == pytest.approx(values[0, 2] + 0.25 + 2)
    assert lost.tolist() == [[True, True, False, True], [True, True, False, True], [True] * 4]


# -- what is missing altogether ----------------------------------------------------------------------------------------


def _without(*names):
    def edit(ds: Dataset, k: int) -> None:
        for name in names:
            delattr(ds, name)

    return edit


def test_positions_are_assumed_by_name_only(tmp_path):
    def edit(ds: Dataset, k: int) -> None:
        del ds.ImagePositionPatient
        ds.InstanceNumber = str(10 - k)

    cases.series(tmp_path, edit=edit)
    fault = refused(tmp_path)
    assert (fault.code, "--assume-spacing-mm" in fault.mend) == ("E-NOIPP", True)
    reading = mio.read_scan(tmp_path, ReadOptions(assume_spacing_mm=2.5))
    assert reading.volume.geometry.spacing_mm == pytest.approx(cases.SPACING)
    assert [file.name for file in reading.files] == [f"IM000{k}.dcm" for k in (4, 3, 2, 1, 0)]
    assert reading.volume.data[0, 0, 0].tolist() == [400, 300, 200, 100, 0]
    assert any("InstanceNumber" in text for text in reading.decisions)


@pytest.mark.parametrize("number", ["", "7"])
def test_positions_are_not_assumed_without_an_order(tmp_path, number):
    def edit(ds: Dataset, k: int) -> None:
        del ds.ImagePositionPatient
        ds.InstanceNumber = number

    cases.series(tmp_path, edit=edit)
    assert refused(tmp_path, assume_spacing_mm=2.5).code == "E-NOIPP"


def test_one_lost_position_is_never_assumed(tmp_path):
    cases.series(tmp_path, edit=lambda ds, k: _without("ImagePositionPatient")(ds, k) if k == 2 else None)
    fault = refused(tmp_path, assume_spacing_mm=2.5)
    assert (fault.code, fault.file) == ("E-NOIPP", "IM0002.dcm")


def test_imager_spacing_by_name_only(tmp_path):
    def edit(ds: Dataset, k: int) -> None:
        del ds.PixelSpacing
        ds.ImagerPixelSpacing = ["0.5", "0.75"]

    cases.series(tmp_path, edit=edit)
    fault = refused(tmp_path)
    assert (fault.code, "--imager-spacing" in fault.mend) == ("E-NOSPACING", True)
    reading = mio.read_scan(tmp_path, ReadOptions(imager_spacing=True))
    assert cases.ramp_error(reading.volume, cases.truth()) < 1e-9
    assert any("ImagerPixelSpacing" in text for text in reading.decisions)


def test_without_any_spacing_the_option_does_not_help(tmp_path):
    cases.series(tmp_path, edit=_without("PixelSpacing"))
    fault = refused(tmp_path, imager_spacing=True)
    assert (fault.code, "--imager-spacing" in fault.mend) == ("E-NOSPACING", False)


@pytest.mark.parametrize("modality", ["CT", "PT"])
def test_stored_values_are_kept_by_name_and_have_no_unit(tmp_path, modality):
    cases.series(tmp_path, edit=_without("RescaleSlope", "RescaleIntercept"), modality=modality)
    fault = refused(tmp_path)
    assert (fault.code, "--assume-rescale" in fault.mend) == ("E-NORESCALE", True)
    reading = mio.read_scan(tmp_path, ReadOptions(assume_rescale=True))
    assert reading.volume.units == ""
    assert reading.volume.data[0, 0, 0, 0] == 1024
    assert any("--assume-rescale" in text for text in reading.decisions)
    assert mio.inspect(tmp_path, ReadOptions(assume_rescale=True)).series[0].units == ""


@pytest.mark.parametrize("names", [("RescaleSlope",), ("RescaleIntercept",), ("RescaleSlope", "RescaleIntercept")])
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_half_a_rescale_is_never_completed(tmp_path, modality, names):
    def edit(ds: Dataset, k: int) -> None:
        ds.RescaleSlope, ds.RescaleIntercept = "1", "-1024"
        if k == 2:
            _without(*names)(ds, k)

    cases.series(tmp_path, edit=edit, modality=modality)
    fault = refused(tmp_path, assume_rescale=True)
    assert (fault.code, fault.file) == ("E-NORESCALE", "IM0002.dcm")
