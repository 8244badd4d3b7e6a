"""Laws of the model observers: d' in white and in correlated noise, bias of finite samples, channels."""

import numpy as np
import pytest
from scipy import fft

from medidiff.errors import InputError, SettingsError
from medidiff.metrics.observers import (
    detectability,
    difference_of_gaussians,
    eye_filtered,
    laguerre_gauss,
    responses,
)

BOX, MM, SIGMA = (15, 15, 13), (0.9, 0.9, 1.0), 0.5


def signal(radius_mm=3.0, amplitude=0.2):
    axes = np.ix_(*((np.arange(n) - n // 2) * d for n, d in zip(BOX, MM, strict=True)))
    distance = np.sqrt(sum(axis**2 for axis in axes))
    return amplitude * np.clip((radius_mm - distance) / 0.9 + 0.5, 0, 1)


CHANNELS = {
    "difference of Gaussians": difference_of_gaussians(BOX, MM),
    "Laguerre-Gauss": laguerre_gauss(BOX, MM, width_mm=6.0),
}


def white(seed, count):
    return np.random.default_rng(seed).normal(0, SIGMA, (count, *BOX))


def analytic(channels, pattern):
    """d' of the Hotelling observer of channels in white noise."""
    table = channels.reshape(len(channels), -1)
    step = table @ pattern.ravel()
    return np.sqrt(step @ np.linalg.solve(SIGMA**2 * table @ table.T, step))


@pytest.mark.parametrize("name", CHANNELS)
def test_in_white_noise_it_is_what_it_must_be(name):
    """60 experiments of 24 unpaired images of each kind: their mean square is the analytic one."""
    channels, pattern = CHANNELS[name], signal()
    truth = analytic(channels, pattern)
    assert 0.8 * np.linalg.norm(pattern) / SIGMA < truth <= np.linalg.norm(pattern) / SIGMA + 1e-9
    found = [
        detectability(responses(channels, white(2 * n, 24) + pattern), responses(channels, white(2 * n + 1, 24)))
        for n in range(60)
    ]
    squares, plain = (np.square([getattr(each, which) for each in found]) for which in ("value", "plain"))
    assert abs(squares.mean() - truth**2) < 3 * squares.std() / np.sqrt(60)
    assert plain.mean() - truth**2 > 5 * plain.std() / np.sqrt(60)  # the negative: as the samples have it, too large


def test_pairs_with_the_same_noise_tell_more_of_the_signal_and_no_more_of_the_noise():
    channels, pattern = CHANNELS["Laguerre-Gauss"], signal()
    truth, found = analytic(channels, pattern), []
    for n in range(30):
        images = white(n, 40)
        found.append(detectability(responses(channels, images + pattern), responses(channels, images)).value)
    assert np.mean(np.square(found)) == pytest.approx(truth**2, rel=0.06)


def test_no_signal_is_not_detected():
    channels = CHANNELS["difference of Gaussians"]
    seen = [responses(channels, white(n, 50)) for n in range(40)]
    found = [detectability(*pair) for pair in zip(seen[::2], seen[1::2], strict=True)]
    assert np.mean([each.value for each in found]) < 0.35
    assert np.mean([each.plain for each in found]) > 0.4  # the negative: samples always seem to differ


def test_a_template_in_white_noise():
    """Non-prewhitening: w·s / (σ |w|) for the eye-filtered template, |s| / σ for the signal itself, the best."""
    pattern, images = signal(), white(0, 2500)
    template = eye_filtered(pattern, MM)
    for weights in (template, pattern):
        seen = responses(weights[None], images)
        found = detectability(seen + (weights * pattern).sum(), seen).value
        assert found == pytest.approx((weights * pattern).sum() / (SIGMA * np.linalg.norm(weights)), rel=0.03)
    assert (template * pattern).sum() < np.linalg.norm(pattern)


def test_in_correlated_noise_prewhitening_pays():
    """The signal alone as template loses against channels that know the noise; both as their formulas say."""
    pattern = signal(radius_mm=2.0)
    axes = np.ix_(*(fft.fftfreq(n) for n in BOX))
    gain = 1 / (0.08 + np.sqrt(sum(axis**2 for axis in axes)))
    images = fft.ifftn(fft.fftn(white(1, 1500), axes=(1, 2, 3)) * gain, axes=(1, 2, 3)).real
    plain = responses(pattern[None], images)
    npw = detectability(plain + (pattern**2).sum(), plain).value
    power = np.abs(fft.fftn(pattern)) ** 2
    wanted = power.sum() / (SIGMA * np.sqrt((power * gain**2).sum())) / np.sqrt(pattern.size)
    assert npw == pytest.approx(wanted, rel=0.04)
    channels = CHANNELS["Laguerre-Gauss"]
    seen = responses(channels, images)
    cho = detectability(seen + responses(channels, pattern[None]), seen).value
    ideal = np.sqrt((power / gain**2).sum() / pattern.size) / SIGMA
    assert npw * 1.05 < cho < ideal * 1.05


def test_known_anatomy_is_no_noise():
    """Two images of each of 80 places: within places the noise counts alone."""
    channels, pattern = CHANNELS["Laguerre-Gauss"], signal()
    rng = np.random.default_rng(2)
    places = np.repeat(rng.normal(0, 2, (80, 5)), 2, axis=0)
    seen = responses(channels, white(3, 160)) + places
    step, groups = responses(channels, pattern[None]), np.repeat(np.arange(80), 2)
    known = detectability(seen + step, seen, groups=groups)
    assert known.value == pytest.approx(analytic(channels, pattern), rel=0.15)
    assert known.freedom == pytest.approx(80)
    assert detectability(seen + step, seen).value < 0.5 * known.value


@pytest.mark.parametrize("name", CHANNELS)
def test_channels_are_centred_alike_along_axes_and_of_norm_one(name):
    channels = CHANNELS[name]
    assert np.square(channels).sum(axis=(1, 2, 3)) == pytest.approx(1)
    assert channels == pytest.approx(channels[:, ::-1, ::-1, ::-1], abs=1e-12)
    assert channels == pytest.approx(channels.transpose(0, 2, 1, 3), abs=1e-12)
    assert np.linalg.matrix_rank(channels.reshape(len(channels), -1)) == len(channels)
    moved = np.roll(signal(), 3, axis=0)
    assert analytic(channels, moved) < 0.8 * analytic(channels, signal())  # the negative: a signal elsewhere


def test_a_band_passes_its_frequencies():
    box = (41, 41, 41)
    bands = difference_of_gaussians(box, (1, 1, 1), count=4)
    radius = np.sqrt(sum(axis**2 for axis in np.ix_(*(fft.fftfreq(41),) * 3)))
    peaks = [radius.ravel()[np.abs(fft.fftn(band)).argmax()] for band in bands]
    assert peaks == sorted(peaks)
    top = 0.015 * 1.6**3 * np.sqrt(2 * np.log(1.67**2) / (1 - 1.67**-2))  # where the derivative of the band is 0
    assert peaks[3] == pytest.approx(top, abs=0.01)
    assert bands.sum(axis=(1, 2, 3)) == pytest.approx(0, abs=1e-10)  # a constant is not seen


def test_refusals():
    table = np.random.default_rng(0).normal(size=(20, 3))
    with pytest.raises(InputError, match="E-SHAPE"):
        detectability(table, table[1:])
    with pytest.raises(InputError, match="E-SHAPE"):
        detectability(table, table, groups=np.zeros(3))
    with pytest.raises(InputError, match="E-NONFINITE"):
        detectability(table * np.nan, table)
    with pytest.raises(InputError, match="E-FLAT"):
        detectability(table[:, [0, 0]] + 1, table[:, [0, 0]])
    with pytest.raises(InputError, match="E-FLAT"):
        eye_filtered(np.ones(BOX), MM)
    with pytest.raises(InputError, match="E-SHAPE"):
        responses(CHANNELS["Laguerre-Gauss"], white(0, 2)[:, 1:])
    with pytest.raises(SettingsError, match="E-CASES"):
        detectability(table[:6], table[:6])
    with pytest.raises(SettingsError, match="E-CASES"):
        detectability(table, table, groups=np.arange(20))
    for broken in (
        lambda: difference_of_gaussians((14, 15, 15), MM),
        lambda: difference_of_gaussians(BOX, MM, ratio=1),
        lambda: laguerre_gauss(BOX, MM, width_mm=0),
        lambda: eye_filtered(signal(), MM, magnification=0),
    ):
        with pytest.raises(SettingsError, match="E-SETTING"):
            broken()
