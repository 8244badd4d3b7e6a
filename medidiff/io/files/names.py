"""Names that are safe to write down, to write to, and to open below a folder.

People put patients into file names. A message may show a name to the person who typed it; whatever is *written* (a
record, a sidecar, a run in MLflow, a picture) holds `safe_label` of it instead.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PureWindowsPath

from medidiff.errors import MedidiffError, OutputError, printable

__all__ = ["inside", "output_name", "safe_label", "safe_pattern"]

_ENDING = re.compile(
    r"\.(nii|nii\.gz|hdr|img|nrrd|nhdr|mha|mhd|raw|dcm|dicom|ima|zip|tar|tar\.gz|tgz|gz|json|jsonl|toml|yaml|yml|csv|tsv"
    r"|txt|pdf|html|png|jpg|safetensors|pt|db|part)\Z",
    re.IGNORECASE,
)
_FRAME = re.compile(r" frame \d{1,6}\Z")  # as a message counts the frames of a file
_WORDS = (
    "images?|im|img|slices?|slc|sl|series|ser|se|frame|scan|volume|vol|file|first|second|third|left|right|mri|mr|ct|pet"
    "|pt|t1w|t2w|t1|t2|pdw|pd|flair|mprage|dwi|dti|adc|swi|tof|bold|epi|b0|ax|axial|tra|cor|coronal|sag|sagittal|brain"
    "|head|lung|chest|abdomen|knee|spine|sub|ses|run|acq|echo|part|space|desc|anat|func|mask|seg|lesion|labels?|noisy"
    "|clean|denoised|superresolved|sharp|reference|result|output|mean|spread|std|lower|upper|draw|test|input|report"
    "|record|dicomdir|thumbs|store|readme|shared|data|datasets?|scans|split|train|validation|ds\\d{6}"
)
_TOKEN = re.compile(rf"(?:{_WORDS})?(\d{{0,8}})", re.IGNORECASE)
_MOST_NUMBERS = 2  # three could be a date
_LARGEST_NUMBER = 9999  # a longer one could be a hospital's number, or a date
_LONGEST_STEM = 71  # with a hyphen and eight digits: 80


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _is_neutral(stem: str) -> bool:
    tokens = re.split(r"[ ._()-]+", stem)
    matches = [_TOKEN.fullmatch(token) for token in tokens]
    if not any(tokens) or None in matches:
        return False
    numbers = [int(match[1]) for match in matches if match and match[1]]
    return len(numbers) <= _MOST_NUMBERS and all(number <= _LARGEST_NUMBER for number in numbers)


def safe_label(name: str | Path) -> str:
    """A file's name as it may be written down: itself when it is made of neutral words and small numbers, else a hash.

    Args:
        name: a file name or a path, of which the last part is taken.

    Example:
        >>> safe_label("IM0003.dcm"), safe_label("folder/T1w.nii.gz")
        ('IM0003.dcm', 'T1w.nii.gz')
        >>> safe_label("Doe^Jane 1970-01-31.nii.gz")
        'file-2950bf6a.nii.gz'
    """
    base = re.split(r"[/\\]", str(name).rstrip("/\\"))[-1]
    name, frame = _cut(_FRAME, base)
    stem, ending = _cut(_ENDING, name)
    return base if _is_neutral(stem) else f"file-{_digest(name)}{ending.lower()}{frame}"


def _cut(pattern: re.Pattern[str], text: str) -> tuple[str, str]:
    """What stands before the place where a pattern fits, and what fits there; the whole text and nothing else."""
    match = pattern.search(text)
    return (text[: match.start()], text[match.start() :]) if match else (text, "")


def safe_pattern(pattern: str) -> str:
    """A relative path with placeholders as it may be written down: each part as `safe_label` has it.

    Example:
        >>> safe_pattern("../data/{subject}/anat/{subject}_T1w.nii.gz")
        '../data/{subject}/anat/{subject}_T1w.nii.gz'
    """
    parts = re.split(r"[/\\]", pattern)
    neutral = (re.sub(r"\{[a-z]+\}", "sub", part) for part in parts)
    return "/".join(
        part if part in ("", ".", "..") or safe_label(word) == word else safe_label(part)
        for part, word in zip(parts, neutral, strict=True)
    )


def output_name(text: str, *, ending: str = "") -> str:
    """A file name made from any text: ``[A-Za-z0-9_-]``, at most 80 characters, and different for different texts.

    The hash at its end keeps apart texts that differ only in case or in characters that were replaced, and keeps
    reserved names (``CON``) and trailing dots from appearing. The text itself must be one that may be shown.

    Args:
        text: what to name the file after.
        ending: e.g. ``".nii.gz"``; not counted.
    """
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", text)[:_LONGEST_STEM].strip("_-")
    return f"{stem or 'file'}-{_digest(text)}{ending}"


def inside(root: Path, name: str | Path, *, error: type[MedidiffError] = OutputError) -> Path:
    """The path of a name below a folder, after every symbolic link is followed.

    Raises:
        MedidiffError: ``E-OUTSIDE``, of the kind asked for: the name is absolute, names a drive, holds a NUL or ``..``,
            or a link leads out.
    """
    text = str(name)
    parts = re.split(r"[/\\]", text)
    plain = "\0" not in text and ".." not in parts and not Path(text).is_absolute() and not PureWindowsPath(text).anchor
    if plain:
        home = root.resolve()
        path = (home / text).resolve()
        if path == home or home in path.parents:
            return path
    raise error(
        "E-OUTSIDE",
        f"the name {printable(parts[-1])!r} leads out of the folder that it belongs to",
        wanted="a name below that folder, without '..'",
        mend="Name a file inside the folder, or give the other folder by itself.",
    )
