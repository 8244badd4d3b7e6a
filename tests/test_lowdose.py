"""Low-dose CT: what a lower dose adds, its size, its correlation, and what would break either."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from medidiff.errors import InputError, MedidiffError, SettingsError
from medidiff.physics.lowdose import Beam, lower_dose, projection_noise, projections, reconstructed
from medidiff.volume import Geometry, Volume

Array = NDArray[np.floating]
SIDE_MM = 4.0
QUIET = Beam(photons=1e7, electronic=0.0, views=90)
SHAPE = (48, 48)


def body(*, across: float = 0.8, along: float = 0.8, shape: tuple[int, int] = SHAPE) -> Array:
    """An ellipse of water in air, with half-axes as shares of the field of view."""
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return np.where((x / across) ** 2 + (y / along) ** 2 < 1, 0.0, -1000.0).astype(np.float32)


def scan(slices: int = 3, *, spacing: tuple[float, float, float] = (SIDE_MM, SIDE_MM, 3.0), **how: float) -> Volume:
    data = np.repeat(body(**how)[..., None], slices, axis=2)
    return Volume(data, Geometry.regular(data.shape, spacing_mm=spacing), "CT", "HU")


@functools.cache
def added(dose: float, *, beam: Beam = QUIET, across: float = 0.8, along: float = 0.8, count: int = 24) -> Array:
    """(I, J, count) noise of many slices of one body."""
    lines = [projections(body(across=across, along=along), SIDE_MM, beam)] * count
    noise = projection_noise(lines, dose, seed=3, beam=beam)
    return np.stack([reconstructed(each, SHAPE, SIDE_MM, beam) for each in noise], axis=-1)


def middle(noise: Array) -> Array:
    return noise[18:30, 18:30]


def neighbours(noise: Array, axis: int, lag: int = 1) -> float:
    """Correlation of voxels `lag` apart along an axis."""
    one, two = (np.moveaxis(noise, axis, 0)[part] for part in (slice(None, -lag), slice(lag, None)))
    return float(np.corrcoef(one.ravel(), two.ravel())[0, 1])


# ------------------------------------------------------------------------------------------------------------ identity


def test_full_dose_gives_the_scan_back_bit_for_bit():
    volume = scan()
    assert np.array_equal(lower_dose(volume, 1.0, seed=0, beam=QUIET).data, volume.data)


def test_reprojecting_the_anatomy_would_not():
    """The negative: projected and reconstructed, the body is off by more than a tenth of the dose would add."""
    there_and_back = reconstructed(projections(body(), SIDE_MM, QUIET), SHAPE, SIDE_MM, QUIET) - 1000
    error = (there_and_back - body())[4:-4, 4:-4].std()
    assert error > 5 * added(0.1).std()


# -------------------------------------------------------------------------------------------------------------- amount


def follows_the_dose(beam: Beam) -> bool:
    """With the scan's own noise, which half the dose adds once more, the noise goes with 1/√dose."""
    own = middle(added(0.5, beam=beam)).std()
    total = [math.hypot(own, middle(added(dose, beam=beam)).std()) * math.sqrt(dose) for dose in (0.25, 0.1, 0.02)]
    return np.ptp([own, *total]) < 0.08 * own


def test_noise_goes_with_one_over_the_root_of_the_dose():
    assert follows_the_dose(QUIET)


def test_it_does_not_where_the_electronics_are_louder_than_the_photons():
    assert not follows_the_dose(dataclasses.replace(QUIET, electronic=3000.0))


def test_noise_in_the_projections_is_that_of_yu_and_others():
    beam, dose = Beam(photons=3e4, electronic=40.0, views=60), 0.2
    line = projections(body(), SIDE_MM, beam)
    noise = np.stack(list(projection_noise([line] * 60, dose, seed=1, beam=beam)))
    own = np.exp(line) / beam.photons
    share = (1 - dose) / dose
    wanted = share * own * (1 + (1 + dose) / dose * beam.electronic**2 * own)
    assert float((noise.var(axis=0) / wanted).mean()) == pytest.approx(1, abs=0.02)
    assert abs(float((noise.var(axis=0) / (share * own)).mean()) - 1) > 0.3  # the negative: without electronics


def test_white_projections_give_the_noise_of_the_ramp_filter():
    """Kak and Slaney 1988, section 5.2: π² / 12 m τ² of the variance, less what linear interpolation smooths."""
    rng = np.random.default_rng(0)
    line = rng.normal(0, 0.01, (projections(body(), SIDE_MM, QUIET).shape[0], QUIET.views)).astype(np.float32)
    hounsfield = middle(reconstructed(line, SHAPE, SIDE_MM, QUIET)).std()
    ideal = 1000 / QUIET.water_per_mm * 0.01 * math.pi / (SIDE_MM * math.sqrt(12 * QUIET.views))
    assert 0.6 * ideal < hounsfield < ideal


def unbiased(beam: Beam) -> bool:
    noise = middle(added(0.1, beam=beam)).mean(axis=(0, 1))
    return abs(noise.mean()) < 4 * noise.std(ddof=1) / math.sqrt(noise.size)


def test_noise_has_no_mean():
    assert unbiased(QUIET)


def test_a_starved_detector_does():
    """The logarithm of few counts is biased: about ½ of 1/N, in every ray alike."""
    assert not unbiased(dataclasses.replace(QUIET, photons=2e3))


# --------------------------------------------------------------------------------------------------------- correlation


def test_streaks_lie_along_the_thick_paths():
    flat = middle(added(0.1, across=0.95, along=0.3))
    assert neighbours(flat, 0, 2) > neighbours(flat, 1, 2) + 0.1
    disc = middle(added(0.1))
    assert abs(neighbours(disc, 0, 2) - neighbours(disc, 1, 2)) < 0.05  # the negative: no thick direction, no streaks


def rises_like_a_ramp(noise: Array) -> bool:
    """Whether the noise power goes with the frequency, up to a quarter of a cycle per voxel, with nothing at 0."""
    window = np.hanning(noise.shape[0])[:, None, None] * np.hanning(noise.shape[1])[:, None]
    power = (np.abs(np.fft.fft2(noise * window, axes=(0, 1))) ** 2).mean(axis=2)
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in power.shape), indexing="ij"))
    bands = [(frequency > low) & (frequency <= low + 0.05) for low in (0.05, 0.1, 0.15)]
    slopes = [float((power[band] / frequency[band]).mean()) for band in bands]
    return max(slopes) < 1.3 * min(slopes) and power[0, 0] < 0.3 * power[bands[-1]].mean()


def test_the_power_spectrum_is_that_of_the_ramp_filter():
    lines = [np.zeros((projections(body(), SIDE_MM, QUIET).shape[0], QUIET.views), np.float32)] * 24
    noise = projection_noise(lines, 0.1, seed=2, beam=QUIET)
    image = np.stack([reconstructed(each, SHAPE, SIDE_MM, QUIET) for each in noise], axis=-1)[8:40, 8:40]
    assert rises_like_a_ramp(image)
    assert not rises_like_a_ramp(np.random.default_rng(0).normal(size=image.shape))


def test_a_softer_window_correlates_more():
    soft = added(0.1, beam=dataclasses.replace(QUIET, window="hann"))
    assert neighbours(middle(soft), 0) > neighbours(middle(added(0.1)), 0) + 0.2


@pytest.mark.parametrize(("overlap", "correlation"), [(1, 0.0), (2, 0.5), (4, 0.75)])
def test_slices_share_what_they_overlap(overlap: int, correlation: float):
    noise = middle(added(0.1, beam=dataclasses.replace(QUIET, overlap=overlap)))
    assert neighbours(noise, 2) == pytest.approx(correlation, abs=0.06)
    assert noise.std() == pytest.approx(middle(added(0.1)).std(), rel=0.06)


# ------------------------------------------------------------------------------------------------------ reproducibility


def test_a_seed_gives_the_same_noise_and_another_seed_another():
    one, two, other = (lower_dose(scan(), 0.1, seed=seed, beam=QUIET).data for seed in (5, 5, 6))
    assert np.array_equal(one, two)
    assert abs(np.corrcoef((one - scan().data).ravel(), (other - scan().data).ravel())[0, 1]) < 0.05


def test_slices_do_not_depend_on_those_that_follow():
    beam = dataclasses.replace(QUIET, overlap=2)
    long, short = (lower_dose(scan(n), 0.1, seed=5, beam=beam).data for n in (4, 2))
    assert np.array_equal(long[..., :1], short[..., :1])
    assert not np.array_equal(long[..., :1], long[..., 1:2])


# ---------------------------------------------------------------------------------------------------- grids and padding


def test_the_axis_along_the_patient_is_found():
    upright = scan(2)
    turned = Geometry((2, *SHAPE), upright.geometry.affine[:, [2, 0, 1, 3]])
    lying = Volume(np.moveaxis(upright.data[0], 2, 0), turned, "CT", "HU")
    one, two = (lower_dose(each, 0.1, seed=1, beam=QUIET).data[0] for each in (upright, lying))
    assert np.array_equal(np.moveaxis(two, 0, 2), one)


def test_oblong_slices_keep_their_shape():
    data = body(shape=(32, 48))[..., None]
    volume = Volume(data, Geometry.regular(data.shape, spacing_mm=(SIDE_MM, SIDE_MM, 1)), "CT", "HU")
    noise = lower_dose(volume, 0.1, seed=1, beam=QUIET).data - volume.data
    assert noise.shape == (1, 32, 48, 1)
    assert noise.std() > 0


def test_padding_keeps_its_values():
    volume = scan()
    padding = np.zeros(volume.shape, dtype=bool)
    padding[:3] = True
    padded = dataclasses.replace(volume, data=np.where(padding, -2000, volume.data), padding=padding)
    noisy = lower_dose(padded, 0.1, seed=1, beam=QUIET)
    assert (noisy.data[0][padding] == -2000).all()
    assert np.array_equal(noisy.padding, padding)
    assert not (noisy.data[0][~padding] == padded.data[0][~padding]).any()


# ------------------------------------------------------------------------------------------------------------- refusals


def refused(call: object, code: str, kind: type[MedidiffError]) -> None:
    with pytest.raises(kind) as caught:
        call()  # type: ignore[operator]
    assert caught.value.code == code


@pytest.mark.parametrize("dose", [0.0, -0.1, 1.01, float("nan")])
def test_a_dose_out_of_range_is_refused(dose: float):
    refused(lambda: lower_dose(scan(), dose, seed=0, beam=QUIET), "E-DOSE", SettingsError)


def test_a_negative_seed_is_refused():
    refused(lambda: lower_dose(scan(), 0.1, seed=-1, beam=QUIET), "E-SEED", SettingsError)


@pytest.mark.parametrize(
    "broken",
    [
        {"photons": 0.0},
        {"photons": float("inf")},
        {"electronic": -1.0},
        {"views": 1},
        {"water_per_mm": 0.0},
        {"window": "boxcar"},
        {"overlap": 0},
    ],
    ids=str,
)
def test_a_beam_that_cannot_be_is_refused(broken: dict):
    refused(lambda: Beam(**broken), "E-BEAM", SettingsError)


def test_what_has_no_dose_is_refused():
    refused(lambda: lower_dose(dataclasses.replace(scan(), modality="MR"), 0.1, seed=0), "E-MODALITY", InputError)


def test_oblong_voxels_channels_and_nan_are_refused():
    refused(lambda: lower_dose(scan(spacing=(4.0, 4.2, 3.0)), 0.1, seed=0), "E-SQUARE", InputError)
    two = scan().with_data(np.repeat(scan().data, 2, axis=0))
    refused(lambda: lower_dose(two, 0.1, seed=0), "E-4D", InputError)
    broken = scan().data.copy()
    broken[0, 0, 0, 0] = np.nan
    refused(lambda: lower_dose(scan().with_data(broken), 0.1, seed=0), "E-NONFINITE", InputError)
