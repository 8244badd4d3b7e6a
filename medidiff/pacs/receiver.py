"""A listener for what an archive delivers on its own connection (C-MOVE): open only while it is awaited.

It takes associations from the archive's AE title to ours alone, keeps only awaited instances of the awaited series,
and listens on the address that the user names, loopback when none is named.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pynetdicom import _config, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.presentation import PresentationContext, build_context

from medidiff.errors import SettingsError
from medidiff.pacs.arrivals import Arrivals, Verdict
from medidiff.pacs.instances import IMAGE_CLASSES, SYNTAXES
from medidiff.pacs.nodes import DimseNode

__all__ = ["entity", "receiving", "storing_handlers"]

_config.LOG_HANDLER_LEVEL = "none"
_config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False  # they hold the patient's data
_config.STORE_SEND_CHUNKED_DATASET = True  # files go out as they are, never decoded and encoded again
logging.getLogger("pynetdicom").addHandler(logging.NullHandler())
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)

_PDU_BYTES = 131_072
_STATUS = {
    Verdict.TAKEN: 0x0000,
    Verdict.AGAIN: 0x0000,
    Verdict.FOREIGN: 0x0124,
    Verdict.DAMAGED: 0xC000,
    Verdict.FULL: 0xA700,
}


def entity(node: DimseNode) -> ApplicationEntity:
    """We, as the node knows us, with its patience."""
    we = ApplicationEntity(node.calling_ae_title)
    seconds = node.limits.timeout_seconds
    we.acse_timeout = we.dimse_timeout = we.network_timeout = we.connection_timeout = seconds
    we.maximum_pdu_size = _PDU_BYTES
    return we


def storing_handlers(arrivals: Arrivals) -> list[Any]:
    """What is done with each C-STORE request on a connection: looked at, kept or refused."""

    def store(event: evt.Event) -> int:
        return _STATUS[arrivals.take(event.encoded_dataset())]

    held: dict[Any, int] = {}

    def measure(event: evt.Event) -> None:
        """Cut a connection whose data set grows beyond the limit, before it fills the memory."""
        for item in getattr(event.pdu, "presentation_data_value_items", ()):
            data = item.presentation_data_value
            held[event.assoc] = held.get(event.assoc, 0) + len(data)
            if held[event.assoc] > arrivals.largest_bytes + _PDU_BYTES:
                arrivals.overflow()
                event.assoc.abort(block=False)
            if data[:1] and data[0] & 2:  # the last part of a message
                held[event.assoc] = 0

    return [(evt.EVT_C_STORE, store), (evt.EVT_PDU_RECV, measure)]


def _contexts(arrivals: Arrivals) -> list[PresentationContext]:
    """The kinds of object that are awaited, in every transfer syntax that can be read."""
    kinds = set(arrivals.missing.values())
    return [build_context(kind, list(SYNTAXES)) for kind in (IMAGE_CLASSES if "" in kinds else sorted(kinds))]


@contextmanager
def receiving(node: DimseNode, arrivals: Arrivals) -> Iterator[None]:
    """Listen until the block ends.

    Raises:
        SettingsError: ``E-PACS-PORT``, the address cannot be listened on.
    """
    we = entity(node)
    we.supported_contexts = _contexts(arrivals)
    we.require_called_aet = True
    we.require_calling_aet = [node.ae_title]
    context = None if node.tls is None else node.tls.context(receives=True)
    try:
        we.start_server(
            (node.receiver.host, node.receiver.port),
            block=False,
            ssl_context=context,
            evt_handlers=storing_handlers(arrivals),
        )
    except OSError as error:
        found = f"port {node.receiver.port} cannot be listened on: {error.strerror or 'no such address'}"
        mend = "Choose another receiver, one that the archive knows, or retrieve = 'get'."
        raise SettingsError("E-PACS-PORT", found, mend=mend, attribute="receiver") from error
    try:
        yield
    finally:
        we.shutdown()
