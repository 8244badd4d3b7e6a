"""What the answers of a prior are worth: spread, quantiles, intervals that hold, and what speaks against them."""

from __future__ import annotations

from medidiff.trust.calibration import BUNDLED_CALIBRATIONS, Calibration, Made, is_calibration
from medidiff.trust.conformal import needed
from medidiff.trust.holding import Evidence, Held, held
from medidiff.trust.intervals import Answer, Claim, Interval, RegionInterval
from medidiff.trust.nodes import Case, Seen
from medidiff.trust.posterior import Posterior
from medidiff.trust.report import Examined, examined, tissue
from medidiff.trust.scope import Scope, scope_of
from medidiff.trust.signs import signs_of
from medidiff.trust.streaming import Streamed
from medidiff.trust.tally import Tally, expected_error, judged_mask, tally
from medidiff.trust.unexplained import on_average, unexplained

__all__ = [
    "BUNDLED_CALIBRATIONS",
    "Answer",
    "Calibration",
    "Case",
    "Claim",
    "Evidence",
    "Examined",
    "Held",
    "Interval",
    "Made",
    "Posterior",
    "RegionInterval",
    "Scope",
    "Seen",
    "Streamed",
    "Tally",
    "examined",
    "expected_error",
    "held",
    "is_calibration",
    "judged_mask",
    "needed",
    "on_average",
    "scope_of",
    "signs_of",
    "tally",
    "tissue",
    "unexplained",
]
