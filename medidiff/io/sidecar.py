"""The JSON record beside a written scan: BIDS-derivative fields, the full provenance, nothing about the patient."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from medidiff.errors import InputError, OutputError
from medidiff.io.files.atomic import write_file
from medidiff.version import __version__
from medidiff.volume import Geometry, Provenance, Volume

__all__ = [
    "ensure_provenance",
    "exact_affine",
    "holds_mask",
    "is_own_record",
    "labels",
    "record_path",
    "refuse_foreign_record",
    "safe_name",
    "slice_thickness",
    "stored_provenance",
    "write_record",
]

_MODALITIES = ("MR", "CT", "PT")
_UNITS = re.compile(r"[A-Za-z0-9/%^*._ -]{0,24}")
_RECORD_LIMIT = 2**22  # bytes; larger JSON is not ours, and not worth parsing


def ensure_provenance(provenance: Provenance | None, inputs: tuple[str, ...]) -> Provenance:
    """The record given, or that of a plain conversion of `inputs` (SHA-256 each)."""
    return provenance or Provenance(task="convert", version=__version__, inputs=inputs)


def record_path(path: Path) -> Path:
    """Where the record of a written file lies: ``scan.nii.gz`` has ``scan.json``."""
    if not path.name:  # the folder at hand, or the root
        return path / "medidiff.json"
    name = path.name[:-3] if path.name.lower().endswith(".gz") else path.name
    return path.with_name(f"{Path(name).stem}.json")


def safe_name(provenance: Provenance, *, ending: str) -> str:
    """A file name made of the task and a hash of the record, so that no input name enters it."""
    task = re.sub(r"[^a-z0-9]+", "-", provenance.task.lower()).strip("-")[:40] or "result"
    return f"medidiff_{task}_{_digest(provenance)}{ending}"


def _digest(provenance: Provenance) -> str:
    return hashlib.sha256(provenance.to_json().encode()).hexdigest()[:8]


def _read(path: Path) -> dict[str, Any]:
    """The fields of a JSON file; empty for everything that is not a small regular file of one JSON object."""
    try:
        if not path.is_file() or path.stat().st_size > _RECORD_LIMIT:
            return {}
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _is_own(fields: dict[str, Any]) -> bool:
    makers = fields.get("GeneratedBy")
    return isinstance(makers, list) and any(isinstance(m, dict) and m.get("Name") == "medidiff" for m in makers)


def is_own_record(path: Path) -> bool:
    """Whether a file is a record that medidiff wrote."""
    return _is_own(_read(path))


def labels(path: Path) -> tuple[str, str]:
    """Modality and units that the record beside a scan states.

    Units are believed only from a record of medidiff itself; ``("OT", "")`` when there is nothing to believe.
    """
    fields = _read(record_path(path))
    modality = fields.get("Modality")
    units = fields.get("Units") if _is_own(fields) else None
    known = isinstance(units, str) and _UNITS.fullmatch(units) is not None
    return (modality if modality in _MODALITIES else "OT", str(units) if known else "")


def slice_thickness(path: Path, geometry: Geometry) -> float | None:
    """SliceThickness in mm that the record beside a scan states (a field of BIDS), where it is about the last axis.

    A scan that was reoriented after the record was made may have its slices across another axis: where the last one is
    not the coarsest, nothing is believed.

    Args:
        path: the scan.
        geometry: its grid.
    """
    said = _read(record_path(path)).get("SliceThickness")
    if isinstance(said, bool) or not isinstance(said, int | float) or not math.isfinite(said):
        return None
    return float(said) if geometry.spacing_mm[2] >= 0.99 * max(geometry.spacing_mm) else None


def exact_affine(path: Path, geometry: Geometry, *, transform: str) -> tuple[Geometry, tuple[str, ...]]:
    """The grid of a NIfTI file with the digits that its header could not hold.

    A NIfTI-1 header keeps its affine in float32. The record that medidiff writes beside it has the same affine in
    float64, and is believed only if rounding it gives the header's affine bit for bit; whoever moves the scan
    later changes the header, and the record is no longer heeded.

    Args:
        path: the NIfTI file.
        geometry: the grid of its header.
        transform: what the grid was taken from; only a sform is completed.

    Returns:
        The grid and what was decided.
    """
    fields = _read(record_path(path)) if transform == "sform" else {}
    try:
        affine = np.array(fields.get("AffineRAS") if _is_own(fields) else None, dtype=np.float64)
        exact = Geometry(geometry.shape, affine)
    except (InputError, TypeError, ValueError, OverflowError):
        return geometry, ()
    with np.errstate(over="ignore"):
        same = np.array_equal(affine.astype(np.float32), geometry.affine)
    if not same or exact == geometry:
        return geometry, ()
    return exact, ("the digits of the affine that float32 cannot hold are those of the record beside the scan",)


def stored_provenance(path: Path) -> Provenance | None:
    """How a result was made, as the record of medidiff beside it says, or that inside a folder that holds but one.

    None where there is no such record, or one of another version with other fields.
    """
    places = sorted(path.glob("*.json")) if path.is_dir() else [record_path(path)]
    own = [fields for fields in map(_read, places) if _is_own(fields)]
    if len(own) != 1:
        return None
    try:
        return Provenance.from_json(json.dumps(own[0].get("Provenance")))
    except (InputError, TypeError, ValueError):
        return None


def holds_mask(path: Path) -> bool:
    """Whether a record is medidiff's own and says that a mask of filled voxels lies beside it."""
    fields = _read(path)
    count = fields.get("FilledVoxels")
    return _is_own(fields) and isinstance(count, int) and count > 0


def refuse_foreign_record(path: Path) -> None:
    """Refuse to replace a record that medidiff did not write, such as the source's own BIDS sidecar."""
    if path.exists() and not is_own_record(path):
        raise OutputError(
            "E-OVERWRITE",
            "a JSON file that medidiff did not write stands where the record would go",
            file=path.name,
            mend="Choose another output name or folder.",
        )


def write_record(path: Path, volume: Volume, *, provenance: Provenance, description: str = "") -> None:
    """Write the record of a scan, with the fields that BIDS has for derivatives.

    Args:
        path: the JSON file.
        volume: the scan that was written.
        provenance: how it was made; its `inputs` become ``Sources`` as SHA-256, never as file names or ``bids::`` URIs:
            either would carry the subject's label along.
        description: one sentence by the user, kept as given.
    """
    about = f"{provenance.task} by medidiff {provenance.version}; research use only, not for diagnosis"
    fields = {
        "Description": description or f"medidiff {provenance.task}; research use only",
        "GeneratedBy": [{"Name": "medidiff", "Version": provenance.version, "Description": about}],
        "Sources": [f"sha256:{digest}" for digest in provenance.inputs],
        "Modality": volume.modality,
        "Units": volume.units,
        "ResearchUseOnly": True,
        "Synthetic": provenance.synthetic,
        "FilledVoxels": 0 if volume.filled is None else int(volume.filled.sum()),
        "AffineRAS": volume.geometry.affine.tolist(),
        "Provenance": dataclasses.asdict(provenance),
    }
    if provenance.scope:
        told = ("verdict", "prior", "reasons")
        fields["Scope"] = {name: provenance.scope[name] for name in told if name in provenance.scope}
    if volume.thickness_mm is not None:
        fields["SliceThickness"] = volume.thickness_mm
    if provenance.inputs and not provenance.synthetic:
        fields["SpatialReference"] = "orig"  # the result lies where the source does, however its voxels are cut
    text = json.dumps(_strict(fields), indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_file(path, lambda name: name.write_bytes(text.encode()))


def _strict(value: Any) -> Any:
    """The same value for strict JSON, where NaN and infinity do not exist: they become text."""
    if isinstance(value, dict):
        return {str(key): _strict(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
