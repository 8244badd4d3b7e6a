"""Identifiers planted in a study that goes from an archive through a restoration back to it reach nothing that tells.

No message, log, record, report, file name or tracking store holds one, although a patient's number is part of the
command line here. What comes from the archive and what goes back are the patient's own DICOM files; their names are
UIDs, or say nothing.
"""

from __future__ import annotations

import gc
import re
import shutil
import socket
import sys
import threading
from pathlib import Path

import pydicom
import pytest
from pynetdicom import evt

from medidiff.cli import session
from medidiff.pacs.nodes import DimseNode
from medidiff.pacs.state import STATE_FILE
from tests import planted
from tests.pacs_cases import answers, scp
from tests.test_planted import NAMES, SECRETS, Watch, prior, series

__all__ = ["prior"]  # a fixture

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <s:ResourceWarning")
ACCESSION, PATIENT = planted.PLANTED["AccessionNumber"], planted.PLANTED["PatientID"]
PRIVATE = ("manifest.jsonl", "settings.json", "refused.csv")  # of a batch, for its owner only


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch):
    """Nobody is talked to but this machine."""
    for name in ("connect", "connect_ex"):
        original = getattr(socket.socket, name)

        def checked(self, address, *, original=original):
            assert self.family == socket.AF_UNIX or address[0] == "127.0.0.1", address
            return original(self, address)

        monkeypatch.setattr(socket.socket, name, checked)
    yield
    gc.collect()  # sockets of connections that failed, while their warning is ignored


@pytest.fixture
def archive(tmp_path):
    """An archive that holds a planted study and keeps what it is sent; the node, and what it holds."""
    home = tmp_path / "PLANTFOLDER 1937-04-19"
    home.mkdir()
    files = sorted(series(home, slices=range(8)).glob("*.dcm"))
    held = [pydicom.dcmread(file) for file in files]
    lock = threading.Lock()

    def find(event: evt.Event):
        with lock:
            found = answers(held, event.identifier)
        yield from ((0xFF00, answer) for answer in found)

    def store(event: evt.Event) -> int:
        ds = event.dataset
        ds.file_meta = event.file_meta
        with lock:
            held.append(ds)
        return 0

    with scp(files, handlers={evt.EVT_C_FIND: find, evt.EVT_C_STORE: store}) as node:
        yield node, held


class Desk(Watch):
    """Looks at what commands say, and at each folder that they write."""

    def __init__(self, folder: Path, *looks: object) -> None:
        super().__init__(folder, *looks)
        self.folder = folder

    def look(self, folder: Path) -> int:
        """How many files of a folder were looked into; DICOM files may hold identity, their names never."""
        count = 0
        for file in folder.rglob("*"):
            name = str(file.relative_to(folder))
            own = "pulled" in file.parts or folder.name == "tree"  # studies and series are called by their UIDs
            secrets = [each for each in (*SECRETS, *NAMES) if not (own and re.fullmatch(r"[0-9.]+", each))]
            assert planted.found_in(name.encode(), secrets) == [], name
            if file.is_file() and file.suffix != ".dcm" and file.name not in PRIVATE:
                told = secrets if file.name == STATE_FILE else (*SECRETS, *NAMES)
                assert planted.found_in(file.read_bytes(), told) == [], name
                count += 1
        return count


@pytest.fixture
def desk(tmp_path, capfd, caplog, recwarn) -> Desk:
    caplog.set_level("DEBUG")
    return Desk(tmp_path / "said", capfd, caplog, recwarn)


def address(node: DimseNode) -> str:
    return f"ARCHIVE@127.0.0.1:{node.port}"


def test_a_study_from_the_archive_and_back(archive, desk, prior, empty_store, tmp_path):
    node, held = archive
    tree, store = tmp_path / "tree", tmp_path / "mlflow" / "mlflow.db"
    store.parent.mkdir()
    shutil.copy(empty_store, store)
    tracking = ("--tracking", f"sqlite:///{store}")
    for question in (("--accession", ACCESSION), ("--patient", PATIENT)):
        assert desk.command("pacs", "pull", address(node), tree, *question) == 0
    (source,) = tree.glob("*/*/")
    derived = tmp_path / "derived"
    words = ("--prior", prior, "--device", "cpu", "--noise-level", "9")
    page = ("--report", tmp_path / "pages" / "page.html")
    assert desk.command("denoise", source, derived, *words, *page, *tracking) == 0
    record = ("--record", tmp_path / "pages" / "push.jsonl")
    assert desk.command("pacs", "push", address(node), derived, *record) == 0
    assert len(held) == 16
    assert {str(ds.PatientName) for ds in held} == {planted.PLANTED["PatientName"]}  # it is the patient's study still
    for name in ("tree", "derived", "pages", "mlflow"):
        assert desk.look(tmp_path / name) > 0, name


def test_a_batch_of_what_an_archive_has(archive, desk, prior, empty_store, tmp_path):
    node, _ = archive
    store = tmp_path / "mlflow" / "mlflow.db"
    store.parent.mkdir()
    shutil.copy(empty_store, store)
    words = ("--prior", prior, "--device", "cpu", "--noise-level", "9", "--workers", "1")
    question = f"pacs:{address(node)}?accession={ACCESSION}&patient={PATIENT}"
    batch = ("batch", "denoise", question, tmp_path / "out", *words)
    assert desk.command(*batch, "--tracking", f"sqlite:///{store}") == 0
    assert desk.command(*batch, "--json") == 0
    assert desk.command("batch", "status", tmp_path / "out", "--refused") == 0
    assert desk.command("qc", tmp_path / "out", "-o", tmp_path / "pages" / "all.html") == 0
    assert desk.command(*batch[:2], f"{question}&dates=20180711", *batch[3:]) == 5
    for name in ("out", "pages", "mlflow"):
        assert desk.look(tmp_path / name) > 0, name
    private = [tmp_path / "out" / ".medidiff" / name for name in PRIVATE[:2]]
    assert {path.stat().st_mode & 0o077 for path in private} == {0}


@pytest.mark.parametrize("fault", ["cut", "refused", "half", "title", "wild", "nobody"])
def test_an_archive_with_faults(fault, archive, desk, prior, tmp_path):
    _, held = archive

    def find(event: evt.Event):
        if fault == "cut":
            event.assoc.abort()
        elif fault == "refused":
            yield 0xC001, None
        elif fault != "nobody":
            yield from ((0xFF00, answer) for answer in answers(held, event.identifier))

    def send(event: evt.Event):
        yield len(held)
        yield from ((0xFF00, ds) for ds in held[:3])
        yield 0xC000, None

    handlers = {evt.EVT_C_FIND: find, evt.EVT_C_GET: send}
    strict = {"configure": lambda ae: setattr(ae, "require_called_aet", True)} if fault == "title" else {}
    words = ("--prior", prior, "--device", "cpu", "--workers", "1")
    accession = {"wild": f"{ACCESSION}*", "nobody": f"{ACCESSION}-{PATIENT}"}.get(fault, ACCESSION)
    with scp(title="OTHER", handlers=handlers, **strict) as broken:
        config = tmp_path / "nodes.toml"
        limits = "limits = { attempts = 2, first_pause_seconds = 0.01, timeout_seconds = 5 }"
        config.write_text(f'[nodes.a]\nhost = "127.0.0.1"\nport = {broken.port}\nae_title = "ARCHIVE"\n{limits}\n')
        to = ("--config", config)
        assert desk.command("pacs", "pull", "a", tmp_path / "tree", "--accession", accession, *to) != 0
        batch = ("batch", "denoise", f"pacs:a?accession={accession}", tmp_path / "out", *words, *to)
        assert desk.command(*batch) != 0
    for name in ("tree", "out"):
        desk.look(tmp_path / name)


def test_a_watch_whose_command_fails(archive, desk, tmp_path):
    node, _ = archive
    words = ("pacs", "watch", address(node), tmp_path / "tree", "--patient", PATIENT, "--settle", "0", "--every", "0")
    fails = f"{sys.executable} -c 'raise SystemExit(3)'"
    assert desk.command(*words, "--looks", "2", "--run", fails) == 7
    assert desk.look(tmp_path / "tree") > 0


def test_a_number_that_is_written_down_would_be_found(archive, desk, monkeypatch, tmp_path):
    """A broken instance: a record of what was typed, the patient's number included."""
    node, _ = archive
    monkeypatch.setattr(session, "_SECRET", ())
    assert desk.command("pacs", "pull", address(node), tmp_path / "tree", "--patient", PATIENT) == 0
    with pytest.raises(AssertionError, match=re.escape(PATIENT)):
        desk.look(tmp_path / "tree")
