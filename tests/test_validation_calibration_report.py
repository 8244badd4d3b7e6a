"""Tables of the calibration: that verdicts follow from the raw figures, and from whose."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "validation"))
import calibration_figures as figures
import calibration_report as report

from medidiff.errors import InputError
from medidiff.trust import Calibration
from medidiff.trust.cases import case_to_json
from tests.trust_cases import MADE, case

LEVELS = {"n3": 0.03, "n9": 0.05, "n15": 0.1}


def raw(folder: Path, *, odd: bool = False) -> Path:
    """Four validation and six test subjects at three levels, and one test subject shifted, all invented."""
    (folder / "raw").mkdir(parents=True)
    for group, (setting, level) in enumerate(LEVELS.items()):
        for number in range(10):
            part, place = ("validation", number + 1) if number < 4 else ("test", number - 3)
            put(folder, part, str(place), setting, case(number, group=group, level=level))
    put(folder, "test", "1", "n9-gamma", case(4, group=1, level=0.05, gamma=2.2))
    lesion = case(5, group=1, level=0.05)
    curve = [float(v) for v in lesion.tally.outside[1]]
    put(folder, "test", "2", "n9-lesions", lesion, {"5": {"voxels": 40, "outside": curve}})
    put(folder, "foreign", "elsewhere-test-T2w-1", "n9", case(50, group=1, level=0.05, gamma=2.5))
    return folder


def put(folder, part, name, setting, one, lesions=None):
    told = {"spearman": 0.5 if part == "test" else 0.1, "spearman_4_mm": 0.6, "spearman_8_mm": 0.7}
    told |= {"rms_error": 0.02, "rms_expected": 0.02, "bias": 0.0}
    held = {"part": part, "name": name, "setting": {"name": setting}, "crop": 0, "case": json.loads(case_to_json(one))}
    held |= {"made": asdict(MADE), "figures": told, "lesions": lesions or {}, "seconds": 1.0, "device": "cpu"}
    (folder / "raw" / f"{part}-{name}-{setting}.json").write_text(json.dumps(held))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return raw(tmp_path_factory.mktemp("figures") / "run")


@pytest.fixture(scope="module")
def records(folder):
    return figures.load(folder)


def test_resplits_leave_each_subject_out(records):
    found = figures.coverage(records, ["n9"])
    assert len(found) == figures.RESPLITS
    assert len(set(found)) <= 10
    assert np.mean(found) == pytest.approx(0.9 + 0.1 / 9, abs=0.02)
    assert np.mean(figures.coverage(records, ["n9"], cap=1.0)) > 0.97
    assert len(set(figures.coverage(records, list(LEVELS)))) > 20
    assert figures.coverage(records, ["n9"], hold=2) is None  # eight are too few


def test_factors_are_of_validation_subjects_and_judged_on_test_subjects(records):
    before = figures.standardised(records, "n9")
    assert np.mean(before["after"]) == pytest.approx(1, abs=0.15)
    assert len(before["bins"]) == 8
    none = [each for each in records if each.part != "validation"]
    assert figures.standardised(none, "n9") is None


def test_claims_are_made_for_the_same_site_and_not_for_another(records):
    found = figures.flags(records)
    own = [row["claimed"] for row in found if row["setting"] in LEVELS and not row["subject"].startswith("foreign")]
    assert len(own) == 30
    assert np.mean(own) >= 0.9
    assert not any(row["claimed"] for row in found if "gamma" in row["setting"] or row["subject"].startswith("foreign"))


def test_the_bundled_calibration_is_judged_on_everybody_but_its_own_subjects(records):
    rows = figures.bundled(records)
    assert {row["subject"].split("-")[0] for row in rows} == {"test", "foreign"}
    own = [row for row in rows if row["setting"] in LEVELS and row["subject"].startswith("test")]
    assert len(own) == 6 * len(LEVELS)
    assert np.mean([row["claimed"] for row in own]) > 0.8
    assert not any(row["claimed"] for row in rows if row["subject"].startswith("foreign"))
    few = [record for record in records if record.subject != "validation-1"]
    assert figures.bundled(few) == []


def test_a_subject_is_judged_without_itself(records):
    """The negative of leaving out: a calibration that holds a subject is another one."""
    without = figures.fitted(records, "denoise", without="test-1")
    assert without.patients == 9
    assert figures.fitted(records, "denoise") != without


def test_lesions_are_judged_by_the_others(records):
    found = figures.lesions(records, "n9")
    assert found["5"][1] == 40
    assert 0.8 < found["5"][0] <= 1


def test_the_page_has_every_table_and_says_what_was_missed(folder, capsys):
    assert report.main([str(folder)]) == 0
    page = (folder / "calibration.md").read_text()
    assert page in capsys.readouterr().out
    for word in ("n15", "denoise, any level", "n9-gamma", "elsewhere-test-T2w, n9", "held"):
        assert word in page
    assert (folder / "calibration.png").read_bytes().startswith(b"\x89PNG")
    kept = json.loads((folder / "calibration.json").read_text())["finding"]
    wanted = {"spearman/n9", "coverage/n9 1 mm", "bins/n3", "claimed/n9-gamma", "in_lesions/n9 5 mm"}
    assert wanted <= kept["figures"].keys()


def test_what_is_missed_is_said(folder, tmp_path):
    for path in (folder / "raw").iterdir():
        held = json.loads(path.read_text())
        held["figures"]["spearman"] = 0.2
        squares = held["case"]["tally"]["squares"]
        squares[1] = [(4 if held["part"] == "test" else 1) * v for v in squares[1]]
        (tmp_path / "raw").mkdir(exist_ok=True)
        (tmp_path / "raw" / path.name).write_text(json.dumps(held))
    report.main([str(tmp_path)])
    rows = [line for line in (tmp_path / "calibration.md").read_text().splitlines() if line.startswith("| n9 ")]
    assert rows[0].count("**missed**") == 3


def test_the_calibration_that_ships_is_of_validation_subjects(folder, tmp_path, capsys):
    out = tmp_path / "c.json"
    assert report.main([str(folder), "--write", str(out)]) == 0
    held = Calibration.from_json(out.read_text())
    assert (held.patients, held.share) == (4, 0.8)
    assert report.main([str(folder), "--write", str(out), "--share", "0.9"]) == 2
    assert "at least 9" in capsys.readouterr().err


def test_raw_figures_of_two_ways_do_not_mix(folder, tmp_path):
    (tmp_path / "raw").mkdir()
    for number, path in enumerate(sorted((folder / "raw").iterdir())[:2]):
        held = json.loads(path.read_text())
        held["made"]["draws"] += number
        (tmp_path / "raw" / path.name).write_text(json.dumps(held))
    with pytest.raises(InputError, match=r"E-DATA.*2 ways"):
        figures.load(tmp_path)
    with pytest.raises(InputError, match="E-DATA"):
        figures.load(tmp_path / "raw")
