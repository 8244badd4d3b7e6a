"""How a draw is made: where it starts, which levels it visits, and what walks down them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Generator, Tensor

from medidiff.diffusion.condition import Condition
from medidiff.diffusion.denoiser import Denoiser
from medidiff.diffusion.samplers import SAMPLERS
from medidiff.diffusion.sigma import karras
from medidiff.diffusion.start import bridge, informed
from medidiff.errors import SettingsError

__all__ = ["STARTS", "Plan"]

STARTS = ("informed", "bridge")
"""Starts by name: about the posterior mean, or about what was measured."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a draw is made. The defaults are those of `restore`; `validation/steps.py` measures them against others.

    Args:
        steps: of the sampler, at least 1.
        sampler: a name of `SAMPLERS`.
        start: a name of `STARTS`.
        sigma_start: first level, in image units. An informed start lacks the posterior's spread, so this should be
            several times as large.
        sigma_end: last level above 0; a step from there lands on the denoiser's answer. What is much smaller than
            it is smoothed away.
        rho: how the levels between are spaced, see `karras`.

    Raises:
        SettingsError: a sampler or a start of another name; numbers that make no sigma grid are refused when drawn.
    """

    steps: int = 4
    sampler: str = "dpmpp-2m"
    start: str = "informed"
    sigma_start: float = 0.5
    sigma_end: float = 0.01
    rho: float = 7.0

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            wanted = ", ".join(SAMPLERS)
            raise SettingsError("E-SETTING", f"{self.sampler}", wanted=wanted, attribute="sampler")
        if self.start not in STARTS:
            raise SettingsError("E-SETTING", f"{self.start}", wanted=" or ".join(STARTS), attribute="start")

    def draw(
        self, denoiser: Denoiser, mean: Tensor, *, condition: Condition, generators: Sequence[Generator]
    ) -> Tensor:
        """One draw of ``p(x₀ | y)`` for each generator, (B, 1, I, J, K).

        Args:
            denoiser: D.
            mean: (B, 1, I, J, K) ``D(·, ∞, y)``; a bridge does not look at it.
            condition: what was measured, (B, 1, I, J, K).
            generators: one per image.
        """
        sigmas = karras(self.steps, self.sigma_end, self.sigma_start, rho=self.rho)
        if self.start == "informed":
            state = informed(mean, self.sigma_start, generators)
        else:
            state = bridge(condition, self.sigma_start, generators)
        return SAMPLERS[self.sampler](denoiser, state, sigmas, condition=condition, generators=generators)
