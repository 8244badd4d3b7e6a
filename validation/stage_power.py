"""What power each stage of the cascade leaves out: `python validation/stage_power.py --help`.

A stage that was trained for a short time, or is sampled in few steps, draws too smooth. Each finer stage is shown a
held-back scan in the voxels that it begins from, so that what it lacks is its own; the coarse stage draws heads, which
are compared with all held-back ones. Power is counted in four shells up to the Nyquist frequency of the stage's voxels,
in dB of the real scans', for each sampler. The cascade's samplers and steps were chosen by this table.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import scoring
import torch
from brains import data_options, framed, halved
from numpy.typing import NDArray

from medidiff import io
from medidiff.diffusion import SAMPLERS
from medidiff.errors import SettingsError
from medidiff.metrics.spectrum import radial_power
from medidiff.prior.coarse import DEFAULT_COARSE
from medidiff.synthesis import Cascade, Effort, Request

Array = NDArray[np.float32]
STAGES = ("coarse", "middle", "fine")
_SHELLS = (0.1, 0.35, 0.6, 0.8, 1.0)  # of the Nyquist frequency


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """Power of one stage with one sampler.

    Args:
        stage: one of `STAGES`.
        sampler: its name.
        bands_db: (4,) mean power less the real scans', from low to high frequencies.
        spread_db: (4,) standard deviation over scans.
        count: scans drawn.
    """

    stage: str
    sampler: str
    bands_db: NDArray[np.float64]
    spread_db: NDArray[np.float64]
    count: int


def edges(spacing_mm: float) -> tuple[float, ...]:
    """Edges of the four shells, in cycles per mm, for cubic voxels."""
    nyquist = 0.5 / spacing_mm
    return tuple(share * nyquist for share in _SHELLS)


def levels(image: Array, spacing_mm: float) -> NDArray[np.float64]:
    """(4,) power in dB."""
    return 10 * np.log10(radial_power(image, spacing_mm=(spacing_mm,) * 3, edges=edges(spacing_mm)))


def lacking(drawn: Sequence[Array], real: Sequence[Array], *, spacing_mm: float, paired: bool) -> NDArray[np.float64]:
    """(n, 4) power of each draw less that of its real scan, or of the mean of all real scans."""
    ours, theirs = (np.array([levels(each, spacing_mm) for each in images]) for images in (drawn, real))
    return ours - (theirs if paired else theirs.mean(axis=0))


def measured(cascade: Cascade, scans: Sequence[Array], stage: str, *, draws: int, seed: int) -> NDArray[np.float64]:
    """(n, 4) what one stage lacks; `scans` are framed ones at 1 mm, `draws` counts those of the coarse stage."""
    fine = [scan if stage == "fine" else halved(scan) for scan in scans]
    if stage == "coarse":
        request = Request(spacing_mm=4.0)
        drawn = [np.asarray(cascade.draw(request, n, seed=seed).image.data[0], np.float32) for n in range(draws)]
        return lacking(drawn, [halved(scan) for scan in fine], spacing_mm=4.0, paired=False)
    number = STAGES.index(stage) - 1
    drawn = []
    for place, scan in enumerate(fine):
        seen = torch.from_numpy(np.ascontiguousarray(halved(scan)))[None, None].to(cascade.device)
        shape = (scan.shape[0], scan.shape[1], scan.shape[2])
        drawn.append(cascade.refined(seen, shape, stage=number, number=place, seed=seed)[0, 0].cpu().numpy())
    return lacking(drawn, fine, spacing_mm=2.0 / 2**number, paired=True)


def table_of(rows: Sequence[Row]) -> str:
    """The figures as a Markdown table."""
    shares = [f"{low:g} to {high:g}" for low, high in pairwise(_SHELLS)]
    lines = [f"| stage | sampler | {' | '.join(shares)} of Nyquist | n |", "|---|--:|--:|--:|--:|--:|--:|"]
    for row in rows:
        cells = [f"{mean:+.2f} ± {spread:.2f}" for mean, spread in zip(row.bands_db, row.spread_db, strict=True)]
        lines.append(f"| {row.stage} | {row.sampler} | {' | '.join(cells)} | {row.count} |")
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = data_options(__doc__)
    out.add_argument("--prior", default=DEFAULT_COARSE, help="coarse prior, by name or card")
    out.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES[:2]), help="which stages")
    out.add_argument(
        "--samplers",
        nargs="+",
        choices=SAMPLERS,
        default=["ancestral", "heun"],
        help="samplers, each with the usual steps",
    )
    out.add_argument("--draws", type=int, default=6, help="heads that the coarse stage draws")
    out.add_argument("--scans", type=int, default=2, help="held-back scans that the finer stages are shown")
    out.add_argument("--part", default="validation", help="of the split; to choose by the test part is cheating")
    out.add_argument("--seed", type=int, default=1, help="of the draws")
    out.add_argument("--out", type=Path, default=Path("out/stage_power"), help="folder for the table")
    return out


def run(options: argparse.Namespace) -> str:
    """Draw, measure and write; returns the table."""
    if min(options.draws, options.scans, options.threads) < 1:
        raise SettingsError("E-SETTING", "a number out of range", wanted="at least one draw, scan and thread")
    torch.set_num_threads(options.threads)
    paths = scoring.scored_scans(options.data, options.split, options.set, part=options.part)
    scans = [framed(io.read(path)) for path in paths.values()]
    rows = []
    for stage in options.stages:
        shown = scans if stage == "coarse" else scans[: options.scans]
        for sampler in options.samplers:
            cascade = Cascade(options.prior, effort=Effort(samplers=(sampler,)))
            found = measured(cascade, shown, stage, draws=options.draws, seed=options.seed)
            rows.append(Row(stage, sampler, found.mean(axis=0), found.std(axis=0), len(found)))
            print(table_of(rows[-1:]).splitlines()[-1], flush=True)
    table = table_of(rows)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "stage_power.md").write_text(table, encoding="utf-8")
    return table


if __name__ == "__main__":
    print(run(parser().parse_args()))
