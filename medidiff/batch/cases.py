"""The manifest: every case of a batch, one line each, made once and never changed.

It is the only file of a batch that holds names as they were found, for it has to say where the inputs are; its owner
alone may read it. Names of cases, of results and of records are made of neutral words and hashes.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import overload

from medidiff.errors import InputError
from medidiff.io.files.atomic import write_file
from medidiff.io.files.names import safe_label

__all__ = ["KIND", "Case", "Manifest", "case_name", "neutral", "write_manifest"]

KIND = "{kind}"  # stands in a case's output for "denoised", "spread", ...
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_LONGEST_STEM = 60
_SHORT = 2  # letters; a folder called "in" is a word of most sentences
_MEND = "Give the folder that 'medidiff batch' wrote into; a damaged batch is begun anew in another folder."


@dataclass(frozen=True, slots=True)
class Case:
    """One scan to work on.

    Args:
        name: unique, of letters, digits, ``-`` and ``_``; tells nothing of the patient.
        input: absolute path of what holds the scan.
        scan: its number there, from 1; 0 for the only one.
        output: where its results go, below the output folder and without an ending; ``{kind}`` stands for what a result
            is.
    """

    name: str
    input: str
    scan: int
    output: str

    def result(self, kind: str, ending: str) -> str:
        """Where one result goes, below the output folder."""
        return self.output.replace(KIND, kind) + ending

    def seed(self, seed: int) -> int:
        """A seed that this case alone has, whatever other cases there are: of its name and the seed of the batch."""
        return int.from_bytes(hashlib.sha256(f"{seed} {self.name}".encode()).digest()[:8], "big") >> 1

    def plain(self, text: str) -> str:
        """A sentence with a label in the place of each name that the input's path holds."""
        for part in sorted(set(Path(self.input).parts), key=len, reverse=True):
            if len(part) > _SHORT and safe_label(part) != part:
                text = re.sub(rf"(?<!\w){re.escape(part)}(?!\w)", safe_label(part), text)
        return text


def neutral(part: str) -> str:
    """A part of a path as it may be written down: itself when it is made of neutral words, else a hash of 64 bits."""
    return part if safe_label(part) == part else f"case-{_digest(part)}"


def case_name(path: Sequence[str], scan: int) -> str:
    """The name of the case that is found at a place of the input.

    Args:
        path: folders and file name below the input.
        scan: number of the scan there.
    """
    words = [re.sub(r"[^A-Za-z0-9_-]", "-", part) for part in path if safe_label(part) == part]
    stem = "_".join(words)[-_LONGEST_STEM:].strip("_-") or "case"
    return f"{stem}-{_digest('/'.join((*path, str(scan))))}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def write_manifest(path: Path, cases: Iterable[Case]) -> None:
    """Write a manifest, whole or not at all.

    Args:
        path: the file; its folder exists.
        cases: in the order in which they are worked on.

    Raises:
        InputError: ``E-MANIFEST``, two cases share a name or an output, or one cannot be.
        OutputError: the system refuses.
    """

    def write(name: Path) -> None:
        name.chmod(0o600)
        with name.open("w", encoding="ascii") as stream:
            for case in _checked(cases):
                stream.write(json.dumps(asdict(case)) + "\n")

    write_file(path, write)


def _checked(cases: Iterable[Case]) -> Iterator[Case]:
    names: set[str] = set()
    outputs: set[str] = set()
    for number, case in enumerate(cases, 1):
        parts = case.output.split("/")
        plain = KIND in parts[-1] and not {"", ".", ".."} & set(parts) and not parts[0].startswith(".")
        if not _NAME.fullmatch(case.name) or not plain or "\\" in case.output or "\0" in case.output:
            wanted = "a name of letters, digits, '-' and '_', and an output below the output folder"
            raise _broken(f"case {number} has a name or output that cannot be", wanted)
        name, output = case.name.casefold(), case.output.casefold()
        if name in names or output in outputs:
            raise _broken(f"case {number} has the name or output of another case", "a name and an output of its own")
        names.add(name)
        outputs.add(output)
        yield case


def _broken(found: str, wanted: str) -> InputError:
    return InputError("E-MANIFEST", found, wanted=wanted, mend="Correct the manifest and begin again.")


class Manifest(Sequence[Case]):
    """The cases of a batch, read from the disk when they are asked for.

    Args:
        path: the file.

    Raises:
        InputError: ``E-BATCH``, there is none, or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as stream:
                empty = os.fstat(stream.fileno()).st_size == 0
                self._text = b"" if empty else mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise InputError("E-BATCH", "no manifest of a batch", mend=_MEND, file=path.name) from error
        self.sha256 = hashlib.sha256(self._text).hexdigest()
        self._starts = array("Q", [0])
        end = 0
        while (end := self._text.find(b"\n", end) + 1) > 0:
            self._starts.append(end)
        if self._starts[-1] != len(self._text):
            raise InputError("E-BATCH", "a manifest that was cut", mend=_MEND, file=path.name)

    def __len__(self) -> int:
        """How many cases there are."""
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> Case: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Case]: ...
    def __getitem__(self, index: int | slice) -> Case | Sequence[Case]:
        """The case with a number, from 0."""
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        line = self._text[self._starts[index] : self._starts[index + 1]]
        try:
            return Case(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise InputError("E-BATCH", f"line {index + 1} of the manifest is damaged", mend=_MEND) from error
