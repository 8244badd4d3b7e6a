"""``medidiff info``: what a file or folder holds."""

from __future__ import annotations

import dataclasses

from medidiff.cli.screen import Screen
from medidiff.cli.verbs import Info
from medidiff.io import SeriesSummary, inspect

__all__ = ["run"]


def run(verb: Info) -> None:
    """Print the summary of every scan that a path holds; a scan that cannot be read is listed with its problem.

    Raises:
        InputError: nothing is there, or the format is unknown.
    """
    screen = Screen(verb.json)
    contents = inspect(verb.path)
    if verb.json:
        screen.document(dataclasses.asdict(contents))
        return
    for number, series in enumerate(contents.series):
        print(f"{contents.format} scan {number + 1} of {len(contents.series)}")
        screen.lines({f"  {name}": value for name, value in _facts(series).items()})
    if contents.skipped:
        print(f"{len(contents.skipped)} files are no part of a scan")
        screen.lines({f"  {skipped.file}": skipped.reason for skipped in contents.skipped})


def _facts(series: SeriesSummary) -> dict[str, object]:
    facts: dict[str, object] = {"files": series.files, "modality": series.modality}
    if series.units:
        facts["units"] = series.units
    if series.shape:
        origin = ", ".join(f"{row[3]:.3f}" for row in series.affine[:3])
        facts |= {
            "voxels": " x ".join(str(n) for n in series.shape),
            "spacing": " x ".join(f"{s:.4g}" for s in series.spacing_mm) + " mm",
            "axes": series.orientation,
            "first voxel": f"{origin} mm (RAS+)",
            "type": series.dtype,
        }
    facts |= dict(series.details)
    for number, sentence in enumerate(series.decisions):
        facts[f"note {number + 1}"] = sentence
    return facts | ({"problem": series.problem} if series.problem else {})
