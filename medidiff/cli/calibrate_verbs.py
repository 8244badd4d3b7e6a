"""The verb that makes a calibration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from medidiff.cli.options import Option
from medidiff.cli.shared import Device, DryRun, Json, Record, Repairs, Seed

__all__ = ["Calibrate"]


@dataclass(frozen=True, kw_only=True)
class Calibrate(Repairs):
    """Find out on clean scans how far intervals must reach; OUT is the file that --intervals takes.

    Give one clean scan of each patient, and as many patients as the share needs: 4 for 0.8, 9 for 0.9, 19 for 0.95;
    none whom the prior was trained on, since on those it errs less. Their degraded partners are measured ones
    (--degraded, in the same order, in register) or are simulated: Rician noise, and for superresolve slices without
    gaps across the scan's last axis. It takes as long as restoring each patient at each level with draws; the same
    command again goes on where it stopped.
    """

    stages: ClassVar[tuple[str, ...]] = ("medidiff.cli.calibrate",)
    given_away: ClassVar[bool] = True  # the record lies beside the file
    scans: Annotated[
        tuple[Path, ...], Option("clean scans, one of each patient, as IN elsewhere", ("CLEAN",), positional=True)
    ]
    out: Annotated[Path, Option("the calibration to write, a name ending in .json", ("OUT",), ("-o", "--out"))]
    task: Annotated[Literal["denoise", "superresolve"], Option("what the intervals are for")] = "denoise"
    degraded: Annotated[
        tuple[Path, ...] | None,
        Option("the degraded scan of each patient, in the same order; simulated when left out", ("SCAN",)),
    ] = None
    noise_percent: Annotated[
        tuple[float, ...] | None,
        Option(
            "noise to simulate, in % of the tissue maximum: levels for denoise (3 9 15 when left out), "
            "the ends of a range for superresolve (1 2)",
            ("P",),
        ),
    ] = None
    factors: Annotated[
        tuple[float, ...] | None,
        Option("slice thickness to simulate for superresolve, in voxels; 2 3 4 when left out", ("F",)),
    ] = None
    share: Annotated[float, Option("of the tissue that is to lie between the bounds", ("SHARE",))] = 0.9
    no_cap: Annotated[
        bool, Option("promise the share without the cap on single patients: wider bounds, the fewer patients the wider")
    ] = False
    noise: Annotated[
        Literal["rician", "gaussian"], Option("kind of noise: magnitude MR is Rician, real-valued MR is Gaussian")
    ] = "rician"
    draws: Annotated[int, Option("posterior samples for each answer, at least 2", ("N",))] = 8
    steps: Annotated[int, Option("network evaluations for each draw", ("N",))] = 4
    seed: Seed = 0
    prior: Annotated[
        str | None,
        Option("a bundled prior's name, or the path of a prior's card (.json); when left out that of the modality"),
    ] = None
    device: Device = "auto"
    record: Record = None
    dry_run: DryRun = False
    json: Json = False
