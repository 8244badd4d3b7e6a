"""The frames of enhanced multi-frame files, each as if it were a classic image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydicom.dataset import Dataset

from medidiff.errors import InputError
from medidiff.io.dicom.headers.header import Header, quietly, read_dataset
from medidiff.io.dicom.headers.tags import rescale_of
from medidiff.io.dicom.headers.values import Values
from medidiff.io.dicom.privacy.vocabulary import word
from medidiff.io.dicom.series.mosaic import tiles_of
from medidiff.io.files.checks import REFETCH

__all__ = ["frames_of"]

_CLOCK = (  # what may tell the volumes of one file apart, the surest first
    ("MRImageFrameTypeSequence", "FrameType"),
    ("MRImageFrameTypeSequence", "ComplexImageComponent"),
    ("CTImageFrameTypeSequence", "FrameType"),
    ("PETFrameTypeSequence", "FrameType"),
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("TemporalPositionSequence", "TemporalPositionTimeOffset"),
    ("MREchoSequence", "EffectiveEchoTime"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("MRDiffusionSequence", "DiffusionDirectionality"),
    ("MRModifierSequence", "InversionTimes"),
    ("MRTimingAndRelatedParametersSequence", "FlipAngle"),
    ("CTReconstructionSequence", "ConvolutionKernel"),
    ("CTXRayDetailsSequence", "KVP"),
    ("FrameContentSequence", "FrameAcquisitionNumber"),
    ("CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    ("FrameContentSequence", "FrameAcquisitionDateTime"),
    ("FrameContentSequence", "FrameReferenceDateTime"),
)
_UCUM = {"[hnsf'U]": "HU", "Bq/ml": "BQML", "g/ml{SUVbw}": "GML", "%": "PCNT"}  # the units that CT and PET images name


def frames_of(header: Header) -> list[Header]:
    """The frames of an enhanced multi-frame file or the tiles of a mosaic, each as if it were a classic image.

    Raises:
        InputError: the functional groups, or what stands for them in a mosaic, are missing or broken.
    """
    if not header.enhanced:
        return tiles_of(header) if "MOSAIC" in header.image_type else [header]
    try:
        with quietly():
            dataset = read_dataset(header.file, pixels=False)
            shared = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
            each = list(dataset.PerFrameFunctionalGroupsSequence)
            if len(each) != header.frames:
                raise ValueError
            frames = [_frame(header, number, groups=(group, shared[0])) for number, group in enumerate(each)]
            _check_scales(header, [(group, shared[0]) for group in each], frames)
            return frames
    except (InputError, OSError):
        raise
    except Exception as error:  # pydicom raises nearly anything on damaged bytes
        found = "functional groups that do not fit the frames"
        raise InputError("E-MULTIFRAME", found, wanted="one group a frame", mend=REFETCH, file=header.name) from error


def _frame(header: Header, number: int, *, groups: Sequence[Dataset]) -> Header:
    name = f"{header.file.name} frame {number + 1}"
    items: dict[str, Values] = {}

    def item(sequence: str) -> Values:
        if sequence not in items:
            found = next(
                (group[sequence].value for group in groups if sequence in group and group[sequence].value), None
            )
            items[sequence] = Values(name, dataset=Dataset() if found is None else found[0])
        return items[sequence]

    clock = [(keyword, item(sequence).text(keyword)) for sequence, keyword in _CLOCK]
    return replace(
        header,
        frame=number,
        position_mm=item("PlanePositionSequence").decimals("ImagePositionPatient", count=3),
        orientation=item("PlaneOrientationSequence").decimals("ImageOrientationPatient", count=6),
        spacing_mm=item("PixelMeasuresSequence").decimals("PixelSpacing", count=2),
        thickness_mm=item("PixelMeasuresSequence").number("SliceThickness"),
        between_mm=item("PixelMeasuresSequence").number("SpacingBetweenSlices"),
        rescale=rescale_of(item("PixelValueTransformationSequence")),
        units=header.units
        or _coded_unit(item("RealWorldValueMappingSequence"))
        or word(item("PixelValueTransformationSequence").text("RescaleType"), other="unlisted"),
        stack=item("FrameContentSequence").text("StackID"),
        clock=(
            *clock,
            ("DiffusionGradientOrientation", _gradient(item("MRDiffusionSequence"))),
            *_dimensions(item("FrameContentSequence")),
        ),
    )


def _dimensions(content: Values) -> list[tuple[str, str]]:
    """The place of a frame along each dimension that the file itself declares, the last resort."""
    indices = content.text("DimensionIndexValues")
    return [(f"dimension {n + 1}", index) for n, index in enumerate(indices.split("\\"))] if indices else []


def _check_scales(header: Header, groups: Sequence[Sequence[Dataset]], frames: Sequence[Header]) -> None:
    """Refuse stored values that only a mapping to real ones, another in each frame, makes comparable."""
    scales = set()
    for pair, frame in zip(groups, frames, strict=True):
        mapping = next((g.RealWorldValueMappingSequence for g in pair if g.get("RealWorldValueMappingSequence")), None)
        if frame.rescale is None and mapping:
            values = Values(frame.name, dataset=mapping[0])
            scales.add((values.text("RealWorldValueSlope"), values.text("RealWorldValueIntercept")))
    if len(scales) > 1:
        found = f"{len(scales)} scales of real world values among the frames, and no rescale slope"
        mend = "Export the series again with RescaleSlope and RescaleIntercept."
        attribute = "RealWorldValueMappingSequence"
        raise InputError(
            "E-BADRESCALE", found, wanted="one scale", mend=mend, file=header.file.name, attribute=attribute
        )


def _gradient(diffusion: Values) -> str:
    found = diffusion.stored("DiffusionGradientDirectionSequence")
    inside = Values(diffusion.file, dataset=found[0]) if found else None
    return "" if inside is None else inside.text("DiffusionGradientOrientation")


def _coded_unit(mapping: Values) -> str:
    """The unit that a real world value mapping codes, in the words of classic images; empty for another."""
    codes = mapping.stored("MeasurementUnitsCodeSequence")
    return _UCUM.get(Values(mapping.file, dataset=codes[0]).text("CodeValue"), "") if codes else ""
