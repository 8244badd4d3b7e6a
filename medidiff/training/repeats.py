"""The same scan under several names: it counts once, and it must not stand on both sides of a split.

A prior learns by heart what it sees twenty times as often as all else, and a score on scans that it was trained on says
nothing. Scans are the same when they are so voxel for voxel, as prepared: names, compression and headers do not matter.
Heads of a coarse prior are the same when their voxels are so as read, in the same place, whatever resampling and a
classifier make of them. Two different scans of one person, or one whose voxels were stored in another order, resampled
or scaled anew, are not found here; the index of the copy gate tells how many people it counts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from medidiff.errors import SettingsError
from medidiff.training.coarse_recipe import HeadsRecipe
from medidiff.training.recipe import DataRecipe
from medidiff.training.slabs import Slab, read_slab

__all__ = ["once", "refuse_overlaps", "refuse_shared"]

T = TypeVar("T")
_WANTED = "each person in one part"
_MEND = "List each person, with all of its scans, under one part of the file of subjects."


def once(scans: Iterable[T], sha256: Callable[[T], str]) -> list[T]:
    """The scans without those that are the same as an earlier one.

    Args:
        scans: in any form.
        sha256: of the voxels of one.

    Example:
        >>> once(["a", "b", "a"], str)
        ['a', 'b']
    """
    first: dict[str, T] = {}
    for scan in scans:
        first.setdefault(sha256(scan), scan)
    return list(first.values())


def refuse_shared(trained: Iterable[str], watched: Iterable[str], data: DataRecipe | HeadsRecipe) -> None:
    """Refuse scans that serve training and validation, whatever they are called.

    A recipe with a source without a split is watched on what it trains on, on purpose.

    Args:
        trained: SHA-256 of the voxels of each training scan.
        watched: likewise, of those that the run is watched on.
        data: where the recipe says that they are.

    Raises:
        SettingsError: ``E-SHARED``.
    """
    shared = len(set(trained) & set(watched))
    if shared and all(source.split for source in data.sources):
        found = f"{shared} scans under 'train' are also under 'validation', voxel for voxel"
        raise SettingsError("E-SHARED", found, wanted=_WANTED, mend=_MEND, file=data.split)


def refuse_overlaps(table: Mapping[str, Sequence[str]], *, name: str, file: str) -> None:
    """Refuse a table of subjects that names the same slices of one subject in two parts.

    Args:
        table: entries by part.
        name: of the table, for the message.
        file: that holds it, for the message.

    Raises:
        SettingsError: ``E-SHARED``; ``E-SPLIT``, an entry names no slices.
    """
    parts = {part: [read_slab(entry) for entry in entries] for part, entries in table.items()}
    for (one, ours), (other, theirs) in itertools.combinations(parts.items(), 2):
        held: dict[str, list[Slab]] = {}
        for slab in theirs:
            held.setdefault(slab.subject, []).append(slab)
        shared = sum(any(_overlap(slab, each) for each in held.get(slab.subject, ())) for slab in ours)
        if shared:
            found = f"{shared} subjects under both '{one[:20]}' and '{other[:20]}'"
            raise SettingsError("E-SHARED", found, wanted=_WANTED, mend=_MEND, file=file, attribute=name[:80])


def _overlap(one: Slab, other: Slab) -> bool:
    begins, ends = max(one.first, other.first), [slab.end for slab in (one, other) if slab.end is not None]
    return not ends or begins < min(ends)
