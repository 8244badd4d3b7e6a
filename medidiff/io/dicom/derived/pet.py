"""The modules that a PET image has beyond those of CT and MR: PET Series, Isotope, Patient Orientation, PET Image.

Dates and times that uptake values are computed from are the source's: SeriesDate and SeriesTime, AcquisitionTime, and
the injection in the isotope module.
"""

from __future__ import annotations

from pydicom.dataset import Dataset

from medidiff.io.dicom.derived.modules import code

__all__ = ["PET_UNITS", "add_pet"]

_UNITS = (
    "CNTS NONE CM2 CM2ML PCNT CPS BQML MGMINML UMOLMINML MLMING MLG 1CM UMOLML PROPCNTS PROPCPS MLMINML MLML GML STDDEV"
)
PET_UNITS = frozenset(_UNITS.split())  # C.8.9.1.1.3

_MODIFIERS = {  # second half of PatientPosition -> CID 20
    "S": ("F-10340", "SRT", "supine"),
    "P": ("F-10310", "SRT", "prone"),
    "DR": ("F-10319", "SRT", "right lateral decubitus"),
    "DL": ("F-10317", "SRT", "left lateral decubitus"),
}
_GANTRY = {"HF": ("F-10470", "SRT", "headfirst"), "FF": ("F-10480", "SRT", "feet-first")}  # CID 21


def add_pet(image: Dataset, *, units: str, slices: int, index: int) -> None:
    """Fill in what the Standard requires and the source lacks.

    Args:
        image: the new image, holding what its source gives.
        units: of the values.
        slices: number of images of the series.
        index: of this one, from 0 in spatial order.
    """
    _series(image, units=units, slices=slices)
    _isotope(image)
    _orientation(image)
    image.ImageIndex = index + 1
    if image.get("FrameReferenceTime") in (None, ""):
        image.FrameReferenceTime = "0"
    if image.DecayCorrection == "NONE":
        image.pop("DecayFactor", None)
    elif image.get("DecayFactor") in (None, ""):
        image.DecayFactor = "1"


def _series(image: Dataset, *, units: str, slices: int) -> None:
    """C.8.9.1; a dynamic or gated series gives one volume, which by itself is static."""
    image.Units = units if units in PET_UNITS else "NONE"
    image.CountsSource = image.get("CountsSource") or "EMISSION"
    kind = "".join(list(image.get("SeriesType") or [""])[:1])
    image.SeriesType = [kind if kind == "WHOLE BODY" else "STATIC", "IMAGE"]
    image.NumberOfSlices = slices
    corrected = image.get("CorrectedImage") or ()
    decay = "START" if "DECY" in ([corrected] if isinstance(corrected, str) else corrected) else "NONE"
    image.DecayCorrection = image.get("DecayCorrection") or decay


def _orientation(image: Dataset) -> None:
    """C.8.4.6: codes that stand in for PatientPosition, which must not be there beside them."""
    position = str(image.get("PatientPosition") or "")
    image.pop("PatientPosition", None)
    start, modifier = _GANTRY.get(position[:2]), _MODIFIERS.get(position[2:])
    if not image.get("PatientOrientationCodeSequence"):
        lying = code("F-10450", "SRT", "recumbent")
        if modifier is not None:
            lying.PatientOrientationModifierCodeSequence = [code(*modifier)]
        image.PatientOrientationCodeSequence = [lying] if modifier is not None else []
    if not image.get("PatientGantryRelationshipCodeSequence"):
        image.PatientGantryRelationshipCodeSequence = [code(*start)] if start is not None else []


def _isotope(image: Dataset) -> None:
    """C.8.9.2; the start of the injection also as a time, which tools for uptake values look for."""
    if "RadiopharmaceuticalInformationSequence" not in image:
        image.RadiopharmaceuticalInformationSequence = []
    for item in image.RadiopharmaceuticalInformationSequence:
        if "RadionuclideCodeSequence" not in item:
            item.RadionuclideCodeSequence = []
        start = str(item.get("RadiopharmaceuticalStartDateTime") or "")
        if not item.get("RadiopharmaceuticalStartTime") and len(start) >= 14:
            item.RadiopharmaceuticalStartTime = start.split("+")[0].split("-")[0][8:]
