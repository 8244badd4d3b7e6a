"""What comes from an archive, part by part, before it is believed; what statuses mean; the state of a watch."""

from __future__ import annotations

import json

import pytest

from medidiff.errors import InputError, OutputError
from medidiff.pacs.arrivals import Arrivals, Verdict
from medidiff.pacs.faults import http_fault, rejected, status_fault
from medidiff.pacs.instances import describe
from medidiff.pacs.multipart import boundary_of, parts
from medidiff.pacs.state import Entry, State
from tests import pacs_cases
from tests.pacs_cases import as_parts, study_of

files = pacs_cases.files

# --- what comes -----------------------------------------------------------------------------------------------------


@pytest.fixture
def arrivals(files, tmp_path):
    found = [describe(file, name="x") for file in files]
    awaited = {each.uid: each.kind for each in found[:4]}
    most = files[0].stat().st_size + 200
    return Arrivals(tmp_path, study=found[0].study, series=found[0].series, awaited=awaited, largest_bytes=most)


def test_awaited_instances_are_kept_as_they_are(arrivals, files):
    assert [arrivals.take(file.read_bytes()) for file in files[:4]] == [Verdict.TAKEN] * 4
    assert not arrivals.missing
    kept = {file.read_bytes() for file in arrivals.folder.glob("*.dcm")}
    assert kept == {file.read_bytes() for file in files[:4]}
    assert arrivals.take(files[0].read_bytes()) is Verdict.AGAIN


def test_what_was_not_asked_for_is_not_kept(arrivals, files, tmp_path):
    other = study_of(tmp_path / "other", slices=1)[0].read_bytes()
    assert arrivals.take(other) is Verdict.FOREIGN
    assert arrivals.take(files[4].read_bytes()) is Verdict.FOREIGN  # of the series, but not awaited
    assert not list(arrivals.folder.glob("*.dcm"))
    assert arrivals.told() == "2 not asked for"


def _renamed(content: bytes, uid: str) -> bytes:
    """A file whose data set and meta header carry another SOP instance UID of the same length."""
    old = describe(content, name="x").uid.encode()
    return content.replace(old, uid.encode().ljust(len(old), b"\0"))


@pytest.mark.parametrize("fault", ["cut", "empty", "no meta", "junk", "path", "two names", "too large"])
def test_damaged_instances_are_not_kept(fault, arrivals, files):
    good = files[0].read_bytes()
    uid = describe(good, name="x").uid.encode()
    broken = {
        "cut": good[:-20],
        "empty": b"",
        "no meta": good[132:],
        "junk": b"<html>no</html>" * 50,
        "path": _renamed(good, "../../evil"),
        "two names": good.replace(uid, uid[:-1] + (b"1" if uid[-1:] != b"1" else b"2"), 1),
        "too large": good + bytes(1000),
    }[fault]
    assert arrivals.take(broken) is Verdict.DAMAGED
    assert not list(arrivals.folder.glob("**/*.dcm"))
    assert not list(arrivals.folder.parent.glob("evil*"))


def test_a_full_disk_is_the_answer_that_is_given(arrivals, files, monkeypatch):
    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    assert arrivals.take(files[0].read_bytes()) is Verdict.FULL
    with pytest.raises(OutputError, match="E-DISK"):
        arrivals.raise_fault()
    assert len(arrivals.missing) == 4


# --- parts of an answer ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_parts_are_whole_however_the_answer_is_cut(size):
    contents = [b"one\r\n--edg", b"", bytes(range(256)) * 3, b"-\r\n-edge", b"\r\n"]
    body = as_parts(contents)[2]
    chunks = [body[n : n + size] for n in range(0, len(body), size)]
    assert list(parts(chunks, b"edge", largest_bytes=10_000)) == contents


def test_an_answer_that_is_cut_yields_whole_parts_only():
    body = as_parts([b"first" * 9, b"second" * 9])[2]
    found: list[bytes] = []
    with pytest.raises(InputError, match="E-PACS-ABORT"):
        found.extend(parts([body[:-30]], b"edge", largest_bytes=1000))
    assert found == [b"first" * 9]


def test_a_part_without_end_is_cut_off():
    def endless():
        yield b"--edge\r\n\r\n"
        while True:
            yield bytes(4096)

    with pytest.raises(InputError, match="E-PACS-ANSWER"):
        list(parts(endless(), b"edge", largest_bytes=100_000))


def test_a_part_without_a_header_is_refused():
    with pytest.raises(InputError, match="E-PACS-ANSWER"):
        list(parts([b"--edge\r\nx\r\n--edge--\r\n"], b"edge", largest_bytes=100))


def test_boundaries():
    assert boundary_of('multipart/related; type="application/dicom"; boundary="a b"') == b"a b"
    assert boundary_of("text/html") is None
    with pytest.raises(InputError, match="E-PACS-ANSWER"):
        boundary_of("multipart/related")


# --- statuses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (rejected(1, 1, 3), "E-PACS-AETITLE"),
        (rejected(1, 1, 7), "E-PACS-AETITLE"),
        (rejected(1, 1, 1), "E-PACS-REJECTED"),
        (rejected(2, 3, 2), "E-PACS-BUSY"),
        (status_fault(0xA801, asked="C-MOVE"), "E-PACS-AETITLE"),
        (status_fault(0xA702, asked="C-MOVE"), "E-PACS-BUSY"),
        (status_fault(0xA700, asked="C-STORE"), "E-PACS-FULL"),
        (status_fault(0xC000, asked="C-FIND"), "E-PACS-SERVER"),
        (status_fault(0x0124, asked="C-STORE"), "E-PACS-LOGIN"),
        (status_fault(0x0122, asked="C-GET"), "E-PACS-UNSUPPORTED"),
        (status_fault(0xFE00, asked="C-GET"), "E-PACS-ABORT"),
        (http_fault(401, asked="QIDO"), "E-PACS-LOGIN"),
        (http_fault(403, asked="QIDO"), "E-PACS-LOGIN"),
        (http_fault(404, asked="QIDO"), "E-PACS-HTTP"),
        (http_fault(302, asked="QIDO"), "E-PACS-HTTP"),
        (http_fault(408, asked="WADO"), "E-PACS-TIMEOUT"),
        (http_fault(429, asked="WADO"), "E-PACS-BUSY"),
        (http_fault(500, asked="WADO"), "E-PACS-SERVER"),
        (http_fault(503, asked="WADO"), "E-PACS-BUSY"),
        (http_fault(507, asked="STOW"), "E-PACS-FULL"),
    ],
)
def test_each_status_has_one_code(fault, code):
    assert fault.code == code


# --- the state of a watch -------------------------------------------------------------------------------------------


def test_the_state_survives_and_a_cut_line_is_left_out(tmp_path):
    path = tmp_path / "state.jsonl"
    state = State(path)
    state.put(Entry("1.2.3", "seen", 5, 1.0))
    state.put(Entry("1.2.3", "pulled", 5, 2.0))
    state.put(Entry("1.2.4", "seen", 1, 3.0))
    state.close()
    assert path.stat().st_mode & 0o077 == 0
    path.write_bytes(path.read_bytes()[:-9])
    again = State(path)
    assert again.entries == {"1.2.3": Entry("1.2.3", "pulled", 5, 2.0)}
    again.put(Entry("1.2.5", "seen", 1, 4.0))
    again.close()
    last = State(path)
    assert set(last.entries) == {"1.2.3", "1.2.5"}
    last.close()


def test_two_watches_never_share_a_state(tmp_path):
    state = State(tmp_path / "state.jsonl")
    with pytest.raises(OutputError, match="E-LOCKED"):
        State(tmp_path / "state.jsonl")
    state.close()


@pytest.mark.parametrize("line", ["a diary\n", json.dumps({"study": "../x", "step": "seen"}) + "\n"])
def test_another_file_is_no_state(line, tmp_path):
    (tmp_path / "state.jsonl").write_text(line)
    with pytest.raises(InputError, match="E-RECORD"):
        State(tmp_path / "state.jsonl")


def test_a_link_is_no_state(tmp_path):
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / "state.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="E-OUT"):
        State(tmp_path / "state.jsonl")
