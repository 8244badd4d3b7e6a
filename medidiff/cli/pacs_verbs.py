"""The verbs about archives (PACS); see `medidiff.cli.verbs`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from medidiff.cli.options import Option
from medidiff.cli.shared import DryRun, Json, Record

__all__ = ["Config", "PacsPull", "PacsPush", "PacsWatch"]

Node = Annotated[
    str,
    Option(
        "whom to talk to: a name in --config, AETITLE@host:port, or the http(s) address of a DICOMweb service",
        ("NODE",),
        positional=True,
    ),
]
Config = Annotated[Path | None, Option("TOML file of nodes, with TLS, tokens and limits; see docs/pacs.md", ("FILE",))]
Tree = Annotated[
    Path, Option("folder that receives STUDY/SERIES/INSTANCE.dcm, named by their UIDs", ("OUT",), positional=True)
]
_WHICH = "which studies (at least one; a study must fit them all)"


@dataclass(frozen=True, kw_only=True)
class _Asking:
    """What pull and watch ask an archive for."""

    accession: Annotated[str | None, Option("accession number, in full", ("NUMBER",), group=_WHICH)] = None
    patient: Annotated[str | None, Option("patient id, in full", ("ID",), group=_WHICH)] = None
    dates: Annotated[
        str | None,
        Option("days of the study: YYYYMMDD, or a range with - that may be open", ("DAYS",), group=_WHICH),
    ] = None
    modality: Annotated[
        tuple[str, ...],
        Option("only studies that have one of these, and of them only such series, e.g. MR", ("CODE",), group=_WHICH),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class PacsPull(_Asking):
    """Fetch studies from an archive into a folder tree that the other verbs read.

    A series appears when it is whole; the same command again fetches what is missing. 7 when some of it did not come.
    """

    stages: ClassVar[tuple[str, ...]] = ("medidiff.cli.pacs",)
    node: Node
    out: Tree
    study: Annotated[str | None, Option("study instance UID", ("UID",), group=_WHICH)] = None
    series: Annotated[str | None, Option("series instance UID, of that study", ("UID",), group=_WHICH)] = None
    config: Config = None
    record: Record = None
    dry_run: DryRun = False
    json: Json = False


@dataclass(frozen=True, kw_only=True)
class PacsPush:
    """Send the DICOM files of a folder to an archive, such as a series that denoise made.

    The archive is asked first which of them it has; the same folder pushed twice makes nothing twice. At the end it is
    asked again, and what it does not tell of is an error.
    """

    stages: ClassVar[tuple[str, ...]] = ("medidiff.cli.pacs",)
    node: Node
    source: Annotated[Path, Option("folder with DICOM files, and its sub-folders", ("IN",), positional=True)]
    config: Config = None
    synthetic: Annotated[bool, Option("send invented scans too; a patient's archive should hold none")] = False
    record: Annotated[Path | None, Option("where the record of the run goes; none when left out", ("PATH",))] = None
    json: Json = False


@dataclass(frozen=True, kw_only=True)
class PacsWatch(_Asking):
    """Look for new studies again and again; pull each once it has stopped growing, and hand it to a command.

    What was done stands in OUT, so that a watch that was ended goes on where it was. A study is handed on at least
    once: again, if the watch was killed meanwhile.
    """

    stages: ClassVar[tuple[str, ...]] = ("medidiff.cli.pacs",)
    node: Node
    out: Tree
    run: Annotated[
        str | None,
        Option("takes each study's folder in the place of {study}, or last; no shell", ("COMMAND",)),
    ] = None
    run_limit: Annotated[
        float, Option("end the command, with all that it started, after so long; 0 for never", ("SECONDS",))
    ] = 14_400.0
    every: Annotated[float, Option("between two looks", ("SECONDS",))] = 60.0
    settle: Annotated[float, Option("how long a study must not have grown before it is pulled", ("SECONDS",))] = 120.0
    looks: Annotated[int, Option("end after so many looks; 0 for never", ("N",))] = 0
    new_only: Annotated[bool, Option("leave aside what is there when a folder is watched for the first time")] = False
    failures: Annotated[int, Option("leave a study alone after so many failures in a row", ("N",))] = 5
    config: Config = None
    record: Record = None
    json: Json = False
