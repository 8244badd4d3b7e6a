"""What the lines of `lesions.py` come to: figures for each scan, and the table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from lesion_measures import area_under_curve

__all__ = ["PEERS", "Line", "figures_of", "markdown", "worse"]

Line = Mapping[str, Any]
PEERS = ("bm4d", "cubic B-spline")

_STRONG, _ACROSS = 2.99, 5.0  # noise levels and voxels from which contrast must be recovered
_GOOD = (0.8, 1.2)
_COLUMNS = (
    "recovered 0.8 to 1.2",
    "recovered",
    "0.8 to 1.2 by ring",
    "under 5 voxels",
    "1 and 2 σ",
    "error",
    "returned",
    "PSNR (dB)",
    "invented ≥ 1 / 2 / 3 σ, a scan",
)


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


_SHOWN: Mapping[str, Callable[[float], str]] = {
    "within": _share,
    "recovered": "{:.3f}".format,
    "ring_within": _share,
    "small": "{:.2f}".format,
    "faint": "{:.2f}".format,
    "error": "{:.3f}".format,
    "returned": "{:+.3f}".format,
    "psnr_db": "{:.2f}".format,
    "invented_1": "{:.2g}".format,
    "invented_2": "{:.2g}".format,
    "invented_3": "{:.2g}".format,
}
_BOOTSTRAPS, _CONFIDENCE = 2000, (2.5, 97.5)


def _strong(row: Line) -> bool:
    return abs(row["sigmas"]) >= _STRONG and row["voxels"] >= _ACROSS


def _small(row: Line) -> bool:
    return abs(row["sigmas"]) >= _STRONG and row["voxels"] < _ACROSS


def _faint(row: Line) -> bool:
    return abs(row["sigmas"]) < _STRONG and row["voxels"] >= _ACROSS


def _recovered(row: Line) -> float:
    return float(row["recovered"])


def figures_of(line: Line) -> dict[str, Any]:
    """The figures of one scan, task and method; NaN where there was nothing to read."""
    rows = line["lesions"]

    def mean(which: Callable[[Line], bool], of: Callable[[Line], float]) -> float:
        found = [of(row) for row in rows if which(row)]
        return float(np.mean(found)) if found else math.nan

    def within(name: str) -> Callable[[Line], float]:
        return lambda row: float(_GOOD[0] <= row[name] <= _GOOD[1])

    out = {
        "scan": line["scan"],
        "task": line["task"],
        "method": line["method"],
        "lesions": float(sum(map(_strong, rows))),
        "within": mean(_strong, within("recovered")),
        "recovered": mean(_strong, _recovered),
        "ring_within": mean(_strong, within("ring")),
        "small": mean(_small, _recovered),
        "faint": mean(_faint, _recovered),
        "error": mean(_strong, lambda row: row["error"]),
        "returned": float(np.mean([row["returned"] for row in line["gone"]])) if line["gone"] else math.nan,
        "psnr_db": line["psnr_db"],
        "seconds": line["seconds"],
    }
    for diameter in dict.fromkeys(row["diameter_mm"] for row in rows):
        name = f"recovered_{diameter:g}mm"
        out[name] = mean(lambda row, d=diameter: abs(row["sigmas"]) >= _STRONG and row["diameter_mm"] == d, _recovered)
    out |= {f"invented_{k}": float(count) for k, count in line["invented"].items()}
    if "others" in line:
        others = [row["z"] for row in line["others"]]
        out |= {
            "flags": float(line["flags"]),
            "auc_added": area_under_curve([row["z"] for row in line["added"]], others),
            "auc_removed": area_under_curve([row["z"] for row in line["removed"]], others),
        }
    return out


def worse(lines: Sequence[Line], task: str, peer: str, *, seed: int = 0) -> dict[str, float]:
    """Whether medidiff's error in lesions is larger than a peer's: mean difference and its 95 % interval over scans.

    The error is the root mean square error in a lesion over its contrast, of every lesion that both were given; the
    scans are resampled, for lesions of one scan are alike.
    """
    by_scan: dict[int, list[float]] = {}
    told = {(line["scan"], line["method"]): line for line in lines if line["task"] == task}
    for scan, method in told:
        if method != "medidiff" or (scan, peer) not in told:
            continue
        pairs = zip(told[scan, method]["lesions"], told[scan, peer]["lesions"], strict=True)
        by_scan[scan] = [ours["error"] - theirs["error"] for ours, theirs in pairs]
    if not by_scan:
        return {}
    means = np.array([np.mean(found) for found in by_scan.values()])
    drawn = np.random.default_rng(seed).integers(len(means), size=(_BOOTSTRAPS, len(means)))
    low, high = np.percentile(means[drawn].mean(1), _CONFIDENCE)
    every = np.concatenate(list(by_scan.values()))
    return {
        "difference": float(means.mean()),
        "low": float(low),
        "high": float(high),
        "worse": float((every > 0).mean()),
    }


def markdown(lines: Sequence[Line], heading: str) -> str:
    """The table: a row per task and method, over all lesions and scans; then the comparison and the flags."""
    head = f"| {' | '.join(('task', 'method', 'n', *_COLUMNS))} |"
    out = [heading, "", head, "|---|---|" + "--:|" * (1 + len(_COLUMNS))]
    for task, method in dict.fromkeys((line["task"], line["method"]) for line in lines):
        found = [figures_of(line) for line in lines if (line["task"], line["method"]) == (task, method)]
        means = {name: float(np.nanmean([each[name] for each in found])) for name in found[0] if name in _SHOWN}
        counts = " / ".join(f"{means[name]:.2g}" for name in means if name.startswith("invented"))
        cells = [_SHOWN[name](means[name]) for name in means if not name.startswith("invented")]
        number = f"{sum(each['lesions'] for each in found):.0f}"
        out.append(f"| {' | '.join((task, method, number, *cells, counts))} |")
    out += ["", *_compared(lines), *_flags(lines)]
    return "\n".join(out) + "\n"


def _compared(lines: Sequence[Line]) -> list[str]:
    out = []
    for task in dict.fromkeys(line["task"] for line in lines):
        for peer in PEERS:
            if found := worse(lines, task, peer):
                out.append(
                    f"- {task}: error less that of {peer} {found['difference']:+.3f} ({found['low']:+.3f} to "
                    f"{found['high']:+.3f}), larger in {100 * found['worse']:.0f} % of the lesions."
                )
    return [*out, ""] if out else out


def _flags(lines: Sequence[Line]) -> list[str]:
    out = [
        "| task | answers | flags, an answer as it is | AUC, planted 3 to 6 σ | AUC, lesions removed |",
        "|---|--:|--:|--:|--:|",
    ]
    for task in dict.fromkeys(line["task"] for line in lines):
        group = [line for line in lines if line["task"] == task and "others" in line]
        if not group:
            continue
        places = {name: [row["z"] for line in group for row in line[name]] for name in ("added", "removed", "others")}
        curves = [area_under_curve(places[name], places["others"]) for name in ("added", "removed")]
        cells = " | ".join(
            f"{area:.3f} ({len(places[n])})" for area, n in zip(curves, ("added", "removed"), strict=True)
        )
        out.append(f"| {task} | {len(group)} | {np.mean([line['flags'] for line in group]):.2f} | {cells} |")
    return out if len(out) > 2 else []
