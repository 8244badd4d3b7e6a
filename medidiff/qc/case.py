"""The page of one case: `case_page`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.prepare import with_filler_marked
from medidiff.qc.charts import brightness_chart, spectrum_chart
from medidiff.qc.checks import Check, checks, scope_checks
from medidiff.qc.measures import SAME_GRID_MM, Measures, NoiseKind, Pair, measure
from medidiff.qc.page import render
from medidiff.qc.pictures import Layer, Sheet, sheets
from medidiff.qc.support import number, operator_of, support_of
from medidiff.trust import Examined
from medidiff.trust.blobs import Blob
from medidiff.views import DIVERGING, PLANES, SEQUENTIAL, SOFT_TISSUE_HU, Colours, grey_window, side, symmetric_reach
from medidiff.volume import Geometry, Provenance, Volume

__all__ = ["CaseReport", "case_report"]

_OBLIQUE_DEGREES = 0.5
_QUIETER = "What is taken away should look like noise: no edge, no fold, no vessel."
_SHARPER = (
    "What is added should follow edges and folds that the scan shows, less blurred than by interpolation; a spot or a "
    "structure that the scan has no trace of is the prior's invention."
)
_Pairs = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class CaseReport:
    """What was found of one case.

    Args:
        page: the whole HTML page.
        checks: in the order in which they are shown.
        measures: the numbers behind them.
        support: what the scan says of the result; None where it says nothing.
    """

    page: str
    checks: tuple[Check, ...]
    measures: Measures
    support: Examined | None

    @property
    def flags(self) -> tuple[str, ...]:
        """Keys of the checks that ask for a look."""
        return tuple(check.key for check in self.checks if check.state == "look")


def case_report(
    before: Volume,
    after: Volume,
    *,
    name: str = "",
    spread: Volume | None = None,
    provenance: Provenance | None = None,
    radiological: bool = True,
    window: tuple[float, float] | None = None,
) -> CaseReport:
    """Measure a result against the scan that it was made from, and show both.

    The same arguments give the same bytes. What the page shows of a patient is the slices; a head that is not
    brain-extracted has a face.

    Args:
        before: (1, I, J, K) the scan as it was measured.
        after: (1, I, J, K) the result, on the scan's grid or a finer one along the same axes.
        name: what the case is called on the page; nothing that names a patient.
        spread: (1, I, J, K) standard deviation of the draws, on the grid of the result.
        provenance: how the result was made.
        radiological: the patient's right on the left of the picture; false for the mirror image.
        window: black and white of the slices; when left out from 0 to the brightest tissue but for a
            bright scalp, for CT soft tissue.

    Raises:
        InputError: several channels, voxels that are not finite, or grids that do not fit each other; ``E-GRID``, a
            spread on another grid than the result.
    """
    before, after = with_filler_marked(before), with_filler_marked(after)
    pair = Pair.of(before, after)
    told = dict(provenance.settings) if provenance else {}
    deviation = None if spread is None else _deviation(spread, pair)
    kind: NoiseKind = "gaussian" if told.get("noise") == "gaussian" or before.modality in ("CT", "PT") else "rician"
    found = measure(pair, kind=kind, operator=operator_of(pair, told), spread=deviation)
    level = number(told.get("noise_level"))
    judged = number(provenance.support.get("level")) if provenance else None  # the prior may have been told more
    support = support_of(pair, told, kind=kind, level=judged or level or found.noise_before)
    results = checks(found, superresolved=pair.interpolated, told=level, support=support)
    results += scope_checks(provenance)
    layers = _layers(pair, deviation, window)
    shown = sheets(layers, pair.field, pair.geometry, radiological=radiological)
    units, noise = before.units or "a.u.", level or found.noise_before
    page = render(
        "case",
        name=name or "unnamed case",
        task=provenance.task if provenance else "restored",
        facts=_facts(pair, found, level, units, provenance),
        checks=results,
        flagged=[check for check in results if check.state == "look"],
        unread=sum(check.state == "unread" for check in results),
        sheets=[_Plane.of(sheet) for sheet in shown],
        colours={layer.kind: ",".join(_hex(layer.colours)) for layer in layers if layer.colours},
        convention=_convention(pair.geometry, radiological=radiological),
        grey=[f"{edge:.4g}" for edge in layers[0].window],
        shown_note=_shown_note(pair, shown),
        units=units,
        change=_scale(layers[2], noise) | {"note": _change_note(pair, found, noise, units)},
        spread=None if deviation is None else _scale(layers[3], noise) | {"note": _spread_note(found, noise, units)},
        draws=told.get("draws") or "the",
        spectrum=spectrum_chart(found, interpolated=pair.interpolated),
        brightness=brightness_chart(found, before.units),
        measures=_measured(pair, found, units) + _places(support, units),
        provenance=_told(provenance) if provenance else [],
        decisions=provenance.decisions if provenance else (),
    )
    return CaseReport(page, results, found, support)


def _deviation(spread: Volume, pair: Pair) -> NDArray[np.float32]:
    """(I, J, K) the spread, voxel by voxel beside the result."""
    apart = spread.geometry.distance_mm(pair.geometry)
    if spread.data.shape[0] != 1 or apart > SAME_GRID_MM:
        found = f"a spread {apart:.4g} mm away from the result" if np.isfinite(apart) else f"a spread of {spread.shape}"
        mend = "Give the spread that was written with this result."
        raise InputError("E-GRID", found, wanted=f"the result's grid of {pair.after.shape} voxels", mend=mend)
    return np.asarray(spread.data[0], dtype=np.float32)


# ------------------------------------------------------------------------------------------------------- what is shown


@dataclass(frozen=True, slots=True)
class _Plane:
    """A sheet with the words that stand beside its sliders."""

    sheet: Sheet
    labels: tuple[str, ...]

    @classmethod
    def of(cls, sheet: Sheet) -> _Plane:
        normal = next(plane.normal for plane in PLANES if plane.name == sheet.plane)
        return cls(sheet, tuple(f"{side(normal, place)} {abs(place):.0f} mm" for place in sheet.places_mm))


def _layers(pair: Pair, spread: Any, window: tuple[float, float] | None) -> list[Layer]:
    grey = window or (SOFT_TISSUE_HU if pair.before.modality == "CT" else grey_window(pair.shown, pair.inside))
    change = pair.change
    reach = symmetric_reach(change[pair.inside])
    layers = [
        Layer("before", pair.shown, grey),
        Layer("after", pair.answer, grey),
        Layer("change", change, (-reach, reach), DIVERGING),
    ]
    if spread is not None:
        layers.append(Layer("spread", spread, (0.0, symmetric_reach(spread[pair.inside])), SEQUENTIAL))
    return layers


def _hex(colours: Colours) -> list[str]:
    return ["".join(f"{channel:02x}" for channel in colour) for colour in colours]


def _scale(layer: Layer, level: float | None) -> dict[str, Any]:
    """A colour bar: its colours, its ticks, and above it the noise level, its words where there is room."""
    low, high = layer.window
    ticks = {low: f"{low:.3g}", 0.0: "0", high: f"{high:.3g}"}
    levels = []
    if level and level < high:
        outward, inward = ("start", "end") if level < high / 2 else ("end", "start")
        levels = [(level, "noise level", outward)] + ([(-level, "− noise level", inward)] if low < 0 else [])

    def place(value: float) -> float:
        return round((value - low) / (high - low), 4)

    return {
        "colours": _hex(layer.colours),
        "ticks": [(place(value), text) for value, text in ticks.items()],
        "levels": [(place(value), text, anchor) for value, text, anchor in levels],
    }


def _convention(geometry: Geometry, *, radiological: bool) -> str:
    name, side = ("Radiological", "left") if radiological else ("Neurological", "right")
    words = f"{name} convention: the patient's right is on the {side} of axial and coronal slices."
    tilt = geometry.tilt_degrees
    if tilt > _OBLIQUE_DEGREES:
        words += f" Oblique scan, shown along its own axes: the letters are up to {tilt:.0f}° off."
    return words


def _shown_note(pair: Pair, shown: Sequence[Sheet]) -> str:
    notes = []
    if pair.interpolated:
        notes.append("The scan before is interpolated to the grid of the result (cubic B-spline).")
    most = max(max(sheet.thinned) for sheet in shown)
    if most > 1:
        notes.append(f"Every {most}nd voxel is shown." if most == 2 else f"Every {most}th voxel is shown.")
    return " ".join(notes)


def _change_note(pair: Pair, m: Measures, level: float | None, units: str) -> str:
    words = f"Standard deviation {m.deviation:.4g} {units}"
    if level:
        words += f", which is {m.deviation / level:.3g} of the noise level of {level:.4g}"
    return f"{words}; mean {m.mean:+.3g}. {_SHARPER if pair.interpolated else _QUIETER}"


def _spread_note(m: Measures, level: float | None, units: str) -> str:
    words = f"Mean {m.spread:.4g} {units}" if m.spread is not None else ""
    if level and m.spread is not None:
        words += f", which is {m.spread / level:.3g} of the noise level"
    return f"{words}. Where it is large, the draws differ, and the answer is more the prior's than the scan's."


# ------------------------------------------------------------------------------------------------------ what is listed


def _facts(pair: Pair, m: Measures, level: float | None, units: str, provenance: Provenance | None) -> _Pairs:
    facts = [("Scan", f"{pair.before.modality}, {_grid(pair.before.geometry)}")]
    if pair.interpolated:
        facts.append(("Result", _grid(pair.after.geometry)))
    facts.append(("Noise level before", _level(m.noise_before, m.tissue, units)))
    if level:
        facts.append(("Noise level told", _level(level, m.tissue, units)))
    facts.append(("Noise level after", _level(m.noise_after, m.tissue, units)))
    if provenance and provenance.prior:
        facts.append(("Prior", str(provenance.prior.get("name", ""))))
    return facts


def _grid(geometry: Geometry) -> str:
    size = " × ".join(str(n) for n in geometry.shape)
    spacing = " × ".join(f"{s:.3g}" for s in geometry.spacing_mm)
    return f"{size} voxels of {spacing} mm, {geometry.orientation}"


def _level(level: float | None, tissue: float, units: str) -> str:
    return "cannot be read" if level is None else f"{level:.4g} {units} ({100 * level / tissue:.2g} % of the tissue)"


def _measured(pair: Pair, m: Measures, units: str) -> _Pairs:
    correlation = ", ".join(f"{axis} {value:+.3f}" for axis, value in zip("IJK", m.correlation, strict=True))
    made = 0 if pair.after.filled is None else int(pair.after.filled.sum())
    padded = 0 if pair.after.padding is None else int(pair.after.padding.sum())
    rows = [
        ("Tissue", f"{m.voxels:,} voxels, brightness {m.tissue:.4g} {units}"),
        ("Mean of the change", f"{m.mean:+.4g} {units}"),
        ("Standard deviation of the change", f"{m.deviation:.4g} {units}"),
        ("Autocorrelation of the change, next voxel", correlation),
        ("Scan less what it sees of the result, rms", f"{m.residual:.4g} {units}"),
        ("Range before", f"{m.range_before[0]:.4g} to {m.range_before[1]:.4g} {units}"),
        ("Range after", f"{m.range_after[0]:.4g} to {m.range_after[1]:.4g} {units}"),
        ("Voxels that a repair made up", f"{made:,}"),
        ("Voxels of padding", f"{padded:,}"),
    ]
    if m.spread is not None:
        rows.append(("Mean spread of the draws", f"{m.spread:.4g} {units}"))
    return rows


def _places(support: Examined | None, units: str) -> _Pairs:
    """The places that the scan speaks against, and what else it says of the result."""
    if support is None:
        return []
    rows = [(f"Place {number}", _place(flag, units)) for number, flag in enumerate(support.flags, 1)]
    if support.more:
        rows.append(("Further places", str(support.more)))
    if support.rings is not None:
        rows.append(("Detail shared with the scan, half of the windows", f"{support.rings.resolution_mm:.2f} mm"))
        rows.append(("Least support of a window by its scan", f"{support.rings.least:.2f}"))
    return rows


def _place(flag: Blob, units: str) -> str:
    what = f"something {'bright' if flag.bright else 'dark'} {flag.kind}, about {flag.diameter_mm:.0f} mm across"
    where = ", ".join(f"{side(axis, at)} {abs(at):.0f}" for axis, at in enumerate(flag.centre_mm))
    return f"{what} at {where} mm; {abs(flag.z):.1f} σ, {flag.amount:+.3g} {units}"


def _told(provenance: Provenance) -> _Pairs:
    prior = provenance.prior or {"name": "none"}
    rows = [
        ("Task", provenance.task),
        ("medidiff", provenance.version),
        *((f"Prior: {key}", str(value)) for key, value in sorted(prior.items())),
        ("Seed", str(provenance.seed)),
        *((f"Input {number}, sha256", digest) for number, digest in enumerate(provenance.inputs[:3], 1)),
    ]
    if len(provenance.inputs) > 3:
        rows.append(("Further inputs", f"{len(provenance.inputs) - 3} files, named in the record beside the result"))
    rows += [(f"Setting: {key}", _plain(value)) for key, value in sorted(provenance.settings.items())]
    rows += [(f"Environment: {key}", _plain(value)) for key, value in sorted(provenance.environment.items())]
    return rows


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(part) for part in value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
