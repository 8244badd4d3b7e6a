"""Blind noise estimation on generated anatomy: the promise of 10 % at SNR 5, and what must break it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage, stats

import medidiff
from medidiff import io
from medidiff.errors import InputError, SettingsError
from medidiff.physics import Noise
from medidiff.physics.estimate import _ratio, _residual, dark_noise, estimate_noise, estimate_noise_map

Array = NDArray[Any]
Estimator = Callable[[Array], float]


@functools.cache
def anatomy(shape: tuple[int, int, int] = (56, 64, 48), seed: int = 0) -> Array:
    """Ellipsoid classes with folded borders, texture and a bias field; 1 is bright tissue, exactly 0 is outside."""
    rng = np.random.default_rng(seed)

    def smooth(sd: float) -> Array:
        field = ndimage.gaussian_filter(rng.standard_normal(shape), sd)
        return np.asarray(field / field.std())

    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = np.sqrt(sum(a**2 for a in axes)) + 0.05 * smooth(3)
    x = np.where(radius < 0.7, 1.0, np.where(radius < 0.85, 0.7, 0.35))
    x = np.where(np.hypot(axes[0], axes[1]) + 0.03 * smooth(3) < 0.15, 0.3, x)
    x *= 1 + 0.03 * smooth(2) + 0.08 * smooth(20)
    return np.where(radius < 0.92, ndimage.gaussian_filter(x, 0.6), 0.0).astype(np.float32)


CLEAN = anatomy()
INSIDE = CLEAN > 0
MEAN = float(CLEAN[INSIDE].mean())


def noisy(
    sigma: float | Array, *, kind: str = "rician", air: bool = False, clean: Array = CLEAN, seed: int = 1
) -> Array:
    """Noise everywhere, or only inside as in a brain-extracted scan."""
    level = sigma if isinstance(sigma, float) else torch.from_numpy(sigma)
    generator = torch.Generator().manual_seed(seed)
    seen: Array = Noise(kind, level).apply(torch.from_numpy(clean), generator).numpy()  # type: ignore[arg-type]
    return seen if air else seen * (clean > 0)


def holds(found: float, sigma: float, percent: float = 10.0) -> bool:
    """The promise."""
    return abs(found / sigma - 1) <= percent / 100


def without_correction(image: Array) -> float:
    """Broken on purpose: magnitude noise taken for Gaussian."""
    return estimate_noise(image, kind="gaussian")


def with_background(image: Array) -> float:
    """Broken on purpose: the median runs over the whole volume, masked voxels included."""
    return float(np.median(np.abs(_residual(image)))) / 0.6745


def plain_spread(image: Array) -> float:
    """Broken on purpose: structure counts as noise."""
    return float((image - ndimage.uniform_filter(image, 3))[image > 0].std())


@pytest.mark.parametrize("air", [False, True], ids=["extracted", "air"])
@pytest.mark.parametrize("kind", ["rician", "gaussian"])
@pytest.mark.parametrize("snr", [5.0, 10.0, 25.0])
def test_error_is_at_most_ten_percent(kind: str, air: bool, snr: float) -> None:
    seen = noisy(MEAN / snr, kind=kind, air=air)
    assert holds(estimate_noise(seen, kind=kind), MEAN / snr)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("broken", "snr"),
    [(without_correction, 1.2), (with_background, 10.0), (plain_spread, 25.0)],
    ids=["Gaussian", "background", "spread"],
)
def test_each_broken_estimator_is_caught(broken: Estimator, snr: float) -> None:
    seen = noisy(MEAN / snr)
    assert not holds(broken(seen), MEAN / snr)
    assert holds(estimate_noise(seen), MEAN / snr)


@pytest.mark.parametrize("snr", [5.0, 12.0])
def test_real_scan_with_added_noise(snr: float) -> None:
    """Nobody knows the noise the bundled scan came with; its own estimate stands in for it."""
    scan = io.read(Path(medidiff.__file__).parent / "sample" / "t1-brain.nii.gz").data[0].astype(np.float32)
    added = float(scan[scan > 0].mean()) / snr
    assert holds(estimate_noise(noisy(added, clean=scan)), float(np.hypot(added, estimate_noise(scan))))


@pytest.mark.parametrize("snr", [5.0, 20.0])
@pytest.mark.parametrize("shape", [(32, 32, 32), (96, 96, 12), (96, 96, 1)], ids=["tiny", "few slices", "one slice"])
def test_small_and_flat_volumes(shape: tuple[int, int, int], snr: float) -> None:
    clean = anatomy((96, 96, 96))[tuple(slice((96 - n) // 2, (96 + n) // 2) for n in shape)]
    sigma = float(clean[clean > 0].mean()) / snr
    assert holds(estimate_noise(noisy(sigma, clean=np.ascontiguousarray(clean))), sigma)


def test_thick_slices() -> None:
    thick = np.ascontiguousarray(anatomy((96, 96, 96)).reshape(96, 96, 24, 4).mean(axis=3))
    assert holds(estimate_noise(noisy(0.06, clean=thick)), 0.06)


@pytest.mark.parametrize("steps_per_sigma", [0.7, 1.0, 3.0, 30.0])
def test_rounding_is_not_noise(steps_per_sigma: float) -> None:
    step = 0.08 / steps_per_sigma
    assert holds(estimate_noise(np.round(noisy(0.08) / step) * step), 0.08)


def test_rounding_left_in_is_caught() -> None:
    """The negative of the law above: at steps of twice the level, rounding alone adds 15 %."""
    seen = np.round(noisy(0.08) / 0.16).astype(np.int16)
    assert holds(estimate_noise(seen) * 0.16, 0.08)
    assert not holds(np.sqrt(estimate_noise(seen) ** 2 + 1 / 12) * 0.16, 0.08)


def test_values_and_their_units_are_equivariant() -> None:
    seen = noisy(0.08)
    level = estimate_noise(seen)
    assert estimate_noise(seen * 1000) == pytest.approx(1000 * level, rel=1e-3)
    assert estimate_noise(seen.transpose(2, 0, 1)) == pytest.approx(level, rel=1e-3)
    assert estimate_noise(seen[::-1, :, ::-1].copy()) == pytest.approx(level, rel=1e-3)


@pytest.mark.parametrize("fill", [0.0, -1.0])
def test_more_background_changes_nothing(fill: float) -> None:
    seen = np.where(INSIDE, noisy(0.08, kind="gaussian") + 0.0, fill).astype(np.float32)
    padded = np.pad(seen, 9, constant_values=fill)
    level = estimate_noise(np.pad(seen, 3, constant_values=fill), kind="gaussian")
    assert estimate_noise(padded, kind="gaussian") == pytest.approx(level, rel=1e-3)
    assert holds(level, 0.08)


def test_signed_data_with_clipped_air() -> None:
    """CT: water is 0, air is -1000 and clipped at -1024; zeros inside tissue are no background."""
    hounsfield = np.where(INSIDE, 60 * CLEAN - 20, -1000).astype(np.float32)
    seen = np.maximum(np.round(noisy(19.0, kind="gaussian", air=True, clean=hounsfield)), -1024)
    assert holds(estimate_noise(seen.astype(np.int16), kind="gaussian"), 19.0)


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8, 8)), np.full((40, 40, 40), 7.3), np.ones((1, 1, 1)), np.ones((2, 5, 1)), (CLEAN > 0.5) * 100.0],
    ids=["zeros", "constant", "one voxel", "too thin", "two levels"],
)
def test_no_noise_is_zero(image: Array) -> None:
    assert estimate_noise(image) == 0.0
    assert torch.equal(estimate_noise_map(image), torch.zeros(image.shape))


def test_blurred_noise_is_never_overestimated() -> None:
    """Only white noise can be told from anatomy: less is reported, which a denoiser survives."""
    seen = noisy(0.08, air=True)
    for width in (0.5, 0.8):
        late = ndimage.gaussian_filter(seen, width)
        left = float((late - ndimage.gaussian_filter(CLEAN, width))[ndimage.binary_erosion(INSIDE, iterations=3)].std())
        assert estimate_noise(late) < left


def test_same_answer_every_time_and_from_every_type() -> None:
    seen = noisy(0.08)
    before = seen.copy()
    assert estimate_noise(seen) == estimate_noise(seen) == estimate_noise(torch.from_numpy(seen).double())
    assert torch.equal(estimate_noise_map(seen), estimate_noise_map(torch.from_numpy(seen)))
    assert estimate_noise(torch.from_numpy(seen).bfloat16()) == pytest.approx(estimate_noise(seen), rel=0.02)
    assert np.array_equal(seen, before)


def test_map_of_even_noise_is_the_level_everywhere() -> None:
    level = estimate_noise_map(noisy(0.08))
    assert level.shape == CLEAN.shape
    assert level.dtype == torch.float32
    assert float((level / 0.08 - 1).abs().max()) < 0.2


@pytest.mark.parametrize("kind", ["rician", "gaussian"])
def test_map_follows_uneven_noise(kind: str) -> None:
    clean = anatomy((96, 64, 64))
    truth = np.linspace(0.04, 0.12, 96, dtype=np.float32)[:, None, None] * np.ones_like(clean)
    seen = noisy(truth, kind=kind, clean=clean)
    found = estimate_noise_map(seen, kind=kind, smoothness_voxels=10).numpy()  # type: ignore[arg-type]
    flat = np.full_like(found, estimate_noise(seen, kind=kind))  # type: ignore[arg-type]

    def error(level: Array) -> float:
        return float(np.abs(level / truth - 1)[clean > 0].mean())

    assert error(found) < 0.1 < error(flat)


def test_ratio_is_that_of_the_rice_distribution() -> None:
    signal = np.array([0.0, 0.3, 1.0, 2.0, 5.0, 20.0])
    mean, variance = stats.rice.stats(signal, moments="mv")
    assert _ratio(mean) == pytest.approx(variance, abs=2e-4)


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (np.zeros((1, 8, 8, 8)), "E-DIM"),
        (np.zeros((0, 8, 8)), "E-DIM"),
        (np.zeros((8, 8, 8), dtype=complex), "E-DIM"),
        (np.full((8, 8, 8), np.nan), "E-NONFINITE"),
    ],
)
@pytest.mark.parametrize("call", [estimate_noise, estimate_noise_map])
def test_what_is_no_scan_is_refused(call: Callable[[Array], Any], image: Array, code: str) -> None:
    with pytest.raises(InputError) as caught:
        call(image)
    assert caught.value.code == code


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SettingsError, match="poisson"):
        estimate_noise(CLEAN, kind="poisson")  # type: ignore[arg-type]
    for smoothness in (0.0, -1.0, float("nan")):
        with pytest.raises(SettingsError, match="E-SMOOTHNESS"):
            estimate_noise_map(CLEAN, smoothness_voxels=smoothness)


# --- the law of the noise, read in the dark ---------------------------------------------------------------------------


def observed(law: str, sigma: float, *, air: bool = True) -> Array:
    """A scan whose noise has this level in bright tissue, by some law."""
    rng = np.random.default_rng(3)

    def normal() -> Array:
        return sigma * rng.standard_normal(CLEAN.shape)

    def magnitude(gain: float = 1.0) -> Array:
        return np.asarray(np.hypot(CLEAN + gain * normal(), gain * normal()))

    def coils(count: int) -> Array:
        return np.sqrt(sum((normal() ** 2 for _ in range(2 * count - 1)), start=(CLEAN + normal()) ** 2))

    scan = {
        "one magnitude": magnitude,
        "real values": lambda: CLEAN + normal(),
        "mean of two": lambda: (magnitude(2**0.5) + magnitude(2**0.5)) / 2,
        "mean of four": lambda: sum((magnitude(2.0) for _ in range(4)), start=np.zeros_like(CLEAN)) / 4,
        "two coils": lambda: coils(2),
        "four coils": lambda: coils(4),
    }[law]()
    return np.asarray(scan if air else scan * INSIDE, dtype=np.float32)


def lawful(found: tuple[float, float] | None) -> bool:
    return found is not None and found[0] >= 0.7 and found[1] <= 1.5


@pytest.mark.parametrize("sigma", [0.03, 0.06, 0.12])
@pytest.mark.parametrize(("law", "kind"), [("one magnitude", "rician"), ("real values", "gaussian")])
def test_noise_in_the_dark_follows_its_law(law: str, kind: Any, sigma: float) -> None:
    seen = observed(law, sigma)
    assert lawful(dark_noise(seen, estimate_noise(seen, kind=kind), kind=kind))


@pytest.mark.parametrize("sigma", [0.03, 0.06, 0.12])
@pytest.mark.parametrize(
    ("law", "kind", "low", "high"),
    [
        ("mean of two", "rician", 0.55, 0.75),
        ("mean of four", "rician", 0.4, 0.65),
        ("two coils", "rician", 0.55, 0.75),
        ("real values", "rician", 1.8, 2.6),
        ("one magnitude", "gaussian", 0.35, 0.55),
    ],
)
def test_noise_of_another_law_does_not(law: str, kind: Any, low: float, high: float, sigma: float) -> None:
    """The negative; in air alone the ratios are 0.61, 0.48, 0.63, 2.33 and 0.43."""
    seen = observed(law, sigma)
    found = dark_noise(seen, estimate_noise(seen, kind=kind), kind=kind)
    assert found is not None
    assert low <= sum(found) / 2 <= high
    assert not lawful(found)


def test_no_law_is_read_where_too_little_is_dark() -> None:
    """A brain without air and with little noise: no voxel is within four levels of nothing."""
    assert dark_noise(observed("one magnitude", 0.02, air=False), 0.02) is None
    assert dark_noise(observed("one magnitude", 0.02)[:8, :8, :8], 0.02) is None
    assert dark_noise(observed("one magnitude", 0.02), 0.02, measured=INSIDE) is None
    assert dark_noise(observed("one magnitude", 0.02), 0.02) is not None
    assert dark_noise(observed("four coils", 0.02), 0.02) is None  # their air has 2.7 levels


def test_two_standard_errors_hold_nineteen_of_twenty() -> None:
    """Neighbours' second differences are correlated: as if all but one in 7.35 voxels were not there."""
    rng = np.random.default_rng(0)
    found = [dark_noise(np.hypot(*rng.standard_normal((2, 16, 16, 16))), 1.0) for _ in range(100)]
    assert np.mean([low <= 0.945 <= high for low, high in found]) == pytest.approx(0.95, abs=0.05)  # type: ignore[misc]


def test_the_law_is_read_by_the_level_of_each_voxel() -> None:
    """Noise that is three times as strong on one side: by its map lawful, by its strongest level not."""
    levels = np.broadcast_to(np.geomspace(0.04, 0.12, CLEAN.shape[1])[:, None], CLEAN.shape).astype(np.float32)
    seen = noisy(levels, air=True)
    assert lawful(dark_noise(seen, torch.from_numpy(levels)))
    assert not lawful(dark_noise(seen, 0.12))


def test_the_law_knows_neither_units_nor_rounding() -> None:
    seen = observed("one magnitude", 0.06)
    plain = dark_noise(seen, 0.06)
    assert lawful(plain)
    assert dark_noise(500 * seen, 30.0) == pytest.approx(plain, rel=1e-3)
    assert dark_noise(np.round(500 * seen / 15), 2.0) == pytest.approx(plain, rel=0.05)
