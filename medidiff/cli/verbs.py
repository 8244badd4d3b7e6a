"""The verbs of the command line: each dataclass is parser, documentation and test hook at once.

Nothing heavy is imported here, so that ``--help`` is instant. `stages` names the modules whose ``run(verb)`` does the
work: light checks come first, so that a mistyped path is refused before a network is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from medidiff.cli.batch_verbs import BatchDenoise, BatchJoint, BatchStatus, BatchSuperresolve, BatchSync, BatchWork
from medidiff.cli.calibrate_verbs import Calibrate
from medidiff.cli.options import Option
from medidiff.cli.pacs_verbs import PacsPull, PacsPush, PacsWatch
from medidiff.cli.qc_verbs import Qc
from medidiff.cli.restoring_options import Finer, RestoringOptions
from medidiff.cli.shared import Device, DryRun, Json, Record, Repairs, Seed
from medidiff.cli.synthetic_verbs import Export, Synthesize, Verify
from medidiff.cli.travel_verbs import PriorExport, PriorShow, Replay

__all__ = [
    "FAMILIES",
    "VERBS",
    "Adapt",
    "Calibrate",
    "Convert",
    "Deidentify",
    "Demo",
    "Denoise",
    "Evaluate",
    "Export",
    "Info",
    "PacsPull",
    "PacsPush",
    "PacsWatch",
    "Priors",
    "Qc",
    "Repairs",
    "Restoring",
    "Superresolve",
    "Synthesize",
    "Train",
    "Verb",
    "Verify",
]

Source = Annotated[
    Path, Option("the scan: a NIfTI, NRRD or MetaImage file, or the folder of a DICOM series", ("IN",), positional=True)
]
Output = Annotated[
    Path, Option("a name ending in .nii, .nii.gz, .nrrd or .mha, or a folder", ("OUT",), positional=True)
]
Format = Annotated[
    Literal["nifti", "dicom"] | None, Option("what to write into a folder; must be given unless the source is DICOM")
]
PriorName = Annotated[str, Option("a bundled prior's name, or the path of a prior's card (.json)")]
Folder = Annotated[Path, Option("folder to write into", ("DIR",), ("-o", "--out"))]


@dataclass(frozen=True, kw_only=True)
class Info(Repairs):
    """Show what a file or folder holds, without anything that identifies the patient."""

    stages: ClassVar[tuple[str, ...]] = ("medidiff.cli.info",)
    path: Annotated[Path, Option("a scan, or a folder of DICOM files", ("PATH",), positional=True)]
    json: Json = False


@dataclass(frozen=True, kw_only=True)
class Convert(Repairs):
    """Write a scan in another format: the same voxels on the same grid.

    With --all, OUT is a folder that receives every scan of IN, as NIfTI unless --format says otherwise; scans that are
    refused are listed and recorded, and the others are written.
    """

    stages: ClassVar[tuple[str, ...]] = ("medidiff.cli.places", "medidiff.cli.convert")
    source: Source
    out: Output
    all: Annotated[bool, Option("write every scan of IN into the folder OUT, under names made of their numbers")] = (
        False
    )
    like: Annotated[
        Path | None, Option("the DICOM series whose study the result joins; IN itself when left out", ("SOURCE",))
    ] = None
    format: Annotated[
        Literal["nifti", "dicom", "nrrd", "metaimage"] | None,
        Option(
            "what to write into a folder; must be given unless the source, or that of --like, is DICOM; with --all "
            "nrrd and metaimage too, and nifti when left out"
        ),
    ] = None
    record: Record = None
    dry_run: DryRun = False
    json: Json = False

    @property
    def outputs(self) -> dict[str, Path]:
        """What is written, by name."""
        return {"scan": self.out}


@dataclass(frozen=True, kw_only=True)
class Restoring(RestoringOptions):
    """What denoising and super-resolution share."""

    stages: ClassVar[tuple[str, ...]] = ("medidiff.cli.places", "medidiff.cli.restoring", "medidiff.cli.tracked")
    source: Source
    out: Output
    spread: Annotated[Path | None, Option("write the standard deviation of the draws here", ("PATH",))] = None
    interval: Annotated[
        tuple[float, Path, Path] | None,
        Option("write the bounds that hold this share of the posterior", ("SHARE", "LOWER", "UPPER")),
    ] = None
    intervals: Annotated[
        tuple[Path, Path, Path] | None,
        Option(
            "write bounds that a calibration stands for: a file of 'medidiff calibrate', or bundled",
            ("CALIBRATION", "LOWER", "UPPER"),
        ),
    ] = None
    draw: Annotated[Path | None, Option("write the first draw here: plausible, sharper, less exact", ("PATH",))] = None
    residual: Annotated[
        Path | None,
        Option("write by how many standard deviations of the noise the scan speaks against OUT here", ("PATH",)),
    ] = None
    report: Annotated[
        Path | None, Option("write a quality report here: one HTML page, before and after with checks", ("PAGE",))
    ] = None
    format: Format = None
    tracking: Annotated[
        str | None, Option("MLflow store that is told of the run, so that 'medidiff replay' finds it", ("URI",))
    ] = None
    record: Record = None
    dry_run: DryRun = False
    json: Json = False

    @property
    def outputs(self) -> dict[str, Path]:
        """Scans that are written, by name; the answer itself first."""
        lower, upper = self.interval[1:] if self.interval else self.intervals[1:] if self.intervals else (None, None)
        named = {"mean": self.out, "spread": self.spread, "lower": lower, "upper": upper, "draw": self.draw}
        named["residual"] = self.residual
        return {name: path for name, path in named.items() if path is not None}

    @property
    def wanted_draws(self) -> int:
        """How many posterior samples to take."""
        if self.draws is not None:
            return self.draws
        return 8 if self.outputs_of_draws else 0

    @property
    def outputs_of_draws(self) -> bool:
        """Whether an output is made of draws."""
        return not {"spread", "lower", "upper", "draw"}.isdisjoint(self.outputs)


@dataclass(frozen=True, kw_only=True)
class Denoise(Restoring):
    """Remove the noise of a scan; the grid stays as it is.

    OUT is the posterior mean. A folder for OUT and a DICOM source make a new series of the source's study.
    """


@dataclass(frozen=True, kw_only=True)
class Superresolve(Finer, Restoring):
    """Bring a scan to a finer grid, and denoise it on the way.

    OUT is the posterior mean; it agrees with the scan to within the noise.
    """


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a prior from a TOML recipe; the same command again goes on where it stopped.

    Several processes: torchrun --nproc-per-node N -m medidiff train RECIPE -o DIR
    """

    stages: ClassVar[tuple[str, ...]] = ("medidiff.cli.places", "medidiff.cli.train")
    recipe: Annotated[Path, Option("TOML file", ("RECIPE",), positional=True)]
    out: Folder
    data: Annotated[
        Path | None, Option("data folder instead of the recipe's, or a pack of pipelines/prepare.py", ("DIR|PACK",))
    ] = None
    device: Device = "auto"
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Option("arithmetic of the network; auto is bfloat16 on a GPU, which newer CPUs have as well, twice as fast"),
    ] = "auto"
    workers: Annotated[
        int | None, Option("processes that draw patches ahead; on a GPU all cores but two when left out", ("N",))
    ] = None
    cache: Annotated[
        Path | None,
        Option("folder that keeps prepared scans; patches are cut from there, so that memory does not grow", ("DIR",)),
    ] = None
    tracking: Annotated[
        str | None,
        Option("MLflow store, sqlite:///file.db or a server; mlflow.db in the output folder when left out", ("URI",)),
    ] = None
    dry_run: DryRun = False
    json: Json = False


@dataclass(frozen=True, kw_only=True)
class Adapt(Repairs):
    """Make a prior for the scanner and contrast of noisy scans, without a clean one; some minutes on a CPU.

    Parts of the scans are held back. They say when to stop, and the new weights are taken only where they are better
    there beyond doubt; if not, the prior is written as it was and said to be. The scans must be MR and their noise
    white: not that of scans that were interpolated or filtered. Use it with --prior DIR/NAME.json.
    """

    stages: ClassVar[tuple[str, ...]] = ("medidiff.cli.places", "medidiff.cli.adapt")
    scans: Annotated[
        tuple[Path, ...], Option("noisy scans of one scanner and contrast, as IN elsewhere", ("SCAN",), positional=True)
    ]
    out: Folder
    name: Annotated[str, Option("of the new prior; its files are DIR/NAME.json and DIR/NAME.safetensors", ("NAME",))]
    prior: PriorName = "fine-t1"
    noise: Annotated[
        Literal["rician", "gaussian"], Option("kind of noise: magnitude MR is Rician, real-valued MR is Gaussian")
    ] = "rician"
    noise_level: Annotated[
        float | None, Option("standard deviation in the scans' stored units; estimated when left out", ("SIGMA",))
    ] = None
    patches: Annotated[int, Option("training patches at most", ("N",))] = 600
    minutes: Annotated[
        float, Option("time at most; where this ends it, another machine gets other weights", ("M",))
    ] = 10.0
    seed: Seed = 0
    device: Device = "auto"
    record: Record = None
    dry_run: DryRun = False
    json: Json = False

    @property
    def outputs(self) -> dict[str, Path]:
        """What is written, by name."""
        return {"weights": self.out / f"{self.name}.safetensors", "card": self.out / f"{self.name}.json"}


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Denoise and super-resolve the bundled sample scan, measured against classical filters; about two minutes."""

    stages: ClassVar[tuple[str, ...]] = ("medidiff.cli.places", "medidiff.cli.demo")
    out: Folder
    noise_percent: Annotated[float, Option("Rician noise, in % of the tissue maximum", ("P",))] = 9.0
    factor: Annotated[int, Option("how much thicker the slices are made; divides 72", ("N",))] = 3
    draws: Annotated[int, Option("posterior samples for the uncertainty, at least 2", ("N",))] = 4
    seed: Seed = 0
    prior: PriorName = "fine-t1"
    device: Device = "auto"
    json: Json = False


@dataclass(frozen=True, kw_only=True)
class Evaluate(Repairs):
    """Score a result against a reference on the same grid: PSNR, SSIM, NRMSE and HFEN in the tissue."""

    stages: ClassVar[tuple[str, ...]] = ("medidiff.cli.evaluate",)
    result: Annotated[Path, Option("what is judged", ("RESULT",), positional=True)]
    reference: Annotated[Path, Option("what it should be", ("REFERENCE",), positional=True)]
    input: Annotated[Path | None, Option("the scan before, scored beside the result", ("NOISY",))] = None
    mask: Annotated[
        Path | None, Option("where to score, voxels above 0; the reference's foreground when left out", ("PATH",))
    ] = None
    record: Annotated[Path | None, Option("where the record of the run goes; none when left out", ("PATH",))] = None
    json: Json = False


@dataclass(frozen=True, kw_only=True)
class Priors:
    """List the priors that are bundled, and those of a folder: what each is for, and what it is known not to do."""

    stages: ClassVar[tuple[str, ...]] = ("medidiff.cli.priors",)
    folder: Annotated[Path | None, Option("list also the priors of this folder", ("DIR",))] = None
    json: Json = False


@dataclass(frozen=True, kw_only=True)
class Deidentify:
    """Write DICOM files anew without anything that identifies the patient: the basic profile of PS3.15, all objects.

    IN is a DICOM file or a folder; OUT is a new folder. Faces and text in the pixels stay: see docs/deidentify.md.
    """

    stages: ClassVar[tuple[str, ...]] = ("medidiff.cli.deidentify",)
    source: Annotated[
        Path, Option("a DICOM file, a folder or an archive of them, or a pattern", ("IN",), positional=True)
    ]
    out: Annotated[Path, Option("a new or empty folder", ("OUT",), positional=True)]
    key: Annotated[Path, Option("file with the secret that UIDs, pseudonyms and date shifts are made from", ("FILE",))]
    new_key: Annotated[bool, Option("make the key file first")] = False
    dates: Annotated[
        Literal["shift", "remove"], Option("move the dates of a patient by the same days, or remove them")
    ] = "shift"
    keep_characteristics: Annotated[bool, Option("keep sex, age (at most 89), size and weight, which PET needs")] = (
        False
    )
    allow_burned_in: Annotated[bool, Option("also write images that say that text is burned into them")] = False
    record: Record = None
    json: Json = False


Verb = (
    Info
    | Convert
    | Denoise
    | Superresolve
    | Train
    | Adapt
    | Calibrate
    | PriorExport
    | PriorShow
    | Replay
    | Demo
    | Evaluate
    | Qc
    | Synthesize
    | Export
    | Verify
    | Deidentify
    | PacsPull
    | PacsPush
    | PacsWatch
    | Priors
    | BatchDenoise
    | BatchSuperresolve
    | BatchStatus
    | BatchWork
    | BatchSync
)

FAMILIES = {
    "prior": "Show what a prior is and was trained on, or write it for those who have no medidiff.",
    "pacs": "Take scans from a PACS and send results back.",
    "batch": "Restore thousands of scans, on one machine or many; killed, the same command goes on.",
}

VERBS: dict[str, type] = {
    "info": Info,
    "convert": Convert,
    "denoise": Denoise,
    "superresolve": Superresolve,
    "train": Train,
    "adapt": Adapt,
    "calibrate": Calibrate,
    "prior export": PriorExport,
    "prior show": PriorShow,
    "replay": Replay,
    "demo": Demo,
    "evaluate": Evaluate,
    "qc": Qc,
    "synthesize": Synthesize,
    "export": Export,
    "verify": Verify,
    "deidentify": Deidentify,
    "pacs pull": PacsPull,
    "pacs push": PacsPush,
    "pacs watch": PacsWatch,
    "priors": Priors,
    "batch denoise": BatchDenoise,
    "batch superresolve": BatchSuperresolve,
    "batch joint": BatchJoint,
    "batch status": BatchStatus,
    "batch work": BatchWork,
    "batch sync": BatchSync,
}
