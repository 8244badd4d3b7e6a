"""Laws of the Fourier shell correlation: copies, independent noise, known ratios of signal to noise, thresholds."""

import numpy as np
import pytest
from scipy import fft, ndimage

from medidiff.errors import InputError, SettingsError
from medidiff.metrics.resolution import FIXED, FIXED_TRUTH, ShellCorrelation, bits, resolution, shell_correlation

SHAPE, MM = (40, 44, 36), (1.0, 1.0, 1.0)


def noise(seed, shape=SHAPE):
    return np.random.default_rng(seed).normal(size=shape)


def window(shape=SHAPE):
    hann = [np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in shape]
    return hann[0][:, None, None] * hann[1][:, None] * hann[2]


def plainly(first, second, spacing, shells):
    """The definition over the full complex spectrum, one shell after another."""
    axes = np.meshgrid(*(fft.fftfreq(n, d) for n, d in zip(first.shape, spacing, strict=True)), indexing="ij")
    width = max(1 / (n * d) for n, d in zip(first.shape, spacing, strict=True))
    radius = np.sqrt(sum(axis**2 for axis in axes))
    left, right = (fft.fftn(image - image.mean()) for image in (first, second))
    found = []
    for shell in range(1, shells + 1):
        there = (np.rint(radius / width) == shell) & (radius <= 0.5 / max(spacing) + 1e-9)
        a, b = left[there], right[there]
        found.append((a * b.conj()).sum().real / np.sqrt((abs(a) ** 2).sum() * (abs(b) ** 2).sum()))
    return np.array(found)


@pytest.mark.parametrize("shape", [SHAPE, (21, 30, 25)])
@pytest.mark.parametrize("spacing", [MM, (0.8, 1.0, 1.3)])
def test_it_is_the_definition(shape, spacing):
    one = ndimage.gaussian_filter(noise(0, shape), 1)
    two = one + 0.05 * noise(1, shape)
    curve = shell_correlation(one, two, spacing_mm=spacing)
    assert curve.correlation == pytest.approx(plainly(one, two, spacing, curve.counts.size), abs=1e-12)


def test_copies_correlate_by_one_whatever_their_scale_and_offset():
    image = noise(0)
    for copy in (image, 3 * image + 7):
        curve = shell_correlation(image, copy, spacing_mm=MM)
        assert curve.correlation == pytest.approx(1)
        assert resolution(curve, FIXED) == curve.nyquist == 0.5
    assert shell_correlation(image, -image, spacing_mm=MM).correlation == pytest.approx(-1)
    moved = shell_correlation(image, np.roll(image, 1, axis=0), spacing_mm=MM)  # the negative: one voxel aside
    assert moved.correlation[-1] < 0.5


@pytest.mark.parametrize("weights", [None, window()], ids=["all", "window"])
def test_independent_noise_correlates_by_chance_only(weights):
    """Mean 0 and, over 40 pairs and all shells, a standardised square of 1: the counts are right."""
    first, second = noise(2, (40, *SHAPE)), noise(3, (40, *SHAPE))
    curve = shell_correlation(first, second, spacing_mm=MM, window=weights)
    standard = curve.correlation * np.sqrt(curve.counts)
    assert abs(standard.mean()) < 4 / np.sqrt(standard.size)
    wide = curve.counts > 100  # the lowest shells are as narrow as the spectrum of the window
    measured = np.square(standard[:, wide]).mean()
    assert measured == pytest.approx(1, abs=0.15) if weights is None else 0.4 < measured < 1.1
    assert resolution(shell_correlation(first[0], second[0], spacing_mm=MM, window=weights), FIXED) < 0.1
    shared = shell_correlation(first + first, second + first, spacing_mm=MM, window=weights)  # the negative
    assert np.square(shared.correlation * np.sqrt(curve.counts))[:, wide].mean() > 10


def test_a_known_ratio_of_signal_to_noise_gives_the_correlation_it_must():
    signal, level = noise(4), 0.8
    first, second = signal + level * noise(5), signal + level * noise(6)
    ratio = level**-2
    last = shell_correlation(first, second, spacing_mm=MM).correlation[-8:]
    assert last.mean() == pytest.approx(ratio / (1 + ratio), abs=0.01)
    truth = shell_correlation(first, signal, spacing_mm=MM).correlation[-8:]
    assert truth.mean() == pytest.approx(np.sqrt(ratio / (1 + ratio)), abs=0.01)
    assert abs(truth.mean() - ratio / (1 + ratio)) > 0.1  # the negative: the two laws are not one


def test_resolution_is_where_the_signal_ends():
    """All power below 0.25 cycles per mm, white noise everywhere: every criterion finds that edge to a shell."""
    axes = np.ix_(*(fft.fftfreq(n) for n in SHAPE))
    passed = np.sqrt(sum(axis**2 for axis in axes)) < 0.25
    signal = fft.ifftn(fft.fftn(noise(7)) * passed).real
    one, two = signal + 0.05 * noise(8), signal + 0.05 * noise(9)
    halves, truth = (shell_correlation(one, other, spacing_mm=MM) for other in (two, signal + 1e-9 * noise(10)))
    for curve, thresholds in (
        (halves, (FIXED, bits(halves.counts, 0.5), bits(halves.counts, 1))),
        (truth, (FIXED_TRUTH, bits(truth.counts, 1, against_truth=True))),
    ):
        for threshold in thresholds:
            assert resolution(curve, threshold) == pytest.approx(0.25, abs=1 / 36)
    blurred = ndimage.gaussian_filter(one, 1.5)  # against the truth noise after blur is as before: a filter is no loss
    same = shell_correlation(blurred, signal, spacing_mm=MM)
    assert resolution(same, FIXED_TRUTH) == pytest.approx(0.25, abs=1 / 36)
    assert resolution(shell_correlation(signal, noise(11), spacing_mm=MM), FIXED_TRUTH) < 0.1  # the negative


def test_what_two_restorations_make_up_alike_only_the_truth_shows():
    truth, invented = ndimage.gaussian_filter(noise(12), 1.5), 0.1 * noise(13)
    one, two = (truth + invented + 0.02 * noise(seed) for seed in (14, 15))
    agreed = resolution(shell_correlation(one, two, spacing_mm=MM), FIXED)
    true = resolution(shell_correlation(one, truth, spacing_mm=MM), FIXED_TRUTH)
    assert agreed == 0.5
    assert true < 0.35


def test_thresholds_are_those_of_the_paper():
    n = np.array([30.0, 300.0, 30_000.0])
    half = (0.2071 + 1.9102 / np.sqrt(n)) / (1.2071 + 0.9102 / np.sqrt(n))
    one = (0.5 + 2.4142 / np.sqrt(n)) / (1.5 + 1.4142 / np.sqrt(n))
    assert bits(n, 0.5) == pytest.approx(half, abs=2e-4)
    assert bits(n, 1) == pytest.approx(one, abs=2e-4)
    assert bits(1e12, 1, halves=False) == pytest.approx(0.5, abs=1e-5)
    assert bits(1e12, 1, against_truth=True) == pytest.approx(np.sqrt(0.5), abs=1e-5)
    assert (bits(n, 0.5) < bits(n, 1)).all()
    # Rosenthal & Henderson: 0.143 between halves is 0.5 of the whole against the truth
    assert np.sqrt(2 * FIXED / (1 + FIXED)) == pytest.approx(FIXED_TRUTH, abs=1e-3)


def test_a_cone_sees_the_blur_along_its_own_axis_only():
    image = noise(16)
    blurred = ndimage.gaussian_filter1d(image, 2, axis=2) + 0.2 * noise(17)
    found = [resolution(shell_correlation(image, blurred, spacing_mm=MM, axis=axis), FIXED_TRUTH) for axis in range(3)]
    assert found[2] < 0.25
    assert min(found[:2]) == 0.5
    thick = shell_correlation(image, image, spacing_mm=(1, 1, 4), axis=0)
    assert thick.nyquist == 0.5  # its own, not that of the slices
    whole = shell_correlation(image, blurred, spacing_mm=MM, axis=2, half_angle_deg=90)
    assert whole.correlation == pytest.approx(shell_correlation(image, blurred, spacing_mm=MM).correlation)


def test_many_pairs_at_once_are_the_pairs_one_by_one():
    one, two = noise(18, (3, 2, 12, 14, 10)), noise(19, (3, 2, 12, 14, 10))
    two += one
    together = shell_correlation(one, two, spacing_mm=MM, window=window((12, 14, 10))).correlation
    alone = shell_correlation(one[2, 1], two[2, 1], spacing_mm=MM, window=window((12, 14, 10))).correlation
    assert together.shape == (3, 2, alone.size)
    assert together[2, 1] == pytest.approx(alone, abs=1e-12)


def test_crossings():
    def curve(*values):
        size = len(values)
        return ShellCorrelation(np.arange(1, size + 1) / 10, np.array(values), np.full(size, 50.0), 0.5)

    assert resolution(curve(1, 0.9, 0.4, 0.2), 0.5) == pytest.approx(0.28)
    assert resolution(curve(1, 0.9, 0.4, 0.9), 0.5) == pytest.approx(0.28)  # the first fall counts
    assert resolution(curve(0.3, 0.9, 0.4, 0.2), 0.5) == pytest.approx(0.28)  # it begins where it first reaches it
    assert resolution(curve(1, 0.9, 0.8, 0.7), 0.5) == 0.5
    assert resolution(curve(0.1, 0.2, 0.1, 0.1), 0.5) == 0
    assert resolution(curve(1, 0.5, 0.4, 0.1), np.array([2, 0.4, 0.45, 0.5])) == pytest.approx(0.2 + 0.1 * 2 / 3)


def test_images_without_content_correlate_by_nothing():
    flat = np.zeros(SHAPE)
    assert (shell_correlation(flat, noise(20), spacing_mm=MM).correlation == 0).all()


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (lambda: shell_correlation(noise(0), noise(0)[1:], spacing_mm=MM), "E-SHAPE"),
        (lambda: shell_correlation(np.zeros((8, 8, 3)), np.zeros((8, 8, 3)), spacing_mm=MM), "E-SHAPE"),
        (lambda: shell_correlation(noise(0) * np.nan, noise(0), spacing_mm=MM), "E-NONFINITE"),
        (lambda: shell_correlation(noise(0), noise(0), spacing_mm=MM, window=np.zeros(SHAPE)), "E-MASK"),
        (lambda: shell_correlation(noise(0), noise(0), spacing_mm=MM, window=np.ones((2, 2, 2))), "E-MASK"),
        (lambda: resolution(shell_correlation(*[noise(0, (2, *SHAPE))] * 2, spacing_mm=MM), 0.5), "E-SHAPE"),
    ],
)
def test_images_that_cannot_be_compared_are_refused(broken, code):
    with pytest.raises(InputError, match=code):
        broken()


@pytest.mark.parametrize(
    "broken",
    [
        lambda: shell_correlation(noise(0), noise(0), spacing_mm=(1, 0, 1)),
        lambda: shell_correlation(noise(0), noise(0), spacing_mm=MM, axis=3),
        lambda: shell_correlation(noise(0), noise(0), spacing_mm=MM, axis=1, half_angle_deg=0),
        lambda: bits([0.0], 1),
        lambda: bits([4.0], 0),
    ],
)
def test_settings_out_of_range_are_refused(broken):
    with pytest.raises(SettingsError, match="E-SETTING"):
        broken()
