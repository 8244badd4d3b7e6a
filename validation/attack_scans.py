"""The people of the attack on the scope, and what its cases do to a scan; see `scope_attack.py`.

A tester wrote the cases of ``attack_*.py`` without a look at `scope_cases.py` and `scope_far.py`. What he made is kept
voxel for voxel: random numbers are drawn in his order from his seeds, some of which are the scans' names in his script.
"""

from __future__ import annotations

import tomllib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff import io
from medidiff.volume import Geometry, Volume

__all__ = [
    "Array",
    "Case",
    "Person",
    "Rng",
    "Scan",
    "chosen",
    "level",
    "people",
    "random",
    "read",
    "rician",
    "rim",
    "tissue",
]

Array = NDArray[Any]
Mask = NDArray[np.bool_]
Rng = np.random.Generator


@dataclass(frozen=True, slots=True)
class Person:
    """Whose scan is attacked: name by set and place in the split, seed of the random numbers, and file."""

    name: str
    seed: str
    path: Path

    @property
    def of_test(self) -> bool:
        """Whether no choice was made on this person; the others have fewer cases."""
        return not self.name.startswith("validation")


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """(I, J, K) numbers of any type, and the affine from voxels to millimetres."""

    image: Array
    affine: NDArray[np.float64]

    @property
    def spacing_mm(self) -> NDArray[np.float64]:
        """Voxel size along each axis."""
        sizes: NDArray[np.float64] = np.linalg.norm(self.affine[:3, :3], axis=0)
        return sizes

    @property
    def in_slices(self) -> bool:
        """Whether it has slices of more than 2 mm."""
        return bool(self.spacing_mm.max() > 2)

    def axis(self, world: str) -> int:
        """The voxel axis nearest to one of the patient's: ``L``, ``A`` or ``S``."""
        return int(np.argmax(np.abs(self.affine["LAS".index(world), :3]) / self.spacing_mm))

    def volume(self) -> Volume:
        """As the package takes it."""
        return Volume(np.ascontiguousarray(self.image), Geometry(_three(self.image.shape), self.affine), "MR")

    def showing(self, image: Array) -> Scan:
        """Another picture in the same place."""
        return Scan(image, self.affine)

    def flipped(self, *worlds: str) -> Scan:
        """Turned round along axes, under the affine as it was."""
        return self.showing(np.flip(self.image, tuple(map(self.axis, worlds))))

    def noisy(self, percent: float, rng: Rng) -> Scan:
        """With Rician noise in per cent of `level`."""
        return self.showing(rician(self.image, percent, rng))

    def uneven(self, amplitude: float, rng: Rng) -> Scan:
        """Brighter and darker by as much, slowly over the scan."""
        shape = self.image.shape
        field = ndimage.zoom(rng.normal(size=(3, 3, 3)), np.array(shape) / 3, order=3)
        field = (field - field.min()) / np.ptp(field)
        return self.showing((self.image * (1 - amplitude + 2 * amplitude * field)).astype(np.float32))

    def cut(self, low: Sequence[int] | Array, high: Sequence[int] | Array) -> Scan:
        """The box between two corners."""
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        return Scan(self.image[box], self._begun_at(np.array(low)))

    def between(self, axis: int, low: int, high: int) -> Scan:
        """Cut along one axis alone."""
        start, end = np.zeros(3, int), np.array(self.image.shape)
        start[axis], end[axis] = low, high
        return self.cut(start, end)

    def cube(self, centre: Array, half_mm: float) -> Scan:
        """Cut to a cube about a voxel, as far as the scan goes."""
        reach = (half_mm / self.spacing_mm).astype(int)
        return self.cut(np.maximum(centre - reach, 0), np.minimum(centre + reach, self.image.shape))

    def padded(self, voxels: int) -> Scan:
        """With zeros all around."""
        return Scan(np.pad(self.image, voxels), self._begun_at(np.array([-voxels] * 3)))

    def averaged(self, axis: int, millimetres: float) -> Scan:
        """Slices of a thickness, each the mean of whole voxels."""
        factor = max(1, round(millimetres / self.spacing_mm[axis]))
        if factor == 1:
            return self
        planes = np.moveaxis(self.image, axis, 0)
        count = len(planes) // factor
        slices = planes[: count * factor].reshape(count, factor, *planes.shape[1:]).mean(1)
        middle = np.zeros(3)
        middle[axis] = (factor - 1) / 2
        affine = self._begun_at(middle)
        affine[:, axis] *= factor
        return Scan(np.moveaxis(slices, 0, axis).astype(np.float32), affine)

    def sliced(self, axis: int, millimetres: float) -> Scan:
        """Slices of a thickness whose profile is a Gaussian of that width at half its height."""
        factor = max(1, round(millimetres / self.spacing_mm[axis]))
        smooth = ndimage.gaussian_filter1d(self.image, factor / 2.355, axis=axis)
        affine = self.affine.copy()
        affine[:, axis] *= factor
        return Scan(np.take(smooth, range(0, smooth.shape[axis], factor), axis=axis), affine)

    def resampled(self, millimetres: float, order: int) -> Scan:
        """On voxels of another size, by a spline of an order."""
        zoom = self.spacing_mm / millimetres
        made = ndimage.zoom(self.image, zoom, order=order, grid_mode=True, mode="grid-constant")
        factor = np.array(self.image.shape) / np.array(made.shape)
        affine = self._begun_at((factor - 1) / 2)
        affine[:3, :3] = self.affine[:3, :3] * factor
        return Scan(made.astype(np.float32), affine)

    def _begun_at(self, voxel: Array) -> NDArray[np.float64]:
        """The affine of a grid that begins at a voxel of this one."""
        affine = self.affine.copy()
        affine[:3, 3] = self.affine[:3, :3] @ voxel + self.affine[:3, 3]
        return affine


Case = tuple[str, str, str, Scan]  # kind, case, whose scan, and the scan that was made


def people(data: Path) -> dict[str, Person]:
    """All whose T1w scans are attacked, by name."""
    split = tomllib.loads((Path(__file__).resolve().parent / "split.toml").read_text(encoding="utf-8"))
    found = []
    for part, prefix in (("test", "brain"), ("validation", "validation brain")):
        for place, subject in enumerate(split["t1-ds002748"][part], 1):
            path = f"t1-ds002748/{subject}/anat/{subject}_T1w.nii.gz"
            found.append(Person(f"{prefix} {place}", subject, data / path))
    found += [
        Person("head 1", "skyra", data / "t1-head" / "skyra_T1w.nii.gz"),
        Person("resampled 1", "p19", data / "ms-open" / "mni" / "patient19" / "T1.nii.gz"),
        Person("clinical 1, study 1", "p01a", data / "ms-open" / "thick" / "patient01" / "study1_T1W.nii.gz"),
        Person("clinical 1, study 2", "p01b", data / "ms-open" / "thick" / "patient01" / "study2_T1W.nii.gz"),
        Person("clinical 2, study 2", "p03", data / "ms-open" / "thick" / "patient03" / "study2_T1W.nii.gz"),
    ]
    return {person.name: person for person in found}


def chosen(data: Path, names: Sequence[str], asked: Sequence[str] | None) -> Iterator[tuple[Person, Scan]]:
    """The people of a part, in its order, and their scans; only those whom `asked` names, if it does.

    Left and right of the resampled person stand exchanged in the file (docs/scope.md), and are turned back.
    """
    known = people(data)
    for person in (known[name] for name in names if not asked or name in asked):
        scan = read(person.path)
        scan.affine[0] *= -1 if person.seed == "p19" else 1
        yield person, scan


def read(path: Path) -> Scan:
    """A scan in single precision; in one order of memory, in which sums are taken."""
    volume = io.read(path)
    return Scan(np.ascontiguousarray(volume.data[0], np.float32), volume.geometry.affine.copy())


def random(*seed: object) -> Rng:
    """Random numbers of a name."""
    return np.random.default_rng(zlib.crc32(repr(seed).encode()))


def tissue(image: Array) -> Mask:
    """The head, its holes filled."""
    from skimage.filters import threshold_otsu

    smooth = ndimage.gaussian_filter(image, 1)
    labels, count = ndimage.label(smooth > threshold_otsu(smooth[::2, ::2, ::2]) * 0.7)
    largest = 1 + np.argmax(ndimage.sum(labels > 0, labels, range(1, count + 1)))
    filled: Mask = ndimage.binary_fill_holes(ndimage.binary_closing(labels == largest, iterations=3))
    return filled


def level(image: Array) -> float:
    """How bright the brightest tissue is."""
    return float(np.percentile(image[tissue(image)], 99))


def rim(image: Array, share: float = 0.2) -> tuple[Array, Array]:
    """Lowest corner of the box about all that is brighter than a share of `level`, and the corner beyond it."""
    found = np.argwhere(ndimage.gaussian_filter(image, 1) > share * level(image))
    return found.min(0), found.max(0) + 1


def rician(image: Array, percent: float, rng: Rng) -> Array:
    """The magnitude of a complex picture with noise in both parts."""
    sigma = percent / 100 * level(image)
    real = image + rng.normal(0, sigma, image.shape)
    made: Array = np.sqrt(real**2 + rng.normal(0, sigma, image.shape) ** 2).astype(np.float32)
    return made


def _three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    i, j, k = shape
    return i, j, k
