"""The measuring command: what it does to whom, that it goes on where it stopped, and what its files hold."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "validation"))
import calibration as command
from scoring import Truth

from medidiff.io import write
from medidiff.trust.cases import case_from_json
from medidiff.volume import Geometry, Volume
from tests.small_prior import small_prior


def head(seed: int, shape=(28, 26, 24)) -> Volume:
    rng = np.random.default_rng(seed)
    ball = sum(axis**2 for axis in np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")) < 0.8
    return Volume((ball * (500 + 200 * rng.random(shape))).astype(np.float32), Geometry.regular(shape), "MR")


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Two validation and two test subjects, and the small prior."""
    home = tmp_path_factory.mktemp("calibration")
    data = home / "data" / "t1-ds002748"
    data.mkdir(parents=True)
    for number in range(1, 5):
        write(head(number), data / f"sub-{number:02d}_T1w.nii.gz")
    split = home / "split.toml"
    split.write_text('[t1-ds002748]\ntrain=[]\nvalidation=["sub-01","sub-02"]\ntest=["sub-03","sub-04"]\n')
    card = small_prior().save(home)
    words = ["--data", home / "data", "--split", split, "--out", home / "out", "--prior", card, "--device", "cpu"]
    words += ["--draws", "2", "--steps", "1", "--parts", "validation", "test"]
    words += ["--settings", "n9", "f3", "n9-lesions", "n9-told"]
    return command.parser().parse_args([str(word) for word in words])


@pytest.fixture(scope="module")
def raw(options, monkeypatch_module) -> Path:
    monkeypatch_module.setattr(command, "_FOREIGN", ())
    assert "12 measured" in command.run(options)
    return options.out / "raw"


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_every_subject_is_measured_at_every_setting_once(raw, options):
    names = sorted(path.stem for path in raw.iterdir())
    assert len(names) == 12
    assert {"validation-1-n9", "validation-2-f3", "test-1-n9-lesions", "test-2-n9-told"} <= set(names)
    assert not [name for name in names if name.startswith("validation") and name.count("-") > 2]


def test_what_is_there_is_not_made_again(raw, options):
    place = raw / "test-1-n9.json"
    before, others = place.read_text(), {path: path.stat().st_mtime_ns for path in raw.iterdir() if path != place}
    place.unlink()
    assert "1 measured" in command.run(options)
    again = json.loads(place.read_text())
    assert again["case"] == json.loads(before)["case"]
    assert {path: path.stat().st_mtime_ns for path in raw.iterdir() if path != place} == others


def test_a_file_holds_what_a_calibration_needs(raw):
    for path in raw.iterdir():
        held = json.loads(path.read_text())
        case = case_from_json(json.dumps(held["case"]))
        assert set(case.seen.signs) == {"residual", "correlation", "spread", "contrast", "middle", "sharpness"}
        assert 1 in case.tally.outside
        assert held["made"]["draws"] == 2
        assert "sub-" not in path.read_text()
    lesions = json.loads((raw / "test-1-n9-lesions.json").read_text())["lesions"]
    assert lesions
    assert all(each["voxels"] > 0 and len(each["outside"]) == 1024 for each in lesions.values())


def test_a_wrong_level_is_told_and_no_other(raw):
    noise = {
        name: json.loads((raw / f"test-1-{name}.json").read_text())["case"]["seen"]["noise"]
        for name in ("n9", "n9-told")
    }
    assert noise["n9-told"] / noise["n9"] == pytest.approx(0.7, rel=0.02)


def test_thick_slices_have_a_noise_of_their_own(raw):
    noise = [
        json.loads((raw / f"{name}-f3.json").read_text())["case"]["seen"]["noise"]
        for name in ("test-1", "test-2", "validation-1")
    ]
    assert len(set(noise)) == 3
    assert all(0.009 < each < 0.022 for each in noise)


def test_changes_are_made_to_the_truth():
    image = np.clip(head(0).data[0] / 700, 0, 1).astype(np.float32)
    reference = Truth(image, image > 0, Geometry.regular(image.shape))
    for change in ("gamma", "blur", "bias"):
        assert np.abs(command.changed(reference, change) - image).max() > 0.05
    assert command.changed(reference, "") is image
    marked, filled = command.with_lesions(reference, 1)
    where = np.logical_or.reduce(list(filled.values()))
    assert np.abs(marked - image)[where].min() > 0.04
    assert np.abs(marked - image)[~where].max() < 0.25


@pytest.mark.parametrize("broken", [["--workers", "0"], ["--draws", "1"], ["--crop", "-1"]])
def test_options_out_of_range_are_refused(broken, capsys, tmp_path):
    assert command.main(["--out", str(tmp_path), *broken]) == 2
    assert "E-SETTING" in capsys.readouterr().err
