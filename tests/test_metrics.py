import math

import numpy as np
import pytest
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from medidiff.errors import InputError, SettingsError
from medidiff.metrics import fidelity, hfen, mae, nrmse, psnr, ssim

SHAPE = (26, 24, 25)
REACH = 6  # of the widest window, in voxels
WITH_RANGE = (psnr, ssim)
WITHOUT = (nrmse, mae, hfen)


def score(metric, image, reference, mask):
    return metric(image, reference, mask=mask, **({"data_range": 1.0} if metric in WITH_RANGE else {}))


@pytest.fixture
def scan():
    rng = np.random.default_rng(0)
    return ndimage.gaussian_filter(rng.random(SHAPE), 1.2)


@pytest.fixture
def noisy(scan):
    return scan + np.random.default_rng(1).normal(0, 0.05, SHAPE)


@pytest.fixture
def mask():
    inside = np.zeros(SHAPE, bool)
    inside[9:17, 9:16, 9:16] = True
    return inside


def test_psnr_of_a_known_error(scan, mask):
    for error, level in ((0.1, 2.0), (0.01, 0.5)):
        found = psnr(scan + error, scan, mask=mask, data_range=level)
        assert found == pytest.approx(20 * math.log10(level / error))
    assert psnr(scan + 0.2, scan, mask=mask, data_range=1.0) != pytest.approx(20)


def test_psnr_everywhere_is_that_of_scikit_image(scan, noisy):
    everywhere = np.ones(SHAPE, bool)
    oracle = peak_signal_noise_ratio(scan, noisy, data_range=1.3)
    assert psnr(noisy, scan, mask=everywhere, data_range=1.3) == pytest.approx(oracle)


def test_the_same_image_scores_best(scan, mask):
    best = {psnr: math.inf, ssim: 1.0, nrmse: 0.0, mae: 0.0, hfen: 0.0}
    for metric, value in best.items():
        assert score(metric, scan, scan, mask) == value
        assert score(metric, scan * 1.01, scan, mask) != value


@pytest.mark.parametrize("metric", [psnr, nrmse, mae])
def test_nothing_outside_the_mask_counts(metric, scan, noisy, mask):
    other = np.where(mask, noisy, 99.0)
    assert score(metric, other, scan, mask) == score(metric, noisy, scan, mask)
    assert score(metric, other, scan, np.ones_like(mask)) != score(metric, noisy, scan, np.ones_like(mask))


@pytest.mark.parametrize("metric", [ssim, hfen])
def test_nothing_beyond_the_window_counts(metric, scan, noisy, mask):
    near = ndimage.binary_dilation(mask, np.ones((3, 3, 3)), iterations=REACH)
    other = np.where(near, noisy, 9.0)
    assert score(metric, other, scan, mask) == pytest.approx(score(metric, noisy, scan, mask), abs=1e-9)
    inside_reach = np.where(ndimage.binary_dilation(mask), noisy, 9.0)
    assert score(metric, inside_reach, scan, mask) != pytest.approx(score(metric, noisy, scan, mask), rel=1e-2)


def test_ssim_in_the_interior_is_that_of_scikit_image(scan, noisy):
    interior = np.zeros(SHAPE, bool)
    interior[5:-5, 5:-5, 5:-5] = True
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    oracle = structural_similarity(noisy, scan, **settings)
    assert ssim(noisy, scan, mask=interior, data_range=1.0) == pytest.approx(oracle, abs=1e-12)
    assert ssim(noisy, scan, mask=~interior, data_range=1.0) != pytest.approx(oracle, abs=1e-4)


def test_ssim_is_the_formula(scan, noisy):
    """Wang et al. 2004, eq. 13, written out with an independent window."""

    def blur(image):
        return ndimage.gaussian_filter(image, 1.5, radius=5)

    m, n = blur(noisy), blur(scan)
    variances = blur(noisy**2) - m**2 + blur(scan**2) - n**2
    covariance = blur(noisy * scan) - m * n
    c1, c2 = 0.01**2, 0.03**2
    found = (2 * m * n + c1) * (2 * covariance + c2) / ((m**2 + n**2 + c1) * (variances + c2))
    everywhere = np.ones(SHAPE, bool)
    assert ssim(noisy, scan, mask=everywhere, data_range=1.0) == pytest.approx(found.mean(), abs=1e-10)


def test_ssim_and_psnr_know_the_range(scan, noisy, mask):
    for metric in WITH_RANGE:
        same = metric(7 * noisy, 7 * scan, mask=mask, data_range=7.0)
        assert same == pytest.approx(metric(noisy, scan, mask=mask, data_range=1.0))
        assert same != pytest.approx(metric(7 * noisy, 7 * scan, mask=mask, data_range=1.0))


def test_hfen_of_no_detail_is_one_and_of_noise_is_more(scan, mask):
    assert hfen(np.full(SHAPE, 3.0), scan, mask=mask) == pytest.approx(1, abs=0.02)
    assert hfen(ndimage.gaussian_filter(scan, 0.5), scan, mask=mask) < 0.5
    assert hfen(np.random.default_rng(2).normal(size=SHAPE), scan, mask=mask) > 1.5


def test_hfen_does_not_see_a_shift_but_mae_does(scan, mask):
    assert hfen(scan + 5, scan, mask=mask) == pytest.approx(0, abs=1e-9)
    assert mae(scan + 5, scan, mask=mask) == pytest.approx(5)


def test_hfen_with_the_plain_kernel_would_see_the_shift(scan, mask, monkeypatch):
    monkeypatch.setattr(fidelity, "_log", lambda image: ndimage.gaussian_laplace(image, 1.5))
    assert hfen(scan + 5, scan, mask=mask) > 1e-3


def test_nrmse_is_a_share_of_the_reference(scan, mask):
    assert nrmse(1.1 * scan, scan, mask=mask) == pytest.approx(0.1)
    assert nrmse(0 * scan, scan, mask=mask) == pytest.approx(1)


def test_metrics_worsen_with_noise(scan, mask):
    rng = np.random.default_rng(4)
    noise = rng.normal(size=SHAPE)
    for metric, sign in ((psnr, -1), (ssim, -1), (nrmse, 1), (mae, 1), (hfen, 1)):
        scores = [sign * score(metric, scan + level * noise, scan, mask) for level in (0.01, 0.03, 0.09)]
        assert scores == sorted(scores)
        assert len(set(scores)) == 3


@pytest.mark.parametrize("metric", [*WITH_RANGE, *WITHOUT])
def test_all_metrics_refuse_to_guess(metric, scan, mask):
    holed = scan.copy()
    holed[0, 0, 0] = np.nan
    wrong = (
        ("E-SHAPE", scan[1:], scan, mask),
        ("E-SHAPE", scan, scan, mask[1:]),
        ("E-SHAPE", scan[0], scan[0], mask[0]),
        ("E-DTYPE", scan, scan, mask.astype(float)),
        ("E-DTYPE", scan.astype(complex), scan, mask),
        ("E-MASK", scan, scan, np.zeros_like(mask)),
        ("E-NONFINITE", holed, scan, mask),
        ("E-NONFINITE", scan, holed, mask),
    )
    for code, image, reference, inside in wrong:
        with pytest.raises(InputError) as refusal:
            score(metric, image, reference, inside)
        assert refusal.value.code == code


@pytest.mark.parametrize("metric", WITH_RANGE)
@pytest.mark.parametrize("level", [0, -1, math.nan, math.inf])
def test_a_broken_range_is_refused(metric, level, scan, mask):
    with pytest.raises(SettingsError, match="E-DATARANGE"):
        metric(scan, scan, mask=mask, data_range=level)


@pytest.mark.parametrize("metric", WITH_RANGE)
def test_the_range_is_never_guessed(metric, scan, mask):
    with pytest.raises(TypeError):
        metric(scan, scan, mask=mask)


def test_volumes_too_small_for_the_window_are_refused(scan, mask):
    with pytest.raises(InputError, match="E-SHAPE"):
        ssim(scan[9:17], scan[9:17], mask=mask[9:17], data_range=1.0)


@pytest.mark.parametrize("metric", [nrmse, hfen])
def test_a_reference_of_nothing_is_refused(metric, scan, mask):
    with pytest.raises(InputError, match="E-FLAT"):
        metric(scan, np.zeros(SHAPE), mask=mask)
