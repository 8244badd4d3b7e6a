"""What the answers of a prior are worth: spread, quantiles, intervals that hold, and what speaks against them."""

from __future__ import annotations

from medidiff.trust.report import Examined, examined, tissue
from medidiff.trust.streaming import Streamed

__all__ = ["Examined", "Streamed", "examined", "tissue"]
