"""How a format lays out a data set: what the writer, the reader and the check ask of each."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from medidiff.case import Case, name_of
from medidiff.errors import InputError, SettingsError
from medidiff.export.about import About
from medidiff.export.records import case_of, read_json, record_of, row_of, write_json, write_table
from medidiff.io import read
from medidiff.io.nifti.synthetic import write_synthetic
from medidiff.volume import Volume

__all__ = ["FileGroup", "Layout", "NiftiLayout"]


@dataclass(frozen=True, slots=True)
class FileGroup:
    """Files of one kind.

    Args:
        name: of the kind.
        pattern: of their paths.
        media_type: of each.
        text: what they are.
    """

    name: str
    pattern: str
    media_type: str
    text: str


class Layout(ABC):
    """A data set in one format. Paths are relative to its folder, with forward slashes.

    Args:
        root: the folder.
        about: what the data set is.
    """

    name: ClassVar[str]
    table: ClassVar[str] = "cases.tsv"
    """Path of the table with a row for each case."""
    needs_labels: ClassVar[bool] = False
    is_exact: ClassVar[bool] = True
    """Whether `cases` gives a case back as it was."""
    scratch: ClassVar[str] = ""
    """A folder that a whole data set no longer needs."""

    def __init__(self, root: Path, about: About) -> None:
        self.root, self.about = root, about

    def refuse(self) -> None:
        """Refuse a data set that the format cannot hold.

        Raises:
            SettingsError: ``E-EXPORT``.
        """
        if self.needs_labels and not self.about.label_names:
            mend = "Draw the cases with labels, or choose bids, webdataset, huggingface or dicom."
            raise SettingsError("E-EXPORT", f"scans without label maps as {self.name}", wanted="label maps", mend=mend)

    def path(self, template: str, number: int) -> str:
        """A path of one case, from a template with ``{name}`` and ``{contrast}``."""
        return template.format(name=name_of(number), contrast=self.about.contrast)

    @abstractmethod
    def record(self, number: int) -> Path:
        """Where the record of a case lies while the data set is written; it is written last, or with all the rest."""

    @abstractmethod
    def add(self, case: Case) -> None:
        """Write the files of a case."""

    @abstractmethod
    def finish(self, numbers: Sequence[int]) -> None:
        """Write what the format has for the data set as a whole, its table among it."""

    @abstractmethod
    def expected(self, numbers: Sequence[int]) -> Iterator[str]:
        """Every path of a whole data set, beside the files that all formats have."""

    @abstractmethod
    def groups(self) -> tuple[FileGroup, ...]:
        """The files of the cases by kind."""

    @abstractmethod
    def notes(self) -> str:
        """How the files are named and read, as Markdown."""

    @abstractmethod
    def cases(self, numbers: Sequence[int]) -> Iterator[Case]:
        """Cases of a whole data set, as they were, one at a time.

        Args:
            numbers: in rising order.

        Raises:
            InputError: ``E-DATASET``, their files do not fit together.
        """

    def numbers(self) -> list[int]:
        """The cases that are there while the data set is written, in order."""
        pattern = self.record(0).relative_to(self.root).as_posix().replace(name_of(0), "syn*")
        names = (re.search(r"syn(\d{6,})", str(path.relative_to(self.root))) for path in self.root.glob(pattern))
        return sorted(int(name[1]) for name in names if name)

    def rows(self, numbers: Sequence[int]) -> Iterator[Mapping[str, str]]:
        """The rows of the table, from one record after the other."""
        for number in numbers:
            yield {**self.columns(number), **row_of(read_json(self.record(number)))}

    def columns(self, number: int) -> Mapping[str, str]:
        """What stands in the row of a case before what was asked for."""
        return {"case": name_of(number)}


class NiftiLayout(Layout):
    """A format with a NIfTI file for each scan and each label map, and a JSON record for each case."""

    image_path: ClassVar[str]
    labels_path: ClassVar[str]
    record_path: ClassVar[str] = "records/{name}.json"

    def record(self, number: int) -> Path:
        """See `Layout`."""
        return self.root / self.path(self.record_path, number)

    def case_files(self, number: int) -> Mapping[str, str]:
        """Paths of the scan and, if there is one, of its label map."""
        templates = {"image": self.image_path} | ({"labels": self.labels_path} if self.about.label_names else {})
        return {role: self.path(template, number) for role, template in templates.items()}

    def columns(self, number: int) -> Mapping[str, str]:
        """See `Layout`."""
        return {"case": name_of(number), **self.case_files(number)}

    def add(self, case: Case) -> None:
        """See `Layout`."""
        files = self.case_files(case.number)
        write_synthetic(_stored(case.image, np.float32), self.root / files["image"])
        if case.labels is not None:
            write_synthetic(_stored(case.labels, np.uint8), self.root / files["labels"])
        write_json(self.record(case.number), record_of(case))

    def finish(self, numbers: Sequence[int]) -> None:
        """See `Layout`."""
        write_table(self.root / self.table, self.rows(numbers), separator="," if self.table.endswith(".csv") else "\t")

    def expected(self, numbers: Sequence[int]) -> Iterator[str]:
        """See `Layout`."""
        yield self.table
        for number in numbers:
            yield from self.case_files(number).values()
            yield self.path(self.record_path, number)

    def groups(self) -> tuple[FileGroup, ...]:
        """See `Layout`."""
        kind = "application/gzip" if self.image_path.endswith(".gz") else "application/octet-stream"
        scans = FileGroup("scans", _pattern(self.image_path, self.about), kind, "synthetic scans, NIfTI, float32")
        masks = FileGroup("labels", _pattern(self.labels_path, self.about), kind, "label maps, NIfTI, uint8")
        told = FileGroup("records", _pattern(self.record_path, self.about), "application/json", "how each was made")
        return (scans, masks, told) if self.about.label_names else (scans, told)

    def cases(self, numbers: Sequence[int]) -> Iterator[Case]:
        """See `Layout`."""
        for number in numbers:
            yield self.read_in(self.root, number)

    def read_in(self, folder: Path, number: int) -> Case:
        """A case whose files lie below a folder as they do below the data set's while it is written."""
        record = read_json(folder / self.path(self.record_path, number))
        if record.get("Case") != number:
            raise InputError("E-DATASET", "the record of another case", file=name_of(number))
        volumes = {role: read(folder / path) for role, path in self.case_files(number).items()}
        return case_of(record, volumes["image"], volumes.get("labels"))


def _stored(volume: Volume, kind: type) -> Volume:
    return volume.with_data(volume.data.astype(kind, copy=False))


def _pattern(template: str, about: About) -> str:
    return template.format(name="*", contrast=about.contrast)
