"""The tables of ``docs/synthesis.md`` and ``docs/contrast.md``, made from kept results alone; see `tables.py`."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from tables import Results, Table, source

__all__ = ["SETS"]

_WRITTEN = {
    "kid": "KID",
    "fid": "FID",
    "ms-ssim": "MS-SSIM",
    "csf": "CSF",
    "db": "(dB)",
    "ml": "(ml)",
    "points": "(% points)",
    "frechet": "Fréchet",
    "wasserstein": "Wasserstein",
    "dice": "Dice",
}
_WAYS = {
    "histogram matching": "histogram matching",
    "brightness alone": "brightness alone (the curve)",
    "regression": "regression",
    "diffusion posterior mean": "diffusion, posterior mean",
    "diffusion one draw": "diffusion, one draw of 8 steps",
    "diffusion another draw": "diffusion, another draw",
}


def contrast(results: Results) -> Table:
    """FLAIR drawn from T1, each way."""
    found = results["contrast"]
    bands = {name.split("/")[0] for name in found.figures if name.startswith("power_db")}
    bands = sorted(bands, key=lambda name: float(name.split("_")[2]))
    rows = []
    for method, words in _WAYS.items():
        means = {
            name: float(np.mean(found.of(name, method))) for name in ("psnr_db", "fitted_db", "ssim", "mae", "kept")
        }
        low, high = (float(np.mean(found.of(name, method))) for name in ("kept_low", "kept_high"))
        power = (f"{np.mean(found.of(band, method)):+.1f}" for band in bands)
        cells = (
            f"{means['psnr_db']:.2f}",
            f"{means['fitted_db']:.2f}",
            f"{means['ssim']:.3f}",
            f"{100 * means['mae']:.1f}",
        )
        rows.append((words, *cells, *power, f"{means['kept']:.2f} ({low:.2f} to {high:.2f})"))
    lesions = round(float(np.mean(found.of("lesions", "regression"))))
    named = (band.removeprefix("power_db_").replace("_", " ") for band in bands)
    power_head = (f"power {band} per mm (dB)" for band in named)
    head = (
        "",
        "PSNR (dB)",
        "fitted PSNR",
        "SSIM",
        "MAE (%)",
        *power_head,
        f"contrast of {lesions} lesions kept (95 %)",
    )
    return Table(head, tuple(rows), f"{found.params['trained']}; {source(found)}")


def synthesis(results: Results) -> Table:
    """Every figure of a synthetic set against the scans that no prior saw, and of real scans against real ones."""
    found, reference = results["synthesis"], "synthetic against unseen"
    rows = []
    for _, figure in (keys for keys in found.rows() if keys[0] == reference):
        parts = ("value", "low", "high", "floor", "floor_low", "floor_high")
        value, low, high, floor, under, over = (found.of(part, reference, figure)[0] for part in parts)
        drawn = f"{_short(value)} ({_short(low)} to {_short(high)})"
        rows.append(
            (
                _words(figure),
                drawn,
                f"{_short(floor)} ({_short(under)} to {_short(over)})",
                _verdict(figure, value, floor),
            )
        )
    head = ("figure", "synthetic (95 %)", "halves of the real scans (95 %)", "target")
    return Table(head, tuple(rows), f"Judged: {found.params['judged']}. {source(found)}")


def conditions(results: Results) -> Table:
    """What the conditions do to what is drawn, and what they go with in real people."""
    found = results["conditions"]
    figures = list(dict.fromkeys(figure for _, figure in found.rows()))
    rows = []
    for figure in figures:
        cells = []
        for kind in ("drawn", "real"):
            there = (kind, figure) in found.rows()
            value, low, high, n = (
                found.of(part, kind, figure)[0] if there else 0.0 for part in ("value", "low", "high", "n")
            )
            cells += [f"{_short(value)} ({_short(low)} to {_short(high)})", f"{n:.0f}"] if there else ["", ""]
        rows.append((_words(figure), *cells))
    return Table(("", "drawn (95 %)", "n", "real subjects (95 %)", "n"), tuple(rows), source(found))


def _words(slugged: str) -> str:
    """A figure's name as people write it."""
    for plain, written in _WRITTEN.items():
        slugged = re.sub(rf"\b{plain}\b", written, slugged)
    return slugged


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _verdict(figure: str, value: float, floor: float) -> str:
    """What was aimed at, and whether it was met."""
    if figure == "kid":
        return "at most twice that: " + ("met" if value <= 2 * floor else "**missed**")
    if figure == "ms-ssim in the set":
        return "within 0.05: " + ("met" if abs(value - floor) <= 0.05 else f"**missed**, by {abs(value - floor):.3f}")
    return ""


SETS: dict[str, Callable[[Results], Table | str]] = {
    "contrast": contrast,
    "synthesis": synthesis,
    "conditions": conditions,
}
