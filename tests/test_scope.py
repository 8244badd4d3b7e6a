"""Whether a scan is of the kind that a prior is for: signs, limits and p-values, and that each fault is named."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medidiff import io
from medidiff.errors import InputError, PriorError
from medidiff.prior import Prior
from medidiff.trust import pose as poses
from medidiff.trust import scope_of
from medidiff.trust.coarse import coarse, field_of
from medidiff.trust.pose import find_pose
from medidiff.trust.reference import RULES, Limits, Reference, Rule, reference_for
from medidiff.trust.scope import Scope, scope_within
from medidiff.trust.traits import _order, traits_of
from medidiff.trust.words import _blur_voxels, said
from medidiff.volume import Geometry, Volume
from tests.scope_heads import FAULTS, SHIPPED, brain, shipped
from tests.small_prior import CARD


@pytest.fixture(scope="module")
def reference() -> Reference:
    return shipped()


@pytest.fixture(scope="module")
def head() -> Volume:
    return brain()


@pytest.fixture(scope="module")
def signs(reference, head) -> dict[str, float | None]:
    return traits_of(head, reference.template)


def tilted(volume: Volume, *degrees: float) -> Volume:
    affine = volume.geometry.affine.copy()
    affine[:3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ affine[:3]
    return dataclasses.replace(volume, geometry=Geometry(volume.shape, affine))


# --- scans of the kind ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.015, 0.09])
def test_a_head_with_noise_is_within_the_scope(noise, reference):
    scope = scope_within(brain(noise), reference)
    assert scope.verdict == "inside"
    assert scope.reasons == ()
    assert scope.sentence.startswith("within the scope of the prior 'fine-t1'")


def test_a_head_that_is_tilted_as_its_affine_says_is_within_the_scope(head, reference):
    assert not scope_within(tilted(head, 15, -10, 20), reference).outside


def test_a_head_in_thick_slices_is_within_the_scope(head, reference):
    data = head.data[0][..., :78].reshape(80, 96, 39, 2).mean(-1)
    grid = Geometry.regular(data.shape, spacing_mm=(2, 2, 4))
    noisy = np.abs(data + np.random.default_rng(4).normal(0, 20, data.shape))
    assert not scope_within(Volume(noisy.astype(np.float32), grid, "MR"), reference).outside


@pytest.mark.parametrize("order", [(2, 0, 1), (1, 0, 2)])
def test_signs_do_not_depend_on_the_order_of_the_axes(order, head, signs, reference):
    affine = head.geometry.affine.copy()
    affine[:3, :3] = affine[:3, list(order)]
    data = np.ascontiguousarray(head.data[0].transpose(order))
    found = traits_of(Volume(data, Geometry(data.shape, affine), "MR"), reference.template)
    for name in signs.keys() - {"blocky"}:  # which of three equal axes are the two finest is a matter of order
        apart = 0.1 if name == "spike" else 0.03  # blocks of k-space begin elsewhere
        assert found[name] == pytest.approx(signs[name], abs=apart), name


def test_an_affine_that_forgets_the_order_of_the_axes_changes_them(head, signs, reference):
    data = np.ascontiguousarray(head.data[0].transpose(2, 0, 1))
    found = traits_of(Volume(data, Geometry.regular(data.shape, spacing_mm=(2, 2, 2)), "MR"), reference.template)
    assert found["upright"] < 0 < signs["upright"]


def test_signs_do_not_depend_on_units(head, signs, reference):
    found = traits_of(head.with_data(head.data * np.float32(0.013)), reference.template)
    assert found == pytest.approx(signs, abs=1e-3)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("ends", [(20, 0), (0, 20)], ids=["before", "after"])
def test_blank_planes_beyond_a_head_change_nothing(axis, ends, head, reference):
    """A head that is cut on all sides; with these planes in, air, sides or jumps would differ by 0.03 and more."""
    data = head.data[0][8:72, 8:88, 8:70]
    wide = [ends if each == axis else (0, 0) for each in range(3)]
    affine = head.geometry.affine.copy()
    signs = traits_of(Volume(data, Geometry(data.shape, affine), "MR"), reference.template)
    affine[:3, 3] -= affine[:3, axis] * ends[0]
    padded = np.pad(data, wide)
    found = traits_of(Volume(padded, Geometry(padded.shape, affine), "MR"), reference.template)
    assert found == pytest.approx(signs, abs=1e-6)
    assert found["jump"] is not None


def test_an_offset_is_no_matter_of_units(head, signs, reference):
    found = traits_of(head.with_data(head.data + np.float32(900)), reference.template)
    assert found["air"] > signs["air"] + 0.3


@pytest.mark.parametrize("top", [99, 200, 300, 800, 1000, 4095])
def test_whole_numbers_of_any_range_are_no_windows(top, head, signs, reference):
    """Ordinary scans with few grey levels, and with many."""
    image = head.data[0]
    found = traits_of(head.with_data(np.rint(image / image.max() * top).astype(np.int16)), reference.template)
    assert found["eight"] == signs["eight"] == 0


def test_a_level_of_noise_that_changes_slowly_is_no_filter(head, reference):
    """Coils see some places better than others, and parallel imaging makes noise of the rest."""
    rng = np.random.default_rng(7)
    level = (20 + 40 * np.linspace(0, 1, head.shape[0]) ** 2)[:, None, None]
    noisy = np.hypot(*(level * rng.standard_normal((2, *head.shape)) + [[[[1]]], [[[0]]]] * head.data[0]))
    scope = scope_within(head.with_data(noisy.astype(np.float32)), reference)
    assert max(scope.distances["linked"], scope.distances["patchy"]) < 0.8


@pytest.mark.parametrize("noise", [0.015, 0.09, 0.15])
def test_noise_hardly_moves_the_order_of_the_tissues(noise, signs, reference):
    found = traits_of(brain(noise, seed=1), reference.template)
    assert found["order"] == pytest.approx(signs["order"], abs=0.1)
    assert reference.limits["order"].distance(found["order"]) < 0.1


def test_a_brain_of_one_brightness_has_no_order(head, reference):
    pose = find_pose(field_of(coarse(head), 4.0, ceiling=1.3), reference.template)
    flat = coarse(head.with_data(np.full(head.shape, 800, np.float32)))
    assert _order(coarse(head), pose, reference.template) > 0.9
    assert _order(flat, pose, reference.template) is None
    away = dataclasses.replace(pose, matrix=pose.matrix + np.pad([[0], [0], [90.0]], ((0, 1), (3, 0))))
    assert _order(coarse(head), away, reference.template) is None  # little of the brain is in the field of view


# --- scans of another kind ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("change", "sign"), FAULTS.values(), ids=FAULTS)
def test_a_fault_puts_a_scan_out_of_scope_and_is_named(change, sign, head, reference):
    scope = scope_within(head.with_data(change(head.data[0])), reference)
    assert scope.outside
    assert scope.score > 1
    assert scope.distances[sign] > 1
    assert said(sign, scope.signs, reference.limits[sign]) in scope.sentence
    assert scope.sentence.startswith("OUT OF SCOPE of the prior 'fine-t1'")
    assert f": the scan {scope.reasons[0]}" in scope.sentence


def test_a_map_of_labels_is_called_one_in_numbers_that_can_be_read(head, reference):
    """Most of it holds no grain at all, so that ratios to grain are without meaning."""
    image = ndimage.gaussian_filter(head.data[0], 1.5)
    labels = np.digitize(image, [150, 400, 600, 750, 850]).astype(np.uint8)
    scope = scope_within(head.with_data(labels[None]), reference)
    assert scope.score == scope.distances["patchy"] > 100
    first, second = scope.reasons
    assert first.startswith("has next to no grain in most of its tissue, but steps between even areas: a map of labels")
    assert re.fullmatch(
        r"holds the very highest value in \d\d % of its tissue: clipped, windowed or a map of labels", second
    )


def test_a_mask_is_judged_without_a_warning_and_has_no_grain(head, reference):
    mask = (ndimage.gaussian_filter(head.data[0], 1.5) > 150).astype(np.uint8)
    scope = scope_within(head.with_data(mask[None]), reference)
    assert scope.reasons[0].startswith(
        "has tissue that does not vary at all, in scans of the kind it varies by at least"
    )
    assert scope.reasons[1].startswith("holds the very highest value in 100 % of its tissue")
    assert all(value is None or np.isfinite(value) for value in scope.signs.values())


def test_ratios_beyond_ten_are_not_spelled_out(reference):
    for name in ("linked", "blocky", "patchy"):
        assert "over 1000 %" in said(name, {name: 1.9}, reference.limits[name])
    assert "over 1000" not in said("linked", {"linked": -1.0}, reference.limits["linked"])


@pytest.fixture(scope="module")
def sample() -> Volume:
    return io.read(files("medidiff") / "sample/t1-brain.nii.gz")


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.08])
def test_the_grain_of_a_real_scan_is_a_scanners(noise, sample, reference):
    level = noise * np.quantile(sample.data, 0.99)
    rng = np.random.default_rng(0)
    real, other = (level * rng.standard_normal(sample.data.shape, dtype=np.float32) for _ in range(2))
    scope = scope_within(sample.with_data(np.hypot(sample.data + real, other)), reference)
    assert scope.distances["filtered"] < 0.7
    assert not scope.outside


@pytest.mark.parametrize("noise", [0.02, 0.05])
@pytest.mark.parametrize(
    "change",
    [
        lambda image: ndimage.percentile_filter(image, 60, 3),
        lambda image: ndimage.grey_closing(ndimage.grey_opening(image, 3), 3),
    ],
    ids=["percentile", "opened and closed"],
)
def test_filters_that_were_never_shown_are_told_from_a_real_scans_grain(change, noise, sample, reference):
    level = np.float32(noise * np.quantile(sample.data, 0.99))
    rng = np.random.default_rng(0)
    real, other = (level * rng.standard_normal(sample.shape, dtype=np.float32) for _ in range(2))
    scope = scope_within(sample.with_data(change(np.hypot(sample.data[0] + real, other))), reference)
    assert scope.distances["filtered"] > 1
    assert said("filtered", scope.signs, reference.limits["filtered"]) in scope.sentence


def test_a_thin_slab_of_a_chest_is_too_wide_for_a_head(reference):
    """22 mm of a body 29 cm wide: no pose can be told, but no head is so wide; a head's slab is not."""
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in (146, 146, 22)), indexing="ij")
    body = np.where((x**2 + 1.6 * y**2 < 0.97) & ((np.abs(x) - 0.4) ** 2 + y**2 > 0.06), 1000.0, 100.0)
    noisy = np.abs(body + np.random.default_rng(6).normal(0, 30, body.shape)).astype(np.float32)
    found = [
        scope_within(Volume(noisy, Geometry.regular(noisy.shape, spacing_mm=(side, side, 1)), "MR"), reference)
        for side in (2.0, 1.2)
    ]
    assert found[0].signs["match"] is None
    assert "another body part" in found[0].sentence
    assert found[1].distances["across"] < 1


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_voxels_of_another_size_are_named(factor, head, reference):
    grid = Geometry.regular(head.shape, spacing_mm=(2 * factor,) * 3)
    scope = scope_within(dataclasses.replace(head, geometry=grid), reference)
    assert scope.outside
    assert "wrong voxel size or body part" in scope.sentence


def test_a_limit_that_knows_no_fault_finds_none(head, reference):
    """The same fault with limits that are open: what is found comes from them."""
    upside = head.with_data(np.flip(head.data[0], (1, 2)).copy())
    open_limits = {name: Limits(limits.middle) for name, limits in reference.limits.items()}
    assert not scope_within(upside, dataclasses.replace(reference, limits=open_limits)).outside


# --- what cannot be read --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (2, 3, 4), (64, 64, 1), (1, 200, 200), (8, 8, 8), (40, 40, 3), (300, 4, 4)], ids=str
)
def test_small_and_flat_scans_are_judged_as_far_as_they_go(shape, reference):
    data = np.abs(np.random.default_rng(0).normal(100, 30, shape)).astype(np.float32)
    scope = scope_within(Volume(data, Geometry.regular(shape), "MR"), reference)
    assert scope.verdict in ("inside", "outside")
    assert scope.signs.get("match") is None
    json.dumps(scope.record(), allow_nan=False)


def test_a_scan_of_one_value_shows_no_tissue(reference):
    scope = scope_within(Volume(np.zeros((9, 9, 9), np.float32), Geometry.regular((9, 9, 9)), "MR"), reference)
    assert "too little to be told" in scope.sentence


def test_part_of_a_head_is_not_held_against_a_whole_one(head, reference):
    part = head.data[0][16:56, 24:64, 24:60]
    scope = scope_within(Volume(part, Geometry.regular(part.shape, spacing_mm=(2, 2, 2)), "MR"), reference)
    assert scope.signs["match"] is None
    assert scope.signs["whole"] is None
    assert not scope.outside
    assert "too little of a head" in scope.sentence


def test_a_small_part_shows_no_blocks_of_a_lossy_code(head, reference):
    """Of six blocks along an axis, one of the eight places has larger steps by chance in every fifteenth part."""
    fine = ndimage.zoom(head.data[0][28:52, 36:60, 28:52], 2, order=1)
    signs = traits_of(Volume(fine, Geometry.regular(fine.shape), "MR"), reference.template)
    assert signs["tissue"] > 1.5
    assert signs["blocky"] is None


def test_what_is_no_single_finite_channel_is_refused(head, reference):
    with pytest.raises(InputError, match="E-4D"):
        scope_within(head.with_data(np.stack([head.data[0]] * 2)), reference)
    broken = head.data[0].copy()
    broken[3, 3, 3] = np.nan
    with pytest.raises(InputError, match="E-NONFINITE"):
        scope_within(head.with_data(broken), reference)


def test_padding_has_no_say(head, reference):
    corner = np.zeros(head.shape, dtype=bool)
    corner[:6, :6] = True
    data = np.where(corner, np.float32(-30000), head.data[0])
    padded = dataclasses.replace(head.with_data(data), padding=corner)
    assert not scope_within(padded, reference).outside
    assert scope_within(head.with_data(data), reference).outside


# --- pose -----------------------------------------------------------------------------------------------------------


def test_the_pose_is_found(head, reference):
    moved = tilted(head, 12, -8, 17)
    pose = find_pose(field_of(coarse(moved), 4.0, ceiling=1.3), reference.template)
    assert pose is not None
    assert pose.match > 0.95
    turn = Rotation.from_euler("xyz", (12, -8, 17), degrees=True).as_matrix()
    left, _, right = np.linalg.svd(pose.matrix[:3, :3])
    off = Rotation.from_matrix(left @ right @ turn.T).magnitude()
    assert np.degrees(off) < 4


def test_where_little_of_a_brain_is_shown_its_way_up_counts_less(head, reference):
    for first, allowed in ((16, 0.0), (36, 0.16)):
        affine = head.geometry.affine.copy()
        affine[:3, 3] = head.geometry.world((0, 0, first))
        data = head.data[0][..., first:]
        part = Volume(data, Geometry(data.shape, affine), "MR")
        pose = find_pose(field_of(coarse(part), 4.0, ceiling=1.3), reference.template)
        assert (pose.shown < 0.7) == (allowed > 0)
        found = traits_of(part, reference.template)["upright"]
        assert found == pytest.approx(pose.match - pose.other + allowed, abs=1e-6)


def cut(head: Volume, share: float, change=lambda data: data) -> Volume:
    """The middle of a head, less a share at either end of each axis, and what is done to it."""
    low = [int(n * share) for n in head.shape]
    data = head.data[0][tuple(slice(first, n - first) for first, n in zip(low, head.shape, strict=True))]
    affine = head.geometry.affine.copy()
    affine[:3, 3] = head.geometry.world(low)
    return Volume(np.ascontiguousarray(change(data)), Geometry(data.shape, affine), "MR")


PARTS = {
    "as it is": (lambda data: data, None),
    "upside down": (lambda data: data[..., ::-1], "does not lie as its header says"),
    "back to front": (lambda data: data[:, ::-1], "does not lie as its header says"),
    "contrast of T2": (lambda data: np.where(data > 250, 1600 - data, data), "not of T1-weighted contrast"),
}


@pytest.mark.parametrize("case", PARTS)
def test_a_part_of_a_head_that_shows_half_of_the_brain_is_told_by_its_anatomy(case, head, reference, monkeypatch):
    change, reason = PARTS[case]
    part = cut(head, 0.22, change)
    scope = scope_within(part, reference)
    assert [each for each in scope.reasons if reason and reason in each] == list(scope.reasons)
    assert scope.outside == (reason is not None)
    assert (scope.signs["ghost"], scope.signs["shading"]) == (None, None)  # a part shows neither air nor all of it
    monkeypatch.setattr(poses, "_LEAST_SEEN", (0.65,))  # as it was: no pose, so nothing is told
    assert not scope_within(part, reference).outside


def test_ghosts_of_a_scan_that_ends_at_the_neck_are_seen(head, reference):
    """Strong ghosts count as tissue, which then reaches three faces: that is no part of a head."""
    data = head.data[0][..., 16:]
    data = data + np.float32(0.5) * np.roll(data, data.shape[1] // 2, 1)
    affine = head.geometry.affine.copy()
    affine[:3, 3] = head.geometry.world((0, 0, 16))
    scope = scope_within(Volume(data, Geometry(data.shape, affine), "MR"), reference)
    assert any("ghosts" in reason for reason in scope.reasons)


@pytest.mark.parametrize("axes", [(0,), (0, 1), ()])
def test_a_scan_that_varies_along_few_axes_is_judged_all_the_same(axes, reference):
    data = np.zeros((24, 24, 24), np.float32)
    for axis in axes:
        data = data + np.arange(24, dtype=np.float32).reshape([24 if axis == other else 1 for other in range(3)])
    if not axes:
        data[11, 12, 13] = 900
    found = scope_within(Volume(data, Geometry.regular(data.shape, spacing_mm=(2, 2, 2)), "MR"), reference)
    assert np.isfinite(found.score)


def test_of_a_small_part_of_a_brain_no_pose_is_told(head, reference):
    assert find_pose(field_of(coarse(cut(head, 0.3)), 4.0, ceiling=1.3), reference.template) is None


def test_the_width_of_a_blur_is_told():
    rng = np.random.default_rng(5)
    for sigma in (0.7, 1.0, 1.4):
        noise = ndimage.gaussian_filter(rng.standard_normal((400, 400)), sigma, mode="wrap")
        rms = []
        for lag in (1, 2):
            part = noise
            for axis in (0, 1):
                part = np.roll(part, lag, axis) - 2 * part + np.roll(part, -lag, axis)
            rms.append(part.std())
        assert _blur_voxels(rms[0] / rms[1]) == pytest.approx(2.355 * sigma, rel=0.15)
    assert _blur_voxels(1.0) < 0.8


# --- limits and p-values --------------------------------------------------------------------------------------------


def test_distances_are_measured_from_the_middle_to_the_limits():
    limits = Limits(2.0, low=1.0, high=6.0)
    assert [limits.distance(value) for value in (2.0, 1.0, 6.0, 0.0, 10.0)] == [0, 1, 1, 2, 2]
    assert Limits(2.0, high=6.0).distance(-50.0) == 0


def test_a_limit_lies_beyond_everybody_and_as_far_as_the_oddest_stands_out():
    people = {str(n): [float(value)] for n, value in enumerate([0, 0, 0, 0, 0, 2, 3])}
    limits = Limits.fitted(Rule("high", 0.1), people)
    assert limits.high == pytest.approx(4.6)  # 3 is 1.5 times 2, and the slack
    assert limits.low is None
    alike = Limits.fitted(Rule("both", 0.1), {str(n): [0.0] for n in range(5)})
    assert (alike.low, alike.high) == (-0.1, 0.1)


def test_limits_of_one_person_more_never_exclude_that_person():
    rng = np.random.default_rng(3)
    for _ in range(50):
        people = {str(n): list(rng.standard_t(2, 4)) for n in range(9)}
        limits = Limits.fitted(Rule("both", 0.0), people)
        worst = max(limits.distance(value) for values in people.values() for value in values)
        assert worst <= 1 + 1e-9


@pytest.mark.parametrize(("others", "share"), [(30, "at most 4 %"), (170, "at most 1 %"), (900, "at most 1 %")])
def test_the_least_share_that_a_calibration_can_tell_is_said_to_be_one(others, share, reference):
    """A scan further out than all others lies there with fewer than the smallest share that so many scans can give."""
    odd = scope_within(brain(0.3), dataclasses.replace(reference, scores=(0.5,) * others))
    assert f"; {share} of scans of its kind lie as far out)" in odd.sentence
    one = scope_within(brain(0.3), dataclasses.replace(reference, scores=(0.5,) * 98 + (odd.score,)))
    assert "; 2 % of scans of its kind lie as far out)" in one.sentence


def test_p_values_of_scans_of_the_kind_are_never_too_small():
    """P(p <= a) <= a for exchangeable scores; a rule that does not count the scan itself breaks it."""
    rng = np.random.default_rng(8)
    honest, greedy = [], []
    for _ in range(4000):
        *known, new = (float(score) for score in rng.gamma(2.0, 1.0, 20))
        reference = Reference("x", {}, tuple(known), None)
        honest.append(reference.p_value(new))
        greedy.append(sum(other >= new for other in known) / len(known))
    for share in (0.05, 0.1, 0.3):
        assert np.mean(np.asarray(honest) <= share) <= share + 0.01
    assert np.mean(np.asarray(greedy) <= 0.0) > 0.03  # "impossible" for one in twenty


def test_every_sign_has_a_rule_limits_and_words(reference, signs):
    assert signs.keys() == RULES.keys() == reference.limits.keys()
    for name, limits in reference.limits.items():
        for bound, way in itertools.product((limits.low, limits.high), (1.5,)):
            if bound is not None:
                value = limits.middle + way * (bound - limits.middle)
                words = said(name, {name: value}, limits)
                assert len(words) > 20
                assert words.split()[0] in ("does", "has", "is", "looks", "shows")  # it follows "the scan"


# --- the file -------------------------------------------------------------------------------------------------------


def written(reference: Reference, folder: Path, about: dict[str, object]) -> Path:
    """The two files of a reference; the path of the first."""
    path = folder / "x.scope.json"
    text, brain = reference.packed(about)
    path.write_bytes(text)
    path.with_suffix(".safetensors").write_bytes(brain)
    return path


def test_a_reference_survives_its_file(reference, tmp_path):
    about = {"summary": "s", "licence": "CC0", "sources": ("a",), "people": 3, "scans": 9, "notes": ()}
    again = Reference.load(written(reference, tmp_path, about))
    assert (again.prior, again.limits, again.scores) == (reference.prior, reference.limits, reference.scores)
    for name in ("image", "mask", "sides"):
        assert np.array_equal(getattr(again.template, name), getattr(reference.template, name))
    for name in ("middle", "scale", "centres", "weights"):
        assert np.array_equal(getattr(again.filters, name), getattr(reference.filters, name))


def test_a_damaged_file_is_refused(tmp_path):
    place = tmp_path / SHIPPED.name
    with pytest.raises(PriorError, match="E-SCOPE-REF"):
        Reference.load(place)
    text = SHIPPED.read_text()
    place.write_text(text.replace('"middle"', '"muddle"', 1))
    with pytest.raises(PriorError, match="E-SCOPE-REF"):
        Reference.load(place)
    place.write_text(text)
    arrays = SHIPPED.with_suffix(".safetensors").read_bytes()
    place.with_suffix(".safetensors").write_bytes(arrays[:-1] + bytes([arrays[-1] ^ 1]))
    with pytest.raises(PriorError, match="E-WEIGHTS"):
        Reference.load(place)


def test_arrays_of_another_shape_are_refused(reference, tmp_path):
    small = dataclasses.replace(reference.template, image=np.zeros((4, 4, 4), np.float32))
    about = {"summary": "s", "licence": "CC0", "sources": (), "people": 3, "scans": 9, "notes": ()}
    short = dataclasses.replace(reference.filters, weights=reference.filters.weights[1:])
    for broken in (dataclasses.replace(reference, template=small), dataclasses.replace(reference, filters=short)):
        with pytest.raises(PriorError, match="E-SCOPE-REF"):
            Reference.load(written(broken, tmp_path, about))


def test_only_the_prior_that_it_was_made_for_has_it(head):
    card = Prior.card_of("fine-t1")
    assert reference_for(card) is not None
    assert scope_of(head, card).verdict == "inside"
    adapted = dataclasses.replace(card, recipe={"start": dict(card.recipe)})
    trained_again = dataclasses.replace(card, weights_sha256="1" * 64, data_fingerprint="2" * 64)
    for other in (adapted, trained_again, CARD, dataclasses.replace(CARD, name="../trust/fine-t1")):
        assert scope_of(head, other) == Scope("unjudged", other.name)
        assert "not judged" in scope_of(head, other).sentence


def test_the_shipped_reference_says_what_it_is_made_of():
    told = json.loads(SHIPPED.read_text())
    assert told["prior"] == "fine-t1"
    assert told["weights_sha256"] == Prior.card_of("fine-t1").weights_sha256
    assert told["people"] >= 30
    assert len(told["scores"]) > told["people"]
    assert not any("sub-" in text for text in json.dumps(told).split('"'))
    assert np.mean(np.asarray(told["scores"]) > 1) < 0.05
