"""Lower and upper bounds of an answer, and whether their share is claimed: `Interval`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.physics import Separable
from medidiff.trust.calibration import Calibration, Made
from medidiff.trust.nodes import Node, Seen, corrected
from medidiff.trust.tally import FULL, block_side, judged_mask, scale_of
from medidiff.volume import Volume

__all__ = ["Answer", "Claim", "Interval", "RegionInterval"]

_SLACK = 1.1  # factor: so much larger than the largest cube may a region be


@dataclass(frozen=True, slots=True)
class Claim:
    """What is claimed of the bounds of a scan.

    Args:
        share: of a patient's tissue that is meant to be inside.
        claimed: whether a calibration says so for this scan.
        reasons: why not, as sentences.
    """

    share: float
    claimed: bool
    reasons: tuple[str, ...]

    @property
    def promise(self) -> str:
        """What is claimed where anything is."""
        return f"{100 * self.share:.4g} % of the tissue lies between the bounds"

    @property
    def sentence(self) -> str:
        """For the record and the reader."""
        if self.claimed:
            return f"{self.promise}, on average over patients like those of the calibration"
        return f"{100 * self.share:.4g} % coverage is NOT claimed: {'; '.join(self.reasons)}"


@dataclass(frozen=True, slots=True)
class Interval(Claim):
    """Bounds at each voxel; ``lower, upper = interval`` works.

    Args:
        lower: of the truth.
        upper: of the truth.
    """

    lower: Volume
    upper: Volume

    def __iter__(self) -> Iterator[Volume]:
        """The two bounds."""
        return iter((self.lower, self.upper))


@dataclass(frozen=True, slots=True)
class RegionInterval(Claim):
    """Bounds of the mean over a region, in the units of the scan.

    Args:
        lower: of the mean over the truth.
        upper: of the mean over the truth.
    """

    lower: float
    upper: float

    @property
    def promise(self) -> str:
        """What is claimed where anything is."""
        return f"of {100 * self.share:.4g} % of the regions of this size the mean lies between the bounds"


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """An answer with what its draws say of its error, ready for a calibration.

    Args:
        mean: m, in the scan's units.
        error: e, of `medidiff.trust.tally.expected_error`, same units.
        level: σ, same units.
        seen: of the scan; None where the scan was passed through.
        made: how the answer was made; None likewise.
        operator: by which the scanner sees it; None likewise.
    """

    mean: Volume
    error: Volume
    level: float
    seen: Seen | None
    made: Made | None
    operator: Separable | None = None

    def claim(self, calibration: Calibration) -> Claim:
        """Whether the calibration's share is claimed.

        Raises:
            SettingsError: ``E-CALIBRATION``, it is for answers that are made in another way.
        """
        reasons = self._objections(calibration)
        return Claim(calibration.share, not reasons, reasons)

    def interval(self, calibration: Calibration) -> Interval:
        """``m ± λ u`` at each voxel; of no width in padding.

        Raises:
            SettingsError: ``E-CALIBRATION``, it is for answers that are made in another way.
        """
        reasons = self._objections(calibration)
        wide = self._node(calibration).reaches[0] * scale_of(self.error.data, self.level)
        if self.mean.padding is not None:
            wide = np.where(self.mean.padding, np.float32(0), wide)
        lower, upper = (self.mean.with_data(self.mean.data + side * wide) for side in (-1, 1))
        return Interval(calibration.share, not reasons, reasons, lower, upper)

    def region(self, mask: NDArray[np.bool_], calibration: Calibration) -> RegionInterval:
        """Bounds of the mean over a region: ``mean(m) ± λ √(mean u²)``, with the λ of a cube of the region's volume.

        λ was calibrated on cubes; between their sizes, and for other shapes, it is interpolated, which is not proved.
        Nothing is claimed of a region of which less than half is tissue where answers are judged, or that is larger
        than the largest cube.

        Args:
            mask: (I, J, K), true in the region.
            calibration: of this prior and task.

        Raises:
            InputError: ``E-MASK``, a mask of another shape or without a voxel.
            SettingsError: as `interval`.
        """
        inside = np.asarray(mask, dtype=bool)
        if inside.shape != self.mean.shape or not inside.any():
            raise InputError(
                "E-MASK", f"mask of shape {inside.shape}, {int(inside.sum())} voxels", wanted=f"{self.mean.shape}"
            )
        voxel = abs(float(np.linalg.det(self.mean.geometry.affine[:3, :3])))
        side = (int(inside.sum()) * voxel) ** (1 / 3)
        reasons = (*self._objections(calibration), *self._objections_to(inside, side, calibration))
        wide = np.sqrt(np.mean(np.square(scale_of(self.error.data[0][inside], self.level), dtype=np.float64)))
        centre, wide = (
            float(self.mean.data[0][inside].mean(dtype=np.float64)),
            float(wide) * self._reach(calibration, side),
        )
        return RegionInterval(calibration.share, not reasons, reasons, centre - wide, centre + wide)

    def calibrated_error(self, calibration: Calibration) -> Volume:
        """The expected error, brought to the size that the calibration's patients had: ``rms (x - m)`` over it is 1."""
        if self.seen is None:
            return self.error
        gain = self.level / self.seen.noise
        shares = (self.error.data / np.float32(gain)).astype(np.float32)
        return self.error.with_data(corrected(shares, calibration.at(self.seen)) * np.float32(gain))

    def _objections(self, calibration: Calibration) -> tuple[str, ...]:
        if self.seen is None or self.made is None:
            return ("the scan is constant, and no prior was applied",)
        calibration.refuse_unlike(self.made)
        return calibration.objections(self.seen)

    def _objections_to(self, region: NDArray[np.bool_], side_mm: float, calibration: Calibration) -> Iterator[str]:
        """Why nothing is claimed of a region, whatever the scan."""
        if self.operator is not None:
            try:
                judged = judged_mask(self.mean, self.operator)
            except InputError:  # no tissue at all
                judged = np.zeros_like(region)
            if judged[region].mean() < FULL:
                yield "less than half of the region is tissue that was measured"
        largest = max(self._sides(calibration))
        if side_mm > largest * _SLACK:
            yield f"a region as large as a cube of {side_mm:.3g} mm, calibrated up to {largest:.3g} mm"

    def _node(self, calibration: Calibration) -> Node:
        return calibration.nodes[0] if self.seen is None else calibration.at(self.seen)

    def _sides(self, calibration: Calibration) -> dict[float, float]:
        """λ by the side, in mm, of the cube that is as large as a block; the voxel is the smallest."""
        spacing, reaches = self.mean.geometry.spacing_mm, self._node(calibration).reaches
        return {block_side(size, spacing): reaches[size] for size in sorted(reaches, reverse=True)}

    def _reach(self, calibration: Calibration, side_mm: float) -> float:
        """λ for blocks of a side, on logarithmic scales between those that were calibrated."""
        sides, reaches = zip(*sorted(self._sides(calibration).items()), strict=True)
        return float(np.exp(np.interp(math.log(side_mm), np.log(sides), np.log(reaches))))
