"""A folder of DICOM files to an archive: asked first which it has, sent what it lacks, asked again at the end.

The same folder pushed twice is no fault and makes nothing twice: an instance is its SOP instance UID. Files go as they
are, in their own transfer syntax.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medidiff.errors import InputError, OutputError, SettingsError
from medidiff.io.contents import Skipped
from medidiff.io.dicom.headers.elements import is_dicom
from medidiff.io.files.walk import gather
from medidiff.pacs.answers import Archive, Refused
from medidiff.pacs.instances import Instance, describe
from medidiff.pacs.patience import Patience

__all__ = ["Pushed", "push_folder"]

Report = Callable[[int, int], None]
_OF_ONE_SERIES = ("E-PACS-STORE", "E-PACS-UNCONFIRMED", "E-PACS-UNSUPPORTED")
_BATCH = ".medidiff"  # folder of a batch below its results: records, and series that an archive has sent itself


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of a folder.

    Args:
        sent: instances that were sent in this run.
        present: instances that the archive had already.
        series: how many series they belong to.
        skipped: files that are no DICOM files.
    """

    sent: int
    present: int
    series: int
    skipped: tuple[Skipped, ...]


def push_folder(
    archive: Archive, folder: Path, *, patience: Patience, synthetic: bool = False, report: Report | None = None
) -> Pushed:
    """Send the DICOM files of a folder that the archive does not have.

    Args:
        archive: whom to send to.
        folder: a folder, with its sub-folders, or one file; of a batch's output folder the results alone.
        patience: how to try again.
        synthetic: whether invented scans may go.
        report: called with the series that are done, and all of them.

    Raises:
        InputError: nothing is there, or a file is damaged; nothing was sent.
        SettingsError: ``E-SYNTHETIC``, invented scans, which were not allowed; nothing was sent.
        OutputError: the archive did not take all of it; what it took, it keeps, and one series that it refuses keeps
            no other from being sent.
    """
    instances, skipped = _files(folder)
    if any(each.synthetic for each in instances) and not synthetic:
        mend = "Pass --synthetic if this archive is meant for them."
        raise SettingsError("E-SYNTHETIC", "invented scans, which no patient's archive should hold", mend=mend)
    series: dict[tuple[str, str], dict[str, Instance]] = {}
    for each in instances:
        series.setdefault((each.study, each.series), {})[each.uid] = each
    sent = present = 0
    faults: list[InputError] = []
    for done, (place, parts) in enumerate(series.items()):
        push = _Push(archive, *place, parts)
        try:
            patience.persist(push.round, progress=lambda push=push: push.reached)  # type: ignore[misc]
        except InputError as error:
            if error.code not in _OF_ONE_SERIES:
                raise _untaken(error, error.found, folder) from error
            faults.append(error)
        sent, present = sent + push.sent, present + len(parts) - push.sent
        if report is not None:
            report(done + 1, len(series))
    if faults:
        told = f"; {len(faults)} of {len(series)} series were not taken whole, the others were" * (len(series) > 1)
        raise _untaken(faults[0], faults[0].found + told, folder) from faults[0]
    return Pushed(sent, present, len(series), tuple(skipped))


def _untaken(error: InputError, found: str, folder: Path) -> OutputError:
    return OutputError(error.code, found, wanted=error.wanted, mend=error.mend, file=folder.name)


def _files(folder: Path) -> tuple[list[Instance], list[Skipped]]:
    """Every DICOM file of a folder, looked at before any is sent.

    Raises:
        InputError: ``E-MISSING``, ``E-NOIMAGES``, or one is damaged; ``E-DUPUID``, two hold one instance.
    """
    gathered = gather(folder)
    found: dict[str, Instance] = {}
    skipped = list(gathered.skipped)
    for file in gathered.files:
        if _BATCH in file.parts[len(folder.parts) : -1]:
            continue
        with file.open("rb") as stream:
            start = stream.read(1024)
        if not is_dicom(start):
            skipped.append(Skipped(file.name, "not a DICOM file"))
            continue
        each = describe(file, name=file.name)
        if each.uid in found:
            mend = "Push a folder that holds each instance once."
            raise InputError("E-DUPUID", "two files of one instance", mend=mend, file=file.name)
        found[each.uid] = each
    if not found:
        mend = "Give the folder that 'medidiff denoise' wrote, or another with DICOM files."
        raise InputError("E-NOIMAGES", "no DICOM file", mend=mend, file=folder.name)
    return list(found.values()), skipped


class _Push:
    """One series on its way."""

    def __init__(self, archive: Archive, study: str, series: str, parts: dict[str, Instance]) -> None:
        self.archive, self.study, self.series, self.parts = archive, study, series, parts
        self.reached = self.sent = 0
        self._first: set[str] | None = None

    def round(self) -> None:
        """Ask what is there, send the rest, and ask again.

        Raises:
            InputError: ``E-PACS-STORE``, the archive refuses some; ``E-PACS-UNCONFIRMED``, it took them and does not
                tell of them yet; others as the archive.
        """
        missing = self._missing()
        if not missing:
            return
        refused = self.archive.store(missing)
        left = self._missing()
        if not left:
            return
        if refused and {each.uid for each in refused} >= {each.uid for each in left}:
            raise _not_taken(refused, len(self.parts))
        found = f"{len(left)} of {len(self.parts)} instances were sent and are not found on the archive"
        mend = "Look there in a while, or run the same command again: nothing is stored twice."
        raise InputError("E-PACS-UNCONFIRMED", found, wanted="all of them", mend=mend)

    def _missing(self) -> list[Instance]:
        there = self.archive.instances(self.study, self.series).keys() & self.parts.keys()
        if self._first is None:
            self._first = set(there)
        self.reached, self.sent = len(there), len(there - self._first)
        return [each for uid, each in self.parts.items() if uid not in there]


def _not_taken(refused: Sequence[Refused], count: int) -> InputError:
    reasons = ", ".join(sorted({each.reason for each in refused}))
    found = f"the archive refused {len(refused)} of {count} instances of a series: {reasons}"
    unsupported = all("not accepted" in each.reason for each in refused)
    mend = "Ask whoever runs the archive whether it takes this kind of object; its log says more."
    return InputError("E-PACS-UNSUPPORTED" if unsupported else "E-PACS-STORE", found, mend=mend)
