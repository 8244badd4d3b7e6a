"""Figures from what `calibration.py` measured: spread against error, coverage, lesions, and who is claimed.

What is chosen is chosen on validation subjects: the factors that bring the standardised error to 1 are theirs, and are
applied to test subjects. Coverage is over 200 random re-splits of all held-back subjects: a re-split calibrates on all
but one, at every setting, and looks at the one. There are only as many different re-splits as subjects, so the figure
is in truth that of leaving each out in turn; it says what to *expect* of a new patient, and the spread over subjects
says how far a single one may be from it. ``any level`` gives each subject one of the task's settings by chance, as a
user's own pairs would have.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from calibration import SETTINGS
from findings import machine, series
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.trust import Calibration, Case, Made
from medidiff.trust.cases import case_from_json
from medidiff.trust.conformal import cap_of, controlled, needed
from medidiff.trust.nodes import factors
from medidiff.trust.tally import REACHES, SIZES_MM, Tally
from medidiff.version import __version__

__all__ = [
    "PLAIN",
    "RESPLITS",
    "Record",
    "bundled",
    "claims",
    "coverage",
    "finding",
    "fitted",
    "flags",
    "lesions",
    "load",
    "shipped",
    "standardised",
    "summary",
]

RESPLITS = 200
_CORRELATIONS = ("spearman", "spearman_4_mm", "spearman_8_mm")
_FIGURES = [*_CORRELATIONS, "standardised", "standardised_before", "bins", "coverage", "coverage_sd"]
_FIGURES += ["in_lesions", "lesion_voxels", "claimed", "inside", "bundled_claimed", "bundled_inside"]
_BINS = 8
_LEFT_OUT = {"crop": 0, "draws": 8, "steps": 4}  # what `calibration.py` does without options
PLAIN = [name for name, setting in SETTINGS.items() if not setting.change]


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One file of raw figures."""

    part: str
    name: str
    setting: str
    case: Case
    made: Made
    figures: Mapping[str, float]
    lesions: Mapping[str, Mapping[str, Any]]
    crop: int
    device: str

    @property
    def own(self) -> bool:
        """Whether the subject was held back from ds002748."""
        return self.part in ("validation", "test")

    @property
    def subject(self) -> str:
        """Part and place."""
        return f"{self.part}-{self.name}"


def load(folder: Path) -> list[Record]:
    """All raw figures of a folder.

    Raises:
        InputError: ``E-DATA``, there are none, or they were not made alike.
    """
    found = []
    for path in sorted((folder / "raw").glob("*.json")):
        held = json.loads(path.read_text(encoding="utf-8"))
        case, made = case_from_json(json.dumps(held["case"])), Made(**held["made"])
        words = {name: held[name] for name in ("part", "name", "figures", "lesions", "crop", "device")}
        found.append(Record(setting=held["setting"]["name"], case=case, made=made, **words))
    kinds = {(dataclasses.replace(each.made, task="denoise"), each.crop) for each in found}
    if len(kinds) != 1:
        raise InputError(
            "E-DATA", f"{len(found)} raw figures, made in {len(kinds)} ways", wanted="raw figures of one way"
        )
    return found


def chosen(records: Sequence[Record], setting: str, parts: Sequence[str]) -> list[Record]:
    """The records of one setting and some parts."""
    return [each for each in records if each.setting == setting and each.part in parts]


# --- spread against error --------------------------------------------------------------------------------------------


def standardised(records: Sequence[Record], setting: str) -> dict[str, Any] | None:
    """Standardised error of test subjects, rms of truth - mean over the expected error, before and after the factors.

    The factors are those of validation subjects. Bins are eight equal groups of the expected error; subjects weigh
    alike.
    """
    fit, test = (chosen(records, setting, [part]) for part in ("validation", "test"))
    if not fit or not test:
        return None
    held = np.log(np.array(factors([each.case.tally for each in fit]))).T
    each = [_binned(record.case.tally, held) for record in test]
    pooled = _pooled([record.case.tally for record in test], held)
    return {
        "before": [float(np.sqrt(e.case.tally.squares[1].sum() / e.case.tally.squares[2].sum())) for e in test],
        "after": [float(np.sqrt(off.sum() / error.sum())) for off, error in each],
        "bins": [float(v) for v in pooled],
    }


def _binned(tally: Tally, held: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of squared errors and of squared corrected expectations by bin of the expectation."""
    count, off, error = tally.squares
    mean = np.sqrt(error / np.maximum(count, 1))
    factor = np.exp(np.interp(np.log(np.maximum(mean, 1e-12)), *held))
    return off, error * factor**2


def _pooled(tallies: Sequence[Tally], held: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = [1 / tally.squares[0].sum() for tally in tallies]
    count = np.sum([w * tally.squares[0] for w, tally in zip(weights, tallies, strict=True)], axis=0)
    sums = np.sum([w * np.stack(_binned(tally, held)) for w, tally in zip(weights, tallies, strict=True)], axis=0)
    there = count > 0
    order = (np.cumsum(count[there]) - count[there] / 2) / count.sum() * _BINS
    group = np.minimum(order.astype(int), _BINS - 1)
    off, error = (np.bincount(group, row[there], minlength=_BINS) for row in sums)
    return np.sqrt(off[error > 0] / error[error > 0])


# --- coverage --------------------------------------------------------------------------------------------------------


def at(curve: NDArray[np.float64], reach: float) -> float:
    """Share inside an interval of this reach."""
    return float(1 - curve[np.searchsorted(REACHES, reach)])


def coverage(
    records: Sequence[Record],
    settings: Sequence[str],
    *,
    size: int = 1,
    share: float = 0.9,
    cap: float | None = None,
    hold: int = 1,
) -> list[float] | None:
    """Coverage of the subjects left out of each of the re-splits.

    Args:
        records: raw figures.
        settings: of one task; several give each subject one of them by chance, anew in every re-split.
        size: of the blocks in mm.
        share: that is asked for.
        cap: B; twice what may be outside when None.
        hold: subjects left out of the calibration.
    """
    curves: dict[str, list[NDArray[np.float64]]] = {}
    for setting in settings:
        for each in chosen(records, setting, ("validation", "test")):
            if size in each.case.tally.outside:
                curves.setdefault(each.subject, []).append(each.case.tally.outside[size])
    subjects = sorted(name for name, found in curves.items() if len(found) == len(settings))
    if len(subjects) - hold < needed(share):
        return None
    rng, found = np.random.default_rng(0), []
    for _ in range(RESPLITS):
        order = rng.permutation(subjects)
        one = {name: curves[name][rng.integers(len(settings))] for name in order}
        held = np.stack([one[name] for name in order[hold:]])
        reach = controlled(held, share=share, cap=cap_of(share) if cap is None else cap)
        found.append(float(np.mean([at(one[name], reach) for name in order[:hold]])))
    return found


def lesions(records: Sequence[Record], setting: str) -> dict[str, tuple[float, int]]:
    """Coverage of voxels in lesions that were put into test subjects, by diameter in mm, and how many voxels.

    The calibration is that of all other subjects, without lesions.
    """
    inside: dict[str, list[tuple[float, int]]] = {}
    for record in chosen(records, f"{setting}-lesions", ("test",)):
        others = [
            each.case.tally.outside[1]
            for each in chosen(records, setting, ("validation", "test"))
            if each.subject != record.subject
        ]
        if len(others) < needed(0.9):
            continue
        reach = controlled(np.stack(others), share=0.9, cap=cap_of(0.9))
        for diameter, told in record.lesions.items():
            inside.setdefault(diameter, []).append((at(np.array(told["outside"]), reach), told["voxels"]))
    return {
        diameter: (float(np.average([c for c, _ in found], weights=[n for _, n in found])), sum(n for _, n in found))
        for diameter, found in inside.items()
    }


# --- flags -----------------------------------------------------------------------------------------------------------


def fitted(records: Sequence[Record], task: str, *, without: str = "", share: float = 0.9) -> Calibration | None:
    """The calibration of a task from all held-back subjects but one; None with too few."""
    settings = [name for name in PLAIN if SETTINGS[name].task == task and chosen(records, name, ("test",))]
    kept = [e for s in settings for e in chosen(records, s, ("validation", "test")) if e.subject != without]
    subjects = {e.subject for e in kept}
    whole = [e for e in kept if sum(o.subject == e.subject for o in kept) == len(settings)]
    if len(subjects) < needed(share) or len(whole) < len(kept):
        return None
    made = whole[0].made
    return Calibration.fit([e.case for e in whole], made, share=share, origin="degraded", version=__version__)


def flags(records: Sequence[Record]) -> list[dict[str, Any]]:
    """For every record: whether a calibration without the subject claims its share, why not, and its coverage."""
    cache: dict[tuple[str, str], Calibration | None] = {}
    found = []
    for record in records:
        task = SETTINGS[record.setting].task
        key = (task, record.subject if record.own else "")
        if key not in cache:
            cache[key] = fitted(records, task, without=key[1])
        held = cache[key]
        if held is not None:
            reasons = held.objections(record.case.seen)
            inside = at(record.case.tally.outside[1], held.at(record.case.seen).reaches[1])
            row = {"subject": record.subject, "setting": record.setting, "claimed": not reasons, "coverage": inside}
            found.append(row | {"reasons": list(reasons)})
    return found


def bundled(records: Sequence[Record], share: float = 0.8) -> list[dict[str, Any]]:
    """For every scan but those of validation subjects: whether their calibration claims its share, and its coverage."""
    held = {}
    for task in ("denoise", "superresolve"):
        own = {r.subject for r in records if r.part == "validation" and SETTINGS[r.setting].task == task}
        if len(own) >= needed(share):
            held[task] = shipped(records, task, share)
    found = []
    for record in records:
        one = held.get(SETTINGS[record.setting].task)
        if one is not None and record.part != "validation":
            reasons = one.objections(record.case.seen)
            inside = at(record.case.tally.outside[1], one.at(record.case.seen).reaches[1])
            row = {"subject": record.subject, "setting": record.setting, "claimed": not reasons, "coverage": inside}
            found.append(row | {"reasons": list(reasons)})
    return found


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Every figure of the page."""
    there = [name for name in PLAIN if chosen(records, name, ("test",))]
    tasks = {task: [name for name in there if SETTINGS[name].task == task] for task in ("denoise", "superresolve")}
    rows: dict[str, Any] = {"spread": {}, "standardised": {}, "coverage": {}, "lesions": {}}
    for name in there:
        names = ("spearman", "spearman_4_mm", "spearman_8_mm", "rms_error", "rms_expected")
        test = chosen(records, name, ("test",))
        rows["spread"][name] = {each: [record.figures[each] for record in test] for each in names}
        rows["standardised"][name] = standardised(records, name)
        rows["coverage"][name] = {str(size): coverage(records, [name], size=size) for size in SIZES_MM[1:]}
        rows["lesions"][name] = lesions(records, name)
    for task, names in tasks.items():
        if names:
            rows["coverage"][f"{task}, any level"] = {"1": coverage(records, names)}
            rows["coverage"][f"{task}, any level, no cap"] = {"1": coverage(records, names, cap=1.0)}
            rows["coverage"][f"{task}, any level, 80 %, 5 left out"] = {
                "1": coverage(records, names, share=0.8, hold=5)
            }
    return rows | {"flags": flags(records), "bundled": bundled(records)}


def claims(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Rows of `flags` or `bundled` by what was scanned: ours at each setting, then shifted ones, then other sites."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        part, _, rest = row["subject"].partition("-")
        kind = f"{rest.rsplit('-', 1)[0]}, {row['setting']}" if part == "foreign" else row["setting"]
        groups.setdefault(kind, []).append(row)
    return dict(sorted(groups.items(), key=lambda item: (item[0] not in PLAIN, item[0])))


def finding(records: Sequence[Record], rows: Mapping[str, Any]) -> dict[str, Any]:
    """What `report.py keep` takes."""
    first = records[0]
    each: list[dict[str, Any]] = []

    def one_by_one(setting: str, **told: Sequence[float]) -> None:
        for name, values in told.items():
            each.extend({"setting": setting, "scan": n, name: float(v)} for n, v in enumerate(values, 1))

    for name, told in rows["spread"].items():
        one_by_one(name, **{figure: told[figure] for figure in _CORRELATIONS})
    for name, found in rows["standardised"].items():
        if found:
            one_by_one(name, standardised=found["after"], standardised_before=found["before"], bins=found["bins"])
    for name, by_size in rows["coverage"].items():
        for size, values in by_size.items():
            if values:
                one_by_one(f"{name} {size} mm", coverage=[np.mean(values)], coverage_sd=[np.std(values, ddof=1)])
    for name, by_diameter in rows["lesions"].items():
        for diameter, (inside, count) in by_diameter.items():
            one_by_one(f"{name} {diameter} mm", in_lesions=[inside], lesion_voxels=[count])
    for kind, found in claims(rows["flags"]).items():
        one_by_one(kind, claimed=[row["claimed"] for row in found], inside=[row["coverage"] for row in found])
    for kind, found in claims(rows["bundled"]).items():
        told = {
            "bundled_claimed": [row["claimed"] for row in found],
            "bundled_inside": [row["coverage"] for row in found],
        }
        one_by_one(kind, **told)
    figures = series(each, by=["setting"], values=_FIGURES)
    made = {"crop": first.crop, "draws": first.made.draws, "steps": first.made.steps}
    words = [f" --{name} {value}" for name, value in made.items() if value != _LEFT_OUT[name]]
    params = {
        "command": f"python validation/calibration.py{''.join(words)}",
        "set": "t1-ds002748",
        "device": first.device,
    }
    params |= {"draws": str(first.made.draws), "steps": str(first.made.steps), "load": "not recorded"}
    params |= {"prior": f"{first.made.prior} {first.made.prior_sha256}", "version": __version__}
    params |= {"region": f"central {first.crop}³ voxels" if first.crop else "whole scan"}
    told = {name: value for name, value in machine(first.device).items() if name in ("machine", "day", "gpu")}
    return {
        "params": params | told,
        "figures": {name: list(map(list, points.items())) for name, points in figures.items()},
    }


def shipped(records: Sequence[Record], task: str, share: float) -> Calibration:
    """The calibration of the bundled split: the validation subjects.

    Raises:
        SettingsError: ``E-PATIENTS``, they are too few for the share.
    """
    kept = [each for each in records if each.part == "validation" and SETTINGS[each.setting].task == task]
    if not kept:
        raise InputError("E-DATA", f"no validation subjects at {task}", wanted="raw figures of them")
    cases = [each.case for each in kept]
    return Calibration.fit(cases, kept[0].made, share=share, origin="degraded", version=__version__)
