"""Which attributes the scan of a folder keeps; everything else in a header is stepped over."""

from __future__ import annotations

from medidiff.io.dicom.values import tag_of

__all__ = ["CLOCK", "META", "PRIVATE", "WANTED"]

# What may tell the volumes of one series apart, the surest first.
CLOCK = (
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
PRIVATE = (  # name, creator's tag and text, tag, VR when binary
    ("private image kind", 0x00430010, "GEMS_PARM_01", 0x0043102F, "SS"),
    ("private b-value", 0x00190010, "SIEMENS MR HEADER", 0x0019100C, ""),
    ("private b-value", 0x00430010, "GEMS_PARM_01", 0x00431039, ""),
    ("private b-value", 0x20010010, "Philips Imaging DD 001", 0x20011003, "FL"),
    ("private gradient direction", 0x00190010, "SIEMENS MR HEADER", 0x0019100E, "FD"),
    ("private gradient direction x", 0x00190010, "GEMS_ACQU_01", 0x001910BB, ""),
    ("private gradient direction y", 0x00190010, "GEMS_ACQU_01", 0x001910BC, ""),
    ("private gradient direction z", 0x00190010, "GEMS_ACQU_01", 0x001910BD, ""),
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
        *(tag_of(name) for name in (*CLOCK, *_IMAGE)),
        *(tag for _, creator, _, private, _ in PRIVATE for tag in (creator, private)),
    ]
)
