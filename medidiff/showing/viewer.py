"""A value in an interactive viewer: NiiVue, as the widget ipyniivue. The only door of ipyniivue."""

from __future__ import annotations

import struct
from typing import Any

import ipyniivue
import numpy as np
from numpy.typing import NDArray

from medidiff.geometry import Geometry
from medidiff.showing.planes import strips
from medidiff.showing.rich import Exhibit

__all__ = ["nifti", "viewer"]

_MOST = 320  # voxels a side that are sent to the browser


def viewer(exhibit: Exhibit, *, height: int = 420) -> ipyniivue.NiiVue:
    """The grey volumes of an exhibit, the first one in front, with the spread in colour above it.

    Volumes of more than 320 voxels along an axis are sent with every second (third, ...) along it.

    Args:
        exhibit: what to show.
        height: in pixels.
    """
    widget = ipyniivue.NiiVue(height=height, is_radiological_convention=True, show_3d_crosshair=True)
    volumes: list[dict[str, Any]] = []
    for panel, strip in zip(exhibit.panels, strips(exhibit), strict=True):
        name = f"{panel.name.replace(' ', '-') or 'scan'}.nii"
        low, high = strip.window
        look = {"cal_min": low, "cal_max": high, "colormap": "viridis" if panel.spread else "gray"}
        opacity = 0.4 if panel.spread else 0.0 if volumes else 1.0
        volumes.append({"name": name, "data": nifti(panel.data, exhibit.geometry), "opacity": opacity, **look})
    widget.load_volumes(volumes)
    return widget


def nifti(data: NDArray[Any], geometry: Geometry, *, most: int = _MOST) -> bytes:
    """A NIfTI-1 file of float32 with an sform, as bytes; numbers that are not finite become 0.

    Args:
        data: (I, J, K).
        geometry: its grid.
        most: voxels along an axis; of more, evenly spaced ones are taken.
    """
    steps = [-(-n // most) for n in geometry.shape]
    few = data[tuple(slice(None, None, step) for step in steps)]
    with np.errstate(over="ignore"):
        numbers = np.nan_to_num(few.astype("<f4"), nan=0.0, posinf=0.0, neginf=0.0)
    affine = geometry.affine @ np.diag((*steps, 1.0))
    spacing = [s * step for s, step in zip(geometry.spacing_mm, steps, strict=True)]
    header = bytearray(352)  # 348 and four bytes that say that no extension follows
    for place, kind, values in (
        (0, "<i", [348]),
        (40, "<8h", [3, *numbers.shape, 1, 1, 1, 1]),
        (70, "<2h", [16, 32]),  # float32
        (76, "<8f", [1.0, *spacing, 0.0, 0.0, 0.0, 0.0]),
        (108, "<3f", [352.0, 1.0, 0.0]),  # where the voxels begin, slope and intercept
        (123, "<b", [2]),  # mm
        (254, "<h", [1]),  # sform: scanner coordinates
        (280, "<12f", affine[:3].ravel()),
        (344, "<4s", [b"n+1\0"]),
    ):
        struct.pack_into(kind, header, place, *values)
    voxels: bytes = numbers.tobytes(order="F")  # the first axis fastest
    return bytes(header) + voxels
