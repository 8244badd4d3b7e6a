"""The tables of ``docs/scope.md``, from kept results alone; see `tables.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from findings import Finding, slug
from scipy import stats
from tables import Results, Table, source

__all__ = ["MARKED", "SCOPE", "alarms", "attack", "attack_alarms", "caught", "missed"]

MARKED = 1  # what scores above lies beyond a limit
_AUROC, _AT_FIVE = 0.95, 0.9  # what was aimed at
_SHOWN = 6  # cases of a kind that are named
_INSIDE, _OUTSIDE = "in scope", "not in scope"


# ---------------------------------------------------------------------------------------------------- our own cases


def alarms(found: Finding) -> Table:
    """Scans of the right kind that are marked, by case."""
    scores = {case: found.of("score", _INSIDE, case) for case in found.params[_INSIDE].split("; ")}
    every = [score for each in scores.values() for score in each]
    rows = [_counted(case, each) for case, each in scores.items()]
    most = stats.binomtest(_marked(every), len(every)).proportion_ci(0.95, method="exact").high
    seconds = found.of("seconds", "about 128 cubed")[0]
    note = (
        f"{len(every)} scans of {found.params['people']} people; if they were independent, at most {100 * most:.1f} % "
        f"of such scans would be marked (Clopper-Pearson, 95 %). At a limit of "
        f"{found.of('limit', '5 of the right kind')[0]:.2f} in place of 1, 5 % of these are. {seconds:.2f} CPU-s for "
        f"about 128³ voxels (median). {source(found)}"
    )
    return Table(("of the right kind", "n", "marked", "largest score"), (*rows, _counted("**all**", every)), note)


def caught(found: Finding) -> str:
    """Cases all of whose scans are caught and score higher than any of the right kind, by the number of scans."""
    whole = [case for case in _cases(found) if _whole(found, case)]
    numbers = {case: len(found.of("score", _OUTSIDE, case)) for case in whole}
    lines = []
    for n in sorted(set(numbers.values()), reverse=True):
        least = stats.binomtest(n, n).proportion_ci(0.95, method="exact").low
        scans = f"{n} scans each" if n > 1 else "1 scan each"
        names = "; ".join(case for case in whole if numbers[case] == n)
        lines.append(f"- {scans} (all caught: at least {100 * least:.0f} %, Clopper-Pearson): {names}")
    return "\n".join(lines)


def missed(found: Finding) -> Table:
    """The other cases."""
    limit = found.of("limit", "5 of the right kind")[0]
    rows, short = [], []
    for case in (case for case in _cases(found) if not _whole(found, case)):
        each = found.of("score", _OUTSIDE, case)
        at_five = sum(score > limit for score in each) / len(each)
        cells = (f"{_marked(each) / len(each):.2f}", _range(found, "caught", case), f"{at_five:.2f}")
        rows.append((case, str(len(each)), *cells, *_auroc(found, _OUTSIDE, case)))
        if found.of("auroc", _OUTSIDE, case)[0] < _AUROC or at_five < _AT_FIVE:
            short.append(case)
    head = ("not all caught", "n", "caught", "95 %", "caught at 5 % false alarms", "AUROC", "95 %")
    note = (
        f"Intervals are of a bootstrap over people. The targets (AUROC of at least {_AUROC}, {100 * _AT_FIVE:.0f} % "
        f"caught at 5 % of false alarms) are not reached by: {'; '.join(short) or 'none of these'}."
    )
    return Table(head, tuple(rows), note)


def _cases(found: Finding) -> list[str]:
    return found.params[_OUTSIDE].split("; ")


def _whole(found: Finding, case: str) -> bool:
    each = found.of("score", _OUTSIDE, case)
    return _marked(each) == len(each) and found.of("auroc", _OUTSIDE, case)[0] == 1


# ---------------------------------------------------------------------------------------------------- another's cases


def attack(found: Finding) -> Table:
    """Each kind as a whole, its scans that are not of the training site, and what is missed most."""
    rows = []
    for kind in found.params["kinds"].split("; "):
        scores = _by_place(found, kind)
        every = [score for each in scores.values() for _, score in each]
        elsewhere = [score for _, score in scores["elsewhere"]]
        cells = (str(len(every)), f"{_marked(every) / len(every):.2f}", *_auroc(found, kind))
        told = _named([case for each in scores.values() for case, score in each if score <= MARKED])
        rows.append((kind, *cells, f"{_marked(elsewhere)} of {len(elsewhere)}", told))
    head = ("kind", "n", "caught", "AUROC", "95 %", "caught, not of the training site", "missed most")
    inside = sum(len(each) for each in _by_place(found, _INSIDE).values())
    note = f"AUROC against {inside} scans of the right kind, of {found.params['people']} people; bootstrap over people."
    return Table(head, tuple(rows), f"{note} {source(found)}")


def attack_alarms(found: Finding) -> Table:
    """Scans of the right kind that are marked, by where they are from; those changed more than a user's apart."""
    places = _by_place(found, _INSIDE)
    together = [each for place in places.values() for each in place]
    harsh = [each for place in _by_place(found, "harsh").values() for each in place]
    named = {"the training site": places["training site"], "elsewhere": places["elsewhere"], "**all**": together}
    named["not counted: resampled, turned by interpolation, zero mean, 40 % shading"] = harsh
    rows = []
    for words, each in named.items():
        marked = [case for case, score in each if score > MARKED]
        share = f"{100 * len(marked) / len(each):.1f} %" if each else ""
        rows.append((words, str(len(each)), str(len(marked)), share, _named(marked)))
    return Table(("of the right kind", "n", "marked", "share", "marked most"), tuple(rows))


def _by_place(found: Finding, kind: str) -> dict[str, list[tuple[str, float]]]:
    """Case and score of each scan of a kind, by place."""
    names = {slug(case): case for case in found.params.get(f"cases.{kind}", "").split("; ")}
    out: dict[str, list[tuple[str, float]]] = {"training site": [], "elsewhere": []}
    for keys in found.rows():
        if len(keys) == 3 and keys[0] == slug(kind):
            out[keys[1]] += [(names[keys[2]], score) for score in found.of("score", *keys)]
    return out


def _named(cases: Sequence[str]) -> str:
    """The cases that come most often, with their numbers, and how many scans are of others."""
    most = sorted(Counter(cases).items(), key=lambda each: -each[1])
    told = [f"{case} ({n})" if n > 1 else case for case, n in most[:_SHOWN]]
    rest = sum(n for _, n in most[_SHOWN:])
    return "; ".join([*told, f"{rest} more"] if rest else told)


# ------------------------------------------------------------------------------------------------------------ the cells


def _counted(words: str, scores: Sequence[float]) -> tuple[str, ...]:
    return words, str(len(scores)), str(_marked(scores)), f"{max(scores):.2f}"


def _marked(scores: Sequence[float]) -> int:
    return sum(score > MARKED for score in scores)


def _auroc(found: Finding, *keys: str) -> tuple[str, str]:
    low, high = found.of("auroc_low", *keys)[0], found.of("auroc_high", *keys)[0]
    return f"{found.of('auroc', *keys)[0]:.3f}", f"{low:.2f} to {high:.2f}"


def _range(found: Finding, figure: str, case: str) -> str:
    low, high = (found.of(f"{figure}_{end}", _OUTSIDE, case)[0] for end in ("low", "high"))
    return f"{low:.2f} to {high:.2f}"


def _of(name: str, made: Callable[[Finding], Table | str]) -> Callable[[Results], Table | str]:
    """The block of one result."""
    return lambda results: made(results[name])


SCOPE: dict[str, Callable[[Results], Table | str]] = {
    "scope-alarms": _of("scope", alarms),
    "scope-caught": _of("scope", caught),
    "scope-missed": _of("scope", missed),
    "scope-attack": _of("scope-attack", attack),
    "scope-attack-alarms": _of("scope-attack", attack_alarms),
}
