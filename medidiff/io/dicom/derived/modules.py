"""What a derived image keeps of its source, module by module in the order of DICOM PS3.3, and how gaps are closed.

Only what is listed here is copied: patient and study, frame of reference, equipment, and how the scan was acquired.
Private attributes, icons, windows, smallest and largest values, overlays and comments are left behind, because they
describe other pixels or cannot be checked. A value that breaks its own value representation is left behind too.
Attributes of type 2 that the source lacks are written empty, as the Standard asks; of type 1, with the Standard's own
word for unknown.
"""

from __future__ import annotations

from pydicom.config import RAISE
from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pydicom.valuerep import DSfloat, validate_value

from medidiff.io.dicom.headers.header import quietly

__all__ = ["CLASSIC", "CT", "MR", "PATIENT_AND_STUDY", "PT", "code", "copied", "decimal", "kept_of"]

MR = "1.2.840.10008.5.1.4.1.1.4"
CT = "1.2.840.10008.5.1.4.1.1.2"
PT = "1.2.840.10008.5.1.4.1.1.128"
CLASSIC = {"MR": MR, "CT": CT, "PT": PT}  # the single-frame SOP class of each modality

_PATIENT = (
    "PatientName PatientID IssuerOfPatientID PatientBirthDate PatientBirthTime PatientSex OtherPatientIDsSequence"
    " EthnicGroup PatientIdentityRemoved DeidentificationMethod DeidentificationMethodCodeSequence"
    " ClinicalTrialSponsorName ClinicalTrialProtocolID ClinicalTrialProtocolName ClinicalTrialSiteID"
    " ClinicalTrialSiteName ClinicalTrialSubjectID ClinicalTrialSubjectReadingID"
)
_STUDY = (
    "StudyInstanceUID StudyDate StudyTime ReferringPhysicianName StudyID AccessionNumber StudyDescription"
    " ProcedureCodeSequence PatientAge PatientSize PatientWeight PatientSexNeutered ClinicalTrialTimePointID"
    " ClinicalTrialTimePointDescription LongitudinalTemporalInformationModified"
)
_SERIES = "Modality Laterality BodyPartExamined PatientPosition ProtocolName"
_FRAME = "FrameOfReferenceUID PositionReferenceIndicator"
_EQUIPMENT = "Manufacturer ManufacturerModelName DeviceSerialNumber SoftwareVersions InstitutionName StationName"
_IMAGE = (
    "AcquisitionNumber AcquisitionDate AcquisitionTime BurnedInAnnotation RecognizableVisualFeatures"
    " LossyImageCompression LossyImageCompressionRatio LossyImageCompressionMethod SliceThickness ContrastBolusAgent"
    " TimezoneOffsetFromUTC"
)
_MR_IMAGE = (
    "ScanningSequence SequenceVariant ScanOptions MRAcquisitionType RepetitionTime EchoTime EchoTrainLength"
    " InversionTime TriggerTime SequenceName AngioFlag NumberOfAverages ImagingFrequency ImagedNucleus EchoNumbers"
    " MagneticFieldStrength NumberOfPhaseEncodingSteps PercentSampling PercentPhaseFieldOfView PixelBandwidth"
    " ReceiveCoilName TransmitCoilName InPlanePhaseEncodingDirection FlipAngle SAR dBdt TemporalPositionIdentifier"
    " NumberOfTemporalPositions DiffusionBValue DiffusionGradientOrientation"
)
_CT_IMAGE = (
    "KVP ScanOptions DataCollectionDiameter ReconstructionDiameter DistanceSourceToDetector DistanceSourceToPatient"
    " TableHeight RotationDirection ExposureTime XRayTubeCurrent Exposure FilterType GeneratorPower FocalSpots"
    " ConvolutionKernel RevolutionTime SingleCollimationWidth TotalCollimationWidth TableSpeed TableFeedPerRotation"
    " SpiralPitchFactor CTDIvol"
)
_PET_SERIES = (
    "SeriesDate SeriesTime Units CountsSource SeriesType CorrectedImage RandomsCorrectionMethod"
    " AttenuationCorrectionMethod ScatterCorrectionMethod DecayCorrection ReconstructionDiameter ConvolutionKernel"
    " ReconstructionMethod DetectorLinesOfResponseUsed AcquisitionStartCondition AcquisitionTerminationCondition"
    " FieldOfViewShape FieldOfViewDimensions CollimatorType AxialAcceptance AxialMash TransverseMash"
    " DetectorElementSize CoincidenceWindowWidth SecondaryCountsType SUVType"
)
_PET_ISOTOPE = (
    "RadiopharmaceuticalInformationSequence InterventionDrugInformationSequence PatientOrientationCodeSequence"
    " PatientGantryRelationshipCodeSequence"
)
_PET_IMAGE = (
    "FrameReferenceTime ActualFrameDuration DecayFactor DoseCalibrationFactor ScatterFractionFactor DeadTimeFactor"
)
PATIENT_AND_STUDY = f"{_PATIENT} {_STUDY}".split()
_COMMON = f"{_PATIENT} {_STUDY} {_SERIES} {_FRAME} {_EQUIPMENT} {_IMAGE}"
_KEPT = {
    MR: f"{_COMMON} {_MR_IMAGE}".split(),
    CT: f"{_COMMON} {_CT_IMAGE}".split(),
    PT: f"{_COMMON} {_PET_SERIES} {_PET_ISOTOPE} {_PET_IMAGE}".split(),
}
_OFTEN_MISSING = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName StudyID"
    " AccessionNumber PositionReferenceIndicator Manufacturer PatientPosition SliceThickness AcquisitionNumber"
)
_EMPTY = {
    MR: f"{_OFTEN_MISSING} ScanOptions MRAcquisitionType EchoTime EchoTrainLength RepetitionTime".split(),
    CT: f"{_OFTEN_MISSING} KVP".split(),
    PT: f"{_OFTEN_MISSING} AcquisitionDate AcquisitionTime CorrectedImage CollimatorType ActualFrameDuration".split(),
}
_ENUMERATED = {  # the only values that the Standard allows; another is left behind
    "PatientSex": "M F O",
    "PatientSexNeutered": "ALTERED UNALTERED",
    "PatientIdentityRemoved": "YES NO",
    "LongitudinalTemporalInformationModified": "UNMODIFIED MODIFIED REMOVED",
    "Laterality": "R L",
    "BurnedInAnnotation": "YES NO",
    "RecognizableVisualFeatures": "YES NO",
    "LossyImageCompression": "00 01",
    "ScanningSequence": "SE IR GR EP RM",
    "MRAcquisitionType": "2D 3D",
    "AngioFlag": "Y N",
    "InPlanePhaseEncodingDirection": "ROW COL",
    "RotationDirection": "CW CC",
    "CountsSource": "EMISSION TRANSMISSION",
    "DecayCorrection": "NONE START ADMIN",
}
_WITHOUT_SIDES = (
    "HEAD BRAIN SKULL FACE NECK CHEST HEART THORAX ABDOMEN LIVER PANCREAS SPLEEN PELVIS BLADDER PROSTATE UTERUS SPINE"
    " CSPINE TSPINE LSPINE SSPINE WHOLEBODY HEADNECK CHESTABDOMEN ABDOMENPELVIS CHESTABDPELVIS"
)
_UNPAIRED = frozenset(_WITHOUT_SIDES.split())


def kept_of(source: Dataset, *, sop_class: str) -> Dataset:
    """A new dataset with what a derived image keeps of its source.

    Args:
        source: header of the source image, a frame of an enhanced one as `classic_view` gives it.
        sop_class: `MR`, `CT` or `PT`.
    """
    kept = Dataset()
    with quietly():
        for keyword in _KEPT[sop_class]:
            element = copied(source, keyword)
            if element is not None and not element.is_empty:  # empty is right for some only, which follow
                kept.add(element)
    for keyword in _EMPTY[sop_class]:
        if keyword not in kept:
            setattr(kept, keyword, None)
    _close_gaps(kept, sop_class, str(source.get("SeriesInstanceUID") or ""))
    kept.SpecificCharacterSet = "ISO_IR 192"
    kept.SOPClassUID = sop_class
    return kept


def copied(source: Dataset, keyword: str) -> DataElement | None:
    """One attribute in a form that any reader accepts; None when it is missing or breaks its representation.

    Numbers become decimal strings of at most 16 characters; of a sequence each public attribute is copied likewise.
    """
    tag, vr = tag_for_keyword(keyword) or 0, dictionary_VR(keyword)
    if keyword not in source:
        return None
    try:
        value = source[keyword].value
        if vr == "SQ":
            return DataElement(tag, vr, [_copied_item(item) for item in value])
        parts = list(value) if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue" else [value]
        if value is None or value == "":
            return DataElement(tag, vr, None)
        most = dictionary_VM(tag).split("-")[-1]
        parts = parts[: int(most)] if most.isdigit() else parts
        if vr == "DS":
            parts = [decimal(float(part)) for part in parts]
        elif vr == "IS":
            parts = [round(float(part)) for part in parts]
        if keyword in _ENUMERATED and not {str(part) for part in parts} <= set(_ENUMERATED[keyword].split()):
            return None
        for part in parts:
            validate_value(vr, str(part) if vr not in ("US", "UL", "FD", "FL", "SS") else part, RAISE)
        return DataElement(tag, vr, parts if len(parts) > 1 else parts[0])
    except (ValueError, TypeError, AttributeError, NotImplementedError, OverflowError):
        return None


def _copied_item(item: Dataset) -> Dataset:
    """The public attributes of a sequence item."""
    kept = Dataset()
    for element in item:
        if element.keyword and (good := copied(item, element.keyword)) is not None:
            kept.add(good)
    return kept


def _close_gaps(kept: Dataset, sop_class: str, series: str) -> None:
    """Give what the Standard requires and many anonymised series lack, without claiming anything.

    A frame of reference that is missing follows from the series, so that all that is derived from it shares one.
    """
    for keyword in ("FrameOfReferenceUID", "StudyInstanceUID"):
        if not kept.get(keyword):
            setattr(kept, keyword, generate_uid(entropy_srcs=[keyword, series]))
    if not kept.get("BodyPartExamined"):
        kept.pop("BodyPartExamined", None)
    if "Laterality" not in kept and kept.get("BodyPartExamined") not in _UNPAIRED:
        kept.Laterality = None  # unknown; it may be absent for a body part without sides only
    if kept.get("PatientIdentityRemoved") == "YES" and "DeidentificationMethodCodeSequence" not in kept:
        kept.DeidentificationMethod = kept.get("DeidentificationMethod") or "unknown"
    _close_trial(kept)
    if sop_class == MR:
        kept.ScanningSequence = kept.get("ScanningSequence") or "RM"  # research mode
        kept.SequenceVariant = kept.get("SequenceVariant") or "NONE"
        if "IR" not in kept.ScanningSequence:
            kept.pop("InversionTime", None)  # may be present with inversion recovery only


def _close_trial(kept: Dataset) -> None:
    """The clinical trial modules whole, C.7.1.3 and C.7.2.3, or not at all."""
    subject = kept.get("ClinicalTrialSubjectID") or kept.get("ClinicalTrialSubjectReadingID")
    if kept.get("ClinicalTrialSponsorName") and kept.get("ClinicalTrialProtocolID") and subject:
        for keyword in ("ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName"):
            setattr(kept, keyword, kept.get(keyword))
    else:
        for keyword in [name for name in _PATIENT.split() if name.startswith("ClinicalTrial")]:
            kept.pop(keyword, None)
    if "ClinicalTrialTimePointDescription" in kept:
        kept.ClinicalTrialTimePointID = kept.get("ClinicalTrialTimePointID")


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """A coded concept, as an item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def decimal(value: float) -> DSfloat:
    """The decimal string of at most 16 characters that is nearest to a number."""
    return DSfloat(value, auto_format=True)
