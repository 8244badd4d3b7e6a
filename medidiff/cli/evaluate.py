"""``medidiff evaluate``: how close a result is to a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.anatomy import foreground, tissue_maximum
from medidiff.cli.screen import Screen
from medidiff.cli.session import Session
from medidiff.cli.verbs import Evaluate
from medidiff.errors import InputError
from medidiff.metrics import hfen, nrmse, psnr, ssim
from medidiff.volume import Volume

__all__ = ["run"]

_SAME_GRID_MM = 1e-3


def run(verb: Evaluate, session: Session) -> None:
    """Score the result, and the input beside it, inside the tissue.

    Raises:
        InputError: a scan cannot be read, or lies on another grid than the reference.
    """
    screen = Screen(verb.json)
    session.begin()
    reference = session.read(verb.reference).volume
    truth = _one_channel(reference, verb.reference)
    mask = _on_grid(verb.mask, reference, session) > 0 if verb.mask else foreground(truth)
    peak = tissue_maximum(truth, mask)
    judged = {"input": verb.input} if verb.input else {}
    scores = {}
    for name, path in (judged | {"result": verb.result}).items():
        scores[name] = scored(_on_grid(path, reference, session), truth, mask=mask, peak=peak)
    if verb.json:
        screen.document({"scores": scores, "voxels": int(mask.sum()), "data_range": peak})
        return
    units = reference.units or "(the reference's stored units)"
    title = f"{int(mask.sum())} voxels of tissue, data range {peak:.4g} {units}"
    rows = [_row(name, values) for name, values in scores.items()]
    screen.table(title, ["", "PSNR (dB)", "SSIM", "NRMSE", "HFEN"], rows)


def scored(image: NDArray[Any], truth: NDArray[Any], *, mask: NDArray[np.bool_], peak: float) -> dict[str, float]:
    """The four scores of one image.

    Args:
        image: (I, J, K), what is judged.
        truth: (I, J, K), what it should be.
        mask: (I, J, K), true where it counts.
        peak: the brightness called 100 %.
    """
    return {
        "psnr_db": psnr(image, truth, mask=mask, data_range=peak),
        "ssim": ssim(image, truth, mask=mask, data_range=peak),
        "nrmse": nrmse(image, truth, mask=mask),
        "hfen": hfen(image, truth, mask=mask),
    }


def _row(name: str, values: dict[str, float]) -> list[str]:
    return [name, f"{values['psnr_db']:.2f}", *(f"{values[key]:.4f}" for key in ("ssim", "nrmse", "hfen"))]


def _one_channel(volume: Volume, path: Path) -> NDArray[Any]:
    if volume.data.shape[0] != 1:
        raise InputError(
            "E-4D",
            f"{volume.data.shape[0]} channels",
            wanted="one",
            file=path.name,
            mend="Give a file of one number a voxel.",
        )
    data: NDArray[Any] = volume.data[0]
    return data


def _on_grid(path: Path, reference: Volume, session: Session) -> NDArray[Any]:
    volume = session.read(path).volume
    apart = volume.geometry.distance_mm(reference.geometry)
    if apart > _SAME_GRID_MM:
        found = f"{apart:.4g} mm away from the reference" if np.isfinite(apart) else f"{volume.shape} voxels"
        mend = "Compare scans of one grid: nothing is resampled here, so do that first with a tool of your choice."
        wanted = f"the reference's grid of {reference.shape} voxels, to {_SAME_GRID_MM} mm"
        raise InputError("E-GRID", found, wanted=wanted, file=path.name, mend=mend)
    return _one_channel(volume, path)
