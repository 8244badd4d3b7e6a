"""The verbs about synthetic data sets; see `medidiff.cli.verbs`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from medidiff.cli.options import Option
from medidiff.cli.shared import Device, DryRun, Json, Record, Seed

__all__ = ["Export", "Synthesize", "Verify"]


@dataclass(frozen=True, kw_only=True)
class Synthesize:
    """Draw scans of nobody, let the copy gate drop what is like a training scan, and write what is left as a data set.

    Every scan is drawn from the seed and its own number. The same command again goes on where it stopped. What the
    prior was not trained on is refused, and the nearest that it knows is named. Nothing leaves without the gate, unless
    you say why; the reason stands in the data set.
    """

    stages: ClassVar[tuple[str, ...]] = ("medidiff.cli.synthesize",)
    out: Annotated[Path, Option("a new or empty folder, or one that this command began", ("OUT",), positional=True)]
    count: Annotated[int, Option("scans that are to pass the gate", ("N",))] = 1
    seed: Seed = 0
    age: Annotated[float | None, Option("in years; left to the prior when left out", ("A",))] = None
    sex: Annotated[Literal["F", "M"] | None, Option("left to the prior when left out")] = None
    contrast: Annotated[str | None, Option("e.g. T1w; the prior's first one when left out", ("C",))] = None
    tissue: Annotated[
        Path | None,
        Option("label map that the scans are drawn to: 0 background, 1 CSF, 2 gray and 3 white matter", ("MAP",)),
    ] = None
    guidance: Annotated[float, Option("how strongly age, sex, contrast and map are followed; 1 is as trained")] = 1.0
    spacing: Annotated[float, Option("side of the cubic voxels", ("MM",))] = 1.0
    field: Annotated[
        tuple[float, float, float] | None, Option("extent along right, front and head in mm", ("R", "A", "S"))
    ] = None
    format: Annotated[
        Literal["bids", "nnunet", "msd", "webdataset", "huggingface", "dicom"], Option("what to write")
    ] = "bids"
    licence: Annotated[str, Option("terms of the data set, an SPDX name", ("NAME",))] = "CC0-1.0"
    prior: Annotated[str, Option("a bundled coarse prior's name, or the path of its card (.json)")] = "coarse-t1"
    index: Annotated[
        Path | None, Option("index of the prior's training scans; the one beside its card when left out", ("FILE",))
    ] = None
    training_scans: Annotated[
        tuple[Path, ...], Option("the training scans themselves, all of them: voxels are then compared too", ("SCAN",))
    ] = ()
    without_gate: Annotated[
        str, Option("write the data set whatever the gate says, or without an index: the reason", ("REASON",))
    ] = ""
    device: Device = "auto"
    workers: Annotated[int, Option("processes that draw beside each other, on a CPU", ("N",))] = 1
    threads: Annotated[
        int, Option("of each process, on a CPU; not the number of processors, for it may change the rounding", ("N",))
    ] = 2
    record: Record = None
    dry_run: DryRun = False
    json: Json = False


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a synthetic data set in another format; the same command again goes on where it stopped.

    IN is a data set that medidiff wrote, in any format but dicom; one that does not verify is refused.
    """

    stages: ClassVar[tuple[str, ...]] = ("medidiff.cli.exporting",)
    source: Annotated[Path, Option("the folder of a synthetic data set", ("IN",), positional=True)]
    out: Annotated[Path, Option("a new or empty folder, or one that this command began", ("OUT",), positional=True)]
    format: Annotated[
        Literal["bids", "nnunet", "msd", "webdataset", "huggingface", "dicom"], Option("what to write")
    ] = "bids"
    record: Annotated[
        Path | None, Option("where the record of the run goes, JSON lines; beside OUT when left out", ("PATH",))
    ] = None
    json: Json = False


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Check a synthetic data set: every file expected, there, unchanged, and marked as synthetic; 4 if not."""

    stages: ClassVar[tuple[str, ...]] = ("medidiff.cli.verify",)
    folder: Annotated[Path, Option("the folder of a synthetic data set", ("DIR",), positional=True)]
    json: Json = False
