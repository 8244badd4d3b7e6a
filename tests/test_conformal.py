"""Risk control over patients: the law that it keeps, on patients that are exchangeable, and that it breaks when not."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.errors import InputError, SettingsError
from medidiff.trust.conformal import cap_of, controlled, needed
from medidiff.trust.tally import (
    FLOOR,
    REACHES,
    SIZES_MM,
    block_shape,
    blocks,
    expected_error,
    scale_of,
    share_above,
    tally,
)

VOXELS, SPLITS = 400, 200


def patients(count: int, *, seed: int, uneven: float = 0.15) -> np.ndarray:
    """(count, 1024) curves of patients whose voxels are alike: each has a size of error of its own."""
    rng = np.random.default_rng(seed)
    sizes = np.exp(uneven * rng.standard_normal(count))
    return np.stack([share_above(np.abs(size * rng.standard_normal(VOXELS))) for size in sizes])


def inside(curves: np.ndarray, reach: float, cap: float = 1.0) -> np.ndarray:
    """Share of each patient's voxels that an interval of this reach holds, a patient missed by more than the cap."""
    return 1 - np.minimum(curves[:, np.searchsorted(REACHES, reach)], cap)


def resplit(curves, *, calibrate: int, share: float, cap: float, seed: int = 0, wrong=None, counted=1.0) -> np.ndarray:
    """Coverage of the patients left out, over random splits."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(SPLITS):
        order = rng.permutation(len(curves))
        held, new = curves[order[:calibrate]], curves[order[calibrate:]]
        reach = controlled(held, share=share, cap=cap) if wrong is None else wrong(held)
        found.append(inside(new, reach, counted).mean())
    return np.array(found)


@pytest.mark.parametrize("share", [0.8, 0.9, 0.95])
def test_many_exchangeable_patients_are_covered_as_claimed(share):
    """The law: over 200 re-splits coverage is the share, to 1.5 points, and with losses capped not below it."""
    curves, cap = patients(160, seed=1), cap_of(share)
    plain, capped = (resplit(curves, calibrate=100, share=share, cap=cap, counted=counted) for counted in (1.0, cap))
    assert abs(plain.mean() - share) <= 0.015
    assert capped.mean() >= share - 3 * capped.std() / np.sqrt(SPLITS)


@pytest.mark.parametrize("count", [9, 10, 15, 30])
def test_few_patients_are_covered_too_and_at_what_price(count):
    """Expected coverage lies between the share and the share and what the bound costs, (B - α)/n and the grid."""
    found = [
        resplit(patients(count + 30, seed=seed), calibrate=count, share=0.9, cap=cap_of(0.9), seed=seed).mean()
        for seed in range(5)
    ]
    assert 0.9 - 0.005 <= np.mean(found) <= 0.9 + 0.1 / count + 0.015


def test_without_a_cap_ten_patients_are_covered_far_beyond_what_is_asked():
    curves = patients(40, seed=3)
    strict, capped = (resplit(curves, calibrate=10, share=0.9, cap=cap).mean() for cap in (1.0, cap_of(0.9)))
    assert strict > 0.97
    assert capped < 0.925


def test_patients_of_another_kind_are_not_covered():
    """A negative: what is not exchangeable is not covered as claimed, which is why shifted scans must be found."""
    reach = controlled(patients(100, seed=1), share=0.9, cap=cap_of(0.9))
    shifted = np.stack([share_above(1.5 * np.abs(np.random.default_rng(n).standard_normal(VOXELS))) for n in range(50)])
    assert inside(shifted, reach).mean() < 0.8


def test_a_quantile_over_voxels_of_few_patients_does_not_keep_the_law():
    """A negative: voxels counted as if they were patients fall short where patients differ, beyond any chance."""

    def pooled(held: np.ndarray) -> float:
        return float(REACHES[np.argmax(held.mean(axis=0) <= 0.1)])

    found, kept = [], []
    for seed in range(12):
        curves = patients(40, seed=seed, uneven=0.5)
        found.append(resplit(curves, calibrate=9, share=0.9, cap=1.0, seed=seed, wrong=pooled).mean())
        kept.append(resplit(curves, calibrate=9, share=0.9, cap=1.0, seed=seed).mean())
    assert np.mean(found) < 0.9 - 0.004
    assert np.mean(kept) >= 0.9


@pytest.mark.parametrize(("share", "count"), [(0.5, 2), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_too_few_patients_are_refused_and_told_how_many_are_needed(share, count):
    assert needed(share) == count
    curves = patients(count, seed=0)
    assert controlled(curves, share=share, cap=1.0) > 0
    with pytest.raises(SettingsError, match=rf"E-PATIENTS.*{count - 1} patients.*at least {count}"):
        controlled(curves[1:], share=share, cap=1.0)


def test_errors_without_measure_are_refused():
    with pytest.raises(SettingsError, match="E-CALIBRATION"):
        controlled(np.ones((20, len(REACHES))), share=0.9, cap=0.2)


# --- scores ----------------------------------------------------------------------------------------------------------


def case(shape=(32, 30, 28), *, size=1.0, seed=0, smooth=0.0):
    rng = np.random.default_rng(seed)
    error = rng.uniform(0.01, 0.05, shape).astype(np.float32)
    mean = rng.uniform(0.2, 1.0, shape).astype(np.float32)
    truth = mean + size * error * rng.standard_normal(shape)
    return truth, mean, error


def test_scores_are_what_they_are_said_to_be():
    truth, mean, error = case()
    mask = np.random.default_rng(5).random(truth.shape) < 0.6
    counted = tally(truth, mean, error, mask=mask, level=0.1, spacing_mm=(1, 1, 1))
    score = np.abs(truth - mean) / np.hypot(error, FLOOR * 0.1)
    for place in (0, 400, 520, 1023):
        assert counted.outside[0][place] == pytest.approx((score[mask] > REACHES[place]).mean(), abs=1e-12)
    assert set(counted.outside) == {0, 1, 2, 4, 8, 16}
    assert np.array_equal(counted.outside[0], counted.outside[1])
    np.testing.assert_allclose(
        counted.squares.sum(1), [mask.sum(), ((truth - mean)[mask] ** 2).sum(), (error[mask] ** 2.0).sum()], rtol=1e-5
    )


def test_blocks_by_hand():
    truth, mean, error = (each[:4, :4, :4] for each in case())
    counted = tally(truth, mean, error, mask=np.ones((4, 4, 4), bool), level=0.1, spacing_mm=(1, 1, 1))
    off, scale = (truth - mean).mean(), np.sqrt((np.hypot(error, FLOOR * 0.1) ** 2.0).mean())
    wanted = (abs(off) / scale > REACHES).astype(float)
    assert np.array_equal(counted.outside[4], wanted)
    assert 8 not in counted.outside


def test_honest_independent_errors_score_like_a_gaussian():
    truth, mean, error = case((48, 48, 48))
    counted = tally(truth, mean, error, mask=np.ones(truth.shape, bool), level=1e-9, spacing_mm=(1, 1, 1))
    at = np.searchsorted(REACHES, 1.645)
    assert counted.outside[0][at] == pytest.approx(0.1, abs=0.005)
    at = np.searchsorted(REACHES, 1.645 / 2**1.5)  # a mean over 8 independent voxels is √8 times as exact
    assert counted.outside[2][at] == pytest.approx(0.1, abs=0.02)


def test_blocks_half_outside_the_tissue_do_not_count():
    truth, mean, error = case((8, 8, 8))
    mask = np.zeros(truth.shape, bool)
    mask[:3, :, :] = True
    counted = tally(truth, mean, error, mask=mask, level=0.1, spacing_mm=(1, 1, 1))
    assert 8 not in counted.outside
    with pytest.raises(InputError, match="E-MASK"):
        tally(truth, mean, error, mask=~np.ones_like(mask), level=0.1, spacing_mm=(1, 1, 1))


def test_block_shapes_are_nearest_to_the_millimetres_asked_for():
    assert [block_shape(size, (0.87, 0.87, 3.0)) for size in SIZES_MM] == [
        (1, 1, 1),
        (1, 1, 1),
        (2, 2, 1),
        (5, 5, 1),
        (9, 9, 3),
        (18, 18, 5),
    ]


@pytest.mark.parametrize("spacing", [(0.4, 0.4, 0.4), (0.5, 0.5, 3.0), (0.66, 0.66, 0.66)])
def test_a_voxel_is_a_voxel_however_small(spacing):
    truth, mean, error = case()
    counted = tally(truth, mean, error, mask=np.ones(truth.shape, bool), level=0.1, spacing_mm=spacing)
    score = np.abs(truth - mean) / np.hypot(error, FLOOR * 0.1)
    assert counted.outside[0][520] == pytest.approx((score > REACHES[520]).mean(), abs=1e-12)
    assert counted.outside[1][520] < 0.7 * counted.outside[0][520]  # a block of a millimetre is more than one of them


def test_sums_over_blocks_leave_out_what_is_no_whole_block():
    values = np.arange(3 * 4 * 5, dtype=float).reshape(3, 4, 5)
    assert np.array_equal(blocks(values, (3, 2, 2)), values[:, :, :4].reshape(1, 3, 2, 2, 2, 2).sum(axis=(1, 3, 5)))


def test_expected_errors_are_their_neighbours_too_and_never_below_nothing():
    about = np.zeros((9, 9, 9), np.float32)
    assert (expected_error(about) == 0).all()
    about[4, 4, 4] = 1
    found = expected_error(about)
    assert (found**2.0).sum() == pytest.approx(1, rel=1e-3)
    assert found[4, 4, 4] > found[4, 4, 5] > found[4, 4, 7] >= 0
    assert (scale_of(found, 2.0) >= 2 * FLOOR * (1 - 1e-6)).all()
