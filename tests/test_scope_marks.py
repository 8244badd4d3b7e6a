"""What becomes of a scan that is out of scope: its result is marked wherever it goes, or it is refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

import medidiff.cli as cli
import medidiff.trust.scope as judging
from medidiff.batch.job import Batch
from medidiff.cli.batch_task import _metrics
from medidiff.cli.cohort import batch_cases
from medidiff.cli.screen import Screen
from medidiff.errors import InputError
from medidiff.io import Reading, read, write
from medidiff.io.dicom.derived.references import add_derivation
from medidiff.qc.checks import scope_checks
from medidiff.restore import denoise, superresolve
from medidiff.trust.reference import Limits
from medidiff.volume import Provenance
from tests import dicom_cases
from tests.cli_cases import ball, document, everything, refused
from tests.scope_heads import shipped
from tests.small_prior import small_prior


@pytest.fixture
def strange(monkeypatch):
    """Judges with a limit that a small ball is beyond."""
    limits = {"tissue": Limits(4.0, low=3.5)}
    monkeypatch.setattr(
        judging, "reference_for", lambda card: dataclasses.replace(shipped(), prior=card.name, limits=limits)
    )


@pytest.fixture
def usual(monkeypatch):
    """Judges with limits that nothing is beyond."""
    everything_goes = {name: Limits(limits.middle) for name, limits in shipped().limits.items()}
    monkeypatch.setattr(judging, "reference_for", lambda card: dataclasses.replace(shipped(), limits=everything_goes))


# --- in Python ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("strange")
def test_a_result_says_that_its_scan_was_out_of_scope():
    posterior = denoise(ball(), prior=small_prior())
    assert posterior.out_of_scope
    assert posterior.provenance.scope["verdict"] == "outside"
    assert any(decision.startswith("OUT OF SCOPE") for decision in posterior.provenance.decisions)
    assert Provenance.from_json(posterior.provenance.to_json()).scope == posterior.provenance.scope


@pytest.mark.usefixtures("strange")
def test_strict_refuses_before_the_network_is_asked():
    def never(done, total):
        raise AssertionError("the network was asked")

    with pytest.raises(InputError, match="E-SCOPE") as refusal:
        superresolve(ball(), (0.9, 1.1, 1.0), prior=small_prior(), strict=True, progress=never)
    assert "E-SCOPE: the scan shows" in str(refusal.value)
    assert "too little to be told from anything" in str(refusal.value)
    with pytest.raises(AssertionError, match="asked"):
        superresolve(ball(), (0.9, 1.1, 1.0), prior=small_prior(), progress=never)


@pytest.mark.usefixtures("usual")
def test_a_result_of_a_scan_of_the_kind_is_not_marked():
    posterior = denoise(ball(), prior=small_prior(), strict=True)
    assert not posterior.out_of_scope
    assert posterior.provenance.scope["verdict"] == "inside"


def test_a_mark_changes_no_voxel(monkeypatch):
    plain = denoise(ball(), prior=small_prior())
    assert plain.provenance.scope == {"verdict": "unjudged", "prior": "tiny"}
    monkeypatch.setattr(judging, "reference_for", lambda card: shipped())
    assert np.array_equal(denoise(ball(), prior=small_prior()).mean.data, plain.mean.data)


def test_a_record_from_before_scopes_were_judged_can_be_read():
    fields = json.loads(Provenance("denoise", "0.1.0").to_json())
    del fields["scope"]
    assert Provenance.from_json(json.dumps(fields)).scope == {}
    del fields["task"]
    with pytest.raises(InputError, match="E-PROVENANCE"):
        Provenance.from_json(json.dumps(fields))


# --- at the command line --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("strange")
def test_the_exit_code_is_3_and_the_result_is_there(ball_file, card, tmp_path, capsys):
    out = tmp_path / "out.nii.gz"
    words = ["denoise", str(ball_file), str(out), "--noise-level", "50", "--prior", card]
    assert cli.main(words) == 3
    assert "OUT OF SCOPE of the prior 'tiny'" in capsys.readouterr().err
    assert read(out).geometry.distance_mm(read(ball_file).geometry) < 1e-6
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["Scope"]["verdict"] == "outside"
    assert record["Scope"]["reasons"]
    lines = map(json.loads, (tmp_path / "out.record.jsonl").read_text().splitlines())
    (end,) = [line for line in lines if line["kind"] == "end"]
    assert end["exit_code"] == 3


@pytest.mark.usefixtures("strange")
def test_strict_ends_with_2_and_writes_nothing(ball_file, card, tmp_path, capsys):
    folder = tmp_path / "out"
    folder.mkdir()
    words = ["denoise", ball_file, folder / "a.nii", "--prior", card, "--strict", "--record", tmp_path / "r.jsonl"]
    assert "E-SCOPE" in refused(words, capsys, 2)
    assert everything(folder) == {}


@pytest.mark.usefixtures("usual")
def test_the_exit_code_of_a_scan_of_the_kind_is_0(ball_file, card, tmp_path, capsys):
    told = document(["denoise", ball_file, tmp_path / "o.nii", "--prior", card, "--strict"], capsys)
    assert told["provenance"]["scope"]["verdict"] == "inside"


@pytest.mark.usefixtures("strange")
def test_a_dicom_series_says_it_in_its_derivation(card, tmp_path):
    source, out = tmp_path / "study", tmp_path / "derived"
    dicom_cases.series(source, modality="MR")
    assert cli.main(["denoise", str(source), str(out), "--noise-level", "5", "--prior", card]) == 3
    for path in out.glob("*.dcm"):
        text = pydicom.dcmread(path, stop_before_pixels=True).DerivationDescription
        assert "research use only; OUT OF SCOPE of the prior tiny: the scan shows " in text
        assert len(text) <= 1024


def told_of(**record) -> str:
    image = Dataset()
    add_derivation(image, Provenance("denoise", "1", prior={"name": "p"}, **record), regridded=False)
    return str(image.DerivationDescription)


def test_a_dicom_series_says_in_how_many_places_its_source_contradicts_it():
    assert "contradict" not in told_of()
    assert "contradict" not in told_of(support={"flags": [], "more": 0, "everywhere": False})
    assert told_of(support={"flags": [{}], "more": 0, "everywhere": False}).endswith("contradicts it in 1 place")
    wide = {"verdict": "outside", "prior": "p", "reasons": ["x" * 2000]}
    told = told_of(support={"flags": [{}, {}], "more": 3, "everywhere": True}, scope=wide)
    assert told.endswith("xx; its source contradicts it in 6 places")
    assert len(told) == 1024


# --- in a batch -----------------------------------------------------------------------------------------------------


@pytest.fixture
def words(card, tmp_path):
    for number in range(2):
        write(ball((10, 9, 8), seed=number), tmp_path / "in" / f"sub-{number}" / "T1w.nii.gz")
    return ["batch", "denoise", tmp_path / "in", tmp_path / "out", "--prior", card, "--workers", "1"]


@pytest.mark.usefixtures("strange")
def test_a_batch_counts_and_names_what_is_marked_and_ends_well(words, tmp_path, capsys):
    told = document(words, capsys)
    assert (told["done"], told["refused"], told["out_of_scope"]) == (2, 0, 2)
    batch = Batch(tmp_path / "out")
    names = [case.name for case in batch.manifest]
    assert json.loads((batch.folder / "report.json").read_text())["marked"] == sorted(names)
    assert all(f"{name}: done, but out of scope" in (batch.folder / "report.txt").read_text() for name in names)
    record = batch.records.done(names[0])
    assert record.metrics["out_of_scope"] == 1
    assert record.metrics["scope_score"] > 1
    assert "contradicted_places" not in record.metrics  # of so few voxels the scan says nothing
    status = document(["batch", "status", tmp_path / "out", "--scope"], capsys)
    assert all(status["marked"][name].startswith("OUT OF SCOPE") for name in names)
    assert "out_of_scope" not in document(["batch", "status", tmp_path / "out"], capsys)
    rows = batch_cases(tmp_path / "out", seen_from=tmp_path, reports=None, screen=Screen(json=True))
    assert [row.flags for row in rows] == [("scope",)] * 2


def test_a_case_has_the_number_of_contradicted_places_among_its_metrics():
    scan = ball((24, 24, 24), seed=1)
    answer = denoise(scan, prior=small_prior(), noise_level=5.0)
    reading = Reading(scan, (), ())
    assert _metrics(reading, answer)["contradicted_places"] == answer.provenance.contradicted > 0
    right = dataclasses.replace(answer, provenance=dataclasses.replace(answer.provenance, support={"flags": []}))
    assert _metrics(reading, right)["contradicted_places"] == 0


@pytest.mark.usefixtures("usual")
def test_a_batch_of_scans_of_the_kind_has_nothing_marked(words, tmp_path, capsys):
    assert document(words, capsys)["out_of_scope"] == 0
    rows = batch_cases(tmp_path / "out", seen_from=tmp_path, reports=None, screen=Screen(json=True))
    assert [row.flags for row in rows] == [None] * 2


@pytest.mark.usefixtures("strange")
def test_a_strict_batch_refuses_them(words, capsys):
    assert cli.main([str(word) for word in [*words, "--strict"]]) == 8
    assert "E-SCOPE 2" in capsys.readouterr().err


# --- in a quality report --------------------------------------------------------------------------------------------


def test_a_quality_report_has_a_check_of_it():
    made = Provenance("denoise", "0.1.0", scope={"verdict": "outside", "score": 2.5, "reasons": ["looks inverted"]})
    (check,) = scope_checks(made)
    assert (check.state, check.value) == ("look", "2.5")
    assert "The scan looks inverted" in check.meaning
    (both,) = scope_checks(dataclasses.replace(made, scope=made.scope | {"reasons": ["looks inverted", "has stripes"]}))
    assert both.meaning == "The scan looks inverted. The scan has stripes."
    (fine,) = scope_checks(dataclasses.replace(made, scope={"verdict": "inside", "score": 0.4, "reasons": []}))
    assert fine.state == "ok"
    (unread,) = scope_checks(dataclasses.replace(made, scope={"verdict": "unjudged", "prior": "tiny"}))
    assert unread.state == "unread"
    assert scope_checks(Provenance("denoise", "0.1.0")) == scope_checks(None) == ()
