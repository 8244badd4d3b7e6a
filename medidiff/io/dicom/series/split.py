"""From the DICOM headers of a folder to the scans it holds: which files belong together, and which to none of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medidiff.errors import InputError
from medidiff.io.contents import Skipped
from medidiff.io.dicom.headers.frames import frames_of
from medidiff.io.dicom.headers.header import Header, scan
from medidiff.io.dicom.series.slices import prepare_slices
from medidiff.io.dicom.series.stack import Stack, regular_stack
from medidiff.io.dicom.series.volumes import VolumeOf, normal_of, places_of, volumes_of
from medidiff.io.files.atomic import sha256
from medidiff.io.files.walk import Gathered, gather
from medidiff.io.options import ReadOptions

__all__ = ["Part", "find_stack", "split"]

_SCOUT_DEGREES = 5.0  # a localiser is turned by more against the stack
_NEAR = 3.5  # steps beyond the ends of a stack that a slice of it may lie, others between them being lost
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


def find_stack(path: Path, options: ReadOptions | None = None) -> tuple[Stack, Gathered]:
    """The one scan that a path holds, or the one that the options name; and what keeps its files in being.

    Raises:
        InputError: there is none, there are several, or it is not a regular stack.
    """
    options = options or ReadOptions()
    gathered = gather(path)
    headers, skipped = scan(gathered.files)
    parts, _ = split(headers, options)
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
    return parts[max(options.scan, 1) - 1].stacked(), gathered


def _describe(group: Sequence[Header]) -> str:
    first = group[0]
    return f"{first.modality} {first.shape[0]}x{first.shape[1]}, {len(group)} files from {first.name}"


def split(headers: Sequence[Header], options: ReadOptions | None = None) -> tuple[list[Part], list[Skipped]]:
    """Every scan that some headers make up, in a stable order; one that cannot be read carries its problem.

    Returns:
        The scans, and the files that belong to none of them.
    """
    parts, left_out = [], []
    for group in _by_series(headers):
        found, aside = _series(group, options or ReadOptions())
        parts += found
        left_out += aside
    return parts, left_out


def _series(group: Sequence[Header], options: ReadOptions) -> tuple[list[Part], list[Skipped]]:
    left_out: list[Skipped] = []
    try:
        images = _images(_without_copies(_without_localisers(group, left_out), left_out))
        _check_alike(images, _SERIES_RULES)
        images, repairs = prepare_slices(images, options)
        stacks = _stacks(images, left_out)
    except InputError as problem:
        return [Part(tuple(group), problem=problem)], []
    decisions = [f"{s.file}: {s.reason}" for s in left_out] + repairs
    if len(stacks) > 1:
        decisions.append(f"one of {len(stacks)} stacks of its series, which differ in orientation or StackID")
    return [part for stack in stacks for part in _parts(stack, left_out, options, decisions)], left_out


def _parts(
    headers: Sequence[Header], left_out: Sequence[Skipped], options: ReadOptions, decisions: Sequence[str]
) -> Iterator[Part]:
    """The volumes of one stack, each held to the rules of a regular one."""
    try:
        _check_alike(headers, _STACK_RULES)
        _check_pixel_spacing(headers)
        placed = all(header.position_mm is not None for header in headers)
        volumes = volumes_of(headers) if placed and len(headers) > 1 else [VolumeOf(tuple(headers))]
    except InputError as problem:
        yield Part(tuple(headers), problem=problem)
        return
    for volume in volumes:
        said = [*decisions, volume.sentence(len(volumes))] if volume.label else list(decisions)
        try:
            yield Part(volume.headers, regular_stack(volume.headers, left_out, options=options, decisions=said))
        except InputError as problem:
            yield Part(volume.headers, problem=problem)


def _images(headers: Sequence[Header]) -> list[Header]:
    """Classic images and frames; the first fault of any of them is raised."""
    for header in headers:
        if header.fault is not None:
            raise header.fault
    _check_concatenations(headers)
    return [part for header in headers for part in frames_of(header)]


def _check_concatenations(headers: Sequence[Header]) -> None:
    """Refuse a multi-frame image of which a part is missing."""
    groups: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        if header.parts is not None:
            groups[header.parts[0]].append(header)
    for group in groups.values():
        numbers = {header.parts[1] for header in group if header.parts}
        total = max(max(header.parts[2] for header in group if header.parts), *numbers, 1)
        lost = sorted(set(range(1, total + 1)) - numbers)
        if lost:
            found, wanted = f"part {lost[0]} of {total} of a multi-frame image is missing", f"{total} files"
            raise InputError("E-GAP", found, wanted=wanted, mend=_RESEND, file=group[0].file.name)


def _by_series(headers: Sequence[Header]) -> list[list[Header]]:
    """Headers by series, in order of their first file.

    A file too damaged to tell its series may belong to any series of its folder, so it is held against each of them;
    left aside, it would make one of them shorter without a word.
    """
    groups: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        groups[header.series_uid].append(header)
    unknown, series = groups.pop("", []), list(groups.values())
    if unknown and not series:
        return [unknown]
    homes = [{header.file.parent for header in group} for group in series]
    for header in unknown:
        near = [group for group, folders in zip(series, homes, strict=True) if header.file.parent in folders]
        for group in near or series:
            group.append(header)
    return series


def _without_localisers(headers: Sequence[Header], left_out: list[Skipped]) -> list[Header]:
    """All images but localisers; one that looks like the others in every other respect is a slice, whatever it says."""
    slices = [h for h in headers if "LOCALIZER" not in h.image_type]
    if not slices:
        return list(headers)
    looks = {_look(h) for h in slices} - {None}
    aside = [h for h in headers if "LOCALIZER" in h.image_type and _look(h) not in looks]
    left_out += [Skipped(h.name, "a localiser") for h in aside]
    files = {h.file for h in aside}
    return [h for h in headers if h.file not in files]


def _look(header: Header) -> Hashable:
    """Matrix, pixel size and orientation; None when it has none of its own."""
    if header.orientation is None or header.spacing_mm is None:
        return None
    return (
        header.shape,
        (np.round(header.spacing_mm, 3) + 0.0).tobytes(),
        (np.round(header.orientation, 3) + 0.0).tobytes(),
    )


def _without_copies(headers: Sequence[Header], left_out: list[Skipped]) -> list[Header]:
    kept: dict[str, Header] = {}
    for header in headers:
        first = kept.setdefault(header.sop_uid or str(header.file), header)
        if first is header:
            continue
        if sha256(first.file) == sha256(header.file):
            left_out.append(Skipped(header.name, f"an identical copy of {first.name}"))
        elif _same_image(first, header):
            left_out.append(Skipped(header.name, f"the image of {first.name} again, with other remarks in its header"))
        else:
            raise InputError(
                "E-DUPPOS",
                f"{first.name} and {header.name} claim to be the same image and differ",
                wanted="one file for an image",
                mend="Keep the right one; if both are needed, export the series again, with a UID for each image.",
                attribute="SOPInstanceUID",
            )
    return list(kept.values())


def _same_image(one: Header, two: Header) -> bool:
    """Whether two files hold the same pixels at the same place, by the same rules."""
    if one.stored is None or two.stored is None or one.syntax == DeflatedExplicitVRLittleEndian or one.fault:
        return False
    if replace(two, file=one.file, size=one.size, stored=one.stored) != one or one.stored[1] != two.stored[1]:
        return False
    return _pixel_bytes(one.file, one.stored) == _pixel_bytes(two.file, two.stored)


def _pixel_bytes(file: Path, stored: tuple[int, int]) -> bytes:
    with file.open("rb") as stream:
        stream.seek(stored[0])
        return stream.read(stored[1])


_Rules = tuple[tuple[str, str, Callable[[Header], Hashable]], ...]
_SERIES_RULES: _Rules = (
    ("E-MIXMODALITY", "Modality", lambda h: (h.modality, h.sop_class)),
    ("E-FOR", "FrameOfReferenceUID", lambda h: h.frame_uid),
)
_STACK_RULES: _Rules = (
    ("E-SHAPE", "Rows, Columns", lambda h: h.shape),
    ("E-MIXPHOTOMETRIC", "PhotometricInterpretation", lambda h: h.photometric),
    ("E-MIXUNITS", "Units, RescaleType", lambda h: h.units),
)


_KINDS = {
    "E-MIXMODALITY": "kinds of images",
    "E-FOR": "coordinate systems (frames of reference)",
    "E-SHAPE": "image sizes",
    "E-MIXPHOTOMETRIC": "meanings of bright and dark",
    "E-MIXUNITS": "units of the values",
}


def _check_alike(headers: Sequence[Header], rules: _Rules) -> None:
    """Refuse images that differ in what makes them one scan."""
    for code, attribute, key in rules:
        groups: dict[Hashable, list[Header]] = defaultdict(list)
        for header in headers:
            groups[key(header)].append(header)
        if len(groups) > 1:
            parts = sorted(groups.values(), key=len, reverse=True)
            found = f"{len(parts)} {_KINDS[code]} in one series: " + ", ".join(_like(p, code) for p in parts[:4])
            mend = "Put the images of each into a folder of its own, or send the series again from the archive."
            raise InputError(code, found, wanted="the same in all images", mend=mend, attribute=attribute)


def _like(headers: Sequence[Header], code: str) -> str:
    first = headers[0]
    kind = f" of {first.shape[0]} x {first.shape[1]} pixels" if code == "E-SHAPE" else ""
    kind = f" {first.modality}" if code == "E-MIXMODALITY" and first.modality in ("CT", "MR", "PT") else kind
    count = f"{len(headers)} images" if len(headers) > 1 else "1 image"
    return f"{count}{kind} like {first.name}" if len(headers) > 1 else f"{count}{kind}, {first.name}"


def _check_pixel_spacing(headers: Sequence[Header]) -> None:
    sizes = np.array([h.spacing_mm for h in headers])
    if (np.ptp(sizes, axis=0) > _TOLERANCE * sizes.min(axis=0)).any():
        kinds = Counter(h.spacing_mm or () for h in headers).most_common(4)
        first = {kind: next(h.name for h in headers if h.spacing_mm == kind) for kind, _ in kinds}
        listed = ", ".join(
            f"{' x '.join(f'{v:g}' for v in s)} mm in {f'{n} images like' if n > 1 else '1 image,'} {first[s]}"
            for s, n in kinds
        )
        found = f"{len(kinds)} pixel sizes: {listed}"
        mend = "Put each size into a folder of its own, or send the series again from the archive."
        raise InputError("E-MIXSPACING", found, wanted="one", mend=mend, attribute="PixelSpacing")


def _stacks(headers: Sequence[Header], left_out: list[Skipped]) -> list[list[Header]]:
    """Images by orientation and StackID; a single place of another orientation is set aside."""
    groups: list[list[Header]] = []
    for header in headers:
        near = [g for g in groups if _same_orientation(g[0], header)]
        near[0].append(header) if near else groups.append([header])
    if len(groups) == 1 or any(h.position_mm is None for h in headers):
        return _by_stack(groups[0]) if len(groups) == 1 else groups
    stacks = [g for g in groups if max(places_of(g)) > 0]
    lone = [h for g in groups if max(places_of(g)) == 0 for h in g]
    if not stacks:
        found, mend = (
            f"{len(headers)} images of {len(groups)} orientations",
            "Give the whole series, not single slices.",
        )
        raise InputError("E-2D", found, wanted="parallel slices", mend=mend, file=headers[0].name)
    for header in lone:
        for stack in stacks:
            _refuse_turned(header, stack)
        left_out.append(Skipped(header.name, "a single image of another orientation"))
    return [part for stack in stacks for part in _by_stack(stack)]


def _same_orientation(one: Header, other: Header) -> bool:
    apart = np.subtract(one.orientation or (), other.orientation or ())
    return bool(np.abs(apart).max() <= _TOLERANCE)


def _by_stack(headers: list[Header]) -> list[list[Header]]:
    """Frames by their StackID, where that makes stacks and not single places."""
    groups: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        groups[header.stack].append(header)
    whole = len(groups) > 1 and all(g[0].position_mm is not None and max(places_of(g)) > 0 for g in groups.values())
    return list(groups.values()) if whole else [headers]


def _refuse_turned(header: Header, stack: Sequence[Header]) -> None:
    """Refuse to set aside what looks like a slice of the stack: hardly turned, or where its next slice would be."""
    first = stack[0]
    one, two = (np.reshape(np.asarray(h.orientation, dtype=np.float64), (2, 3)) for h in (header, first))
    turned = np.arctan2(np.linalg.norm(np.cross(one, two), axis=1), (one * two).sum(axis=1))  # true for small ones too
    angle = float(np.degrees(turned.max()))
    positions = np.array([h.position_mm for h in stack], dtype=np.float64)
    positions = positions[np.argsort(positions @ normal_of(first))]
    steps = np.diff(positions, axis=0)
    step = np.median(steps[np.linalg.norm(steps, axis=1) > 0.01], axis=0)
    away = np.asarray(header.position_mm) - positions[0]
    number = float(away @ step / (step @ step))
    off = np.linalg.norm(away - number * step)  # of the line of the slices, whichever of them may be missing too
    free = np.linalg.norm(positions - np.asarray(header.position_mm), axis=1).min() > 0.05 * np.linalg.norm(step)
    last = float((positions[-1] - positions[0]) @ step / (step @ step))
    follows = bool(free and off < 0.05 * np.linalg.norm(step) and -_NEAR < number < last + _NEAR)
    if angle > _SCOUT_DEGREES and not follows:
        return
    raise InputError(
        "E-ORIENTATION",
        f"turned by {angle:.3g} degrees against the {len(stack)} images like {first.name}, where a slice would lie",
        wanted="one orientation, or a localiser away from the stack",
        mend="Fetch the image again from the archive, or move it away if it is no part of the scan.",
        file=header.name,
        attribute="ImageOrientationPatient",
    )
