"""Zip and tar archives: their members in a private folder, under caps, and never outside it."""

from __future__ import annotations

import errno
import shutil
import struct
import tarfile
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from medidiff.errors import InputError
from medidiff.io.contents import Skipped
from medidiff.io.files.checks import REFETCH
from medidiff.io.files.limits import MAX_MEMBERS, refuse_bomb

__all__ = ["Unpacked", "is_archive", "starts_archive", "unpack"]

_BLOCK = 2**20  # bytes
_LONGEST = 200  # bytes of a name
_REMARKS = (tarfile.XHDTYPE, tarfile.XGLTYPE, b"X", tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_LINK = "a link or device in an archive"
_EMPTY = "no bytes in it"  # is not worth a file: there may be 100,000
_DAMAGE = (  # what the libraries raise on damaged archives, on purpose or not
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    EOFError,
    ValueError,
    IndexError,
    OverflowError,
    RuntimeError,
    struct.error,
)
_GZIP, _ZIPS = b"\x1f\x8b", (b"PK\x03\x04", b"PK\x05\x06")


class Unpacked:
    """The private folder of an archive's members; it is removed with this object.

    Args:
        folder: where they lie.
        skipped: members that were left out, with the reason.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.skipped: list[Skipped] = []
        self.folders: dict[str, int] = {}
        self.size = self.count = 0
        self._removal = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def remove(self) -> None:
        """Remove the folder now."""
        self._removal()


def is_archive(path: Path) -> bool:
    """Whether a file is a zip, tar or gzipped tar archive, told by its first bytes."""
    try:
        with path.open("rb", buffering=0) as stream:
            return starts_archive(stream.read(4096))
    except OSError:
        return False


def starts_archive(start: bytes) -> bool:
    """Whether the first 4096 bytes of a file are those of an archive."""
    if start[:2] == _GZIP:
        try:
            start = zlib.decompressobj(wbits=31).decompress(start, 512)
        except zlib.error:
            return False
    return start[:4] in _ZIPS or start[257:262] == b"ustar"


def unpack(path: Path) -> Unpacked:
    """Unpack an archive into a private folder.

    Args:
        path: a file for which `is_archive` holds.

    Raises:
        InputError: ``E-BOMB`` when it inflates beyond all reason, ``E-ARCHIVE`` when it has too many members, is
            damaged, locked by a password or packed in a way that is not read.
    """
    unpacked = Unpacked(Path(tempfile.mkdtemp(prefix="medidiff-")))
    try:
        with _damage(path), path.open("rb") as stream:
            members = _zip_members if stream.read(4) in _ZIPS else _tar_members
            stream.seek(0)
            for name, content in members(stream, path, unpacked):
                _store(unpacked, name, content, archive=path)
    except BaseException:
        unpacked.remove()
        raise
    return unpacked


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    found, mend = "an archive that is damaged, or packed in a way that is not read", REFETCH
    try:
        yield
    except NotImplementedError as error:
        found, mend = "an archive packed in a way that is not read", "Unpack it yourself and give the folder."
        raise InputError("E-ARCHIVE", found, wanted="a plain zip or tar archive", mend=mend, file=path.name) from error
    except _DAMAGE as error:
        raise InputError("E-ARCHIVE", found, wanted="a zip or tar archive", mend=mend, file=path.name) from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the first byte, which only a damaged directory names
            raise
        raise InputError("E-ARCHIVE", found, wanted="a zip or tar archive", mend=mend, file=path.name) from error


def _zip_members(stream: IO[bytes], path: Path, unpacked: Unpacked) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(stream) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        _refuse_many(len(entries), path)
        refuse_bomb(sum(entry.file_size for entry in entries), path.stat().st_size, name=path.name)
        for entry in entries:
            if entry.flag_bits & 1:
                mend = "Unpack it yourself and give the folder."
                raise InputError("E-ARCHIVE", "an archive locked by a password", mend=mend, file=path.name)
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others inflate without a cap
                raise NotImplementedError
            if entry.external_attr >> 28 not in (0, 8):  # neither unknown nor a regular file
                unpacked.skipped.append(Skipped(_base(entry.filename), _LINK))
                continue
            if not entry.file_size and not entry.CRC:
                unpacked.skipped.append(Skipped(_base(entry.filename), _EMPTY))
                continue
            with archive.open(entry) as content:
                yield entry.filename, content


class _Entry(tarfile.TarInfo):
    """A tar header whose long names and remarks stay small, for `tarfile` holds them in memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Entry:
        entry = super().frombuf(buf, encoding, errors)
        if entry.type in _REMARKS and entry.size > _BLOCK:
            raise tarfile.ReadError("too long a header")
        return entry


def _tar_members(stream: IO[bytes], path: Path, unpacked: Unpacked) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(fileobj=stream, mode="r:*", tarinfo=_Entry) as archive:
        for number, entry in enumerate(archive):
            _refuse_many(number, path)
            refuse_bomb(entry.offset_data, path.stat().st_size, name=path.name)
            if entry.isdir():
                continue
            content = archive.extractfile(entry) if entry.isreg() else None
            if content is None or not entry.size:
                unpacked.skipped.append(Skipped(_base(entry.name), _LINK if content is None else _EMPTY))
            else:
                yield entry.name, content


def _refuse_many(count: int, path: Path) -> None:
    if count > MAX_MEMBERS:
        found, mend = f"more than {MAX_MEMBERS:,} members", "Unpack it yourself and give the folder."
        raise InputError("E-ARCHIVE", found, wanted="fewer", mend=mend, file=path.name)


def _base(name: str) -> str:
    """The last part of a member's name, short enough for any file system."""
    base = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return base.encode(errors="replace")[-_LONGEST:].decode(errors="replace") if base.strip(".") else "unnamed"


def _store(unpacked: Unpacked, name: str, content: IO[bytes], *, archive: Path) -> None:
    """Write one member under its base name; the folders of the archive become numbers, so no name leads anywhere."""
    home = name.replace("\\", "/").rpartition("/")[0]
    folder = unpacked.folder / f"{unpacked.folders.setdefault(home, len(unpacked.folders)):06d}"
    if (folder / _base(name)).exists():  # archives may hold one name twice
        folder = folder / f"{unpacked.count:06d}"
    folder.mkdir(exist_ok=True)
    unpacked.count += 1
    with (folder / _base(name)).open("xb") as out:
        while block := content.read(_BLOCK):
            unpacked.size += len(block)
            refuse_bomb(unpacked.size, archive.stat().st_size, name=archive.name)
            out.write(block)
