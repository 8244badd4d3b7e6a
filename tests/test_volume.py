"""Laws of the values: a grid knows where its voxels are, and nothing invalid can be built."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medidiff.errors import InputError, MedidiffError, SettingsError
from medidiff.volume import Geometry, Provenance, Volume

OBLIQUE = np.array([[0.8, 0.1, -0.2, 12.5], [-0.15, 0.9, 0.3, -7.25], [0.2, -0.2, 2.5, 3.0], [0, 0, 0, 1]])
SIZES = st.integers(min_value=1, max_value=40)
SPACINGS = st.floats(min_value=0.2, max_value=6.0)


def test_index_undoes_world() -> None:
    grid = Geometry((5, 6, 7), OBLIQUE)
    points = np.random.default_rng(0).uniform(-3, 9, (50, 3))
    np.testing.assert_allclose(grid.index(grid.world(points)), points, atol=1e-12)


def test_a_wrong_affine_does_not_undo() -> None:
    grid, other = Geometry((5, 6, 7), OBLIQUE), Geometry((5, 6, 7), np.diag((1, 2, 3, 1.0)))
    assert np.abs(other.index(grid.world([[1.0, 2.0, 3.0]])) - [[1.0, 2.0, 3.0]]).max() > 0.1


@pytest.mark.parametrize(
    ("affine", "letters"),
    [
        (np.diag((1, 1, 1, 1.0)), "RAS"),
        (np.diag((-1, -1, 1, 1.0)), "LPS"),
        (np.eye(4)[[1, 2, 0, 3]], "SRA"),
        (np.eye(4)[[2, 0, 1, 3]] @ np.diag((-1, 1, -1, 1)), "PSL"),
    ],
)
def test_orientation_names_each_axis(affine: np.ndarray, letters: str) -> None:
    assert Geometry((3, 4, 5), affine).orientation == letters


@given(st.tuples(SIZES, SIZES, SIZES), st.tuples(SPACINGS, SPACINGS, SPACINGS), st.tuples(SPACINGS, SPACINGS, SPACINGS))
def test_another_spacing_covers_the_same_box(shape, spacing, target) -> None:
    grid = Geometry.regular(shape, spacing_mm=spacing)
    finer = grid.with_spacing(target)
    own, asked = np.asarray(spacing), np.asarray(target)
    sides = np.where(np.abs(asked - own) <= 0.005 * own, own, asked)
    assert np.allclose(finer.spacing_mm, sides)
    centre = np.subtract(shape, 1) / 2
    np.testing.assert_allclose(finer.world(np.subtract(finer.shape, 1) / 2), grid.world(centre), atol=1e-9)
    extent, covered = np.multiply(shape, spacing), np.multiply(finer.shape, sides)
    assert (covered >= extent - 1e-5 * sides).all()
    assert (covered < extent + sides).all()


def test_the_same_spacing_is_the_same_grid() -> None:
    grid = Geometry((11, 12, 13), np.diag((0.868, 0.868, 1.0, 1.0)))
    assert grid.with_spacing(grid.spacing_mm).distance_mm(grid) < 1e-9


@pytest.mark.parametrize(
    ("shape", "affine"),
    [
        ((0, 4, 4), np.eye(4)),
        ((4, 4, 4), np.zeros((4, 4))),
        ((4, 4, 4), np.full((4, 4), np.nan)),
        ((4, 4, 4), np.diag((1, 1, 0, 1.0))),
        ((4, 4, 4), np.eye(3)),
        ((4, 4, 4), np.vstack([np.eye(4)[:3], [0, 0, 1, 1]])),
    ],
)
def test_no_invalid_grid(shape, affine) -> None:
    with pytest.raises(InputError):
        Geometry(shape, affine)


@pytest.mark.parametrize("spacing", [(0, 1, 1), (1, 1), (1, np.nan, 1), (1, -1, 1), (np.inf, 1, 1)])
def test_no_invalid_spacing(spacing) -> None:
    with pytest.raises(SettingsError):
        Geometry((4, 4, 4), np.eye(4)).with_spacing(spacing)


def test_values_cannot_be_changed() -> None:
    data = np.zeros((3, 4, 5))
    scan = Volume(data, Geometry((3, 4, 5), np.eye(4)))
    with pytest.raises(ValueError, match="read-only"):
        scan.data[0, 0, 0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        scan.geometry.affine[0, 0] = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        scan.units = "HU"  # type: ignore[misc]


@pytest.mark.parametrize(
    "data", [np.zeros((3, 4, 6)), np.zeros((3, 4)), np.zeros((3, 4, 5), complex), np.empty((3, 4, 5), "U1")]
)
def test_no_invalid_volume(data) -> None:
    with pytest.raises(InputError):
        Volume(data, Geometry((3, 4, 5), np.eye(4)))


def test_shear_is_seen() -> None:
    sheared = np.eye(4)
    sheared[0, 2] = 0.1
    assert Geometry((3, 3, 3), np.eye(4)).is_orthogonal
    assert not Geometry((3, 3, 3), sheared).is_orthogonal


@pytest.mark.parametrize("typed", [0.72, 0.7187, 0.719])
def test_a_rounded_spacing_is_the_grids_own(typed) -> None:
    scan = Geometry.regular((320, 320, 36), spacing_mm=(0.71875, 0.71875, 4.0))
    finer = scan.with_spacing((typed, typed, 1.0))
    assert finer.shape == (320, 320, 144)
    assert np.allclose(finer.affine[:3, :2], scan.affine[:3, :2], atol=1e-15)
    assert scan.with_spacing((typed, typed, 4.0)).distance_mm(scan) < 1e-12


def test_another_spacing_is_not() -> None:
    scan = Geometry.regular((320, 320, 36), spacing_mm=(0.71875, 0.71875, 4.0))
    assert scan.with_spacing((0.7, 0.7, 4.0)).shape == (329, 329, 36)


def test_provenance_survives_json() -> None:
    record = Provenance(
        "denoise", "1", ("ab",), {"noise_level": 0.1, "spacing_mm": [1, 1, 1]}, {"name": "x"}, 7, {}, ("a",)
    )
    assert Provenance.from_json(record.to_json()) == record
    assert Provenance.from_json(record.to_json()).to_json() == record.to_json()


@pytest.mark.parametrize("text", ["{}", "[]", '{"task": "x", "surprise": 1}'])
def test_a_foreign_record_is_refused(text) -> None:
    with pytest.raises(InputError, match="E-PROVENANCE"):
        Provenance.from_json(text)


def test_an_error_says_what_was_found_and_what_mends_it() -> None:
    error = InputError("E-GAP", "gap of 5.0 mm", wanted="2.5 mm", mend="Fetch the slice.", file="a.dcm", attribute="z")
    assert str(error) == "E-GAP: a.dcm z: gap of 5.0 mm (wanted: 2.5 mm). Fetch the slice."
    codes = [kind.exit_code for kind in (MedidiffError, *MedidiffError.__subclasses__())]
    assert len(set(codes)) == len(codes)
