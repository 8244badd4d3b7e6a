"""An archive by DIMSE: C-FIND, C-GET or C-MOVE, C-STORE (PS3.4, annexes B and C), over TCP or TLS."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.presentation import PresentationContext, build_context, build_role
from pynetdicom.sop_class import (  # type: ignore[attr-defined] # made at run time
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from medidiff.errors import InputError
from medidiff.io.dicom.headers.header import quietly
from medidiff.pacs.answers import Archive, Refused, Series, Study, refuse_flood
from medidiff.pacs.arrivals import Arrivals
from medidiff.pacs.faults import lost, no_answer, rejected, status_fault, tls_fault, unreachable
from medidiff.pacs.instances import IMAGE_CLASSES, SYNTAXES, Instance
from medidiff.pacs.nodes import DimseNode
from medidiff.pacs.receiver import entity, receiving, storing_handlers
from medidiff.pacs.wanted import Wanted, uid_of

__all__ = ["DimseArchive"]

_PENDING = (0xFF00, 0xFF01)
_DUPLICATE = 0x0111
_NOT_ALL = 0xA702  # sub-operations could not be performed
_MOST_CONTEXTS = 127  # of 128, one is for the question itself
_MOST_UIDS = 200  # in one request for single instances
_GRACE_SECONDS = 2.0  # to learn why a connection did not come about


class DimseArchive(Archive):
    """Speaks DIMSE with one node; each question has a connection of its own.

    Args:
        node: whom to talk to.

    Raises:
        SettingsError: ``E-PACS-NODE``, its certificates cannot be used.
    """

    def __init__(self, node: DimseNode) -> None:
        self.node = node
        self.largest_bytes = node.limits.largest_mib * 2**20
        self._tls = None if node.tls is None else node.tls.context()

    def close(self) -> None:
        """Nothing stays open between questions."""

    # ------------------------------------------------------------------------------------------------------- asking

    def studies(self, wanted: Wanted) -> list[Study]:
        """Studies that fit.

        Raises:
            InputError: as every method, ``E-PACS-...``.
        """
        keys = dict.fromkeys(("StudyInstanceUID", "AccessionNumber", "PatientID", "StudyDate"), "")
        keys |= {"NumberOfStudyRelatedInstances": "", **wanted.study_keys}
        found: dict[str, Study] = {}
        for modality in wanted.modalities or ("",):  # one at a time: a list is not matched by every archive
            for answer in self._find("STUDY", keys | {"ModalitiesInStudy": modality}):
                if wanted.fits_study(answer):
                    uid = uid_of(answer["StudyInstanceUID"], what="study UID")
                    count = answer["NumberOfStudyRelatedInstances"]
                    found[uid] = Study(uid, int(count) if count.isdecimal() else None)
        return list(found.values())

    def series(self, study: str) -> list[Series]:
        """All series of a study."""
        keys = {"StudyInstanceUID": study, "SeriesInstanceUID": "", "Modality": "", "SeriesDescription": ""}
        answers = self._find("SERIES", keys)
        return [
            Series(uid_of(a["SeriesInstanceUID"], what="series UID"), a["Modality"].strip(), a["SeriesDescription"])
            for a in answers
        ]

    def instances(self, study: str, series: str) -> dict[str, str]:
        """SOP class by SOP instance UID of a series."""
        keys = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": "", "SOPClassUID": ""}
        answers = self._find("IMAGE", keys)
        return {uid_of(a["SOPInstanceUID"], what="SOP instance UID"): a["SOPClassUID"].strip() for a in answers}

    def _find(self, level: str, keys: Mapping[str, str]) -> list[dict[str, str]]:
        """Values by keyword of each answer, empty where the archive says nothing."""
        answers: list[dict[str, str]] = []
        with self._connection([build_context(StudyRootQueryRetrieveInformationModelFind)]) as connection, quietly():
            question = _identifier(level, keys)
            for status, answer in connection.send_c_find(question, StudyRootQueryRetrieveInformationModelFind):
                code = self._code(status, connection)
                if code in _PENDING:
                    answers.append(_values(answer, keys))
                    refuse_flood(len(answers))
                elif code != 0:
                    raise status_fault(code, asked="C-FIND")
        return answers

    # ----------------------------------------------------------------------------------------------------- fetching

    def fetch(self, arrivals: Arrivals) -> int:
        """Have the missing instances of a series sent; the whole series while none has come."""
        keys = {"StudyInstanceUID": arrivals.study, "SeriesInstanceUID": arrivals.series}
        missing = arrivals.missing
        if not arrivals.taken:
            return self._retrieve("SERIES", keys, missing, arrivals)
        uids, failed = list(missing), 0
        for start in range(0, len(uids), _MOST_UIDS):
            part = {uid: missing[uid] for uid in uids[start : start + _MOST_UIDS]}
            failed += self._retrieve("IMAGE", keys | {"SOPInstanceUID": "\\".join(part)}, part, arrivals)
        return failed

    def _retrieve(self, level: str, keys: Mapping[str, str], parts: Mapping[str, str], arrivals: Arrivals) -> int:
        question = _identifier(level, keys)
        if self.node.retrieve == "move":
            model = StudyRootQueryRetrieveInformationModelMove
            with receiving(self.node, arrivals), self._connection([build_context(model)]) as connection, quietly():
                answers = connection.send_c_move(question, self.node.calling_ae_title, model)
                return self._outcome(answers, connection, asked="C-MOVE")
        model = StudyRootQueryRetrieveInformationModelGet
        kinds = (sorted(set(parts.values()) - {""}) or list(IMAGE_CLASSES))[: _MOST_CONTEXTS // len(SYNTAXES)]
        contexts = [build_context(model), *_pairs((kind, syntax) for kind in kinds for syntax in SYNTAXES)]
        roles = [build_role(kind, scp_role=True) for kind in kinds]
        handlers = storing_handlers(arrivals)
        with self._connection(contexts, roles=roles, handlers=handlers) as connection, quietly():
            return self._outcome(connection.send_c_get(question, model), connection, asked="C-GET")

    def _outcome(self, answers: Iterator[tuple[Dataset, Any]], connection: Association, *, asked: str) -> int:
        """How many sub-operations failed, once the archive says that it is through."""
        failed = 0
        for status, _ in answers:
            code = self._code(status, connection)
            failed = int(status.get("NumberOfFailedSuboperations") or 0)
            if code >> 12 == 0xB or (code == _NOT_ALL and failed):
                return max(failed, 1)
            if code not in (0, *_PENDING):
                raise status_fault(code, asked=asked)
        return failed

    # ------------------------------------------------------------------------------------------------------ storing

    def store(self, instances: Sequence[Instance]) -> list[Refused]:
        """Send files as they are, each in its own transfer syntax."""
        refused: list[Refused] = []
        kinds = list(dict.fromkeys((each.kind, each.syntax) for each in instances))
        for start in range(0, len(kinds), _MOST_CONTEXTS):
            part = kinds[start : start + _MOST_CONTEXTS]
            with self._connection(_pairs(part)) as connection, quietly():
                for number, each in enumerate(i for i in instances if (i.kind, i.syntax) in part):
                    if reason := self._send(each, connection, number=number % 65535 + 1):
                        refused.append(Refused(each.uid, reason))
        return refused

    def _send(self, instance: Instance, connection: Association, *, number: int) -> str:
        """Send one file; why it was not taken, empty when it was."""
        if not connection.is_established:
            raise lost()
        try:
            status = connection.send_c_store(os.fspath(instance.file or ""), msg_id=number)
        except ValueError:
            return "its kind or transfer syntax is not accepted"
        code = self._code(status, connection)
        if code in (0, _DUPLICATE) or code >> 12 == 0xB:  # taken, known already, or taken with a remark
            return ""
        fault = status_fault(code, asked="C-STORE")
        if fault.code in ("E-PACS-FULL", "E-PACS-LOGIN"):
            raise fault
        return f"status {code:04X}"

    # -------------------------------------------------------------------------------------------------- connections

    def _code(self, status: Dataset, connection: Association) -> int:
        """The status of a response; an empty one means that none came."""
        if "Status" in status:
            return int(status.Status)
        given_up = connection._sent_abort  # by us, after a silence; pynetdicom has no public word for it
        raise no_answer(self._seconds) if given_up else lost()

    @property
    def _seconds(self) -> float:
        return self.node.limits.timeout_seconds

    @contextmanager
    def _connection(
        self, contexts: list[PresentationContext], *, roles: Sequence[Any] = (), handlers: Sequence[Any] = ()
    ) -> Iterator[Association]:
        """An association, released when all went well and aborted when not.

        Raises:
            InputError: there is none to be had, and why.
        """
        we, node = entity(self.node), self.node
        rejections: list[A_ASSOCIATE_RJ] = []
        try:
            connection = we.associate(
                node.host,
                node.port,
                contexts=contexts,
                ae_title=node.ae_title,
                ext_neg=list(roles),
                evt_handlers=[*handlers, (evt.EVT_PDU_RECV, _keeping(rejections))],
                tls_args=None if self._tls is None else (self._tls, self._name),
            )
        except OSError as error:  # the name of the host is not known
            raise unreachable(error.strerror or "the host is not known") from error
        if not connection.is_established:
            raise self._reason(connection, rejections)
        try:
            yield connection
        except BaseException:
            if connection.is_established:
                connection.abort()
            raise
        if connection.is_established:
            connection.release()

    @property
    def _name(self) -> str:
        """What the archive's certificate must name."""
        return (self.node.tls.server_name if self.node.tls else "") or self.node.host

    def _reason(self, connection: Association, rejections: Sequence[A_ASSOCIATE_RJ]) -> InputError:
        """Why there is no association."""
        for each in rejections:
            return rejected(each.result or 0, each.source or 0, each.reason_diagnostic or 0)
        if connection.acceptor.primitive is not None:
            mend = "The archive lacks this service, or does not offer it to our AE title."
            return InputError("E-PACS-UNSUPPORTED", "no presentation context was accepted", mend=mend)
        return self._tried()

    def _tried(self) -> InputError:
        """What a bare connection meets: pynetdicom does not say why its own failed."""
        try:
            with socket.create_connection((self.node.host, self.node.port), timeout=self._seconds) as plain:
                if self._tls is None:
                    return lost("the archive closed the connection without an answer, or gave none")
                with self._tls.wrap_socket(plain, server_hostname=self._name) as wrapped:
                    wrapped.settimeout(_GRACE_SECONDS)
                    with suppress(TimeoutError):
                        wrapped.recv(1)  # a certificate that is missed is told only now
                    return lost("the archive closed the connection without an answer, or gave none")
        except ssl.SSLError as error:
            return tls_fault(error)
        except TimeoutError:
            return no_answer(self._seconds)
        except OSError as error:
            return unreachable(error.strerror or "no such host")


def _keeping(rejections: list[A_ASSOCIATE_RJ]) -> Callable[[evt.Event], None]:
    """Notes a rejection as it comes in.

    `Association.acceptor` may lack it: on a busy machine pynetdicom's negotiating thread can wake up when the rejection
    has been read and the socket is closed, and then takes it for a connection that failed.
    """

    def keep(event: evt.Event) -> None:
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            rejections.append(event.pdu)

    return keep


def _identifier(level: str, keys: Mapping[str, str]) -> Dataset:
    question = Dataset()
    question.QueryRetrieveLevel = level
    if not all(value.isascii() for value in keys.values()):
        question.SpecificCharacterSet = "ISO_IR 192"
    for name, value in keys.items():
        setattr(question, name, value)
    return question


def _values(answer: Dataset | None, keys: Mapping[str, str]) -> dict[str, str]:
    if answer is None:
        mend = "Report it to whoever runs the archive."
        raise InputError("E-PACS-ANSWER", "an answer that cannot be decoded", mend=mend)
    try:
        return {name: str(answer.get(name) or "") for name in keys}
    except Exception as error:  # damaged bytes find every way
        mend = "Report it to whoever runs the archive."
        raise InputError("E-PACS-ANSWER", "an answer that cannot be decoded", mend=mend) from error


def _pairs(kinds: Iterable[tuple[str, str]]) -> list[PresentationContext]:
    """A context for each kind and transfer syntax, so that the side that sends need not convert."""
    return [build_context(kind, syntax) for kind, syntax in kinds]
