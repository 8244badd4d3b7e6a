"""Tables and figures of what `calibration.py` measured: `python validation/calibration_report.py RAW --out FOLDER`.

Needs neither scans nor a network. Writes ``calibration.md``, ``calibration.png`` and ``calibration.json``, whose
figures ``python validation/report.py keep FOLDER/calibration.json calibration`` makes an MLflow run of. With ``--write
FILE --task TASK`` it writes the calibration that ships, fitted to the validation subjects. What the figures are, and
what is chosen on whom, stands in `calibration_figures.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scoring
from calibration_figures import RESPLITS, claims, finding, load, shipped, summary

from medidiff.errors import MedidiffError
from medidiff.io.files.atomic import write_file
from medidiff.trust.tally import SIZES_MM

_TARGETS = {"spearman": 0.4, "standardised": 0.1, "coverage": 0.015}


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _verdict(held: bool) -> str:
    return "held" if held else "**missed**"


def markdown(rows: Mapping[str, Any], heading: str) -> str:
    """All tables."""
    return (
        "\n".join(
            [
                heading,
                "",
                *_spread(rows),
                "",
                *_coverage(rows),
                "",
                *_lesions(rows),
                "",
                *_flags(rows),
                "",
                *_bundled(rows),
            ]
        )
        + "\n"
    )


def _spread(rows: Mapping[str, Any]) -> Iterator[str]:
    yield "Spread against error, test subjects, mean ± sd (targets: Spearman from 0.4, standardised error 0.9 to 1.1)"
    yield ""
    heads = (
        "setting",
        "Spearman, voxels",
        "4 mm",
        "8 mm",
        "standardised error before",
        "after",
        "after, 8 bins of spread",
    )
    yield _line(*heads, "Spearman", "standardised, all", "bins")
    yield _line("---", *["--:"] * (len(heads) - 1), "---", "---", "---")
    for name, told in rows["spread"].items():
        cells = [scoring.spread(told[each], 2) for each in ("spearman", "spearman_4_mm", "spearman_8_mm")]
        found = rows["standardised"][name]
        verdicts = [_verdict(np.mean(told["spearman"]) >= _TARGETS["spearman"])]
        if found is None:
            yield _line(name, *cells, "", "", "", *verdicts, "", "")
            continue
        near = np.abs(np.array(found["bins"]) - 1)
        verdicts += [_verdict(abs(np.mean(found["after"]) - 1) <= _TARGETS["standardised"])]
        verdicts += [_verdict(bool(near.max() <= _TARGETS["standardised"]))]
        bins = f"{min(found['bins']):.2f} to {max(found['bins']):.2f}"
        both = [scoring.spread(found[each], 2) for each in ("before", "after")]
        yield _line(name, *cells, *both, bins, *verdicts)


def _coverage(rows: Mapping[str, Any]) -> Iterator[str]:
    yield f"Coverage of subjects left out, {RESPLITS} re-splits, mean ± sd in %, of voxels and of means over blocks"
    yield ""
    yield _line("setting", "voxels", *(f"{size} mm" for size in SIZES_MM[2:]), "voxels, 90 ± 1.5")
    yield _line("---", *["--:"] * len(SIZES_MM[1:]), "---")
    for name, by_size in rows["coverage"].items():
        cells = []
        for size in SIZES_MM[1:]:
            values = by_size.get(str(size))
            cells.append("" if values is None else scoring.spread([100 * v for v in values], 1))
        voxels = by_size.get("1")
        share = 0.8 if "80 %" in name else 0.9
        verdict = "" if voxels is None else _verdict(abs(np.mean(voxels) - share) <= _TARGETS["coverage"])
        yield _line(name, *cells, verdict)


def _lesions(rows: Mapping[str, Any]) -> Iterator[str]:
    yield "Coverage of 90 % intervals in voxels of lesions that were put in, %, by diameter"
    yield ""
    diameters = sorted({d for found in rows["lesions"].values() for d in found}, key=float)
    yield _line("setting", *(f"{d} mm" for d in diameters), "voxels")
    yield _line("---", *["--:"] * (len(diameters) + 1))
    for name, found in rows["lesions"].items():
        if found:
            cells = [f"{100 * found[d][0]:.1f}" if d in found else "" for d in diameters]
            yield _line(name, *cells, str(sum(n for _, n in found.values())))


def _flags(rows: Mapping[str, Any]) -> Iterator[str]:
    yield "Claims by a calibration of the other subjects: who is claimed, and how many voxels its 90 % intervals hold"
    yield ""
    yield from _claimed(rows["flags"])


def _bundled(rows: Mapping[str, Any]) -> Iterator[str]:
    yield "Claims by the calibration of the validation subjects, and how many voxels its 80 % intervals hold"
    yield ""
    yield from _claimed(rows["bundled"])


def _claimed(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield _line("scans", "n", "claimed", "coverage, %: least", "mean", "most")
    yield _line("---", *["--:"] * 5)
    for kind, found in claims(rows).items():
        inside = [100 * row["coverage"] for row in found]
        cells = [f"{value:.1f}" for value in (min(inside), np.mean(inside), max(inside))]
        yield _line(kind, str(len(found)), str(sum(row["claimed"] for row in found)), *cells)


def picture(rows: Mapping[str, Any], path: Path) -> None:
    """Standardised error by bin of the spread, and coverage by size of the region."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, found in rows["standardised"].items():
        if found is not None:
            left.plot(range(1, len(found["bins"]) + 1), found["bins"], marker="o", label=name)
    left.axhspan(0.9, 1.1, color="0.9")
    left.set(
        xlabel="bin of the expected error, eight equal groups", ylabel="rms error over expected error, test subjects"
    )
    for name in rows["spread"]:
        told = {int(size): np.mean(v) for size, v in rows["coverage"][name].items() if v is not None}
        right.plot(list(told), [100 * v for v in told.values()], marker="o", label=name)
    right.axhspan(88.5, 91.5, color="0.9")
    right.set(
        xlabel="side of the region (mm)", ylabel="coverage of 90 % intervals (%)", xscale="log", xticks=SIZES_MM[1:]
    )
    right.set_xticklabels(["voxel", *map(str, SIZES_MM[2:])])
    for axes in (left, right):
        if axes.lines:
            axes.legend(fontsize=8)
    figure.savefig(path, dpi=120, metadata={"Software": "medidiff"})
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("raw", type=Path, help="the folder that calibration.py wrote into")
    parser.add_argument("--out", type=Path, help="folder for tables and figures; RAW when left out")
    parser.add_argument("--write", type=Path, help="write a calibration of the validation subjects here, and no tables")
    parser.add_argument("--task", choices=("denoise", "superresolve"), default="denoise", help="of --write")
    parser.add_argument("--share", type=float, default=0.8, help="of --write; four subjects allow 0.8")
    options = parser.parse_args(arguments)
    try:
        records = load(options.raw)
        if options.write is not None:
            text = shipped(records, options.task, options.share).to_json()
            write_file(options.write, lambda place: place.write_text(text, encoding="utf-8"))
            return 0
        rows, out = summary(records), options.out or options.raw
        out.mkdir(parents=True, exist_ok=True)
        first, region = records[0], f"central {records[0].crop}³ voxels" if records[0].crop else "whole scans"
        prior = f"{first.made.prior} {first.made.prior_sha256[:12]}"
        heading = f"{region}, {first.made.draws} draws of {first.made.steps} steps, {prior}, on {first.device}."
        table = markdown(rows, heading)
        record = {"rows": rows, "finding": finding(records, rows)}
        for name, text in (("calibration.md", table), ("calibration.json", json.dumps(record, allow_nan=False))):
            write_file(out / name, lambda place, text=text: place.write_text(text, encoding="utf-8"))
        picture(rows, out / "calibration.png")
    except MedidiffError as refusal:
        print(refusal, file=sys.stderr)
        return refusal.exit_code
    print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
