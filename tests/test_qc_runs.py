"""`medidiff qc FOLDER`: a cohort from the records that runs leave."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import medidiff.cli as cli
from medidiff.errors import InputError
from medidiff.io import write
from medidiff.qc import cases_of
from medidiff.volume import Volume
from tests.cli_cases import ball, document
from tests.qc_cases import Reader

PATIENT = "Doe^Jane 1970-01-31"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A case that is done with a report, one that is refused, one that was killed, and one under a patient's name."""
    from medidiff.prior import Prior
    from tests.small_prior import small_prior

    home = tmp_path_factory.mktemp("runs")
    card = str(Prior(small_prior().denoiser, small_prior().card).save(home / "prior"))
    scan = write(ball(), home / "in" / "scan.nii.gz")[0]
    several = write(ball(), home / "in" / "other.nii.gz")[0]
    flat = Volume(np.zeros((6, 6, 6), np.float32), ball((6, 6, 6)).geometry, "CT")
    ct = write(flat, home / "in" / "ct.nii.gz")[0]
    out = home / "out"
    words = ["--prior", card, "--noise-level", "50"]
    for source, name, code in ((scan, "sub-01", 0), (ct, "sub-02", 4), (several, PATIENT, 0)):
        page = ["--report", str(out / name / "report.html")]
        assert cli.main(["denoise", str(source), str(out / name / "clean.nii.gz"), *words, *page]) == code
    shutil.copytree(out / "sub-01", out / "sub-03")
    record = out / "sub-03" / "clean.record.jsonl"
    record.write_bytes(record.read_bytes().rsplit(b"\n", 2)[0] + b'\n{"kind": "end", ')
    return out


def test_each_run_is_a_case_with_how_it_ended(runs):
    cases = {case.name: case for case in cases_of(runs, seen_from=runs / "pages")}
    done, refused, killed = cases["sub-01/clean"], cases["sub-02/clean"], cases["sub-03/clean"]
    assert (done.state, done.task, done.code) == ("done", "denoise", "")
    assert done.level > 0
    assert done.seconds > 0
    assert done.flags is not None
    assert done.page == "../sub-01/report.html"
    assert (refused.state, refused.code, refused.flags) == ("refused", "E-MODALITY", None)
    assert refused.mend
    assert not refused.mend.startswith("E-")
    assert (killed.state, killed.seconds) == ("unfinished", None)
    assert len(cases) == 4


def test_a_name_that_could_be_a_patients_is_neither_shown_nor_linked(runs, tmp_path, capsys):
    told = document(["qc", runs, "-o", tmp_path / "index.html"], capsys)
    assert told["states"] == {"done": 2, "refused": 1, "unfinished": 1}
    page = (tmp_path / "index.html").read_text("utf-8")
    assert "Doe" not in page
    assert "1970" not in page
    links = Reader(page).values("href")
    assert len(links) == 2
    assert all(link.endswith(("sub-01/report.html", "sub-03/report.html")) for link in links)


def test_the_last_run_of_a_record_counts(runs, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(runs, copy)
    first, second = copy / "sub-02" / "clean.record.jsonl", copy / "sub-01" / "clean.record.jsonl"
    first.write_bytes(first.read_bytes() + second.read_bytes())
    cases = {case.name: case for case in cases_of(copy, seen_from=copy)}
    assert cases["sub-02/clean"].state == "done"


def test_a_folder_without_a_record_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"E-MISSING: .*no record of a run"):
        cases_of(tmp_path, seen_from=tmp_path)
