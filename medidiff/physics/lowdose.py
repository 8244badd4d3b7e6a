"""Low-dose CT from a scan at full dose: noise that arises in the projections and is reconstructed as the scan was.

A detector behind the line integral ``p = ∫ μ dl`` counts ``N₁ ~ Poisson(I₀ e^-p)`` photons at full dose. At the share
a of that dose it counts those that a binomial thinning leaves, ``N_a ~ Binomial(N₁, a)``, which is Poisson with mean
``a I₀ e^-p``, and its electronics add Gaussian noise of σ_e counts to either. What a lower dose adds to a scan is the
difference of the two logarithms, filtered and back-projected::

    n_p = ln(N₁ / I₀ e^-p) - ln((N_a + σ_e √(1 - a²) ε) / a I₀ e^-p)
    n   = 1000 / μ_water · FBP(n_p)                                      in HU

so that ``var n_p ≈ (1 - a)/a · e^p/I₀ · (1 + (1 + a)/a · σ_e² e^p/I₀)``, the noise that Yu et al. 2012 insert (doi
10.1097/RCT.0b013e318258e891); the model of the counts is also that of Zeng et al. 2015 (doi 10.1109/TNS.2015.2467219).
The noise that the scan has already stays in it, and n is uncorrelated with it. Only the *noise* goes through the
filtered back-projection: the anatomy is never reprojected, so no error of either transform enters it, and at a = 1 n
is exactly 0.

What this is not: the beam is parallel and of one energy (no beam hardening, no scatter), there is no bowtie filter and
no tube current modulation, and tissue outside the field of view attenuates nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from skimage.transform import iradon, radon

from medidiff.errors import InputError, SettingsError
from medidiff.physics.estimate_ct import axial_slices
from medidiff.volume import Volume

__all__ = ["Beam", "added_noise", "lower_dose", "projection_noise", "projections", "reconstructed"]

_Array = NDArray[np.float32]
_Window = Literal["ramp", "shepp-logan", "cosine", "hamming", "hann"]
_SQUARE = 0.01  # relative difference of the two sides of a voxel that still passes for square
_FEWEST_COUNTS = 1.0  # a detector that counted less is read as this: the logarithm of 0 is no attenuation


@dataclass(frozen=True, slots=True)
class Beam:
    """A parallel-beam scanner at full dose.

    Args:
        photons: I₀, photons that one detector would count in one view through air, above 0.
        electronic: σ_e, standard deviation of the electronics' noise in counts, at least 0.
        views: over half a turn, at least 2.
        water_per_mm: μ_water, linear attenuation of water; 0.0193 is NIST's at 70 keV.
        window: on the ramp filter, as scikit-image names them; a softer kernel of the scanner is a narrower window.
        overlap: slice thickness in slice distances, a whole number. Above 1 neighbouring slices share photons, and
            their noise is correlated.
    """

    photons: float = 2e5
    electronic: float = 10.0
    views: int = 384
    water_per_mm: float = 0.0193
    window: _Window = "ramp"
    overlap: int = 1

    def __post_init__(self) -> None:
        rules = (
            ("photons", math.isfinite(self.photons) and 0 < self.photons < 1e15, "above 0 and below 1e15"),
            ("electronic", math.isfinite(self.electronic) and self.electronic >= 0, "a number of at least 0"),
            ("views", self.views >= 2, "at least 2"),
            ("water_per_mm", math.isfinite(self.water_per_mm) and self.water_per_mm > 0, "above 0"),
            ("window", self.window in get_args(_Window), ", ".join(get_args(_Window))),
            ("overlap", self.overlap >= 1, "at least 1"),
        )
        for name, good, wanted in rules:
            if not good:
                raise SettingsError("E-BEAM", f"{getattr(self, name)}", wanted=wanted, attribute=name)

    @property
    def angles(self) -> NDArray[np.float64]:
        """(views,) degrees."""
        return np.linspace(0.0, 180.0, self.views, endpoint=False)


def lower_dose(volume: Volume, dose: float, *, seed: int, beam: Beam | None = None) -> Volume:
    """The scan as it would look at a share of its dose.

    Args:
        volume: (1, I, J, K) CT in HU, one axis of the grid along the patient, square voxels across it. It is taken as
            it is, with the noise of its own dose.
        dose: share of the scan's dose, in (0, 1]; 1 gives the scan back.
        seed: what the counts are drawn from, at least 0.
        beam: the scanner; the default when None.

    Returns:
        The same grid, float32 HU; padding keeps its values.

    Raises:
        InputError: not a CT of one channel with square voxels, or voxels that are not finite.
        SettingsError: the dose or the seed is out of range.
    """
    (noise,) = added_noise(volume, (dose,), seed=seed, beam=beam or Beam())
    noisy = volume.data[0] + noise
    if volume.padding is not None:
        noisy = np.where(volume.padding, volume.data[0], noisy)
    return dataclasses.replace(volume, data=noisy.astype(np.float32))


def added_noise(volume: Volume, doses: Sequence[float], *, seed: int, beam: Beam) -> list[_Array]:
    """What each of several doses would add to a scan, (I, J, K) in HU; the scan is projected once.

    Args:
        volume: as for `lower_dose`.
        doses: shares of the scan's dose, in (0, 1].
        seed: what the counts of all doses are drawn from; the doses share the photons of full dose.
        beam: the scanner.

    Raises:
        InputError: as `lower_dose`.
        SettingsError: as `lower_dose`.
    """
    if volume.modality != "CT":
        found = f"a scan of modality {volume.modality}"
        raise InputError("E-MODALITY", found, wanted="CT, in HU", mend="Only CT has a dose to lower.")
    for dose in doses:
        if not (math.isfinite(dose) and 0 < dose <= 1):
            wanted = "a share above 0 and at most 1"
            raise SettingsError("E-DOSE", f"a dose of {dose:g}", wanted=wanted, attribute="dose")
    if seed < 0:
        raise SettingsError("E-SEED", f"seed {seed}", wanted="at least 0")
    along, side_mm = _square_slices(volume)
    slices = np.moveaxis(np.asarray(volume.data[0], dtype=np.float32), along, 0)
    if not np.isfinite(slices).all():
        raise InputError("E-NONFINITE", "voxels that are not finite numbers", mend="Mend or mask them first.")
    lines = [projections(each, side_mm, beam) for each in slices]
    sizes = (slices.shape[1], slices.shape[2])
    fields = []
    for dose in doses:
        noise = projection_noise(lines, dose, seed=seed, beam=beam)
        fields.append(np.moveaxis(np.stack([reconstructed(each, sizes, side_mm, beam) for each in noise]), 0, along))
    return fields


def _square_slices(volume: Volume) -> tuple[int, float]:
    """The axis along the patient, and the side of the square voxels across it."""
    if volume.data.shape[0] != 1:
        raise InputError("E-4D", f"{volume.data.shape[0]} channels", wanted="one", mend="Take them one by one.")
    along, (side_mm, other_mm) = axial_slices(volume.geometry)
    if abs(side_mm - other_mm) > _SQUARE * side_mm:
        found = f"slices of {side_mm:.4g} x {other_mm:.4g} mm"
        raise InputError("E-SQUARE", found, wanted="square voxels across the patient", mend="Resample the scan first.")
    return along, side_mm


def projections(hounsfield: ArrayLike, side_mm: float, beam: Beam) -> _Array:
    """Line integrals of the attenuation of one slice.

    Args:
        hounsfield: (I, J) HU; what is below -1000 attenuates as vacuum.
        side_mm: of its square voxels.
        beam: views and attenuation of water.

    Returns:
        (detectors, views) without unit, detectors as far apart as the voxels.
    """
    slice_ = np.asarray(hounsfield, dtype=np.float32)
    side = max(slice_.shape)
    attenuation = np.zeros((side, side), np.float32)
    per_voxel = np.float32(beam.water_per_mm * side_mm)
    attenuation[: slice_.shape[0], : slice_.shape[1]] = np.maximum(1 + slice_ / 1000, 0) * per_voxel
    lines = radon(attenuation, beam.angles, circle=False)  # type: ignore[no-untyped-call]
    return np.asarray(lines, dtype=np.float32)


def projection_noise(lines: list[_Array], dose: float, *, seed: int, beam: Beam) -> Iterator[_Array]:
    """What a lower dose adds to the line integrals of each slice.

    Slice k is made of the layers k to k + overlap - 1. The counts of a layer are drawn from the seed and its number, so
    a slice's noise does not depend on how many slices follow it.

    Args:
        lines: (detectors, views) line integrals, slice by slice.
        dose: a, in (0, 1].
        seed: what the counts are drawn from.
        beam: photons, electronics and overlap.

    Yields:
        (detectors, views) of each slice.
    """
    ring: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []  # the layers of one slice
    for layer in range(len(lines) + beam.overlap - 1):
        seen = lines[max(layer - beam.overlap + 1, 0) : layer + 1]
        expected = beam.photons / beam.overlap * np.exp(-np.mean(seen, axis=0, dtype=np.float64))
        rng = np.random.default_rng((seed, layer))
        full = rng.poisson(expected)
        low = rng.binomial(full, dose)
        spread = beam.electronic * math.sqrt((1 - dose**2) / beam.overlap)
        ring = [*ring, (expected, full, low + spread * rng.standard_normal(expected.shape))][-beam.overlap :]
        if len(ring) == beam.overlap:
            mean, all_of_them, left = (np.sum(part, axis=0) for part in zip(*ring, strict=True))
            yield _log_ratio(all_of_them, mean) - _log_ratio(left, dose * mean)


def _log_ratio(counts: NDArray[Any], expected: NDArray[Any]) -> _Array:
    return np.asarray(np.log(np.maximum(counts, _FEWEST_COUNTS) / expected), dtype=np.float32)


def reconstructed(lines: _Array, sizes: tuple[int, int], side_mm: float, beam: Beam) -> _Array:
    """Filtered back-projection of line integrals to HU about those of nothing, (I, J).

    Args:
        lines: (detectors, views).
        sizes: I and J.
        side_mm: of the square voxels.
        beam: views, window and attenuation of water.
    """
    slice_ = iradon(  # type: ignore[no-untyped-call]
        lines, beam.angles, circle=False, output_size=max(sizes), filter_name=beam.window, interpolation="linear"
    )
    return np.asarray(slice_[: sizes[0], : sizes[1]] * (1000 / (beam.water_per_mm * side_mm)), dtype=np.float32)
