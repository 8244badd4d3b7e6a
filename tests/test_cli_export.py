"""``medidiff export`` and ``medidiff verify`` as they are typed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import export_cases as cases
import pytest

import medidiff.cli as cli
from medidiff.export import FORMATS, open_data_set
from tests.cli_cases import document, refused

EXACT = [name for name in FORMATS if name != "dicom"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("sets")
    return {name: cases.written(home / name, name, shape=(7, 9, 8)) for name in FORMATS}


@pytest.mark.parametrize(
    ("source", "target"),
    [("bids", name) for name in FORMATS] + [(name, "bids") for name in EXACT[1:]],
)
def test_a_data_set_in_another_format_is_as_if_drawn_into_it(source, target, whole, tmp_path, capsys):
    found = document(["export", whole[source], tmp_path / "out", "--format", target], capsys)
    assert (found["format"], found["cases"], found["written"]) == (target, 4, 4)
    assert cases.tree(tmp_path / "out") == cases.tree(whole[target])


def test_the_default_is_bids_and_the_record_lies_beside(whole, tmp_path, capsys):
    assert cli.main(["export", str(whole["msd"]), str(tmp_path / "out")]) == 0
    assert "wrote   4 of 4 cases to out" in capsys.readouterr().out
    assert cases.tree(tmp_path / "out") == cases.tree(whole["bids"])
    lines = [json.loads(line) for line in (tmp_path / "out.record.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["start", "source", "output", "end"]
    assert lines[1]["format"] == "msd"


def test_the_same_command_goes_on(whole, tmp_path, capsys):
    writer = open_data_set(tmp_path / "out", "huggingface", cases.ABOUT)
    cases.add(writer, cases.NUMBERS[:3], shape=(7, 9, 8))
    words = ["export", whole["webdataset"], tmp_path / "out", "--format", "huggingface"]
    assert document(words, capsys)["written"] == 1
    assert cases.tree(tmp_path / "out") == cases.tree(whole["huggingface"])
    assert document(words, capsys)["written"] == 0


def test_overridden_gates_stay_overridden(tmp_path, capsys):
    writer = open_data_set(tmp_path / "in", "msd", cases.ABOUT)
    cases.add(writer, (0,))
    writer.close(None, override="a test")
    document(["export", tmp_path / "in", tmp_path / "out"], capsys)
    assert document(["verify", tmp_path / "out"], capsys)["gates"] == "overridden"


def test_a_source_that_does_not_verify_is_refused(whole, tmp_path, capsys):
    root = Path(shutil.copytree(whole["bids"], tmp_path / "in"))
    scan = root / "sub-syn000001/anat/sub-syn000001_T1w.nii.gz"
    cases.unmark(scan)
    cases.resum(root)
    said = refused(["export", root, tmp_path / "out"], capsys, 4)
    assert "E-DATASET" in said
    assert "does not say that it is synthetic" in said
    assert not (tmp_path / "out").exists()


def test_what_keeps_no_scan_exactly_is_no_source(whole, tmp_path, capsys):
    said = refused(["export", whole["dicom"], tmp_path / "out"], capsys, 4)
    assert "E-DATASET" in said
    assert not (tmp_path / "out").exists()


def test_a_patients_folder_is_no_source(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    assert "E-DATASET" in refused(["export", tmp_path / "in", tmp_path / "out"], capsys, 4)
    assert "E-MISSING" in refused(["export", tmp_path / "none", tmp_path / "out"], capsys, 4)


@pytest.mark.parametrize("place", ["bids", "bids/inside", "."])
def test_a_source_is_never_written_into(place, whole, tmp_path, capsys):
    root = Path(shutil.copytree(whole["bids"], tmp_path / "bids"))
    before = cases.tree(tmp_path)
    assert "E-OVERWRITE" in refused(["export", root, tmp_path / place, "--format", "msd"], capsys, 5)
    assert cases.tree(tmp_path) == before


def test_verify_says_that_all_is_well(whole, capsys):
    assert cli.main(["verify", str(whole["bids"])]) == 0
    assert "gates     hold" in capsys.readouterr().out
    found = document(["verify", whole["bids"]], capsys)
    assert (found["verified"], found["cases"], found["problems"]) == (True, 4, [])


def test_verify_lists_what_is_wrong_and_ends_with_4(whole, tmp_path, capsys):
    root = Path(shutil.copytree(whole["bids"], tmp_path / "in"))
    (root / "extra.txt").write_text("?")
    assert cli.main(["verify", str(root)]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert "extra.txt: no data set of this format has this file" in err
    assert "medidiff: E-DATASET: in: 3 problems" in err
    assert cli.main(["verify", str(root), "--json"]) == 4
    found = json.loads(capsys.readouterr().out)
    assert not found["verified"]
    assert {"kind": "unknown", "file": "extra.txt"} in found["problems"]
