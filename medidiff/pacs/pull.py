"""Studies from an archive into ``OUT/<study UID>/<series UID>/<SOP instance UID>.dcm``.

A series is fetched into a hidden folder and appears under its name when every instance that the archive told of has
come, by one rename: whoever reads the tree meets whole series or none. What has come is kept while the archive is asked
again for the rest; what lies in the tree from an earlier run is not fetched again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medidiff.errors import InputError, MedidiffError, OutputError
from medidiff.io.files.atomic import output_errors, staging_folder
from medidiff.io.files.names import inside
from medidiff.pacs.answers import Archive, Series
from medidiff.pacs.arrivals import Arrivals
from medidiff.pacs.patience import PASSING, Patience
from medidiff.pacs.wanted import Wanted

__all__ = ["OF_ONE_SERIES", "Pulled", "PulledSeries", "pull_series", "pull_study"]

_MOST_ROUNDS = 5  # in which a study may go on growing

Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class PulledSeries:
    """One series that is whole on the disk.

    Args:
        folder: where it lies.
        instances: how many files it has.
        fetched: those of them that came in this run.
    """

    folder: Path
    instances: int
    fetched: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Pulled:
    """What became of one study.

    Args:
        folder: of the study.
        series: those that are whole.
        refused: why others are not there.
    """

    folder: Path
    series: tuple[PulledSeries, ...]
    refused: tuple[MedidiffError, ...]

    @property
    def complete(self) -> bool:
        """Whether every wanted series, as the archive told of them at the end, is whole on the disk."""
        return bool(self.series) and not self.refused

    @property
    def instances(self) -> int:
        """Files of all whole series."""
        return sum(each.instances for each in self.series)


def pull_study(
    archive: Archive, study: str, out: Path, *, wanted: Wanted, patience: Patience, report: Report | None = None
) -> Pulled:
    """Fetch the wanted series of a study that are not there yet.

    Args:
        archive: whom to ask.
        study: StudyInstanceUID, checked.
        out: folder of the tree.
        wanted: which series.
        patience: how to try again.
        report: called with the instances that have come of a series, and those that it has.

    Raises:
        MedidiffError: the archive cannot be asked at all, or the disk refuses; a series that cannot be had is told in
            the result.
    """
    done: dict[str, PulledSeries] = {}
    refused: dict[str, MedidiffError] = {}
    for _ in range(_MOST_ROUNDS):
        listed = [s for s in patience.persist(lambda: archive.series(study)) if wanted.fits_series(s.uid, s.modality)]
        new = [each for each in listed if each.uid not in done and each.uid not in refused]
        if not new:
            break
        for each in new:
            try:
                done[each.uid] = _whole(archive, study, each, out, patience, report)
            except InputError as error:
                if error.code not in OF_ONE_SERIES:
                    raise
                refused[each.uid] = error
                with suppress(OSError):  # stays where it holds other series
                    (out / study).rmdir()
    else:
        refused[""] = _partial("new series went on coming while the study was fetched")
    if not done and not refused:
        refused[""] = InputError("E-PACS-NONE", "no series of the study fits", mend="Ask for other series.")
    return Pulled(out / study, tuple(done.values()), tuple(refused.values()))


OF_ONE_SERIES = (PASSING - {"E-PACS-REACH", "E-PACS-BUSY"}) | {
    "E-PACS-ANSWER",
    "E-PACS-HTTP",
    "E-PACS-NONE",
    "E-PACS-UNSUPPORTED",
}
"""After one of these the other series of a study are still worth asking for."""


def _whole(
    archive: Archive, study: str, series: Series, out: Path, patience: Patience, report: Report | None
) -> PulledSeries:
    return pull_series(archive, study, series.uid, out, patience=patience, report=report)


def pull_series(
    archive: Archive, study: str, series: str, out: Path, *, patience: Patience, report: Report | None = None
) -> PulledSeries:
    """Fetch one series, unless it is there already.

    Args:
        archive: whom to ask.
        study: StudyInstanceUID, checked.
        series: SeriesInstanceUID, checked.
        out: folder of the tree.
        patience: how to try again.
        report: called with the instances that have come, and those that it has.

    Raises:
        InputError: ``E-PACS-PARTIAL`` or ``E-PACS-WARNING``, some did not come, and nothing of the series is kept;
            ``E-PACS-NONE``, it has none; others as the archive.
        OutputError: the disk refuses, or ``E-EXISTS``, the folder holds instances that the archive does not have.
    """
    target = inside(out, f"{study}/{series}")
    awaited = patience.persist(lambda: archive.instances(study, series))
    if not awaited:
        raise InputError("E-PACS-NONE", "a series without instances", mend="Ask for another series.")
    there = _there(target)
    if there - awaited.keys():
        found = f"{len(there - awaited.keys())} instances that the archive does not have lie in a series' folder"
        raise OutputError("E-EXISTS", found, wanted="an empty place", mend="Choose a new folder for OUT.")
    if there == awaited.keys():
        return PulledSeries(target, len(there), ())
    with staging_folder(target) as stage:
        arrivals = Arrivals(stage, study=study, series=series, awaited=awaited, largest_bytes=archive.largest_bytes)
        arrivals.already(there)
        patience.persist(lambda: _round(archive, arrivals, report), progress=lambda: arrivals.taken)
        came = sorted(file.name for file in stage.iterdir())
    return PulledSeries(target, len(there) + len(came), tuple(target / name for name in came))


def _there(folder: Path) -> set[str]:
    """SOP instance UIDs of the files of an earlier run, which are whole, as none appears before it is."""
    with output_errors("OUT"):
        files = folder.glob("*.dcm") if folder.is_dir() else ()
        return {file.stem for file in files if not file.name.startswith(".")}


def _round(archive: Archive, arrivals: Arrivals, report: Report | None) -> None:
    """Ask for what is missing, then ask again what there is: a series may grow while it is fetched."""
    failed = 0
    if arrivals.missing:
        try:
            failed = archive.fetch(arrivals)
        finally:
            arrivals.raise_fault()
            if report is not None:
                report(arrivals.taken, arrivals.taken + len(arrivals.missing))
    now: Mapping[str, str] = archive.instances(arrivals.study, arrivals.series)
    arrivals.await_also(now)
    missing = len(arrivals.missing)
    if not missing:
        return
    told = f"{arrivals.taken} of {arrivals.taken + missing} instances of a series came"
    refused = f"; refused: {arrivals.told()}" if arrivals.told() else ""
    if failed:
        found = f"{told}; the archive says that it failed to send {failed}{refused}"
        raise InputError("E-PACS-WARNING", found, wanted="all of them", mend=_MEND)
    raise _partial(told + refused)


_MEND = "Run the same command again; the archive's log may say why. What is not whole was not kept."


def _partial(found: str) -> InputError:
    return InputError("E-PACS-PARTIAL", found, wanted="all of them", mend=_MEND)
