"""A PACS query as the input of a batch: each series is a case, fetched once, whole or not at all, under its lease."""

from __future__ import annotations

import json

import numpy as np
import pydicom
import pytest

import medidiff.cli as cli
from medidiff.batch.job import Batch
from medidiff.batch.worker import NO_ARCHIVE
from medidiff.catalogue import CATALOGUE
from medidiff.cli import batch_archive
from medidiff.cli.batch_archive import asked, source_of
from medidiff.cli.batch_input import Input
from medidiff.errors import SettingsError
from medidiff.io import read
from medidiff.io.files.atomic import partial_name
from medidiff.pacs import Wanted, push_folder
from medidiff.pacs.answers import Series
from medidiff.pacs.instances import describe
from medidiff.pacs.pull import OF_ONE_SERIES
from tests import dicom_cases
from tests.cli_cases import document, refused
from tests.pacs_cases import HASTY, Shelf, failing, study_of

NODES = """
[nodes.archive]
url = "http://127.0.0.1:9"
limits = { attempts = 2, first_pause_seconds = 0.01 }
"""
PATIENT = "ID-4711"


class Killed(BaseException):
    """As SIGKILL: nothing after it runs."""


@pytest.fixture
def files(tmp_path):
    """A study of two series."""
    return study_of(tmp_path / "in", series=2, slices=8)


@pytest.fixture
def shelf(files, monkeypatch):
    """An archive in memory, in the place of every node's."""
    held = Shelf(files)
    monkeypatch.setattr(batch_archive, "open_archive", lambda node: held)
    return held


@pytest.fixture
def words(shelf, card, tmp_path):
    (tmp_path / "nodes.toml").write_text(NODES)
    question = f"pacs:archive?patient={PATIENT}&modality=MR"
    told = ["batch", "denoise", question, tmp_path / "out", "--config", tmp_path / "nodes.toml", "--prior", card]
    return [*told, "--workers", "1", "--noise-level", "50"]


def ran(words: list[object], capsys, code: int = 0) -> dict:
    assert cli.main([*map(str, words), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def whole_series(folder) -> list[int]:
    """How many files each series has that can be seen."""
    return sorted(len(list(place.glob("*.dcm"))) for place in (folder / ".medidiff" / "pulled").glob("*/[0-9]*"))


# --- what is asked ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("accession=A1", Wanted(accession="A1")),
        ("study=1.2&series=1.2.3", Wanted(study="1.2", series="1.2.3")),
        ("patient=A%2F%2FB%261&dates=20260101-", Wanted(patient="A//B&1", dates="20260101-")),
        ("modality=mr,CT", Wanted(modalities=("MR", "CT"))),
        ("accession=A+1", Wanted(accession="A+1")),
    ],
)
def test_a_question_is_read_as_it_was_meant(text, wanted):
    source = Input(f"pacs:https://pacs.example/dicom-web?{text}")
    assert source.is_archive
    assert source.node == "https://pacs.example/dicom-web"
    assert asked(source) == wanted


@pytest.mark.parametrize(
    "text", ["", "accession", "accession=", "name=DOE", "patient=A*", "accession=1&accession=2", "modality=,", "&"]
)
def test_a_question_that_cannot_be_is_refused_before_anybody_is_asked(text, words, shelf, tmp_path, capsys):
    words[2] = f"pacs:archive?{text}"
    assert "E-PACS-QUERY" in refused(words, capsys, 2)
    assert shelf.asked == []
    assert not (tmp_path / "out").exists()


def test_the_settings_tell_questions_apart_and_name_nobody():
    texts = [f"pacs:{node}?patient={number}" for node in ("one", "two") for number in ("ID-1", "ID-2")]
    sources = [source_of(Input(text)) for text in texts]
    assert len(set(sources)) == 4
    assert not any("ID-" in source for source in sources)
    same = source_of(Input("pacs:one?modality=MR&patient=ID%2D1"))
    assert same == source_of(Input("pacs:one?patient=ID-1&modality=mr"))


def test_each_fault_of_an_archive_is_of_one_series_or_ends_the_run():
    """No code of an archive is forgotten: a new one must be put into one of the two sets."""
    never = {"E-PACS-COMMAND", "E-PACS-FULL", "E-PACS-QUERY", "E-PACS-STORE"}  # of pushing, watching and asking
    codes = {code for code in CATALOGUE if code.startswith("E-PACS-")} - never
    assert codes == OF_ONE_SERIES | NO_ARCHIVE
    assert not OF_ONE_SERIES & NO_ARCHIVE


# --- what becomes of it -----------------------------------------------------------------------------------------------


def test_each_series_is_fetched_and_done_once(words, shelf, files, card, tmp_path, capsys):
    study = describe(files[0], name="x").study
    shelf.series = lambda uid: [*Shelf.series(shelf, uid), Series("1.2.3", "SR")]
    words[2] = f"pacs:archive?patient={PATIENT}"
    told = ran(words, capsys)
    assert (told["cases"], told["done"]) == (2, 2)
    assert whole_series(tmp_path / "out") == [8, 8]
    asked_before = list(shelf.asked)
    assert ran(words, capsys)["run"] | {"cases_per_hour": 0} == {
        "computed": 0,
        "kept": 2,
        "refused": 0,
        "seconds_per_case": None,
        "cases_per_hour": 0,
    }
    assert shelf.asked == asked_before
    batch = Batch(tmp_path / "out")
    for case in batch.manifest:
        alone = tmp_path / f"{case.name}.nii.gz"
        document(["denoise", case.input, alone, "--noise-level", 50, "--prior", card], capsys)
        made = tmp_path / "out" / batch.records.done(case.name).results["mean"]
        np.testing.assert_array_equal(read(made).data, read(alone).data)
    hidden = (tmp_path / "out" / ".medidiff", tmp_path / "out" / ".medidiff" / "pulled")
    private = ("manifest.jsonl", "settings.json")
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file() and hidden[1] not in path.parents and path.name != private[0]:
            content = path.read_bytes()
            assert not [word for word in (PATIENT, study, *dicom_cases.SECRETS) if word.encode() in content], path
            assert study not in str(path)
    assert {(hidden[0] / name).stat().st_mode & 0o077 for name in private} == {0}


def test_a_series_that_comes_partly_is_refused_and_fetched_when_tried_again(words, shelf, files, tmp_path, capsys):
    shelf.lost = {describe(files[-1], name="x").uid}
    told = ran(words, capsys, 7)
    assert (told["done"], told["codes"]) == (1, {"E-PACS-WARNING": 1})
    assert whole_series(tmp_path / "out") == [8]
    listed = json.loads((tmp_path / "out" / ".medidiff" / "report.json").read_text())["refusals"]
    assert "Run the same command again" in listed[0]["mend"]
    shelf.lost = set()
    fetched = shelf.asked.count("fetch")
    assert ran(words, capsys, 7)["run"]["refused"] == 1
    assert shelf.asked.count("fetch") == fetched
    told = ran([*words, "--retry-failed"], capsys)
    assert (told["run"]["computed"], told["run"]["kept"]) == (1, 1)
    assert shelf.asked.count("fetch") == fetched + 1
    assert whole_series(tmp_path / "out") == [8, 8]


@pytest.mark.parametrize("code", ["E-PACS-REACH", "E-PACS-LOGIN"])
def test_an_archive_that_cannot_be_asked_ends_the_run_and_refuses_nothing(code, words, shelf, tmp_path, capsys):
    shelf.trouble = failing(code, times=99)
    assert code in refused(words, capsys, 4)
    assert list(Batch(tmp_path / "out").records.names()) == [(set(), set())] * 256
    shelf.trouble = lambda method: None
    assert ran(words, capsys)["done"] == 2


def test_a_run_that_is_killed_while_a_series_comes_shows_none_of_it(words, shelf, tmp_path):
    sent = []

    def trouble(method: str) -> None:
        if method == "sent":
            sent.append(method)
            if len(sent) == 12:
                raise Killed

    shelf.trouble = trouble
    with pytest.raises(Killed):
        cli.main([*map(str, words)])
    assert whole_series(tmp_path / "out") == [8]
    shelf.trouble = lambda method: None
    fetched = shelf.asked.count("fetch")
    assert cli.main([*map(str, words)]) == 0
    assert shelf.asked.count("fetch") == fetched + 1
    assert whole_series(tmp_path / "out") == [8, 8]


def test_a_fetch_in_place_would_be_seen(words, files, tmp_path, monkeypatch):
    """A broken instance: files that are put under their final names one by one."""

    def in_place(archive, study, series, home, **_):
        for number, file in enumerate(files):
            if number == 5:
                raise Killed
            place = home / study / series / file.name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read_bytes())

    monkeypatch.setattr(batch_archive, "pull_series", in_place)
    with pytest.raises(Killed):
        cli.main([*map(str, words)])
    assert whole_series(tmp_path / "out") == [5]


def test_what_a_killed_fetch_leaves_is_swept(words, tmp_path, capsys):
    ran(words, capsys)
    (study,) = (tmp_path / "out" / ".medidiff" / "pulled").iterdir()
    host = partial_name().split("-")[1]
    left = study / f".medidiff-{host}-4194304-0123456789ab"  # no process has this number
    left.mkdir()
    Batch(tmp_path / "out").sweep()
    assert not left.exists()
    assert len(list(study.iterdir())) == 2


def test_another_question_needs_another_folder(words, capsys):
    ran(words, capsys)
    words[2] = "pacs:archive?patient=ID-4712&modality=MR"
    assert "input" in refused(words, capsys, 5)
    assert "E-EXISTS" in refused([*words, "--continue"], capsys, 5)


def test_nothing_that_fits_makes_no_folder(words, shelf, tmp_path, capsys):
    shelf.held.clear()
    assert "E-PACS-NONE" in refused(words, capsys, 8)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_asks_and_writes_nothing(words, shelf, tmp_path, capsys):
    told = document([*words, "--dry-run"], capsys)
    assert told["cases"] == 2
    assert "fetch" not in shelf.asked
    assert not (tmp_path / "out").exists()


def test_a_worker_elsewhere_names_the_nodes_itself(words, shelf, tmp_path, capsys):
    shelf.trouble = failing("E-PACS-LOGIN", times=99)
    refused(words, capsys, 4)
    shelf.trouble = lambda method: None
    work = ["batch", "work", tmp_path / "out"]
    assert "E-PACS-NODE" in refused(work, capsys, 2)
    assert cli.main([str(word) for word in (*work, "--config", tmp_path / "nodes.toml")]) == 0
    assert document(["batch", "status", tmp_path / "out"], capsys)["done"] == 2


def test_results_can_be_series_of_the_studies(words, shelf, files, tmp_path, capsys):
    ran([*words, "--format", "dicom"], capsys)
    made = [pydicom.dcmread(file) for file in (tmp_path / "out").glob("case-*/*/*.dcm")]
    assert len(made) == 16
    assert {ds.StudyInstanceUID for ds in made} == {describe(files[0], name="x").study}
    assert not {ds.SeriesInstanceUID for ds in made} & {describe(file, name="x").series for file in files}
    pushed = push_folder(shelf, tmp_path / "out", patience=HASTY)
    assert (pushed.sent, pushed.present, pushed.series) == (16, 0, 2)


def test_what_a_batch_has_derived_and_pushed_is_no_case_of_the_next_unless_it_is_named(
    words, shelf, card, tmp_path, capsys
):
    document([*words, "--format", "dicom"], capsys)
    pushed = list((tmp_path / "out").glob("*/*_denoised/*.dcm"))
    for file in pushed:
        shelf.add(file)
    assert len({uid for _, uid, *_ in shelf.held.values()}) == 4
    words[3] = tmp_path / "next"
    assert document([*words, "--dry-run"], capsys)["cases"] == 2
    header = pydicom.dcmread(pushed[0])
    words[2] += f"&study={header.StudyInstanceUID}&series={header.SeriesInstanceUID}"
    assert document([*words, "--dry-run"], capsys)["cases"] == 1
    assert not Series("1", "MR", "T1 medidiff phantom").is_ours


def test_an_unknown_node_is_refused(words, tmp_path, capsys):
    words[2] = "pacs:nobody?accession=A1"
    assert "E-PACS-NODE" in refused(words, capsys, 2)
    with pytest.raises(SettingsError, match="E-PACS-QUERY"):
        asked(Input("pacs:archive"))
