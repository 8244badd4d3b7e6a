"""BIDS: a raw data set of the scans, and their label maps as a derivative inside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from medidiff.case import MARK, name_of
from medidiff.errors import SettingsError
from medidiff.export.layout import NiftiLayout
from medidiff.export.records import write_json, write_table, write_text

__all__ = ["BIDS_VERSION", "Bids"]

BIDS_VERSION = "1.10.0"
_CONTRASTS = ("T1w", "T2w", "PDw", "T2starw", "FLAIR", "inplaneT1", "inplaneT2", "PDT2", "T2star", "UNIT1", "angio")
_OTHERS = ("SHA256SUMS", "croissant.json", "gates.json", "medidiff.json")
_DERIVED = "derivatives/labels"


class Bids(NiftiLayout):
    """``sub-syn000000/anat/sub-syn000000_T1w.nii.gz``; the record of a case is the sidecar of its scan."""

    name = "bids"
    table: ClassVar[str] = "participants.tsv"
    image_path = "sub-{name}/anat/sub-{name}_{contrast}.nii.gz"
    labels_path = _DERIVED + "/sub-{name}/anat/sub-{name}_dseg.nii.gz"
    record_path = "sub-{name}/anat/sub-{name}_{contrast}.json"

    def refuse(self) -> None:
        """See `Layout`."""
        if self.about.contrast not in _CONTRASTS:
            wanted = ", ".join(_CONTRASTS)
            raise SettingsError("E-EXPORT", f"contrast {self.about.contrast} in BIDS", wanted=wanted)

    def columns(self, number: int) -> Mapping[str, str]:
        """See `Layout`."""
        return {"participant_id": f"sub-{name_of(number)}"}

    def finish(self, numbers: Sequence[int]) -> None:
        """See `Layout`."""
        super().finish(numbers)
        write_json(self.root / "participants.json", _PARTICIPANTS)
        write_json(self.root / "dataset_description.json", self._description("raw"))
        write_text(self.root / ".bidsignore", "\n".join((f"# {MARK}", *_OTHERS)) + "\n")
        if self.about.label_names:
            write_json(self.root / _DERIVED / "dataset_description.json", self._description("derivative"))
            names = enumerate(self.about.label_names)
            table = ({"index": str(index), "name": name, "synthetic": "true"} for index, name in names)
            write_table(self.root / _DERIVED / "dseg.tsv", table)

    def _description(self, kind: str) -> Mapping[str, object]:
        told = {
            "Name": self.about.title + (" (label maps)" if kind == "derivative" else ""),
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": kind,
            "License": self.about.licence,
            "GeneratedBy": [{"Name": "medidiff", "Version": self.about.version, "Description": MARK}],
            "Synthetic": True,
        }
        return told

    def expected(self, numbers: Sequence[int]) -> Iterator[str]:
        """See `Layout`."""
        yield from super().expected(numbers)
        yield from ("participants.json", "dataset_description.json", ".bidsignore")
        if self.about.label_names:
            yield from (f"{_DERIVED}/dataset_description.json", f"{_DERIVED}/dseg.tsv")

    def notes(self) -> str:
        """See `Layout`."""
        masks = f"; the label maps are the derivative `{_DERIVED}`, named in its `dseg.tsv`"
        return f"BIDS {BIDS_VERSION}: scans below `sub-*/anat`{masks if self.about.label_names else ''}."


_PARTICIPANTS = {
    "Synthetic": True,
    "participant_id": {"Description": "An invented subject"},
    "age": {"Description": "Age that was asked for; n/a where it was left open", "Units": "year"},
    "sex": {
        "Description": "Sex that was asked for; n/a where it was left open",
        "Levels": {"F": "female", "M": "male"},
    },
    "contrast": {"Description": "Contrast that was asked for; n/a where it was left open"},
    "synthetic": {"Description": MARK, "Levels": {"true": "invented, not a patient"}},
}
