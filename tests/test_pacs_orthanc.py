"""Against a real Orthanc on loopback: a study is pulled, denoised and pushed back, by DIMSE and by DICOMweb; TLS, a
password, a token; a server that is killed half way; a watch. Where CI tried to install Orthanc and could not, all of
this is skipped, and CI says so."""

from __future__ import annotations

import json
import os
import sys
import threading
import time

import numpy as np
import pydicom
import pytest

import medidiff.cli as cli
from medidiff.batch.job import Batch
from medidiff.errors import InputError
from medidiff.io import read
from medidiff.pacs import Wanted, open_archive, pull_series, pull_study, push_folder
from medidiff.pacs.instances import describe
from medidiff.pacs.nodes import Auth, DimseNode, Limits, Receiver, WebNode
from medidiff.pacs.patience import Patience
from tests import dicom_cases
from tests.batch_cases import ended, events, forked
from tests.certificates import Authority
from tests.cli_cases import document, refused
from tests.orthanc_server import Orthanc, running
from tests.pacs_cases import HASTY, data_set, enlarge, study_of, tls_front
from tests.servers import require

# pynetdicom leaves the socket of a connection that failed to be collected
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <s:ResourceWarning")


@pytest.fixture(scope="module", autouse=True)
def orthanc_is_installed():
    require("orthanc")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("orthanc")) as orthanc:
        yield orthanc


@pytest.fixture(scope="module", params=["get", "move", "web"])
def node(request, server):
    if request.param == "web":
        return WebNode(server.web)
    ours = Receiver(port=server.our_port)
    return DimseNode("127.0.0.1", server.dicom_port, "ORTHANC", retrieve=request.param, receiver=ours)


def _config(folder, server: Orthanc) -> str:
    file = folder / "nodes.toml"
    file.write_text(
        f'[nodes.get]\nhost = "127.0.0.1"\nport = {server.dicom_port}\nae_title = "ORTHANC"\n'
        f'[nodes.move]\nhost = "127.0.0.1"\nport = {server.dicom_port}\nae_title = "ORTHANC"\nretrieve = "move"\n'
        f"receiver = {{ port = {server.our_port} }}\n"
        f'[nodes.web]\nurl = "{server.web}"\n'
    )
    return str(file)


@pytest.mark.parametrize("way", ["get", "move", "web"])
def test_a_study_is_pulled_denoised_and_pushed_back(way, server, card, tmp_path, capsys):
    files = study_of(tmp_path / "in", slices=12)
    with open_archive(WebNode(server.web)) as archive:
        push_folder(archive, tmp_path / "in", patience=HASTY)
    source = pydicom.dcmread(files[0])
    to = ["--config", _config(tmp_path, server)]
    study = ["--study", source.StudyInstanceUID]
    told = document(["pacs", "pull", way, tmp_path / "tree", *study, *to], capsys)
    assert (told["complete"], told["instances"], told["fetched"]) == (1, 12, 12)
    series = tmp_path / "tree" / source.StudyInstanceUID / source.SeriesInstanceUID
    assert {data_set(file.read_bytes()) for file in series.glob("*.dcm")} == {
        data_set(file.read_bytes()) for file in files
    }
    assert document(["pacs", "pull", way, tmp_path / "tree", *study, *to], capsys)["fetched"] == 0

    assert cli.main([str(word) for word in ("denoise", series, tmp_path / "derived", "--prior", card)]) == 0
    capsys.readouterr()
    told = document(["pacs", "push", way, tmp_path / "derived", *to], capsys)
    assert (told["sent"], told["present"], told["series"]) == (12, 0, 1)
    told = document(["pacs", "push", way, tmp_path / "derived", *to], capsys)
    assert (told["sent"], told["present"]) == (0, 12)

    document(["pacs", "pull", way, tmp_path / "back", *study, *to], capsys)
    made = {(ds := pydicom.dcmread(file)).SOPInstanceUID: ds for file in (tmp_path / "derived").glob("*.dcm")}
    new = next(iter(made.values())).SeriesInstanceUID
    assert new != source.SeriesInstanceUID
    back = [pydicom.dcmread(file) for file in (tmp_path / "back" / source.StudyInstanceUID / new).glob("*.dcm")]
    assert len(back) == 12
    sources = {describe(file, name="x").uid for file in files}
    for ds in back:
        np.testing.assert_array_equal(ds.pixel_array, made[ds.SOPInstanceUID].pixel_array)
        assert ds.StudyInstanceUID == source.StudyInstanceUID
        assert ds.FrameOfReferenceUID == source.FrameOfReferenceUID
        assert {item.ReferencedSOPInstanceUID for item in ds.SourceImageSequence} <= sources
        assert ds.ImageType[0] == "DERIVED"
    record = b"".join(path.read_bytes() for path in tmp_path.rglob("*.record.jsonl"))
    assert record
    for secret in (*dicom_cases.SECRETS, source.StudyInstanceUID):
        assert secret.encode() not in record
    assert not [path for path in (tmp_path / "tree").rglob("*") for s in dicom_cases.SECRETS[:3] if s in path.name]


@pytest.mark.parametrize("way", ["move", "web"])
def test_a_query_is_the_input_of_a_batch(way, server, card, tmp_path, capsys):
    """The same command is started twice at once; each of four series comes once and is denoised once."""
    number = f"ACC-{way}"
    for name in ("one", "two"):
        for file in study_of(tmp_path / "in" / name, series=2, slices=8):
            ds = pydicom.dcmread(file)
            ds.AccessionNumber = number
            ds.save_as(file)
    with open_archive(WebNode(server.web)) as archive:
        push_folder(archive, tmp_path / "in", patience=HASTY)
    out = tmp_path / "out"
    words = ["batch", "denoise", f"pacs:{way}?accession={number}&modality=MR", out, "--noise-level", 50]
    words += ["--prior", card, "--workers", 1, "--config", _config(tmp_path, server)]
    crew = [forked(lambda: cli.main([*map(str, words)]) and os._exit(9)) for _ in range(2)]
    assert [ended(each) for each in crew] == [0, 0]
    batch = Batch(out)
    assert [case.state for case in events(batch)] == ["done"] * 4
    for case in batch.manifest:
        made = out / batch.records.done(case.name).results["mean"]
        assert read(made).geometry == read(case.input).geometry
    sent = {data_set(file.read_bytes()) for file in (tmp_path / "in").rglob("*.dcm")}
    assert {data_set(file.read_bytes()) for file in (out / ".medidiff" / "pulled").rglob("*.dcm")} == sent
    capsys.readouterr()
    assert document(words, capsys)["run"]["kept"] == 4


@pytest.mark.parametrize(
    "question",
    [
        {"patient": "ID-4711"},
        {"accession": "ACC1"},
        {"dates": "20200101"},
        {"dates": "20191201-20200131", "modalities": ("MR",)},
    ],
)
def test_studies_are_found_by_each_condition(question, node, server, tmp_path):
    files = study_of(tmp_path, slices=1)
    with open_archive(node) as archive:
        push_folder(archive, tmp_path, patience=HASTY)
        uid = describe(files[0], name="x").study
        assert uid in [study.uid for study in archive.studies(Wanted(**question))]
        assert archive.studies(Wanted(**question | {"patient": "ID-4712"})) == []
        assert archive.studies(Wanted(**question | {"dates": "20210101-"})) == []
        assert archive.studies(Wanted(**question | {"modalities": ("CT",)})) == []


SYNTAXES = {
    "RLE": "1.2.840.10008.1.2.5",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG 2000": "1.2.840.10008.1.2.4.90",
    "implicit": "1.2.840.10008.1.2",
}


def test_transfer_syntaxes_are_kept_as_they_are(node, tmp_path):
    study = {"study": pydicom.uid.generate_uid()}
    kept = {}
    for name, syntax in SYNTAXES.items():
        for file in study_of(tmp_path / name, slices=1, uids=study):
            ds = enlarge(file, 64)
            if name == "implicit":
                ds.file_meta.TransferSyntaxUID = syntax
                ds.save_as(file, implicit_vr=True, little_endian=True)
            else:
                ds.compress(syntax, generate_instance_uid=False)
                ds.save_as(file)
            kept[ds.SOPInstanceUID] = (syntax, data_set(file.read_bytes()))
    with open_archive(node) as archive:
        push_folder(archive, tmp_path, patience=HASTY)
        pulled = pull_study(
            archive, study["study"], tmp_path / "out", wanted=Wanted(study=study["study"]), patience=HASTY
        )
    assert pulled.complete
    for series in pulled.series:
        for file in series.fetched:
            found = describe(file, name="x")
            assert (found.syntax, data_set(file.read_bytes())) == kept.pop(found.uid)
    assert not kept


def test_nothing_that_fits_ends_with_8(server, tmp_path, capsys):
    to = ["--config", _config(tmp_path, server)]
    line = refused(["pacs", "pull", "get", tmp_path / "tree", "--patient", "ID-4799", *to], capsys, code=8)
    assert "E-PACS-NONE" in line
    assert "ID-4799" not in line


def test_a_dry_run_counts_and_writes_nothing(server, tmp_path, capsys):
    files = study_of(tmp_path / "in", series=2, slices=3)
    with open_archive(WebNode(server.web)) as archive:
        push_folder(archive, tmp_path / "in", patience=HASTY)
    study = describe(files[0], name="x").study
    words = ["pacs", "pull", server.web, tmp_path / "tree", "--study", study, "--modality", "mr", "--dry-run"]
    told = document(words, capsys)
    assert (told["studies"], told["series"], told["instances"], told["modalities"]) == (1, 2, 6, {"MR": 2})
    assert not (tmp_path / "tree").exists()


# --- who may --------------------------------------------------------------------------------------------------------


def _exchange(node, folder) -> None:
    """Push a small study, pull it, compare."""
    files = study_of(folder / "in", slices=2)
    found = describe(files[0], name="x")
    with open_archive(node) as archive:
        push_folder(archive, folder / "in", patience=HASTY)
        pulled = pull_series(archive, found.study, found.series, folder / "out", patience=HASTY)
    assert {data_set(file.read_bytes()) for file in pulled.fetched} == {data_set(file.read_bytes()) for file in files}


def test_tls_with_our_own_authority(tmp_path):
    authority = Authority(tmp_path / "ca")
    theirs, ours = authority.issue("theirs"), authority.issue("ours")
    settings = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(theirs.certificate),
        "DicomTlsPrivateKey": str(theirs.key),
        "DicomTlsTrustedCertificates": str(authority.file),
        "DicomTlsRemoteCertificateRequired": True,
    }
    orthanc = Orthanc(tmp_path / "orthanc", **settings)
    known = {"AET": "MEDIDIFF", "Host": "127.0.0.1", "Port": orthanc.our_port, "UseDicomTls": True}
    orthanc = Orthanc(tmp_path / "orthanc", **settings, DicomModalities={"medidiff": known})
    try:
        orthanc.start()
        at = {"host": "127.0.0.1", "port": orthanc.dicom_port, "ae_title": "ORTHANC", "tls": ours}
        _exchange(DimseNode(**at), tmp_path / "get")
        _exchange(DimseNode(**at, retrieve="move", receiver=Receiver(port=known["Port"])), tmp_path / "move")
        stranger = Authority(tmp_path / "stranger").issue("ours")
        trusting = type(ours)(authority.file, stranger.certificate, stranger.key)
        for tls in (trusting, None):
            _cannot_ask(DimseNode(**at | {"tls": tls}))
        # Debian's Orthanc 1.10.1 itself crashes at any HTTPS request, so that TLS stands in front of it
        with tls_front(orthanc.http_port, theirs.context(receives=True)) as address:
            _exchange(WebNode(address, ours), tmp_path / "web")
            _cannot_ask(WebNode(address, trusting))
            _cannot_ask(WebNode(address, stranger))
    finally:
        orthanc.stop()


def _cannot_ask(node) -> None:
    with open_archive(node) as archive, pytest.raises(InputError) as error:
        archive.studies(Wanted(study="1.2.3"))
    assert error.value.code in ("E-PACS-TLS", "E-PACS-ABORT", "E-PACS-REACH")


LUA = """
function IncomingHttpRequestFilter(method, uri, ip, username, httpHeaders)
  return httpHeaders['authorization'] == 'Bearer hunter2'
end
"""


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_a_password_or_a_token(kind, tmp_path, monkeypatch):
    if kind == "basic":
        settings = {"AuthenticationEnabled": True, "RegisteredUsers": {"me": "hunter2"}}
    else:
        (tmp_path / "filter.lua").write_text(LUA)
        settings = {"LuaScripts": [str(tmp_path / "filter.lua")]}
    auth = {"kind": kind, "user": "me" if kind == "basic" else "", "variable": "OUR_SECRET"}
    with running(tmp_path / "orthanc", **settings) as orthanc:
        monkeypatch.setenv("OUR_SECRET", "hunter2")
        _exchange(WebNode(orthanc.web, auth=Auth(**auth)), tmp_path / "web")
        monkeypatch.setenv("OUR_SECRET", "hunter3")
        for way in (Auth(**auth), None):
            with open_archive(WebNode(orthanc.web, auth=way)) as archive, pytest.raises(InputError) as error:
                archive.studies(Wanted(study="1.2.3"))
            assert error.value.code == "E-PACS-LOGIN"
            assert "hunter" not in str(error.value)


def test_a_wrong_title(server):
    node = DimseNode("127.0.0.1", server.dicom_port, "OTHER")
    with open_archive(node) as archive, pytest.raises(InputError, match="E-PACS-AETITLE"):
        archive.studies(Wanted(study="1.2.3"))


# --- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["get", "web"])
def test_a_server_that_is_killed_half_way(way, tmp_path):
    """Half of the series has come when the server dies; it is started again, and the same pull ends whole."""
    files = study_of(tmp_path / "in", slices=24)
    for file in files:  # more than what fits between two sockets
        enlarge(file, 512).save_as(file)
    found = describe(files[0], name="x")
    with running(tmp_path / "orthanc") as orthanc:
        limits = Limits(timeout_seconds=20)
        at = DimseNode("127.0.0.1", orthanc.dicom_port, "ORTHANC", limits=limits)
        node = at if way == "get" else WebNode(orthanc.web, limits=limits)
        with open_archive(node) as archive:
            push_folder(archive, tmp_path / "in", patience=HASTY)
            killed, seen = threading.Event(), []

            def watch(taken: int, total: int) -> None:
                seen.append((taken, [p.name for p in (tmp_path / "out").rglob("*.dcm") if _is_visible(p)]))

            def kill() -> None:
                orthanc.kill()
                killed.set()
                time.sleep(0.5)
                orthanc.start()

            _kill_after(archive, 4, kill)
            patience = Patience(attempts=60, first_seconds=0.5, most_seconds=1.0)
            pulled = pull_series(archive, found.study, found.series, tmp_path / "out", patience=patience, report=watch)
        assert killed.is_set()
    assert seen[0][0] < 24, "the server died too late"
    assert all(names == [] for _, names in seen)
    assert {data_set(file.read_bytes()) for file in pulled.fetched} == {data_set(file.read_bytes()) for file in files}


def _is_visible(path) -> bool:
    return not any(part.startswith(".medidiff-") for part in path.parts)


def _kill_after(archive, count: int, kill) -> None:
    """Have the server die when so many instances have come, in the middle of what it sends."""
    fetch, done = archive.fetch, []

    def watched(arrivals):
        take = arrivals.take

        def taken(content: bytes):
            verdict = take(content)
            if arrivals.taken == count and not done:
                done.append(True)
                kill()
            return verdict

        arrivals.take = taken
        return fetch(arrivals)

    archive.fetch = watched


# --- watching -------------------------------------------------------------------------------------------------------


def test_a_watch_hands_on_each_new_study_once(tmp_path, capsys):
    with running(tmp_path / "orthanc") as orthanc:
        _watched(orthanc, tmp_path, capsys)


def _watched(orthanc: Orthanc, folder, capsys) -> None:
    node = WebNode(orthanc.web)
    old = study_of(folder / "old", slices=2)
    with open_archive(node) as archive:
        push_folder(archive, folder / "old", patience=HASTY)
    script = folder / "hand.py"
    script.write_text(
        "import pathlib, sys\n"
        f"log = pathlib.Path({str(folder / 'log')!r})\n"
        "files = list(pathlib.Path(sys.argv[1]).rglob('*.dcm'))\n"
        "log.open('a').write(f'{pathlib.Path(sys.argv[1]).name} {len(files)}\\n')\n"
    )
    words = ["pacs", "watch", f"ORTHANC@127.0.0.1:{orthanc.dicom_port}", folder / "tree", "--modality", "MR"]
    words += ["--run", f"{sys.executable} {script}", "--settle", "0", "--every", "0", "--new-only", "--looks"]
    assert document([*words, 1], capsys)["studies"] == 0  # what was there is left aside
    new = study_of(folder / "new", series=2, slices=2)
    with open_archive(node) as archive:
        push_folder(archive, folder / "new", patience=HASTY)
    told = document([*words, 2], capsys)
    assert (told["studies"], told["failed"]) == (1, [])
    assert document([*words, 2], capsys)["studies"] == 0  # started again: nothing is done twice
    uid = describe(new[0], name="x").study
    assert (folder / "log").read_text() == f"{uid} 4\n"
    assert not (folder / "tree" / describe(old[0], name="x").study).exists()
    state = [json.loads(line) for line in (folder / "tree" / "medidiff.watch.jsonl").read_text().splitlines()]
    assert [line["step"] for line in state] == ["passed", "seen", "pulled", "handed"]
