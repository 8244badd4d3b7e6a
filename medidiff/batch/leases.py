"""Leases: who works on a case, so that two do not; and how the case of a dead worker finds another.

A lease is a file that is made in one step and only where there is none (a link). It says who holds it, and is touched
now and then while its holder lives. A lease is *dead* when its holder's process has ended, if that is on this machine;
else when nobody has touched it for a while. The clock that counts is that of the file system; a lease from its future
(a machine whose clock is wrong) is watched instead.

Whoever finds a dead lease does not remove it: two might, and the slower would remove the lease of the faster. It makes
the *heir* of the dead lease, a file named after its random token, which can be made only once; then it looks whether
the chain that leads from the first lease to its own is still the one that it saw. The one who holds the last lease of
the chain holds the case, and removes the chain from its beginning once the case is settled. The length of the chain
says how many have died on the case.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medidiff.batch.host import Holder
from medidiff.batch.shards import shard
from medidiff.io.files.atomic import output_errors, partial_name

__all__ = ["Lease", "Leases"]

_ENDING = ".lease"
_TOKEN = re.compile(r"[A-Za-z0-9]{1,32}")
_LONGEST = 4096  # bytes; a longer lease is none of ours
_ATTEMPTS = 1000  # each failed one means that another process went on
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True, slots=True)
class _Held:
    """One lease as it was found."""

    path: Path
    token: str
    holder: Holder | None
    touched: float


class Lease:
    """A case that this process holds.

    Args:
        path: its file.
        token: random name of the lease.
        before: the dead leases that it comes after, the first one first.
    """

    def __init__(self, path: Path, token: str, before: tuple[Path, ...]) -> None:
        self.path, self.token, self._before = path, token, before

    @property
    def deaths(self) -> int:
        """How many held the case before, one after the other, and died."""
        return len(self._before)

    def beat(self) -> None:
        """Say that the holder lives; a lease that somebody else took over is left alone."""
        with suppress(OSError):
            os.utime(self.path)

    def is_lost(self) -> bool:
        """Whether somebody took this process for dead."""
        return _heir(self.path, self.token).exists()

    def release(self) -> None:
        """Give the case back; it is settled, or anybody may have it."""
        if self.is_lost():
            return
        for path in (*self._before, self.path):
            with suppress(OSError):
                path.unlink()


def _root(path: Path) -> Path:
    return path.with_name(f"{path.name.split('.')[0]}{_ENDING}")


def _heir(path: Path, token: str) -> Path:
    return path.with_name(f"{path.name.split('.')[0]}.{token}{_ENDING}")


class Leases:
    """The leases of a batch.

    Args:
        folder: where they lie.
        limit_s: a lease from another machine that was not touched for so long is dead.
    """

    def __init__(self, folder: Path, *, limit_s: float = 120.0) -> None:
        self.folder, self.limit_s = folder, limit_s
        self._watched: dict[Path, tuple[float, float]] = {}  # when it was touched, and since when that was seen

    def take(self, case: str, *, from_the_dead: bool = True) -> Lease | None:
        """Hold a case; None when somebody who lives does.

        Args:
            case: its name.
            from_the_dead: whether to take the case of a dead holder.

        Raises:
            OutputError: the system refuses.
        """
        home = self.folder / shard(case)
        root = home / f"{case}{_ENDING}"
        with output_errors(root.name):
            if root.exists() and not from_the_dead:  # spares the file that follows
                return None
            home.mkdir(parents=True, exist_ok=True)
            token = secrets.token_hex(8)
            own = home / partial_name(_ENDING)
            try:
                own.write_text(json.dumps({"token": token} | dataclasses.asdict(Holder.here())), encoding="ascii")
                return self._take(root, own, token, from_the_dead=from_the_dead)
            finally:
                own.unlink(missing_ok=True)

    def _take(self, root: Path, own: Path, token: str, *, from_the_dead: bool) -> Lease | None:
        now = own.stat().st_mtime
        for _ in range(_ATTEMPTS):
            chain = _chain(root)
            if chain and not (from_the_dead and self._is_dead(chain[-1], now)):
                return None
            place = _heir(root, chain[-1].token) if chain else root
            if not _made(own, place):
                continue
            tokens = [held.token for held in chain]
            if [held.token for held in _chain(root)] == [*tokens, token]:
                return Lease(place, token, tuple(held.path for held in chain))
            place.unlink(missing_ok=True)
        return None

    def _is_dead(self, held: _Held, now: float) -> bool:
        if held.holder is not None and held.holder.is_near():
            return held.holder.is_gone()
        if held.touched <= now:
            return now - held.touched > self.limit_s
        touched, since = self._watched.get(held.path, (held.touched, time.monotonic()))
        if touched != held.touched:
            since = time.monotonic()
        self._watched[held.path] = held.touched, since
        return time.monotonic() - since > self.limit_s

    def held(self) -> int:
        """How many cases somebody holds or has died on."""
        return sum(name.count(".") == 1 and name.endswith(_ENDING) for name in self._names())

    def sweep(self) -> None:
        """Remove what is left of chains whose beginning is gone: their last holder was killed when giving back."""
        now = time.time()
        for folder in self.folder.glob("??"):
            heirs = [path for path in folder.glob(f"*.*{_ENDING}") if not _root(path).exists()]
            for held in filter(None, map(_read, heirs)):
                if self._is_dead(held, now):
                    held.path.unlink(missing_ok=True)

    def _names(self) -> list[str]:
        folders = [entry.path for entry in os.scandir(self.folder)] if self.folder.is_dir() else []
        names: list[str] = []
        for folder in folders:
            with suppress(OSError):
                names += [entry.name for entry in os.scandir(folder)]
        return names


def _chain(root: Path) -> list[_Held]:
    """The leases from the first one to that which counts; empty where there is none."""
    chain: list[_Held] = []
    place = root
    while (held := _read(place)) is not None:
        chain.append(held)
        place = _heir(root, held.token)
    return chain


def _read(path: Path) -> _Held | None:
    try:
        with path.open("rb") as stream:
            text, about = stream.read(_LONGEST), os.fstat(stream.fileno())
    except OSError:  # there is none; or it is another person's, or no file
        return _unknown(path)
    try:
        told = json.loads(text)
        holder = Holder(str(told["machine"]), int(told["process"]), int(told["started"]))
        token = str(told["token"])
        if holder.process > 0 and _TOKEN.fullmatch(token):
            return _Held(path, token, holder, about.st_mtime)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        pass
    return _unknown(path)  # cut by a power failure, or none of ours


def _unknown(path: Path) -> _Held | None:
    """A lease of which nobody can say whose it is; None where there is none."""
    try:
        about = path.lstat()
    except OSError:
        return None
    return _Held(path, f"cut{about.st_mtime_ns:x}", None, about.st_mtime)


def _made(own: Path, place: Path) -> bool:
    """Give the file a second name, which appears whole and only where there is none; whether it did."""
    try:
        os.link(own, place)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _copied(own, place)
    return True


def _copied(own: Path, place: Path) -> bool:
    """The same on a file system without links; who reads it in between takes it for cut, which is not dead at once."""
    try:
        handle = os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return False
    try:
        os.write(handle, own.read_bytes())
    finally:
        os.close(handle)
    return True
