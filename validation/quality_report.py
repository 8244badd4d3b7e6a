"""Tables, a picture and a finding of image quality, from the files of `image_quality.py measure` alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import scoring
from findings import Finding, slug
from quality_tables import ANATOMY, Figure, Group, curves, dprimes, figures, groups

from medidiff.errors import SettingsError

__all__ = ["report"]

BASE = {"denoise": "noisy", "slices": "spline"}
NAMES = {
    "noisy": "noisy input",
    "spline": "cubic B-spline",
    "medidiff": "medidiff",
    "nlmeans": "NLMEANS (DIPY)",
    "bm4d": "BM4D",
}
PLACES = {"denoise": ("all", "all"), "slices": ("across", "third")}  # direction of edges, region of correlations
KEPT = {"Hotelling, differences of Gaussians": "hotelling", "non-prewhitening with eye filter": "eye"}
_ORDER = tuple(NAMES)
_MINUS = "–"


def report(out: Path, *, draws: int) -> str:
    """Write ``image_quality.md``, ``image_quality.json`` and ``image_quality.png``; returns the tables.

    Args:
        out: folder of the measured files.
        draws: of the bootstrap, at least 20.

    Raises:
        SettingsError: ``E-SETTING``, too few draws, or a task without its first method.
    """
    if draws < 20:
        raise SettingsError("E-SETTING", f"{draws} draws", wanted="at least 20", attribute="--draws")
    by_task: dict[str, list[Group]] = {}
    for group in sorted(groups(out), key=lambda g: _ORDER.index(g.method)):
        by_task.setdefault(group.task, []).append(group)
    record: dict[str, Any] = {}
    parts = []
    for task, found in by_task.items():
        if BASE[task] not in [group.method for group in found]:
            raise SettingsError("E-SETTING", f"no '{BASE[task]}' for task '{task}'", wanted="what the rest is beside")
        direction, region = PLACES[task]
        told = {group.method: figures(group, direction, region, draws=draws) for group in found}
        signals = dprimes(found, BASE[task])
        parts += [_heading(task, found), _sharpness(told), *(_signals(signals, found, anatomy) for anatomy in ANATOMY)]
        record[task] = {
            "setups": {group.method: group.setup for group in found},
            "told": {group.method: group.records[0]["told"] for group in found},
            "scans": {group.method: [int(each["scan"]) for each in group.records] for group in found},
            "figures": {name: {k: dataclasses.astuple(f) for k, f in each.items()} for name, each in told.items()},
            "signals": signals,
        }
    table = "\n".join(parts)
    scoring.save(out, "image_quality", table=table, record=record, finding=_finding(record))
    _picture(by_task, record, out)
    return table


def _heading(task: str, found: Sequence[Group]) -> str:
    setup = found[0].setup
    what = (
        f"Rician noise of {100 * setup['level']:g} %"
        if task == "denoise"
        else f"slices x{setup['factor']:g} with {100 * setup['level']:g} % noise; edges and correlation across them"
    )
    scans = ", ".join(f"{NAMES[group.method]} {len(group.records)}" for group in found)
    return f"### {task}: {what}\n\nCentral {setup['crop']}³ voxels; scans: {scans}. In brackets 95 % over scans.\n"


def _cell(figure: Figure, digits: int) -> str:
    if figure.value is None:
        return _MINUS
    text = f"{figure.value:.{digits}f}"
    return text if figure.low is None else f"{text} [{figure.low:.{digits}f}, {figure.high:.{digits}f}]"


def _sharpness(told: dict[str, dict[str, Figure]]) -> str:
    columns = {
        "mtf50": ("MTF50 of edges, cycles/mm", 3),
        "mtf10": ("MTF10", 3),
        "transfer_30": ("transfer at 0.3 cycles/mm", 2),
        "fsc_truth_05_mm": ("agrees with the truth (FSC 0.5), mm", 2),
        "fsc_truth_half_bit_mm": ("half bit, mm", 2),
        "fsc_pair_0143_mm": ("two results agree (0.143), mm", 2),
        "fsc_pair_half_bit_mm": ("half bit, mm", 2),
        "fsc_pair_one_bit_mm": ("1 bit, mm", 2),
        "noise_percent": ("noise, % of tissue", 2),
        "noise_frequency": ("its mean frequency", 3),
    }
    lines = [
        "| method | " + " | ".join(name for name, _ in columns.values()) + " |",
        "|---|" + "--:|" * len(columns),
    ]
    first = next(iter(told.values()))
    truth = {"mtf50": first["mtf50_truth"], "mtf10": first["mtf10_truth"]}
    rows = {"the truth": truth} | {NAMES[name]: each for name, each in told.items()}
    for name, each in rows.items():
        cells = (_cell(each[key], digits) if key in each else "" for key, (_, digits) in columns.items())
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _signals(rows: Sequence[dict[str, Any]], found: Sequence[Group], anatomy: str) -> str:
    """d′ of each observer, a row for each signal and a column for each method, its ratio to the first behind it."""
    methods = [group.method for group in found]
    lines = []
    for observer in dict.fromkeys(row["observer"] for row in rows):
        lines += [
            f"d′, {observer}, anatomy {anatomy} to the observer; in parentheses the ratio to the first column.",
            "",
        ]
        lines += ["| signal | " + " | ".join(NAMES[name] for name in methods) + " |", "|---|" + "--:|" * len(methods)]
        for size, sigmas in dict.fromkeys((row["size_mm"], row["sigmas"]) for row in rows):
            cells = []
            for method in methods:
                row = next(
                    r
                    for r in rows
                    if (r["method"], r["observer"], r["anatomy"], r["size_mm"], r["sigmas"])
                    == (method, observer, anatomy, size, sigmas)
                )
                ratio = "" if method == methods[0] else f" ({_cell(Figure(*row['ratio']), 2)})"
                cells.append(_cell(Figure(*row["dprime"]), 2) + ratio)
            lines.append(f"| {size:g} mm, {sigmas:g} σ | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _picture(by_task: dict[str, list[Group]], record: dict[str, Any], out: Path) -> None:
    """A row of four panels for each task: MTF, correlation with the truth, noise power, d′ against contrast."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(by_task), 4, figsize=(15, 3.6 * len(by_task)), squeeze=False, layout="constrained")
    for row, (task, found) in zip(axes, by_task.items(), strict=True):
        for number, group in enumerate(found):
            drawn, colour = curves(group, *PLACES[task]), f"C{number}"
            for axis, name in zip(row, ("mtf", "truth", "noise"), strict=False):
                axis.plot(*drawn[name], color=colour, label=NAMES[group.method])
            signals = [
                s
                for s in record[task]["signals"]
                if s["method"] == group.method and s["anatomy"] == "unknown" and s["observer"].startswith("non-")
            ]
            sizes = sorted({s["size_mm"] for s in signals})
            middle = [s for s in signals if s["size_mm"] == sizes[len(sizes) // 2] and s["dprime"][0] is not None]
            row[3].plot([s["sigmas"] for s in middle], [s["dprime"][0] for s in middle], "o-", color=colour)
            if number == 0:
                row[0].plot(*drawn["mtf of the truth"], "k:", label="the truth")
                row[3].set_title(f"eye-filtered observer, {sizes[len(sizes) // 2]:g} mm")
        titles = ("MTF of edges", "correlation with the truth", "noise power, mm³")
        for axis, title in zip(row, titles, strict=False):
            axis.set(title=f"{task}: {title}", xlabel="cycles/mm", xlim=(0, 0.55))
        row[0].set_ylim(0, 1.05)
        row[1].set_ylim(0, 1.02)
        row[2].set_yscale("log")
        row[3].set(xlabel="contrast, σ", ylabel="d′")
        row[0].legend(fontsize=8)
    figure.savefig(out / "image_quality.png", dpi=110)
    plt.close(figure)


def _finding(record: dict[str, Any]) -> Finding:
    """What is kept of it: the figures with their intervals, d′ of two observers who do not know the anatomy."""
    params: dict[str, str] = {}
    found: dict[str, dict[int, float]] = {}

    def put(values: Sequence[float | None], *keys: object) -> None:
        for ending, value in zip(("", "_low", "_high"), values, strict=True):
            if value is not None:
                figure, *rows = keys
                found["/".join((f"{figure}{ending}", *map(slug, rows)))] = {1: value}

    for task, told in record.items():
        for method, setup in told["setups"].items():
            prior, setting, scans = setup["prior"], setup["setting"], told["scans"][method]
            params[f"{task}.{method}"] = ", ".join(filter(None, (setting, f"{len(scans)} scans")))
            params |= {key: value for key, value in told["told"][method].items() if prior or key not in params}
            params |= {"prior": prior} if prior else {}
        setup = told["setups"][BASE[task]]
        params |= {f"{task}.noise percent": f"{100 * setup['level']:g}", "region": f"central {setup['crop']}³ voxels"}
        params |= {"scans": " ".join(map(str, told["scans"][BASE[task]])), "set": setup["set"], "part": setup["part"]}
        for method, each in told["figures"].items():
            for name, figure in each.items():
                put(figure, name, task, method)
        for row in told["signals"]:
            if row["anatomy"] == "unknown" and row["observer"] in KEPT:
                signal = f"{row['size_mm']:g} mm {row['sigmas']:g} sigma"
                keys = (task, row["method"], KEPT[row["observer"]], signal)
                put(row["dprime"], "dprime", *keys)
                put(row["ratio"], "dprime_ratio", *keys)
                if row["recovered"] is not None:
                    found["/".join(("recovered", *map(slug, keys)))] = {1: row["recovered"]}
    return Finding(params, found)
