"""Variants of a scan: functions of seed and number, on the scan's grid, with a label map that stays right."""

from __future__ import annotations

import dataclasses
from importlib.resources import files

import numpy as np
import pytest
import torch
from augment_cases import LOUD, QUIET, corner_case, scan_and_tissue
from scipy import ndimage
from small_prior import small_prior
from whole_cases import small_cascade

import medidiff as md
from medidiff.augmentation import KINDS, VariantSettings
from medidiff.augmentation.placing import place
from medidiff.augmentation.scanning import drawn, scan_again
from medidiff.diffusion import Plan
from medidiff.errors import InputError, PriorError, SettingsError
from medidiff.synthesis import Request
from medidiff.training.chance import Chance
from medidiff.training.recipe import DegradationRanges
from medidiff.volume import Geometry, Provenance, Volume

SCAN, TISSUE = scan_and_tissue()


@pytest.fixture(scope="module")
def made():
    """Everything that a variant of any kind needs, small."""
    return {"prior": small_prior(), "cascade": small_cascade(), "request": Request(spacing_mm=4.0)}


def crop(side: int) -> Volume:
    """The middle of the bundled scan."""
    whole = md.read(str(files("medidiff") / "sample/t1-brain.nii.gz"))
    box = tuple(slice((n - side) // 2, (n - side) // 2 + side) for n in whole.shape)
    return Volume(whole.data[:, *box].astype(np.float32), Geometry.regular((side,) * 3), "MR")


# --- what all kinds have in common ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_variant_is_a_function_of_seed_and_number(kind, made):
    """The negative stands beside it: another number or another seed is another variant."""
    first = md.augment(SCAN, kind, seed=3, number=5, **made)
    md.augment(SCAN, kind, seed=3, number=4, **made)
    again = md.augment(SCAN, kind, seed=3, number=5, **made)
    assert first.image.data.tobytes() == again.image.data.tobytes()
    assert first.provenance == again.provenance
    for seed, number in ((3, 6), (4, 5)):
        other = md.augment(SCAN, kind, seed=seed, number=number, **made)
        assert first.image.data.tobytes() != other.image.data.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_variant_lies_where_the_scan_lies(kind, made):
    variant = md.augment(SCAN, kind, labels=TISSUE, **made)
    assert variant.image.geometry == SCAN.geometry
    assert variant.labels.geometry == SCAN.geometry
    assert variant.image.data.dtype == np.float32
    assert not np.array_equal(variant.image.data, SCAN.data)


@pytest.mark.parametrize("kind", KINDS)
def test_a_variant_says_what_it_is(kind, made):
    record = md.augment(SCAN, kind, seed=2, number=9, **made).provenance
    assert record.synthetic is (kind == "synthetic")
    assert record.seed == 2
    assert Provenance.from_json(record.to_json()).to_json() == record.to_json()
    if kind != "synthetic":
        assert (record.task, record.settings["kind"], record.settings["number"]) == ("augment", kind, 9)
        assert bool(record.prior) is (kind == "restored")


def test_a_degraded_or_restored_variant_has_the_label_map_of_the_scan(made):
    for kind in ("degraded", "restored"):
        assert md.augment(SCAN, kind, labels=TISSUE, **made).labels is TISSUE
    assert md.augment(SCAN, "synthetic", labels=TISSUE, **made).labels is not TISSUE


# --- degraded -------------------------------------------------------------------------------------------------------


def shift(image: np.ndarray) -> float:
    """How far the ball's middle lies from that of the label map, in voxels."""
    found, right = (np.array(ndimage.center_of_mass(np.where(a > 200, a, 0))) for a in (image, 400.0 * TISSUE.data[0]))
    return float(np.abs(found - right).max())


def test_what_is_seen_stays_where_the_label_map_says():
    shifts = [shift(md.augment(SCAN, number=number, scanners=QUIET).image.data[0]) for number in range(12)]
    assert max(shifts) < 0.25


def test_a_scan_that_moved_would_be_noticed():
    moved = np.roll(md.augment(SCAN, number=0, scanners=QUIET).image.data[0], 1, axis=1)
    assert shift(moved) > 0.25


def test_almost_no_noise_and_no_slices_leave_the_scan_as_it_is():
    faint = dataclasses.replace(LOUD, noise=(1e-7, 1e-7))
    assert np.abs(md.augment(SCAN, scanners=faint).image.data - SCAN.data).max() < 1e-2
    assert np.abs(md.augment(SCAN, scanners=LOUD).image.data - SCAN.data).max() > 50


def test_the_noise_is_as_strong_as_asked_for_and_rician():
    noisy = md.augment(SCAN, scanners=LOUD, tissue_maximum=800.0).image.data
    assert np.std((noisy - SCAN.data)[SCAN.data == 800]) == pytest.approx(80, rel=0.1)
    assert noisy[SCAN.data == 0].mean() == pytest.approx(80 * np.sqrt(np.pi / 2), rel=0.02)  # Rayleigh's law
    assert noisy.min() >= 0


def test_values_below_zero_get_gaussian_noise():
    signed = SCAN.with_data(SCAN.data - 100)
    noisy = md.augment(signed, scanners=LOUD, tissue_maximum=800.0)
    assert noisy.provenance.settings["channels"][0]["noise"] == "gaussian"
    assert (noisy.image.data - signed.data)[SCAN.data == 0].mean() == pytest.approx(0, abs=3)


def test_slices_lie_across_any_axis():
    thick = dataclasses.replace(QUIET, denoise=0.0, thick=1.0, coarse=0.0)
    told = [md.augment(SCAN, number=n, scanners=thick).provenance.settings["channels"][0] for n in range(12)]
    assert {int(np.argmin(each["samples"])) for each in told} == {0, 1, 2}
    assert all(sorted(each["voxels_a_sample"])[:2] == [1.0, 1.0] for each in told)


def test_channels_are_scans_of_their_own():
    both = md.augment(SCAN.with_data(np.repeat(SCAN.data, 2, axis=0)), scanners=LOUD).image
    assert both.data.shape == (2, *SCAN.shape)
    assert not np.array_equal(both.data[0], both.data[1])


def test_padding_keeps_its_values_and_air_alone_is_passed_through():
    padding = np.zeros(SCAN.shape, bool)
    padding[:4] = True
    padded = Volume(np.where(padding, -2000, SCAN.data[0]), SCAN.geometry, "MR", padding=padding)
    variant = md.augment(padded, scanners=LOUD).image
    assert (variant.data[0][padding] == -2000).all()
    assert variant.data[0][~padding].min() >= 0
    air = SCAN.with_data(np.zeros_like(SCAN.data))
    assert np.array_equal(md.augment(air).image.data, air.data)


def test_hounsfield_units_keep_their_scale():
    head = Volume(np.where(SCAN.data > 0, 40, -1000).astype(np.int16), SCAN.geometry, "CT", "HU")
    variant = md.augment(head, scanners=LOUD, tissue_maximum=5.0).image
    assert variant.units == "HU"
    assert np.std(variant.data - head.data) == pytest.approx(204.8, rel=0.05)  # a tenth of 2048 HU


# --- restored -------------------------------------------------------------------------------------------------------


def test_a_restored_variant_is_nearer_to_the_scan_than_the_degraded_one():
    scan, loud = crop(40), {"scanners": LOUD, "seed": 1}
    degraded, restored = (md.augment(scan, kind, **loud).image.data for kind in ("degraded", "restored"))
    nonsense = md.augment(scan, "restored", prior=small_prior(), **loud).image.data
    error, drawn, random = (np.std(each - scan.data) for each in (degraded, restored, nonsense))
    assert drawn < 0.6 * error
    assert random > 0.6 * error


def test_a_draw_from_slices_agrees_with_them():
    thick = dataclasses.replace(QUIET, denoise=0.0, thick=1.0, coarse=0.0)
    scanned = scan_again(torch.from_numpy(SCAN.data[0] / 800), thick, Chance(0, 0), magnitude=True)
    x = drawn(scanned, small_prior(), Plan(steps=1), seed=0, number=0, device=torch.device("cpu"))
    apart = [float((scanned.operator(image) - scanned.y).square().mean().sqrt()) for image in (x, x.roll(1, 0))]
    level = float(scanned.level.mean())
    assert apart[0] < 1.01 * level
    assert apart[1] > 1.01 * level


def test_more_steps_are_another_draw(made):
    few, more = (md.augment(SCAN, "restored", plan=Plan(steps=n), **made).image.data for n in (1, 3))
    assert not np.array_equal(few, more)


# --- synthetic ------------------------------------------------------------------------------------------------------


def test_without_a_scan_a_synthetic_variant_is_the_case_of_that_number(made):
    case = made["cascade"].draw(made["request"], 4, seed=6)
    variant = md.augment(None, "synthetic", seed=6, number=4, **made)
    assert variant.image.data.tobytes() == case.image.data.tobytes()
    assert variant.labels.data.tobytes() == case.labels.data.tobytes()
    assert variant.image.geometry == case.image.geometry


def test_a_synthetic_variant_is_as_bright_as_the_scan():
    variant = md.augment(SCAN, "synthetic", cases=[corner_case()], tissue_maximum=800.0)
    assert variant.image.data.max() == pytest.approx(800, rel=1e-6)
    assert variant.image.data.min() == 0


def test_cases_are_chosen_evenly():
    cases = [dataclasses.replace(corner_case(), number=number) for number in range(3)]
    settings = VariantSettings(cases=cases)
    counts = np.bincount([settings.case(number, seed=0).number for number in range(300)])
    assert min(counts) > 70


def middle_of(volume: Volume) -> np.ndarray:
    """Where the bright corner lies in the world, from the middle of its grid, in mm."""
    centre = volume.geometry.world((np.array(volume.shape) - 1) / 2)
    return volume.geometry.world(ndimage.center_of_mass(volume.data[0].astype(float))) - centre


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (-1, -1, 1)])
@pytest.mark.parametrize("spacing", [1.0, 2.0, 0.7])
def test_a_case_is_placed_the_right_way_round(axes, signs, spacing):
    affine = np.eye(4)
    affine[:3, :3] = spacing * (np.eye(3) * signs)[:, axes]
    affine[:3, 3] = (50.0, -20.0, 8.0)
    grid = Geometry((28, 30, 32), affine)
    placed = place(corner_case(), grid)
    assert placed.image.geometry == grid
    for volume in (placed.image, placed.labels):
        assert middle_of(volume) == pytest.approx(middle_of(corner_case().image), abs=0.51 * max(spacing, 1))
    wrong = placed.image.with_data(np.flip(placed.image.data, 1))
    assert middle_of(wrong) != pytest.approx(middle_of(corner_case().image), abs=0.51 * max(spacing, 1))


def test_voxels_of_one_size_are_copied_and_larger_ones_keep_the_volume():
    case = corner_case()
    same = place(case, Geometry.regular((20, 18, 16), spacing_mm=(1.001, 1.0, 1.0)))
    assert set(np.unique(same.image.data)) == {0.0, 1.0}
    assert same.image.data.sum() == case.image.data.sum()
    half = place(case, Geometry.regular((8, 8, 8), spacing_mm=(2, 2, 2)))
    assert 8 * half.image.data.sum() == pytest.approx(case.image.data.sum())
    assert 8 * half.labels.data.sum() == case.labels.data.sum()
    assert half.labels.data.dtype == np.uint8
    assert place(case, case.image.geometry) is case


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        ({"kind": "blurred"}, "E-SETTING"),
        ({"volume": None}, "E-SETTING"),
        ({"seed": -1}, "E-SETTING"),
        ({"number": -1}, "E-SETTING"),
        ({"tissue_maximum": 0.0}, "E-SETTING"),
        ({"scanners": DegradationRanges(nothing=0.1)}, "E-SETTING"),
        ({"device": "abacus"}, "E-SETTING"),
    ],
)
def test_settings_out_of_range_are_refused(broken, code):
    with pytest.raises(SettingsError, match=code):
        md.augment(**{"volume": SCAN} | broken)


def test_scans_that_do_not_fit_are_refused(made):
    elsewhere = Volume(TISSUE.data, Geometry.regular(TISSUE.shape))
    with pytest.raises(InputError, match="E-LABELS"):
        md.augment(SCAN, labels=elsewhere)
    with pytest.raises(InputError, match="E-NONFINITE"):
        md.augment(SCAN.with_data(np.full_like(SCAN.data, np.nan)))
    with pytest.raises(InputError, match="E-4D"):
        md.augment(SCAN.with_data(np.repeat(SCAN.data, 2, axis=0)), "synthetic", cases=[corner_case()])
    for kind in ("restored", "synthetic"):
        with pytest.raises(InputError, match="E-MODALITY"):
            md.augment(dataclasses.replace(SCAN, modality="CT"), kind, **made)


def test_a_prior_that_is_not_there_is_refused():
    with pytest.raises(PriorError, match="E-PRIOR"):
        md.augment(SCAN, "restored", prior="no-such-prior")
    with pytest.raises(PriorError, match="E-PRIOR"):
        VariantSettings(cascade="no-such-prior").require_cases()
