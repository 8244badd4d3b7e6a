"""What DIMSE statuses, refused associations and HTTP statuses mean, as one error each; no message holds an address."""

from __future__ import annotations

import datetime
import email.utils
import math
import re

from medidiff.errors import InputError
from medidiff.pacs.patience import Later

__all__ = ["http_fault", "lost", "no_answer", "rejected", "seconds_of", "status_fault", "tls_fault", "unreachable"]

_SCU, _ACSE, _PRESENTATION = 1, 2, 3
_CALLING, _CALLED = 3, 7
_ROOM = (0xA700, 0xA7FF)


def lost(found: str = "the connection was cut") -> InputError:
    """A connection that ended before the work did."""
    return InputError("E-PACS-ABORT", found, mend="Run the same command again; what is done is kept.")


def no_answer(seconds: float) -> InputError:
    """Silence for too long."""
    found = f"no answer for {seconds:g} s"
    return InputError("E-PACS-TIMEOUT", found, mend="Try again later, or raise limits.timeout_seconds of the node.")


def unreachable(reason: str) -> InputError:
    """No connection at all."""
    mend = "Check host and port of the node, and that the archive runs."
    return InputError("E-PACS-REACH", f"no connection: {reason}", mend=mend)


def tls_fault(error: object) -> InputError:
    """A TLS connection that did not come about; what OpenSSL says names no patient."""
    words = re.sub(r"\s*\(_ssl\.c:\d+\)", "", str(error))[-160:]
    mend = "Check ca, certificate, key and server_name of the node's tls."
    return InputError("E-PACS-TLS", f"no TLS connection: {words}", wanted="certificates that both trust", mend=mend)


def rejected(result: int, source: int, reason: int) -> InputError:
    """An association that the other side turned down (PS3.8, table 9-21).

    Args:
        result: 1 for good, 2 for now.
        source: who: 1 the application, 2 and 3 the layers below it.
        reason: why.
    """
    if source == _SCU and reason in (_CALLING, _CALLED):
        whose = "calling (ours)" if reason == _CALLING else "called (its own)"
        mend = "Correct ae_title or calling_ae_title of the node, or have the archive learn ours."
        return InputError("E-PACS-AETITLE", f"the archive does not know the {whose} AE title", mend=mend)
    if result == 2 or source == _PRESENTATION:
        return InputError("E-PACS-BUSY", "the archive takes no more associations now", mend="Try again later.")
    found = f"the archive rejected the association (result {result}, source {source}, reason {reason})"
    return InputError("E-PACS-REJECTED", found, mend="Ask whoever runs the archive to let this AE title in.")


def status_fault(status: int, *, asked: str) -> InputError:
    """A DIMSE response that is a failure (PS3.4, annexes B and C; PS3.7, annex C).

    Args:
        status: the code.
        asked: what was asked for, e.g. ``"C-MOVE"``.
    """
    told = f"{asked} ended with status {status:04X}"
    if status == 0xA801:
        mend = "Have the archive learn our AE title, address and port as a destination."
        return InputError("E-PACS-AETITLE", f"{told}: the destination is not known to the archive", mend=mend)
    if asked == "C-STORE" and _ROOM[0] <= status <= _ROOM[1]:
        return InputError("E-PACS-FULL", f"{told}: out of resources", mend="Have space made on the archive.")
    if _ROOM[0] <= status <= _ROOM[1]:
        mend = "Try again later; with retrieve = 'move', check that the archive reaches our receiver."
        return InputError("E-PACS-BUSY", f"{told}: the archive could not carry it out", mend=mend)
    if status == 0x0124:
        return InputError("E-PACS-LOGIN", f"{told}: not authorised", mend="Ask for the right to do this.")
    if status in (0x0122, 0x0112, 0x0211):
        return InputError("E-PACS-UNSUPPORTED", f"{told}: not supported", mend="The archive lacks this service.")
    if status == 0xFE00:
        return lost(f"{told}: cancelled by the archive")
    return InputError("E-PACS-SERVER", told, mend="Try again later; the archive's log says more.")


def http_fault(status: int, *, asked: str, retry_after: str = "") -> InputError:
    """An HTTP response that is no success.

    Args:
        status: the code.
        asked: what was asked for, e.g. ``"QIDO"``.
        retry_after: its header of this name (RFC 9110, 10.2.3), with 429, 500, 502, 503 and 504; empty without.
    """
    told = f"{asked} ended with HTTP status {status}"
    if status in (401, 403):
        return InputError("E-PACS-LOGIN", told, mend="Check user, password or token of the node's auth.")
    if status in (413, 507):
        return InputError("E-PACS-FULL", told, mend="Have space made on the archive.")
    if status in (408, 429) or status >= 500:
        return _passing(status, told, seconds_of(retry_after))
    if 300 <= status < 400:
        mend = "Name the final address in the node; only addresses that you name are followed."
        return InputError("E-PACS-HTTP", f"{told}, a redirection", mend=mend)
    return InputError("E-PACS-HTTP", told, mend="Check the url of the node: studies lie below url/studies.")


def _passing(status: int, told: str, after_seconds: float) -> InputError:
    """A status that may be another the next time."""
    if after_seconds:
        told = f"{told}; the archive asks for {after_seconds:,.0f} s of rest"
    code = {408: "E-PACS-TIMEOUT", 504: "E-PACS-TIMEOUT", 429: "E-PACS-BUSY", 503: "E-PACS-BUSY"}.get(status)
    if code is None:
        mend = "Try again later; the archive's log says more."
        return Later("E-PACS-SERVER", told, mend=mend, after_seconds=after_seconds)
    return Later(code, told, mend="Try again later.", after_seconds=after_seconds)


def seconds_of(retry_after: str) -> float:
    """How long a ``Retry-After`` asks to wait, in s from now: a number of seconds, or a date; 0 for anything else.

    Example:
        >>> seconds_of("120"), seconds_of("soon"), seconds_of("Fri, 31 Dec 1999 23:59:59 GMT")
        (120.0, 0.0, 0.0)
    """
    text = retry_after.strip()
    if text.isascii() and text.isdecimal():
        return float(text[:12])
    try:
        until = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return 0.0
    if until.tzinfo is None:
        until = until.replace(tzinfo=datetime.UTC)
    return float(max(0, math.ceil((until - datetime.datetime.now(datetime.UTC)).total_seconds())))
