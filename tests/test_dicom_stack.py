"""How near to regular is regular: the rule of `medidiff.io.dicom.series.tolerances`, from both sides."""

from __future__ import annotations

import dicom_cases as cases
import numpy as np
import pytest
from pydicom.dataset import Dataset

import medidiff.io as mio
from medidiff.errors import InputError
from medidiff.io.dicom.series.tolerances import fit_places

UP = np.array([0.0, 0.0, 1.0])


def stack(*along: float) -> np.ndarray:
    return np.stack([np.full(len(along), -12.5), np.full(len(along), 20.25), np.asarray(along, float)], axis=1)


def verdict(positions: np.ndarray, normal: np.ndarray = UP) -> str:
    places = fit_places(positions, normal)
    if places.missing:
        return f"gap {places.missing}"
    if places.uneven:
        return "uneven"
    if places.is_crooked:
        return "crooked"
    return "tilt" if places.tilt_degrees else "regular"


def steps(*sizes: float) -> np.ndarray:
    return stack(*np.cumsum([-32.5, *sizes]))


@pytest.mark.parametrize("spacing", [1 / 3, 0.125, 0.7, 0.625, 2 / 3, 1.25, 2.5, 7.333333])
@pytest.mark.parametrize("count", [2, 3, 7, 40, 500])
def test_positions_rounded_to_hundredths_are_regular(spacing, count):
    positions = stack(*np.round(-101.13 + spacing * np.arange(count), 2))
    assert verdict(positions) == "regular"
    assert fit_places(positions, UP).spacing_mm == pytest.approx(spacing, abs=0.0101 / (count - 1))


@pytest.mark.parametrize("spacing", [1 / 3, 0.7, 2.5])
def test_rounded_positions_of_an_oblique_stack_are_neither_tilted_nor_uneven(spacing):
    normal = np.cross(*cases.OBLIQUE)
    for count in (2, 3, 50):
        positions = np.round(np.array([1.7, -33.3, 8.123]) + spacing * np.arange(count)[:, None] * normal, 2)
        assert verdict(positions, normal) == "regular"
        if spacing > 1:
            assert verdict(positions + np.arange(count)[:, None] * [0.02, 0.02, 0.0], normal) == "tilt"


@pytest.mark.parametrize("spacing", [1 / 3, 0.7, 2.5])
@pytest.mark.parametrize("lost", [1, 2, 3])
def test_rounding_never_hides_a_missing_slice(spacing, lost):
    along = np.round(spacing * np.arange(30), 2)
    assert verdict(stack(*np.delete(along, range(12, 12 + lost)))) == f"gap {lost}"


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([2.5] * 9, "regular"),
        ([2.5] * 4 + [2.51] + [2.5] * 4, "regular"),  # 0.4 % too long
        ([2.5] * 4 + [2.55] + [2.5] * 4, "uneven"),  # 2 % too long, though every slice is near a place
        ([2.5] * 20 + [2.55] + [2.5] * 20, "uneven"),
        ([2.5] * 4 + [2.6] + [2.5] * 4, "uneven"),
        ([2.5] * 4 + [3.75] + [2.5] * 4, "uneven"),
        ([2.5] * 4 + [4.9] + [2.5] * 4, "uneven"),
        ([2.5] * 4 + [5.01] + [2.5] * 4, "gap 1"),
        ([2.5] * 4 + [10.0] + [2.5] * 4, "gap 3"),
        ([2.5, 5.0], "gap 1"),
        ([5.0, 2.5, 5.0, 5.0], "gap 3"),
        ([2.5, 250.0], "gap 99"),
        ([2.5, 2.5, 0.01, 2.5], "uneven"),  # a hair's breadth is no spacing, though it divides the others
        ([0.33, 0.34, 0.33, 0.36, 0.33], "uneven"),
        ([0.33, 0.34, 0.33, 0.67, 0.33], "gap 1"),
        (list(np.linspace(2.5, 2.52, 200)), "uneven"),  # grows by a hair each, and drifts far away
        (list(np.linspace(2.5, 2.5001, 200)), "regular"),
    ],
)
def test_each_verdict(sizes, expected):
    assert verdict(steps(*sizes)) == expected
    assert verdict(steps(*sizes[::-1])) == expected


def test_jitter_of_half_a_percent_is_regular_and_of_two_is_not():
    jitter = np.random.default_rng(0).uniform(-1, 1, 60)
    assert verdict(stack(*(2.5 * np.arange(60) + 0.005 * jitter))) == "regular"
    assert verdict(stack(*(2.5 * np.arange(60) + 0.05 * jitter))) == "uneven"


@pytest.mark.parametrize("which", [0, 1, 3, 6])
def test_one_slice_astray_does_not_tilt_the_others(which):
    positions = steps(*[2.5] * 6)
    positions[which, 0] += 1.0
    places = fit_places(positions, UP)
    assert verdict(positions) == "crooked"
    assert places.tilt_degrees == 0
    assert int(np.argmax(places.crooked_mm)) == which


def test_a_series_in_third_millimetres_is_read(tmp_path):
    def edit(ds: Dataset, k: int) -> None:
        x, y, _ = ds.ImagePositionPatient
        ds.ImagePositionPatient = [x, y, f"{k / 3:.2f}"]

    cases.series(tmp_path, edit=edit, slices=range(8))
    scan = mio.read(tmp_path)
    assert scan.geometry.spacing_mm[2] == pytest.approx(1 / 3, abs=1e-3)
    assert scan.data[0, 0, 0].tolist() == [100 * k for k in range(8)]


def test_positions_win_over_what_else_the_header_says(tmp_path):
    def edit(ds: Dataset, k: int) -> None:
        ds.SliceThickness, ds.SpacingBetweenSlices = "5", "-3"

    cases.series(tmp_path, edit=edit)
    reading = mio.read_scan(tmp_path)
    assert cases.ramp_error(reading.volume, cases.truth()) < 1e-9
    notes = [text for text in reading.decisions if "positions are believed" in text]
    assert len(notes) == 2
    assert "SpacingBetweenSlices says -3 mm, the positions 2.5 mm" in notes[0]


def test_broken_numbers_that_only_notes_use_do_no_harm(tmp_path):
    cases.series(tmp_path)
    for file in tmp_path.iterdir():
        cases.patch(file, b"DS\x04\x002.5 ", b"DS\x04\x002,5 ")
    assert cases.ramp_error(mio.read(tmp_path), cases.truth()) < 1e-9


def test_two_slices_at_one_place_are_named(tmp_path):
    def edit(ds: Dataset, k: int) -> None:
        if k == 2:
            ds.ImagePositionPatient = cases.image(1).ImagePositionPatient

    cases.series(tmp_path, edit=edit)
    with pytest.raises(InputError, match=r"E-DUPPOS.*IM000[12].dcm and IM000[12].dcm.*Keep one"):
        mio.read(tmp_path)


@pytest.mark.parametrize("off", [5e-5, 5e-4])
def test_cosines_to_one_in_ten_thousand(tmp_path, off):
    cases.series(tmp_path, edit=lambda ds, k: setattr(ds, "ImageOrientationPatient", [1, off, 0, 0, 1, 0]))
    if off > 1e-4:
        with pytest.raises(InputError, match="E-BADIOP"):
            mio.read(tmp_path)
    else:
        assert mio.read(tmp_path).shape == cases.SHAPE
