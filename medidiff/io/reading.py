"""From a path to the scans it holds (`Found`), each of which can be read (`Reading`): no file goes unaccounted for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from medidiff.errors import InputError
from medidiff.io.contents import SeriesSummary, Skipped
from medidiff.volume import Volume

__all__ = ["Found", "Reading", "Scan"]


@dataclass(frozen=True, slots=True)
class Reading:
    """One scan that was read.

    Args:
        volume: the scan.
        files: the files it was made from, in reading order, each once.
        sha256: of the bytes of each of these files, as they were read.
        skipped: every other file that was seen, with the reason.
        decisions: what the reader chose by itself and every repair that was asked for, as sentences.
    """

    volume: Volume
    files: tuple[Path, ...]
    sha256: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    decisions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan that a path holds, found from headers alone and not read yet.

    Args:
        summary: what it is; its `problem` says why it cannot be read.
        files: the files it is made from, in reading order, each once.
        load: reads the voxels; raises the `InputError` that `summary.problem` tells.
    """

    summary: SeriesSummary
    files: tuple[Path, ...]
    load: Callable[[], Reading] = field(repr=False)  # it holds header values, which no log may show


@dataclass(frozen=True, slots=True)
class Found:
    """Everything that a path holds: each file seen belongs to a scan or was skipped.

    Args:
        format: ``"nifti"``, ``"dicom"``, ``"nrrd"`` or ``"metaimage"``.
        scans: in a stable order, numbered from 1 for the user.
        skipped: files that are part of no scan, with the reason.
    """

    format: str
    scans: tuple[Scan, ...]
    skipped: tuple[Skipped, ...] = ()

    def only(self, number: int, *, file: str) -> Scan:
        """The scan with this number, or the only one when the number is 0.

        Args:
            number: as in `ReadOptions.scan`.
            file: name of the path, for the message.

        Raises:
            InputError: ``E-MULTISERIES``, there are several; ``E-SCAN``, there is none with this number.
        """
        count = len(self.scans)
        if number > count:
            mend = "List them with 'medidiff info'."
            wanted = f"1 to {count}" if count > 1 else "1, the only one"
            raise InputError("E-SCAN", f"no scan {number}", wanted=wanted, mend=mend, file=file)
        if number == 0 and count > 1:
            kinds = "; ".join(f"{n}: {scan.summary.label}" for n, scan in enumerate(self.scans[:8], 1))
            mend = (
                "Choose one with --scan N, in Python ReadOptions(scan=N), or convert all with 'medidiff convert --all'."
            )
            raise InputError("E-MULTISERIES", f"{count} scans: {kinds}", wanted="one scan", mend=mend, file=file)
        return self.scans[max(number, 1) - 1]
