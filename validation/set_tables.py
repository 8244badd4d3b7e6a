"""The tables of ``docs/synthesis.md`` and ``docs/contrast.md``, made from kept results alone; see `tables.py`."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from findings import Finding, slug
from plants import EXTRA, MIXED, REQUIRED
from shares import wilson
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
_ARMS = (
    "synthetic",
    "real",
    "real + synthetic",
    "real, augmented",
    "real + synthetic, augmented",
    "few real",
    "few real + synthetic",
    "few real, augmented",
    "few real + synthetic, augmented",
)
_KINDS_OF_COPY = (*REQUIRED, *EXTRA, *MIXED)
_OF_SETS = (
    "KID",
    "MS-SSIM in the set",
    "precision",
    "recall",
    "coverage",
    "spectra apart (dB)",
    "Wasserstein of brain (ml)",
)
_COUNTS = ("n", "flagged", "with_voxels", "judged")
_GENERATORS = {
    "real, unseen": "real, unseen",
    "training, varied": "training heads, varied",
    "one head": "one head, repeated",
    "vae": "VAE",
    "gan": "GAN",
    "ddpm": "DDPM (MONAI)",
    "ldm": "latent diffusion (MONAI)",
    "own": "ours, from `middle-t1`",
    "own-fresh": "ours, from chance",
}
_COSTS = (
    ("weights (millions)", "weights", 1e6, ".1f"),
    ("heads seen in training", "images", 1, ".0f"),
    ("CPU-seconds of training", "seconds", 1, ".0f"),
    ("CPU-seconds a head", "draw_seconds", 1, ".2f"),
    ("heads drawn", "heads", 1, ".0f"),
    ("of these without three tissues", "failed", 1, ".0f"),
)


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


def utility(results: Results) -> Table:
    """Dice of a segmenter by what it was trained on, and what was gained over its control."""
    found = results["utility"]
    tissues = ("CSF", "grey matter", "white matter", "mean")
    rows = []
    for arm in (arm for arm in _ARMS if (slug(arm), "dice mean") in found.rows()):
        cells = [_interval(found, arm, f"dice {tissue}", ".3f") for tissue in tissues]
        gain = ""
        if (slug(arm), "gain") in found.rows():
            low, high = (found.of(part, arm, "gain")[0] for part in ("low", "high"))
            said = "gain" if low > 0 else "**loss**" if high < 0 else "none shown"
            gain = f"{_interval(found, arm, 'gain', '+.3f')}, {said}"
        rows.append((arm, *cells, _interval(found, arm, "surface mean (mm)", ".2f"), gain))
    told = found.params
    head = ("trained on", *(f"Dice {tissue}" for tissue in tissues), "surfaces (mm)", "gain in mean Dice (95 %)")
    asked = f"{told['real']} real, {told['synthetic']} synthetic scans, {told['few']} where they are few"
    note = f"{asked}; {told['steps']} steps from each of {told['seeds']} seeds; {told['test']} test subjects; "
    return Table(head, tuple(rows), note + source(found))


def copies(results: Results) -> Table:
    """What the copy gate catches, and its false alarms."""
    found = results["copies"]
    rows = []
    for kind in _KINDS_OF_COPY:
        n, flagged, both, judged = (round(found.of(part, "copy", kind)[0]) for part in _COUNTS)
        rows.append((kind, str(n), str(flagged), _counted(flagged, n), str(both), str(n - judged)))
    strangers = [keys for keys in found.rows() if keys[0] == "unseen"]
    for words, kinds in (("unseen scans as they are", ["as it is"]), ("these, and treated", [k for _, k in strangers])):
        n, flagged, both, judged = (sum(round(found.of(part, "unseen", k)[0]) for k in kinds) for part in _COUNTS)
        rows.append((f"*{words}*", str(n), str(flagged), _counted(flagged, n), str(both), str(n - judged)))
    drawn, known = (round(found.of(part, "by heart", "draw")[0]) for part in ("n", "flagged"))
    rows.append(
        ("*draws of a prior that knows two scans by heart*", str(drawn), str(known), _counted(known, drawn), "", "")
    )
    nearest = max(found.of("highest", *keys)[0] for keys in strangers)
    weakest = min(found.of("lowest", "copy", kind)[0] for kind in REQUIRED)
    seconds = float(np.median([found.of("seconds", *keys)[0] for keys in strangers]))
    said = f"Of the first eight kinds the weakest reached {weakest:.1f} times a threshold, of strangers {nearest:.2f}"
    note = f"{said}; {seconds:.2f} s a comparison; index {found.params['index'][:12]}; {source(found)}"
    return Table(("fed", "n", "flagged by embedding", "95 % (Wilson)", "with voxels", "not judged"), tuple(rows), note)


def alternatives(results: Results) -> Table:
    """What generators of one size draw after one time of training, beside real scans."""
    found = results["alternatives"]
    kinds = [kind for kind in _GENERATORS if f"heads/{slug(kind)}" in found.figures]
    rows = []
    for words, figure, scale, form in _COSTS:
        values = [found.figures.get(f"{figure}/{slug(kind)}", {}) for kind in kinds]
        rows.append((words, *(f"{next(iter(v.values())) / scale:{form}}" if v else "" for v in values), ""))
    for figure in _OF_SETS:
        there = [f"value/{slug(kind)}/{slug(figure)}" in found.figures for kind in kinds]
        cells = [_interval(found, kind, figure, ".3g") if t else "" for kind, t in zip(kinds, there, strict=True)]
        floor = found.of("floor", kinds[0], figure)[0]
        rows.append((figure, *cells, _short(floor)))
    head = ("", *(_GENERATORS[kind] for kind in kinds), "halves of the real scans")
    return Table(head, tuple(rows), source(found))


def _counted(hits: int, n: int) -> str:
    """The interval of a share."""
    low, high = wilson(hits, n)
    return f"{low:.2f} to {high:.2f}"


def _interval(found: Finding, arm: str, figure: str, form: str) -> str:
    """A value with its interval."""
    value, low, high = (found.of(part, arm, figure)[0] for part in ("value", "low", "high"))
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


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
    "utility": utility,
    "copies": copies,
    "alternatives": alternatives,
}
