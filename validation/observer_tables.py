"""The tables of ``docs/image-quality.md``, from the kept result alone; see `tables.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from findings import Finding
from tables import NAMES, Results, Table, source

__all__ = ["OBSERVERS"]

_TASKS = {"denoise": "9 % noise", "slices": "slices ×3, 3 % noise"}
_METHODS = ("noisy", "spline", "nlmeans", "bm4d", "medidiff")
_WORDS = {"spline": "cubic b-spline"}
_MEASURES = {
    "mtf50": ("MTF50 of edges, cycles/mm", ".3f"),
    "transfer_30": ("transfer at 0.3 cycles/mm", ".2f"),
    "fsc_truth_05_mm": ("agrees with the truth to, mm", ".2f"),
    "fsc_pair_0143_mm": ("two results agree to, mm", ".2f"),
    "noise_percent": ("noise left, % of the tissue maximum", ".1f"),
}
_OBSERVERS = {"hotelling": "Hotelling", "eye": "eye filter"}
_SIGNALS = [f"{size} mm {contrast} sigma" for size in (3, 5, 7, 9) for contrast in (1, 3)]


def image_quality(results: Results) -> Table:
    """How sharp, how much noise, and to which detail."""
    found = results["image-quality"]
    rows = [
        (
            _TASKS[task],
            _name(method),
            *(_valued(found, figure, form, task, method) for figure, (_, form) in _MEASURES.items()),
        )
        for task, method in _measured(found, "mtf50")
    ]
    head = ("task", "", *(words for words, _ in _MEASURES.values()))
    return Table(head, tuple(rows), f"In brackets 95 %. {source(found)}", words=2)


def detectability(results: Results) -> Table:
    """How well model observers detect signals, and the ratio to what they detect before."""
    found = results["image-quality"]
    rows = []
    for task, method in _measured(found, "mtf50"):
        for observer, words in _OBSERVERS.items():
            keys = [(task, method, observer, signal) for signal in _SIGNALS]
            figure = next((name for name in ("dprime_ratio", "dprime") if _any(found, name, keys)), "")
            if not figure:
                continue
            first = figure == "dprime"
            cells = [_valued(found, figure, ".2f", *key, before="" if first else "×") for key in keys]
            rows.append((_TASKS[task], _name(method), words, *cells))
    head = ("task", "", "observer", *(signal.replace("sigma", "σ") for signal in _SIGNALS))
    return Table(
        head, tuple(rows), f"d′ of the first method of a task, ratios to it of the others. {source(found)}", words=3
    )


def _measured(found: Finding, figure: str) -> Iterator[tuple[str, str]]:
    for task in _TASKS:
        yield from ((task, method) for method in _METHODS if f"{figure}/{task}/{method}" in found.figures)


def _name(method: str) -> str:
    return NAMES[_WORDS.get(method, method)]


def _any(found: Finding, figure: str, rows: Sequence[Sequence[str]]) -> bool:
    return any("/".join((figure, *keys)) in found.figures for keys in rows)


def _valued(found: Finding, figure: str, form: str, *keys: str, before: str = "") -> str:
    """A figure with its interval, alone where it has none; empty where there is no figure."""
    told = [found.figures.get("/".join((f"{figure}{end}", *keys)), {}).get(1) for end in ("", "_low", "_high")]
    if told[0] is None:
        return ""
    shown = [f"{each:{form}}" for each in told if each is not None]
    return before + (shown[0] if len(shown) < len(told) else f"{shown[0]} [{shown[1]}, {shown[2]}]")


OBSERVERS: dict[str, Callable[[Results], Table]] = {"image-quality": image_quality, "detectability": detectability}
