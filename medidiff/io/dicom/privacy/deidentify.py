"""De-identification of DICOM files on request: every object of a folder, one by one, whatever it shows.

The basic profile of PS3.15 (see `confidentiality`), with UIDs, pseudonyms and shifted dates from a secret
key (see `pseudonyms`). Pixels stay as they are; what hides behind them does not.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from medidiff.errors import InputError, OutputError
from medidiff.io.contents import Skipped
from medidiff.io.dicom.headers.header import is_dicom, quietly, read_dataset
from medidiff.io.dicom.privacy.clean import DeidentifyOptions, clean, identifiers, refuse_unclean
from medidiff.io.dicom.privacy.pseudonyms import Key, new_key, read_key
from medidiff.io.files.atomic import resolved, staging_folder, write_file
from medidiff.io.files.checks import REFETCH
from medidiff.io.files.names import inside, safe_label
from medidiff.io.files.walk import gather

__all__ = ["Deidentified", "DeidentifyOptions", "Key", "deidentify", "new_key", "read_key"]

_LARGEST = 2**32  # bytes of one file; the largest multi-frame objects are a quarter of it
_LARGEST_RATIO = 200  # of a deflated file to what it inflates to; headers and pixels reach 10
_HEADS = frozenset({"HEAD", "BRAIN", "SKULL", "FACE", "NECK", "HEADNECK", "EYE", "SINUS", "IAC", "CSPINE", "JAW", ""})
_VOLUMES = frozenset({"CT", "MR", "PT"})
_FACE = (
    "The face can be reconstructed from {count} {modality} images of a head (or of a part of the body that is not"
    " named); deface them before they leave."
)
_PICTURES = (
    "{count} {modality} images are of a kind that often has names burned into the pixels, and do not say that they have"
    " none; look at each before it leaves."
)


@dataclass(frozen=True, slots=True)
class Deidentified:
    """What a run wrote and what it left out; files seen = written + skipped.

    Args:
        files: the new files.
        skipped: what was not written and why, under labels that may be shown.
        decisions: what was done and what remains to be done by a person, as sentences.
    """

    files: tuple[Path, ...]
    skipped: tuple[Skipped, ...]
    decisions: tuple[str, ...]


def deidentify(
    source: str | Path, out: str | Path, *, key: Key, options: DeidentifyOptions | None = None
) -> Deidentified:
    """Write every DICOM object of a file or folder anew, without anything that identifies the patient.

    Args:
        source: a DICOM file, a folder that is searched with its sub-folders, an archive, or a glob pattern.
        out: a new or empty folder outside the source; one folder a series, with names made from the key.
        key: from `new_key` or `read_key`; the same key keeps two runs of one patient together.
        options: what of the basic profile is relaxed.

    Raises:
        InputError: nothing is there (``E-MISSING``), or nothing of it could be de-identified: the first reason.
        OutputError: the folder holds something (``E-EXISTS``), lies inside the source, or cannot be written.
    """
    source, out, options = Path(source), Path(out), options or DeidentifyOptions()
    gathered = gather(source)
    _refuse_place(source, out)
    task = _Task(key, options)
    task.skipped += [Skipped(safe_label(each.file), each.reason) for each in gathered.skipped]
    with staging_folder(out) as stage:
        for file in gathered.files:
            task.take(file, stage)
        if not task.files:
            raise task.first or InputError(
                "E-NOIMAGES",
                "no DICOM file",
                wanted="DICOM images",
                mend="Check the path; NIfTI, NRRD and MetaImage files are written without texts by 'medidiff convert'.",
                file=source.name,
            )
    return Deidentified(tuple(out / name for name in task.files), tuple(task.skipped), task.decisions())


def _refuse_place(source: Path, out: Path) -> None:
    home, place = resolved(source if source.is_dir() else source.parent), resolved(out)
    if source.is_dir() and home in (place, *place.parents):
        mend = "Choose a folder outside the source."
        raise OutputError("E-OVERWRITE", "the output folder is the source's or inside it", file=out.name, mend=mend)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        mend = "Choose a new folder, so that cleaned and other files never mix."
        raise OutputError("E-EXISTS", "something stands in the output folder", file=out.name, mend=mend)


class _Task:
    """One run over many files."""

    def __init__(self, key: Key, options: DeidentifyOptions) -> None:
        self.key, self.options = key, options
        self.files: list[str] = []
        self.skipped: list[Skipped] = []
        self.first: InputError | None = None
        self.faces: dict[str, int] = {}
        self.pictures: dict[str, int] = {}

    def take(self, file: Path, stage: Path) -> None:
        """Write one file anew below `stage`, or note why not."""
        label = safe_label(file.name)
        try:
            dataset = _read(file, label)
            if dataset is None:
                self.skipped.append(Skipped(label, "not a DICOM file"))
                return
            refuse_unclean(dataset, self.options, file=label)
            self._write(dataset, stage, label)
        except InputError as error:
            self.first = self.first or error
            self.skipped.append(Skipped(label, f"{error.code}: {error.found}{'. ' * bool(error.mend)}{error.mend}"))

    def _write(self, source: FileDataset, stage: Path, label: str) -> None:
        try:
            with quietly():
                result = clean(source, key=self.key, options=self.options, file=label)
                banned = identifiers(source)
        except (InputError, OutputError):
            raise
        except Exception as error:  # pydicom raises nearly anything on damaged bytes, and quotes them
            raise InputError("E-TRUNC", "a damaged object", mend=REFETCH, file=label) from error
        name = f"{self.key.label(_uid(source, 'Series'))}/{self.key.label(str(source.SOPInstanceUID))}.dcm"
        if name in self.files:
            raise InputError(
                "E-DUPUID", "another file has the same SOPInstanceUID", mend="Keep one of the two.", file=label
            )
        place = inside(stage, name)
        place.parent.mkdir(exist_ok=True)
        write_file(place, lambda path: _save(result, path), verify=lambda path: _verify(path, result, banned, label))
        self.files.append(name)
        self._warn(source, result)

    def _warn(self, source: FileDataset, result: Dataset) -> None:
        modality, part = str(result.get("Modality", "OT")), str(result.get("BodyPartExamined") or "").upper()
        if modality in _VOLUMES and part in _HEADS:
            self.faces[modality] = self.faces.get(modality, 0) + 1
        elif modality not in _VOLUMES and "PixelData" in result and source.get("BurnedInAnnotation") != "NO":
            self.pictures[modality] = self.pictures.get(modality, 0) + 1

    def decisions(self) -> tuple[str, ...]:
        """What was done, and what a person has to do."""
        said = [f"{len(self.files)} files were written by the basic profile of PS3.15, {len(self.skipped)} left out."]
        if self.options.dates == "shift":
            said.append("All dates of a patient were moved back by the same number of days; times of day stayed.")
        if self.options.keep_characteristics:
            said.append("Sex, age, size and weight were kept.")
        if self.options.allow_burned_in:
            said.append("Images with text burned into their pixels were let through.")
        said += [_FACE.format(count=n, modality=m) for m, n in sorted(self.faces.items())]
        said += [_PICTURES.format(count=n, modality=m) for m, n in sorted(self.pictures.items())]
        return tuple(said)


def _uid(source: Dataset, kind: str) -> str:
    return str(source.get(f"{kind}InstanceUID") or "")


def _read(file: Path, label: str) -> FileDataset | None:
    """The whole object; None for what is no DICOM file.

    Raises:
        InputError: it is one, but cannot be parsed, or is too large.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(4096)
    except OSError as error:
        raise InputError("E-READ", "a file that the system refuses to read", file=label) from error
    if not is_dicom(start):
        return None
    if file.stat().st_size > _LARGEST:
        raise InputError("E-SIZE", f"{file.stat().st_size} bytes", wanted=f"at most {_LARGEST}", file=label)
    try:
        _refuse_bomb(file, start, label)
        dataset = read_dataset(file, pixels=True)
        if str(dataset.SOPClassUID) and str(dataset.SOPInstanceUID):
            return dataset
    except InputError:
        raise
    except Exception as error:  # as in `_write`; RecursionError for sequences without end
        raise InputError("E-TRUNC", "a header that cannot be parsed", mend=REFETCH, file=label) from error
    raise InputError("E-TRUNC", "a header without SOP class or instance UID", mend=REFETCH, file=label)


def _refuse_bomb(file: Path, start: bytes, label: str) -> None:
    """Refuse a deflated file that would fill the memory, by inflating it piece by piece first."""
    if str(DeflatedExplicitVRLittleEndian).encode() not in start:
        return
    most, seen = file.stat().st_size * _LARGEST_RATIO, 0
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    with file.open("rb") as stream:
        stream.seek(144 + int.from_bytes(start[140:144], "little"))  # behind the meta header, which says its length
        while not inflate.eof and (piece := inflate.unconsumed_tail or stream.read(2**16)):
            seen += len(inflate.decompress(piece, 2**20))
            if seen > min(most, _LARGEST):
                raise InputError("E-BOMB", f"over {seen} bytes in a deflated file", mend=REFETCH, file=label)


def _save(result: Dataset, path: Path) -> None:
    with quietly():
        pydicom.dcmwrite(path, result, enforce_file_format=True)


def _verify(path: Path, result: Dataset, banned: frozenset[str], label: str) -> None:
    """Read a written file again: the same pixels, an empty preamble, and nobody's name in any byte.

    Raises:
        OutputError: ``E-VERIFY``, it is not what was meant. ``E-LEAK``, an identifier of the source stands in it.
    """
    raw = path.read_bytes()
    with quietly():
        again = pydicom.dcmread(path)
        same = all(
            again[name].value == result[name].value for name in ("SOPInstanceUID", "PixelData") if name in result
        )
    if not same or any(raw[:128]) or again.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian:
        raise OutputError("E-VERIFY", "what was read back differs", mend="Check the disk.", file=label)
    if any(word.encode("utf-8", "replace") in raw or word.encode("utf-16-le", "replace") in raw for word in banned):
        found = "an identifier of the source would stand in the result"
        mend = "Leave this file out, and report it: this is a fault of the profile."
        raise OutputError("E-LEAK", found, mend=mend, file=label)
