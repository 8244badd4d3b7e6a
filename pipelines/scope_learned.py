"""What `pipelines/scope.py` learns of people: how the halves of brains differ, and what filters leave of grain.

Both are learned from all people, for the reference, and from all but each, for the limits: nobody's own scans are held
against what they have taught.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scope_filters import as_filters_leave_it, as_scanners_leave_it

from medidiff import io
from medidiff.trust.coarse import coarse
from medidiff.trust.grain import grain_numbers, grain_of
from medidiff.trust.halves import HALF
from medidiff.trust.kernel import KernelRidge
from medidiff.trust.pose import Template
from medidiff.trust.traits import asymmetry
from medidiff.volume import Volume

__all__ = ["ALL", "Learned", "learned"]

ALL = ""  # in place of the name of a person who is left out
RIDGE = 1.0  # of the mean power
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Learned:
    """What signs are read with.

    Args:
        template: the mean brain, and how its halves differ.
        filters: what tells the grain that filters leave from a scanner's.
    """

    template: Template
    filters: KernelRidge


def learned(
    files: Mapping[str, Path],
    template: Template,
    swapped: Iterable[str],
    kept: Callable[[str, str, Callable[[], Any]], Any],
) -> dict[str, Learned]:
    """From scans of people.

    Args:
        files: a scan of each person.
        template: the mean brain.
        swapped: people whose left and right stand exchanged in the file; they have no say in how halves differ.
        kept: gives what was measured of a person, or measures it.

    Returns:
        By the person who is left out; under `ALL`, nobody is.
    """
    sides = _sides({name: path for name, path in files.items() if name not in swapped}, template)
    examples = {name: _arrays(kept("grain", name, partial(_examples, name, path))) for name, path in files.items()}
    out = {}
    for name in (ALL, *files):
        weights = sides.get(name, sides[ALL]).astype(np.float32)
        others = [each for other, each in examples.items() if other != name]
        out[name] = Learned(dataclasses.replace(template, sides=weights), _filters(others))
    return out


def _sides(files: Mapping[str, Path], template: Template) -> dict[str, Numbers]:
    """Weights by which left and right differ, for all and without each; 1 is what half of the people lie above."""
    found = {name: asymmetry(io.read(path), template) for name, path in files.items()}
    each = {name: one[0].ravel().astype(np.float64) for name, one in found.items() if one is not None}
    without = {name: _weights([one for other, one in each.items() if other != name]) for name in each}
    unit = np.median([without[name] @ each[name] for name in each])
    return {name: (one / unit).reshape(HALF) for name, one in {ALL: _weights([*each.values()]), **without}.items()}


def _weights(people: list[Numbers]) -> Numbers:
    """The direction along which all people have 1, by ridge regression; mirrored people have -1 along it."""
    each = np.stack(people)
    shared = each @ each.T
    ridge = RIDGE * np.trace(shared) / len(each)
    return np.asarray(each.T @ np.linalg.solve(shared + ridge * np.eye(len(each)), np.ones(len(each))))


def _examples(name: str, path: Path) -> list[list[list[float]]]:
    """The numbers of a person's grain as scanners leave it, and as filters do."""
    volume = io.read(path)
    rng = np.random.default_rng(zlib.crc32(f"grain {name}".encode()))
    return [[*_numbers(change(volume, rng))] for change in (as_scanners_leave_it, as_filters_leave_it)]


def _arrays(lists: list[list[list[float]]]) -> list[Numbers]:
    return [np.asarray(each, dtype=np.float64) for each in lists]


def _numbers(volumes: Iterable[Volume]) -> Iterable[list[float]]:
    for volume in volumes:
        grain = grain_of(coarse(volume))
        numbers = None if grain is None else grain_numbers(grain)
        if numbers is not None:
            yield [float(number) for number in numbers]


def _filters(examples: list[list[Numbers]]) -> KernelRidge:
    untouched, filtered = (np.concatenate([each[kind] for each in examples]) for kind in (0, 1))
    wanted = np.repeat((-1.0, 1.0), (len(untouched), len(filtered)))
    return KernelRidge.fitted(np.concatenate([untouched, filtered]), wanted)
