"""`medidiff calibrate`, and `--intervals` of denoise and superresolve: from clean scans to bounds that are claimed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import medidiff.cli as cli
import medidiff.cli.calibrate as command
import medidiff.trust.scope as judging
from medidiff.calibrating import degraded
from medidiff.cli.intervals import read_calibration
from medidiff.io import read, write
from medidiff.prior import Prior
from medidiff.trust import Calibration
from medidiff.trust.reference import Limits
from medidiff.volume import Geometry
from tests.cli_cases import ball, document, everything, refused
from tests.scope_heads import shipped

FAST = ["--draws", 2, "--steps", 1, "--share", 0.8]


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    home = tmp_path_factory.mktemp("patients")
    return [write(ball(seed=seed, noise=0.02), home / f"Doe^Jane-{seed}.nii.gz")[0] for seed in range(4)]


@pytest.fixture(scope="module")
def noisy(patients):
    """The degraded partner of each patient, as if measured."""
    found = []
    for number, path in enumerate(patients):
        worse = degraded(read(path), noise=0.05, seed=number).scan
        found.append(write(worse, path.with_name(f"noisy-{number}.nii.gz"))[0])
    return found


@pytest.fixture(scope="module")
def fitted(patients, card, tmp_path_factory):
    """A calibration for denoising at 4 to 6 % noise."""
    out = tmp_path_factory.mktemp("fitted") / "c.json"
    words = [*patients, "-o", out, "--prior", card, "--noise-percent", 4, 6, *FAST]
    assert cli.main(["calibrate", *map(str, words)]) == 0
    return out


def test_a_calibration_is_made_of_clean_scans_and_names_nobody(fitted, patients):
    held = Calibration.from_json(fitted.read_text())
    assert (held.patients, held.share, held.origin, held.made.draws) == (4, 0.8, "degraded", 2)
    assert held.noise == pytest.approx((0.04, 0.06), rel=0.1)
    assert len(held.nodes) == 2
    beside = "".join(path.read_text() for path in fitted.parent.iterdir())
    assert "Doe" not in beside
    assert sorted(path.name for path in fitted.parent.iterdir()) == ["c.json", "c.json.record.jsonl"]


def test_its_intervals_are_written_and_claimed(fitted, noisy, card, tmp_path, capsys):
    low, high, mean = (tmp_path / f"{name}.nii.gz" for name in ("low", "high", "mean"))
    words = ["--prior", card, "--intervals", fitted, low, high]
    told = document(["denoise", noisy[0], mean, *words], capsys)
    assert set(told["files"]) == {"mean", "lower", "upper"}
    assert told["intervals"]["claimed"] is True, told["intervals"]
    settings = told["provenance"]["settings"]
    assert (settings["draws"], settings["steps"]) == (2, 1)  # the calibration's
    lower, middle, upper = (read(path).data for path in (low, mean, high))
    assert ((lower < middle) & (middle < upper)).all()
    assert any("lies between the bounds" in each for each in told["provenance"]["decisions"])


def test_a_shifted_scan_is_written_and_not_claimed(fitted, noisy, card, tmp_path, capsys):
    shifted = read(noisy[0])
    odd = write(shifted.with_data(np.sqrt(np.abs(shifted.data))), tmp_path / "odd.nii.gz")[0]
    words = ["--prior", card, "--steps", 1, "--intervals", fitted, tmp_path / "l.nii", tmp_path / "u.nii"]
    assert cli.main([str(word) for word in ["denoise", odd, tmp_path / "m.nii", *words]]) == 0
    assert "NOT claimed" in capsys.readouterr().err
    beside = json.loads((tmp_path / "l.json").read_text())["Provenance"]
    assert any("NOT claimed" in each for each in beside["decisions"])


def test_a_scan_out_of_scope_is_not_claimed(fitted, noisy, card, tmp_path, capsys, monkeypatch):
    """It has the signs of the calibration's patients, and is claimed where its scope is not judged (above)."""
    limits = {"tissue": Limits(4.0, low=3.5)}
    strange = dataclasses.replace(shipped(), prior="tiny", limits=limits)
    monkeypatch.setattr(judging, "reference_for", lambda card: strange)
    words = ["--prior", card, "--steps", 1, "--intervals", fitted, tmp_path / "l.nii", tmp_path / "u.nii", "--json"]
    assert cli.main([str(word) for word in ["denoise", noisy[0], tmp_path / "m.nii", *words]]) == 3
    told = json.loads(capsys.readouterr().out)["intervals"]
    assert told["claimed"] is False
    assert told["reasons"] == ["out of the scope of the prior, as 0 of the 4 calibration patients were"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--draws", "3"], "draws 3"),
        (["--steps", "2"], "steps 2"),
        (["--noise", "gaussian"], "noise gaussian"),
        (["--interval", "0.9", "a.nii", "b.nii"], "--interval together with --intervals"),
    ],
)
def test_a_calibration_for_other_answers_is_refused_before_any_work(fitted, noisy, card, tmp_path, capsys, words, says):
    base = ["denoise", noisy[0], tmp_path / "m.nii", "--prior", card]
    steps = [] if "--steps" in words else ["--steps", 1]
    bounds = ["--intervals", fitted, tmp_path / "l.nii", tmp_path / "u.nii"]
    assert says in refused([*base, *steps, *bounds, *words], capsys, code=2)
    assert not list(tmp_path.glob("*.nii"))


def test_a_calibration_for_another_task_or_of_nothing_is_refused(fitted, noisy, card, tmp_path, capsys):
    bounds = [tmp_path / "l.nii", tmp_path / "u.nii"]
    words = ["superresolve", noisy[0], tmp_path / "m.nii", "--spacing", 0.9, 1.1, 1, "--prior", card, "--steps", 1]
    assert "task superresolve" in refused([*words, "--intervals", fitted, *bounds], capsys, code=2)
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    for file in (broken, tmp_path / "none.json"):
        words = ["denoise", noisy[0], tmp_path / "m.nii", "--prior", card, "--intervals", file, *bounds]
        assert "E-CALIBRATION" in refused(words, capsys, code=2)
    words[words.index(tmp_path / "none.json")] = "bundle"
    assert "with the word bundled" in refused(words, capsys, code=2)


def test_measured_pairs_make_one_too(patients, noisy, card, tmp_path, capsys):
    out = tmp_path / "pairs.json"
    told = document(["calibrate", *patients, "--degraded", *noisy, "-o", out, "--prior", card, *FAST], capsys)
    assert told["calibration"]["origin"] == "pairs"
    assert len(told["calibration"]["nodes"]) == 1
    assert Calibration.from_json(out.read_text()).patients == 4


def test_thick_slices_make_one_for_superresolve(patients, card, tmp_path, capsys):
    words = ["--task", "superresolve", "--factors", 2, 3, "-o", tmp_path / "s.json", "--prior", card, *FAST]
    held = document(["calibrate", *patients, *words], capsys)["calibration"]
    assert [node["thickness"] for node in held["nodes"]] == pytest.approx([2, 3])
    assert held["made"]["task"] == "superresolve"
    assert 0.009 < held["noise"][0] < held["noise"][1] < 0.022


def test_a_run_that_was_broken_off_goes_on(patients, card, tmp_path, monkeypatch, fitted):
    out, answered, done = tmp_path / "c.json", command.answered, []

    def counted(*args, **more):
        done.append(1)
        if len(done) == 6:
            raise KeyboardInterrupt
        return answered(*args, **more)

    monkeypatch.setattr(command, "answered", counted)
    words = ["calibrate", *map(str, patients), "-o", str(out), "--prior", card, "--noise-percent", "4", "6"]
    words += [str(word) for word in FAST]
    assert cli.main(words) == 130
    kept = tmp_path / "c.json.cases.jsonl"
    assert kept.read_text().count("\n") == 1 + 5
    kept.write_text(kept.read_text()[:-30])  # killed in the middle of a line
    assert cli.main(words) == 0
    assert len(done) == 6 + 4  # the broken one, and the four that were not done
    assert not kept.exists()
    assert out.read_text() == fitted.read_text()


@pytest.fixture
def asked(monkeypatch):
    """The answers that were asked for; the user breaks off at the second."""
    answered, done = command.answered, []

    def stopped(*args, **more):
        done.append(1)
        if len(done) == 2:
            raise KeyboardInterrupt
        return answered(*args, **more)

    monkeypatch.setattr(command, "answered", stopped)
    return done


def test_cases_of_other_settings_are_not_taken(patients, card, tmp_path, asked):
    """The negative: what was done for another seed is done anew."""
    words = ["calibrate", *map(str, patients), "-o", str(tmp_path / "c.json"), "--prior", card, "--noise-percent", "5"]
    words += [str(word) for word in FAST]
    assert cli.main(words) == 130
    assert cli.main([*words, "--seed", "1"]) == 0
    assert len(asked) == 2 + 4


def test_cases_of_another_header_are_not_taken(patients, card, tmp_path, asked):
    """The voxels are the same, their size was corrected in the meantime."""
    own = [write(read(path), tmp_path / f"{number}.nii.gz")[0] for number, path in enumerate(patients)]
    words = ["calibrate", *map(str, own), "-o", str(tmp_path / "c.json"), "--prior", card, "--noise-percent", "5"]
    words += [str(word) for word in FAST]
    assert cli.main(words) == 130
    for path in own:
        scan = read(path)
        larger = Geometry(scan.shape, scan.geometry.affine @ np.diag((1.1, 1.1, 1.1, 1)))
        write(dataclasses.replace(scan, geometry=larger), path)
    assert cli.main(words) == 0
    assert len(asked) == 2 + 4


def test_a_dry_run_tells_the_work_and_writes_nothing(patients, card, tmp_path, capsys):
    words = ["calibrate", *patients, "-o", tmp_path / "c.json", "--prior", card, *FAST, "--dry-run"]
    plan = document(words, capsys)["plan"]
    assert (plan["patients"], plan["answers"], plan["evaluations"]) == (4, 12, 3)
    assert cli.main([str(word) for word in words]) == 0
    assert "3 % noise; 9 % noise; 15 % noise" in capsys.readouterr().out
    assert everything(tmp_path) == {}


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (["--share", 0.9], 2, "4 patients for a share of 0.9 (wanted: at least 9)"),
        (["--share", 1.5], 2, "--share"),
        (["--draws", 0], 2, "--draws"),
        (["--noise-percent", 0], 2, "--noise-percent"),
        (["--factors", 2], 2, "--factors"),
        (["--task", "superresolve", "--factors", 1], 2, "--factors"),
        (["--degraded", "a.nii"], 2, "1 degraded scans"),
        (["--out", "c.txt"], 2, "E-OUTFORMAT"),
        (["--prior", "none"], 6, "E-PRIOR"),
    ],
)
def test_what_would_end_badly_is_refused_at_once(patients, card, tmp_path, capsys, monkeypatch, change, code, says):
    monkeypatch.chdir(tmp_path)
    words = ["calibrate", *patients, "-o", "c.json", "--prior", card, "--share", 0.8, *change]
    assert says in refused(words, capsys, code=code)


def test_a_patient_counts_once_and_pairs_lie_on_one_grid(patients, noisy, card, tmp_path, capsys):
    out = ["-o", tmp_path / "c.json", "--prior", card, *FAST]
    assert "the same scan twice" in refused(["calibrate", *patients[:3], patients[0], *out], capsys, code=2)
    copy = write(read(patients[0]), tmp_path / "another name.nii")[0]  # other bytes, the same voxels
    assert "the same scan twice" in refused(["calibrate", *patients[:3], copy, *out], capsys, code=2)
    whole = read(patients[0])
    whole = whole.with_data(np.round(4 * whole.data).astype(np.int16))
    copy = write(whole, tmp_path / "in whole numbers.nii.gz")[0]  # other voxels, the same patient
    assert "the same scan twice, as numbers 1 and 4" in refused(
        ["calibrate", *patients[:3], copy, *out], capsys, code=2
    )
    pairs = ["--degraded", *noisy[:3], noisy[0]]
    assert "the same scan twice" in refused(["calibrate", *patients, *pairs, *out], capsys, code=2)
    coarse = write(degraded(read(patients[0]), noise=0.05, factor=2, seed=0).scan, tmp_path / "coarse.nii.gz")[0]
    line = refused(["calibrate", *patients, "--degraded", coarse, *noisy[1:], *out], capsys, code=4)
    assert "E-GRID" in line
    assert "Doe^Jane-0.nii.gz" in line


def test_only_a_calibration_is_replaced(patients, card, tmp_path, capsys, fitted):
    out = tmp_path / "c.json"
    words = ["calibrate", *patients, "-o", out, "--prior", card, *FAST, "--dry-run"]
    for foreign in ('{"my": "notes"}', "no JSON"):
        out.write_text(foreign)
        assert "E-OVERWRITE" in refused(words, capsys, code=5)
        assert out.read_text() == foreign
    for own in (fitted.read_text(), fitted.read_text().replace('"format": 3', '"format": 1'), ""):
        out.write_text(own)
        assert cli.main([str(word) for word in words]) == 0


def test_a_run_with_intervals_is_replayed_with_its_calibration(fitted, noisy, card, tmp_path, capsys):
    low, high, mean = (tmp_path / f"{name}.nii.gz" for name in ("low", "high", "mean"))
    words = ["denoise", noisy[0], mean, "--prior", card, "--steps", 1, "--intervals", fitted, low, high]
    document(words, capsys)
    again = ["replay", tmp_path / "mean.record.jsonl", "--input", noisy[0], "--prior", card]
    assert "--calibration" in refused([*again, "-o", tmp_path / "one"], capsys, code=2)
    told = document([*again, "-o", tmp_path / "two", "--calibration", fitted], capsys)
    assert told["files"] == 6  # three scans, each with its record


@pytest.mark.parametrize(("task", "levels"), [("denoise", 5), ("superresolve", 3)])
def test_the_bundled_calibration_is_for_the_bundled_prior_and_its_scans(task, levels):
    held = read_calibration(Path("bundled"), task=task)
    card = Prior.load("fine-t1").card
    assert (held.made.prior, held.made.prior_sha256, held.made.task) == (card.name, card.weights_sha256, task)
    assert (held.patients, held.share, held.outside, held.origin) == (4, 0.8, 0, "degraded")
    assert (held.lawless, held.contradicted) == (0, 0)
    assert len(held.nodes) == levels
    assert [low for low, _ in held.spacing_mm] == pytest.approx([0.868, 0.868, 1.0], abs=0.01)


def test_the_bundled_calibration_makes_bounds_and_claims_nothing_of_another_kind_of_scan(noisy, tmp_path, capsys):
    low, high, mean = (tmp_path / f"{name}.nii.gz" for name in ("low", "high", "mean"))
    words = ["denoise", noisy[0], mean, "--noise-level", "50", "--intervals", "bundled", low, high, "--json"]
    assert cli.main([str(word) for word in words]) in (0, 3)
    told = json.loads(capsys.readouterr().out)
    assert told["intervals"]["claimed"] is False
    settings = told["provenance"]["settings"]
    assert (settings["draws"], settings["steps"]) == (4, 2)
    assert (read(low).data <= read(high).data).all()
