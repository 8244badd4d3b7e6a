"""One DICOM object without its patient: a new dataset, filled with what the profile lets through."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.sr._snomed_dict import mapping
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, UID

from medidiff.errors import InputError
from medidiff.io.dicom.privacy.bare import bare_pixels, bare_table
from medidiff.io.dicom.privacy.confidentiality import EMPTY_SEQUENCES, SEQUENCES, Rules, keyword_of
from medidiff.io.dicom.privacy.pseudonyms import Key
from medidiff.io.dicom.privacy.vocabulary import known_code, technical
from medidiff.version import __version__

__all__ = ["DeidentifyOptions", "clean", "identifiers", "patient_of", "refuse_unclean"]

_DEEPEST = 16  # sequences within sequences; the Standard's own stop at 6
_TABLES = {  # look-up tables without which pixels mean nothing, and what declares their length
    "LUTData": "LUTDescriptor",
    "RedPaletteColorLookupTableData": "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableData": "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableData": "BluePaletteColorLookupTableDescriptor",
}
_CLEANABLE = ("Image Storage", "Parametric Map Storage", "Segmentation Storage")
_WITHOUT_PIXELS = ("RT Structure Set Storage", "Spatial Registration Storage", "RT Dose Storage")
_CODES = {"113100": "Basic Application Confidentiality Profile"}
_SHIFTED = ("113107", "Retain Longitudinal Temporal Information Modified Dates Option")
_CHARACTERISTICS = ("113108", "Retain Patient Characteristics Option")
_LEAST_DIGITS = 6  # of an identifier that no other number of the header may equal
_LEAST_LETTERS = 6
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeidentifyOptions:
    """What of the basic profile is relaxed.

    Args:
        dates: ``"shift"`` moves all dates of a patient back by the same 1 to 365 days; ``"remove"`` takes them and
            the times of day away.
        keep_characteristics: sex, age (older than 89 years becomes 89), size and weight stay. PET needs the weight.
        allow_burned_in: images that say that text is burned into their pixels are written too.
    """

    dates: Literal["shift", "remove"] = "shift"
    keep_characteristics: bool = False
    allow_burned_in: bool = False


def patient_of(source: Dataset) -> str:
    """What tells this patient from others: the PatientID, or else name and birth date, or else the study."""
    number, name, birth, study = (
        _text(source, word) for word in ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID")
    )
    return number or (f"{name}\0{birth}" if name else study)


def _text(source: Dataset, keyword: str) -> str:
    try:
        return str(source.get(keyword) or "").strip(" \0")
    except Exception:  # pydicom raises nearly anything on damaged bytes
        return ""


def identifiers(source: Dataset) -> frozenset[str]:
    """Texts of a source that must not stand anywhere in the result: names, identifiers, UIDs, if long enough."""
    words = [_text(source, name) for name in ("PatientID", "AccessionNumber", "OtherPatientIDs", "InstitutionName")]
    words += _text(source, "PatientName").replace("=", "^").split("^")
    words += [_text(source, name) for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")]
    long = (word for word in words if len(word) >= (_LEAST_DIGITS if word.isdigit() else _LEAST_LETTERS))
    return frozenset(word for word in long if not technical(word))


def refuse_unclean(source: FileDataset, options: DeidentifyOptions, *, file: str) -> None:
    """Refuse an object that is more than pixels and numbers, or that has text in its pixels.

    Raises:
        InputError: ``E-DEIDENTIFY`` or ``E-BURNEDIN``.
    """
    sop_class = _text(source, "SOPClassUID")
    name = str(UID(sop_class).name)
    name = "" if name == sop_class else name
    pictured = any(word in source for word in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))
    if not (pictured and any(kind in name for kind in _CLEANABLE)) and name not in _WITHOUT_PIXELS:
        raise InputError(
            "E-DEIDENTIFY",
            f"an object that cannot be cleaned ({name or 'of an unknown kind'})",
            wanted="an image, segmentation, dose, structure set or registration",
            mend="Leave it out: reports, documents and waveforms are text about the patient.",
            file=file,
        )
    labelled = "LABEL" in _text(source, "ImageType").upper()
    if not options.allow_burned_in and (_text(source, "BurnedInAnnotation").upper() == "YES" or labelled):
        raise InputError(
            "E-BURNEDIN",
            "an image with text burned into its pixels",
            mend="Blank the text first, or pass --allow-burned-in when it names nobody.",
            file=file,
            attribute="BurnedInAnnotation",
        )


def clean(source: FileDataset, *, key: Key, options: DeidentifyOptions, file: str) -> Dataset:
    """A new dataset with new file meta, ready to be written.

    Args:
        source: the whole object, pixels included.
        key: what identifiers are replaced with.
        options: what of the profile is relaxed.
        file: name for messages.

    Raises:
        InputError: ``E-TRUNC`` or ``E-DEIDENTIFY``, the pixels cannot be cleaned.
    """
    patient = patient_of(source)
    rules = Rules(
        key=key,
        patient=patient,
        dates=options.dates,
        characteristics=options.keep_characteristics,
        enhanced="SharedFunctionalGroupsSequence" in source,
        numbers=frozenset(word for word in identifiers(source) if word.isdigit()),
    )
    syntax = str(source.file_meta.TransferSyntaxUID)
    pixels, target = bare_pixels(source, syntax=syntax, file=file)
    result = _walk(source, rules, swapped=not source.original_encoding[1])
    if pixels is not None:
        result.add(pixels)
    name = key.pseudonym(patient)
    result.PatientName, result.PatientID = name, name
    _declare(result, options)
    result.file_meta = _meta(result, target)
    return result


def _walk(source: Dataset, rules: Rules, *, swapped: bool) -> Dataset:
    root = Dataset()
    todo: list[tuple[Dataset, Dataset, int]] = [(source, root, 0)]
    sequences: list[tuple[Dataset, DataElement]] = []
    while todo:
        old, new, depth = todo.pop()
        for element in _elements(old):
            name = keyword_of(element)
            if element.VR == "SQ":
                if name in SEQUENCES and depth < _DEEPEST:
                    _enter(element, new, todo, sequences, depth=depth)
            elif name in _TABLES:
                _table(element, old, new, swapped=swapped)
            elif (kept := rules.apply(element, nested=depth > 0)) is not None:
                new.add(kept)
    for new, element in reversed(sequences):  # from the inside out
        if not any(len(item) for item in element.value) and element.keyword not in EMPTY_SEQUENCES:
            del new[element.tag]
    return root


def _elements(dataset: Dataset) -> Iterator[DataElement]:
    for tag in sorted(dataset.keys()):
        try:
            yield dataset[tag]
        except Exception:  # as in `_text`; what cannot be understood does not stay
            _log.debug("an attribute could not be parsed and was removed")


def _enter(
    element: DataElement,
    new: Dataset,
    todo: list[tuple[Dataset, Dataset, int]],
    sequences: list[tuple[Dataset, DataElement]],
    *,
    depth: int,
) -> None:
    items = []
    for old in element.value:
        if "CodeValue" in old or element.keyword.endswith("CodeSequence"):
            items += _coded(old)
        else:
            items.append(Dataset())
            todo.append((old, items[-1], depth + 1))
    kept = DataElement(element.tag, "SQ", Sequence(items))
    new.add(kept)
    sequences.append((new, kept))


def _coded(item: Dataset) -> list[Dataset]:
    """The code of a standard terminology in the Standard's own words; none when it is anything else."""
    scheme, value = _text(item, "CodingSchemeDesignator"), _text(item, "CodeValue")
    if scheme in ("SRT", "SNM3", "99SDM"):
        scheme, value = "SCT", str(mapping["SRT"].get(value, ""))
    known = known_code(scheme, value)
    if known is None:
        return []
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, *known
    return [code]


def _table(element: DataElement, old: Dataset, new: Dataset, *, swapped: bool) -> None:
    descriptor = _TABLES[element.keyword]
    if descriptor in old and (table := bare_table(element, old[descriptor], swapped=swapped)) is not None:
        new.add(table)


def _declare(result: Dataset, options: DeidentifyOptions) -> None:
    """Say what was done, as the profile asks."""
    codes = dict([*_CODES.items(), *([_SHIFTED] if options.dates == "shift" else [])])
    if options.keep_characteristics:
        codes |= dict([_CHARACTERISTICS])
    items = []
    for value, meaning in codes.items():
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
        items.append(item)
    result.PatientIdentityRemoved = "YES"
    result.DeidentificationMethod = f"medidiff {__version__}: PS3.15 basic profile"
    result.DeidentificationMethodCodeSequence = items
    modified = "MODIFIED" if options.dates == "shift" else "REMOVED"
    result.LongitudinalTemporalInformationModified = modified
    result.SpecificCharacterSet = "ISO_IR 192"


def _meta(result: Dataset, syntax: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = result.SOPClassUID, result.SOPInstanceUID
    meta.TransferSyntaxUID = UID(syntax)
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    meta.ImplementationVersionName = f"MEDIDIFF {__version__}"[:16]
    return meta
