"""The verbs of a batch: what is done to many scans, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from medidiff.cli.batch_input import Input
from medidiff.cli.engine_options import EngineOptions
from medidiff.cli.options import Option
from medidiff.cli.pacs_verbs import Config
from medidiff.cli.restoring_options import Finer, RestoringOptions
from medidiff.cli.shared import Device, DryRun, Json, Record

__all__ = ["BatchDenoise", "BatchJoint", "BatchStatus", "BatchSuperresolve", "BatchSync", "BatchWork", "Batching"]

_RUN = "how the work is shared out (no effect on any result)"

Folder = Annotated[Path, Option("a folder that 'medidiff batch' wrote into", ("OUTPUT",), positional=True)]
Parts = Annotated[
    int, Option("share the cases out among so many commands", ("N",), ("-num_parts", "--num-parts"), group=_RUN)
]
Part = Annotated[int, Option("which share this command takes, from 0", ("N",), ("-part_id", "--part-id"), group=_RUN)]
Retry = Annotated[bool, Option("try again what was refused before", group=_RUN)]


@dataclass(frozen=True, kw_only=True)
class Batching(EngineOptions, RestoringOptions):
    """What the tasks of a batch share."""

    stages: ClassVar[tuple[str, ...]] = ("medidiff.cli.batch",)
    source: Annotated[
        Input,
        Option(
            "a folder tree, a BIDS data set, a manifest (.csv, .tsv, .jsonl: input, id, scan, output), or a question "
            "to a PACS, 'pacs:NODE?accession=A1&modality=MR', with study, series, accession, patient, dates, modality",
            ("INPUT",),
            positional=True,
        ),
    ]
    out: Annotated[
        Path, Option("the folder to write into; the same command again goes on there", ("OUTPUT",), positional=True)
    ]
    spread: Annotated[bool, Option("write the standard deviation of the draws as well")] = False
    interval: Annotated[float | None, Option("write the bounds that hold this share of the posterior", ("SHARE",))] = (
        None
    )
    draw: Annotated[bool, Option("write the first draw as well")] = False
    format: Annotated[Literal["nifti", "dicom"], Option("dicom: new series in the studies of DICOM sources")] = "nifti"
    go_on: Annotated[
        bool, Option("go on in a batch of other settings, and do again what was done with those", flags=("--continue",))
    ] = False
    retry_failed: Retry = False
    config: Config = None
    workers: Annotated[
        int | None, Option("processes; when left out what a short measurement finds fastest", ("N",), group=_RUN)
    ] = None
    threads: Annotated[int | None, Option("of each worker; 1 when only --workers is given", ("N",), group=_RUN)] = None
    num_parts: Parts = 1
    part_id: Part = 0
    tracking: Annotated[
        str | None, Option("MLflow store for the figures of the run, sqlite:///file.db or a server", ("URI",))
    ] = None
    record: Record = None
    dry_run: DryRun = False
    json: Json = False

    @property
    def wanted_draws(self) -> int:
        """How many posterior samples to take."""
        if self.draws is not None:
            return self.draws
        return 8 if self.spread or self.draw or self.interval is not None else 0


@dataclass(frozen=True, kw_only=True)
class BatchDenoise(Batching):
    """Remove the noise of many scans; killed, started again or started twice, each is done once."""

    task: ClassVar[str] = "denoise"


@dataclass(frozen=True, kw_only=True)
class BatchSuperresolve(Finer, Batching):
    """Bring many scans to a finer grid, and denoise them on the way."""

    task: ClassVar[str] = "superresolve"


@dataclass(frozen=True, kw_only=True)
class BatchJoint(BatchSuperresolve):
    """Denoise and super-resolve in one posterior; that is what superresolve does, under the name of the task."""

    task: ClassVar[str] = "joint"


@dataclass(frozen=True, kw_only=True)
class BatchStatus:
    """Show how far a batch is: done, refused by reason, left, under work."""

    stages: ClassVar[tuple[str, ...]] = ("medidiff.cli.batch_status",)
    batch: Folder
    refused: Annotated[bool, Option("list the refused cases too, each with its reason and what mends it")] = False
    scope: Annotated[
        bool,
        Option("list the cases too that are marked as out of scope, each with the reason; reads every record"),
    ] = False
    json: Json = False


@dataclass(frozen=True, kw_only=True)
class BatchWork:
    """Be one worker of a batch, beside as many others as there are, here and on other machines; ends with the work."""

    stages: ClassVar[tuple[str, ...]] = ("medidiff.cli.batch_work",)
    batch: Folder
    since: Annotated[
        int | None,
        Option("leave alone what was settled after this time of the file system; now when left out", ("NS",)),
    ] = None
    retry_failed: Retry = False
    num_parts: Parts = 1
    part_id: Part = 0
    most: Annotated[int | None, Option("end after so many cases", ("N",))] = None
    config: Config = None
    device: Device = "auto"


@dataclass(frozen=True, kw_only=True)
class BatchSync:
    """Hand a tracking store the figures that it did not take when a batch ran."""

    stages: ClassVar[tuple[str, ...]] = ("medidiff.cli.batch_status",)
    batch: Folder
    tracking: Annotated[str, Option("MLflow store, sqlite:///file.db or a server", ("URI",))]
