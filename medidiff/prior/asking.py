"""What may be asked of a coarse prior: its vocabulary, and how a request becomes the numbers that it is told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from medidiff.errors import SettingsError

__all__ = ["Sex", "Vocabulary"]

Sex = Literal["F", "M"]
_SEXES = {"F": -1.0, "M": 1.0}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The conditions that a coarse prior was trained on.

    Args:
        contrasts: e.g. ``("T1w",)``.
        ages: youngest and oldest training subject, in years.
        sexes: of the training subjects.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
    contrasts: Annotated[tuple[str, ...], Field(min_length=1)]
    ages: tuple[float, float]
    sexes: tuple[Sex, ...]

    @property
    def numbers(self) -> int:
        """T, how many numbers are told."""
        return len(self.contrasts) + 3

    def tell(self, contrast: str | None = None, age: float | None = None, sex: str | None = None) -> list[float]:
        """The (T,) numbers of a request; what is None is left out.

        One for each contrast; the age, from -1 for the youngest to 1 for the oldest, and 1 where it is told; the sex,
        -1 or 1, and 0 where it is left out.

        Raises:
            SettingsError: ``E-ASKED``, outside of what the prior was trained on; the nearest valid request is named.
        """
        self._refuse_unknown("contrast", contrast, self.contrasts)
        years, male = self.person(age, sex)
        told = [float(contrast == each) for each in self.contrasts]
        return [*told, years or 0.0, float(years is not None), male or 0.0]

    def person(self, age: float | None = None, sex: str | None = None) -> tuple[float | None, float | None]:
        """Age and sex in the numbers of `tell`, None for what is left out.

        Raises:
            SettingsError: as `tell`.
        """
        self._refuse_unknown("sex", sex, self.sexes)
        low, high = self.ages
        if age is not None and not (math.isfinite(age) and low <= age <= high):
            nearest = low if math.isfinite(age) and age < low else high
            mend = f"Ask for {nearest:g}, the nearest age that it was trained on."
            raise SettingsError("E-ASKED", f"{age:g}", wanted=f"{low:g} to {high:g} years", attribute="age", mend=mend)
        years = None if age is None else (2 * age - low - high) / (high - low) if high > low else 0.0
        return years, None if sex is None else _SEXES[sex]

    @staticmethod
    def _refuse_unknown(attribute: str, asked: str | None, known: Sequence[str]) -> None:
        if asked is not None and asked not in known:
            nearest = next((each for each in known if each.lower() == asked.lower()), known[0])
            mend = f"Ask for {nearest}, or leave it out."
            raise SettingsError("E-ASKED", asked[:20], wanted=" or ".join(known), attribute=attribute, mend=mend)
