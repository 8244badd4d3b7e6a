"""What an archive is asked for, and whether an answer is what was asked for."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from medidiff.errors import InputError, SettingsError

__all__ = ["Wanted", "is_uid", "uid_of"]

_UID = re.compile(r"\d+(\.\d+)+")  # with leading zeros too, as some scanners write them
_LONGEST_UID = 64
_CODE = re.compile(r"[A-Z0-9_ ]{1,16}")
_WILD = frozenset("*?\\")
_RANGE = re.compile(r"(\d{8})?(-)?(\d{8})?")


def is_uid(text: str) -> bool:
    """Whether a text is a UID that may become a file name: digits and single dots, at most 64."""
    return len(text) <= _LONGEST_UID and text.isascii() and _UID.fullmatch(text) is not None


def uid_of(text: object, *, what: str) -> str:
    """A UID that an archive named, checked before it becomes part of a path or a question.

    Args:
        text: what was answered.
        what: which UID it is, for the message.

    Raises:
        InputError: ``E-PACS-ANSWER``, it is none.
    """
    uid = str(text or "").strip(" \0")
    if not is_uid(uid):
        raise InputError(
            "E-PACS-ANSWER",
            f"a {what} of {len(uid)} characters that is no UID",
            wanted="digits and dots, at most 64",
            mend="Report it to whoever runs the archive; nothing was written under this name.",
        )
    return uid


@dataclass(frozen=True, slots=True)
class Wanted:
    """A question to an archive; what is empty does not count.

    Args:
        study: StudyInstanceUID.
        series: SeriesInstanceUID; only with `study`.
        accession: AccessionNumber, in full.
        patient: PatientID, in full.
        dates: StudyDate, ``"20260101"``, ``"20260101-20260131"``, ``"20260101-"`` or ``"-20260131"``.
        modalities: e.g. ``("MR", "CT")``; studies that have one of them, and of these only such series.

    Raises:
        SettingsError: ``E-PACS-QUERY``, it is empty, has wildcards, or cannot be.
    """

    study: str = ""
    series: str = ""
    accession: str = ""
    patient: str = ""
    dates: str = ""
    modalities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not any(getattr(self, field.name) for field in fields(self)):
            mend = "Name at least one: --study, --accession, --patient, --dates or --modality."
            raise SettingsError("E-PACS-QUERY", "a question without any condition", mend=mend)
        for name in ("study", "series"):
            uid = getattr(self, name)
            if uid and not is_uid(uid):
                raise _no_query(f"--{name}", "something that is no UID", "digits and dots, at most 64 characters")
        if self.series and not self.study:
            raise _no_query("--series", "a series without its study", "--study as well")
        for name in ("accession", "patient"):
            value = getattr(self, name)
            if _WILD & set(value) or len(value) > 64 or not value.isprintable() or value != value.strip():
                raise _no_query(f"--{name}", "a value with wildcards or odd characters", "one number in full")
        for code in self.modalities:
            if not _CODE.fullmatch(code):
                raise _no_query("--modality", "something that is no modality", "a code such as MR")
        if self.dates:
            self._ends()

    def _ends(self) -> tuple[str, str]:
        """First and last day; the first or last of all where an end is open."""
        match = _RANGE.fullmatch(self.dates)
        if match is None or not (match[1] or match[3]):
            raise _no_query("--dates", "something that is no range of days", "YYYYMMDD-YYYYMMDD")
        if match[2] is None and match[3] is not None:
            raise _no_query("--dates", "something that is no range of days", "YYYYMMDD-YYYYMMDD")
        first = match[1] or "00010101"
        last = match[3] or ("99991231" if match[2] else first)
        for day in (first, last):
            try:
                datetime.date(int(day[:4]), int(day[4:6]), int(day[6:]))
            except ValueError as error:
                raise _no_query("--dates", "a day that is in no calendar", "YYYYMMDD-YYYYMMDD") from error
        if first > last:
            raise _no_query("--dates", "a range that ends before it begins", "the earlier day first")
        return first, last

    @property
    def study_keys(self) -> dict[str, str]:
        """Conditions at the level of studies, by DICOM keyword."""
        keys = {
            "StudyInstanceUID": self.study,
            "AccessionNumber": self.accession,
            "PatientID": self.patient,
            "StudyDate": self.dates,
        }
        return {name: value for name, value in keys.items() if value}

    def fits_study(self, answer: Mapping[str, str]) -> bool:
        """Whether a study that was answered is one that was asked for; some archives pass over conditions.

        Args:
            answer: values by DICOM keyword; `PatientID` and the other conditions among them, empty when unsaid.
        """
        plain = all(
            not asked or answer.get(name, "").strip() == asked
            for name, asked in self.study_keys.items()
            if name != "StudyDate"
        )
        if not plain or not self.dates:
            return plain
        first, last = self._ends()
        return first <= answer.get("StudyDate", "").strip().replace(".", "")[:8] <= last

    def fits_series(self, uid: str, modality: str) -> bool:
        """Whether a series of such a study is wanted."""
        return (not self.series or uid == self.series) and (not self.modalities or modality in self.modalities)


def _no_query(option: str, found: str, wanted: str) -> SettingsError:
    return SettingsError("E-PACS-QUERY", found, wanted=wanted, attribute=option)
