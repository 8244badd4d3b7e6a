"""Which process on which machine: what a lease says of its holder, and whether that one still lives."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Holder", "machine"]

_STATE, _STARTED = 0, 19  # fields of /proc/PID/stat after the program's name; proc(5) numbers them 3 and 22


@cache
def machine() -> str:
    """A hash that tells this machine since it was started, and this container, from others.

    Two processes with the same one see each other's process numbers, and nobody else's.
    """
    parts = [platform.node(), _text(Path("/proc/sys/kernel/random/boot_id"))]
    try:
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    except OSError:
        parts.append("")
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process.

    Args:
        machine: as `machine` calls it.
        process: its number there.
        started: when it began, in clock ticks since the machine did; 0 where the system does not tell.
    """

    machine: str
    process: int
    started: int

    @classmethod
    def here(cls) -> Holder:
        """This process."""
        return cls(machine(), os.getpid(), _started(os.getpid()) or 0)

    def is_near(self) -> bool:
        """Whether the process runs, or ran, where its number can be looked up."""
        return self.machine == machine()

    def is_gone(self) -> bool:
        """Whether a near process has ended; a number that was given to another process since counts as ended."""
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except OverflowError:
            return True
        except PermissionError:
            pass
        started = _started(self.process)
        return started is None or (self.started != 0 and started not in (0, self.started))


def _started(process: int) -> int | None:
    """When a process began; 0 where the system does not tell, None for one that is dead but not yet buried."""
    text = _text(Path(f"/proc/{process}/stat"))
    if not text:
        return 0
    fields = text.rpartition(")")[2].split()  # the name before may hold spaces and brackets
    return None if fields[_STATE] in "ZX" else int(fields[_STARTED])
