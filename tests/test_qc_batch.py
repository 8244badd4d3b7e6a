"""`medidiff qc OUTPUT` of a batch: every case has a row, every finished one a report that is made once."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medidiff.batch.cases import Case
from medidiff.batch.job import Batch, Job
from medidiff.batch.journal import Event, Journal, Tail, seconds_of
from medidiff.batch.records import Basis, Done, Refused
from medidiff.io import write
from medidiff.volume import Provenance
from tests.cli_cases import document, refused
from tests.qc_cases import LEVEL, Reader, pair

PATIENT = "Doe Jane 1970-01-31"
BASIS = Basis("ab" * 32, "cd" * 32, "fine-t1", "ef" * 32)


def finished(batch, name, image, spread=None):
    """Put down a case as done with this answer."""
    _, after = pair()
    made = Provenance("denoise", "0.1.0", ("ab" * 32,), {"noise": "gaussian", "noise_level": LEVEL, "draws": 4})
    answer = after.with_data(image[None])
    files = write(answer, batch.root / f"{name}_denoised.nii.gz", provenance=made)
    results = {"mean": files[0].name}
    if spread is not None:
        results["spread"] = write(after.with_data(spread[None]), batch.root / f"{name}_spread.nii.gz")[0].name
    hashes = {file.name: "00" * 32 for file in files}
    batch.records.put(Done(name, BASIS, results, hashes, {"noise_level": LEVEL, "n": float(image.mean())}))


@pytest.fixture
def batch(tmp_path):
    """Two finished cases, the second brighter than its scan; one refused, one waiting."""
    before, after = pair()
    scan = write(before, tmp_path / PATIENT / "scan.nii.gz")[0]
    out = tmp_path / "out"
    cases = [Case(f"scan-{n}", str(scan), 0, f"scan-{n}_{{kind}}") for n in range(4)]
    batch = Batch.begin(
        out, Job("denoise", str(scan.parent), {"on_nan": "error", "modality": None}, {}, 0), lambda: cases
    )
    finished(batch, "scan-0", after.data[0], spread=np.abs(after.data[0]) / 100)
    finished(batch, "scan-1", after.data[0] * np.float32(1.1))
    batch.records.put(Refused("scan-2", BASIS, "E-GAP", "E-GAP: 5 mm apart. Fetch it.", "Fetch it."))
    journal = Journal(batch.folder / "journal", 1)
    for number, seconds in ((0, 3.0), (0, 4.5), (1, 7.0)):
        journal.put(Event(f"scan-{number}", "done", "", seconds, 100.0 + seconds))
    journal.put(Event("scan-0", "kept", "", 0.1, 900.0))
    return batch


def page_of(batch, capsys, *extra):
    told = document(["qc", batch.root, "-o", batch.root / "index.html", *extra], capsys)
    return told, Reader((batch.root / "index.html").read_text("utf-8"))


def test_every_case_has_a_row(batch, capsys):
    told, read = page_of(batch, capsys)
    assert told["states"] == {"done": 2, "refused": 1, "waiting": 1}
    text = " ".join(" ".join(read.texts).split())
    for word in ("scan-0", "4.5", "40", "E-GAP", "5 mm apart. Fetch it.", "not checked", "○ waiting"):
        assert word in text
    assert text.count("Fetch it.") == 1
    assert read.values("href") == []


def test_each_finished_case_gets_a_report_and_the_flags_of_it(batch, capsys):
    told, read = page_of(batch, capsys, "--cases", batch.root / "qc")
    assert told["flagged"] == 1
    assert read.values("href") == ["qc/scan-0.html", "qc/scan-1.html"]
    assert "brightness" in " ".join(read.texts)
    first = Reader((batch.root / "qc" / "scan-0.html").read_text("utf-8"))
    assert len(first.pictures("spread")) == 3
    assert Reader((batch.root / "qc" / "scan-1.html").read_text("utf-8")).pictures("spread") == []


def test_no_page_names_who_the_scans_are_of(batch, capsys):
    page_of(batch, capsys, "--cases", batch.root / "qc")
    pages = sorted(batch.root.rglob("*.html"))
    assert len(pages) == 3
    for page in pages:
        assert not {"Doe", "Jane", "1970"} & set(page.read_text("utf-8").replace(",", " ").split())
    assert PATIENT in (batch.folder / "manifest.jsonl").read_text()  # so there was something to keep back


def test_a_report_is_made_again_only_when_its_case_or_its_page_has_changed(batch, capsys):
    folder = batch.root / "qc"
    page_of(batch, capsys, "--cases", folder)
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    page_of(batch, capsys, "--cases", folder)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == times
    finished(batch, "scan-1", pair()[1].data[0])
    (folder / "scan-0.html").write_text("cut")
    told, _ = page_of(batch, capsys, "--cases", folder)
    assert told["flagged"] == 0
    assert (folder / "scan-1.html").stat().st_mtime_ns != times["scan-1.html"]
    assert (folder / "scan-0.html").stat().st_size > 1000
    (folder / "scan-0.json").write_text(json.dumps({"of": 3}))
    assert page_of(batch, capsys, "--cases", folder)[0]["flagged"] == 0


def test_a_scan_that_is_gone_is_said_and_the_others_are_shown(batch, capsys, tmp_path):
    (tmp_path / PATIENT).rename(tmp_path / "gone")
    words = ["qc", batch.root, "-o", batch.root / "index.html", "--cases", batch.root / "qc", "--json"]
    from medidiff import cli

    assert cli.main([str(word) for word in words]) == 0
    said = capsys.readouterr().err
    assert said.count("is not shown: E-MISSING") == 2
    assert "Doe" not in said


def test_cases_are_asked_for_of_a_batch_only(tmp_path, capsys):
    assert "E-USAGE" in refused(["qc", tmp_path, "-o", tmp_path / "i.html", "--cases", tmp_path / "qc"], capsys, 2)


def test_the_last_time_counts_and_a_cut_line_does_not(tmp_path):
    journal = Journal(tmp_path, 1)
    journal.put(Event("a", "done", "", 5.0, 20.0))
    journal.put(Event("a", "done", "", 9.0, 10.0))
    (tmp_path / "2-1-x.jsonl").write_text('{"case": "a", "state": "done", "cod')
    assert seconds_of(tmp_path) == {"a": 5.0}


@pytest.mark.parametrize(
    "line",
    [
        *(b"[" * 100_000, b"\xff\xfe\0", b"[1]", b"null"),
        b'{"case": ["a"], "state": "done", "code": "", "seconds": 1, "at": 1}',
        b'{"case": "a", "state": "done", "code": "", "seconds": "long", "at": 1}',
        b'{"case": "a", "state": "done", "code": "", "seconds": NaN, "at": 1}',
        b'{"case": "a", "state": "done", "code": "", "seconds": 1, "at": 1e999}',
    ],
    ids=range(8),
)
def test_no_line_of_a_journal_ends_what_reads_it(line, tmp_path):
    (tmp_path / "1-1-x.jsonl").write_bytes(line + b"\n")
    (tmp_path / "1-2-folder.jsonl").mkdir()
    Journal(tmp_path, 1).put(Event("a", "done", "", 9.0, 10.0))
    assert seconds_of(tmp_path) == {"a": 9.0}
    assert [event.seconds for event in Tail(tmp_path, 1).new()] == [9.0]
