"""The tables and sentences with figures that stand in the README and in ``docs/``, made from kept results alone.

Each entry of `MAIN`, `observer_tables.OBSERVERS`, `scope_tables.SCOPE`, `set_tables.SETS` and `trust_tables.TRUST`
makes one block from ``validation/results/*.json``. Where it stands is marked there, ``<!-- results: NAME -->`` to
``<!-- end -->``; `report.py fill` writes it, and a test compares.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from findings import RESULTS, Finding, read

__all__ = ["MAIN", "NAMES", "Results", "Table", "every_figure", "mean_sd", "source"]

ROOT = Path(__file__).resolve().parents[1]
BUNDLED = ROOT / "medidiff" / "prior" / "bundled"
NAMES = {
    "noisy input": "noisy",
    "gaussian": "Gaussian, best width",
    "nlmeans": "DIPY NLMEANS, best setting",
    "bm4d": "BM4D, unbiased",
    "noisy": "noisy",
    "cubic b-spline": "cubic B-spline",
    "what the slices hold": "what the slices hold, without noise",
    "medidiff": "medidiff",
}


@dataclass(frozen=True, slots=True)
class Table:
    """Cells of Markdown, a line on where they come from, and how many columns at the left hold words."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    words: int = 1

    def markdown(self) -> str:
        """As it stands in a page."""
        rule = ["---"] * self.words + ["--:"] * (len(self.head) - self.words)
        rows = [[cell.replace("|", r"\|") for cell in row] for row in (self.head, tuple(rule), *self.rows)]
        lines = [f"| {' | '.join(row)} |" for row in rows]
        return "\n".join(lines) + (f"\n\n{self.note}" if self.note else "")

    def html(self) -> str:
        """As it stands in the report."""
        rows = [f"<tr>{''.join(f'<td>{_inline(c)}</td>' for c in row)}</tr>" for row in self.rows]
        head = "".join(f"<th>{_inline(c)}</th>" for c in self.head)
        note = f"<p class='note'>{_inline(self.note)}</p>" if self.note else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{note}"


class Results(Mapping[str, Finding]):
    """The kept results of a folder, each read when it is first asked for."""

    def __init__(self, folder: Path = RESULTS) -> None:
        self.paths = {path.stem: path for path in sorted(folder.glob("*.json"))}
        self.known: dict[str, Finding] = {}

    def __getitem__(self, name: str) -> Finding:
        """A result, or `KeyError`."""
        if name not in self.known:
            self.known[name] = read(self.paths[name])
        return self.known[name]

    def __iter__(self) -> Iterator[str]:
        """Their names."""
        return iter(self.paths)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.paths)


def mean_sd(values: Sequence[float], digits: int, *, bold: bool = False) -> str:
    """Mean and, of several cases, their standard deviation."""
    mean = f"{np.mean(values):.{digits}f}"
    mean = f"**{mean}**" if bold else mean
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def best(columns: Mapping[str, Sequence[float]], digits: int, *, most: bool = True) -> set[str]:
    """Whose mean, as it is printed, is the best."""
    means = {name: round(float(np.mean(values)), digits) for name, values in columns.items()}
    wanted = (max if most else min)(means.values())
    return {name for name, mean in means.items() if mean == wanted}


def source(found: Finding) -> str:
    """Data, command, prior, machine and day of a result in one line; says when the bundled weights are others."""
    told = found.params
    scans = len(told["scans"].split()) if "scans" in told else 0
    whose = f"{scans} scan{'s' * (scans > 1)}" if scans else ""
    data = ", ".join(filter(None, (whose, told.get("set", ""), told.get("part", ""), told.get("region", ""))))
    prior = told.get("prior", "none")
    priors = "" if prior == "none" else ", ".join(map(_prior, prior.split(", ")))
    place = f"{told.get('gpu') or told.get('machine', 'machine unknown')}, load {told.get('load', 'unknown')}"
    peers = f", peers {told['peers']}" if "peers" in told else ""
    said = (data, priors, f"`{told['command']}`{peers}", place, told.get("day", "day unknown"))
    return "; ".join(filter(None, said)) + "."


def _prior(told: str) -> str:
    """A prior's name with the beginning of its weights' hash, and whether those are the bundled ones."""
    name, _, weights = told.partition(" ")
    if not weights:
        return name
    return f"{name} {weights[:8]}" + ("" if weights == bundled(name) else " (**not the weights that are bundled now**)")


def bundled(name: str) -> str:
    """SHA-256 of the weights of a bundled prior; empty for one that is not bundled."""
    for path in (BUNDLED / f"{name}.json", BUNDLED / "whole" / f"{name}.json"):
        if path.is_file():
            return str(json.loads(path.read_text(encoding="utf-8"))["weights_sha256"])  # no Card: that loads torch
    return ""


def every_figure(found: Finding) -> Table:
    """All that a result holds: a row for whatever is told apart, mean ± standard deviation over the cases."""
    figures = list(dict.fromkeys(name.split("/")[0] for name in found.figures))
    rows = []
    for keys in found.rows():
        cells = [found.figures.get("/".join((figure, *keys)), {}) for figure in figures]
        count = max(map(len, cells))
        rows.append((", ".join(keys) or "all", str(count), *(mean_sd(list(c.values()), 3) if c else "" for c in cells)))
    return Table(("", "n", *figures), tuple(rows), source(found))


def denoising(results: Results) -> Table:
    """Every method at every level."""
    found = results["denoising"]
    levels, methods = found.column(0), found.column(1)
    rows = []
    for level in levels:
        decibels, alike = ({m: found.of(name, level, m) for m in methods} for name in ("psnr_db", "ssim"))
        for method in methods:
            cells = (
                mean_sd(decibels[method], 2, bold=method in best(decibels, 2)),
                mean_sd(alike[method], 3, bold=method in best(alike, 3)),
                "" if method == "noisy input" else f"{np.mean(found.of('seconds', level, method)):.1f}",
            )
            rows.append((f"{level} %" if method == methods[0] else "", NAMES.get(method, method), *cells))
    return Table(("noise", "", "PSNR (dB)", "SSIM", "seconds"), tuple(rows), source(found), words=2)


_OTHERS = {
    "denoising-estimated": "medidiff estimates the level",
    "denoising-varying": "noise of 50 to 150 % of its mean",
    "denoising-head": "another scanner, with skull",
    "denoising-t2w": "T2w, resampled",
    "denoising-flair": "FLAIR, resampled",
}


def denoising_elsewhere(results: Results) -> Table:
    """Other noise, other scans: mean PSNR at each level."""
    rows = []
    for name, words in _OTHERS.items():
        found, shown = results[name], ("noisy input", "bm4d", "medidiff")
        levels = found.column(0)
        cells: dict[str, list[str]] = {m: [] for m in shown}
        for level in levels:
            decibels = {m: found.of("psnr_db", level, m) for m in shown if m in found.column(1)}
            for m, values in decibels.items():
                stars = "**" if m in best(decibels, 2) and len(decibels) > 2 else ""
                cells[m].append(f"{stars}{np.mean(values):.2f}{stars}")
        label = f"{words} (n = {len(found.params['scans'].split())})"
        rows.append((label, _shown(found), ", ".join(levels) + " %", *(", ".join(cells[m]) for m in shown)))
    head = ("", "command", "noise", "noisy (dB)", "BM4D", "medidiff")
    return Table(head, tuple(rows), _together(results, _OTHERS), words=2)


def denoising_lead(results: Results) -> str:
    """How far above its peers the default prior is."""
    found = results["denoising"]
    levels = found.column(0)
    parts = {}
    for peer in ("nlmeans", "bm4d"):
        gains = [
            float(np.mean(found.of("psnr_db", n, "medidiff")) - np.mean(found.of("psnr_db", n, peer))) for n in levels
        ]
        parts[peer] = min(gains), max(gains)
    varying = results["denoising-varying"]
    moved = [
        float(np.mean(varying.of("psnr_db", n, "medidiff")) - np.mean(varying.of("psnr_db", n, "bm4d")))
        for n in varying.column(0)
    ]
    reached = "reached" if parts["bm4d"][0] >= 1 else "**not reached**"
    low, high = _range(*parts["nlmeans"]), _range(*parts["bm4d"])
    return (
        f"On T1 it is above DIPY's non-local means by {low} dB and above BM4D by {high} dB, in one evaluation of the\n"
        f"network, and above BM4D by {_range(min(moved), max(moved))} dB where the noise varies across the scan. The\n"
        f"decibel above BM4D that we aim at in stationary noise is {reached}."
    )


def superresolution(results: Results) -> Table:
    """PSNR and SSIM at each thickness."""
    found = results["superresolution"]
    rows = []
    for task in _tasks(found):
        methods = [
            m for t, m in found.rows() if t == task and m in ("cubic b-spline", "medidiff", "medidiff denoise first")
        ]
        decibels, alike = ({m: found.of(name, task, m) for m in methods} for name in ("psnr_db", "ssim"))
        cells = {
            m: f"{mean_sd(decibels[m], 2, bold=m in best(decibels, 2))} · {'**' * (m in best(alike, 3))}"
            f"{np.mean(alike[m]):.3f}{'**' * (m in best(alike, 3))}"
            for m in methods
        }
        rows.append(
            (_task(task), *(cells.get(m, "") for m in ("cubic b-spline", "medidiff", "medidiff denoise first")))
        )
    head = ("slices", "cubic B-spline", "medidiff", "medidiff, denoised first")
    return Table(head, tuple(rows), f"PSNR in dB, mean ± sd over scans · SSIM. {source(found)}")


def superresolution_detail(results: Results) -> str:
    """In how many of the tasks the error in fine detail is lower than the spline's."""
    found = results["superresolution"]
    tasks = _tasks(found)
    pairs = {t: [float(np.mean(found.of("hfen", t, m))) for m in ("medidiff", "cubic b-spline")] for t in tasks}
    lower = sum(ours < theirs for ours, theirs in pairs.values())
    example = next((t for t in tasks if t.startswith("x3 1 ")), tasks[0])
    ours, theirs = pairs[example]
    rows = f"{lower} of {len(tasks)} rows"
    return f"HFEN is lower than the spline's in {rows} ({_task(example)}: {ours:.3f} against {theirs:.3f})."


def harm(results: Results) -> str:
    """What denoising does to a scan at its own noise level."""
    found = results["harm"]
    kept, eighth, quarter, region = (
        float(np.mean(found.of(name, "0")))
        for name in ("kept_db", "transfer_eighth", "transfer_quarter", "region_mean_percent")
    )
    return (
        f"A scan at its own noise level comes back at {kept:.0f} dB, waves of 4 and 8 voxels keep "
        f"{100 * quarter:.1f} % and\n{100 * eighth:.1f} % of their height, and the mean of 1,000 voxels moves by "
        f"{region:.2f} % at most\n"
        f"({source(found)[:-1]})."
    )


def speed(results: Results) -> Table:
    """Whole processes at two sizes."""
    rows = []
    for name in ("speed-200", "speed-128"):
        found = results[name]
        for method in reversed(found.column(0)):
            wall, compute, peak = (found.of(f, method)[0] for f in ("wall_s", "compute_s", "peak_gib"))
            label = {"nlmeans": "DIPY NLMEANS, default setting", "bm4d": "BM4D"}.get(method, method)
            first = found.params["region"].removesuffix(" voxels") if method == "medidiff" else ""
            rows.append((first, label, f"{wall:.1f}", f"{compute:.1f}", f"{peak:.1f}"))
    names = ("speed-200", "speed-128")
    note = f"{', '.join(_shown(results[name]) for name in names)}; {_together(results, names)}"
    return Table(("voxels", "", "wall (s)", "compute (s)", "peak (GiB)"), tuple(rows), note, words=2)


def speed_lead(results: Results) -> str:
    """What the quickest peer takes where medidiff takes longer."""
    times = []
    for name in ("speed-200", "speed-128"):
        found = results[name]
        ours, theirs = (found.of("compute_s", method)[0] for method in ("medidiff", "nlmeans"))
        times.append(f"{theirs:.1f} s where medidiff takes {ours:.1f} s ({found.params['region']})")
    return f"- Speed on a processor: DIPY's non-local means in its default setting takes {' and '.join(times)}; README."


_DEMO = {
    "denoise 9 rician noise": ("denoise, 9 % Rician noise", ("noisy", "gaussian", "non-local means", "medidiff")),
    "super-resolve slices x3": ("super-resolve, slices ×3", ("thick slices", "cubic b-spline", "medidiff")),
}


def demo(results: Results) -> Table:
    """What the demo prints: scores and seconds of both its parts; an image that nobody computed has no seconds."""
    found = results["demo"]
    names = NAMES | {"non-local means": "non-local means (scikit-image)"}
    rows = []
    for task, (label, images) in _DEMO.items():
        decibels, alike, seconds = (
            {image: found.of(name, task, image) for image in images} for name in ("psnr_db", "ssim", "seconds")
        )
        for image in images:
            psnr = mean_sd(decibels[image], 2, bold=image in best(decibels, 2))
            ssim = mean_sd(alike[image], 3, bold=image in best(alike, 3))
            time = f"{seconds[image][0]:.1f}" if seconds[image][0] > 0 else ""
            rows.append((label if image == images[0] else "", names.get(image, image), psnr, ssim, time))
    return Table(("task", "method", "PSNR (dB)", "SSIM", "seconds"), tuple(rows), source(found), words=2)


def _together(results: Results, names: Sequence[str] | Mapping[str, str]) -> str:
    """The sources of several results, what they share told once."""
    lines = [source(results[name]).removesuffix(".") for name in names]
    tails = {line.split("; ", 1)[1].split("; `")[0] for line in lines}
    days = {line.rsplit("; ", 2)[1] + "; " + line.rsplit("; ", 1)[1] for line in lines}
    return "; ".join([*sorted(tails), *sorted(days)]) + "."


def _shown(found: Finding) -> str:
    return f"`{found.params['command'].removeprefix('python validation/')}`"


def _range(low: float, high: float) -> str:
    one, two = f"{low:.1f}", f"{high:.1f}"
    return one if one == two else f"{one} to {two}"


def _tasks(found: Finding) -> list[str]:
    """Thick slices by their factor, then larger voxels, then what is noisy as well."""
    return sorted(found.column(0), key=lambda name: (not name.endswith(" 1 noise"), name.startswith("all")))


def _task(name: str) -> str:
    """``x3 1 noise`` as ×3; the noise is told where it is not the usual 1 %."""
    size, noise = re.sub(r"x(?=[0-9])", "×", name.removesuffix(" noise")).rsplit(" ", 1)
    return size if noise == "1" else f"{size}, {noise} % noise"


def _inline(text: str) -> str:
    out = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(text, quote=False))
    return re.sub(r"`(.+?)`", r"<code>\1</code>", out)


MAIN: dict[str, Callable[[Results], Table | str]] = {
    "denoising": denoising,
    "denoising-elsewhere": denoising_elsewhere,
    "denoising-lead": denoising_lead,
    "superresolution": superresolution,
    "superresolution-detail": superresolution_detail,
    "harm": harm,
    "speed": speed,
    "speed-lead": speed_lead,
    "demo": demo,
}
