"""What a secret key makes of identifiers: new UIDs, a pseudonym and a shift of dates for each patient.

Everything is HMAC-SHA256 under the key, so the same key gives the same answers on every machine and in every year, two
series of one patient stay together, and nobody without the key can test a guess.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

from medidiff.errors import SettingsError
from medidiff.io.files.atomic import output_errors

__all__ = ["Key", "new_key", "read_key"]

_LEAST_BYTES, _MOST_BYTES = 16, 4096
_MOST_DAYS = 365
_PADDING = " \0"
_LEAST_VARIETY = 6  # different bytes; a key of zeros is none


@dataclass(frozen=True, slots=True)
class Key:
    """A secret, and what it makes of identifiers.

    Args:
        secret: at least 16 bytes; never shown.
    """

    secret: bytes = field(repr=False)

    def _digest(self, use: str, text: str) -> bytes:
        return hmac.new(self.secret, f"{use}\0{text}".encode("utf-8", "surrogateescape"), hashlib.sha256).digest()

    def uid(self, old: str) -> str:
        """The UID that stands for another one, the same every time."""
        return f"2.25.{int.from_bytes(self._digest('uid', old.strip(_PADDING))[:16], 'big')}"

    def label(self, uid: str) -> str:
        """Sixteen hexadecimal digits that stand for a UID in a file name."""
        return self._digest("label", uid.strip(_PADDING)).hex()[:16]

    def pseudonym(self, patient: str) -> str:
        """The name and number that a patient gets."""
        return f"P-{self._digest('patient', patient).hex()[:16].upper()}"

    def days(self, patient: str) -> int:
        """By how many whole days a patient's dates go back: 1 to 365."""
        return 1 + int.from_bytes(self._digest("days", patient)[:8], "big") % _MOST_DAYS

    def shifted(self, day: str, patient: str) -> str:
        """A DICOM date moved back by the patient's days; empty when it is no date.

        Args:
            day: ``YYYYMMDD``, or the old ``YYYY.MM.DD``.
            patient: whose it is.
        """
        digits = day.strip(_PADDING).replace(".", "")
        try:
            moved = date(int(digits[:4]), int(digits[4:6]), int(digits[6:])) - timedelta(days=self.days(patient))
        except (ValueError, OverflowError):
            return ""
        return moved.strftime("%Y%m%d") if len(digits) == 8 and moved.year >= 1000 else ""


def read_key(path: str | Path) -> Key:
    """The secret in a file; white space at its ends does not count.

    Raises:
        SettingsError: ``E-KEY``, the file is missing, no regular file, open to others, too short, or no secret at all.
    """
    path = Path(path)
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise _refused(path, "not a regular file")
        if about.st_mode & 0o077:
            raise _refused(path, "a key that others may read", mend=f"Run: chmod 600 '{path.name}'.")
        if about.st_size > _MOST_BYTES:
            raise _refused(path, f"{about.st_size} bytes")
        secret = path.read_bytes().strip()
    except OSError as error:
        found = "no such key file" if isinstance(error, FileNotFoundError) else "a key file that cannot be read"
        raise _refused(path, found) from error
    if len(secret) < _LEAST_BYTES or len(set(secret)) < _LEAST_VARIETY:
        raise _refused(path, f"a key of {len(secret)} bytes, {len(set(secret))} of them different")
    return Key(secret)


def new_key(path: str | Path) -> Key:
    """Make a key of 256 random bits and keep it in a new file that only its owner may read.

    Raises:
        SettingsError: ``E-KEY``, something stands there already.
        OutputError: it cannot be written there.
    """
    path = Path(path)
    text = secrets.token_hex(32)
    with output_errors(path.name):
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
        except FileExistsError as error:
            raise _refused(
                path,
                "a file stands where the new key would go",
                mend="Leave out --new-key to use it, or name another file.",
            ) from error
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(text + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    return Key(text.encode())


_MEND = "Check the path, or make another key with --new-key; its pseudonyms will be others."


def _refused(path: Path, found: str, *, mend: str = _MEND) -> SettingsError:
    wanted = f"a file of {_LEAST_BYTES} to {_MOST_BYTES} secret bytes that only its owner may read"
    return SettingsError("E-KEY", found, wanted=wanted, mend=mend, file=path.name, attribute="--key")
