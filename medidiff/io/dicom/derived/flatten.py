"""One frame of an enhanced multi-frame image, under the names that a classic image gives the same facts.

Enhanced objects keep them in functional groups, one item shared by all frames and one for each; a classic image has
them at its top. What has another name, unit or vocabulary there is translated, by the sections of DICOM PS3.3 that
are named beside it.
"""

from __future__ import annotations

from contextlib import suppress

from pydicom.dataset import Dataset

from medidiff.io.dicom.headers.header import quietly

__all__ = ["classic_view"]

_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_OTHER_NAMES = {  # enhanced -> classic; both in the same unit
    "EffectiveEchoTime": "EchoTime",  # ms, C.8.13.5.4 -> C.8.3.1
    "InversionTimes": "InversionTime",  # ms
    "TransmitterFrequency": "ImagingFrequency",  # MHz
    "ResonantNucleus": "ImagedNucleus",
    "PulseSequenceName": "SequenceName",
    "ExposureTimeInms": "ExposureTime",  # ms, C.8.15.3.8 -> C.8.2.1
    "XRayTubeCurrentInmA": "XRayTubeCurrent",  # mA
    "ExposureInmAs": "Exposure",  # mAs
    "TemporalPositionIndex": "TemporalPositionIdentifier",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "FrameType": "ImageType",
    "FrameLaterality": "Laterality",
}
_SEQUENCES = {"SPIN": ["SE"], "GRADIENT": ["GR"], "BOTH": ["GR", "SE"]}  # EchoPulseSequence -> ScanningSequence
_VARIANTS = {  # attribute -> SequenceVariant when it is used, C.8.13.4.1 -> C.8.3.1.1.2
    "SegmentedKSpaceTraversal": ("SK", ("SINGLE", "")),
    "MagnetizationTransfer": ("MTC", ("NONE", "")),
    "SteadyStatePulseSequence": ("SS", ("NONE", "")),
    "Spoiling": ("SP", ("NONE", "")),
    "OversamplingPhase": ("OSP", ("NONE", "")),
}
_CORRECTIONS = {  # C.8.22.3 -> CorrectedImage, C.8.9.1
    "DecayCorrected": "DECY",
    "AttenuationCorrected": "ATTN",
    "ScatterCorrected": "SCAT",
    "DeadTimeCorrected": "DTIM",
    "GantryMotionCorrected": "MOTN",
    "PatientMotionCorrected": "PMOT",
    "CountLossNormalizationCorrected": "CLN",
    "RandomsCorrected": "RAN",
    "NonUniformRadialSamplingCorrected": "RADL",
    "SensitivityCalibrated": "DCAL",
    "DetectorNormalizationCorrection": "NORM",
}


def classic_view(dataset: Dataset, frame: int | None) -> Dataset:
    """The header of one image as a classic one would have it; a classic image is returned as it is.

    Args:
        dataset: header of the file; it is not changed.
        frame: number of the frame, from 0.
    """
    if frame is None or _GROUPS[1] not in dataset:
        return dataset
    with quietly():
        view = _public(dataset)
        for name in _GROUPS:
            view.pop(name, None)
        shared = (dataset.get(_GROUPS[0]) or [])[:1]
        for group in (*shared, dataset[_GROUPS[1]].value[frame]):
            for macro in _public(group):
                if macro.VR == "SQ" and macro.value:
                    view.update(_public(macro.value[0]))
        _rename(view)
        _moment(view)
        if "EchoPulseSequence" in view:
            _sequence(view)
        if "RadiopharmaceuticalInformationSequence" in view:
            _corrections(view)
    return view


def _public(dataset: Dataset) -> Dataset:
    """The standard attributes of a dataset that can be parsed, as a new one."""
    kept = Dataset()
    for tag in list(dataset.keys()):
        if not tag.is_private:
            with suppress(Exception):  # pydicom raises nearly anything on damaged bytes
                kept.add(dataset[tag])
    return kept


def _rename(view: Dataset) -> None:
    for old, new in _OTHER_NAMES.items():
        value = view.get(old)
        if value not in (None, ""):
            many = not isinstance(value, (str, int, float)) and new != "ImageType"
            setattr(view, new, value[0] if many and len(value) else value)
    if view.get("InPlanePhaseEncodingDirection") == "COLUMN":
        view.InPlanePhaseEncodingDirection = "COL"
    if view.get("Laterality") not in (None, "R", "L"):
        del view.Laterality


def _moment(view: Dataset) -> None:
    """Acquisition date and time apart, as classic images have them."""
    moment = str(view.get("FrameAcquisitionDateTime") or view.get("AcquisitionDateTime") or "")
    if len(moment) >= 14:
        view.AcquisitionDate, view.AcquisitionTime = _apart(moment)


def _sequence(view: Dataset) -> None:
    kinds = list(_SEQUENCES.get(str(view.EchoPulseSequence), []))
    kinds += ["IR"] if view.get("InversionRecovery") == "YES" else []
    kinds += ["EP"] if view.get("EchoPlanarPulseSequence") == "YES" else []
    if kinds:
        view.ScanningSequence = kinds
    used = [word for name, (word, no) in _VARIANTS.items() if str(view.get(name) or "") not in no]
    view.SequenceVariant = used or "NONE"


def _corrections(view: Dataset) -> None:
    """What was corrected; the time that decay is corrected to goes into SeriesTime, which uptake is computed from."""
    view.CorrectedImage = [word for name, word in _CORRECTIONS.items() if view.get(name) == "YES"]
    doses = view.RadiopharmaceuticalInformationSequence
    injected = str(doses[0].get("RadiopharmaceuticalStartDateTime") or "") if doses else ""
    corrected = str(view.get("DecayCorrectionDateTime") or "")
    if view.get("DecayCorrected") == "NO":
        view.DecayCorrection = "NONE"
    elif view.get("DecayCorrected") == "YES":
        view.DecayCorrection = "ADMIN" if corrected and corrected == injected else "START"
        if len(corrected) >= 14 and view.DecayCorrection == "START":
            view.SeriesDate, view.SeriesTime = _apart(corrected)


def _apart(moment: str) -> tuple[str, str]:
    """Date and time of a DT value, without the offset from UTC."""
    clock = moment.split("+")[0].split("-")[0]
    return clock[:8], clock[8:]
