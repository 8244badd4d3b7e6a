"""What a value that can be looked at has: `Rich`, and what it shows: `Exhibit`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import SettingsError
from medidiff.geometry import Geometry

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["Exhibit", "Panel", "Rich", "facts", "share"]


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One volume that is shown.

    Args:
        name: a short word for it; empty where there is but one.
        data: (I, J, K).
        spread: whether it holds standard deviations, shown in colour from 0; otherwise it is grey, in one window with
            the other grey ones.
    """

    name: str
    data: NDArray[Any]
    spread: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Exhibit:
    """What a value shows of itself. Nothing in it may name a patient.

    Args:
        title: one line.
        panels: at least one, a grey one first, all on one grid.
        geometry: that grid.
        modality: DICOM's word; a CT is shown in soft tissue.
        units: of the numbers, e.g. ``"HU"``; may be empty.
        notes: sentences that stand below.
    """

    title: str
    panels: tuple[Panel, ...]
    geometry: Geometry
    modality: str = "OT"
    units: str = ""
    notes: tuple[str, ...] = ()


class Rich:
    """A value that notebooks show as pictures, and that can be plotted and viewed."""

    __slots__ = ()

    def _exhibit(self) -> Exhibit:
        raise NotImplementedError

    def _repr_html_(self) -> str | None:
        """Three planes and some facts, as a notebook asks for them; None where the parts for it are not installed."""
        try:
            page = _part("page")
        except SettingsError:
            return None
        return str(page.html(self._exhibit()))

    def plot(
        self,
        *,
        at_mm: Sequence[float] | None = None,
        window: tuple[float, float] | None = None,
        radiological: bool = True,
    ) -> Any:
        """A figure of three planes, to look at, to change, or to save with ``savefig``.

        Args:
            at_mm: (3,) RAS+ world point that all planes pass through; the middle of the tissue when left out.
            window: black and white, in the volume's unit; the tissue's when left out.
            radiological: the patient's right on the left of the picture; false for its mirror image.

        Returns:
            A `matplotlib.figure.Figure`, made without pyplot, that a notebook shows once.

        Raises:
            SettingsError: ``E-WINDOW``, a window that is none; ``E-SHOW``, a library is not installed.
        """
        look = {"at_mm": at_mm, "window": window, "radiological": radiological}
        return _part("figure").figure(self._exhibit(), **look)

    def view(self, *, height: int = 420) -> Any:
        """A viewer to click through, in a notebook; it asks nothing of the network.

        Args:
            height: of the viewer, in pixels.

        Returns:
            An `ipyniivue.NiiVue` widget; grey volumes below, the spread as colour above.

        Raises:
            SettingsError: ``E-SHOW``, ipyniivue is not installed.
        """
        return _part("viewer").viewer(self._exhibit(), height=height)


def facts(geometry: Geometry) -> str:
    """A grid in words, e.g. ``"160 × 184 × 72 voxels of 0.868 × 0.868 × 1 mm, RAS"``."""
    size = " × ".join(map(str, geometry.shape))
    spacing = " × ".join(f"{s:.3g}" for s in geometry.spacing_mm)
    return f"{size} voxels of {spacing} mm, {geometry.orientation}"


def share(mask: NDArray[np.bool_]) -> str:
    """How much of a grid a mask marks, in percent."""
    return f"{100 * mask.mean():.2g} %"


def _part(name: str) -> ModuleType:
    try:
        return import_module(f"{__package__}.{name}")
    except ModuleNotFoundError as error:
        mend = "Install it with: pip install 'medidiff[notebooks]'."
        raise SettingsError("E-SHOW", f"{error.name} is not installed", mend=mend) from error
