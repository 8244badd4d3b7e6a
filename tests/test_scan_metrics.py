"""Laws of what is read off single scans for comparing sets: similarity, spectra, tissue, features."""

import numpy as np
import pytest
import torch
from monai.metrics.regression import compute_ssim_and_cs
from scipy import ndimage

from medidiff.errors import InputError, SettingsError
from medidiff.metrics import diversity as similarity
from medidiff.metrics import ssim
from medidiff.metrics.diversity import WEIGHTS, mean_similarity, ms_ssim, similarities
from medidiff.metrics.features import random_features
from medidiff.metrics.layout import LAYOUT, layout
from medidiff.metrics.spectrum import band_difference_db, radial_power
from medidiff.metrics.tissues import RADIOMICS, dice, radiomics, volumes_ml, wasserstein

SHAPE = (64, 68, 66)
EVERYWHERE = np.ones(SHAPE, bool)


def smooth(seed, sigma=2.0):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), sigma)
    return (0.5 + 0.2 * field / field.std()).astype(np.float32)


def ball(radius=24.0, shape=SHAPE):
    grid = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij"))
    return np.sqrt((grid**2).sum(0)) <= radius


def compare(first, second, mask=EVERYWHERE):
    return ms_ssim(first, second, masks=(mask, mask), data_range=1.0)


# ----------------------------------------------------------------------------------------------------------- MS-SSIM


def test_copies_are_alike_and_others_are_not():
    one = smooth(0)
    copies = [one + np.random.default_rng(n).normal(0, 0.005, SHAPE).astype(np.float32) for n in range(4)]
    table = similarities(copies, masks=[EVERYWHERE] * 4, data_range=1.0)
    assert mean_similarity(table, np.arange(4)) > 0.95
    others = similarities([smooth(n) for n in range(4)], masks=[EVERYWHERE] * 4, data_range=1.0)
    assert mean_similarity(others, np.arange(4)) < 0.5
    assert np.array_equal(table, table.T)
    assert mean_similarity(table, np.array([0, 0, 1])) == table[0, 1] < 1  # a copy of a case is no pair
    assert table.mean() > mean_similarity(table, np.arange(4))  # the negative: the diagonal flatters


def test_equal_scans_score_one_and_every_change_less():
    scan = smooth(1)
    assert compare(scan, scan) == pytest.approx(1, abs=1e-5)
    noisy = scan + np.random.default_rng(0).normal(0, 0.1, SHAPE)
    assert compare(scan, ndimage.gaussian_filter(scan, 2)) < 0.99
    assert compare(scan, noisy) < 0.99
    assert compare(scan, 1 - scan) == 0  # anticorrelated: no power of a negative mean


def test_each_scale_is_that_of_monai():
    one, other = smooth(2), 0.7 * smooth(2) + 0.3 * smooth(3)
    first, second = (similarity._pyramid(image, EVERYWHERE) for image in (one, other))
    for a, b in list(zip(first, second, strict=True))[:3]:  # the fourth is smaller than MONAI's window
        luminance, structure = similarity._maps(a, b, 1.0)
        tensors = [torch.from_numpy(x.image)[None, None] for x in (a, b)]
        whole, contrast = compute_ssim_and_cs(
            *tensors, spatial_dims=3, data_range=torch.tensor(1.0), kernel_size=(11,) * 3, kernel_sigma=(1.5,) * 3
        )
        inner = tuple(slice(5, n - 5) for n in a.image.shape)
        assert (luminance * structure)[inner].mean() == pytest.approx(whole.mean().item(), abs=2e-3)
        assert structure[inner].mean() == pytest.approx(contrast.mean().item(), abs=2e-3)


def test_the_finest_scale_is_the_ssim_of_the_package_and_the_weights_sum_to_one():
    one, other = smooth(4), 0.5 * smooth(4) + 0.5 * smooth(5)
    a, b = (similarity._pyramid(image, EVERYWHERE)[0] for image in (one, other))
    luminance, structure = similarity._maps(a, b, 1.0)
    assert (luminance * structure).mean() == pytest.approx(ssim(one, other, mask=EVERYWHERE, data_range=1.0), abs=1e-3)
    assert sum(WEIGHTS) == pytest.approx(1)


def test_air_makes_no_two_brains_alike():
    inside = ball()
    one, other = (np.where(inside, smooth(n), 0).astype(np.float32) for n in (6, 7))
    assert compare(one, other, inside) < compare(one, other) - 0.1  # the negative: the mean over all of the array


def test_broken_scans_are_refused():
    with pytest.raises(InputError, match="E-SHAPE"):
        ms_ssim(np.ones((20, 64, 64)), np.ones((20, 64, 64)), masks=(np.ones((20, 64, 64)),) * 2, data_range=1.0)
    with pytest.raises(InputError, match="E-MASK"):
        compare(smooth(0), smooth(1), np.zeros(SHAPE, bool))
    with pytest.raises(InputError, match="E-NONFINITE"):
        compare(np.full(SHAPE, np.nan), smooth(1))
    with pytest.raises(SettingsError, match="E-DATARANGE"):
        ms_ssim(smooth(0), smooth(1), masks=(EVERYWHERE, EVERYWHERE), data_range=0.0)


# ----------------------------------------------------------------------------------------------------------- spectra

EDGES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)


def test_white_noise_has_the_same_density_everywhere_on_any_grid():
    for spacing in (1.0, 0.5):
        noise = np.random.default_rng(0).normal(0, 2.0, SHAPE)
        found = radial_power(noise, spacing_mm=(spacing,) * 3, edges=EDGES)
        assert found == pytest.approx(np.full(5, 4.0 * spacing**3), rel=0.1)


def test_a_wave_lies_in_its_shell_and_a_blur_costs_what_its_transfer_says():
    wave = np.cos(2 * np.pi * 16 / 64 * np.arange(64))[:, None, None] * np.ones(SHAPE)
    found = radial_power(wave, spacing_mm=(1, 1, 1), edges=EDGES)
    assert found.argmax() == 2
    assert found[2] > 1e6 * np.delete(found, 2).max()
    noise = np.random.default_rng(1).normal(size=SHAPE)
    blurred = ndimage.gaussian_filter(noise, 0.8, mode="wrap")
    spectra = [radial_power(x, spacing_mm=(1, 1, 1), edges=(0.195, 0.205))[None] for x in (noise, blurred)]
    wanted = -10 * np.log10(np.e) * (2 * np.pi * 0.2 * 0.8) ** 2
    assert band_difference_db(*spectra)[0] == pytest.approx(wanted, rel=0.05)
    assert band_difference_db(spectra[0], spectra[0])[0] == 0


@pytest.mark.parametrize("edges", [(0.1,), (0.2, 0.1), (0.1, 0.7), (0.1, 0.1001)])
def test_shells_that_are_none_are_refused(edges):
    with pytest.raises(SettingsError, match="E-SETTING"):
        radial_power(smooth(0), spacing_mm=(1, 1, 1), edges=edges)


def test_broken_spectra_are_refused():
    with pytest.raises(InputError, match="E-SHAPE"):
        radial_power(np.ones((4, 4)), spacing_mm=(1, 1, 1), edges=EDGES)
    with pytest.raises(InputError, match="E-NONFINITE"):
        radial_power(np.full(SHAPE, np.inf), spacing_mm=(1, 1, 1), edges=EDGES)
    with pytest.raises(InputError, match="E-SHAPE"):
        band_difference_db(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(InputError, match="E-NONFINITE"):
        band_difference_db(np.ones((2, 3)), np.zeros((2, 3)))


# ------------------------------------------------------------------------------------------------------------ tissue


def labelled():
    table = ball(24).astype(np.uint8)
    table[ball(16)] = 2
    return table


def test_volumes_are_counted_in_ml():
    found = volumes_ml(labelled(), count=3, spacing_mm=(2, 2, 2))
    wanted = 4 / 3 * np.pi * np.array([24**3 - 16**3, 16**3]) * 8 / 1000
    assert found[:2] == pytest.approx(wanted, rel=0.01)
    assert found[2] == 0


def test_wasserstein_is_the_distance_that_mass_moves():
    first = np.random.default_rng(0).normal(size=200)
    assert wasserstein(first, first + 3) == pytest.approx(3)
    assert wasserstein(first, first[::-1]) == 0
    assert wasserstein([0, 0, 0, 4], [0, 0, 0, 0]) == pytest.approx(1)


def test_dice_is_twice_what_is_common():
    one = labelled()
    assert dice(one, one, count=2) == pytest.approx([1, 1])
    moved = np.roll(one, 5, axis=0)
    assert (dice(one, moved, count=2) < 0.9).all()
    assert np.isnan(dice(one, one, count=3)[2])
    with pytest.raises(InputError, match="E-SHAPE"):
        dice(one, one[:10], count=2)


def named(image, table, count=2):
    rows = radiomics(image, table, count=count, spacing_mm=(2, 2, 2)).reshape(count, len(RADIOMICS))
    return [dict(zip(RADIOMICS, row, strict=True)) for row in rows]


def test_radiomics_are_what_they_are_called():
    table = labelled()
    image = np.where(table == 2, 0.8, 0.5) + np.random.default_rng(0).normal(0, 0.05, SHAPE)
    rim, core = named(image, table)
    assert core["mean"] == pytest.approx(0.8, abs=0.01)
    assert core["deviation"] == pytest.approx(0.05, rel=0.05)
    assert core["percentile 90"] - core["percentile 10"] == pytest.approx(2 * 1.2816 * 0.05, rel=0.05)
    assert core["volume"] == pytest.approx(4 / 3 * np.pi * 16**3 * 8 / 1000, rel=0.01)
    assert core["surface over volume"] == pytest.approx(1.5 * 3 / 32, rel=0.05)  # faces of a voxel ball: 1.5 times
    assert rim["surface over volume"] > core["surface over volume"]
    assert abs(core["correlation"]) < 0.05
    smoothed = named(0.8 + 0.1 * (smooth(1) - 0.5) / 0.2, table)[1]
    assert smoothed["correlation"] > 0.8
    assert smoothed["contrast"] < named(0.8 + np.random.default_rng(1).normal(0, 0.1, SHAPE), table)[1]["contrast"]
    flat = named(np.full(SHAPE, 0.5), table)[0]
    assert (flat["energy"], flat["homogeneity"], flat["contrast"], flat["correlation"]) == (1, 1, 0, 0)


def test_broken_label_maps_are_refused():
    with pytest.raises(InputError, match="E-LABELS"):
        radiomics(smooth(0), labelled(), count=3, spacing_mm=(2, 2, 2))
    with pytest.raises(InputError, match="E-LABELS"):
        volumes_ml(labelled(), count=1, spacing_mm=(2, 2, 2))
    with pytest.raises(InputError, match="E-LABELS"):
        volumes_ml(labelled() + 0.5, count=9, spacing_mm=(2, 2, 2))
    with pytest.raises(InputError, match="E-SHAPE"):
        radiomics(np.ones((3, 3, 3)), labelled(), count=2, spacing_mm=(2, 2, 2))


# ---------------------------------------------------------------------------------------------------------- features


def test_features_depend_on_the_scan_and_the_seed_alone():
    scan, inside = smooth(0) * ball(), ball()
    one = random_features(scan, inside)
    assert np.array_equal(one, random_features(scan, inside))
    assert not np.allclose(one, random_features(scan, inside, seed=1))
    padded = np.pad(scan, 3), np.pad(inside, 3)
    assert random_features(*padded) == pytest.approx(one)  # where the head lies in the array is no matter


@pytest.mark.parametrize("change", ["blur", "noise"])
def test_a_fault_moves_the_features_further_than_other_scans_lie(change):
    inside, rng = ball(), np.random.default_rng(0)
    changes = {
        "blur": lambda x: ndimage.gaussian_filter(x, 1.0),
        "noise": lambda x: x + rng.normal(0, 0.05, SHAPE).astype(np.float32),
    }
    rows, other = (
        np.array([random_features(smooth(n) * inside, inside) for n in part]) for part in ((0, 1, 2), (3, 4, 5))
    )
    moved = np.array([random_features(changes[change](smooth(n) * inside) * inside, inside) for n in range(3)])
    assert np.linalg.norm(moved.mean(0) - rows.mean(0)) > 2 * np.linalg.norm(other.mean(0) - rows.mean(0))


def test_scans_without_features_are_refused():
    with pytest.raises(InputError, match="E-SHAPE"):
        random_features(np.ones((10, 64, 64)), np.ones((10, 64, 64)))
    with pytest.raises(InputError, match="E-MASK"):
        random_features(smooth(0), np.zeros(SHAPE))
    with pytest.raises(InputError, match="E-NONFINITE"):
        random_features(np.full(SHAPE, np.nan), EVERYWHERE)


# ------------------------------------------------------------------------------------------------------------ layout


def placed(image, table):
    return dict(zip(LAYOUT, layout(image, table), strict=True))


def symmetric():
    """A ball with texture that is its own mirror image but for a little noise, and its labels."""
    half = smooth(0)
    noise = np.random.default_rng(1).normal(0, 0.02, SHAPE)
    return ((half + half[::-1]) / 2 + noise) * ball(), labelled()


def test_a_step_is_seen_along_its_axis_alone():
    image, table = symmetric()
    torn = image.copy()
    torn[:, :, 33:] = np.roll(image, 6, axis=1)[:, :, 33:]
    before, after = placed(image, table), placed(torn, table)
    assert after["step across K"] > before["step across K"] + 0.3
    assert abs(after["step across I"] - before["step across I"]) < 0.1


def test_a_brain_that_is_no_mirror_image_is_seen_and_one_beside_the_middle_is_not():
    image, table = symmetric()
    beside = placed(np.roll(image, 1, axis=0), np.roll(table, 1, axis=0))
    assert beside["asymmetry"] == pytest.approx(placed(image, table)["asymmetry"], abs=1e-6)
    assert beside["mirrored label 1"] == 1
    lopsided = placed(smooth(0) * ball(), np.where(np.indices(SHAPE)[0] < 30, table, 2 * (table > 0)))
    assert lopsided["asymmetry"] > beside["asymmetry"] + 1
    assert lopsided["mirrored label 1"] < 0.9


def test_scans_without_layout_are_refused():
    with pytest.raises(InputError, match="E-SHAPE"):
        layout(np.ones((10, 64, 64)), np.ones((10, 64, 64)))
    with pytest.raises(InputError, match="E-FLAT"):
        layout(np.ones(SHAPE), labelled())
