"""The basic profile of PS3.15 Annex E as an allow-list: what may stay in a header, and in which form.

The Standard's table E.1-1 lists what to remove and is never complete: retired, private and future attributes are not in
it. This is its complement. An attribute stays only when it is public, not retired, has the value representation of the
dictionary, and is one of these:

========  ==================================================================  =====================================
action    what                                                                becomes
========  ==================================================================  =====================================
K keep    numbers of the groups that describe pixels, geometry, acquisition   itself
C clean   defined terms (CS), technical texts (`TECHNICAL`), standard codes    itself when all its words are technical
U         UIDs, but those of the Standard itself                              a keyed hash
C         dates and date-times                                                moved by the patient's days, or removed
K         times of day                                                        itself
Z         `EMPTIED`: what an object must have, but may have empty             empty
D         `REPLACED`: what an object must have                                a fixed word
X         everything else: names, addresses, identifiers, comments, free
          text, overlays, curves, icons, files within files, signatures       gone
========  ==================================================================  =====================================

Sequences are entered only when they are in `SEQUENCES`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import time
from typing import Literal

from pydicom.datadict import dictionary_has_tag, dictionary_is_retired, dictionary_keyword, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.uid import UID

from medidiff.io.dicom.privacy.numbers import is_number
from medidiff.io.dicom.privacy.pseudonyms import Key
from medidiff.io.dicom.privacy.vocabulary import technical

__all__ = ["EMPTY_SEQUENCES", "SEQUENCES", "Rules", "keyword_of"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NUMBERS = _words("DS IS US SS UL SL UV SV FL FD AT")
_GROUPS = frozenset({0x0008, 0x0018, 0x0020, 0x0022, 0x0028, 0x0054, 0x0062, 0x0064, 0x3004, 0x3006})
_PROCEDURE = _words(  # the only ones of group 0040, which is about people and places
    "PerformedProcedureStepStartDate PerformedProcedureStepStartTime PerformedProcedureStepEndDate"
    " PerformedProcedureStepEndTime RealWorldValueFirstValueMapped RealWorldValueLastValueMapped"
    " DoubleFloatRealWorldValueFirstValueMapped DoubleFloatRealWorldValueLastValueMapped RealWorldValueIntercept"
    " RealWorldValueSlope"
)
_CHARACTERISTICS = frozenset({"PatientSex", "PatientAge", "PatientSize", "PatientWeight"})
_OLDEST = 89  # years; older people are few enough to be found by their age

TECHNICAL = _words(
    "Manufacturer ManufacturerModelName SoftwareVersions SequenceName PulseSequenceName ConvolutionKernel FilterType"
    " RescaleType ImagedNucleus ResonantNucleus ReceiveCoilName TransmitCoilName ReceiveCoilManufacturerName"
    " TransmitCoilManufacturerName MultiCoilElementName PositionReferenceIndicator ContrastBolusAgent"
    " Radiopharmaceutical ReconstructionMethod AttenuationCorrectionMethod ScatterCorrectionMethod DecoupledNucleus"
)
EMPTIED = _words(
    "AccessionNumber StudyID ReferringPhysicianName PatientBirthDate PatientSex Manufacturer PositionReferenceIndicator"
    " ContrastBolusAgent ContentCreatorName ContentDescription ROIName ROIInterpreter ReceiveCoilManufacturerName"
    " TransmitCoilManufacturerName"
)
REPLACED = {
    "SegmentLabel": "Segment",
    "StructureSetLabel": "RTSTRUCT",
    "ContentLabel": "CONTENT",
    "LUTLabel": "LUT",
    "StackID": "1",
    "ReceiveCoilName": "UNKNOWN",
    "TransmitCoilName": "UNKNOWN",
    "MultiCoilElementName": "UNKNOWN",
}
_REQUIRED_OF_ENHANCED = frozenset({"Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions"})
_NO_DAY = {  # what stands for a date that an object must have, once dates are removed
    "StudyDate": "",
    "StudyTime": "",
    "AcquisitionDate": "",
    "AcquisitionTime": "",
    "SeriesDate": "19000101",
    "SeriesTime": "000000",
    "ContentDate": "19000101",
    "ContentTime": "000000",
    "AcquisitionDateTime": "19000101000000",
    "FrameAcquisitionDateTime": "19000101000000",
    "FrameReferenceDateTime": "19000101000000",
    "StructureSetDate": "",
    "StructureSetTime": "",
}
SEQUENCES = _words(
    "SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence PixelMeasuresSequence PlanePositionSequence"
    " PlaneOrientationSequence PlanePositionVolumeSequence PlaneOrientationVolumeSequence"
    " PixelValueTransformationSequence FrameContentSequence FrameVOILUTSequence FrameAnatomySequence"
    " AnatomicRegionSequence AnatomicRegionModifierSequence PrimaryAnatomicStructureSequence"
    " DimensionOrganizationSequence DimensionIndexSequence ReferencedImageSequence SourceImageSequence"
    " DerivationImageSequence DerivationCodeSequence PurposeOfReferenceCodeSequence ReferencedSeriesSequence"
    " ReferencedInstanceSequence RealWorldValueMappingSequence MeasurementUnitsCodeSequence ModalityLUTSequence"
    " MRImageFrameTypeSequence MRTimingAndRelatedParametersSequence MRFOVGeometrySequence MREchoSequence"
    " MRModifierSequence MRImagingModifierSequence MRReceiveCoilSequence MultiCoilDefinitionSequence"
    " MRTransmitCoilSequence MRDiffusionSequence DiffusionGradientDirectionSequence DiffusionBMatrixSequence"
    " MRAveragesSequence MRSpatialSaturationSequence MRVelocityEncodingSequence CardiacSynchronizationSequence"
    " RespiratorySynchronizationSequence TemporalPositionSequence SpecificAbsorptionRateSequence OperatingModeSequence"
    " CTImageFrameTypeSequence CTAcquisitionTypeSequence CTAcquisitionDetailsSequence CTTableDynamicsSequence"
    " CTPositionSequence CTGeometrySequence CTReconstructionSequence CTExposureSequence CTXRayDetailsSequence"
    " PETFrameTypeSequence PETFrameAcquisitionSequence PETDetectorMotionDetailsSequence PETPositionSequence"
    " PETFrameCorrectionFactorsSequence PETReconstructionSequence PETTableDynamicsSequence"
    " RadiopharmaceuticalInformationSequence RadiopharmaceuticalUsageSequence RadionuclideCodeSequence"
    " RadiopharmaceuticalCodeSequence AdministrationRouteCodeSequence PatientOrientationCodeSequence"
    " PatientOrientationModifierCodeSequence PatientGantryRelationshipCodeSequence EnergyWindowInformationSequence"
    " EnergyWindowRangeSequence DetectorInformationSequence RotationInformationSequence"
    " ContrastBolusUsageSequence ViewCodeSequence ViewModifierCodeSequence SequenceOfUltrasoundRegions"
    " SegmentSequence SegmentIdentificationSequence SegmentedPropertyCategoryCodeSequence"
    " SegmentedPropertyTypeCodeSequence ParametricMapFrameTypeSequence ReferencedFrameOfReferenceSequence"
    " RTReferencedStudySequence RTReferencedSeriesSequence ContourImageSequence StructureSetROISequence"
    " ROIContourSequence ContourSequence RTROIObservationsSequence ReferencedRTPlanSequence RegistrationSequence"
    " MatrixRegistrationSequence MatrixSequence RegistrationTypeCodeSequence"
)
EMPTY_SEQUENCES = _words(  # these must be there, but may be empty
    "RadionuclideCodeSequence RadiopharmaceuticalInformationSequence PatientOrientationCodeSequence"
    " PatientOrientationModifierCodeSequence PatientGantryRelationshipCodeSequence DerivationCodeSequence"
)


def keyword_of(element: DataElement) -> str:
    """The keyword of an attribute that may be looked at; empty for one that goes without a look.

    A private, unknown or retired attribute is not looked at, nor one whose value representation is not its own.
    """
    tag = element.tag
    if tag.is_private or not dictionary_has_tag(tag) or dictionary_is_retired(tag):
        return ""
    return dictionary_keyword(tag) if element.VR in dictionary_VR(tag).split(" or ") else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The profile for one patient.

    Args:
        key: what UIDs and dates are made from.
        patient: whose dates they are.
        dates: whether dates move with the patient or go.
        characteristics: whether sex, age (at most 89 years), size and weight stay.
        enhanced: whether the object must name its equipment.
        numbers: identifiers that are plain numbers, so that no number of the header may equal them.
    """

    key: Key
    patient: str
    dates: Literal["shift", "remove"] = "shift"
    characteristics: bool = False
    enhanced: bool = False
    numbers: frozenset[str] = frozenset()

    def apply(self, element: DataElement, *, nested: bool) -> DataElement | None:
        """What becomes of one attribute that is no sequence and no bulk data; None when it goes.

        Args:
            element: of the source.
            nested: whether it stands in an item of a sequence.
        """
        name = keyword_of(element)
        if not name:
            return None
        if self.characteristics and name in _CHARACTERISTICS and not nested:
            return self._characteristic(element)
        group = element.tag.group
        allowed = group in _GROUPS or name in _PROCEDURE
        kept = self._kept(element, name) if allowed else None
        if kept is not None:
            return kept
        return self._stand_in(element, name, nested=nested)

    def _kept(self, element: DataElement, name: str) -> DataElement | None:
        values = _values(element)
        if element.VR in _NUMBERS:
            return element if is_number(element.VR, values) and not self._names_somebody(element.VR, values) else None
        if element.VR == "UI":
            return _with(element, [v if not v or _is_the_standards(v) else self.key.uid(v) for v in values])
        if element.VR in ("DA", "TM", "DT"):
            return self._moment(element, name, values)
        if element.VR == "CS" or (name in TECHNICAL and element.VR in ("LO", "SH")):
            clean = [value for value in values if technical(value) or not value]
            return _with(element, clean) if clean or not values else None
        return None

    def _names_somebody(self, vr: str, values: list[str]) -> bool:
        return vr in ("DS", "IS") and any(value.strip() in self.numbers for value in values)

    def _moment(self, element: DataElement, name: str, values: list[str]) -> DataElement | None:
        if self.dates == "remove":
            return _with(element, [_NO_DAY[name]]) if name in _NO_DAY else None
        if element.VR == "TM":
            moved = [value if _is_time(value) else "" for value in values]
        else:
            moved = [self.key.shifted(value[: 10 if "." in value[:5] else 8], self.patient) for value in values]
        if element.VR == "DT":
            clocks = [re.split(r"[-+]", value[8:])[0].strip(" \0") for value in values]
            moved = [day + clock if day and _is_time(clock) else day for day, clock in zip(moved, clocks, strict=True)]
        return _with(element, moved)

    def _characteristic(self, element: DataElement) -> DataElement | None:
        (value, *_) = [*_values(element), ""]
        if element.keyword == "PatientSex":
            return _with(element, [value if value in ("M", "F", "O") else ""])
        if element.keyword == "PatientAge":
            age = re.fullmatch(r"(\d{3})([DWMY])", value)
            old = age is not None and age[2] == "Y" and int(age[1]) > _OLDEST
            return _with(element, [f"{_OLDEST:03d}Y" if old else value]) if age else None
        return element

    def _stand_in(self, element: DataElement, name: str, *, nested: bool) -> DataElement | None:
        if self.enhanced and not nested and name in _REQUIRED_OF_ENHANCED:
            return _with(element, ["UNKNOWN"])
        if name in REPLACED:
            return _with(element, [REPLACED[name]])
        if name in EMPTIED:
            return _with(element, [])
        return _with(element, ["UNKNOWN"]) if nested and name in TECHNICAL else None


def _is_the_standards(uid: str) -> bool:
    return UID(uid).name != uid


def _values(element: DataElement) -> list[str]:
    value = element.value
    if value is None or value == "":
        return []
    many = isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue"
    return [str(part) for part in value] if many else [str(value)]


def _with(element: DataElement, values: list[str]) -> DataElement:
    text: object = values if len(values) > 1 else (values[0] if values else None)
    return DataElement(element.tag, element.VR, text)


def _is_time(text: str) -> bool:
    """Whether a text is a DICOM time of day; an empty one is none."""
    match = re.fullmatch(r"(\d\d)(?:(\d\d)(?:(\d\d)(?:\.\d{1,6})?)?)?", text.strip(" \0"))
    if match is None:
        return False
    hour, minute, second = (int(part or 0) for part in match.groups())
    try:
        time(hour, minute, min(second, 59))
    except ValueError:
        return False
    return second <= 60
