"""From the DICOM headers of a folder to the scans it holds: which files belong together, and which to none of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medidiff.errors import InputError
from medidiff.io.contents import Skipped
from medidiff.io.dicom.frames import frames_of
from medidiff.io.dicom.headers import Header, scan
from medidiff.io.dicom.slices import prepare_slices
from medidiff.io.dicom.stack import Stack, regular_stack
from medidiff.io.files.atomic import sha256
from medidiff.io.files.walk import gather
from medidiff.io.options import ReadOptions

__all__ = ["Part", "find_stack", "split"]

_TOLERANCE = 1e-4  # of cosines, and of pixel spacings relative to each other
_RESEND = "Send the series again from the archive."


@dataclass(frozen=True, slots=True)
class Part:
    """What makes up one scan.

    Args:
        headers: classic images, or multi-frame files as a whole.
        stack: the scan; None when it is refused.
        problem: why it is refused; None when it is not.
    """

    headers: tuple[Header, ...]
    stack: Stack | None = None
    problem: InputError | None = None

    def stacked(self) -> Stack:
        """The scan.

        Raises:
            InputError: it is refused.
        """
        if self.stack is None:
            raise self.problem or InputError("E-NOIMAGES", "no image")
        return self.stack


def find_stack(path: Path, options: ReadOptions | None = None) -> Stack:
    """The one scan that a file or folder holds, or the one that the options name.

    Raises:
        InputError: there is none, there are several, or it is not a regular stack.
    """
    options = options or ReadOptions()
    gathered = gather(path)
    headers, skipped = scan(gathered.files)
    parts = split(headers, options)
    if not parts:
        raise InputError(
            "E-NOIMAGES",
            f"no CT, MR or PT image among {len(skipped)} files",
            wanted="a DICOM series",
            mend="Give the folder that holds the slices, or the NIfTI file itself.",
            file=path.name,
        )
    if options.scan > len(parts):
        found, wanted = f"no scan {options.scan}", f"1 to {len(parts)}"
        raise InputError("E-SCAN", found, wanted=wanted, mend="List them with 'medidiff info'.", file=path.name)
    if len(parts) > 1 and not options.scan:
        raise InputError(
            "E-MULTISERIES",
            f"{len(parts)} scans: {'; '.join(_describe(part.headers) for part in parts)}",
            wanted="one scan",
            mend="Choose one by its number, or put each into a folder of its own.",
            file=path.name,
        )
    return parts[max(options.scan, 1) - 1].stacked()


def _describe(group: Sequence[Header]) -> str:
    first = group[0]
    return f"{first.modality} {first.shape[0]}x{first.shape[1]}, {len(group)} files from {first.name}"


def split(headers: Sequence[Header], options: ReadOptions | None = None) -> list[Part]:
    """Every scan that some headers make up, in a stable order; one that cannot be read carries its problem."""
    return [_part(group, options or ReadOptions()) for group in _by_series(headers)]


def _part(group: Sequence[Header], options: ReadOptions) -> Part:
    try:
        return Part(tuple(group), _stack(group, options))
    except InputError as problem:
        return Part(tuple(group), problem=problem)


def _stack(group: Sequence[Header], options: ReadOptions) -> Stack:
    left_out: list[Skipped] = []
    kept = _without_copies(_without_localisers(group, left_out), left_out)
    for header in kept:
        if header.fault is not None:
            raise header.fault
    kept = [part for header in kept for part in frames_of(header)]
    _check_alike(kept)
    kept, repairs = prepare_slices(kept, options)
    kept = _main_orientation(kept, left_out)
    decisions = [f"{s.file}: {s.reason}" for s in left_out] + repairs
    return regular_stack(kept, left_out, options=options, decisions=decisions)


def _by_series(headers: Sequence[Header]) -> list[list[Header]]:
    """Headers by series, in order of their first file; a file whose series is unknown joins the only other one."""
    groups: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        groups[header.series_uid].append(header)
    unknown = groups.pop("", [])
    images = list(groups.values())
    if unknown and len(images) == 1:
        return [images[0] + unknown]
    return [*images, unknown] if unknown else images


def _without_localisers(headers: Sequence[Header], left_out: list[Skipped]) -> list[Header]:
    kept = [h for h in headers if "LOCALIZER" not in h.image_type]
    if not kept:
        return list(headers)
    left_out += [Skipped(h.name, "a localiser") for h in headers if "LOCALIZER" in h.image_type]
    return kept


def _without_copies(headers: Sequence[Header], left_out: list[Skipped]) -> list[Header]:
    kept: dict[str, Header] = {}
    for header in headers:
        first = kept.setdefault(header.sop_uid or str(header.file), header)
        if first is header:
            continue
        if sha256(first.file) != sha256(header.file):
            raise InputError(
                "E-DUPPOS",
                f"{first.name} and {header.name} claim to be the same image and differ",
                mend="Keep the right one.",
                attribute="SOPInstanceUID",
            )
        left_out.append(Skipped(header.name, f"an identical copy of {first.name}"))
    return list(kept.values())


def _check_alike(headers: Sequence[Header]) -> None:
    """Refuse a series whose slices differ in what makes them one scan."""
    rules: tuple[tuple[str, str, Callable[[Header], Hashable]], ...] = (
        ("E-MIXMODALITY", "Modality", lambda h: (h.modality, h.sop_class)),
        ("E-FOR", "FrameOfReferenceUID", lambda h: h.frame_uid),
        ("E-SHAPE", "Rows, Columns", lambda h: h.shape),
        ("E-MIXPHOTOMETRIC", "PhotometricInterpretation", lambda h: h.photometric),
        ("E-MIXUNITS", "Units, RescaleType", lambda h: h.units),
    )
    for code, attribute, key in rules:
        groups: dict[Hashable, list[Header]] = defaultdict(list)
        for header in headers:
            groups[key(header)].append(header)
        if len(groups) > 1:
            parts = sorted(groups.values(), key=len, reverse=True)
            found = f"{len(parts)} kinds: " + ", ".join(f"{len(p)} images like {p[0].name}" for p in parts[:4])
            raise InputError(code, found, wanted="one kind", mend="Separate the kinds.", attribute=attribute)


def _main_orientation(headers: Sequence[Header], left_out: list[Skipped]) -> list[Header]:
    """The slices of the one orientation that forms a stack; single images of another are set aside."""
    groups: list[list[Header]] = []
    for header in headers:
        near = [g for g in groups if _same_orientation(g[0], header)]
        near[0].append(header) if near else groups.append([header])
    stacks = [g for g in groups if len(g) > 1]
    if len(groups) > 1 and len(stacks) != 1:
        found = f"{len(groups)} slice orientations: " + ", ".join(f"{len(g)} like {g[0].name}" for g in groups[:4])
        mend = "Put each orientation into a folder of its own."
        raise InputError("E-ORIENTATION", found, wanted="one", mend=mend, attribute="ImageOrientationPatient")
    main = stacks[0] if stacks else groups[0]
    left_out += [Skipped(h.name, "a single image of another orientation") for g in groups if g is not main for h in g]
    sizes = np.array([h.spacing_mm for h in main])
    if (np.ptp(sizes, axis=0) > _TOLERANCE * sizes.min(axis=0)).any():
        kinds = Counter(h.spacing_mm for h in main).most_common(4)
        found = f"{len(kinds)} pixel spacings: " + ", ".join(f"{s} mm in {n} images" for s, n in kinds)
        raise InputError("E-MIXSPACING", found, wanted="one", mend=_RESEND, attribute="PixelSpacing")
    return main


def _same_orientation(one: Header, other: Header) -> bool:
    apart = np.subtract(one.orientation or (), other.orientation or ())
    return bool(np.abs(apart).max() <= _TOLERANCE)
