"""The formats that trainers of networks read: nnU-Net, the Medical Segmentation Decathlon, Hugging Face."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from medidiff.case import MARK, name_of
from medidiff.export.layout import NiftiLayout
from medidiff.export.records import write_json

__all__ = ["Decathlon", "HuggingFace", "NnUNet"]


class _Described(NiftiLayout):
    """A format whose training cases lie in ``imagesTr`` and ``labelsTr``, with one ``dataset.json``."""

    needs_labels: ClassVar[bool] = True
    labels_path = "labelsTr/{name}.nii.gz"

    def finish(self, numbers: Sequence[int]) -> None:
        """See `Layout`."""
        super().finish(numbers)
        write_json(self.root / "dataset.json", {"Synthetic": True, **self.description(numbers)})

    def description(self, numbers: Sequence[int]) -> Mapping[str, Any]:
        """What stands in ``dataset.json``."""
        raise NotImplementedError

    def expected(self, numbers: Sequence[int]) -> Iterator[str]:
        """See `Layout`."""
        yield from super().expected(numbers)
        yield "dataset.json"


class NnUNet(_Described):
    """nnU-Net version 2, raw; the folder's own name (``Dataset123_Name``) is the user's choice."""

    name = "nnunet"
    image_path = "imagesTr/{name}_0000.nii.gz"

    def description(self, numbers: Sequence[int]) -> Mapping[str, Any]:
        """See `_Described`."""
        return {
            "name": self.about.title,
            "description": MARK,
            "licence": self.about.licence,
            "channel_names": {"0": self.about.contrast},
            "labels": {name: index for index, name in enumerate(_nnunet_names(self.about.label_names))},
            "numTraining": len(numbers),
            "file_ending": ".nii.gz",
        }

    def notes(self) -> str:
        """See `Layout`."""
        return "nnU-Net version 2, raw: put the folder into `nnUNet_raw` under a name such as `Dataset123_Synthetic`."


def _nnunet_names(names: Sequence[str]) -> Iterator[str]:
    """nnU-Net asks that label 0 be called background."""
    yield "background"
    yield from names[1:]


class Decathlon(_Described):
    """The Medical Segmentation Decathlon."""

    name = "msd"
    image_path = "imagesTr/{name}.nii.gz"

    def description(self, numbers: Sequence[int]) -> Mapping[str, Any]:
        """See `_Described`."""
        files = (self.case_files(number) for number in numbers)
        return {
            "name": self.about.title,
            "description": MARK,
            "reference": f"medidiff {self.about.version}",
            "licence": self.about.licence,
            "release": self.about.version,
            "tensorImageSize": "3D",
            "modality": {"0": self.about.contrast},
            "labels": {str(index): name for index, name in enumerate(self.about.label_names)},
            "numTraining": len(numbers),
            "numTest": 0,
            "training": [{"image": f"./{each['image']}", "label": f"./{each['labels']}"} for each in files],
            "test": [],
        }

    def notes(self) -> str:
        """See `Layout`."""
        call = "monai.data.load_decathlon_datalist('dataset.json', data_list_key='training')"
        return f"Medical Segmentation Decathlon: `{call}`."


class HuggingFace(NiftiLayout):
    """A folder for `datasets.load_dataset`, whose NIfTI builder knows files that are not packed."""

    name = "huggingface"
    table: ClassVar[str] = "data/metadata.csv"
    image_path = "data/images/{name}.nii"
    labels_path = "data/labels/{name}.nii"

    def columns(self, number: int) -> Mapping[str, str]:
        """See `Layout`."""
        files = {f"{role}_file_name": path.removeprefix("data/") for role, path in self.case_files(number).items()}
        return {**files, "case": name_of(number)}

    def notes(self) -> str:
        """See `Layout`."""
        return "Hugging Face: `datasets.load_dataset('niftifolder', data_dir='data')`."
