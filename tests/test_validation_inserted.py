"""Lesions have the size, contrast and place that were asked for; what is taken out leaves no trace."""

import importlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from medidiff.errors import SettingsError

FOLDER = Path(__file__).resolve().parent.parent / "validation"
SHAPE, SPACING = (56, 60, 52), (0.87, 0.87, 1.0)
VOXEL = float(np.prod(SPACING))


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("inserted")


@pytest.fixture
def brain():
    """A ball of grey matter with a white core and some texture, and its mask."""
    rng = np.random.default_rng(5)
    place = (np.indices(SHAPE) - np.array(SHAPE)[:, None, None, None] / 2) * np.array(SPACING)[:, None, None, None]
    radius = np.sqrt(np.square(place).sum(0))
    mask = radius < 22
    image = np.where(radius < 14, 0.9, np.where(radius < 20, 0.6, 0.25)) * mask
    return (image + 0.02 * rng.normal(size=SHAPE) * mask).astype(np.float32), mask


def volume_mm3(filled):
    return float(filled.sum(dtype=np.float64)) * VOXEL


@pytest.mark.parametrize("diameter", [3.0, 5.0, 9.0, 15.0])
def test_a_lesion_has_the_volume_that_was_asked_for(module, diameter):
    for seed in range(4):
        lesion = module.Lesion((28, 30, 26), diameter, 1.0, "white", seed)
        filled = module.share(SHAPE, SPACING, lesion)
        wanted = math.pi / 6 * diameter**3
        assert volume_mm3(filled) == pytest.approx(wanted, rel=1e-3)
        assert filled.min() >= 0
        assert filled.max() <= 1
        assert ndimage.label(filled > 0.01)[1] == 1
    larger = module.share(SHAPE, SPACING, replace(lesion, diameter_mm=1.1 * diameter))
    assert volume_mm3(larger) != pytest.approx(wanted, rel=0.1)  # the law sees a tenth of the diameter


def test_shapes_differ_by_seed_and_only_by_it(module):
    one, same, other = (module.share(SHAPE, SPACING, module.Lesion((28, 30, 26), 9, 1, "white", s)) for s in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_the_contrast_is_as_asked_and_nothing_else_changes(module, brain):
    image, _ = brain
    filled = module.share(SHAPE, SPACING, module.Lesion((28, 30, 26), 7.0, -0.2, "white", 3))
    with_it = module.inserted(image, filled, -0.2)
    assert module.contrast(with_it, image, filled) == pytest.approx(-0.2, rel=1e-4)
    assert np.array_equal(with_it[filled == 0], image[filled == 0])
    core = filled == 1
    assert with_it[core].mean() == pytest.approx(image[core].mean() - 0.2, abs=1e-5)
    assert module.contrast(ndimage.gaussian_filter(with_it, 2.0), image, filled) > -0.19  # a blur loses some


def test_lesions_lie_inside_the_brain_apart_and_in_their_tissue(module, brain):
    image, mask = brain
    wanted = [(9.0, 0.2), (5.0, 0.1), (5.0, 0.3), (3.0, 0.2), (3.0, 0.1), (3.0, 0.4)]
    found = module.lesions(image, mask, SPACING, wanted=wanted, seed=1)
    assert len(found) >= 5
    assert found == module.lesions(image, mask, SPACING, wanted=wanted, seed=1)
    assert found != module.lesions(image, mask, SPACING, wanted=wanted, seed=2)
    shares = [module.share(SHAPE, SPACING, lesion) for lesion in found]
    assert (sum(filled > 0 for filled in shares) <= 1).all()
    assert all(mask[filled > 0].all() for filled in shares)
    labels = module.tissues(image, mask)
    assert all(module.TISSUES[labels[lesion.centre] - 1] == lesion.tissue for lesion in found)
    assert {lesion.tissue for lesion in found} == {"grey", "white"}
    assert {lesion.contrast > 0 for lesion in found} == {True, False}


def test_no_lesion_is_darker_than_air(module, brain):
    image, mask = brain
    found = module.lesions(image, mask, SPACING, wanted=[(5.0, 0.95)] * 3, seed=0)
    assert found
    assert all(lesion.contrast > 0 for lesion in found)


def test_what_was_taken_out_leaves_no_trace(module, brain):
    image, mask = brain
    filled = module.share(SHAPE, SPACING, module.Lesion((28, 30, 26), 8.0, 0.5, "white", 3))
    scan = module.inserted(image, filled, 0.5)
    gone, hole = module.removed(scan, filled, mask, seed=0), filled > 0
    ring = ndimage.binary_dilation(hole, iterations=4) & ~hole
    assert np.array_equal(gone[~hole], scan[~hole])
    assert abs(module.contrast(gone, image, filled)) < 0.01
    assert gone[hole].mean() == pytest.approx(image[hole].mean(), abs=0.01)
    fine = gone - ndimage.gaussian_filter(gone, 1.0)
    assert fine[hole].std() == pytest.approx(fine[ring].std(), rel=0.25)
    flat = np.where(hole, gone[ring].mean(), gone)  # filled with one value: no texture, and the law sees it
    bare = flat - ndimage.gaussian_filter(flat, 1.0)
    assert bare[hole].std() < 0.5 * bare[ring].std()


def test_what_cannot_be_is_refused(module, brain):
    image, mask = brain
    with pytest.raises(SettingsError, match="E-SETTING"):
        module.share(SHAPE, SPACING, module.Lesion((1, 30, 26), 9.0, 1.0, "white", 0))
    with pytest.raises(SettingsError, match="E-SETTING"):
        module.removed(image, np.zeros(SHAPE, dtype=np.float32), mask, seed=0)
    filled = module.share(SHAPE, SPACING, module.Lesion((28, 30, 26), 5.0, 1.0, "white", 0))
    with pytest.raises(SettingsError, match="E-SETTING"):
        module.removed(image, filled, np.zeros(SHAPE, dtype=bool), seed=0)
