"""TLS by either way, and DICOMweb services that refuse, redirect, answer without end or in part, or do not take."""

from __future__ import annotations

import time

import pytest

from medidiff.errors import InputError, OutputError, SettingsError
from medidiff.pacs import Wanted, open_archive, pull_series, push_folder
from medidiff.pacs.instances import describe
from medidiff.pacs.nodes import Auth, DimseNode, Limits, Tls, WebNode
from medidiff.pacs.patience import Patience
from tests import pacs_cases
from tests.certificates import Authority
from tests.pacs_cases import (
    BRIEF,
    HASTY,
    as_json,
    as_parts,
    asks,
    refused,
    scp,
    visible,
    web,
)

# pynetdicom leaves the socket of a connection that failed to be collected
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <s:ResourceWarning")

files, place = pacs_cases.files, pacs_cases.place


# --- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


def test_tls_both_ways(authority, files, place, tmp_path):
    server, ours = authority.issue("server"), authority.issue("ours")
    with scp(files, context=server.context(receives=True), tls=ours) as node, open_archive(node) as archive:
        assert pull_series(archive, *place, tmp_path, patience=HASTY).instances == 5


@pytest.mark.parametrize("fault", ["other authority", "no certificate", "other name", "no tls"])
def test_tls_that_does_not_hold(fault, authority, tmp_path):
    server, ours = authority.issue("server"), authority.issue("ours")
    tls = {
        "other authority": Tls(Authority(tmp_path / "other").file, ours.certificate, ours.key),
        "no certificate": Tls(authority.file),
        "other name": Tls(ours.ca, ours.certificate, ours.key, server_name="pacs.example"),
        "no tls": ours,
    }[fault]
    context = None if fault == "no tls" else server.context(receives=True)
    with scp(context=context, tls=tls) as node:
        refused("E-PACS-TLS", InputError, lambda: asks(node))


def test_tls_of_a_web_service(authority, tmp_path):
    server, other = authority.issue("server"), Authority(tmp_path / "other")
    with web(lambda *_: as_json([]), context=server.context(receives=True)) as (address, _):
        asks(WebNode(address, authority.issue("ours"), limits=BRIEF))
        refused("E-PACS-TLS", InputError, lambda: asks(WebNode(address, Tls(other.file), limits=BRIEF)))


def test_certificates_that_are_none(tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    for tls in (Tls(tmp_path / "ca.pem"), Tls(tmp_path / "missing.pem")):
        refused("E-PACS-NODE", SettingsError, lambda tls=tls: asks(DimseNode("127.0.0.1", 1, "A", tls=tls)))


# --- DICOMweb -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "E-PACS-HTTP"),
        (401, "E-PACS-LOGIN"),
        (403, "E-PACS-LOGIN"),
        (404, "E-PACS-HTTP"),
        (429, "E-PACS-BUSY"),
        (500, "E-PACS-SERVER"),
        (503, "E-PACS-BUSY"),
    ],
)
def test_http_statuses(status, code):
    with web(lambda *_: (status, {}, b"SECRET")) as (address, _):
        refused(code, InputError, lambda: asks(WebNode(address, limits=BRIEF)))


@pytest.mark.parametrize("asked", ["QIDO", "WADO"])
def test_a_busy_service_is_left_alone_as_long_as_it_asks(asked, files, place, tmp_path):
    study, series = place
    busy, waits = [503, 429], []

    def reply(method, path, headers, body):
        answers = {"WADO": path.endswith(f"/series/{series}"), "QIDO": "/instances" in path}
        if answers[asked] and busy:
            return busy.pop(), {"Retry-After": "17"}, b""
        if answers["WADO"]:
            return as_parts([file.read_bytes() for file in files])
        uids = [describe(file, name="x").uid for file in files]
        return as_json([{"0020000D": study, "0020000E": series, "00080018": uid} for uid in uids])

    patience = Patience(first_seconds=1.0, pause=waits.append, uniform=lambda low, high: high)
    with web(reply) as (address, _), open_archive(WebNode(address, limits=BRIEF)) as archive:
        pulled = pull_series(archive, study, series, tmp_path, patience=patience)
    assert len(pulled.fetched) == len(files)
    assert waits == [18.0, 19.0]


def test_a_redirection_is_not_followed(monkeypatch):
    monkeypatch.setenv("OUR_TOKEN", "hunter2")
    auth = Auth("bearer", variable="OUR_TOKEN")
    with web(lambda *_: as_json([])) as (elsewhere, seen):
        with web(lambda *_: (302, {"Location": elsewhere}, b"")) as (address, _):
            refused("E-PACS-HTTP", InputError, lambda: asks(WebNode(address, auth=auth, limits=BRIEF)))
        assert seen == []


def test_no_proxy_and_no_netrc_of_the_environment(monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with web(lambda *_: as_json([])) as (address, seen):
        asks(WebNode(address, limits=BRIEF))
    assert len(seen) == 1
    assert "Authorization" not in seen[0][2]


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_secrets_go_into_the_header_alone(kind, monkeypatch, capfd):
    monkeypatch.setenv("OUR_TOKEN", "hunter2")
    auth = Auth(kind, user="me" if kind == "basic" else "", variable="OUR_TOKEN")
    with web(lambda *_: as_json([])) as (address, seen):
        asks(WebNode(address, auth=auth, limits=BRIEF))
    told = {"basic": "Basic bWU6aHVudGVyMg==", "bearer": "Bearer hunter2"}[kind]
    assert seen[0][2]["Authorization"] == told
    assert "hunter2" not in seen[0][1]
    assert "hunter2" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("body", [b"<html>", b'{"a": ', b"[1, 2]"])
def test_an_answer_that_is_no_json_of_dicom(body):
    with web(lambda *_: (200, {"Content-Type": "application/json"}, body)) as (address, _):
        if body == b"[1, 2]":
            asks(WebNode(address, limits=BRIEF))  # answers that are no studies are none
        else:
            refused("E-PACS-ANSWER", InputError, lambda: asks(WebNode(address, limits=BRIEF)))


def test_an_answer_without_end_is_cut_off(monkeypatch):
    monkeypatch.setattr("medidiff.pacs.web._MOST_JSON_BYTES", 1000)
    with web(lambda *_: (200, {"Content-Type": "application/json"}, b"[" + b" " * 5000 + b"]")) as (address, _):
        refused("E-PACS-ANSWER", InputError, lambda: asks(WebNode(address, limits=BRIEF)))


def test_a_service_that_passes_over_pages_ends(monkeypatch):
    monkeypatch.setattr("medidiff.pacs.web._PAGE", 2)
    told = [{"0020000D": f"1.2.{n}", "00080020": "20260101"} for n in range(3)]
    with web(lambda *_: as_json(told)) as (address, seen), open_archive(WebNode(address, limits=BRIEF)) as archive:
        assert len(archive.studies(Wanted(dates="20260101"))) == 3
    assert len(seen) == 2


def test_a_series_is_told_with_what_it_is_called():
    told = [
        {"0020000E": "1.2.3", "00080060": "MR", "0008103E": "t1 sag"},
        {"0020000E": "1.2.4", "00080060": "MR"},
    ]
    with web(lambda *_: as_json(told)) as (address, _), open_archive(WebNode(address, limits=BRIEF)) as archive:
        assert [(each.uid, each.description) for each in archive.series("1.2")] == [("1.2.3", "t1 sag"), ("1.2.4", "")]


def _series(files, place):
    """What a service with one series tells of it."""
    uids = [describe(file, name="x") for file in files]
    return as_json([{"00080018": each.uid, "00080016": each.kind} for each in uids])


@pytest.mark.parametrize("fault", ["cut", "no multipart", "of others", "slow"])
def test_an_answer_with_images_that_is_not_whole(fault, files, place, tmp_path):
    contents = [file.read_bytes() for file in files]

    def reply(method: str, path: str, headers: dict, body: bytes) -> tuple[int, dict, bytes]:
        if "/instances" in path and "?" in path:
            return _series(files, place)
        if fault == "cut":
            return as_parts(contents[:3], end=False)
        if fault == "of others":
            return as_parts([contents[0].replace(place[1].encode(), place[1][:-1].encode() + b"0")])
        if fault == "slow":
            time.sleep(1.0)
        return 200, {"Content-Type": "text/html"}, b"<html>"

    limits = Limits(timeout_seconds=0.3) if fault == "slow" else BRIEF
    code = {"cut": "E-PACS-ABORT", "no multipart": "E-PACS-ANSWER", "slow": "E-PACS-TIMEOUT"}.get(fault)
    with web(reply) as (address, _), open_archive(WebNode(address, limits=limits)) as archive:
        refused(code or "E-PACS-PARTIAL", InputError, lambda: pull_series(archive, *place, tmp_path, patience=HASTY))
    assert visible(tmp_path) == []


def test_instances_come_byte_for_byte(files, place, tmp_path):
    def reply(method: str, path: str, headers: dict, body: bytes) -> tuple[int, dict, bytes]:
        if "?" in path:
            return _series(files, place)
        assert "transfer-syntax=*" in headers["Accept"]
        return as_parts([file.read_bytes() for file in files])

    with web(reply) as (address, _), open_archive(WebNode(address, limits=BRIEF)) as archive:
        pulled = pull_series(archive, *place, tmp_path, patience=HASTY)
    assert {file.read_bytes() for file in pulled.fetched} == {file.read_bytes() for file in files}


@pytest.mark.parametrize(
    ("status", "reason", "code"),
    [
        (409, 0xC000, "E-PACS-STORE"),
        (202, 0xA700, "E-PACS-FULL"),
        (507, None, "E-PACS-FULL"),
        (413, None, "E-PACS-FULL"),
        (415, None, "E-PACS-STORE"),
        (500, None, "E-PACS-SERVER"),
        (401, None, "E-PACS-LOGIN"),
        (200, None, "E-PACS-UNCONFIRMED"),
    ],
)
def test_a_service_that_does_not_take(status, reason, code, files):
    failed = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [reason]}}]}}

    def reply(method: str, path: str, headers: dict, body: bytes) -> tuple[int, dict, bytes]:
        if method == "GET":
            return as_json([])
        import json

        told = {} if reason is None else failed
        return status, {"Content-Type": "application/dicom+json"}, json.dumps(told).encode()

    with web(reply) as (address, _), open_archive(WebNode(address, limits=BRIEF)) as archive:
        refused(code, OutputError, lambda: push_folder(archive, files[0].parent, patience=HASTY))
