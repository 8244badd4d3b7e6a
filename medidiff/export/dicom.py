"""DICOM: for each case a folder with an MR series, its label map as a segmentation, and its record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from medidiff.case import Case, name_of
from medidiff.errors import InputError
from medidiff.export.layout import FileGroup, Layout
from medidiff.export.records import read_json, record_of, write_json, write_table
from medidiff.io.dicom.synthetic import Study, image_name, write_labels, write_scan
from medidiff.io.files.atomic import staging_folder, sync

__all__ = ["Dicom"]

_MOST_SLICES = 2**15


class Dicom(Layout):
    """``syn000000/image/IM0001.dcm`` and so on; the folder of a case appears with all its files at once."""

    name = "dicom"
    is_exact = False

    def record(self, number: int) -> Path:
        """See `Layout`."""
        return self.root / name_of(number) / "record.json"

    def _key(self) -> str:
        """What tells the UIDs of this data set from those of others: its seed, its priors and what was asked."""
        about = self.about
        told = [about.seed, [dict(each) for each in about.priors], dict(about.asked), about.contrast, about.version]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def add(self, case: Case) -> None:
        """See `Layout`."""
        about = self.about
        study = Study(case, self._key(), about.contrast, about.anatomy, about.licence)
        with staging_folder(self.root / case.name) as stage:
            images = write_scan(study, stage / "image")
            if case.labels is not None:
                write_labels(study, case.labels, images, stage / "labels.dcm")
            write_json(stage / "record.json", {**record_of(case), "Slices": len(images)})
            for path in (stage / "image").iterdir():
                sync(path)

    def finish(self, numbers: Sequence[int]) -> None:
        """See `Layout`."""
        write_table(self.root / self.table, self.rows(numbers))

    def expected(self, numbers: Sequence[int]) -> Iterator[str]:
        """See `Layout`; how many slices a scan has stands in its record."""
        yield self.table
        for number in numbers:
            home = name_of(number)
            yield f"{home}/record.json"
            yield from (f"{home}/image/{file}" for file in self._slices(number))
            if self.about.label_names:
                yield f"{home}/labels.dcm"

    def _slices(self, number: int) -> Iterator[str]:
        """Names of the images of a case; where its record is damaged, those that are there."""
        try:
            count = read_json(self.record(number)).get("Slices")
        except InputError:
            count = None
        if not isinstance(count, int) or not 0 < count <= _MOST_SLICES:
            yield from (path.name for path in (self.root / name_of(number) / "image").glob("*.dcm"))
            return
        yield from (image_name(k) for k in range(count))

    def groups(self) -> tuple[FileGroup, ...]:
        """See `Layout`."""
        masks = FileGroup("labels", "*/labels.dcm", "application/dicom", "label maps, Segmentation objects")
        scans = FileGroup("scans", "*/image/*.dcm", "application/dicom", "synthetic MR series, one file a slice")
        told = FileGroup("records", "*/record.json", "application/json", "how each was made")
        return (scans, masks, told) if self.about.label_names else (scans, told)

    def notes(self) -> str:
        """See `Layout`."""
        return (
            "DICOM: one study for each case. SyntheticData (0008,001C) is YES, the identity is invented, there are no "
            "dates. Values are stored in 16 bits, at most half a RescaleSlope off."
        )

    def cases(self, numbers: Sequence[int]) -> Iterator[Case]:
        """None: sixteen bits do not give a scan back as it was."""
        return iter(())
