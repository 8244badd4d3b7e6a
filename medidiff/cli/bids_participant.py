"""One scan after the other through the public functions of the package; see `medidiff.cli.bids`."""

from __future__ import annotations

import dataclasses
import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medidiff import io
from medidiff.cli.bids_scans import BidsScan
from medidiff.errors import MedidiffError, OutputError, SettingsError
from medidiff.io.files.atomic import make_folder, write_file
from medidiff.io.sidecar import record_path
from medidiff.prior import Prior, fitting_prior
from medidiff.restore import Settings, denoise, superresolve
from medidiff.version import __version__
from medidiff.volume import Geometry, Volume

__all__ = ["Asked", "Restorer", "refusal_path"]

_BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be done with every scan.

    Args:
        task: ``"denoise"`` or ``"superresolve"``.
        spacing: (3,) mm, or ``"own"`` for the scan's, for the latter.
        prior: name or path; None for the bundled one.
        seed: of all randomness.
        device: where to compute.
    """

    task: str
    spacing: tuple[float | str, ...] | None = None
    prior: str | None = None
    seed: int = 0
    device: str = "auto"


def refusal_path(out: Path, scan: BidsScan, task: str) -> Path:
    """Where it is noted that a scan was refused for a task when that was tried last."""
    return record_path(out / "refused" / scan.derivative(task).name)


class Restorer:
    """Restores scans into a derived data set.

    Args:
        out: root of it.
        asked: what to do.
        threads: of torch; as it chooses when None.

    Raises:
        SettingsError: a value out of range.
        PriorError: the prior that is named is missing or broken.
    """

    def __init__(self, out: Path, asked: Asked, *, threads: int | None = None) -> None:
        self.out, self.asked = out, asked
        if threads is not None:
            if threads < 1:
                raise SettingsError("E-SETTING", f"{threads}", wanted="1 or more", attribute="--n-cpus")
            torch.set_num_threads(threads)
        self.settings: dict[str, Any] = {"seed": asked.seed, "device": asked.device}
        Settings(**self.settings)  # refuses what is out of range before the first scan
        self._prior: Prior | None = None if asked.prior is None else Prior.load(asked.prior)

    def __call__(self, scan: BidsScan) -> str:
        """Restore one scan unless that is done; a scan that is refused is noted, and no longer once it is not.

        Returns:
            ``"done"``, ``"done before"``, or the refusal.

        Raises:
            OutputError: the result cannot be written.
        """
        note = refusal_path(self.out, scan, self.asked.task)
        try:
            state = self._restored(scan)
        except OutputError:
            raise
        except MedidiffError as error:
            make_folder(note.parent)
            text = json.dumps({"code": error.code, "message": str(error)}, indent=2) + "\n"
            write_file(note, lambda name: name.write_text(text, "utf-8"))
            return str(error)
        note.unlink(missing_ok=True)
        return state

    def _restored(self, scan: BidsScan) -> str:
        reading = io.read_scan(scan.path)
        volume = reading.volume
        if volume.modality == "OT":  # below anat/ there is nothing but magnetic resonance
            volume = dataclasses.replace(volume, modality="MR")
        prior, decisions = fitting_prior(volume, self._prior)
        self._prior = prior
        path = self.out / scan.derivative(self.asked.task)
        if self._is_done(path, reading.sha256, prior, volume.geometry):
            return "done before"
        posterior = self._answer(volume, prior)
        made = posterior.provenance
        told = tuple(dict.fromkeys((*reading.decisions, *decisions, *made.decisions)))
        provenance = dataclasses.replace(made, inputs=reading.sha256, decisions=told)
        make_folder(path.parent)
        _drop_damaged(record_path(path))
        io.write(posterior.mean, path, like=scan.path, provenance=provenance)
        return "done"

    def _answer(self, volume: Volume, prior: Prior) -> Any:
        if self.asked.spacing is not None:
            return superresolve(volume, self.asked.spacing, prior=prior, **self.settings)
        return denoise(volume, prior=prior, **self.settings)

    def _is_done(self, path: Path, inputs: tuple[str, ...], prior: Prior, grid: Geometry) -> bool:
        """Whether the same question has its answer already, whole."""
        try:
            record = json.loads(record_path(path).read_text("utf-8"))["Provenance"]
            spacing = tuple(record["settings"]["spacing_mm"])
        except (OSError, ValueError, KeyError, TypeError):
            return False
        asked = {
            "task": self.asked.task,
            "version": __version__,
            "inputs": list(inputs),
            "seed": self.asked.seed,
            "prior": {"name": prior.card.name, "sha256": prior.card.weights_sha256},
        }
        same = all(record.get(name) == value for name, value in asked.items())
        fine = self.asked.spacing is None or _near(spacing, grid.with_spacing(self.asked.spacing).spacing_mm)
        return same and fine and _is_whole(path)


def _near(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return len(one) == len(other) and all(abs(a - b) <= 0.005 * b for a, b in zip(one, other, strict=True))


def _drop_damaged(record: Path) -> None:
    """Remove a record that is no JSON: records are written whole, so a disk has lost it, and it would look foreign."""
    try:
        json.loads(record.read_text("utf-8"))
    except FileNotFoundError:
        return
    except ValueError:
        record.unlink()


def _is_whole(path: Path) -> bool:
    """Whether a packed file is there and what it was packed from: gzip ends with a checksum."""
    try:
        with gzip.open(path) as stream:
            while stream.read(_BLOCK):
                pass
    except (OSError, EOFError, zlib.error):
        return False
    return True
