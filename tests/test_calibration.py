"""A calibration: what it claims, for whom it does not, and that its file holds nothing of a patient."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from medidiff.errors import InputError, SettingsError
from medidiff.physics import identity
from medidiff.trust import Calibration, Made, signs_of
from medidiff.trust.cases import case_from_json, case_to_json
from medidiff.trust.nodes import corrected
from medidiff.trust.signs import strange
from tests.trust_cases import GAIN, MADE, MASK, SHAPE, answer, calibration, case, head


@pytest.fixture(scope="module")
def fitted() -> Calibration:
    return calibration(levels=(0.03, 0.05, 0.1))


def inside(truth, bounds) -> float:
    lower, upper = (bound.data[0] / GAIN for bound in bounds)
    return float(((lower <= truth) & (truth <= upper))[MASK].mean())


def test_new_patients_lie_between_the_bounds_as_claimed(fitted):
    found = []
    for seed in range(100, 130):
        truth, new = answer(seed)
        bounds = new.interval(fitted)
        assert bounds.claimed, bounds.reasons
        assert "90 % of the tissue lies between the bounds" in bounds.sentence
        found.append(inside(truth, bounds))
    assert np.mean(found) == pytest.approx(0.9 + 0.1 / 12, abs=0.025)  # of one calibration: its twelve may be hard


def test_bounds_of_half_the_reach_do_not_hold_them(fitted):
    """The negative: the same bounds, half as wide."""
    nodes = tuple(dataclasses.replace(n, reaches={s: r / 2 for s, r in n.reaches.items()}) for n in fitted.nodes)
    broken = dataclasses.replace(fitted, nodes=nodes)
    found = [inside(truth, new.interval(broken)) for truth, new in map(answer, range(100, 110))]
    assert np.mean(found) < 0.7


@pytest.mark.parametrize("side_mm", [0.5, 0.66])
def test_bounds_of_small_voxels_hold_them_too(side_mm):
    """Several of them make up a block of a millimetre, whose mean is more exact than they are."""
    fine, coverage = calibration(side_mm=side_mm), {0: [], 1: []}
    for size, found in coverage.items():
        nodes = tuple(dataclasses.replace(n, reaches={**n.reaches, 0: n.reaches[size]}) for n in fine.nodes)
        for seed in range(100, 120):
            truth, new = answer(seed, side_mm=side_mm)
            found.append(inside(truth, new.interval(dataclasses.replace(fine, nodes=nodes))))
    assert np.mean(coverage[0]) == pytest.approx(0.9 + 0.1 / 12, abs=0.025)
    assert np.mean(coverage[1]) < 0.6


@pytest.mark.parametrize("side", [1, 3, 6])
def test_means_over_regions_lie_between_their_bounds(fitted, side):
    rng, held = np.random.default_rng(0), []
    for seed in range(100, 120):
        truth, new = answer(seed)
        for corner in rng.integers(8, 16 - side, (12, 3)):
            mask = np.zeros(SHAPE, bool)
            mask[tuple(slice(c, c + side) for c in corner)] = True
            bounds = new.region(mask, fitted)
            held.append(bounds.lower <= GAIN * float(truth[mask].mean()) <= bounds.upper)
    assert bounds.claimed
    assert np.mean(held) > 0.85


def test_nothing_is_claimed_of_air_nor_of_a_region_larger_than_those_calibrated(fitted):
    new = answer(100)[1]
    air, all_, half = (np.zeros(SHAPE, bool) for _ in range(3))
    air[:3, :3, :3] = True
    all_[:] = True
    half[8:16, 8:16, 8:16] = True
    assert new.region(half, fitted).claimed
    assert "the mean lies between the bounds" in new.region(half, fitted).sentence
    assert "less than half of the region is tissue" in new.region(air, fitted).sentence
    assert "calibrated up to 8 mm" in new.region(all_, fitted).sentence
    assert "NOT claimed" in new.region(all_, fitted).sentence


def test_a_region_without_voxels_is_refused(fitted):
    for mask in (np.zeros(SHAPE, bool), np.ones((3, 3, 3), bool)):
        with pytest.raises(InputError, match="E-MASK"):
            answer(0)[1].region(mask, fitted)


# --- for whom nothing is claimed -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"thickness": 2.0, "distance": 3.0}, "thickness over their distance is 0.6667, calibrated for 1 to 1"),
        ({"thickness": 3.0, "distance": 2.0}, "thickness over their distance is 1.5"),
        ({"in_plane": 2.0}, "voxels along the slices"),
        ({"profile": "gaussian"}, "a slice profile 'gaussian', calibrated for 'box'"),
        ({"plane": "sagittal"}, "a slice plane 'sagittal', calibrated for 'axial'"),
    ],
)
def test_slices_of_another_geometry_are_not_claimed(other, says):
    """Each number alone lies within what was calibrated: gaps, overlaps and coarse planes are others' geometry."""
    cases = []
    for group, thick in enumerate((2.0, 3.0)):
        for each in (case(seed, group=group) for seed in range(9)):
            seen = dataclasses.replace(each.seen, thickness=thick, distance=thick, profile="box", plane="axial")
            cases.append(dataclasses.replace(each, seen=seen))
    fitted = Calibration.fit(cases, MADE, origin="degraded", version="0")
    like = dataclasses.replace(answer(100)[1].seen, thickness=2.0, distance=2.0, profile="box", plane="axial")
    assert fitted.objections(like) == ()
    assert any(says in each for each in fitted.objections(dataclasses.replace(like, **other)))


def test_patients_of_the_same_kind_are_hardly_ever_flagged(fitted):
    flagged = [bool(fitted.objections(answer(seed)[1].seen)) for seed in range(100, 200)]
    assert np.mean(flagged) <= 0.1


@pytest.mark.parametrize(
    ("shift", "sign"),
    [
        ({"gamma": 2.2}, "brightness"),
        ({"grain": 0.5}, "neighbours"),
        ({"level": 0.08, "told": 0.05}, "noise level"),
    ],
    ids=["contrast", "sharpness", "noise"],
)
def test_shifted_scans_are_not_claimed(fitted, shift, sign):
    for seed in range(100, 110):
        bounds = answer(seed, **shift)[1].interval(fitted)
        assert not bounds.claimed
        assert "NOT claimed" in bounds.sentence
        assert any(sign in reason for reason in bounds.reasons), bounds.reasons


@pytest.mark.parametrize(("strangers", "claimed"), [(0, False), (5, False), (6, True), (12, True)])
def test_a_scan_out_of_scope_is_claimed_only_where_patients_were_so_too(strangers, claimed):
    """A mirrored head has the signs of any other; nobody knows how the prior's errors are there."""
    cases = [case(seed) for seed in range(12)]
    cases = [
        dataclasses.replace(each, seen=dataclasses.replace(each.seen, outside=n < strangers))
        for n, each in enumerate(cases)
    ]
    held = Calibration.fit(cases, MADE, origin="degraded", version="0")
    assert held.outside == strangers
    seen = cases[-1].seen
    assert held.objections(dataclasses.replace(seen, outside=False)) == ()
    reasons = held.objections(dataclasses.replace(seen, outside=True))
    assert (reasons == ()) == claimed
    assert claimed or f"out of the scope of the prior, as {strangers} of the 12 calibration patients were" in reasons


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"dark": (0.58, 0.64)}, "another law than was assumed, or of an unknown one, which was so for {} of the 12 "),
        ({"dark": (2.2, 2.4)}, "its variance is 2.20 to 2.40 times what that law says, 0.7 to 1.5 is believed"),
        ({"dark": (0.5, 1.2)}, "or of an unknown one"),
        ({"dark": None}, "too little of the scan is dark to tell whether its noise follows the law that was assumed"),
        (
            {"places": 1},
            "the scan contradicts the answer in 1 place, which was so for {} of the 12 calibration patients",
        ),
        ({"places": 3}, "the scan contradicts the answer in 3 places"),
    ],
)
@pytest.mark.parametrize(("strangers", "claimed"), [(0, False), (5, False), (6, True)])
def test_noise_of_another_law_and_contradictions_are_claimed_only_where_patients_had_them(
    other, says, strangers, claimed
):
    """All else is like the patients'; where half of them were so too, their errors are those of such scans."""
    cases = [case(seed) for seed in range(12)]
    cases = [
        dataclasses.replace(each, seen=dataclasses.replace(each.seen, **other)) if n < strangers else each
        for n, each in enumerate(cases)
    ]
    held = Calibration.fit(cases, MADE, origin="pairs", version="0")
    assert (held.lawless, held.contradicted) == ((0, strangers) if "places" in other else (strangers, 0))
    new = answer(100)[1]
    assert new.claim(held).claimed
    reasons = held.objections(dataclasses.replace(new.seen, **other))
    assert (reasons == ()) == claimed
    assert claimed or any(says.format(strangers) in each for each in reasons)
    doubtful, region = dataclasses.replace(new, seen=dataclasses.replace(new.seen, **other)), np.zeros(SHAPE, bool)
    region[9:15, 9:15, 9:15] = True
    assert doubtful.interval(held).claimed == claimed
    assert doubtful.region(region, held).claimed == claimed


@pytest.mark.parametrize("dark", [(0.71, 1.0), (0.92, 0.96), (1.1, 1.49)])
def test_noise_of_the_law_is_claimed(fitted, dark):
    assert fitted.objections(dataclasses.replace(answer(100)[1].seen, dark=dark)) == ()


def test_without_signs_the_same_scans_would_be_claimed(fitted):
    """The negative: what is flagged is flagged by its signs alone."""
    usual = answer(100)[1].seen.signs
    for shift in ({"gamma": 2.2}, {"grain": 0.5}):
        seen = answer(100, **shift)[1].seen
        assert fitted.objections(dataclasses.replace(seen, signs=usual)) == ()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"noise": 0.2}, "noise level"),
        ({"noise": 0.01}, "noise level"),
        ({"thickness": 3.0}, "thickness"),
        ({"distance": 2.0}, "distance"),
        ({"spacing_mm": (1.0, 1.0, 2.0)}, "voxels (mm) of 2"),
        ({"spacing_mm": (1.035, 1.0, 1.0)}, "voxels (mm) of 1.035"),  # another protocol, likely another scanner
        ({"signs": {}}, "no tissue"),
    ],
)
def test_out_of_range_nothing_is_claimed(fitted, change, says):
    seen = dataclasses.replace(answer(100)[1].seen, **change)
    assert any(says in reason for reason in fitted.objections(seen))


def test_voxels_that_differ_by_rounding_are_claimed(fitted):
    seen = dataclasses.replace(answer(100)[1].seen, spacing_mm=(0.99, 1.01, 1.0))
    assert fitted.objections(seen) == ()


@pytest.mark.parametrize(
    "other",
    [
        {"task": "superresolve"},
        {"prior_sha256": "cd" * 32},
        {"draws": 4},
        {"steps": 2},
        {"noise": "gaussian"},
        {"noise_varies": True},
    ],
)
def test_answers_that_were_made_otherwise_are_refused(fitted, other):
    made = dataclasses.replace(MADE, **other)
    with pytest.raises(SettingsError, match=rf"E-CALIBRATION.*{next(iter(other))}"):
        fitted.refuse_unlike(made)
    with pytest.raises(SettingsError, match="E-CALIBRATION"):
        dataclasses.replace(answer(0)[1], made=made).interval(fitted)
    fitted.refuse_unlike(Made(**dataclasses.asdict(MADE)))


def test_a_scan_without_tissue_has_no_signs():
    flat = np.full(SHAPE, 0.5, np.float32)
    assert signs_of(torch.from_numpy(flat), torch.from_numpy(flat), flat, operator=identity(), level=0.1) == {}


def test_strangeness_is_students():
    mean, std = {"residual": 0.0}, {"residual": 1.0}
    assert strange({"residual": 2.4}, mean, std, patients=10) == ["residual"]  # t 9 at 0.975 is 2.26, times √1.1: 2.37
    assert strange({"residual": -2.3}, mean, std, patients=10) == []
    many = {name: 0.0 for name in "abcde"}
    assert strange({"residual": 2.4}, mean | many, std | dict.fromkeys(many, 1.0), patients=10) == []  # looked at more
    assert strange({"residual": float("nan")}, mean, std, patients=10) == ["residual"]


# --- what it is fitted to --------------------------------------------------------------------------------------------


def test_too_few_patients_are_refused():
    with pytest.raises(SettingsError, match=r"E-PATIENTS.*8 patients for 90 %.*at least 9"):
        calibration(8)
    assert calibration(4, share=0.8).patients == 4


def test_every_patient_counts_once():
    cases = [case(seed) for seed in range(9)]
    for broken in ([*cases, cases[0]], [*cases, *(dataclasses.replace(each, group=1) for each in cases[1:])]):
        with pytest.raises(SettingsError, match="E-PATIENTS"):
            Calibration.fit(broken, MADE, origin="pairs", version="0")


@pytest.mark.parametrize("broken", [{"share": 0.4}, {"share": 1.0}, {"cap": 0.1}, {"cap": 1.5}])
def test_shares_and_caps_that_are_none_are_refused(broken):
    with pytest.raises(SettingsError, match="E-SETTING"):
        calibration(10, **broken)


def test_without_a_cap_the_reach_is_longer():
    assert calibration(12, cap=1.0).nodes[0].reaches[0] > 1.2 * calibration(12).nodes[0].reaches[0]


def test_between_levels_the_reach_lies_between(fitted):
    seen = answer(100)[1].seen
    reach = {noise: fitted.at(dataclasses.replace(seen, noise=noise)).reaches[0] for noise in (0.03, 0.04, 0.05)}
    low, middle, high = reach.values()
    assert min(low, high) <= middle <= max(low, high)
    assert low == fitted.nodes[0].reaches[0]
    assert fitted.at(dataclasses.replace(seen, noise=0.5)) == fitted.nodes[-1]


def test_between_levels_a_sign_may_leave_the_straight_line_and_at_them_it_may_not(fitted):
    """Nobody was measured there: up to a quarter of what a sign changes by is allowed, in the middle."""
    seen, (low, high) = answer(100)[1].seen, fitted.nodes[:2]
    middle = fitted.at(dataclasses.replace(seen, noise=float(np.sqrt(low.noise * high.noise))))
    assert fitted.at(dataclasses.replace(seen, noise=high.noise)).signs_std == pytest.approx(high.signs_std)
    for name, std in middle.signs_std.items():
        between = (low.signs_std[name] + high.signs_std[name]) / 2
        assert std == pytest.approx(np.hypot(between, (high.signs[name] - low.signs[name]) / 4))


def test_the_standardised_error_is_one_after_calibration(fitted):
    found = []
    for seed in range(100, 120):
        truth, new = answer(seed)
        off = GAIN * truth - new.mean.data[0]
        found.append(np.mean(np.square(off[MASK] / new.calibrated_error(fitted).data[0][MASK])))
    assert np.sqrt(np.mean(found)) == pytest.approx(1, abs=0.1)


def test_factors_undo_a_spread_that_is_too_narrow():
    """Half the spread, twice the factor: and without it the standardised error is 2."""
    wide, narrow = ([case(seed) for seed in range(9)] for _ in range(2))
    for n, each in enumerate(narrow):
        squares = each.tally.squares * np.array([[1.0], [4.0], [1.0]])
        narrow[n] = dataclasses.replace(each, tally=dataclasses.replace(each.tally, squares=squares))
    one, two = (Calibration.fit(cases, MADE, origin="pairs", version="0").nodes[0] for cases in (wide, narrow))
    error = np.geomspace(0.02, 0.05, 5).astype(np.float32)
    np.testing.assert_allclose(corrected(error, two), 2 * corrected(error, one), rtol=1e-5)


# --- its file --------------------------------------------------------------------------------------------------------


def test_the_file_holds_all_of_it_and_nothing_of_a_patient(fitted):
    text = fitted.to_json()
    assert Calibration.from_json(text) == fitted
    assert Calibration.from_json(text).to_json() == text
    held = json.loads(text)
    assert all(len(each) == 64 for each in held["scans"])
    assert not {"name", "path", "file", "date", "host"} & set(held)


@pytest.mark.parametrize(
    "change",
    [
        lambda held: held.pop("share"),
        lambda held: held.update(share=1.0),
        lambda held: held.update(format=1),
        lambda held: held.update(patient="Doe^Jane"),
        lambda held: held["nodes"].clear(),
        lambda held: held["made"].update(prior_sha256="zz"),
        lambda held: held["nodes"][0]["reaches"].update({"1": -1.0}),
        lambda held: held["nodes"][0].update(noise="inf"),
    ],
)
def test_a_broken_file_is_refused(fitted, change):
    held = json.loads(fitted.to_json())
    change(held)
    with pytest.raises(SettingsError, match=r"E-CALIBRATION.*c\.json"):
        Calibration.from_json(json.dumps(held), file="c.json")
    with pytest.raises(SettingsError, match="E-CALIBRATION"):
        Calibration.from_json("{")


@pytest.mark.parametrize(
    "change",
    [
        lambda held: held.update(share=0.99),
        lambda held: held.update(noise=[0.0, 1.0]),
        lambda held: held.update(patients=1000),
        lambda held: held["nodes"][0].update(signs={}, signs_std={}),
        lambda held: held["nodes"][0].update(reaches={}),
        lambda held: held.pop("sha256"),
    ],
)
def test_a_file_that_was_edited_claims_nothing(fitted, change):
    """Each of these is a calibration by its form, and none that was ever fitted; an edit of white space is none."""
    held = json.loads(fitted.to_json())
    assert Calibration.from_json(json.dumps(held)) == fitted
    change(held)
    with pytest.raises(SettingsError, match=r"E-CALIBRATION.*changed after it was written"):
        Calibration.from_json(json.dumps(held), file="c.json")


@pytest.mark.parametrize(
    "change",
    [
        {"share": 0.99},
        {"patients": 13},
        {"scans": ("0" * 64,) * 12},
    ],
)
def test_a_file_that_no_fit_makes_claims_nothing(fitted, change):
    """Written anew with a right hash of its own: the hash finds accidents, not intent."""
    with pytest.raises(SettingsError, match="E-CALIBRATION"):
        Calibration.from_json(dataclasses.replace(fitted, **change).to_json())


@pytest.mark.parametrize("change", [{"signs": {}, "signs_std": {}}, {"reaches": {1: 2.0}}, {"factors": ((0.1, -1.0),)}])
def test_a_level_that_no_fit_makes_claims_nothing(fitted, change):
    nodes = (dataclasses.replace(fitted.nodes[0], **change), *fitted.nodes[1:])
    with pytest.raises(SettingsError, match="E-CALIBRATION"):
        Calibration.from_json(dataclasses.replace(fitted, nodes=nodes).to_json())


def test_cases_survive_json():
    one = case(3)
    again = case_from_json(case_to_json(one))
    assert (again.patient, again.group, again.seen) == (one.patient, one.group, one.seen)
    np.testing.assert_allclose(again.tally.squares, one.tally.squares, rtol=1e-6)
    assert all(np.allclose(again.tally.outside[size], curve, atol=1e-8) for size, curve in one.tally.outside.items())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"patient": "a", "group": 0, "seen": {}, "tally": {}}'])
def test_a_broken_case_is_refused(text):
    with pytest.raises(SettingsError, match="E-CALIBRATION"):
        case_from_json(text)


@pytest.mark.parametrize("name", ["dark", "places"])
def test_a_case_of_before_the_law_was_read_is_refused(name):
    """Its calibration would take all of its patients for lawless, and object to nobody."""
    held = json.loads(case_to_json(case(3)))
    del held["seen"][name]
    with pytest.raises(SettingsError, match="E-CALIBRATION"):
        case_from_json(json.dumps(held))


def test_a_case_of_another_length_is_refused():
    held = json.loads(case_to_json(case(3)))
    held["tally"]["outside"]["1"] = held["tally"]["outside"]["1"][:-1]
    with pytest.raises(SettingsError, match="E-CALIBRATION"):
        case_from_json(json.dumps(held))


def test_heads_are_of_one_kind():
    """What the laws above rest on: invented patients differ, and their tissue is alike."""
    one, two = head(1), head(2)
    assert np.abs(one - two).max() > 0.2
    assert one[MASK].std() == pytest.approx(two[MASK].std(), rel=0.05)
