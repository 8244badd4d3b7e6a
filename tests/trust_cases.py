"""Invented patients of one site, and answers to their scans by a filter whose error is known: no network is needed."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from medidiff.physics import identity
from medidiff.trust import Answer, Calibration, Case, Made, Seen, signs_of, tally
from medidiff.volume import Geometry, Volume

SHAPE = (24, 24, 24)
MADE = Made("denoise", "invented", "ab" * 32, 8, 4, "rician", False)
MASK = sum(axis**2 for axis in np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")) < 0.7
GAIN = 400.0  # stored units at the tissue maximum


def head(seed: int, *, grain: float = 1.2, gamma: float = 1.0) -> np.ndarray:
    """Texture inside a ball, tissue maximum about 1; every patient is another, of the same kind."""
    rng = np.random.default_rng(seed)
    texture = ndimage.gaussian_filter(rng.standard_normal(SHAPE), grain)
    inside = 0.65 + 0.15 * texture / texture[MASK].std()
    return np.where(MASK, np.clip(inside, 0.1, 1.2) ** gamma, 0.0).astype(np.float32)


def answer(
    seed: int, *, level: float = 0.05, told: float | None = None, side_mm: float = 1.0, **kind: float
) -> tuple[np.ndarray, Answer]:
    """A truth, and an answer with an error of a size that varies over the scan and is expected."""
    truth, rng = head(seed, **kind), np.random.default_rng(1000 + seed)
    swell = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 3)
    expected = (0.035 * np.exp(0.3 * swell / swell.std())).astype(np.float32)
    size = np.exp(0.1 * rng.standard_normal())
    mean = (truth + size * expected * rng.standard_normal(SHAPE)).astype(np.float32)
    y = (truth + level * rng.standard_normal(SHAPE)).astype(np.float32)
    level = level if told is None else told
    signs = signs_of(torch.from_numpy(y), torch.from_numpy(mean), expected, operator=identity(), level=level)
    seen = Seen(level, 1.0, 1.0, (side_mm,) * 3, signs, dark=(0.92, 0.96))
    grid = Geometry.regular(SHAPE, spacing_mm=(side_mm,) * 3)
    found, error = (Volume(GAIN * each, grid, "MR") for each in (mean, expected))
    return truth, Answer(found, error, GAIN * level, seen, MADE, identity())


def case(seed: int, *, group: int = 0, **how: float) -> Case:
    """One invented patient, judged."""
    truth, found = answer(seed, **how)
    counted = tally(
        truth,
        found.mean.data[0] / GAIN,
        found.error.data[0] / GAIN,
        mask=MASK,
        level=found.seen.noise,
        spacing_mm=found.seen.spacing_mm,
    )
    return Case(f"{seed:064x}", group, found.seen, counted)


def calibration(count: int = 12, *, share: float = 0.9, levels=(0.05,), side_mm: float = 1.0, **fit) -> Calibration:
    """Fitted to invented patients, at each level."""
    cases = [
        case(seed, group=n, level=level, side_mm=side_mm) for n, level in enumerate(levels) for seed in range(count)
    ]
    return Calibration.fit(cases, MADE, share=share, origin="degraded", version="0", **fit)
