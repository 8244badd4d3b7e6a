"""The verbs about priors that travel, and about runs that are made again; see `medidiff.cli.verbs`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from medidiff.cli.options import Option
from medidiff.cli.shared import DryRun, Json, Record

__all__ = ["PriorExport", "PriorShow", "Replay"]

_Named = Annotated[
    str, Option("a bundled prior's name, or the path of a prior's card (.json)", ("NAME|CARD",), positional=True)
]


@dataclass(frozen=True, kw_only=True)
class PriorExport:
    """Write a prior so that others can use it without medidiff; see docs/models.md.

    bundle: a MONAI bundle, a folder that 'python -m monai.bundle run' denoises with. pyfunc: an MLflow model, a folder
    that 'mlflow.pyfunc.load_model' takes. torch: the network as a torch.export archive, a file OUT.pt2.
    """

    stages: ClassVar[tuple[str, ...]] = ("medidiff.cli.travelling",)
    given_away: ClassVar[bool] = True  # so that the record of the run goes beside it, and not into it
    prior: _Named
    out: Annotated[Path, Option("a new folder; a new file ending in .pt2 for torch", ("OUT",), positional=True)]
    format: Annotated[Literal["bundle", "pyfunc", "torch"], Option("what to write")] = "bundle"
    tracking: Annotated[
        str | None,
        Option("with pyfunc: register it in this MLflow store, e.g. sqlite:///mlflow.db", ("URI",)),
    ] = None
    record: Record = None
    json: Json = False


@dataclass(frozen=True, kw_only=True)
class PriorShow:
    """Show the card of a prior as a page: data, licence, intended use, limits, metrics and calibration."""

    stages: ClassVar[tuple[str, ...]] = ("medidiff.cli.travelling",)
    prior: _Named
    json: Json = False


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Make the result of a run again, and check that its bytes are the same.

    RUN is the record of 'denoise' or 'superresolve' (.record.jsonl), or the id of a run in MLflow: one of these that
    was given --tracking, or one of 'train'. A run is refused if its input, its prior or the versions of what it ran
    with are not those at hand.
    """

    stages: ClassVar[tuple[str, ...]] = ("medidiff.cli.replaying",)
    run: Annotated[str, Option("a record, or the id of a run in MLflow", ("RUN",), positional=True)]
    into: Annotated[Path, Option("a new folder to write into", ("DIR",), ("-o", "--out"))]
    input: Annotated[Path | None, Option("the scan that was restored, as IN was", ("IN",))] = None
    data: Annotated[Path | None, Option("the data that was trained on, as for train", ("DIR|PACK",))] = None
    recipe: Annotated[
        Path | None, Option("the recipe that was trained from; the one that MLflow kept when left out", ("RECIPE",))
    ] = None
    prior: Annotated[
        Path | None, Option("card of the prior that was used, where it is none of the bundled", ("CARD",))
    ] = None
    calibration: Annotated[
        Path | None, Option("the calibration that --intervals named, where it is not the bundled one", ("FILE",))
    ] = None
    number: Annotated[int, Option("which run of the record, from 1; 0 for the last", ("N",))] = 0
    tracking: Annotated[
        str | None, Option("MLflow store that holds the run; mlflow.db in this folder when left out", ("URI",))
    ] = None
    dry_run: DryRun = False
    json: Json = False
