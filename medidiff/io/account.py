"""What a run saw, used and made, put down in its record; and the law that nothing of it gets lost.

Files seen = files used + files skipped with a reason. Series seen = series done + series refused + series not asked
for. `Account.close` checks both when a run ends well; a breach is a fault of medidiff (``E-CONSERVATION``), never of
the user.
"""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medidiff.errors import MedidiffError
from medidiff.io.contents import Skipped
from medidiff.io.files.atomic import sha256
from medidiff.io.files.names import safe_label
from medidiff.io.reading import Found, Reading
from medidiff.io.record import RecordWriter

__all__ = ["Account", "Counts", "Used", "count_files"]

_MOST_SENTENCES = 200  # decisions of one scan that are written out


@dataclass(slots=True)
class Counts:
    """The sums that must agree."""

    files_seen: int = 0
    files_used: int = 0
    files_skipped: int = 0
    series_seen: int = 0
    series_done: int = 0
    series_refused: int = 0
    series_not_asked_for: int = 0

    @property
    def faults(self) -> list[str]:
        """The sums that do not."""
        found = []
        if self.files_seen != self.files_used + self.files_skipped:
            found.append(f"{self.files_seen} files seen, {self.files_used} used and {self.files_skipped} skipped")
        if self.series_seen != self.series_done + self.series_refused + self.series_not_asked_for:
            ends = f"{self.series_done} done, {self.series_refused} refused, {self.series_not_asked_for} not asked for"
            found.append(f"{self.series_seen} series seen, {ends}")
        return found


@dataclass(frozen=True, slots=True)
class Used:
    """What is remembered of a scan that was read, without its voxels."""

    files: tuple[Path, ...]
    sha256: tuple[str, ...]
    decisions: tuple[str, ...]

    @classmethod
    def of(cls, reading: Reading) -> Used:
        """The account of one reading."""
        return cls(reading.files, reading.sha256, reading.decisions)


class Account:
    """Writes what happens to a record, and adds it up.

    Args:
        record: where it is put down.
        names: names of files or folders that must not stand in a sentence of the record as they are.
    """

    def __init__(self, record: RecordWriter, names: Iterable[str] = ()) -> None:
        self.record, self.counts = record, Counts()
        self._labels: dict[str, str] = {}
        self._learn(names)

    def call(self, name: str, label: str) -> None:
        """Take a label for a file's name, whatever it is made of; one without an ending could be any word."""
        if Path(name).suffix:
            self._labels[name] = label

    def _learn(self, names: Iterable[str]) -> None:
        new = (name for name in names if name and name not in self._labels)
        self._labels |= {name: safe_label(name) for name in new if safe_label(name) != name}

    def plain(self, text: str) -> str:
        """A sentence with the label of each file in the place of its name."""
        for name in sorted((name for name in self._labels if name in text), key=len, reverse=True):
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", self._labels[name], text)
        return text

    def source(self, path: Path, found: Found, *, seen: int | None) -> None:
        """Put down what a path holds.

        Args:
            path: as it was given.
            found: its scans.
            seen: files counted there by `count_files`; None when they cannot be counted by themselves.
        """
        used = {file for scan in found.scans for file in scan.files}
        self._learn(file.name for file in used)
        self._learn(skip.file for skip in found.skipped)
        files = len(used) + len(found.skipped) if seen is None else seen
        self.counts.files_seen += files
        self.counts.series_seen += len(found.scans)
        label = safe_label(path.name)
        self.record.line("source", source=label, format=found.format, files=files, series=len(found.scans))

    def files(self, found: Found, done: Mapping[int, Used], refused: Mapping[int, MedidiffError] | None = None) -> None:
        """Put down what became of every file and every series of a path.

        Args:
            found: its scans.
            done: what was read, by number of the scan from 1.
            refused: what could not be.
        """
        refused = refused or {}
        used: dict[Path, str] = {}
        for each in done.values():
            used |= dict(zip(each.files, each.sha256, strict=True))
        left: dict[Path, str] = {}
        for number, scan in enumerate(found.scans, 1):
            state = f"was refused: {refused[number].code}" if number in refused else "was not asked for"
            left |= {file: f"part of scan {number}, which {state}" for file in scan.files if file not in used}
        rows = [_row(file, used=True, sha256=digest) for file, digest in used.items()]
        rows += [_row(file, used=False, reason=reason) for file, reason in left.items()]
        self.record.lines("input", rows)
        self._left_out(found.skipped)
        for each in done.values():
            self.decisions(each.decisions)
        self.counts.files_used += len(used)
        self.counts.files_skipped += len(left) + len(found.skipped)
        self.counts.series_done += len(done)
        self.counts.series_refused += len(refused)
        self.counts.series_not_asked_for += len(found.scans) - len(done) - len(refused)

    def passed(
        self, path: Path, *, seen: int | None, done: int, skipped: Sequence[Skipped], format: str = "dicom"
    ) -> None:
        """Put down a path whose files were treated one by one, each becoming another file.

        Args:
            path: as it was given.
            seen: files counted there by `count_files`; None when they cannot be counted by themselves.
            done: how many were treated.
            skipped: those that were not.
            format: of the files.
        """
        self._learn(skip.file for skip in skipped)
        files = done + len(skipped) if seen is None else seen
        self.record.line("source", source=safe_label(path.name), format=format, files=files, series=0)
        self._left_out(skipped)
        self.counts.files_seen += files
        self.counts.files_used += done
        self.counts.files_skipped += len(skipped)

    def _left_out(self, skipped: Sequence[Skipped]) -> None:
        rows = [{"file": safe_label(s.file), "used": False, "reason": self.plain(s.reason)} for s in skipped]
        self.record.lines("input", rows)

    def decisions(self, sentences: Sequence[str]) -> None:
        """Put down what was chosen or repaired."""
        self.record.lines("decision", [{"text": sentence} for sentence in self.told(sentences)])

    def told(self, sentences: Sequence[str]) -> tuple[str, ...]:
        """Sentences as they may be written down, at most so many that somebody would read them."""
        kept = tuple(self.plain(sentence) for sentence in sentences[:_MOST_SENTENCES])
        more = len(sentences) - len(kept)
        return (*kept, f"and {more} more of this kind") if more else kept

    def outputs(self, files: Sequence[Path]) -> None:
        """Put down the files that were written."""
        self.record.lines("output", [_row(file, sha256=sha256(file)) for file in files])

    def refusal(self, error: MedidiffError, *, scan: int | None = None) -> None:
        """Put down what could not be done."""
        self._learn((error.file,))
        number = {} if scan is None else {"scan": scan}
        self.record.line("refusal", code=error.code, message=self.plain(str(error)), **number)

    def close(self, exit_code: int, ended: str) -> None:
        """Check the sums and put down how the run ended.

        Args:
            exit_code: of the process.
            ended: the same as a word; only a run that is ``"done"`` or ``"partial"`` has to account for everything.

        Raises:
            MedidiffError: ``E-CONSERVATION``, a run that ended well has lost something from sight.
        """
        faults = self.counts.faults if ended in ("done", "partial") else []
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        code, ended = (1, "a bug") if faults else (exit_code, ended)
        sums = asdict(self.counts) | {"faults": faults}
        self.record.line("end", exit_code=code, ended=ended, peak_memory_bytes=memory, counts=sums)
        if faults:
            mend = "This is a fault of medidiff, unless files came or went meanwhile: run it again, then report it."
            raise MedidiffError("E-CONSERVATION", "; ".join(faults), wanted="nothing lost from sight", mend=mend)


def _row(file: Path, **fields: Any) -> dict[str, Any]:
    size = file.stat().st_size if file.is_file() else None
    return {"file": safe_label(file.name), "bytes": size} | fields


def count_files(path: Path) -> int | None:
    """How many files a folder holds, counted apart from the reader that accounts for them.

    Links to folders count as one file, since they are not followed; unfinished files of our own do not count. None for
    what is no folder: whether a file is an archive or has a second half is for the reader to say.
    """
    if not path.is_dir():
        return None
    closed: list[OSError] = []
    count = 0
    for folder, children, names in os.walk(path, onerror=closed.append):
        children[:] = [name for name in children if not name.startswith(".medidiff-")]
        count += len(names) + sum((Path(folder) / name).is_symlink() for name in children)
    return count + len(closed)
