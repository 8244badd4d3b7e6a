"""Heads stand upright in the middle of a frame, whatever way they were scanned."""

import numpy as np
import pytest
from scipy import ndimage

from medidiff.errors import SettingsError
from medidiff.physics.framing import box_about, see_in_frame, upright
from medidiff.volume import Geometry, Volume

FRAME = Geometry.regular((20, 20, 20), spacing_mm=(2.0, 2.0, 2.0))


def head(orientation: str = "RAS", *, spacing=(1.0, 1.0, 1.0)) -> Volume:
    """A lopsided blob, scanned along other axes."""
    data = np.zeros((24, 28, 22))
    data[5:19, 4:24, 6:18] = 1.0
    data[5:9, 4:9, 6:9] = 0.5
    data = ndimage.zoom(data, 1 / np.asarray(spacing), order=0)
    affine = np.diag((*spacing, 1.0))
    axes = ["LR", "PA", "IS"]
    order = [next(n for n, pair in enumerate(axes) if letter in pair) for letter in orientation]
    data, affine = data.transpose(order), affine[:, [*order, 3]]
    for axis, letter in enumerate(orientation):
        if letter in "LPI":
            affine[:3, 3] += affine[:3, axis] * (data.shape[axis] - 1)
            affine[:3, axis] *= -1
            data = np.flip(data, axis)
    return Volume(np.ascontiguousarray(data, np.float32), Geometry(data.shape, affine), "MR")


@pytest.mark.parametrize("orientation", ["LAS", "PSR", "IRA", "LPS", "SAL"])
def test_the_way_a_head_was_scanned_changes_nothing(orientation):
    volume = head(orientation)
    assert volume.geometry.orientation == orientation
    assert np.array_equal(see_in_frame(volume, FRAME).data, see_in_frame(head(), FRAME).data)
    assert np.array_equal(upright(volume)[0], head().data)


def test_the_negative_a_mirrored_head_is_another():
    mirrored = head().with_data(head().data[:, ::-1])
    assert not np.array_equal(see_in_frame(mirrored, FRAME).data, see_in_frame(head(), FRAME).data)


def test_a_head_stands_in_the_middle_and_keeps_its_mass():
    seen = see_in_frame(head(), FRAME)
    assert seen.geometry == FRAME
    for low, high in box_about(seen.data[0]):
        assert low + high == 19
    assert seen.data.sum() * 8 == pytest.approx(head().data.sum(), rel=1e-5)


def test_voxels_between_those_of_the_scan_are_averages():
    seen = see_in_frame(head(spacing=(1.0, 1.0, 2.0)), Geometry.regular((12, 14, 10), spacing_mm=(2.5, 2.0, 3.0)))
    assert seen.data.max() == pytest.approx(1.0, abs=1e-5)
    assert seen.data.sum() * 15 == pytest.approx(head(spacing=(1.0, 1.0, 2.0)).data.sum() * 2, rel=1e-4)


def test_beyond_the_scan_lies_air_and_not_its_last_voxel():
    full = Volume(np.ones((8, 8, 8), np.float32), Geometry.regular((8, 8, 8)))
    seen = see_in_frame(full, Geometry.regular((3, 3, 3), spacing_mm=(4.0, 4.0, 4.0))).data[0]
    assert seen[1, 1, 1] == pytest.approx(1.0)
    assert seen[0, 1, 1] == pytest.approx(0.5)


@pytest.mark.parametrize("frame", [Geometry.regular((8, 8, 8), spacing_mm=(0.5, 1, 1)), head("LPS").geometry])
def test_a_frame_that_is_finer_or_lies_otherwise_is_refused(frame):
    with pytest.raises(SettingsError, match="E-TARGET"):
        see_in_frame(head(), frame)
