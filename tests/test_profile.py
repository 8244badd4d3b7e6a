"""Laws of slices with gaps, overlaps and either profile: the answer agrees with the scan through them."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from small_prior import small_prior

import medidiff.cli as cli
from medidiff import io
from medidiff.errors import InputError, SettingsError
from medidiff.physics import Separable, Slices, least_agreement
from medidiff.physics.profile import slice_axis
from medidiff.physics.seeing import seen_through
from medidiff.prior import Prior
from medidiff.restore import denoise, superresolve
from medidiff.volume import Geometry, Volume
from tests import dicom_cases
from tests.cli_cases import document, refused

LEVEL = 8.0


@pytest.fixture(scope="module")
def prior() -> Prior:
    return small_prior()


def scan(distance: float = 3.0, *, thickness: float | None = None, slices: int = 12) -> Volume:
    """A noisy ball in thick slices."""
    shape = (16, 14, slices)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    ball = (sum(a**2 for a in axes) < 0.8) * (600 + 300 * (axes[0] > 0))
    rng = np.random.default_rng(0)
    noisy = np.hypot(ball + 40 * rng.standard_normal(shape), 40 * rng.standard_normal(shape))
    geometry = Geometry.regular(shape, spacing_mm=(1.0, 1.2, distance))
    return Volume(noisy.astype(np.float32), geometry, "MR", thickness_mm=thickness)


def seen(fine: Volume, coarse: Geometry, thickness: float, profile: str) -> np.ndarray:
    """What slices along K see of a fine volume, by sums over a hundred samples in each of its voxels."""
    step, count = fine.geometry.spacing_mm[2], 100
    places = (np.arange(fine.shape[2] * count) + 0.5) / count - 0.5
    along = fine.geometry.world(np.stack([0 * places, 0 * places, places], axis=1))[:, 2]
    answer = []
    for k in range(coarse.shape[2]):
        away = along - coarse.world((0, 0, k))[2]
        inside = (np.abs(away) <= thickness / 2).astype(float)
        weight = inside if profile == "box" else np.exp(-4 * math.log(2) * (away / thickness) ** 2)
        weight = weight.reshape(-1, count).sum(axis=1)
        answer.append(fine.data[0].astype(float) @ (weight / weight.sum()))
    assert step < coarse.spacing_mm[2]
    return np.stack(answer, axis=-1)


def residual(fine: Volume, coarse: Volume, thickness: float, profile: str) -> float:
    """Root mean square of what the slices say of a fine volume, less what they measured, in noise levels."""
    return float(np.sqrt(np.mean((seen(fine, coarse.geometry, thickness, profile) - coarse.data[0]) ** 2))) / LEVEL


THICKNESSES = [0.6, 1.5, 2.4, 3.0, 4.0, 6.0, 9.0]


@pytest.mark.parametrize("profile", ["box", "gaussian"])
@pytest.mark.parametrize("thickness", THICKNESSES)
def test_the_answer_agrees_with_the_scan_through_its_slices(prior, thickness, profile) -> None:
    coarse = scan()
    how = {"thickness_mm": thickness, "profile": profile, "noise_level": LEVEL, "prior": prior}
    fine = superresolve(coarse, (1.0, 1.2, 1.0), draws=2, keep_draws=2, steps=1, **how)
    for answer in (fine.mean, *fine.draws):
        assert residual(answer, coarse, thickness, profile) <= 1.01


@pytest.mark.parametrize("profile", ["box", "gaussian"])
def test_it_agrees_where_the_factor_is_no_whole_number_too(prior, profile) -> None:
    coarse = scan(3.3)
    how = {"thickness_mm": 2.5, "profile": profile, "noise_level": LEVEL, "prior": prior}
    assert residual(superresolve(coarse, (1.0, 1.2, 1.0), **how).mean, coarse, 2.5, profile) <= 1.01


@pytest.mark.parametrize(
    ("thickness", "profile"), [(3.0, "box"), (1.5, "gaussian"), (6.0, "box")], ids=["no gap", "profile", "overlap"]
)
def test_through_other_slices_it_does_not(prior, thickness, profile) -> None:
    """The law has teeth: told of slices that it was not measured in, an answer contradicts the scan."""
    coarse = scan()
    fine = superresolve(coarse, (1.0, 1.2, 1.0), thickness_mm=1.5, noise_level=LEVEL, prior=prior).mean
    assert residual(fine, coarse, 1.5, "box") <= 1.01
    assert residual(fine, coarse, thickness, profile) > 1.1


def test_the_operator_is_what_slices_see() -> None:
    coarse, rng = scan(), np.random.default_rng(1)
    target = coarse.geometry.with_spacing((1.0, 1.2, 1.0))
    fine = Volume(rng.random(target.shape), target)
    for thickness in THICKNESSES:
        for profile in ("box", "gaussian"):
            operator = seen_through(target, coarse.geometry, Slices(2, 3.0, thickness, profile))
            got = operator(torch.from_numpy(np.array(fine.data[0]))).numpy()
            assert np.allclose(got, seen(fine, coarse.geometry, thickness, profile), atol=2e-3), (thickness, profile)
    assert not np.allclose(got, seen(fine, coarse.geometry, 6.0, "gaussian"), atol=2e-3)


# The least change


def overlapping(thickness: float = 6.0) -> Separable:
    coarse = scan()
    return seen_through(
        coarse.geometry.with_spacing((1.0, 1.2, 1.0)), coarse.geometry, Slices(2, 3.0, thickness, "gaussian")
    )


@pytest.mark.parametrize("thickness", THICKNESSES)
def test_the_change_leaves_just_the_noise(generator, thickness) -> None:
    operator = overlapping(thickness)
    r = torch.randn((1, 1, 16, 14, 12), generator=generator, dtype=torch.float64)
    for level in (0.9, 0.5, 0.01):
        left = r - operator(least_agreement(r, operator, level))
        assert float(left.square().mean().sqrt()) == pytest.approx(level, rel=1e-3)


def test_nothing_is_changed_within_the_noise(generator) -> None:
    r = torch.randn((1, 1, 16, 14, 12), generator=generator)
    assert float(least_agreement(r, overlapping(), 2.0).abs().max()) == 0
    assert float(least_agreement(r, overlapping(), 0.5).abs().max()) > 0


def test_the_change_does_not_blow_up_what_slices_hardly_tell_apart(generator) -> None:
    """The way of a constant share, which agrees as well, changes the estimate many times as much."""
    operator, level = overlapping(), 0.9
    r = torch.randn((1, 1, 16, 14, 12), generator=generator, dtype=torch.float64)
    share = (1 - level / r.square().mean().sqrt()) * operator.smoothest(r)
    for change in (share, least_agreement(r, operator, level)):
        assert float((r - operator(change)).square().mean().sqrt()) == pytest.approx(level, rel=1e-3)
    assert float(share.square().mean()) > 10 * float(least_agreement(r, operator, level).square().mean())


def test_three_axes_agree_too(generator) -> None:
    matrix = torch.rand((4, 9), generator=generator, dtype=torch.float64)
    operator = Separable((matrix, matrix, matrix))
    r = torch.randn((2, 1, 4, 4, 4), generator=generator, dtype=torch.float64)
    left = r - operator(least_agreement(r, operator, 0.3))
    assert float(left.square().mean().sqrt()) == pytest.approx(0.3, rel=1e-3)


# Where the thickness is known from


def test_the_header_is_believed_and_the_command_line_before_it() -> None:
    assert Slices.of(scan(thickness=2.0)) == Slices(2, 3.0, 2.0, "box", "SliceThickness of the header")
    assert Slices.of(scan(thickness=2.0), thickness_mm=4.0).thickness_mm == 4.0
    assert Slices.of(scan(thickness=2.0), thickness_mm=4.0).origin == "--thickness"
    assert Slices.of(scan()) == Slices(2, 3.0, 3.0, "box", "")


@pytest.mark.parametrize(
    ("thickness", "words"),
    [
        (2.0, "a gap of 1 mm: by SliceThickness of the header"),
        (4.5, "an overlap of 1.5 mm: by SliceThickness of the header"),
        (3.01, "3 mm thick every 3 mm along axis K, no gap: by SliceThickness of the header"),
        (None, "no gap: assumed, for nothing says how thick they are (--thickness MM, in Python thickness_mm=MM)"),
    ],
)
def test_gaps_and_overlaps_are_told(prior, thickness, words) -> None:
    record = superresolve(scan(thickness=thickness), (1.0, 1.2, 1.0), noise_level=LEVEL, prior=prior).provenance
    assert any(words in sentence for sentence in record.decisions), record.decisions
    assert record.settings["slices"]["thickness_from"] == (
        "assumed" if thickness is None else "SliceThickness of the header"
    )
    assert json.loads(record.to_json())["settings"]["slices"]["distance_mm"] == 3.0


def test_what_the_prior_has_not_practised_is_told_as_the_nearest(prior) -> None:
    wide = dataclasses.replace(prior.card, recipe={"degradation": {"thick": 0.3, "uneven": 0.2, "overlap": [0.7, 1.2]}})
    for thickness, told in ((1.5, "2.1 mm"), (6.0, "4.5 mm"), (4.0, None)):
        how = {"thickness_mm": thickness, "noise_level": LEVEL, "prior": dataclasses.replace(prior, card=wide)}
        decisions = superresolve(scan(), (1.0, 1.2, 1.0), **how).provenance.decisions
        assert [f"told to the prior as {told}" in each for each in decisions].count(True) == (told is not None)
    assert Slices(2, 3.0, 6.0, "gaussian").tellable(0.7) == Slices(2, 3.0, pytest.approx(3.45), "gaussian")


def test_what_can_be_told_is_told_to_the_last_bit() -> None:
    """The thickness is not divided by the distance and multiplied again: 1.8 mm stay 1.8 mm."""
    for tenths in range(10, 60):
        for distance in (1.2, 1.7, 2.3, 3.3, 4.9):
            slices = Slices(2, distance, tenths / 10, "box")
            if 0.7 <= slices.overlap <= 1.5:
                assert slices.tellable(0.7) is slices


def test_a_prior_has_practised_what_its_recipe_says_and_an_adapted_one_what_the_one_before_had(prior) -> None:
    def thinnest(recipe) -> float:
        return dataclasses.replace(prior.card, recipe=recipe).thinnest_slices

    gaps = {"degradation": {"thick": 0.3, "uneven": 0.2, "overlap": [0.5, 1.3]}}
    assert thinnest(gaps) == 0.5
    assert thinnest({"adaptation": {}, "start": {"adaptation": {}, "start": gaps}}) == 0.5
    assert thinnest({"degradation": gaps["degradation"] | {"thick": 0.0}}) == 1.0
    assert thinnest({"degradation": gaps["degradation"] | {"uneven": 0.0}}) == 1.0
    assert thinnest({"start": "../other.json"}) == thinnest({}) == 1.0


def test_the_limits_of_what_is_told_are_where_noise_grows_threefold() -> None:
    """In the finest pattern that slices can show, one up and one down."""
    pattern = torch.tensor([1.0, -1.0] * 20, dtype=torch.float64).reshape(1, 1, 40)
    coarse, target = (Geometry.regular((1, 1, 40 * k), spacing_mm=(1, 1, 3 / k)) for k in (1, 3))
    for profile in ("box", "gaussian"):
        told = Slices(2, 3.0, 9.0, profile).tellable(0.7)
        grown = seen_through(target, coarse, told).smoothest(pattern)[..., 20:-20].abs().max()
        assert 2.5 < float(grown) < 4.5, profile
        assert float(seen_through(target, coarse, Slices(2, 3.0, 6.0, profile)).smoothest(pattern).abs().max()) > 10


@pytest.mark.parametrize("thickness", [0.0, -1.0, 9.1, math.nan, math.inf])
def test_a_thickness_out_of_sense_is_refused(prior, thickness) -> None:
    with pytest.raises(SettingsError, match="E-SETTING: --thickness"):
        superresolve(scan(), (1.0, 1.2, 1.0), thickness_mm=thickness, prior=prior)
    with pytest.raises(InputError, match=r"E-THICKNESS: SliceThickness: .*--thickness MM"):
        superresolve(scan(thickness=thickness), (1.0, 1.2, 1.0), prior=prior)
    known = superresolve(scan(thickness=thickness), (1.0, 1.2, 1.0), thickness_mm=2.0, noise_level=LEVEL, prior=prior)
    assert known.provenance.settings["slices"]["thickness_mm"] == 2.0


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(SettingsError, match="E-SETTING: --profile"):
        Slices.of(scan(), profile="triangle")  # type: ignore[arg-type]


def test_the_thickness_matters_only_where_slices_are_made_finer(prior) -> None:
    broken = scan(thickness=99.0)
    record = superresolve(broken, (0.8, 1.2, 3.0), noise_level=LEVEL, prior=prior).provenance
    assert "slices" not in record.settings
    assert not any("thick" in sentence for sentence in record.decisions)


def test_slices_lie_across_the_coarsest_axis_unless_the_header_knows_of_them() -> None:
    lying = Volume(np.zeros((4, 5, 6)), Geometry.regular((4, 5, 6), spacing_mm=(5.0, 1.0, 1.0)))
    assert slice_axis(lying) == 0
    assert slice_axis(dataclasses.replace(lying, thickness_mm=1.0)) == 2
    assert slice_axis(Volume(np.zeros((4, 5, 6)), Geometry.regular((4, 5, 6)))) == 2


# From files


def test_a_dicom_series_says_how_thick_its_slices_are(tmp_path) -> None:
    dicom_cases.series(tmp_path / "a", modality="MR", edit=lambda ds, k: setattr(ds, "SliceThickness", "2"))
    dicom_cases.series(tmp_path / "b", modality="MR", edit=lambda ds, k: setattr(ds, "SliceThickness", str(2 + k)))
    dicom_cases.series(tmp_path / "c", modality="MR", edit=lambda ds, k: delattr(ds, "SliceThickness"))
    thicknesses = [io.read(tmp_path / name).thickness_mm for name in "abc"]
    assert thicknesses == [2.0, None, None]
    assert Slices.of(io.read(tmp_path / "a")).overlap == pytest.approx(0.8)


def test_the_thickness_survives_denoising_and_nifti(tmp_path, prior) -> None:
    coarse = scan(thickness=2.0)
    clean = denoise(coarse, noise_level=LEVEL, prior=prior).mean
    assert clean.thickness_mm == 2.0
    again = io.read(io.write(clean, tmp_path / "clean.nii.gz")[0])
    assert again.thickness_mm == 2.0
    fine = superresolve(again, (1.0, 1.2, 1.0), noise_level=LEVEL, prior=prior).mean
    assert fine.thickness_mm is None
    assert "SliceThickness" not in json.loads(io.write(fine, tmp_path / "fine.nii.gz")[1].read_text("utf-8"))


@pytest.mark.parametrize(
    ("said", "spacing", "believed"),
    [(4, (1, 1, 5), 4.0), ("4", (1, 1, 5), None), (True, (1, 1, 5), None), (4, (5, 1, 1), None), (0, (1, 1, 5), 0.0)],
)
def test_a_json_file_beside_a_nifti_file_says_it_of_the_last_axis(tmp_path, said, spacing, believed) -> None:
    volume = Volume(np.random.default_rng(0).random((4, 5, 6)), Geometry.regular((4, 5, 6), spacing_mm=spacing))
    file, record = io.write(volume, tmp_path / "scan.nii.gz")
    assert io.read(file).thickness_mm is None
    record.write_text(json.dumps({"Modality": "MR", "SliceThickness": said}), encoding="utf-8")
    assert io.read(file).thickness_mm == believed


# At the command line


def test_the_plan_and_the_result_tell_the_slices(tmp_path, card, capsys) -> None:
    file = io.write(scan(), tmp_path / "scan.nii.gz")[0]
    words = ["superresolve", file, tmp_path / "fine.nii.gz", "--spacing", 1, 1.2, 1, "--prior", card]
    words += ["--noise-level", LEVEL, "--thickness", 2, "--profile", "gaussian"]
    told = {
        "axis": "K",
        "distance_mm": 3.0,
        "thickness_mm": 2.0,
        "profile": "gaussian",
        "thickness_from": "--thickness",
    }
    assert document([*words, "--dry-run"], capsys)["slices"] == told
    assert cli.main([str(word) for word in (*words, "--dry-run")]) == 0
    assert "2 mm thick every 3 mm along axis K, a gap of 1 mm" in capsys.readouterr().out
    assert document(words, capsys)["provenance"]["settings"]["slices"] == told
    assert "slices" not in document(["denoise", file, tmp_path / "o.nii.gz", "--prior", card, "--dry-run"], capsys)


def test_a_header_that_makes_no_sense_is_one_line_before_the_prior_is_loaded(tmp_path, capsys) -> None:
    dicom_cases.series(tmp_path / "a", modality="MR", edit=lambda ds, k: setattr(ds, "SliceThickness", "0"))
    words = ["superresolve", tmp_path / "a", tmp_path / "b", "--spacing", 0.75, 0.5, 1, "--prior", "absent"]
    assert "E-THICKNESS" in refused(words, capsys, code=4)
    assert "E-PRIOR" in refused([*words, "--thickness", 2], capsys, code=6)
    assert "E-SETTING" in refused([*words, "--thickness", 8], capsys, code=2)
