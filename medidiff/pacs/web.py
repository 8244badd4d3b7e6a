"""An archive by DICOMweb (PS3.18): QIDO-RS with dicomweb-client; WADO-RS and STOW-RS on the same session.

dicomweb-client decodes each instance that it fetches and encodes each that it stores. Here instances come and go byte
for byte as they are, one at a time in memory, so both are done on its session. Nothing leads to another address than
the node's: no redirection, no proxy and no password file of the environment.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import requests
from dicomweb_client.api import DICOMwebClient
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth

from medidiff.errors import InputError, SettingsError
from medidiff.pacs.answers import Archive, Refused, Series, Study, refuse_flood
from medidiff.pacs.arrivals import Arrivals
from medidiff.pacs.faults import http_fault, lost, no_answer, tls_fault, unreachable
from medidiff.pacs.instances import Instance
from medidiff.pacs.multipart import boundary_of, parts
from medidiff.pacs.nodes import Auth, WebNode
from medidiff.pacs.wanted import Wanted, uid_of

__all__ = ["WebArchive"]

for _name in ("dicomweb_client", "urllib3", "requests"):  # they log addresses, in which patients' numbers stand
    logging.getLogger(_name).addHandler(logging.NullHandler())
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)

_PAGE = 500
_CHUNK_BYTES = 2**18
_MOST_JSON_BYTES = 2**28
_ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_TAGS = {
    "StudyInstanceUID": "0020000D",
    "SeriesInstanceUID": "0020000E",
    "SOPInstanceUID": "00080018",
    "SOPClassUID": "00080016",
    "AccessionNumber": "00080050",
    "PatientID": "00100020",
    "StudyDate": "00080020",
    "Modality": "00080060",
    "SeriesDescription": "0008103E",
    "NumberOfStudyRelatedInstances": "00201208",
}
_FAILED = "00081198"
_REASON = "00081197"
_DUPLICATE = 0x0111


class _Bearer(AuthBase):
    """Puts a token into each request; `requests` itself sees to it that no other host gets it."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Bounded(HTTPAdapter):
    """Cuts an answer that is read as a whole (JSON) when it grows beyond all reason."""

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        """As the base class."""
        response = super().send(request, *args, **options)
        if "json" in request.headers.get("Accept", ""):
            response.raw.stream = _counted(response.raw.stream)
        return response


def _counted(stream: Callable[..., Iterator[bytes]]) -> Callable[..., Iterator[bytes]]:
    def counted(*args: Any, **options: Any) -> Iterator[bytes]:
        count = 0
        for chunk in stream(*args, **options):
            count += len(chunk)
            if count > _MOST_JSON_BYTES:
                found = f"an answer of more than {_MOST_JSON_BYTES // 2**20} MiB to one question"
                raise InputError("E-PACS-ANSWER", found, mend="Ask for less at a time, for example with --dates.")
            yield chunk

    return counted


class WebArchive(Archive):
    """Speaks DICOMweb with one node.

    Args:
        node: whom to talk to.

    Raises:
        SettingsError: ``E-PACS-SECRET`` or ``E-PACS-NODE``, its secret or certificates cannot be used.
    """

    def __init__(self, node: WebNode) -> None:
        self.node = node
        self.largest_bytes = node.limits.largest_mib * 2**20
        self._session = _session(node)
        seconds = node.limits.timeout_seconds
        self._client = DICOMwebClient(node.url, self._session, timeout=seconds, permissive_uid=True)
        self._client.set_http_retry_params(retry=False)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    # ------------------------------------------------------------------------------------------------------- asking

    def studies(self, wanted: Wanted) -> list[Study]:
        """Studies that fit.

        Raises:
            InputError: as every method, ``E-PACS-...``.
        """
        found: dict[str, Study] = {}
        fields = ("AccessionNumber", "PatientID", "StudyDate", "NumberOfStudyRelatedInstances")
        for modality in wanted.modalities or ("",):
            filters = wanted.study_keys | ({"ModalitiesInStudy": modality} if modality else {})
            for answer in self._pages(self._client.search_for_studies, fields=fields, search_filters=filters):
                told = {name: _value(answer, name) for name in (*fields, "StudyInstanceUID")}
                if wanted.fits_study(told):
                    uid = uid_of(told["StudyInstanceUID"], what="study UID")
                    count = told["NumberOfStudyRelatedInstances"]
                    found[uid] = Study(uid, int(count) if count.isdecimal() else None)
        return list(found.values())

    def series(self, study: str) -> list[Series]:
        """All series of a study."""
        fields = ("Modality", "SeriesDescription")
        answers = self._pages(self._client.search_for_series, study_instance_uid=study, fields=fields)
        return [
            Series(uid_of(_value(a, "SeriesInstanceUID"), what="series UID"), *(_value(a, name) for name in fields))
            for a in answers
        ]

    def instances(self, study: str, series: str) -> dict[str, str]:
        """SOP class by SOP instance UID of a series."""
        search, names = self._client.search_for_instances, {"study_instance_uid": study, "series_instance_uid": series}
        try:
            answers = self._pages(search, **names, fields=("SOPClassUID",))
        except InputError as error:
            if error.code == "E-PACS-HTTP":  # 404: there is no such series
                return {}
            raise
        uids = (uid_of(_value(a, "SOPInstanceUID"), what="SOP instance UID") for a in answers)
        return {uid: _value(answer, "SOPClassUID") for uid, answer in zip(uids, answers, strict=True)}

    def _pages(self, search: Callable[..., list[dict[str, Any]]], **question: Any) -> list[dict[str, Any]]:
        """All answers; a service that passes over limit and offset says the same again, which ends it."""
        answers: list[dict[str, Any]] = []
        seen: set[str] = set()
        while True:
            with _faults("QIDO", self._seconds):
                page = search(**question, limit=_PAGE, offset=len(answers))
            new = [a for a in page if isinstance(a, dict) and (key := _key(a)) not in seen and not seen.add(key)]  # type: ignore[func-returns-value]
            answers += new
            refuse_flood(len(answers))
            if not new or len(page) < _PAGE:
                return answers

    @property
    def _seconds(self) -> float:
        return self.node.limits.timeout_seconds

    # ----------------------------------------------------------------------------------------------------- fetching

    def fetch(self, arrivals: Arrivals) -> int:
        """Have the missing instances of a series sent; the whole series while none has come."""
        address = f"{self.node.url}/studies/{arrivals.study}/series/{arrivals.series}"
        if not arrivals.taken:
            self._get(address, arrivals)
            return 0
        failed = 0
        for uid in arrivals.missing:
            try:
                self._get(f"{address}/instances/{uid}", arrivals)
            except InputError as error:
                if error.code != "E-PACS-HTTP":
                    raise
                failed += 1
        return failed

    def _get(self, address: str, arrivals: Arrivals) -> None:
        options: dict[str, Any] = {"headers": {"Accept": _ACCEPT}, "stream": True, "timeout": self._seconds}
        with _faults("WADO", self._seconds), self._session.get(address, **options) as response:
            _refuse_status(response, asked="WADO")
            chunks = response.iter_content(_CHUNK_BYTES)
            boundary = boundary_of(response.headers.get("Content-Type", ""))
            if boundary is None:
                found, mend = "an answer that is no multipart", "Check the url of the node."
                raise InputError("E-PACS-ANSWER", found, wanted="multipart/related of DICOM instances", mend=mend)
            for content in parts(chunks, boundary, largest_bytes=self.largest_bytes):
                arrivals.take(content)

    # ------------------------------------------------------------------------------------------------------ storing

    def store(self, instances: Sequence[Instance]) -> list[Refused]:
        """Send files as they are, one in a request."""
        return [Refused(each.uid, reason) for each in instances if (reason := self._send(each))]

    def _send(self, instance: Instance) -> str:
        """Send one file; why it was not taken, empty when it was."""
        boundary = secrets.token_hex(16)
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        content = b"" if instance.file is None else instance.file.read_bytes()
        body = b"".join((head, content, f"\r\n--{boundary}--\r\n".encode()))
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        headers = {"Content-Type": kind, "Accept": "application/dicom+json"}
        with _faults("STOW", self._seconds):
            response = self._session.post(
                f"{self.node.url}/studies", data=body, headers=headers, timeout=self._seconds, allow_redirects=False
            )
        if response.status_code in (200, 202, 409):
            return _reason(response)
        if response.status_code in (400, 415):
            return f"HTTP status {response.status_code}"
        raise _fault(response, asked="STOW")


def _session(node: WebNode) -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # no proxy, no .netrc, no other certificates
    session.max_redirects = 0
    session.mount("https://", _Bounded())
    session.mount("http://", _Bounded())
    if node.tls is not None:
        node.tls.context()  # its files are looked at now, and refused in a line
        if node.tls.server_name:
            found, mend = "server_name for a DICOMweb service", "Leave it out: the url's host is what is checked."
            raise SettingsError("E-PACS-NODE", found, mend=mend, attribute="tls")
        session.verify = True if node.tls.ca is None else str(node.tls.ca)
        if node.tls.certificate is not None:
            session.cert = (str(node.tls.certificate), str(node.tls.key or node.tls.certificate))
    if node.auth is not None:
        session.auth = _auth(node.auth)
    return session


def _auth(auth: Auth) -> AuthBase:
    secret = auth.secret()
    return HTTPBasicAuth(auth.user, secret) if auth.kind == "basic" else _Bearer(secret)


def _value(answer: Mapping[str, Any], name: str) -> str:
    """The first value of an attribute in DICOM JSON, as text; empty when there is none."""
    element = answer.get(_TAGS[name])
    values = element.get("Value") if isinstance(element, dict) else None
    return str(values[0]).strip() if isinstance(values, list) and values and values[0] is not None else ""


def _key(answer: Mapping[str, Any]) -> str:
    return "/".join(_value(answer, name) for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"))


def _refuse_status(response: requests.Response, *, asked: str) -> None:
    if response.status_code not in (200, 206):
        raise _fault(response, asked=asked)


def _fault(response: requests.Response, *, asked: str) -> InputError:
    return http_fault(response.status_code, asked=asked, retry_after=response.headers.get("Retry-After", ""))


def _reason(response: requests.Response) -> str:
    """Why the one instance of a request was not taken; empty when it was.

    Raises:
        InputError: ``E-PACS-FULL``.
    """
    try:
        told = response.json()
        told = told[0] if isinstance(told, list) and told else told
        failed = told.get(_FAILED, {}).get("Value") or []
        codes = [item.get(_REASON, {}).get("Value", [0])[0] for item in failed]
    except (ValueError, AttributeError, LookupError, TypeError):
        codes = []
    if not codes:
        return "" if response.status_code in (200, 202) else f"HTTP status {response.status_code}"
    if isinstance(codes[0], int) and 0xA700 <= codes[0] <= 0xA7FF:
        raise http_fault(507, asked="STOW")
    if codes[0] == _DUPLICATE:
        return ""
    return f"reason {codes[0]:04X}" if isinstance(codes[0], int) else "no reason given"


@contextmanager
def _faults(asked: str, seconds: float) -> Iterator[None]:
    """Turn what `requests` raises into `InputError`; its own messages hold whole addresses and are left out."""
    try:
        yield
    except requests.exceptions.HTTPError as error:
        raise (lost() if error.response is None else _fault(error.response, asked=asked)) from None
    except requests.exceptions.TooManyRedirects:
        raise http_fault(302, asked=asked) from None
    except requests.exceptions.SSLError as error:
        raise tls_fault(error.args[0].reason if error.args and hasattr(error.args[0], "reason") else "") from None
    except requests.exceptions.Timeout:
        raise no_answer(seconds) from None
    except requests.exceptions.JSONDecodeError:
        found, mend = "an answer that is no JSON", "Check the url of the node: studies lie below url/studies."
        raise InputError("E-PACS-ANSWER", found, wanted="DICOM JSON", mend=mend) from None
    except requests.exceptions.ChunkedEncodingError:
        raise lost() from None
    except requests.exceptions.ConnectionError as error:
        told = str(error).lower()  # never shown: it holds the whole address
        if "timed out" in told:
            raise no_answer(seconds) from None
        raise (lost() if "aborted" in told or "broken" in told else unreachable("refused, or no such host")) from None
    except requests.exceptions.RequestException:
        raise lost(f"{asked} failed") from None
