"""What the report reads off an answer follows its law where the posterior is known: share outside, support, blur, kind.

The prior is Gaussian (white, or of one texture), so that mean, variance and draws of the posterior are exact.
"""

import numpy as np
import pytest
import torch
from scipy import ndimage, special

from medidiff.trust.report import examined
from medidiff.trust.residual import averaged, gaussian_kernel, heat_kernel, rician_information
from medidiff.volume import Geometry

SHAPE = (48, 48, 48)


@pytest.fixture
def rng():
    return np.random.default_rng(20261127)


def report(scan, answer, *, level=1.0, spacing=(1.0, 1.0, 1.0), rician=False, inside=None, deviation=None):
    scan, answer = (torch.as_tensor(np.asarray(image, dtype=np.float32)) for image in (scan, answer))
    where = torch.ones(scan.shape, dtype=torch.bool) if inside is None else torch.as_tensor(inside)
    if deviation is not None:
        deviation = torch.as_tensor(np.broadcast_to(deviation, scan.shape).astype(np.float32))
    grid = Geometry.regular(tuple(scan.shape), spacing_mm=spacing)
    found = examined(scan, answer, level=level, rician=rician, geometry=grid, inside=where, deviation=deviation)
    assert found is not None
    return found[0]


def scanned(signal, rng, *, trusted=None):
    """A scan with noise of level 1 of a white signal about 100, its posterior mean and standard deviation.

    `trusted` is the variance that the posterior believes the signal has; None for the right one.
    """
    prior = signal if trusted is None else trusted
    scan = 100 + np.sqrt(signal) * rng.normal(size=SHAPE) + rng.normal(size=SHAPE)
    return scan, 100 + prior / (prior + 1) * (scan - 100), np.sqrt(prior / (prior + 1))


# ------------------------------------------------------------------------------------ the share outside

SAMPLING = 0.004  # four standard errors of a tenth of 48³ voxels


@pytest.mark.parametrize("signal", [0.1, 1.0, 10.0])
def test_a_tenth_of_the_scan_lies_outside_an_exact_posterior(signal, rng):
    scan, mean, std = scanned(signal, rng)
    assert report(scan, mean, deviation=std).outside == pytest.approx(0.1, abs=SAMPLING)
    # Told 3 times too narrow, more of the noise should be left than there is; too wide, less, or none.
    assert report(scan, mean, deviation=std / 3).outside < 0.1 - 2 * SAMPLING
    assert report(scan, mean, deviation=3 * std).outside > 0.1 + 2 * SAMPLING


@pytest.mark.parametrize("signal", [0.1, 1.0, 10.0])
def test_a_posterior_that_believes_too_little_of_its_scan_is_told_by_more_outside(signal, rng):
    for trusted, side in ((signal / 3, 1), (3 * signal, -1)):
        scan, mean, std = scanned(signal, rng, trusted=trusted)
        assert side * (report(scan, mean, deviation=std).outside - 0.1) > SAMPLING


@pytest.mark.parametrize("draws", [2, 4, 8])
def test_few_draws_do(draws, rng):
    scan, mean, std = scanned(1.0, rng)
    spread = (std * rng.normal(size=(draws, *SHAPE))).std(axis=0, ddof=1)
    assert report(scan, mean, deviation=spread).outside == pytest.approx(0.1, abs=0.01)


def test_a_posterior_that_is_not_normal_does(rng):
    """Signal in a tenth of the voxels, as lines and spots are: the law of the residual is the same on average."""
    there = rng.random(SHAPE) < 0.1
    scan = 100 + 3 * there * rng.normal(size=SHAPE) + rng.normal(size=SHAPE)
    off = scan - 100
    odds = 0.1 / 0.9 / np.sqrt(10) * np.exp(off**2 / 2 * 0.9)
    chance, kept = odds / (1 + odds), 0.9 * off
    mean, variance = chance * kept, chance * (0.9 + kept**2) - (chance * kept) ** 2
    assert np.mean((scan - 100 - mean) ** 2) == pytest.approx(1 - variance.mean(), abs=0.01)
    assert report(scan, 100 + mean, deviation=np.sqrt(variance)).outside == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("signal", [1.0, 2.5, 6.0])
def test_magnitudes_leave_a_tenth_outside(signal, rng):
    values = signal + np.linspace(-4, 4, 161)
    values = values[values >= 0]
    weights = np.exp(-((values - signal) ** 2) / 2 / 0.8)
    weights /= weights.sum()
    truth = rng.choice(values, size=SHAPE, p=weights)
    scan = np.hypot(truth + rng.normal(size=SHAPE), rng.normal(size=SHAPE))
    at = np.linspace(0, scan.max() + 0.1, 400)[:, None]
    law = weights * at * np.exp(-((at - values) ** 2) / 2) * special.i0e(at * values)
    law /= law.sum(1, keepdims=True).clip(1e-300)
    first, second = law @ values, law @ values**2
    mean = np.interp(scan, at[:, 0], first)
    std = np.sqrt(np.interp(scan, at[:, 0], second - first**2))
    right = report(scan, mean, rician=True, deviation=std).outside
    assert right == pytest.approx(0.1, abs=0.03)
    if signal > 2:  # in a weaker signal the scan says next to nothing of it
        assert report(scan, mean, rician=True, deviation=std / 3).outside < right - 0.02


def test_what_a_magnitude_says_of_its_signal():
    told = rician_information(torch.tensor([0.0, 1.0, 5.0, 1e4]), 1.0)
    at = np.linspace(1e-3, 20, 200_000)
    step = at[1] - at[0]
    mean, square, more = (
        float((power * at * np.exp(-((at - s) ** 2) / 2) * special.i0e(at * s)).sum() * step)
        for s, power in ((1.0, at), (1.0, at**2), (1.001, at))
    )
    assert float(told[0]) == 0
    assert float(told[1]) == pytest.approx(((more - mean) / 0.001) ** 2 / (square - mean**2), rel=1e-3)
    assert (told[2:] > 0.94).all()
    assert (told <= 1).all()


def test_a_whole_number_is_a_level(rng):
    scan, mean, std = scanned(1.0, rng)
    assert report(scan, mean, level=1, deviation=std) == report(scan, mean, level=1.0, deviation=std)
    each = torch.ones(SHAPE)
    assert report(scan, mean, level=each, deviation=std).outside == report(scan, mean, deviation=std).outside


# ------------------------------------------------------------------------------------------ support


def textured(rng, shares):
    """A scan of a texture under noise of level 1: its truth, the scan, mean, a draw, and how wide the posterior is."""
    frequency = np.sqrt(sum(f**2 for f in np.meshgrid(*[np.fft.fftfreq(n) for n in SHAPE], indexing="ij")))
    power = shares * 20 * np.exp(-((frequency / 0.2) ** 2))

    def filtered(image, gain):
        return np.fft.ifftn(np.fft.fftn(image) * gain).real

    truth = filtered(rng.normal(size=SHAPE), np.sqrt(power))
    scan = truth + rng.normal(size=SHAPE)
    mean = filtered(scan, power / (power + 1))
    about = filtered(rng.normal(size=SHAPE), np.sqrt(power / (power + 1)))
    return [100 + image for image in (truth, scan, mean, mean + about)] + [about]


@pytest.mark.parametrize("signal", [0.1, 1.0, 10.0])
def test_a_right_answer_is_supported_at_every_frequency(signal, rng):
    truth, scan, mean, draw, about = textured(rng, signal)
    right = report(scan, mean).rings
    assert min(right.support) > 0.99
    assert right.least > 0.99
    assert max(right.support) <= 1
    for other in (truth, draw):  # nothing tells these apart
        assert min(report(scan, other).rings.support) > 0.9
    # Twice what parts a draw from the mean was invented: more power than a right answer has.
    invented = report(scan, mean + 2 * about).rings
    assert min(invented.support) < 0.6
    assert invented.least < right.least - 0.1


# --------------------------------------------------------------------------------------------- blur


def texture(rng, margin):
    image = ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.5)
    image = 1000 + 100 * image / image.std()
    return np.pad(image, margin), np.pad(np.ones(SHAPE, dtype=bool), margin)


def softened(image, width):
    """Blurred by a Gaussian of exactly this standard deviation; mirrored beyond the ends."""
    for axis, weights in enumerate(heat_kernel(width)):
        image = ndimage.correlate1d(image, weights, axis=axis)
    return image


@pytest.mark.parametrize("margin", [0, 12])
@pytest.mark.parametrize("width", [0.5, 0.8, 1.2])
def test_a_blur_is_read_in_any_field_of_view(margin, width, rng):
    image, inside = texture(rng, margin)
    scan = image + rng.normal(0, 5, image.shape)
    for soft in (softened(image, width), ndimage.gaussian_filter(image, width)):
        found = report(scan, soft, level=5.0, inside=inside).blur_voxels
        assert found == pytest.approx(width, rel=0.1)
    found = report(softened(image, width) + scan - image, image, level=5.0, inside=inside).blur_voxels
    assert found == pytest.approx(-width, rel=0.1)
    assert abs(report(scan, image, level=5.0, inside=inside).blur_voxels) < 0.1


def test_what_lies_beyond_the_tissue_is_no_detail(rng):
    image, inside = texture(rng, 12)
    scan, soft = image + rng.normal(0, 5, image.shape), softened(image, 0.8)
    filled = [np.where(inside, each, -2000) for each in (scan, soft)]
    for before, after in ((scan, soft), (filled[0], soft), tuple(filled)):
        assert report(before, after, level=5.0, inside=inside).blur_voxels == pytest.approx(0.8, rel=0.1)


def test_a_blur_of_a_slab_is_read_and_the_most_is_said_of_a_wash(rng):
    image, inside = texture(rng, 0)
    scan = image + rng.normal(0, 5, image.shape)
    slab = (scan[:, :, :6], softened(image[:, :, :6], 0.8))
    assert report(*slab, level=5.0, inside=inside[:, :, :6]).blur_voxels == pytest.approx(0.8, rel=0.1)
    assert report(scan, ndimage.gaussian_filter(image, 6), level=0.5, inside=inside).blur_voxels == 3
    assert report(scan, np.full_like(image, 1000), level=5.0, inside=inside).blur_voxels is None


@pytest.mark.parametrize("width", [0.0, 0.2, 0.5, 1.0, 2.5])
def test_a_heat_kernel_is_as_wide_as_it_says(width):
    for weights in heat_kernel(width):
        places = np.arange(len(weights)) - len(weights) // 2
        assert sum(weights) == pytest.approx(1)
        assert np.dot(weights, places**2) == pytest.approx(width**2, rel=1e-2, abs=1e-9)


def test_an_average_from_within_is_level_up_to_the_edge():
    inside = torch.zeros(20, 20, 20, dtype=torch.bool)
    inside[3:, :15] = True
    flat = torch.where(inside, 7.0, -1000.0)
    kernel = gaussian_kernel((1.5,) * 3)
    assert torch.allclose(averaged(flat, inside, kernel)[inside], torch.tensor(7.0))
    assert not averaged(flat, torch.zeros_like(inside), kernel).any()


# --------------------------------------------------------------------------------- what a flag is called


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 3.0, 3.0), (1.0, 1.0, 3.0)])
@pytest.mark.parametrize("kind", ["added", "removed"])
@pytest.mark.parametrize("bright", [True, False])
@pytest.mark.parametrize("place", [(24, 24, 24), (0, 24, 47)])
def test_a_voxel_is_called_what_it_is(spacing, kind, bright, place, rng):
    image = np.full(SHAPE, 1000.0)
    spot = image.copy()
    spot[place] += 120 if bright else -120
    noise = rng.normal(0, 10, SHAPE)
    scan, answer = (image + noise, spot) if kind == "added" else (spot + noise, image)
    flags = report(scan, answer, level=10.0, spacing=spacing).flags
    assert [(flag.kind, flag.bright) for flag in flags] == [(kind, bright)]
    assert flags[0].diameter_mm < 3 * max(spacing)


@pytest.mark.parametrize("air", [False, True])
@pytest.mark.parametrize("kind", ["added", "removed"])
@pytest.mark.parametrize("bright", [True, False])
def test_a_patch_near_the_edge_is_called_what_it_is(air, kind, bright, rng):
    """Two voxels from the border of the field of view, or from air."""
    start = 8 if air else 0
    image = np.full(SHAPE, 1000.0)
    image[:start] = 0
    patch = image.copy()
    patch[start + 1 : start + 4, 23:26, 23:26] += 60 if bright else -60
    noise = rng.normal(0, 10, SHAPE)
    scan, answer = (image + noise, patch) if kind == "added" else (patch + noise, image)
    flag = report(scan, answer, level=10.0, inside=image > 0).flags[0]
    assert (flag.kind, flag.bright) == (kind, bright)
