"""Left and right are told by shape: the law of mirror images, and what must not count."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medidiff.trust import halves as module
from medidiff.trust import pose as poses
from medidiff.trust.coarse import coarse, field_of
from medidiff.trust.halves import HALF, halves
from medidiff.trust.pose import find_pose
from medidiff.trust.traits import traits_of
from medidiff.volume import Geometry, Volume
from tests.scope_heads import SIDE_MM, brain, shipped

PLACE_MM = np.array([42.0, -14.0, 8.0])  # of the right auditory cortex, from the middle of the mean brain
FORWARD_MM = 5.0


@pytest.fixture(scope="module")
def template():
    return shipped().template


def folded() -> Volume:
    """The mean brain with folds, the same on both sides: the mean of many has hardly an edge."""
    plain = brain(0)
    rough = ndimage.gaussian_filter(np.random.default_rng(2).standard_normal(plain.shape), 2.0)
    rough = rough + rough[::-1]
    image = plain.data[0] * (1 + 0.2 * rough / rough.std())
    noise = 20 * np.random.default_rng(3).standard_normal(plain.shape)
    return plain.with_data(np.abs(image + noise).astype(np.float32))


def lopsided() -> Volume:
    """What lies around one place of its right half moved to the front."""
    head = folded()
    middle = (np.array(head.shape)[:, None, None, None] - 1) / 2
    index = np.indices(head.shape, dtype=np.float32)
    away = (index - middle) * SIDE_MM - PLACE_MM[:, None, None, None]
    index[1] -= FORWARD_MM / SIDE_MM * np.exp(-np.square(away).sum(axis=0) / (2 * 14.0**2))
    return head.with_data(ndimage.map_coordinates(head.data[0], index, order=1, mode="nearest"))


def mirror_image(volume: Volume) -> Volume:
    return volume.with_data(volume.data[0][::-1].copy())


def centred(volume: Volume) -> np.ndarray:
    """The pose of a brain that fills its grid as the mean brain does."""
    matrix = np.eye(4)
    matrix[:3, 3] = volume.geometry.world((np.array(volume.shape) - 1) / 2)
    return matrix


def shift_of(volume: Volume, template, matrix=None) -> np.ndarray:
    return halves(coarse(volume), centred(volume) if matrix is None else matrix, template)[0]


def around_the_place(template) -> np.ndarray:
    places = template.all_places[HALF[1] :]
    return np.linalg.norm(places - PLACE_MM, axis=-1) < 10


def test_where_one_half_differs_in_shape_its_shift_is_found(template):
    shift = shift_of(lopsided(), template)
    assert shift.shape == HALF
    here = around_the_place(template)
    assert shift[1][here].mean() == pytest.approx(-0.8 * FORWARD_MM, rel=0.3)  # 0.8: the mean of the bump there
    assert np.abs(shift[[0, 2]][:, here].mean(axis=1)).max() < 0.1 * FORWARD_MM
    far = (np.linalg.norm(template.all_places[HALF[1] :] - PLACE_MM, axis=-1) > 50) & template.within[HALF[1] :]
    assert np.abs(shift[:, far]).mean() < 0.3
    assert not shift[:, ~template.within[HALF[1] :]].any()


def test_a_mirror_image_has_exactly_the_opposite(template):
    one, other = (shift_of(each, template) for each in (lopsided(), mirror_image(lopsided())))
    assert np.abs(one).max() > 2
    assert np.abs(one + other).max() < 1e-3


def test_a_difference_of_brightness_is_none_of_shape(template):
    """Coils that make one side a fifth brighter move little."""
    plain = folded()
    ramp = np.exp(np.linspace(-0.1, 0.1, plain.shape[0], dtype=np.float32))[:, None, None]
    here = around_the_place(template)
    shift = shift_of(plain.with_data(plain.data[0] * ramp), template)
    assert np.abs(shift[:, here].mean(axis=1)).max() < 0.1 * FORWARD_MM
    assert abs(shift_of(lopsided(), template)[1][here].mean()) > 0.5 * FORWARD_MM


def test_another_plane_of_symmetry_changes_little(template, monkeypatch):
    """The pose is off by 3 mm and 3 degrees; left in, that would outdo what the halves differ by."""
    head = lopsided()
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", (0, 2, 3), degrees=True).as_matrix()
    turn[0, 3] = 3.0
    off = centred(head) @ turn
    wanted = shift_of(head, template)
    size = np.sqrt(np.square(wanted).mean())
    assert np.sqrt(np.square(shift_of(head, template, off) - wanted).mean()) < 0.7 * size
    monkeypatch.setattr(module, "_plane", lambda fitted: np.eye(4))
    assert np.sqrt(np.square(shift_of(head, template, off) - wanted).mean()) > 2 * size


def test_sides_are_told_and_not_where_little_of_them_is_shown(template):
    head = lopsided()
    sided = dataclasses.replace(template, sides=shift_of(head, template))
    one, other = (traits_of(each, sided)["side"] for each in (head, mirror_image(head)))
    assert one > 0
    assert other == pytest.approx(-one, rel=0.05)
    first = head.shape[2] * 3 // 10
    affine = head.geometry.affine.copy()
    affine[:3, 3] = head.geometry.world((0, 0, first))
    data = head.data[0][..., first:]
    part = Volume(data, Geometry(data.shape, affine), "MR")
    low = template.all_places[HALF[1] :][..., 2] < -20  # all that tells the sides lies below the cut
    sunk = dataclasses.replace(template, sides=(low * template.within[HALF[1] :] * np.ones((3, 1, 1, 1))).astype("f4"))
    assert traits_of(part, sided)["side"] == pytest.approx(one, rel=0.1)
    assert traits_of(head, sunk)["side"] is not None
    assert traits_of(part, sunk)["side"] is None


def test_a_skull_does_not_draw_the_brain_aside(template, monkeypatch):
    """A small brain within a bright scalp, which the mean brain takes for the brain's own surface at first."""
    inner = ndimage.zoom(brain(0).data[0], 0.92, order=1)
    mask = ndimage.zoom(template.mask, 4.0 / SIDE_MM, order=1, grid_mode=True, mode="nearest")
    inner, mask = (np.pad(each, 12) for each in (inner, ndimage.zoom(mask, 0.92, order=1)))
    away_mm = SIDE_MM * ndimage.distance_transform_edt(mask <= 0.5)
    data = np.where((away_mm > 8) & (away_mm < 16), 900, np.where(mask > 0.5, inner, 0))
    data = np.abs(data + np.random.default_rng(0).normal(0, 20, data.shape)).astype(np.float32)
    field = field_of(coarse(Volume(data, Geometry.regular(data.shape, spacing_mm=(2, 2, 2)), "MR")), 4.0, ceiling=1.3)

    def zooms():
        pose = find_pose(field, template)
        assert pose is not None
        return np.linalg.svd(pose.matrix[:3, :3])[1]

    assert zooms() == pytest.approx([0.92, 0.92, 0.92], abs=0.03)
    monkeypatch.setattr(poses, "_deepened", lambda field, template, start, least, about: start)
    assert zooms().min() > 1.1
