"""`medidiff qc` and `--report` at the command line."""

from __future__ import annotations

import dataclasses
import json

import pytest

import medidiff.cli as cli
from medidiff.io import read, write
from medidiff.io.files.names import safe_label
from medidiff.qc import case_report
from medidiff.volume import Geometry, Provenance, Volume
from tests import dicom_cases, planted
from tests.cli_cases import document, everything, refused
from tests.qc_cases import HOSTILE, Reader, pair


@pytest.fixture
def files(tmp_path):
    """A scan and its result, with the record of how it was made."""
    before, after = pair()
    made = Provenance("denoise", "0.1.0", ("ab" * 32,), {"noise": "gaussian", "noise_level": 40.0}, {"name": "p-17"})
    write(before, tmp_path / "scan.nii.gz")
    write(after, tmp_path / "clean.nii.gz", provenance=made)
    return tmp_path / "scan.nii.gz", tmp_path / "clean.nii.gz"


def test_two_scans_that_do_not_fit_are_named(files, tmp_path, capsys):
    before, _ = pair()
    affine = before.geometry.affine.copy()
    affine[:3, 3] += 500
    write(Volume(before.data, Geometry(before.shape, affine), "MR"), tmp_path / "far.nii.gz")
    said = refused(["qc", files[0], tmp_path / "far.nii.gz", "-o", tmp_path / "page.html"], capsys, code=4)
    assert "E-GRID: scan.nii.gz and far.nii.gz: two scans that lie apart" in said


def test_a_pair_of_files_becomes_a_page(files, tmp_path, capsys):
    told = document(["qc", *files, "-o", tmp_path / "page.html"], capsys)
    page = (tmp_path / "page.html").read_text("utf-8")
    assert told["flags"] == []
    assert told["checks"]["removed"]["state"] == "ok"
    assert told["noise_before"] == pytest.approx(40, rel=0.1)
    assert "p-17" in page
    assert "scan.nii.gz" in page
    again = tmp_path / "again.html"
    assert cli.main(["qc", *map(str, files), "-o", str(again)]) == 0
    assert again.read_text("utf-8") == page
    assert "flags" in capsys.readouterr().out


def test_a_spread_of_another_grid_is_refused(files, tmp_path, capsys):
    scan, clean = files
    whole = read(clean)
    affine = whole.geometry.affine.copy()
    affine[0, 3] += 50
    moved = dataclasses.replace(whole, geometry=Geometry(whole.shape, affine))
    smaller = Volume(whole.data[0, :-2], Geometry((whole.shape[0] - 2, *whole.shape[1:]), whole.geometry.affine), "MR")
    for number, spread in enumerate((moved, smaller)):
        path = write(spread, tmp_path / f"spread{number}.nii.gz")[0]
        words = ["qc", scan, clean, "-o", tmp_path / "page.html", "--spread", path]
        assert "spread" in refused(words, capsys, 4)
    assert not (tmp_path / "page.html").exists()


def test_a_flag_is_said_on_stderr_and_a_spread_is_shown(files, tmp_path, capsys):
    scan, clean = files
    words = ["qc", scan, scan, "-o", tmp_path / "page.html", "--spread", clean, "--neurological"]
    assert cli.main([str(word) for word in words]) == 0
    assert "Noise that is left: 1" in capsys.readouterr().err
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "Neurological" in page
    assert len(Reader(page).pictures("spread")) == 3
    assert "how it was made is not known" not in page  # the record of a conversion lies beside the scan


def test_denoise_writes_a_report_with_its_result(ball_file, card, tmp_path, capsys):
    page = tmp_path / "new" / "page.html"
    words = ["denoise", ball_file, tmp_path / "out.nii.gz", "--noise-level", 50, "--prior", card, "--report", page]
    told = document([*words, "--draws", 2, "--steps", 1], capsys)
    assert told["files"]["report"] == str(page)
    first = page.read_text("utf-8")
    assert told["provenance"]["prior"]["sha256"] in first
    assert told["provenance"]["inputs"][0] in first
    assert "standard deviation of 2 draws" in first
    lines = [json.loads(line) for line in (tmp_path / "out.record.jsonl").read_text().splitlines()]
    assert safe_label("page.html") in {line.get("file") for line in lines if line["kind"] == "output"}
    document([*words, "--draws", 2, "--steps", 1], capsys)
    assert page.read_text("utf-8") == first


def test_superresolve_reports_how_its_scan_sees_the_result(ball_file, card, tmp_path, capsys):
    page = tmp_path / "page.html"
    words = ["superresolve", ball_file, tmp_path / "o.nii", "--spacing", 0.9, 1.1, 1, "--prior", card, "--report", page]
    document(words, capsys)
    text = page.read_text("utf-8")
    assert "interpolated to the grid of the result" in text
    assert 'id="check-agreement"' in text
    assert 'id="check-structure"' not in text


def test_a_plan_names_the_report_and_does_not_write_it(ball_file, card, tmp_path, capsys):
    before = everything(tmp_path)
    page = tmp_path / "page.html"
    words = ["denoise", ball_file, tmp_path / "o.nii", "--prior", card, "--report", page, "--dry-run"]
    assert document(words, capsys)["files"]["report"] == str(page)
    assert everything(tmp_path) == before


def test_a_report_that_cannot_be_written_is_refused_before_the_work(ball_file, card, tmp_path, capsys):
    (tmp_path / "folder.html").mkdir()
    before = everything(tmp_path)
    words = ["denoise", ball_file, tmp_path / "o.nii", "--prior", card, "--report"]
    assert "E-OUTFORMAT" in refused([*words, tmp_path / "page.pdf"], capsys, 2)
    assert "E-OUT:" in refused([*words, tmp_path / "folder.html"], capsys, 5)
    assert "E-OUTFORMAT" in refused(["qc", ball_file, ball_file, "-o", tmp_path / "page"], capsys, 2)
    for paths in ([ball_file], [ball_file] * 3):
        assert f"E-USAGE: {len(paths)} paths" in refused(["qc", *paths, "-o", tmp_path / "page.html"], capsys, 2)
    assert {name: text for name, text in everything(tmp_path).items() if "record" not in name} == before


def test_a_derived_series_brings_its_record_along(card, tmp_path):
    (tmp_path / "series").mkdir()
    dicom_cases.series(tmp_path / "series", modality="MR")
    words = ["denoise", tmp_path / "series", tmp_path / "derived", "--noise-level", 50, "--prior", card]
    assert cli.main([str(word) for word in words]) == 0
    assert cli.main(["qc", *map(str, (tmp_path / "series", tmp_path / "derived")), "-o", str(tmp_path / "p.html")]) == 0
    page = (tmp_path / "p.html").read_text("utf-8")
    assert "how it was made is not known" not in page
    assert "tiny" in page


def test_a_foreign_record_is_not_believed(files, tmp_path, capsys):
    scan, clean = files
    record = json.loads((tmp_path / "clean.json").read_text())
    for changed in (record | {"GeneratedBy": [{"Name": HOSTILE}]}, record | {"Provenance": {"task": HOSTILE}}):
        (tmp_path / "clean.json").write_text(json.dumps(changed))
        document(["qc", scan, clean, "-o", tmp_path / "page.html"], capsys)
        assert "how it was made is not known" in (tmp_path / "page.html").read_text("utf-8")


def test_the_search_for_identifiers_would_find_one_in_a_page():
    page = case_report(*pair(), name="PLANTMANN^Hildegard").page
    assert planted.found_in(page.encode(), ["PLANTMANN"]) == ["PLANTMANN"]
