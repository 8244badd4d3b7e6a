"""The scaling command, on a recipe small enough for every push."""

import importlib
import json
from pathlib import Path

import pytest
from training_cases import PREPARE, phantom, script, write_case

from medidiff import io

FOLDER = Path(__file__).resolve().parent.parent / "validation"


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("scaling")


@pytest.fixture
def command(tmp_path):
    sources = [{"pattern": "{subject}.nii.gz", "licence": "none", "split": "set"}]
    case = write_case(tmp_path, data={"root": "scans", "split": "split.toml", "sources": sources})
    io.write(phantom(2), tmp_path / "scans" / "third.nii.gz")
    (tmp_path / "split.toml").write_text('[set]\ntrain = ["first", "second"]\nvalidation = ["third"]\ntest = []\n')
    return [
        *("--recipe", str(case), "--data", str(tmp_path / "scans"), "--out", str(tmp_path / "out")),
        *("--images", "8", "16", "--channels", "4,12", "--batch", "2"),
    ]


def test_each_curve_has_its_runs_and_more_training_is_better(scaling, command, tmp_path):
    assert scaling.main([*command, "--subjects", "1", "--images", "4", "160"]) == 0
    found = json.loads((tmp_path / "out" / "scaling.json").read_text())
    runs = [(each["point"]["subjects"], each["point"]["channels"], each["point"]["images"]) for each in found]
    assert runs == [(2, [4, 8], 4), (2, [4, 8], 160), (2, [4, 12], 4), (1, [4, 8], 4)]
    assert found[1]["psnr_db"]["10"] > found[0]["psnr_db"]["10"] + 0.2
    assert found[2]["weights"] > found[0]["weights"]
    assert "| 1 | 4/8 |" in (tmp_path / "out" / "scaling.md").read_text()


def test_the_scans_of_a_pack_are_those_of_the_first_source(scaling, tmp_path, monkeypatch):
    """Two sources of the same weight, whose scans are told apart by their hashes."""
    one = {"pattern": "first.nii.gz", "licence": "none"}
    case = write_case(tmp_path, data={"root": "scans", "sources": [one, one | {"pattern": "second.nii.gz"}]})
    pack = tmp_path / "pack.safetensors"
    assert script(PREPARE, case, pack) == 0
    seen = []
    outcome = scaling.Outcome(scaling.Point(1, (4, 8), 8), 0, 0.0, {"3": 0.0})
    monkeypatch.setattr(
        scaling, "trained", lambda *of: seen.append([[s.sha256 for s in x] for x in of[2:4]]) or outcome
    )
    for data in (tmp_path / "scans", pack):
        command = ["--recipe", str(case), "--data", str(data), "--out", str(tmp_path / "out"), "--images", "8"]
        assert scaling.main([*command, "--channels", "--subjects"]) == 0
    assert seen[0] == seen[1]
    assert [len(scans) for scans in seen[0]] == [1, 1]


def test_more_subjects_than_there_are_are_refused(scaling, command, capsys):
    assert scaling.main([*command, "--subjects", "3"]) == 2
    assert "E-SETTING" in capsys.readouterr().err
