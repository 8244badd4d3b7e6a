"""Which attributes the scan of a folder keeps, and what they mean; everything else in a header is stepped over."""

from __future__ import annotations

import math

from medidiff.io.dicom.headers.values import Values, tag_of

__all__ = ["META", "WANTED", "clock_of", "concatenation_of", "padding_of", "rescale_of"]

# What may tell the volumes of one series apart, the surest first.
_CLOCK = (
    "ImageType",
    "ComplexImageComponent",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "EchoNumbers",
    "EchoTime",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "InversionTime",
    "FlipAngle",
    "NominalPercentageOfCardiacPhase",
    "ConvolutionKernel",
    "KVP",
    "AcquisitionNumber",
    "SequenceName",
    "SeriesNumber",
    "FrameReferenceTime",
    "TriggerTime",
    "AcquisitionTime",
    "ContentTime",
)
_PRIVATE = (  # name, creator's tag and text, tag, VR when binary
    ("private image kind", 0x00430010, "GEMS_PARM_01", 0x0043102F, "SS"),
    ("private b-value", 0x00190010, "SIEMENS MR HEADER", 0x0019100C, ""),
    ("private b-value", 0x00430010, "GEMS_PARM_01", 0x00431039, ""),
    ("private b-value", 0x20010010, "Philips Imaging DD 001", 0x20011003, "FL"),
    ("private gradient direction", 0x00190010, "SIEMENS MR HEADER", 0x0019100E, "FD"),
    ("private gradient direction x", 0x00190010, "GEMS_ACQU_01", 0x001910BB, ""),
    ("private gradient direction y", 0x00190010, "GEMS_ACQU_01", 0x001910BC, ""),
    ("private gradient direction z", 0x00190010, "GEMS_ACQU_01", 0x001910BD, ""),
    ("private gradient direction x", 0x20050010, "Philips MR Imaging DD 001", 0x200510B0, "FL"),
    ("private gradient direction y", 0x20050010, "Philips MR Imaging DD 001", 0x200510B1, "FL"),
    ("private gradient direction z", 0x20050010, "Philips MR Imaging DD 001", 0x200510B2, "FL"),
)
_IMAGE = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "Modality",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "InstanceNumber",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "Units",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "ModalityLUTSequence",
    "ConcatenationUID",
    "InConcatenationNumber",
    "InConcatenationTotalNumber",
)
META = frozenset(tag_of(name) for name in ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID"))
WANTED = frozenset(
    [
        *META,
        *(tag_of(name) for name in (*_CLOCK, *_IMAGE)),
        *(tag for _, creator, _, private, _ in _PRIVATE for tag in (creator, private)),
    ]
)


def rescale_of(values: Values) -> tuple[float, float] | None:
    """Slope and intercept, NaN for the one that is missing; None when both are."""
    slope, intercept = (values.decimals(name, count=1) for name in ("RescaleSlope", "RescaleIntercept"))
    if slope is None and intercept is None:
        return None
    return (math.nan if slope is None else slope[0], math.nan if intercept is None else intercept[0])


def clock_of(values: Values) -> tuple[tuple[str, str], ...]:
    """What may tell the volumes of a series apart, by name."""
    found = [(name, values.text(name)) for name in _CLOCK]
    for name, creator_tag, creator, tag, kind in _PRIVATE:
        if tag in values.raw and values.text(creator_tag).startswith(creator):
            found.append(
                (name, values.text(tag, kind=kind).split("\\")[0] if not kind else values.text(tag, kind=kind))
            )
    return tuple(found)


def concatenation_of(values: Values) -> tuple[str, int, int] | None:
    """UID of a concatenation, which part of it a file is, and of how many (0 unknown); None when it is no part."""
    uid, number = values.text("ConcatenationUID"), values.integer("InConcatenationNumber")
    return (uid, number or 0, values.integer("InConcatenationTotalNumber") or 0) if uid else None


def padding_of(values: Values) -> tuple[int, ...]:
    """Stored bit patterns; whether they are signed is told by PixelRepresentation, whatever their own type says."""
    found = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        value = values.stored(keyword)
        if not isinstance(value, bytes) or len(value) not in (2, 4):
            break
        found.append(int.from_bytes(value, "big" if values.big else "little"))
    return tuple(found)
