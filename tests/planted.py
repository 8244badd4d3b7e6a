"""Identifiers planted everywhere in DICOM objects, and the search for them in any bytes."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from tests import dicom_cases

_TEXTS = {  # keyword: what is planted there; numbers, dates and UIDs are identifiers too
    "PatientName": "PLANTMANN^Hildegard^Quirina",
    "PatientID": "PID-8812934-X",
    "PatientBirthDate": "19370419",
    "PatientSex": "F",
    "OtherPatientNames": "PLANTOTHER^Name",
    "PatientBirthName": "PLANTBIRTH^Name",
    "PatientMotherBirthName": "PLANTMOTHER^Name",
    "PatientAddress": "Plantstrasse 77, 99999 Plantstadt",
    "PatientTelephoneNumbers": "+49-555-771234",
    "EthnicGroup": "PLANTETHNIC",
    "Occupation": "PLANTOCCUPATION",
    "PatientComments": "PLANTCOMMENT on the patient",
    "AdditionalPatientHistory": "PLANTHISTORY of the patient",
    "MedicalAlerts": "PLANTALERT",
    "Allergies": "PLANTALLERGY",
    "PatientReligiousPreference": "PLANTRELIGION",
    "CountryOfResidence": "PLANTLAND",
    "RegionOfResidence": "PLANTREGION",
    "MilitaryRank": "PLANTRANK",
    "BranchOfService": "PLANTBRANCH",
    "MedicalRecordLocator": "PLANTLOCATOR",
    "IssuerOfPatientID": "PLANTISSUER",
    "InsurancePlanIdentification": "PLANTINSURANCE",
    "ResponsiblePerson": "PLANTRESPONSIBLE^P",
    "ResponsibleOrganization": "PLANTORGANIZATION",
    "AccessionNumber": "ACC-5543219",
    "StudyID": "PLANTSTUDYID",
    "StudyDescription": "PLANTSTUDY brain of Mrs PLANTMANN",
    "SeriesDescription": "PLANTSERIES for Dr PLANTREF",
    "ProtocolName": "PLANTPROTOCOL",
    "ReferringPhysicianName": "PLANTREFERRING^Dr",
    "ReferringPhysicianAddress": "PLANTREFADDRESS",
    "ReferringPhysicianTelephoneNumbers": "+49-555-889900",
    "PerformingPhysicianName": "PLANTPERFORMING^Dr",
    "NameOfPhysiciansReadingStudy": "PLANTREADING^Dr",
    "PhysiciansOfRecord": "PLANTRECORD^Dr",
    "RequestingPhysician": "PLANTREQUESTING^Dr",
    "OperatorsName": "PLANTOPERATOR^O",
    "AdmittingDiagnosesDescription": "PLANTDIAGNOSIS",
    "InstitutionName": "PLANTHOSPITAL",
    "InstitutionAddress": "PLANTROAD 12",
    "InstitutionalDepartmentName": "PLANTDEPARTMENT",
    "StationName": "PLANTSTATION",
    "DeviceSerialNumber": "SER-998877",
    "DetectorID": "PLANTDETECTOR",
    "GantryID": "PLANTGANTRY",
    "PerformedStationAETitle": "PLANTAE",
    "RetrieveAETitle": "PLANTRETRIEVE",
    "PerformedProcedureStepDescription": "PLANTSTEP",
    "PerformedProcedureStepID": "PLANTSTEPID",
    "RequestedProcedureDescription": "PLANTREQUEST",
    "CurrentPatientLocation": "PLANTWARD",
    "ImageComments": "PLANTIMAGECOMMENT",
    "FrameComments": "PLANTFRAMECOMMENT",
    "DerivationDescription": "PLANTDERIVATION",
    "ContrastBolusAgent": "PLANTAGENT",
    "AcquisitionDeviceProcessingDescription": "PLANTPROCESSING",
    "TimezoneOffsetFromUTC": "+0577",
    "ClinicalTrialSubjectID": "PLANTTRIAL",
    "ClinicalTrialSponsorName": "PLANTSPONSOR",
    "TextComments": "PLANTTEXTCOMMENTS",
    "ReasonForStudy": "PLANTREASON",
    "Manufacturer": "PLANTMAKER",
    "ManufacturerModelName": "PLANTMODEL",
    "SoftwareVersions": "PLANTSOFTWARE",
    "ReceiveCoilName": "PLANTCOIL",
    "ConvolutionKernel": "PLANTKERNEL",
    "SequenceName": "PLANTSEQ",
    "BodyPartExamined": "PLANTPART",
    "ScanOptions": "PLANTOPTION",
    "VisitComments": "PLANTVISIT",
    "ServiceEpisodeID": "PLANTEPISODE",
    "RetrieveURL": "http://plant.example/PLANTURL",
    "StudyInstanceUID": "1.2.826.0.1.9999.77.1",
    "SeriesInstanceUID": "1.2.826.0.1.9999.77.2",
    "FrameOfReferenceUID": "1.2.826.0.1.9999.77.3",
    "IrradiationEventUID": "1.2.826.0.1.9999.77.4",
    "StudyDate": "20180711",  # dates more than a year apart: a shift by a random key makes none of them another
    "SeriesDate": "20200712",
    "AcquisitionDateTime": "20220713101500.000000+0577",
}
PLANTED = {name: text for name, text in _TEXTS.items() if text and name != "PatientSex"}
_ELSEWHERE = (  # planted by hand below
    *(
        "PLANTTYPE",
        "PLANTPRIVATE",
        "PLANTCREATOR",
        "PLANTOVERLAY",
        "PLANTOVERLAYBITS",
        "PLANTICON",
        "PLANTCURVE",
        "PLANTPADDING",
    ),
    *("PLANTTRAILING", "PLANTPREAMBLE", "PLANTMETAAE", "PLANTMETAPRIV", "PLANTNESTED", "PLANTDEEP", "PLANTUNKNOWN"),
    *("PLANTRETIRED", "PLANTCODE", "PLANTSIGNATURE", "PLANTPDF", "PLANTLUT", "1.2.826.0.1.9999.77.8", "PLANTSENDER"),
    "1.2.826.0.1.9999.77.9",
)
SECRETS = tuple(
    dict.fromkeys(
        [
            part
            for text in (*PLANTED.values(), *_ELSEWHERE)
            for part in (text, *text.split("^"))
            if len(part) >= 5 and part != "PLANTREF"
        ]
    )
)


def plant(ds: Dataset) -> Dataset:
    """Put identifiers everywhere into a good image; what it shows stays."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, text in PLANTED.items():
            setattr(ds, name, text)
    ds.ImageType = [*ds.ImageType, "PLANTTYPE"]
    ds.PatientSex, ds.PatientAge, ds.PatientWeight, ds.PatientSize = "F", "081Y", "71.5", "1.68"
    ds.add_new(0x00290010, "LO", "PLANTCREATOR")
    ds.add_new(0x00291010, "LT", "PLANTPRIVATE")
    ds.add_new(0x00291011, "SQ", [_item(PatientName="PLANTNESTED^A")])
    ds.add_new(0x60000010, "US", 2)
    ds.add_new(0x60000022, "LO", "PLANTOVERLAY")
    ds.add_new(0x60001500, "LO", "PLANTOVERLAY")
    ds.add_new(0x60003000, "OW", b"PLANTOVERLAYBITS")
    ds.add_new(0x50003000, "OW", b"PLANTCURVE")
    ds.add_new(0xFFFCFFFC, "OB", b"PLANTPADDING")
    ds.add_new(0x00080010, "SH", "PLANTRETIRED")  # RecognitionCode, retired
    ds.add_new(0x00084000, "LT", "PLANTRETIRED")  # IdentifyingComments, retired
    ds.add_new(0x00190099, "UN", b"PLANTUNKNOWN")
    ds.add_new(0x00180099, "UN", b"PLANTUNKNOWN")
    ds.add_new(0x00420011, "OB", b"PLANTPDF")
    icon = _item(Rows=2, Columns=2, BitsAllocated=8)
    icon.PixelData = b"PLANTICON "
    icon["PixelData"].VR = "OB"
    ds.IconImageSequence = [icon]
    ds.RequestAttributesSequence = [_item(RequestedProcedureDescription="PLANTNESTED", AccessionNumber="PLANTNESTED")]
    deep = _item(PatientName="PLANTDEEP", ReferencedSOPInstanceUID="1.2.826.0.1.9999.77.8")
    for _ in range(12):
        outer = _item(ImageComments="PLANTDEEP")
        outer.ReferencedImageSequence = [deep]
        deep = outer
    ds.SourceImageSequence = [deep]
    ds.AnatomicRegionSequence = [_item(CodeValue="PLANTCODE", CodingSchemeDesignator="SCT", CodeMeaning="PLANTCODE")]
    ds.DigitalSignaturesSequence = [_item(CertificateOfSigner=b"PLANTSIGNATURE")]
    ds.OriginalAttributesSequence = [_item(SourceOfPreviousValues="PLANTNESTED")]
    lut = _item(LUTExplanation="PLANTLUT", ModalityLUTType="HU")
    lut.add_new(0x00283006, "OW", b"PLANTLUT")
    ds.VOILUTSequence = [lut]
    ds.PixelData += b"PLANTTRAILING"
    return ds


def _item(**values: object) -> Dataset:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item


def save_planted(ds: Dataset, file: Path, **how: object) -> Path:
    """Write a planted image, with identifiers in its preamble and file meta too."""
    dicom_cases.save(ds, file, **how)
    content = bytearray(file.read_bytes())
    content[:128] = b"PLANTPREAMBLE".ljust(128, b"!")
    meta = bytes(content[132:])
    length = int.from_bytes(meta[8:12], "little")
    extra = b"".join(
        (
            _meta_element(0x0016, b"AE", b"PLANTMETAAE "),
            _meta_element(0x0017, b"AE", b"PLANTSENDER "),
            _meta_element(0x0100, b"UI", b"1.2.826.0.1.9999.77.9\0"),
            _meta_element(0x0102, b"OB", b"PLANTMETAPRIV\0"),
        )
    )
    group = meta[12 : 12 + length] + extra
    head = meta[:8] + len(group).to_bytes(4, "little")
    file.write_bytes(bytes(content[:132]) + head + group + meta[12 + length :])
    return file


def _meta_element(element: int, vr: bytes, value: bytes) -> bytes:
    """One element of group 2 in explicit little endian."""
    size = b"\0\0" + len(value).to_bytes(4, "little") if vr == b"OB" else len(value).to_bytes(2, "little")
    return b"\x02\0" + element.to_bytes(2, "little") + vr + size + value


def found_in(content: bytes, secrets: Iterable[str] = SECRETS) -> list[str]:
    """Which secrets stand in some bytes, in any case and any of the usual encodings."""
    low = content.lower()
    return [secret for secret in secrets if any(form in low for form in _forms(secret))]


def _forms(secret: str) -> set[bytes]:
    forms: set[bytes] = set()
    for code in ("utf-8", "latin-1", "utf-16-le", "utf-16-be"):
        raw = secret.encode(code)
        forms.add(raw.lower())
        for shift in range(3):  # base64 depends on where in a group of three bytes the text begins
            text = base64.b64encode(b"\0" * shift + raw)[(0, 2, 3)[shift] :].rstrip(b"=")[:-1]
            forms.add(text.lower())
    forms.add(secret.encode().hex().encode())
    return forms


def swapped(content: bytes) -> bytes:
    """Bytes with each pair exchanged, for text in words of the other byte order."""
    even = content[: len(content) // 2 * 2]
    return np.frombuffer(even, np.uint16).byteswap().tobytes()


__all__ = ["PLANTED", "SECRETS", "found_in", "plant", "save_planted", "swapped"]
