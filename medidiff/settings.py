"""How to restore, as data; and the two checks that all settings share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal

import torch

from medidiff.errors import SettingsError
from medidiff.prior import Prior
from medidiff.volume import Volume

__all__ = ["NoiseLaw", "Progress", "Settings", "compute_device", "require"]

NoiseLaw = Literal["rician", "gaussian"]
Progress = Callable[[int, int], None]
_WHOLE = ("draws", "keep_draws", "steps", "seed")


def require(rules: Iterable[tuple[str, object, bool, str]]) -> None:
    """Refuse the first value out of range.

    Args:
        rules: name of the option, its value, whether it is good, and what would be.

    Raises:
        SettingsError: ``E-SETTING``, one is not.
    """
    for name, value, good, wanted in rules:
        if not good:
            raise SettingsError("E-SETTING", f"{value}", wanted=wanted, attribute=name)


def compute_device(name: str) -> torch.device:
    """The device that ``"auto"``, ``"cpu"`` or ``"cuda"`` names; automatic is a CUDA GPU when there is one.

    Raises:
        SettingsError: another name, or a GPU that is not there.
    """
    require([("--device", name, name in ("auto", "cpu", "cuda"), "auto, cpu or cuda")])
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise SettingsError("E-DEVICE", "no CUDA device", attribute="--device", mend="Use --device auto.")
    return torch.device("cuda" if there and name == "auto" else "cpu" if name == "auto" else name)


@dataclass(frozen=True, slots=True)
class Settings:
    """How to restore. All but `device`, `tile`, `strict` and `progress` have an effect on the result.

    Args:
        prior: a bundled prior's name, a path, or a loaded `Prior`; None for the bundled one of the scan's modality.
        noise: kind of noise in the scan: magnitude MR is Rician, CT and real-valued data are Gaussian; None for what
            the modality says, Gaussian for CT and PET and Rician for the rest.
        noise_level: σ in the scan's stored units, above 0; estimated from the scan when None.
        noise_varies: whether the level changes across the scan, as with parallel imaging; it is then estimated for
            every voxel, with the level given or estimated as its mean.
        draws: posterior samples for the spread; 0 for none. They are met one at a time, so memory does not grow with
            them.
        keep_draws: how many of them, the first ones, are kept as volumes.
        quantiles: shares of the draws, each in [0, 1], whose values are wanted at every voxel.
        steps: network evaluations for each draw, at least 1.
        seed: what the draws' randomness comes from, at least 0.
        device: ``"auto"`` takes a CUDA GPU when there is one, else the CPU.
        tile: side of a cube of as many voxels as the network is shown at once; bounds memory (320: about 3 GB).
        strict: whether a scan that is not of the kind that the prior is for is refused; it is marked otherwise.
        progress: called with the number of evaluations done and to do.

    Raises:
        SettingsError: a value out of range.
    """

    prior: str | Prior | None = None
    noise: NoiseLaw | None = None
    noise_level: float | None = None
    noise_varies: bool = False
    draws: int = 0
    keep_draws: int = 0
    quantiles: tuple[float, ...] = ()
    steps: int = 4
    seed: int = 0
    device: str = "auto"
    tile: int = 320
    strict: bool = False
    progress: Progress | None = None

    def __post_init__(self) -> None:
        level = self.noise_level
        require(
            (name, getattr(self, name), isinstance(getattr(self, name), Integral), "a whole number") for name in _WHOLE
        )
        real = level is None or (isinstance(level, Real) and math.isfinite(level) and level > 0)
        rules = (
            ("--noise", self.noise, self.noise in (None, "rician", "gaussian"), "rician or gaussian"),
            ("--noise-level", level, real, "a finite level above 0"),
            ("--draws", self.draws, self.draws == 0 or 2 <= self.draws <= 1000, "0, or 2 to 1000"),
            ("keep_draws", self.keep_draws, 0 <= self.keep_draws <= self.draws, f"0 to {self.draws}, the draws"),
            ("quantiles", self.quantiles, self._ordered, "shares from 0 to 1, of at least 2 draws"),
            ("--steps", self.steps, 1 <= self.steps <= 1000, "1 to 1000"),
            ("--seed", self.seed, 0 <= self.seed < 2**63, "0 to 2^63 - 1"),
        )
        require(rules)
        compute_device(self.device)

    @property
    def _ordered(self) -> bool:
        """Whether the quantiles that are wanted can be had."""
        return all(0 <= share <= 1 for share in self.quantiles) and (self.draws > 0 or not self.quantiles)

    def for_scan(self, volume: Volume) -> Settings:
        """The same settings with the kind of noise that the scan's modality has, where none is named."""
        kind: NoiseLaw = self.noise or ("gaussian" if volume.modality in ("CT", "PT") else "rician")
        return dataclasses.replace(self, noise=kind)

    def place(self) -> torch.device:
        """The device to compute on."""
        return compute_device(self.device)
