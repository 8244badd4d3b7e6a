"""How many steps the stages of a cascade take, and about what: `Effort`, made of `Mending` and `Finer`."""

from __future__ import annotations

from dataclasses import dataclass

from medidiff.diffusion import SAMPLERS, Sampler
from medidiff.settings import require

__all__ = ["Effort", "Finer", "Mending"]


def _descent(name: str, first: float, last: float, steps: int) -> list[tuple[str, object, bool, str]]:
    """The rules of a way from a first σ, the setting `name`, down to a last one."""
    return [
        (name, first, first > last, "a level above the last one"),
        ("last", last, last > 0, "a level above 0"),
        ("steps", steps, steps >= 1, "at least 1"),
    ]


@dataclass(frozen=True, slots=True)
class Mending:
    """How a drawn volume is drawn anew in its own voxels, with what a finer prior expects there.

    Args:
        noise: σ that it is given, and that a reverse process takes out again. What it hides is drawn anew.
        last: the lowest σ of the reverse process before 0.
        steps: of the reverse process.
        told: share of the noise that the prior is told of. A prior that takes out too much leaves less detail than
            there should be; told of less noise it leaves more (as scaled ε does: Ning et al. 2024, arXiv 2308.15321).

    Raises:
        SettingsError: ``E-SETTING``, a number out of range.
    """

    noise: float = 0.2
    last: float = 0.02
    steps: int = 6
    told: float = 0.90

    def __post_init__(self) -> None:
        require(
            [
                *_descent("noise", self.noise, self.last, self.steps),
                ("told", self.told, 0.5 <= self.told <= 1, "between 0.5 and 1"),
            ]
        )


@dataclass(frozen=True, slots=True)
class Finer:
    """The draw of a finer prior.

    Args:
        noise: σ_y that the prior is shown the drawn volume with, as a share of the tissue maximum.
        start: σ at which the draw begins about its posterior mean; several times the deviation about that mean.
        last: the lowest σ before 0.
        steps: from `start` to 0.
        mending: of the drawn volume before; None for none. A volume drawn to a given map is not mended.

    Raises:
        SettingsError: ``E-SETTING``, a number out of range.
    """

    noise: float = 0.02
    start: float = 0.3
    last: float = 0.018
    steps: int = 3
    mending: Mending | None = None

    def __post_init__(self) -> None:
        require(
            [
                ("noise", self.noise, self.noise > 0, "a level above 0"),
                *_descent("start", self.start, self.last, self.steps),
            ]
        )


@dataclass(frozen=True, slots=True)
class Effort:
    """Steps of each stage.

    Args:
        coarse: steps of the whole head.
        finer: the draw of each finer prior, in order; the last holds on.
        samplers: names of `SAMPLERS`, the coarse stage's first; the last holds on. Finer stages, whose denoisers are
            good, leave out least with a method of second order; the fresh noise of `ancestral` mends the coarse one's
            mistakes, which show as speckle otherwise.

    Raises:
        SettingsError: ``E-SETTING``, a number out of range, no finer draw, or a sampler that there is not.
    """

    coarse: int = 48
    finer: tuple[Finer, ...] = (Finer(noise=0.03, last=0.025, mending=Mending()), Finer())
    samplers: tuple[str, ...] = ("ancestral", "heun")

    def __post_init__(self) -> None:
        known = f"of {', '.join(SAMPLERS)}"
        require(
            [
                ("coarse", self.coarse, self.coarse >= 1, "at least 1 step"),
                ("finer", self.finer, bool(self.finer), "a draw of a finer prior"),
                ("samplers", self.samplers, bool(self.samplers) and set(self.samplers) <= set(SAMPLERS), known),
            ]
        )

    def sampler(self, stage: int) -> Sampler:
        """The sampler of a stage, 0 for the coarse one."""
        return SAMPLERS[self.samplers[min(stage, len(self.samplers) - 1)]]

    def of(self, prior: int) -> Finer:
        """The draw of a finer prior, from 0."""
        return self.finer[min(prior, len(self.finer) - 1)]
