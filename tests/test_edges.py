"""Laws of the edge spread and its modulation transfer: Gaussian edges of planes and balls, surfaces, real blur."""

import math

import numpy as np
import pytest
from scipy import ndimage, special

from medidiff.errors import InputError, SettingsError
from medidiff.metrics.edges import clean, distances, edge_spread, falls_to, modulation, surface

SHAPE, MM = (48, 52, 44), (0.9, 0.8, 1.0)
FREQUENCIES = np.linspace(0, 0.6, 61)
BIN, REACH = 0.1, 5.0


def places():
    return np.stack(np.meshgrid(*(np.arange(n) * d for n, d in zip(SHAPE, MM, strict=True)), indexing="ij"))


def ball_distance(radius=14.0, centre=(21.3, 20.9, 21.7)):
    """Inside is positive: a bright ball."""
    return radius - np.sqrt(((places() - np.reshape(centre, (3, 1, 1, 1))) ** 2).sum(0))


def plane_distance():
    normal = np.array((0.93, 0.31, 0.2)) / np.linalg.norm((0.93, 0.31, 0.2))
    return np.tensordot(normal, places(), axes=1) - 24.0


def edge(distance, sigma_mm, low=0.2, high=1.0):
    return low + (high - low) * (1 + special.erf(distance / (math.sqrt(2) * sigma_mm))) / 2


def mtf(image, distance):
    return modulation(edge_spread(image, distance, bin_mm=BIN, reach_mm=REACH), FREQUENCIES)


@pytest.mark.parametrize("distance", [plane_distance(), ball_distance()], ids=["slanted plane", "ball"])
@pytest.mark.parametrize("sigma", [0.45, 0.8])
def test_a_gaussian_edge_has_a_gaussian_mtf(distance, sigma):
    truth = np.exp(-2 * (np.pi * sigma * FREQUENCIES) ** 2)
    found = mtf(edge(distance, sigma), distance)
    assert found == pytest.approx(truth, abs=0.01)
    for level in (0.5, 0.1):
        wanted = math.sqrt(-math.log(level) / 2) / (math.pi * sigma)
        got = falls_to(level, FREQUENCIES, found)
        assert got == (math.inf if wanted > 0.6 else pytest.approx(wanted, rel=0.02))
    shifted = mtf(
        edge(distance, sigma), distance + 0.7 * np.sin(places()[1])
    )  # the negative: an edge that is not there
    assert np.abs(shifted - truth).max() > 0.05


def test_a_blur_multiplies_the_mtf():
    """What a filter does is the ratio of the MTFs after and before, whatever the edge itself was."""
    distance, voxel = ball_distance(), 0.8
    before = edge(distance, 0.6)
    after = ndimage.gaussian_filter(before, [voxel / d for d in MM])
    low = FREQUENCIES < 0.4
    ratio = (mtf(after, distance) / mtf(before, distance))[low]
    assert ratio == pytest.approx(np.exp(-2 * (np.pi * voxel * FREQUENCIES[low]) ** 2), abs=0.02)
    noisy = before + np.random.default_rng(0).normal(0, 0.05, SHAPE)
    assert (mtf(noisy, distance) / mtf(before, distance))[FREQUENCIES < 0.3] == pytest.approx(1, abs=0.1)


def test_a_surface_is_where_the_edge_is():
    distance = ball_distance()
    image = edge(distance, 0.8)
    found = surface(image, level=0.6, spacing_mm=MM)
    radius = np.linalg.norm(found.points_mm - (21.3, 20.9, 21.7), axis=1)
    assert radius == pytest.approx(14.0, abs=0.05)
    outwards = (found.points_mm - (21.3, 20.9, 21.7)) / radius[:, None]
    assert (found.normals * outwards).sum(axis=1) == pytest.approx(-1, abs=0.01)  # towards the brighter side: inside
    everywhere = np.ones(len(found.points_mm), bool)
    measured = distances(found, everywhere, shape=SHAPE, reach_mm=4.0)
    there = np.isfinite(measured)
    assert there.sum() == pytest.approx((np.abs(distance) < 4).sum(), rel=0.02)
    assert measured[there] == pytest.approx(distance[there], abs=0.06)
    truth = np.exp(-2 * (np.pi * 0.8 * FREQUENCIES) ** 2)
    assert modulation(edge_spread(image, measured, bin_mm=BIN, reach_mm=4.0), FREQUENCIES) == pytest.approx(
        truth, abs=0.01
    )


def test_only_chosen_points_count():
    found = surface(edge(ball_distance(), 0.8), level=0.6, spacing_mm=MM)
    upper = found.normals[:, 2] < -0.8
    measured = distances(found, upper, shape=SHAPE, reach_mm=3.0)
    kept = np.argwhere(np.isfinite(measured)) * MM - (21.3, 20.9, 21.7)
    assert len(kept) > 200
    assert (kept[:, 2] / np.linalg.norm(kept, axis=1)).min() > 0.7
    assert len(found.of(upper).points_mm) == upper.sum()


def test_clean_edges_are_flat_on_both_sides():
    distance = plane_distance()
    image = edge(distance, 0.6)
    half = places()[2] > 22
    image = np.where(half & (distance > 2.5), 0.2, image)  # on one half the bright side is a thin sheet
    found = surface(image, level=0.6, spacing_mm=MM)
    chosen = clean(image, found, dark=(0.1, 0.3), bright=(0.9, 1.1), ripple=0.15, near_mm=1.5, reach_mm=4)
    # away from the seam between the halves, and from the border of the array
    height, depth = found.points_mm[:, 2], (found.points_mm @ np.array((0.93, 0.31, 0.2))) / 1.0006 - 24
    assert chosen[(height < 20) & (np.abs(depth) < 0.5)].all()
    assert not chosen[height > 25].any()
    assert not clean(image, found, dark=(0.3, 0.5), bright=(0.9, 1.1), ripple=0.15, near_mm=1.5, reach_mm=4).any()


def test_scans_are_pooled_by_their_sums():
    one, two = plane_distance(), ball_distance()
    parts = [edge_spread(edge(d, 0.8), d, bin_mm=BIN, reach_mm=REACH) for d in (one, two)]
    both = parts[0] + parts[1]
    assert both.counts.sum() == parts[0].counts.sum() + parts[1].counts.sum()
    assert modulation(both, FREQUENCIES) == pytest.approx(np.exp(-2 * (np.pi * 0.8 * FREQUENCIES) ** 2), abs=0.01)


def test_where_a_curve_falls():
    f = [0.0, 0.1, 0.2, 0.3]
    assert falls_to(0.5, f, [1, 0.8, 0.4, 0.6]) == pytest.approx(0.175)
    assert falls_to(0.1, f, [1, 0.8, 0.4, 0.2]) == math.inf
    assert falls_to(1.0, f, [1, 0.8, 0.4, 0.2]) == 0


def test_refusals():
    flat, distance = np.ones(SHAPE), ball_distance()
    with pytest.raises(InputError, match="E-FLAT"):
        surface(flat, level=0.5, spacing_mm=MM)
    with pytest.raises(InputError, match="E-FLAT"):
        mtf(flat, distance)
    with pytest.raises(InputError, match="E-FLAT"):
        modulation(edge_spread(flat, np.full(SHAPE, np.nan), bin_mm=BIN, reach_mm=REACH), FREQUENCIES)
    with pytest.raises(InputError, match="E-SHAPE"):
        edge_spread(flat[1:], distance, bin_mm=BIN, reach_mm=REACH)
    with pytest.raises(InputError, match="E-SHAPE"):
        surface(flat * np.nan, level=0.5, spacing_mm=MM)
    found = surface(edge(distance, 0.8), level=0.6, spacing_mm=MM)
    for broken in (
        lambda: edge_spread(flat, distance, bin_mm=0, reach_mm=1),
        lambda: edge_spread(flat, distance, bin_mm=1, reach_mm=2),
        lambda: clean(flat, found, dark=(0, 1), bright=(0, 1), ripple=1, near_mm=3, reach_mm=2),
        lambda: modulation(edge_spread(edge(distance, 0.8), distance, bin_mm=BIN, reach_mm=REACH), [6.0]),
        lambda: surface(flat, level=0.5, spacing_mm=(1, 1)),
    ):
        with pytest.raises(SettingsError, match="E-SETTING"):
            broken()
