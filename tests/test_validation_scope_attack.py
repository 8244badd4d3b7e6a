"""Another's cases do what their names say, and what is kept of their scores is counted rightly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from medidiff import io
from medidiff.trust.scope import Scope
from medidiff.volume import Geometry, Volume

SHAPE = (40, 44, 70)
MARK = (26.5, 26.5, 40.5)  # middle of the brightest corner, in voxels
WHOSE = {"inside": "brain 1", "pose": "brain 1", "slabs": "brain 1", "grey": "brain 6", "noise": "brain 2"}

pytestmark = pytest.mark.usefixtures("validation_folder")


@pytest.fixture(scope="module")
def scan() -> Volume:
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    image = np.where(x * x + y * y + z * z < 0.7, 500 + 200 * x + 100 * np.sin(9 * y) + 50 * np.cos(7 * z), 0)
    image = image + np.random.default_rng(0).normal(0, 12, SHAPE)
    image[24:30, 24:30, 38:44] += 1000
    affine = np.diag([-0.9, 0.9, 0.9, 1.0])
    affine[:3, 3] = (18, -20, -31)
    return Volume(np.abs(image).astype(np.float32), Geometry(SHAPE, affine), "MR")


@pytest.fixture(scope="module")
def data(scan, tmp_path_factory) -> Path:
    """The one scan, in the place of every person's."""
    from attack_scans import people

    folder = tmp_path_factory.mktemp("data")
    for person in people(folder).values():
        io.write(scan, person.path)
    return folder


@pytest.fixture(scope="module")
def cases(data):
    """By part, then by kind and case, all scans of one person."""
    import scope_attack

    made = {}
    for part, person in WHOSE.items():
        found = made[part] = {}
        for kind, case, whose, each in scope_attack.PARTS[part](data, [person]):
            assert whose == person
            found.setdefault((kind, case), []).append(each)
    return made


def mark_of(each) -> np.ndarray:
    """Where the brightest corner lies in the patient, in mm."""
    image = ndimage.gaussian_filter(np.asarray(each.image, dtype=float), 1.5 / each.spacing_mm)
    at = ndimage.center_of_mass(np.where(image > 0.7 * image.max(), image, 0))
    return each.affine[:3, :3] @ at + each.affine[:3, 3]


def test_every_case_is_another_scan_that_the_package_takes(cases, scan):
    whole = ("as is", "crop 120 mm cube", "crop 90 mm cube", "defaced")  # so small a head lies within cubes and plane
    numbers = {part: sum(map(len, found.values())) for part, found in cases.items()}
    assert numbers == {"inside": 54, "pose": 26, "slabs": 24, "grey": 45, "noise": 48}
    for found in cases.values():
        for name, scans in found.items():
            for each in scans:
                volume = each.volume()
                assert np.isfinite(volume.data).all(), name
                same = volume.geometry == scan.geometry and np.array_equal(volume.data, scan.data)
                assert same == (name[1] in whole and name[0] == "in scope"), name


def test_scans_of_the_right_kind_keep_every_voxel_where_it_was(cases, scan):
    """Also where they are cut, sliced, padded or stored in another order; those that lie otherwise do not."""
    wanted = scan.geometry.world(MARK)
    tilted = [case for kind, case in cases["inside"] if case.startswith("header oblique")]
    assert len(tilted) == 4
    moved = [*tilted, "rot 5 linear", "rot 5 cubic", "rot 10 cubic"]
    for (_, case), scans in cases["inside"].items():
        shown = [each for each in scans if "crop" not in case or (each.image > 1000).sum() == 216]
        assert shown or case == "crop middle half"
        if case not in moved:
            for each in shown:
                assert np.abs(mark_of(each) - wanted).max() < max(2.5, each.spacing_mm.max()), case
    for name in (("mirrored", "as is"), ("upside down", "flip z"), ("mirrored", "header x negated")):
        assert np.abs(mark_of(cases["pose"][name][0]) - wanted).max() > 4, name


def test_a_tilt_leaves_lengths_and_a_mirror_the_picture_of_all_planes(cases, scan):
    tilted = cases["inside"]["in scope", "header oblique 8"][0]
    reach = np.linalg.norm(scan.geometry.world(MARK))
    assert np.linalg.norm(tilted.affine[:3] @ (*MARK, 1)) == pytest.approx(reach)
    assert np.array_equal(cases["pose"]["mirrored", "as is"][0].image, scan.data[0][::-1])
    assert np.array_equal(cases["pose"]["upside down", "rot180 y-z"][0].image, scan.data[0][:, ::-1, ::-1])
    negated = cases["pose"]["mirrored", "header x negated"][0]
    assert np.array_equal(negated.image, scan.data[0])
    assert np.linalg.det(negated.affine[:3, :3]) == pytest.approx(-np.linalg.det(scan.geometry.affine[:3, :3]))


def test_slabs_hold_the_same_planes_in_another_order(cases, scan):
    for (_, case), scans in cases["slabs"].items():
        axis = {"L": 0, "A": 1, "S": 2}.get(case[-1], 2)
        sums = [
            np.sort(image.sum(axis=tuple({0, 1, 2} - {axis}), dtype=float)) for image in (scans[0].image, scan.data[0])
        ]
        permuted = len(sums[0]) == len(sums[1]) and np.allclose(sums[0], sums[1])
        assert permuted == ("noise" not in case and "thick" not in case), case


def test_bytes_have_256_levels_at_most_and_clipping_alone_leaves_more(cases):
    for (kind, case), scans in cases["grey"].items():
        levels = len(np.unique(scans[0].image))
        plain = "clip only" in case or "no rounding" in case
        if kind == "8 bit":
            assert (levels > 256) == plain, case
    for case in ("pct 0.5-99.5 uint8", "top 8 of 12 bits (>>4)"):
        assert cases["grey"]["8 bit", case][0].image.dtype == np.uint8


def test_what_is_inverted_is_dark_where_the_scan_is_bright(cases, scan):
    from attack_scans import tissue

    head = tissue(scan.data[0])
    for (kind, case), scans in cases["grey"].items():
        alike = np.corrcoef(scans[0].image[head], scan.data[0][head])[0, 1]
        assert (alike < 0) == (kind == "inverted"), case


def test_shuffled_voxels_are_the_same_ones_and_a_drowned_scan_is_still_one(cases, scan):
    shuffled = cases["noise"]["noise", "voxels shuffled"][0].image
    assert np.array_equal(np.sort(shuffled, axis=None), np.sort(scan.data[0], axis=None))
    alike = {
        name: np.corrcoef(scans[0].image.ravel(), scan.data[0].ravel())[0, 1]
        for (_, name), scans in cases["noise"].items()
        if scans[0].image.shape == SHAPE and name != "zeros"
    }
    assert abs(alike["voxels shuffled"]) < 0.05
    assert abs(alike["normal 0,1"]) < 0.05
    assert alike["scan drowned 10%"] > 0.7
    assert alike["scan drowned 60%"] < alike["scan drowned 10%"]


def test_filters_leave_less_grain_than_there_was(data, scan):
    from attack_denoised import denoised
    from attack_scans import Scan, level, random, rician, rim

    low, high = rim(scan.data[0], 0.15)
    clean = Scan(scan.data[0], scan.geometry.affine).cut(np.maximum(low - 3, 0), np.minimum(high + 3, SHAPE)).image
    clean = clean / level(clean)
    before = {"[clean]": grain(clean), "[+7%]": grain(rician(clean, 7, random("sub-54", 6)))}
    assert before["[+7%]"] > 2 * before["[clean]"]
    found = {case: grain(each.image / 500) for _, case, _, each in denoised(data, ["brain 2"])}
    assert len(found) == 40
    assert [case for case in found if found[case] > before[case.rsplit(" ", 1)[1]]] == []
    assert found["gaussian 1.5 [+7%]"] < 0.1 * before["[+7%]"]


def grain(image: np.ndarray) -> float:
    """Of the forty planes in the middle, which the slowest filter is left at."""
    middle = image.shape[2] // 2
    return float(np.abs(ndimage.laplace(image[:, :, middle - 20 : middle + 20].astype(float))).mean())


def test_cases_are_the_same_whoever_else_is_asked_for(data):
    from attack_order import slabs

    alone = [each.image for _, _, _, each in slabs(data, ["head 1"])]
    beside = [each.image for _, _, whose, each in slabs(data, ["brain 1", "head 1"]) if whose == "head 1"]
    assert len(alone) == len(beside) > 20
    assert all(map(np.array_equal, alone, beside))
    other = [each.image for _, _, whose, each in slabs(data, ["brain 1"])]
    assert not all(map(np.array_equal, alone, other))  # another seed


def test_other_contrasts_and_bodies_are_made_on_the_scan_they_are_given(scan, monkeypatch):
    import attack_bodies
    import attack_other
    from attack_scans import Scan, random, tissue

    given = Scan(scan.data[0], np.diag([-2.0, 2.0, 2.0, 1.0]))
    head = tissue(given.image)
    curves = dict(attack_other._mapped(given.image))
    assert len(curves) == 6
    alike = {name: np.corrcoef(curve[head], given.image[head])[0, 1] for name, curve in curves.items()}
    assert alike["synthetic PD (flat)"] > 0.9
    assert alike["synthetic PD fluid bright"] < -0.9
    chest = given.showing(given.image - 1000)
    made = dict(attack_other._chest(chest, random(1), whole=False))
    assert len(made) == 10
    assert made["soft window"].image.max() <= 1
    assert np.allclose(made["HU+1024 in-plane voxels x0.5"].spacing_mm, (1, 1, 2))
    assert np.allclose(dict(attack_other._like_heads(chest, random(1)))["head-sized soft"].spacing_mm, 2)
    assert attack_other._shell(given).image[20, 22, 35] == 0 < given.image[20, 22, 35]
    monkeypatch.setattr(attack_bodies, "_SHAPE", (16, 20, 16))
    models = dict(attack_bodies.models())
    assert len(models) == 7
    limb = models["limb (fat, muscle, marrow)"].image[:, 10, 8]
    assert limb[0] < 150 < limb[5] < 600 < limb[8]  # air, muscle, marrow


# --- what is counted ------------------------------------------------------------------------------------------------


def row(kind: str, case: str, person: str, score: float, number: int = 1) -> dict[str, object]:
    names = {"kind": kind, "case": case, "person": person.split(",")[0], "scan": person, "number": number}
    return names | {"score": score, "seconds": 1.0, "voxels": 8}


ROWS = [
    row("in scope", "as is", "brain 1", 0.5),
    row("in scope", "as is", "head 1", 1.5),
    row("in scope", "crop middle half", "validation brain 1", 0.7, 1),
    row("in scope", "crop middle half", "validation brain 1", 0.6, 2),
    row("in scope", "z-score", "brain 1", 9.0),
    row("mirrored", "as is", "brain 1", 2.0),
    row("mirrored", "as is", "clinical 1, study 2", 0.65),
    row("mirrored", "z-score", "head 1", 3.0),
    row("noise", "scan drowned 10%", "brain 1", 0.4),
    row("noise", "speckle", "brain 1", 5.0),
]


@pytest.fixture
def finding(tmp_path):
    import scope_attack

    (tmp_path / "scope_attack.jsonl").write_text("".join(json.dumps(each) + "\n" for each in ROWS))
    assert scope_attack.main(["report", "--out", str(tmp_path)]) == 0
    from findings import Finding

    told = json.loads((tmp_path / "scope_attack.json").read_text())["finding"]
    return Finding(told["params"], {name: dict(map(tuple, points)) for name, points in told["figures"].items()})


def test_each_score_is_kept_where_it_counts(finding, capsys):
    assert finding.figures["score/in scope/training site/crop middle half"] == {1: 0.7, 2: 0.6}
    assert finding.figures["score/in scope/elsewhere/as is"] == {1: 1.5}
    assert finding.figures["score/harsh/training site/z-score"] == {1: 9.0}
    assert finding.figures["score/mirrored/elsewhere/z-score"] == {1: 3.0}  # a rule for scans of the right kind alone
    assert "score/noise/training site/scan drowned 10" not in finding.figures
    assert finding.params["kinds"] == "mirrored; noise"
    assert finding.params["command"] == "python validation/scope_attack.py score"


def test_kinds_are_counted_against_scans_of_the_right_kind(finding):
    from scope_tables import attack, attack_alarms

    rows = {cells[0]: cells for cells in attack(finding).rows}
    assert list(rows) == ["mirrored", "noise"]
    assert rows["mirrored"][1:4] == ("3", "0.67", "0.833")  # of 12 pairs, 0.65 is above 0.5 and 0.6 alone
    assert rows["mirrored"][5:] == ("1 of 2", "as is")
    assert rows["noise"][1:4] == ("1", "1.00", "1.000")
    assert "against 4 scans" in attack(finding).note
    alarms = [cells[1:3] for cells in attack_alarms(finding).rows]
    assert alarms == [("3", "0"), ("1", "1"), ("4", "1"), ("1", "1")]


def test_cases_that_are_missed_are_named_by_how_often(finding):
    from scope_tables import _named

    assert _named([]) == ""
    assert _named(["b", "a", "a"]) == "a (2); b"
    assert _named([*"abcdefgh", "h"]) == "h (2); a; b; c; d; e; 2 more"


def test_scores_go_on_where_they_stopped_and_tell_cases_of_one_name_apart(data, tmp_path, monkeypatch):
    import scope_attack
    import scope_scores

    asked = []

    def judged(volume, card):
        asked.append(volume.shape)
        return Scope("inside", card.name, 0.5)

    monkeypatch.setattr(scope_scores, "scope_of", judged)
    words = ["score", "--data", str(data), "--out", str(tmp_path), "--parts", "inside", "--people", "brain 1"]
    assert scope_attack.main(words) == 0
    found = scope_scores.rows(tmp_path / "scope_attack.jsonl")
    assert len(asked) == len(found) == 54
    halves = [each["number"] for each in found if each["case"] == "crop middle half"]
    assert halves == [1, 2, 3]
    assert {each["person"] for each in found} == {"brain 1"}
    assert {"day", "machine", "prior"} <= set(found[0]["at"])
    assert scope_attack.main(words) == 0
    assert len(asked) == 54
    lines = (tmp_path / "scope_attack.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "scope_attack.jsonl").write_text("".join(lines[:50]))
    assert scope_attack.main(words) == 0
    again = scope_scores.rows(tmp_path / "scope_attack.jsonl")
    assert [(each["case"], each["number"]) for each in again] == [(each["case"], each["number"]) for each in found]


def test_scores_need_a_folder_of_scans(monkeypatch, capsys):
    import scope_attack

    monkeypatch.delenv("MEDIDIFF_DATA", raising=False)
    with pytest.raises(SystemExit):
        scope_attack.main(["score"])
    assert "MEDIDIFF_DATA" in capsys.readouterr().err
    assert scope_attack.main(["report", "--out", "no-such-folder"]) == 2
