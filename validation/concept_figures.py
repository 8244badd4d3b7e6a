"""Draw the figures of ``docs/concepts``: `python validation/concept_figures.py --help`.

The bundled sample is measured in three ways (noisy, in slices four times as thick, not at all) and given to the bundled
priors; a head of nobody is drawn at 4, 2 and 1 mm from one seed. Nothing is chosen: the plane is the middle one, the
seed is 0. Takes some minutes of one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medidiff import io
from medidiff.anatomy import foreground, tissue_maximum
from medidiff.physics import Degradation, Noise, Separable, identity, nothing, resample
from medidiff.volume import Geometry, Volume

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "medidiff" / "sample" / "t1-brain.nii.gz"
Array = NDArray[np.float32]
_FACTOR, _DEPTH = 4, 48  # slices thicker than the truth's; voxels from front to back that are computed
_NOISY, _QUIET = 0.09, 0.01  # of the tissue maximum


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What one way of measuring gives, each (I, J, K) on the truth's grid but for `seen`."""

    name: str
    seen: Array
    spread_out: Array
    certainty: Array
    operator: Separable
    level: float


def truth() -> tuple[Array, Geometry]:
    """The middle of the sample from front to back, tissue maximum 1, slices a multiple of the factor."""
    scan = io.read(SAMPLE)
    whole = scan.data[0] / tissue_maximum(scan.data[0], foreground(scan.data[0]))
    start, count = (whole.shape[1] - _DEPTH) // 2, whole.shape[2] // _FACTOR * _FACTOR
    image = np.ascontiguousarray(whole[:, start : start + _DEPTH, :count], dtype=np.float32)
    return image, Geometry.regular(image.shape)


def measured(name: str, image: Array, operator: Separable, level: float) -> Told:
    """A measurement of an image, and what the network is told of it."""
    x = torch.from_numpy(image)
    if operator.measures_nothing:
        empty = np.zeros_like(image)
        return Told(name, empty, empty, empty, operator, level)
    y = Degradation(operator, Noise("rician", level)).observe(x, torch.Generator().manual_seed(0))
    certainty = operator.certainty(image.shape).numpy().astype(np.float32)
    return Told(name, y.numpy(), operator.pinv(y).numpy(), certainty, operator, level)


def restored(told: Told, fine: Geometry, *, draws: int = 0) -> Any:
    """The answer of the bundled prior."""
    from medidiff.restore import Settings, restore

    shape, affine = told.seen.shape, fine.affine.copy()
    factors = np.array(fine.shape) / np.array(shape)
    affine[:3, :3] *= factors
    affine[:3, 3] = fine.world((factors - 1) / 2)
    scan = Volume(told.seen, Geometry((shape[0], shape[1], shape[2]), affine), modality="MR")
    task = "denoise" if told.operator.is_identity else "superresolve"
    settings = Settings(noise_level=told.level, draws=draws, keep_draws=min(draws, 1))
    return restore(scan, fine, told.operator, task=task, settings=settings)


def plane(volume: Array) -> Array:
    """The middle coronal plane as people look at it: feet down."""
    return volume[:, volume.shape[1] // 2, :].T[::-1]


def panels(
    path: Path, rows: Sequence[Sequence[tuple[str, Array, dict[str, Any]]]], *, names: Sequence[str] = ()
) -> None:
    """Write planes side by side, a title above each."""
    from matplotlib.figure import Figure

    columns = max(map(len, rows))
    aspect = rows[0][0][1].shape[0] / rows[0][0][1].shape[1]
    size = (3.1 * columns, (3.1 * aspect + 0.35) * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, cells in enumerate(rows):
        for column, (title, image, how) in enumerate(cells):
            shown = axes[row, column]
            shown.imshow(image, **({"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "nearest"} | how))
            shown.set_title(title, fontsize=9)
            shown.set_xticks([])
            shown.set_yticks([])
        if names:
            axes[row, 0].set_ylabel(names[row], fontsize=9)
    figure.savefig(path, format="jpg", dpi=110, pil_kwargs={"quality": 82, "optimize": True})


def idea(path: Path, image: Array, fine: Geometry, drawn: Array) -> None:
    """Three operators, what each tells the network, and the answers."""
    thick = resample(image.shape, factors=(1.0, 1.0, float(_FACTOR)))
    ways = (
        measured("denoise", image, identity(), _NOISY),
        measured(f"super-resolve ×{_FACTOR}", image, thick, _QUIET),
        measured("synthesise", image, nothing(image.shape), 0.0),
    )
    rows = []
    for told in ways:
        empty = told.operator.measures_nothing
        seen = np.repeat(told.seen, fine.shape[2] // told.seen.shape[2], axis=2)
        answer = drawn if empty else plane(restored(told, fine).mean.data[0])
        share = float(told.certainty.mean())
        rows.append(
            [
                ("y: nothing" if empty else f"y: {told.seen.shape[2]} slices", plane(seen), {}),
                ("image: A⁺y", plane(told.spread_out), {}),
                (f"certainty: diag(A⁺A), mean {share:.2f}", plane(told.certainty), {"cmap": "viridis"}),
                ("a draw of p(x)" if empty else "E[x | y]", answer, {}),
            ]
        )
    panels(path, rows, names=[told.name for told in ways])


def mean_and_draws(path: Path, image: Array, fine: Geometry) -> None:
    """Super-resolution: the mean, a draw, their spread, and the true error."""
    told = measured("", image, resample(image.shape, factors=(1.0, 1.0, float(_FACTOR))), _QUIET)
    answer = restored(told, fine, draws=8)
    spread, error = answer.std.data[0], np.abs(answer.mean.data[0] - image)
    heat = {"cmap": "inferno", "vmin": 0, "vmax": 0.15}
    top = [
        ("truth", plane(image), {}),
        (f"measured: slices ×{_FACTOR}", plane(np.repeat(told.seen, _FACTOR, axis=2)), {}),
        ("posterior mean", plane(answer.mean.data[0]), {}),
    ]
    below = [
        ("one draw", plane(answer.draws[0].data[0]), {}),
        ("spread of 8 draws", plane(spread), heat),
        ("|mean - truth|", plane(error), heat),
    ]
    panels(path, [top, below])


def cascade(path: Path) -> Array:
    """A head of nobody at each stage of the cascade; returns its middle coronal plane at 1 mm."""
    from medidiff.synthesis import Cascade, Request

    drawing, cells, case = Cascade(), [], None
    for spacing in (4.0, 2.0, 1.0):
        case = drawing.draw(Request(spacing_mm=spacing), 0, seed=0)
        stage = {4.0: "coarse prior", 2.0: "middle prior", 1.0: "fine prior"}[spacing]
        cells.append((f"{stage}: {spacing:g} mm", plane(case.image.data[0]), {}))
    assert case is not None
    assert case.labels is not None
    labels = {"cmap": "viridis", "vmax": 3}
    panels(path, [[*cells, ("label map: CSF, grey, white", plane(case.labels.data[0].astype(np.float32)), labels)]])
    return np.asarray(cells[-1][1], dtype=np.float32)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures", help="folder of the pictures")
    out = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    image, fine = truth()
    drawn = cascade(out / "concept-cascade.jpg")
    excess = (drawn.shape[0] - image.shape[2]) // 2
    mean_and_draws(out / "concept-mean-and-draws.jpg", image, fine)
    idea(out / "concept-idea.jpg", image, fine, drawn[excess : excess + image.shape[2]])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
