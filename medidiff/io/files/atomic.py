"""Files that are whole or absent, and their SHA-256.

One way out for every file: a temporary name in the same folder, made by us alone (``O_EXCL``, ``O_NOFOLLOW``),
written, put on the disk (fsync), read again and compared, renamed, and the folder put on the disk. Until the rename the
old file is untouched; after it the new one is whole. The folder is held open meanwhile, so that one that is exchanged
for another is noticed. A run that was killed leaves a temporary behind; the next one in that folder removes it, if it
is ours and its process is gone.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medidiff.errors import InputError, OutputError

__all__ = [
    "IN_THE_WAY",
    "make_folder",
    "output_errors",
    "partial_name",
    "refuse_full",
    "refuse_source",
    "remove_stale",
    "resolved",
    "sha256",
    "staging_folder",
    "sync",
    "write_file",
]

_PARTIAL = re.compile(r"\.medidiff-(?P<host>[0-9a-f]{8})-(?P<process>\d{1,10})-[0-9a-f]{12}(\.nii\.gz|\.[a-z]{1,8})?")
_STALE_SECONDS = 86_400  # another machine's temporary, whose process cannot be asked for, is left alone for a day
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SAMPLE = 2**20
IN_THE_WAY = frozenset((errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ENOTEMPTY))
"""Refusals of the system that are about one name and no other."""


def resolved(path: Path) -> Path:
    """The absolute path with its links followed; unlike `Path.resolve`, a loop of links is for the system to refuse."""
    return Path(os.path.realpath(path))


def sha256(path: Path) -> str:
    """SHA-256 of the bytes of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Have the system put a file, or the names in a folder, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def output_errors(name: str, folder: Path | None = None) -> Iterator[None]:
    """Turn the system's refusals to write into `OutputError`.

    Args:
        name: file or folder that is being written, as shown in the message.
        folder: where it is written; the message then says how much is free there.

    Raises:
        OutputError: ``E-DISK`` when space is short, ``E-OUT`` for any other refusal of the system.
    """
    try:
        yield
    except OSError as error:
        found = error.strerror or type(error).__name__
        if error.errno in _FULL:
            if folder is not None:
                with contextlib.suppress(OSError):
                    found += f", {_megabytes(shutil.disk_usage(folder).free)} free"
            mend = "Free some space and run the same command again."
            raise OutputError("E-DISK", found, file=name, mend=mend) from error
        mend = "Choose an output folder that exists and can be written."
        if error.errno in IN_THE_WAY:
            mend = "Choose another name, or move away what stands in its place."
        raise OutputError("E-OUT", found, file=name, mend=mend) from error


def make_folder(folder: Path) -> None:
    """Make a folder where there is none, and clear it of what killed runs left.

    Raises:
        OutputError: the system refuses.
    """
    with output_errors(folder.name):
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale(folder)


def refuse_source(path: Path, sources: Iterable[Path]) -> None:
    """Refuse to write over a file that the result is made from, under whatever name it is reached.

    Raises:
        OutputError: ``E-OVERWRITE``.
    """
    if path.exists() and any(source.exists() and path.samefile(source) for source in sources):
        mend = "Choose another output name."
        raise OutputError("E-OVERWRITE", "the output is one of the inputs", mend=mend, file=path.name)


def refuse_full(folder: Path, needed: int, *, file: str) -> None:
    """Refuse a disk on which a file will not fit, before any of it is written.

    Args:
        folder: where the file goes.
        needed: its size in bytes.
        file: name for the message.

    Raises:
        OutputError: ``E-DISK``, with what is free and what is needed.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        found, mend = f"{_megabytes(free)} free", "Free some space and run the same command again."
        raise OutputError("E-DISK", found, wanted=f"{_megabytes(needed)}", mend=mend, file=file)


def _megabytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def _estimate(data: NDArray[Any] | None, *, packed: bool) -> int:
    """Bytes that voxels will at least take on the disk; packed, as much as a sample of them does, less a third."""
    if data is None:
        return 0
    if not packed:
        return data.nbytes
    middle = data.reshape(-1, order="A")[data.size // 2 :][: _SAMPLE // data.itemsize]
    return int(data.nbytes * len(zlib.compress(middle.tobytes(), 1)) / max(middle.nbytes, 1) * 2 / 3)


def write_file(
    path: Path,
    write: Callable[[Path], object],
    *,
    verify: Callable[[Path], None] | None = None,
    data: NDArray[Any] | None = None,
    packed: bool | None = None,
) -> None:
    """Write a file so that `path` holds either the whole new content or what it held before.

    Args:
        path: the final name; an older file there is replaced at the very end, a link there is replaced and never
            followed.
        write: writes the content to the name it is given, which has the same ending as `path`.
        verify: reads that name again and raises when the content is not what was meant.
        data: the voxels to be written, for an estimate of the space they take.
        packed: whether they will be compressed; as the ending says when None.

    Raises:
        OutputError: the system refuses, or `verify` does.
    """
    ending = ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()
    home = path.parent
    with output_errors(path.name, home), _held(home) as folder:
        refuse_full(home, _estimate(data, packed=ending == ".nii.gz" if packed is None else packed), file=path.name)
        partial = home / partial_name(ending)
        try:
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o666))
            write(partial)
            sync(partial)
            if verify is not None:
                _verified(partial, verify, file=path.name)
            _refuse_exchanged(home, folder, file=path.name)
            os.replace(partial.name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
        finally:
            partial.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # the same file, unless the folder was exchanged meanwhile
                os.unlink(partial.name, dir_fd=folder)


def _verified(partial: Path, verify: Callable[[Path], None], *, file: str) -> None:
    try:
        verify(partial)
    except InputError as error:
        found = f"what was written cannot be read again ({error.code})"
        mend = "Check the disk and run the command again."
        raise OutputError("E-VERIFY", found, mend=mend, file=file) from error


@contextmanager
def _held(folder: Path) -> Iterator[int]:
    """A handle of a folder, which stays that folder's whatever its name is given to meanwhile."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield handle
    finally:
        os.close(handle)


def _refuse_exchanged(folder: Path, handle: int, *, file: str) -> None:
    now, before = folder.stat(), os.fstat(handle)
    if (now.st_dev, now.st_ino) != (before.st_dev, before.st_ino):
        found = "the output folder was exchanged for another one during the run"
        mend = "Choose a folder that nothing else changes."
        raise OutputError("E-OUT", found, wanted="one folder throughout", mend=mend, file=file)


def _host() -> str:
    """A hash that tells this machine, or this container, from others."""
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        space = ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def partial_name(ending: str = "") -> str:
    """A name for an unfinished file, which tells whose it is; `remove_stale` knows it by that."""
    return f".medidiff-{_host()}-{os.getpid()}-{secrets.token_hex(6)}{ending}"


def remove_stale(folder: Path) -> None:
    """Remove the temporaries of killed runs; what cannot be removed does no harm."""
    host = _host()
    for place in folder.glob(".medidiff-*"):
        name = _PARTIAL.fullmatch(place.name)
        if name is None or place.is_symlink():
            continue
        with contextlib.suppress(OSError):
            dead = name["host"] == host and not _is_alive(int(name["process"]))
            if dead or time.time() - place.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(place) if place.is_dir() else place.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """A hidden folder on the same disk whose files move into `target` when the block ends well.

    A target that does not exist yet, or is an empty folder, appears with all its files at once; into another one they
    are renamed in order.

    Raises:
        OutputError: the system refuses.
    """
    target = resolved(target)
    home = target.parent if _can_be_replaced(target) else target
    make_folder(home)
    with output_errors(target.name, home):
        stage = home / partial_name()
        stage.mkdir()
    try:
        yield stage
        with output_errors(target.name, home):
            _publish(stage, target)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _can_be_replaced(target: Path) -> bool:
    """Whether one rename can put a folder there: nothing stands there, or an empty folder beside which we may write."""
    if not target.is_dir():
        return True
    beside = target.parent
    same = beside.stat().st_dev == target.stat().st_dev
    at_hand = target.samefile(Path())  # whoever stands in it would be left in a folder that is gone
    return (
        same
        and not at_hand
        and not target.is_mount()
        and os.access(beside, os.W_OK | os.X_OK)
        and not any(target.iterdir())
    )


def _publish(stage: Path, target: Path) -> None:
    for file in sorted(stage.iterdir()):
        sync(file)
    if stage.parent == target:
        for file in sorted(stage.iterdir()):
            file.replace(target / file.name)
    else:
        if target.is_dir():
            stage.chmod(target.stat().st_mode & 0o7777)
        stage.replace(target)  # refused where another run was faster and the folder is no longer empty
    sync(target.parent)
