"""What is known of the fine volume after the measurement: `Posterior`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from medidiff.errors import SettingsError
from medidiff.trust.calibration import Calibration
from medidiff.trust.intervals import Answer, Claim, Interval, RegionInterval
from medidiff.trust.shown import Shown
from medidiff.volume import Provenance, Volume

__all__ = ["Posterior"]


@dataclass(frozen=True, slots=True)
class Posterior(Shown):
    """What is known of the fine volume after the measurement. A notebook shows it; `plot` and `view` show more.

    Args:
        mean: the best single answer, in the scan's stored units.
        std: standard deviation of the draws at each voxel, same units; None when no draws were asked for.
        draws: single plausible answers, as many as `Settings.keep_draws` asked for.
        provenance: all that is needed to do it again.
        quantiles: of the draws at each voxel, by the shares that `Settings.quantiles` asked for; exact for up to 8
            draws, and to a quarter of their spread or better for more (`medidiff.trust.streaming`).
        answer: the mean with the error that the draws lead one to expect, ready for a calibration; None without draws.
        residual: on the scan's grid, by how many standard deviations of the noise the scan speaks against the mean
            (`medidiff.trust.Held`); 0 where a scan was passed through. The provenance has the report, `support`.
    """

    mean: Volume
    std: Volume | None
    draws: tuple[Volume, ...]
    provenance: Provenance
    quantiles: Mapping[float, Volume] = field(default_factory=dict)
    answer: Answer | None = None
    residual: Volume | None = None

    @property
    def out_of_scope(self) -> bool:
        """Whether the scan was not of the kind that the prior is for; the decisions of the provenance say why."""
        return self.provenance.scope.get("verdict") == "outside"

    def interval(self, share: float | None = None, *, calibrated: Calibration | None = None) -> Interval:
        """Lower and upper bound at each voxel; ``lower, upper = posterior.interval()`` works.

        Without a calibration they are ``mean ± z std``, as if the posterior were Gaussian, and nothing is claimed of
        them. With one they are ``mean ± λ u`` (`medidiff.trust.tally`), and the share is claimed unless the scan is
        unlike those of the calibration.

        Args:
            share: between the bounds, in (0, 1); 0.9, or that of the calibration, when left out.
            calibrated: of this prior and task, from ``medidiff calibrate``.

        Raises:
            SettingsError: no draws; a share out of range, or that is not the calibration's; ``E-CALIBRATION``, a
                calibration for answers that are made in another way.
        """
        if self.std is None:
            raise SettingsError("E-SETTING", "no draws", attribute="interval", mend="Ask for draws, at least 2.")
        if calibrated is not None:
            if share is not None and share != calibrated.share:
                raise SettingsError("E-SETTING", f"{share}", wanted=f"{calibrated.share}", attribute="interval")
            return self._answer.interval(calibrated)
        share = 0.9 if share is None else share
        if not 0.0 < share < 1.0:
            raise SettingsError("E-SETTING", f"{share}", wanted="a share between 0 and 1", attribute="interval")
        reach = NormalDist().inv_cdf(0.5 + share / 2) * self.std.data
        lower, upper = (self.mean.with_data(self.mean.data + side * reach) for side in (-1, 1))
        return Interval(share, False, ("no calibration was given",), lower, upper)

    def claim(self, calibrated: Calibration) -> Claim:
        """Whether a calibration claims its share for this scan, and why not.

        Raises:
            SettingsError: no draws; ``E-CALIBRATION``, a calibration for answers that are made in another way.
        """
        return self._answer.claim(calibrated)

    def region(self, mask: ArrayLike, *, calibrated: Calibration) -> RegionInterval:
        """Bounds of the mean over a region, see `medidiff.trust.intervals.Answer.region`.

        Args:
            mask: (I, J, K), true in the region.
            calibrated: as for `interval`.

        Raises:
            InputError: ``E-MASK``, a mask of another shape or without a voxel.
            SettingsError: as `interval`.
        """
        return self._answer.region(np.asarray(mask, dtype=bool), calibrated)

    @property
    def _answer(self) -> Answer:
        if self.answer is None:
            raise SettingsError("E-SETTING", "no draws", attribute="interval", mend="Ask for draws, at least 2.")
        return self.answer
