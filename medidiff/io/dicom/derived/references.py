"""Where a derived image comes from: derivation, source images, and the software that took part."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from pydicom.dataset import Dataset

from medidiff.io.dicom.derived.modules import code
from medidiff.io.dicom.headers.header import Header
from medidiff.volume import Provenance

__all__ = ["add_derivation", "add_equipment", "add_sources", "reference_series"]

_LONGEST = 1024  # characters of a short text (ST)
_SOURCE = ("121322", "DCM", "Source image for image processing operation")


def add_derivation(image: Dataset, provenance: Provenance, *, regridded: bool) -> None:
    """What was done, in words and in codes.

    CID 7203 is extensible and has nothing for a learned prior, so that code is this software's own.
    """
    codes = [code("113085", "DCM", "Spatial resampling")] if regridded else []
    if provenance.prior:
        codes.append(code("RESTORE", "99MEDIDIFF", "Restoration by a learned prior"))
    about = f"medidiff {provenance.version} {provenance.task}; research use only"
    if provenance.scope.get("verdict") == "outside":
        reasons = "; ".join(provenance.scope.get("reasons", ()))
        about += f"; OUT OF SCOPE of the prior {provenance.scope.get('prior', '')}: the scan {reasons}"
    places = provenance.contradicted
    doubt = f"; its source contradicts it in {places} place{'s' * (places != 1)}" if places else ""
    image.DerivationDescription = about[: _LONGEST - len(doubt)] + doubt
    image.DerivationCodeSequence = codes or [code("CONVERT", "99MEDIDIFF", "Conversion of the file format")]


def add_sources(image: Dataset, sources: Sequence[Header], *, preserved: bool) -> None:
    """Name the images that an image is made from, frames by their numbers.

    Args:
        image: the new image.
        sources: at least one; frames of one file make one reference.
        preserved: whether each voxel lies where it lay in the source.
    """
    frames: dict[str, list[int]] = {}
    classes: dict[str, str] = {}
    for header in sources:
        numbers = frames.setdefault(header.sop_uid, [])
        classes[header.sop_uid] = header.sop_class
        if header.enhanced and header.frame is not None:
            numbers.append(header.frame + 1)
    image.SourceImageSequence = [_reference(classes[uid], uid, numbers) for uid, numbers in frames.items()]
    for item in image.SourceImageSequence:
        item.PurposeOfReferenceCodeSequence = [code(*_SOURCE)]
        item.SpatialLocationsPreserved = "YES" if preserved else "NO"


def reference_series(image: Dataset, sources: Sequence[Header]) -> None:
    """Common Instance Reference, C.12.2: the series of the images that an object refers to, each image once."""
    classes = {header.sop_uid: header.sop_class for header in sources}
    series = Dataset()
    series.SeriesInstanceUID = sources[0].series_uid
    series.ReferencedInstanceSequence = [_reference(kind, uid, []) for uid, kind in classes.items()]
    image.ReferencedSeriesSequence = [series]


def _reference(sop_class: str, uid: str, frames: Sequence[int]) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
    if frames:
        item.ReferencedFrameNumber = sorted(frames)
    return item


def add_equipment(image: Dataset, provenance: Provenance) -> None:
    """This software, beside the scanner that the General Equipment module keeps naming."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code("109102", "DCM", "Processing Equipment")]
    item.Manufacturer = item.ManufacturerModelName = "medidiff"
    item.SoftwareVersions = provenance.version[:64]
    item.ContributionDateTime = datetime.datetime.now().strftime("%Y%m%d%H%M%S")
    prior = ", ".join(f"{key} {value}" for key, value in sorted(provenance.prior.items()))
    text = f"{provenance.task}; prior: {prior or 'none'}; seed {provenance.seed}; research use only"
    item.ContributionDescription = text[:1024]
    image.ContributingEquipmentSequence = [item]
