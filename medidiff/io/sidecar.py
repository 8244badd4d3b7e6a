"""The JSON record beside a written scan: BIDS-derivative fields, the full provenance, nothing about the patient."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from medidiff.errors import OutputError
from medidiff.io.files.atomic import write_file
from medidiff.version import __version__
from medidiff.volume import Provenance, Volume

__all__ = ["ensure_provenance", "labels", "record_path", "refuse_foreign_record", "safe_name", "write_record"]

_MODALITIES = ("MR", "CT", "PT")


def ensure_provenance(provenance: Provenance | None, inputs: tuple[str, ...]) -> Provenance:
    """The record given, or that of a plain conversion of `inputs` (SHA-256 each)."""
    return provenance or Provenance(task="convert", version=__version__, inputs=inputs)


def record_path(path: Path) -> Path:
    """Where the record of a written file lies: ``scan.nii.gz`` has ``scan.json``."""
    stem = path.name[:-7] if path.name.lower().endswith(".nii.gz") else path.stem
    return path.with_name(f"{stem}.json")


def safe_name(provenance: Provenance, *, ending: str) -> str:
    """A file name made of the task and a hash of the record, so that no input name enters it."""
    task = re.sub(r"[^a-z0-9]+", "-", provenance.task.lower()).strip("-")[:40] or "result"
    return f"medidiff_{task}_{_digest(provenance)}{ending}"


def _digest(provenance: Provenance) -> str:
    return hashlib.sha256(provenance.to_json().encode()).hexdigest()[:8]


def _read(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _is_own(fields: dict[str, Any]) -> bool:
    makers = fields.get("GeneratedBy")
    return isinstance(makers, list) and any(isinstance(m, dict) and m.get("Name") == "medidiff" for m in makers)


def labels(path: Path) -> tuple[str, str]:
    """Modality and units that the record beside a scan states.

    Units are believed only from a record of medidiff itself; ``("OT", "")`` when there is nothing to believe.
    """
    fields = _read(record_path(path))
    modality = fields.get("Modality")
    units = fields.get("Units") if _is_own(fields) else None
    return (modality if modality in _MODALITIES else "OT", units if isinstance(units, str) else "")


def refuse_foreign_record(path: Path) -> None:
    """Refuse to replace a record that medidiff did not write, such as the source's own BIDS sidecar."""
    if path.exists() and not _is_own(_read(path)):
        raise OutputError(
            "E-OVERWRITE",
            "a JSON file that medidiff did not write stands where the record would go",
            file=path.name,
            mend="Choose another output name or folder.",
        )


def write_record(path: Path, volume: Volume, *, provenance: Provenance, description: str = "") -> None:
    """Write the record of a scan.

    Args:
        path: the JSON file.
        volume: the scan that was written.
        provenance: how it was made; its `inputs` become ``Sources`` as SHA-256, never as file names.
        description: one sentence by the user, kept as given.
    """
    fields = {
        "Description": description or f"medidiff {provenance.task}; research use only",
        "GeneratedBy": [{"Name": "medidiff", "Version": provenance.version}],
        "Sources": [f"sha256:{digest}" for digest in provenance.inputs],
        "Modality": volume.modality,
        "Units": volume.units,
        "ResearchUseOnly": True,
        "Synthetic": provenance.synthetic,
        "Provenance": dataclasses.asdict(provenance),
    }
    text = json.dumps(fields, indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_file(path, lambda name: name.write_bytes(text.encode()))
