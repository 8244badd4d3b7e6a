"""What an archive is asked, what is believed of its answers, and how patience is kept: no server is needed."""

from __future__ import annotations

import datetime
import email.utils

import pytest

from medidiff.errors import InputError, SettingsError
from medidiff.pacs import Wanted, find_node, open_archive, read_nodes
from medidiff.pacs.faults import seconds_of
from medidiff.pacs.nodes import Auth, DimseNode, WebNode
from medidiff.pacs.patience import LONGEST_ASKED_SECONDS, PASSING, Later, Patience
from medidiff.pacs.wanted import is_uid, uid_of

# --- the question ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uid", ["1.2.840.113619", "2.25.1", "1.02.3", "1.2." + "9" * 60])
def test_a_uid_may_name_a_file(uid):
    assert is_uid(uid)


@pytest.mark.parametrize(
    "uid", ["", ".", "..", "1", "1..2", "1.2.", ".1.2", "1.2/3", "../1.2", "1.2\n", "1.2.x", "1.2.٣", "1." * 40 + "1"]
)
def test_what_is_no_uid_never_becomes_part_of_a_path(uid):
    assert not is_uid(uid)
    with pytest.raises(InputError, match="E-PACS-ANSWER") as error:
        uid_of(uid, what="study UID")
    assert uid not in str(error.value) or len(uid) < 3


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"study": "1.2*"},
        {"series": "1.2.3"},
        {"patient": "47*"},
        {"patient": "A?"},
        {"accession": "1\\2"},
        {"patient": " 47"},
        {"modalities": ("mr; drop",)},
        {"dates": "2026"},
        {"dates": "-"},
        {"dates": "20260230"},
        {"dates": "20260131-20260101"},
        {"dates": "2026010120260131"},
    ],
)
def test_a_question_that_could_mean_other_patients_is_refused(question):
    with pytest.raises(SettingsError, match="E-PACS-QUERY"):
        Wanted(**question)


def test_an_answer_must_be_what_was_asked_for():
    wanted = Wanted(patient="4711", dates="20260101-20260131")
    right = {"PatientID": "4711 ", "StudyDate": "20260115"}
    assert wanted.fits_study(right)
    assert not wanted.fits_study(right | {"PatientID": "4712"})
    assert not wanted.fits_study(right | {"StudyDate": "20260201"})
    assert not wanted.fits_study({"StudyDate": "20260115"})  # an archive that does not say whose it is
    assert Wanted(dates="20260101-").fits_study({"StudyDate": "20991231"})
    assert Wanted(dates="-20260101").fits_study({"StudyDate": "19991231"})
    assert not Wanted(dates="20260101").fits_study({"StudyDate": "20260102"})
    assert not Wanted(study="1.2.3").fits_study({"StudyInstanceUID": "1.2.4"})


def test_series_are_chosen_by_uid_and_modality():
    assert Wanted(dates="20260101").fits_series("1.2", "SR")
    assert Wanted(modalities=("MR", "CT")).fits_series("1.2", "CT")
    assert not Wanted(modalities=("MR",)).fits_series("1.2", "SR")
    assert not Wanted(study="1.2", series="1.2.3").fits_series("1.2.4", "MR")


# --- nodes and secrets ----------------------------------------------------------------------------------------------

GOOD = """
[nodes.archive]
host = "10.0.0.5"
port = 104
ae_title = "ARCHIVE"
retrieve = "move"
receiver = { host = "10.0.0.9", port = 11113 }
limits = { attempts = 3 }

[nodes.web]
url = "https://pacs.example/dicom-web/"
auth = { kind = "bearer", file = "token" }
tls = { ca = "ca.pem" }
"""


def test_nodes_are_read(tmp_path):
    (tmp_path / "nodes.toml").write_text(GOOD)
    nodes = read_nodes(tmp_path / "nodes.toml")
    assert nodes["archive"].receiver.port == 11113
    assert nodes["archive"].limits.patience.attempts == 3
    assert nodes["web"].url == "https://pacs.example/dicom-web"
    assert nodes["web"].auth.file == tmp_path / "token"
    assert nodes["web"].tls.ca == tmp_path / "ca.pem"
    assert find_node("web", tmp_path / "nodes.toml") == nodes["web"]


def test_the_receiver_listens_on_loopback_unless_told_otherwise():
    assert DimseNode("pacs", 104, "A").receiver.host == "127.0.0.1"


def test_an_address_may_be_typed():
    assert find_node("ARCHIVE@10.0.0.5:104", None) == DimseNode("10.0.0.5", 104, "ARCHIVE")
    assert find_node("ARCHIVE@[::1]:104", None).host == "::1"
    assert find_node("http://127.0.0.1:8042/dicom-web", None) == WebNode("http://127.0.0.1:8042/dicom-web")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("port = 104", 'port = "104"'), "archive.port"),
        (("port = 104", "port = 0"), "archive.port"),
        (("port = 104", "prot = 104"), "not known"),
        (('ae_title = "ARCHIVE"', 'ae_title = "A TITLE THAT IS TOO LONG"'), "archive.ae_title"),
        (('"ARCHIVE"', '"A\\\\B"'), "AE title"),
        (("[nodes.archive]", "[node.archive]"), "other than"),
        (("https://pacs", "http://pacs"), "https address only"),
        (("https://pacs", "https://me:hunter2@pacs"), "no user or password"),
        (("https://pacs", "ftp://pacs"), "http:// or https://"),
        (('kind = "bearer"', 'kind = "basic"'), "basic needs a user"),
        (('file = "token"', 'token = "hunter2"'), "not known"),
        (('file = "token"', 'file = "token", variable = "T"'), "either"),
        (("port = 104", "port = ["), "read as TOML"),
        (('retrieve = "move"', 'retrieve = "move"\ntls = {}'), "certificate"),
    ],
)
def test_a_broken_configuration_is_refused_without_its_values(change, says, tmp_path):
    text = GOOD.replace(*change)
    assert text != GOOD
    (tmp_path / "nodes.toml").write_text(text)
    with pytest.raises(SettingsError, match="E-PACS-NODE") as error:
        read_nodes(tmp_path / "nodes.toml")
    assert says in str(error.value)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("name", ["nowhere", "A@b", "http://", "A@b:99999", "http://u:p@h/dicom-web"])
def test_an_unknown_node_is_refused(name):
    with pytest.raises(SettingsError, match="E-PACS-NODE"):
        find_node(name, None)


def test_a_secret_comes_from_a_variable_or_a_file_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setenv("OUR_TOKEN", " hunter2\n")
    assert Auth("bearer", variable="OUR_TOKEN").secret() == "hunter2"
    file = tmp_path / "token"
    file.write_text("hunter3\n")
    file.chmod(0o600)
    auth = Auth("basic", user="me", file=file)
    assert auth.secret() == "hunter3"
    assert "hunter" not in repr(auth)


@pytest.mark.parametrize("fault", ["unset", "missing", "open", "empty", "lines", "folder"])
def test_a_secret_that_is_none_is_refused(fault, tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text({"empty": " \n", "lines": "one\nhunter2"}.get(fault, "hunter2"))
    file.chmod(0o644 if fault == "open" else 0o600)
    monkeypatch.delenv("OUR_TOKEN", raising=False)
    places = {"missing": tmp_path / "other", "folder": tmp_path}
    auth = Auth("bearer", variable="OUR_TOKEN") if fault == "unset" else Auth("bearer", file=places.get(fault, file))
    with pytest.raises(SettingsError, match="E-PACS-SECRET") as error:
        auth.secret()
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("library", "node"), [("pynetdicom", "A@127.0.0.1:104"), ("dicomweb_client", "http://127.0.0.1")]
)
def test_a_library_that_is_not_installed_is_named(library, node, monkeypatch):
    monkeypatch.setattr("medidiff.pacs.archive.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="E-PACS-EXTRA") as error:
        open_archive(find_node(node, None))
    assert library in str(error.value)
    assert "medidiff[pacs]" in str(error.value)


# --- patience -------------------------------------------------------------------------------------------------------


def _patience(waits: list[float], **fields: object) -> Patience:
    return Patience(pause=waits.append, uniform=lambda low, high: high, **fields)


def _fails(times: int, code: str = "E-PACS-REACH"):
    left = [times]

    def action() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise InputError(code, "x")
        return "done"

    return action


def test_pauses_double_up_to_a_limit():
    waits: list[float] = []
    patience = _patience(waits, attempts=8, first_seconds=1.0, most_seconds=10.0)
    assert patience.persist(_fails(7)) == "done"
    assert waits == [1, 2, 4, 8, 10, 10, 10]


def test_pauses_differ_from_client_to_client():
    patience = Patience(first_seconds=8.0)
    drawn = {patience.seconds(1) for _ in range(20)}
    assert len(drawn) > 10
    assert all(4.0 <= pause <= 8.0 for pause in drawn)


def test_patience_ends():
    waits: list[float] = []
    with pytest.raises(InputError, match="E-PACS-REACH"):
        _patience(waits, attempts=3).persist(_fails(3))
    assert len(waits) == 2


@pytest.mark.parametrize("code", ["E-PACS-AETITLE", "E-PACS-LOGIN", "E-PACS-TLS", "E-PACS-FULL", "E-PACS-NODE"])
def test_what_stays_wrong_is_not_tried_again(code):
    waits: list[float] = []
    assert code not in PASSING
    with pytest.raises(InputError, match=code):
        _patience(waits).persist(_fails(1, code))
    assert waits == []


def test_an_archive_that_asks_for_rest_has_it():
    waits: list[float] = []
    asked = [30.0, 0.0, LONGEST_ASKED_SECONDS]

    def action() -> str:
        if asked:
            raise Later("E-PACS-BUSY", "x", mend="", after_seconds=asked.pop(0))
        return "done"

    assert _patience(waits).persist(action) == "done"
    assert waits == [31.0, 2.0, LONGEST_ASKED_SECONDS + 4.0]


def test_an_archive_that_asks_for_too_much_rest_is_not_waited_for():
    waits: list[float] = []

    def action() -> None:
        raise Later("E-PACS-BUSY", "x", mend="", after_seconds=LONGEST_ASKED_SECONDS + 1)

    with pytest.raises(Later, match="E-PACS-BUSY"):
        _patience(waits).persist(action)
    assert waits == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120),
        (" 0 ", 0),
        ("", 0),
        ("-5", 0),
        ("1.5", 0),
        ("soon", 0),
        ("9" * 400, 999_999_999_999),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0),
        ("Fri, 31 Dec 99999 23:59:59 GMT", 0),
    ],
)
def test_how_long_an_archive_asks_to_wait(text, seconds):
    assert seconds_of(text) == seconds


def test_a_date_to_come_back_at():
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=90)
    for zone in (datetime.UTC, datetime.timezone(datetime.timedelta(hours=5))):
        assert 85 <= seconds_of(email.utils.format_datetime(until.astimezone(zone))) <= 91


def test_progress_renews_the_attempts():
    waits: list[float] = []
    reached = [0]

    def action() -> int:
        reached[0] += 1
        if reached[0] < 10:
            raise InputError("E-PACS-ABORT", "x")
        return reached[0]

    assert _patience(waits, attempts=2).persist(action, progress=lambda: reached[0]) == 10
    assert waits == [1.0] * 9
