"""Archives that refuse, fall silent, warn, send half, send what is not theirs, or are full: each has its code, and
nothing that is not whole is ever seen. The servers are pynetdicom's and Python's own, on loopback."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pydicom
import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.acse import ACSE
from pynetdicom.presentation import build_context

from medidiff.errors import InputError, SettingsError
from medidiff.pacs import Wanted, open_archive, pull_series, pull_study
from medidiff.pacs.instances import describe
from medidiff.pacs.nodes import DimseNode, Limits, WebNode
from medidiff.pacs.wanted import Wanted as Question
from tests import pacs_cases
from tests.pacs_cases import (
    BRIEF,
    HASTY,
    MR,
    asks,
    receiver,
    refused,
    scp,
    study_of,
    visible,
)

# pynetdicom leaves the socket of a connection that failed to be collected
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <s:ResourceWarning")

files, place = pacs_cases.files, pacs_cases.place


# --- a whole exchange, and the same with something missing ----------------------------------------------------------


@pytest.mark.parametrize("retrieve", ["get", "move"])
def test_a_series_comes_whole(retrieve, files, place, tmp_path):
    with scp(files, retrieve=retrieve, receiver=receiver()) as node, open_archive(node) as archive:
        pulled = pull_study(archive, place[0], tmp_path, wanted=Wanted(study=place[0]), patience=HASTY)
        assert pulled.complete
        assert pulled.instances == 5
        assert len(visible(tmp_path)) == 5
        again = pull_series(archive, *place, tmp_path, patience=HASTY)
        assert again.fetched == ()
        (tmp_path / place[0] / place[1] / f"{describe(files[2], name='x').uid}.dcm").unlink()
        assert len(pull_series(archive, *place, tmp_path, patience=HASTY).fetched) == 1


def _send(event: evt.Event, files, *, leave_out: int = 0, extra=()) -> Iterator:
    held = [pydicom.dcmread(file) for file in files]
    asked = event.identifier.get("SOPInstanceUID")
    uids = [asked] if isinstance(asked, str) else list(asked or [])
    chosen = [ds for ds in held[leave_out:] if not uids or ds.SOPInstanceUID in uids] + list(extra)
    yield len(chosen)
    for ds in chosen:
        yield 0xFF00, ds


def test_a_series_that_comes_partly_is_never_seen(files, place, tmp_path):
    handlers = {evt.EVT_C_GET: lambda event: _send(event, files, leave_out=2)}
    with scp(files, handlers=handlers) as node, open_archive(node) as archive:
        told = refused("E-PACS-PARTIAL", InputError, lambda: pull_series(archive, *place, tmp_path, patience=HASTY))
        assert "3 of 5" in told
        assert visible(tmp_path) == []
        pulled = pull_study(archive, place[0], tmp_path, wanted=Wanted(study=place[0]), patience=HASTY)
        assert not pulled.complete
        assert [error.code for error in pulled.refused] == ["E-PACS-PARTIAL"]
    assert list(tmp_path.iterdir()) == []


def test_sub_operations_that_fail_are_a_warning_and_no_success(files, place, tmp_path):
    other = pydicom.dcmread(files[1])
    other.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"  # a CT has no context here: its sub-operation fails

    def broken(event: evt.Event) -> Iterator:
        yield 2
        yield 0xFF00, pydicom.dcmread(files[0])
        yield 0xFF00, other

    with scp(files, handlers={evt.EVT_C_GET: broken}) as node, open_archive(node) as archive:
        told = refused("E-PACS-WARNING", InputError, lambda: pull_series(archive, *place, tmp_path, patience=HASTY))
    assert "1 of 5" in told
    assert visible(tmp_path) == []


def test_what_is_missing_is_asked_for_alone(files, place, tmp_path):
    asked: list[int] = []

    def send(event: evt.Event) -> Iterator:
        uids = event.identifier.get("SOPInstanceUID") or []
        asked.append(1 if isinstance(uids, str) else len(uids))
        yield from _send(event, files, leave_out=2 if len(asked) == 1 else 0)

    with scp(files, handlers={evt.EVT_C_GET: send}) as node, open_archive(node) as archive:
        assert pull_series(archive, *place, tmp_path, patience=HASTY).instances == 5
    assert asked == [0, 2]


def test_instances_of_others_are_not_taken(files, place, tmp_path):
    other = [pydicom.dcmread(file) for file in study_of(tmp_path / "other", slices=2)]
    handlers = {evt.EVT_C_GET: lambda event: _send(event, files, leave_out=1, extra=other)}
    with scp(files, handlers=handlers) as node, open_archive(node) as archive:
        told = refused(
            "E-PACS-WARNING", InputError, lambda: pull_series(archive, *place, tmp_path / "out", patience=HASTY)
        )
    assert "not asked for" in told
    assert visible(tmp_path / "out") == []


def test_an_instance_beyond_the_limit_is_cut_off(files, place, tmp_path):
    large = pydicom.dcmread(files[0])
    large.Rows = large.Columns = 1200
    large.PixelData = bytes(2 * 1200 * 1200)
    with (
        scp(files, handlers={evt.EVT_C_GET: lambda event: _send(event, files, extra=[large])}) as node,
        open_archive(node) as archive,
    ):
        told = refused("E-PACS-ANSWER", InputError, lambda: pull_series(archive, *place, tmp_path, patience=HASTY))
    assert "more than 1 MiB" in told
    assert visible(tmp_path) == []


def test_an_archive_that_passes_over_the_question_is_not_believed(files, tmp_path):
    others = study_of(tmp_path / "other", slices=1)

    def everything(event: evt.Event) -> Iterator:
        for file in (*files, *others):
            ds, answer = pydicom.dcmread(file), Dataset()
            for name in ("StudyInstanceUID", "PatientID", "StudyDate", "AccessionNumber"):
                setattr(answer, name, ds.get(name))
            if file in others:
                answer.PatientID = "another"
            yield 0xFF00, answer

    with scp(files, handlers={evt.EVT_C_FIND: everything}) as node, open_archive(node) as archive:
        found = archive.studies(Question(patient="ID-4711"))
        assert [study.uid for study in found] == [describe(files[0], name="x").study]
        assert archive.studies(Question(patient="nobody")) == []


@pytest.mark.parametrize("uid", ["../../etc", "1.2..3", "x" * 60])
def test_a_uid_that_is_none_is_refused(uid, files, place):
    def crooked(event: evt.Event) -> Iterator:
        answer = Dataset()
        with pydicom.config.disable_value_validation():
            answer.add_new("SeriesInstanceUID", "UI", uid)
            yield 0xFF00, answer

    with scp(files, handlers={evt.EVT_C_FIND: crooked}) as node, open_archive(node) as archive:
        told = refused("E-PACS-ANSWER", InputError, lambda: archive.series(place[0]))
    assert uid not in told


# --- associations ---------------------------------------------------------------------------------------------------


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    refused("E-PACS-REACH", InputError, lambda: asks(DimseNode("127.0.0.1", port, "A", limits=BRIEF)))
    refused("E-PACS-REACH", InputError, lambda: asks(WebNode(f"http://127.0.0.1:{port}/x", limits=BRIEF)))


def test_a_wrong_title_of_the_archive():
    def strict(ae) -> None:
        ae.require_called_aet = True

    with scp(title="OTHER", configure=strict) as node:
        refused("E-PACS-AETITLE", InputError, lambda: asks(node))


def test_a_wrong_title_of_ours():
    def strict(ae) -> None:
        ae.require_calling_aet = ["SOMEBODY"]

    with scp(configure=strict) as node:
        refused("E-PACS-AETITLE", InputError, lambda: asks(node))


def test_a_rejection_that_is_read_before_its_thread_wakes_up(monkeypatch):
    """On a busy machine the socket may be closed again when pynetdicom looks whether it ever was open."""
    send = ACSE.send_request

    def slow(acse: ACSE) -> None:
        send(acse)
        time.sleep(0.5)

    def strict(ae) -> None:
        ae.require_called_aet = True

    monkeypatch.setattr(ACSE, "send_request", slow)
    with scp(title="OTHER", configure=strict) as node:
        refused("E-PACS-AETITLE", InputError, lambda: asks(node))


def test_an_archive_that_is_full_of_associations():
    def busy(ae) -> None:
        ae.maximum_associations = 1

    with scp(configure=busy) as node:
        first = AE("FIRST")
        first.add_requested_context("1.2.840.10008.5.1.4.1.2.2.1")
        held = first.associate(node.host, node.port, ae_title=node.ae_title)
        assert held.is_established
        refused("E-PACS-BUSY", InputError, lambda: asks(node))
        held.release()


def test_an_association_that_is_rejected_for_good():
    def reject(event: evt.Event) -> None:
        event.assoc.acse.send_reject(1, 1, 1)
        event.assoc.kill()

    with scp(handlers={evt.EVT_REQUESTED: reject}) as node:
        refused("E-PACS-REJECTED", InputError, lambda: asks(node))


def test_an_archive_without_the_service():
    def bare(ae) -> None:
        ae.supported_contexts = []
        ae.add_supported_context("1.2.840.10008.1.1")

    with scp(configure=bare) as node:
        refused("E-PACS-UNSUPPORTED", InputError, lambda: asks(node))


def test_silence_is_a_timeout():
    limits = Limits(timeout_seconds=0.5, attempts=1)

    def silent(event: evt.Event) -> Iterator:
        time.sleep(2)
        yield 0x0000, None

    with scp(handlers={evt.EVT_C_FIND: silent}, limits=limits) as node:
        refused("E-PACS-TIMEOUT", InputError, lambda: asks(node))


def test_a_connection_that_is_cut():
    def cut(event: evt.Event) -> Iterator:
        event.assoc.abort(block=False)
        time.sleep(0.2)
        yield 0x0000, None

    with scp(handlers={evt.EVT_C_FIND: cut}) as node:
        refused("E-PACS-ABORT", InputError, lambda: asks(node))


def test_what_is_no_dicom_server():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            for _ in range(2):
                server.accept()[0].close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        node = DimseNode("127.0.0.1", server.getsockname()[1], "A", limits=BRIEF)
        refused("E-PACS-ABORT", InputError, lambda: asks(node))
        thread.join(5)


@pytest.mark.parametrize(
    ("status", "code"), [(0xA700, "E-PACS-BUSY"), (0xC001, "E-PACS-SERVER"), (0xA900, "E-PACS-SERVER")]
)
def test_a_question_that_fails(status, code):
    def fail(event: evt.Event) -> Iterator:
        yield status, None

    with scp(handlers={evt.EVT_C_FIND: fail}) as node:
        refused(code, InputError, lambda: asks(node))


def test_a_destination_that_the_archive_does_not_know(files, place, tmp_path):
    def unknown(event: evt.Event) -> Iterator:
        yield None, None  # pynetdicom answers A801

    node = {"retrieve": "move", "receiver": receiver()}
    with scp(files, handlers={evt.EVT_C_MOVE: unknown}, **node) as at, open_archive(at) as archive:
        refused("E-PACS-AETITLE", InputError, lambda: pull_series(archive, *place, tmp_path, patience=HASTY))
    assert visible(tmp_path) == []


def test_a_receiver_that_cannot_listen(files, place, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as held:
        taken = receiver().__class__(port=held.getsockname()[1])
        with scp(files, retrieve="move", receiver=taken) as node, open_archive(node) as archive:
            refused("E-PACS-PORT", SettingsError, lambda: pull_series(archive, *place, tmp_path, patience=HASTY))


def test_the_receiver_takes_nothing_from_others(files, place, tmp_path):
    """A second sender with another AE title finds the door shut while a C-MOVE runs."""
    met: list[bool] = []
    home = receiver()

    def move(event: evt.Event) -> Iterator:
        stranger = AE("STRANGER")
        stranger.add_requested_context("1.2.840.10008.5.1.4.1.1.4")
        for title in ("MEDIDIFF", "OTHER"):
            stranger.ae_title = "STRANGER" if title == "MEDIDIFF" else "ARCHIVE"
            tried = stranger.associate("127.0.0.1", home.port, ae_title=title)
            met.append(tried.is_established)
        yield "127.0.0.1", home.port, {"contexts": [build_context(MR)]}
        yield from _send(event, files)

    node = {"retrieve": "move", "receiver": home}
    with scp(files, handlers={evt.EVT_C_MOVE: move}, **node) as at, open_archive(at) as archive:
        assert pull_series(archive, *place, tmp_path, patience=HASTY).instances == 5
    assert met == [False, False]
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", home.port), timeout=1)
