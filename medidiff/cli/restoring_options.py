"""How scans are read and restored: the options that one scan and many share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from medidiff.cli.options import Option
from medidiff.cli.shared import Device, Repairs, Seed

__all__ = ["Finer", "RestoringOptions"]

Own = Literal["own"]  # the scan's own voxel size along an axis


@dataclass(frozen=True, kw_only=True)
class RestoringOptions(Repairs):
    """How a scan is restored."""

    modality: Annotated[
        Literal["MR", "CT", "PT"] | None, Option("what the scan is, where its file does not say; CT is in HU")
    ] = None
    noise: Annotated[
        Literal["rician", "gaussian"] | None,
        Option("kind of noise; when left out Gaussian for CT and PET, Rician (magnitude MR) for the rest"),
    ] = None
    noise_level: Annotated[
        float | None, Option("standard deviation in the scan's stored units; estimated when left out", ("SIGMA",))
    ] = None
    noise_varies: Annotated[
        bool, Option("the level changes across the scan, as with parallel imaging; it is estimated for every voxel")
    ] = False
    draws: Annotated[
        int | None,
        Option(
            "posterior samples; 0, or 8 when --spread, --interval or --draw ask for them, or those of the calibration "
            "with --intervals",
            ("N",),
        ),
    ] = None
    steps: Annotated[
        int | None, Option("network evaluations for each draw; 4, or those of the calibration, when left out", ("N",))
    ] = None
    seed: Seed = 0
    prior: Annotated[
        str | None,
        Option("a bundled prior's name, or the path of a prior's card (.json); when left out that of the modality"),
    ] = None
    strict: Annotated[
        bool, Option("refuse a scan that is not of the kind that the prior is for, rather than mark its result")
    ] = False
    device: Device = "auto"

    @property
    def wanted_steps(self) -> int:
        """Network evaluations for each draw, where no calibration says how many."""
        return 4 if self.steps is None else self.steps


@dataclass(frozen=True, kw_only=True)
class Finer:
    """The grid that super-resolution goes to."""

    spacing: Annotated[
        tuple[float | Own, float | Own, float | Own],
        Option("target voxel size in mm along the scan's axes; 'own' keeps the scan's along one", ("I", "J", "K")),
    ]
    thickness: Annotated[
        float | None,
        Option("slice thickness in mm; when left out the header's, or else the slice distance (no gap)", ("MM",)),
    ] = None
    profile: Annotated[
        Literal["box", "gaussian"], Option("sensitivity across a slice; a Gaussian is as wide as thick at half maximum")
    ] = "box"
