"""The tables of ``docs/uncertainty.md`` and ``docs/hallucination.md``, from kept results alone; see `tables.py`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from findings import Finding
from tables import NAMES, Results, Table, mean_sd, source

__all__ = ["TRUST"]

_SETTINGS = {
    "n0.5": "0.5 % noise",
    "n1": "1 % noise",
    "n3": "3 % noise",
    "n9": "9 % noise",
    "n15": "15 % noise",
    "f2": "slices ×2",
    "f3": "slices ×3",
    "f4": "slices ×4",
}
_CHANGES = {
    "gamma": "another gamma (0.6)",
    "blur": "blurred (0.8 voxels)",
    "bias": "unevenly bright (0.6 to 1.4)",
    "told": "told 0.7 of the noise level",
    "lesions": "with lesions put in",
}
_SIZES = ("1", "2", "4", "8", "16")  # mm, sides of regions; 1 is a voxel


def calibration_spread(found: Finding) -> Table:
    """How the expected error goes with the error."""
    rows = []
    for name, words in _SETTINGS.items():
        if f"spearman/{name}" not in found.figures:
            continue
        alike = [mean_sd(found.of(figure, name), 2) for figure in ("spearman", "spearman_4_mm", "spearman_8_mm")]
        before, after = (mean_sd(found.of(figure, name), 2) for figure in ("standardised_before", "standardised"))
        bins = found.of("bins", name)
        rows.append((words, *alike, before, after, f"{min(bins):.2f} to {max(bins):.2f}"))
    head = ("", "Spearman, voxels", "4 mm", "8 mm", "standardised error, raw", "calibrated", "in eight groups")
    return Table(head, tuple(rows), source(found))


def calibration_coverage(found: Finding) -> Table:
    """Coverage by size of the region, and of lesions."""
    rows = []
    for name, words in _SETTINGS.items():
        if f"coverage/{name} 1 mm" not in found.figures:
            continue
        cells = [
            f"{100 * found.of('coverage', f'{name} {size} mm')[0]:.1f} ± "
            f"{100 * found.of('coverage_sd', f'{name} {size} mm')[0]:.1f}"
            for size in _SIZES
        ]
        rows.append((words, *cells, _in_lesions(found, name)))
    head = ("", "voxels", *(f"{size} mm" for size in _SIZES[1:]), "voxels of lesions, 3 / 5 / 8 / 12 / 15 mm")
    return Table(head, tuple(rows), f"% of 90 % intervals that hold, mean ± sd over 200 re-splits. {source(found)}")


def calibration_claims(found: Finding) -> Table:
    """For whom 90 % is claimed, and what was true."""
    return _claims(found, "", 90)


def calibration_bundled(found: Finding) -> Table:
    """For whom the calibration of the validation subjects claims its 80 %, and what was true."""
    return _claims(found, "bundled_", 80)


def _claims(found: Finding, prefix: str, share: int) -> Table:
    rows, start = [], f"{prefix}claimed/"
    for kind in sorted((name.removeprefix(start) for name in found.figures if name.startswith(start)), key=_order):
        claimed, inside = found.of(f"{prefix}claimed", kind), [100 * v for v in found.of(f"{prefix}inside", kind)]
        spread = f"{np.mean(inside):.1f} ({min(inside):.1f} to {max(inside):.1f})"
        rows.append((_kind(kind), str(len(claimed)), f"{sum(claimed):.0f}", spread))
    head = ("scans", "n", "claimed", f"% of {share} % intervals that hold (least to most)")
    return Table(head, tuple(rows), source(found))


def _in_lesions(found: Finding, name: str) -> str:
    shares = [found.figures.get(f"in_lesions/{name} {size} mm") for size in (3, 5, 8, 12, 15)]
    return " / ".join(f"{100 * next(iter(each.values())):.0f}" for each in shares if each)


def _order(kind: str) -> tuple[bool, int, str]:
    """Ours first, as they are before they are changed, then other places."""
    place, _, setting = kind.rpartition(" ")
    plain, _, change = setting.partition("-")
    return bool(place), 100 * bool(change) + list(_SETTINGS).index(plain), kind


def _kind(kind: str) -> str:
    """``n9-gamma`` and ``t1-head-test-T1w n9`` in words."""
    place, _, setting = kind.rpartition(" ")
    plain, _, change = setting.partition("-")
    told = _SETTINGS[plain] + (f", {_CHANGES[change]}" if change else "")
    return f"other: {place}, {told}" if place else told


def lesions(results: Results) -> Table:
    """What becomes of planted lesions, and what is made up."""
    found = results["lesions"]
    rows = []
    for task, method in (keys for keys in found.rows() if len(keys) == 2):
        if f"within/{task}/{method}" not in found.figures:
            continue
        shown = {name: mean_sd(found.of(name, task, method), 2) for name in ("recovered", "small", "faint", "error")}
        lesions_, within = (found.of(name, task, method) for name in ("lesions", "within"))
        made_up = " / ".join(f"{np.mean(found.of(f'invented_{k}', task, method)):.2g}" for k in (1, 2, 3))
        back = f"{np.mean(found.of('returned', task, method)):+.2f}"
        cells = (f"{sum(lesions_):.0f}", f"{100 * np.mean(within):.1f} %", *shown.values(), back, made_up)
        rows.append((_noise(task), NAMES.get(method, method), *cells))
    head = ("noise", "", "n", "recovered 0.8 to 1.2", "recovered", "under 5 voxels", "1 and 2 σ", "error", "returned")
    return Table((*head, "invented ≥ 1 / 2 / 3 σ"), tuple(rows), source(found), words=2)


def lesion_flags(results: Results) -> Table:
    """How well flags tell what was planted, and the error in lesions beside the peers'."""
    found = results["lesions"]
    rows = []
    for task in dict.fromkeys(keys[0] for keys in found.rows()):
        if f"flags/{task}/medidiff" not in found.figures:
            continue
        flags, added, gone = (found.of(name, task, "medidiff") for name in ("flags", "auc_added", "auc_removed"))
        against = [
            f"{NAMES[peer]}: {found.of('against_difference', task, peer)[0]:+.3f} "
            f"({found.of('against_low', task, peer)[0]:+.3f} to {found.of('against_high', task, peer)[0]:+.3f})"
            for peer in ("bm4d", "cubic b-spline")
            if f"against_difference/{task}/{peer}" in found.figures
        ]
        cells = (f"{np.mean(flags):.2g}", f"{np.mean(added):.3f}", f"{np.mean(gone):.3f}", "; ".join(against))
        rows.append((_noise(task), *cells))
    head = ("noise", "flags, answers as they are", "AUC, planted", "AUC, lesions removed", "error less that of")
    return Table(head, tuple(rows), source(found))


def _noise(task: str) -> str:
    """``9`` as 9 %, ``x3 3`` as ×3, 3 %."""
    thick, _, level = task.rpartition(" ")
    return f"×{thick.removeprefix('x')}, {level} %" if thick else f"{level} %"


def _of(name: str, table: Callable[[Finding], Table]) -> Callable[[Results], Table]:
    """The table of one result."""
    return lambda results: table(results[name])


TRUST: dict[str, Callable[[Results], Table]] = {
    "calibration-spread": _of("calibration", calibration_spread),
    "calibration-coverage": _of("calibration", calibration_coverage),
    "calibration-claims": _of("calibration", calibration_claims),
    "calibration-whole-spread": _of("calibration-whole", calibration_spread),
    "calibration-whole-coverage": _of("calibration-whole", calibration_coverage),
    "calibration-whole-claims": _of("calibration-whole", calibration_claims),
    "calibration-bundled": _of("calibration-whole", calibration_bundled),
    "lesions": lesions,
    "lesion-flags": lesion_flags,
}
