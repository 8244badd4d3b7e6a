"""Several volumes in one series: images at the same places, told apart by what their headers say.

A series is split only where nothing has to be guessed:

* every volume has exactly one image at each place;
* what tells them apart is one attribute, or one after the other (echo, then magnitude and phase): a *label* whose value
  is the same throughout a volume, or a *clock* whose values in one volume all come before those in the next;
* where two labels would make different volumes, neither is believed;
* images of different kinds (`_KINDS`), several of each, are never one volume, though they lie at different places.

Anything else is refused: ``E-GAP`` where a volume lacks an image, ``E-DUPPOS`` where a few places hold too many, and
``E-4D`` where nothing tells the volumes apart.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.io.contents import TOLD_APART
from medidiff.io.dicom.headers.header import Header
from medidiff.io.dicom.privacy.vocabulary import technical

__all__ = ["VolumeOf", "normal_of", "places_of", "volumes_of"]

_SAME_PLACE_MM = 0.01
_CLOCKS = (
    "TemporalPositionTimeOffset",
    "FrameReferenceTime",
    "TriggerTime",
    "NominalCardiacTriggerDelayTime",
    "FrameAcquisitionDateTime",
    "FrameReferenceDateTime",
    "AcquisitionTime",
    "ContentTime",
)
_KINDS = (  # that no slice-wise acquisition changes on the way; a time or a number of an acquisition may
    "ComplexImageComponent",
    "EchoNumbers",
    "EchoTime",
    "EffectiveEchoTime",
    "DiffusionBValue",
    "private b-value",
    "private image kind",
    "ConvolutionKernel",
)
_ECHOES = 1.5  # times as late is another echo
_FILE = "the file they stand in"
_ATTRIBUTE = "ImagePositionPatient"


@dataclass(frozen=True, slots=True)
class VolumeOf:
    """One volume of a series.

    Args:
        headers: its images, one at each place.
        label: names and values of what tells it from the others; empty when it is the only one.
    """

    headers: tuple[Header, ...]
    label: tuple[tuple[str, str], ...] = ()

    def sentence(self, count: int) -> str:
        """How it was told from the others, for the record.

        Args:
            count: of volumes in the series.
        """
        parts = [f"{name} {shown}" if (shown := _shown(name, value)) else name for name, value in self.label]
        return f"one of {count} volumes at the same places, {TOLD_APART}{' and '.join(parts)}"


def normal_of(header: Header) -> NDArray[np.float64]:
    """(3,) unit vector across an image whose orientation is known, in LPS."""
    row, column = np.reshape(np.asarray(header.orientation, dtype=np.float64), (2, 3))
    normal = np.cross(row, column)
    return np.asarray(normal / np.linalg.norm(normal))


def places_of(headers: Sequence[Header]) -> list[int]:
    """Which place along the normal each image lies at, counted from 0."""
    along = np.array([h.position_mm for h in headers], dtype=np.float64) @ normal_of(headers[0])
    order = np.argsort(along, kind="stable")
    numbers = np.empty(len(headers), dtype=np.intp)
    numbers[order] = np.cumsum(np.diff(along[order], prepend=along[order[0]]) >= _SAME_PLACE_MM)
    return [int(number) for number in numbers]


def volumes_of(headers: Sequence[Header]) -> list[VolumeOf]:
    """The volumes of images of one kind and orientation, in the order of their labels.

    Args:
        headers: with orientation and position.

    Raises:
        InputError: ``E-4D``, ``E-DUPPOS`` or ``E-GAP``, as told above.
    """
    images = list(zip(headers, places_of(headers), strict=True))
    counts = Counter(place for _, place in images)
    if max(counts.values()) == 1:
        _refuse_mixed(images)
        return [VolumeOf(tuple(headers))]
    if len(set(counts.values())) > 1:
        raise _uneven(images, counts)
    if len(counts) == 1:
        raise _same_place(images, counts)
    found = _told_apart(images)
    if found is None:
        count = max(counts.values())
        text = f"{count} images at each of {len(counts)} positions, and no attribute that tells {count} volumes apart"
        mend = "Put each volume into a folder of its own."
        raise InputError("E-4D", text, wanted="one volume", mend=mend, file=headers[0].file.name, attribute=_ATTRIBUTE)
    return found


_Images = Sequence[tuple[Header, int]]


def _refuse_mixed(images: _Images) -> None:
    """Refuse a volume of which some slices are of one kind and some of another, as of two interleaved stacks."""
    for name, groups in _labels(images):
        sizes = [len(group) for group in groups.values()]
        if name in _KINDS and len(sizes) > 1 and min(sizes) > 1 and not _is_jitter(name, groups):
            first = next(iter(groups.values()))[0][0]
            parts = ", ".join(f"{len(g)} like {g[0][0].name}" for g in list(groups.values())[:4])
            found = f"{len(sizes)} kinds of images at different positions, which differ in {name}: {parts}"
            mend = "Put each kind into a folder of its own."
            raise InputError("E-4D", found, wanted="one kind", mend=mend, file=first.file.name, attribute=name)


def _is_jitter(name: str, values: Iterable[str]) -> bool:
    """Whether echo times differ as they may from slice to slice of one scan, and less than from echo to echo."""
    times = [float(value) for value in values if re.fullmatch(r"\d+(\.\d+)?", value)]
    return name.endswith("EchoTime") and (not times or max(times) < _ECHOES * min(times))


def _told_apart(images: _Images) -> list[VolumeOf] | None:
    """The volumes of images that lie in equal number at each place; None when nothing tells them apart."""
    if len(images) == len({place for _, place in images}):
        return [VolumeOf(tuple(header for header, _ in images))]
    splits = [(name, groups) for name, groups in _labels(images) if len(groups) > 1 and _even(groups, images)]
    whole = [(name, groups) for name, groups in splits if len(groups) == _times(images)]
    if len({frozenset(frozenset(map(id, _headers(g))) for g in groups.values()) for _, groups in whole}) > 1:
        names = " and ".join(name for name, _ in whole[:3])
        found, mend = f"{names} tell the volumes apart in different ways", "Put each volume into a folder of its own."
        raise InputError("E-4D", found, wanted="one way", mend=mend, file=images[0][0].file.name)
    for name, groups in (*whole, *splits, *_clocks(images)):
        parts = {value: _told_apart(group) for value, group in groups.items()}
        if all(part is not None for part in parts.values()):
            return [
                VolumeOf(volume.headers, ((name, value), *volume.label))
                for value in sorted(parts, key=_order)
                for volume in parts[value] or ()
            ]
    return None


def _headers(group: _Images) -> Iterator[Header]:
    return (header for header, _ in group)


def _times(images: _Images) -> int:
    return len(images) // len({place for _, place in images})


def _even(groups: Mapping[str, _Images], images: _Images) -> bool:
    """Whether every group covers all places, each equally often."""
    places = {place for _, place in images}
    for group in groups.values():
        counts = Counter(place for _, place in group)
        if counts.keys() != places or len(set(counts.values())) > 1:
            return False
    return True


def _labels(images: _Images) -> Iterator[tuple[str, dict[str, list[tuple[Header, int]]]]]:
    """Every label and the images by its value, the surest first."""
    clocks = [dict(header.clock) for header, _ in images]
    for name in dict.fromkeys(name for clock in clocks for name in clock if name not in _CLOCKS):
        yield name, _grouped(images, [_plain(clock.get(name, "")) for clock in clocks])
    if any(header.frame is not None or header.tile is not None for header, _ in images):
        numbers = {header.sop_uid: header.number for header, _ in images}
        counted = None not in numbers.values() and len(set(numbers.values())) == len(numbers)
        yield _FILE, _grouped(images, [str(h.number) if counted else h.sop_uid for h in _headers(images)])


def _grouped(images: _Images, values: Sequence[str]) -> dict[str, list[tuple[Header, int]]]:
    groups: dict[str, list[tuple[Header, int]]] = defaultdict(list)
    for image, value in zip(images, values, strict=True):
        groups[value].append(image)
    return groups


def _clocks(images: _Images) -> Iterator[tuple[str, dict[str, list[tuple[Header, int]]]]]:
    """Every clock that puts the images of each place in one order, all of one volume before all of the next."""
    times = _times(images)
    for name in _CLOCKS:
        read = [_time(dict(header.clock).get(name, "")) for header, _ in images]
        if None in read:
            continue
        by_place: dict[int, list[tuple[Decimal, int]]] = defaultdict(list)
        for number, ((_, place), time) in enumerate(zip(images, read, strict=True)):
            by_place[place].append((time or Decimal(0), number))
        ranked = [sorted(found) for found in by_place.values()]
        volumes = [[found[k] for found in ranked] for k in range(times)]
        if all(max(one)[0] < min(two)[0] for one, two in pairwise(volumes)):
            yield name, {str(k + 1): [images[number] for _, number in volume] for k, volume in enumerate(volumes)}


def _time(text: str) -> Decimal | None:
    found = re.match(r"\d+(\.\d+)?", text)
    return Decimal(found.group()) if found and len(text) < 40 else None


def _plain(value: str) -> str:
    """A value so that equal numbers are equal texts."""
    try:
        return "\\".join(f"{float(part):.6g}" for part in value.split("\\"))
    except ValueError:
        return value.strip()


def _order(value: str) -> tuple[int, tuple[float, ...], str]:
    """Numbers in their order, before texts in theirs."""
    try:
        numbers = tuple(float(part) for part in value.split("\\"))
    except ValueError:
        return 1, (), value
    return (0, numbers, value) if all(map(math.isfinite, numbers)) else (1, (), value)


def _shown(name: str, value: str) -> str:
    """A value that may be written down: numbers and words for kinds of image, never a time, a UID or free text."""
    if name == _FILE or (name in _CLOCKS and not value.isdigit()):
        return ""
    if re.fullmatch(r"[-+.\de\\]{1,24}", value):
        return value.replace("\\", " ")
    text = value.replace("\\", " ").strip()
    return text if text and technical(text) else ""


def _uneven(images: _Images, counts: Mapping[int, int]) -> InputError:
    """Some places hold more images than others: a volume that is not whole, or a few images too many."""
    usual = Counter(counts.values()).most_common(1)[0][0]
    if usual == 1:
        return _same_place(images, counts)
    places, full = set(counts), max(counts.values())
    for name, groups in _labels(images):
        if len(groups) == full and all(len(group) == len({place for _, place in group}) for group in groups.values()):
            value, group = min(groups.items(), key=lambda item: len(item[1]))
            lost = min(places - {place for _, place in group})
            beside = next(header for header, place in images if place == lost)
            shown = f" ({name} {text})" if (text := _shown(name, value)) else f" by {name}"
            found = f"{full} volumes at {len(places)} positions, and one of them{shown} has images at {len(group)} only"
            found += f"; the first that it lacks is at the position of {beside.name}"
            mend = "Fetch the missing images from the archive, or put each volume into a folder of its own."
            return InputError("E-GAP", found, wanted="whole volumes", mend=mend, attribute=_ATTRIBUTE)
    sizes = ", ".join(f"{n} at {k}" for n, k in sorted(Counter(counts.values()).items()))
    found, mend = f"images at each position: {sizes} positions", "Put each volume into a folder of its own."
    return InputError("E-4D", found, wanted="equally many", mend=mend, file=images[0][0].file.name)


def _same_place(images: _Images, counts: Mapping[int, int]) -> InputError:
    crowded = [place for place, count in sorted(counts.items()) if count > 1]
    pair = [header for header, place in images if place == crowded[0]][:2]
    one, two = (dict(header.clock) for header in pair)
    differing = [name for name in one if one[name] != two.get(name, "")]
    found = f"{pair[0].name} and {pair[1].name} lie at the same position"
    if len(crowded) > 1:
        found += f", as do images at {len(crowded) - 1} more positions"
    if differing:
        found += f"; they differ in {', '.join(differing[:3])}"
    mend = "Keep one of the two, or put each acquisition into a folder of its own."
    if pair[0].file == pair[1].file:
        mend = "Export the series again with one frame at each place."
    return InputError("E-DUPPOS", found, wanted="one slice a place", mend=mend, attribute=_ATTRIBUTE)
