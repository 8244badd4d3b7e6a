"""What the tests of `medidiff.pacs` share: studies, an archive in memory, faulty servers on loopback, certificates."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from medidiff.errors import InputError, MedidiffError
from medidiff.pacs import Node, open_archive
from medidiff.pacs.answers import Refused, Series, Study
from medidiff.pacs.arrivals import Arrivals
from medidiff.pacs.instances import SYNTAXES, Instance, describe
from medidiff.pacs.nodes import DimseNode, Limits, Receiver
from medidiff.pacs.patience import Patience
from medidiff.pacs.wanted import Wanted
from tests import dicom_cases

MR = dicom_cases.CLASSES["MR"]
HASTY = Patience(attempts=3, first_seconds=0.01, most_seconds=0.02)
BRIEF = Limits(timeout_seconds=5.0, attempts=2, first_pause_seconds=0.01, longest_pause_seconds=0.02, largest_mib=1)


def study_of(folder: Path, *, series: int = 1, slices: int = 5, uids: Mapping[str, str] | None = None) -> list[Path]:
    """A study of MR series in sub-folders, planted with a patient's data."""
    study, files = dict(uids or {}).get("study", generate_uid()), []

    def same(ds: Dataset, k: int) -> None:
        ds.StudyInstanceUID = study

    for number in range(series):
        home = folder / f"s{number}"
        files += dicom_cases.series(home, modality="MR", edit=same, slices=range(slices))
    return files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A study of one series, for the tests of a module that imports this."""
    return study_of(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def place(files: list[Path]) -> tuple[str, str]:
    """UIDs of its study and series."""
    found = describe(files[0], name="x")
    return found.study, found.series


def enlarge(file: Path, side: int) -> Dataset:
    """The image of a file with so many rows and columns of noise, which no compression makes small."""
    ds = pydicom.dcmread(file)
    ds.Rows = ds.Columns = side
    ds.PixelData = np.random.default_rng(side).integers(0, 4096, (side, side), np.uint16).tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def data_set(content: bytes) -> bytes:
    """What stands behind the meta header of a DICOM file: what an archive may not change."""
    length = int.from_bytes(content[140:144], "little")  # of the group, (0002,0000)
    return content[144 + length :]


class Shelf:
    """An archive in memory, for what does not depend on how one speaks to it.

    Args:
        files: what it holds.
        trouble: called with the name of the method before it does anything; it may raise.
    """

    largest_bytes = 2**20

    def __init__(self, files: Sequence[Path] = (), trouble: Callable[[str], None] = lambda method: None) -> None:
        self.held: dict[str, tuple[str, str, str, bytes]] = {}
        self.trouble, self.asked, self.lost = trouble, [], set()
        for file in files:
            self.add(file)

    def add(self, file: Path) -> None:
        ds = pydicom.dcmread(file, stop_before_pixels=True)
        place = (str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID), str(ds.SOPClassUID), file.read_bytes())
        self.held[str(ds.SOPInstanceUID)] = place

    def _ask(self, method: str) -> None:
        self.asked.append(method)
        self.trouble(method)

    def __enter__(self) -> Shelf:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def close(self) -> None:
        pass

    def studies(self, wanted: Wanted) -> list[Study]:
        self._ask("studies")
        found = {}
        for study, *_ in self.held.values():
            if not wanted.study or wanted.study == study:
                found[study] = found.get(study, 0) + 1
        return [Study(uid, count) for uid, count in found.items()]

    def series(self, study: str) -> list[Series]:
        self._ask("series")
        own = {s: content for own, s, _, content in self.held.values() if own == study}
        headers = {uid: pydicom.dcmread(BytesIO(content), stop_before_pixels=True) for uid, content in own.items()}
        return [Series(uid, "MR", str(ds.get("SeriesDescription", ""))) for uid, ds in headers.items()]

    def instances(self, study: str, series: str) -> dict[str, str]:
        self._ask("instances")
        return {uid: kind for uid, (own, s, kind, _) in self.held.items() if (own, s) == (study, series)}

    def fetch(self, arrivals: Arrivals) -> int:
        self._ask("fetch")
        for uid in arrivals.missing:
            if uid not in self.lost:
                arrivals.take(self.held[uid][3])
                self.trouble("sent")
        return len(self.lost)

    def store(self, instances: Sequence[Instance]) -> list[Refused]:
        self._ask("store")
        for each in instances:
            assert each.uid not in self.held, "stored twice"
            self.trouble("stored")
            self.add(each.file)
        return []


# --- a DIMSE archive with faults ------------------------------------------------------------------------------------


@contextmanager
def scp(
    files: Sequence[Path] = (),
    *,
    title: str = "ARCHIVE",
    handlers: Mapping[Any, Callable[..., Any]] | None = None,
    configure: Callable[[AE], None] = lambda ae: None,
    context: Any = None,
    **node: Any,
) -> Iterator[DimseNode]:
    """A server that answers as an archive with these files does, except for the handlers that are replaced."""
    held = [pydicom.dcmread(file) for file in files]
    ae = AE(title)
    for model in (
        StudyRootQueryRetrieveInformationModelFind,
        StudyRootQueryRetrieveInformationModelGet,
        StudyRootQueryRetrieveInformationModelMove,
    ):
        ae.add_supported_context(model)
    ae.add_supported_context(MR, list(SYNTAXES), scu_role=True, scp_role=True)
    configure(ae)

    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        yield from ((0xFF00, answer) for answer in answers(held, event.identifier))

    def send(event: evt.Event) -> Iterator[Any]:
        chosen = [ds for ds in held if _asked_for(ds, event.identifier)]
        yield len(chosen)
        yield from ((0xFF00, ds) for ds in chosen)

    def move(event: evt.Event) -> Iterator[Any]:
        yield "127.0.0.1", node["receiver"].port, {"contexts": [build_context(MR)]}
        yield from send(event)

    ways = {evt.EVT_C_FIND: find, evt.EVT_C_GET: send, evt.EVT_C_MOVE: move} | dict(handlers or {})
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=list(ways.items()), ssl_context=context)
    try:
        port = server.socket.getsockname()[1]
        yield DimseNode(**{"host": "127.0.0.1", "port": port, "ae_title": "ARCHIVE", "limits": BRIEF} | node)
    finally:
        server.shutdown()
        ae.shutdown()


def _asked_for(ds: Dataset, question: Dataset) -> bool:
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        wanted = question.get(name)
        values = [wanted] if isinstance(wanted, str) else list(wanted or [])
        if any(values) and str(ds.get(name)) not in [str(value) for value in values]:
            return False
    return True


def answers(held: Sequence[Dataset], question: Dataset) -> list[Dataset]:
    """One answer for each study, series or image that a question fits, with what it asks for."""
    key = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
    name = key[question.QueryRetrieveLevel]
    found: dict[str, Dataset] = {}
    for ds in held:
        if _asked_for(ds, question):
            answer = Dataset()
            for element in question:
                if element.keyword in ds:
                    setattr(answer, element.keyword, ds.get(element.keyword))
            found.setdefault(str(ds.get(name)), answer)
    return list(found.values())


def receiver() -> Receiver:
    """A loopback address with a free port."""
    from tests.orthanc_server import free_ports

    return Receiver(port=free_ports(1)[0])


# --- a DICOMweb service with faults ---------------------------------------------------------------------------------


class Web(BaseHTTPRequestHandler):
    """Answers as the test says; keeps what was asked."""

    def do_GET(self) -> None:
        self._answer("GET", b"")

    def do_POST(self) -> None:
        self._answer("POST", self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _answer(self, method: str, body: bytes) -> None:
        self.server.seen.append((method, self.path, dict(self.headers), body))
        status, headers, content = self.server.reply(method, self.path, dict(self.headers), body)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def web(
    reply: Callable[[str, str, dict[str, str], bytes], tuple[int, dict[str, str], bytes]], *, context: Any = None
) -> Iterator[tuple[str, list[tuple[str, str, dict[str, str], bytes]]]]:
    """A DICOMweb service; yields its address and what it was asked."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.reply, server.seen = reply, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    scheme = "http" if context is None else "https"
    try:
        yield f"{scheme}://127.0.0.1:{server.server_address[1]}/dicom-web", server.seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def tls_front(port: int, context: ssl.SSLContext) -> Iterator[str]:
    """TLS in front of a plain DICOMweb service, as a reverse proxy is; yields the address."""
    server = socket.create_server(("127.0.0.1", 0))

    def carry(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(65536):
                target.sendall(content)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def serve(plain: socket.socket) -> None:
        with (
            suppress(OSError),
            context.wrap_socket(plain, server_side=True) as outer,
            socket.create_connection(("127.0.0.1", port)) as inner,
        ):
            back = threading.Thread(target=carry, args=(inner, outer), daemon=True)
            back.start()
            carry(outer, inner)
            back.join()

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"https://127.0.0.1:{server.getsockname()[1]}/dicom-web"
    finally:
        server.close()


def as_json(answers: Sequence[Mapping[str, str]]) -> tuple[int, dict[str, str], bytes]:
    """DICOM JSON of UIDs and texts by tag."""
    told = [{tag: {"vr": "LO", "Value": [value]} for tag, value in answer.items()} for answer in answers]
    return 200, {"Content-Type": "application/dicom+json"}, json.dumps(told).encode()


def as_parts(contents: Sequence[bytes], *, end: bool = True) -> tuple[int, dict[str, str], bytes]:
    """A multipart answer; without its end it was cut."""
    body = b"".join(b"--edge\r\nContent-Type: application/dicom\r\n\r\n" + each + b"\r\n" for each in contents)
    kind = 'multipart/related; type="application/dicom"; boundary=edge'
    return 200, {"Content-Type": kind}, body + (b"--edge--\r\n" if end else b"")


def failing(code: str, times: int = 1, method: str = "fetch") -> Callable[[str], None]:
    """Trouble for a `Shelf`: a fault at the first calls of a method."""
    left = [times]

    def trouble(called: str) -> None:
        if called == method and left[0] > 0:
            left[0] -= 1
            raise InputError(code, "a fault of the test")

    return trouble


SECRETS = ("SECRET", "ID-4711", "19010203", "hunter2")


def refused(code: str, kind: type[MedidiffError], action: Callable[[], object]) -> str:
    """The message of what must fail with a code, in which nothing of a patient may stand."""
    with pytest.raises(kind) as caught:
        action()
    assert caught.value.code == code, caught.value
    assert not [secret for secret in SECRETS if secret in str(caught.value)]
    return str(caught.value)


def visible(folder: Path) -> list[str]:
    """Every file below a folder."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def asks(node: Node) -> None:
    """Put one question to an archive."""
    with open_archive(node) as archive:
        archive.studies(Wanted(study="1.2.3"))
