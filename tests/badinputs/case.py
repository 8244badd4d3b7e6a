"""One bad input and the law it stands for: read right, or refused with the right words; never anything else."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import medidiff.io as mio
from medidiff.errors import MedidiffError
from medidiff.volume import Geometry, Volume

WEIGHTS = np.array([3.0, 41.0, 353.0])
SECRETS = ("SECRET", "ID-4711", "19010203", "free text", "1.2.826", "ACC1")


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What the voxels of a case are: ``3 i + 41 j + 353 k + bias`` on a grid.

    Args:
        grid: where the ramp is defined; a reader may return any grid, its voxels are compared where it puts them.
        bias: what is added.
        weights: of i, j and k.
        within: how far a voxel may be from the ramp.
        padding: number of voxels that hold a padding value; None to leave that open.
        filled: number of slices that a repair made up; None to leave that open.
        size: voxels that the volume must have; None to leave that open.
        units: unit of the values; None to leave that open.
    """

    grid: Geometry
    bias: float = 0.0
    weights: tuple[float, float, float] = (3.0, 41.0, 353.0)
    within: float = 1e-3
    padding: int | None = 0
    filled: int | None = 0
    size: tuple[int, int, int] | None = None
    units: str | None = None

    def expected(self, geometry: Geometry) -> np.ndarray:
        """(I, J, K) right values on the grid of a reader."""
        places = geometry.world(np.moveaxis(np.indices(geometry.shape), 0, -1))
        return self.grid.index(places) @ np.array(self.weights) + self.bias


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One input.

    Args:
        name: what it is.
        make: writes it into an empty folder, and returns the path to read.
        truth: of the scan; of each scan in any order when there are several; empty when it must be refused.
        code: with which it must be refused by default, alternatives separated by ``|``; empty when it must be read.
        options: the named options with which it must be read nevertheless.
        says: what the message must name.
        skipped: names of files that must be skipped with a reason.
    """

    name: str
    make: Callable[[Path], Path]
    truth: tuple[Truth, ...] = ()
    code: str = ""
    options: mio.ReadOptions | None = None
    says: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


def ramp_error(volume: Volume, truth: Truth) -> float:
    """Largest difference between the measured or filled voxels and the ramp at the places they are said to have."""
    counts = np.ones(volume.shape, bool) if volume.padding is None else ~volume.padding
    return float(np.abs(volume.data[0] - truth.expected(volume.geometry))[counts].max())


def judge(case: Case, path: Path) -> str:
    """What is wrong with how medidiff deals with a case; empty when nothing is."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        faults = [*_default(case, path), *_with_option(case, path), *_account(case, path)]
    faults += [f"warned: {warning.message}" for warning in heard]
    return "; ".join(faults)


def _default(case: Case, path: Path) -> Iterator[str]:
    if case.code:
        yield from _refusal(case, path)
    elif len(case.truth) > 1:
        yield from _several(case, path)
    else:
        try:
            yield from _volume(mio.read(path), case.truth[0])
        except MedidiffError as refusal:
            yield f"refused: {refusal}"


def _refusal(case: Case, path: Path) -> Iterator[str]:
    try:
        scan = mio.read(path)
    except MedidiffError as refusal:
        message = str(refusal)
        if refusal.code not in case.code.split("|"):
            yield f"refused with another code: {message}"
        yield from (f"does not say {part!r}: {message}" for part in case.says if part not in message)
        yield from (f"leaks {part!r}: {message}" for part in SECRETS if part in message)
        if not refusal.mend:
            yield f"no mend: {message}"
    else:
        yield f"read as {scan!r} and not refused with {case.code}"


def _several(case: Case, path: Path) -> Iterator[str]:
    """Several scans: a plain read refuses to choose, and each can be read by its number."""
    try:
        mio.read(path)
        yield "one of several scans was chosen silently"
    except MedidiffError as refusal:
        if refusal.code != "E-MULTISERIES":
            yield f"refused: {refusal}"
            return
    found, left = mio.find(path), list(case.truth)
    if len(found.scans) != len(left):
        yield f"{len(found.scans)} scans, not {len(left)}: {[scan.summary.label for scan in found.scans]}"
        return
    for number in range(1, len(left) + 1):
        try:
            volume = mio.read(path, mio.ReadOptions(scan=number))
        except MedidiffError as refusal:
            yield f"scan {number} refused: {refusal}"
            continue
        faults = [list(_volume(volume, truth)) for truth in left]
        if [] in faults:
            left.pop(faults.index([]))
        else:
            yield f"scan {number} fits no truth: {min(faults, key=len)}"


def _with_option(case: Case, path: Path) -> Iterator[str]:
    if case.options is None:
        return
    try:
        reading = mio.read_scan(path, case.options)
    except MedidiffError as refusal:
        yield f"refused with its option: {refusal}"
        return
    if not reading.decisions:
        yield "the repair left no decision"
    yield from (f"decision leaks {part!r}" for part in SECRETS if part in " ".join(reading.decisions))
    yield from _volume(reading.volume, case.truth[0])


def _volume(volume: Volume, truth: Truth) -> Iterator[str]:
    if (worst := ramp_error(volume, truth)) > truth.within:
        yield f"SILENTLY WRONG by {worst:.6g}: {volume!r}"
    padded = 0 if volume.padding is None else int(volume.padding.sum())
    if truth.padding is not None and padded != truth.padding:
        yield f"{padded} padding voxels, not {truth.padding}"
    made = 0 if volume.filled is None else int(volume.filled.sum())
    if truth.filled is not None and made != truth.filled * volume.shape[0] * volume.shape[1]:
        yield f"{made} voxels marked as filled, not {truth.filled} slices"
    if truth.size is not None and sorted(volume.shape) != sorted(truth.size):
        yield f"shape {volume.shape}, not {truth.size}"
    if truth.units is not None and volume.units != truth.units:
        yield f"unit {volume.units!r}, not {truth.units!r}"


def _account(case: Case, path: Path) -> Iterator[str]:
    """Each file that is there belongs to a scan or was skipped, once; nothing tells of the patient."""
    try:
        found = mio.find(path)
    except MedidiffError as refusal:
        if not case.code:
            yield f"not found: {refusal}"
        return
    shown = str([scan.summary for scan in found.scans]) + str(found.skipped)
    yield from (f"the listing leaks {part!r}" for part in SECRETS if part in shown)
    for name in case.skipped:
        if [bool(entry.reason) for entry in found.skipped if entry.file == name] != [True]:
            yield f"{name} is not skipped once with a reason: {found.skipped}"
    seen = [file for file in path.rglob("*") if file.is_symlink() or not file.is_dir()] if path.is_dir() else [path]
    used = {file for scan in found.scans for file in scan.files}
    if path.is_dir() and len(seen) != len(used) + len(found.skipped):
        yield f"{len(seen)} files seen, {len(used)} used, {len(found.skipped)} skipped"
