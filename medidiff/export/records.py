"""The record of one case: how it was made and what was asked for, as JSON that gives the case back exactly."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medidiff.case import MARK, Case
from medidiff.errors import InputError, MedidiffError
from medidiff.io.files.atomic import make_folder, write_file
from medidiff.volume import Geometry, Provenance, Volume

__all__ = ["case_of", "read_json", "record_of", "row_of", "write_json", "write_table", "write_text"]

_LIMIT = 2**24  # bytes; a larger JSON file is none of ours


def record_of(case: Case) -> dict[str, Any]:
    """What the record of a case says; the fields that BIDS has for derivatives carry the same names."""
    makers = [{"Name": "medidiff", "Version": case.provenance.version, "Description": MARK}]
    fields = {
        "Synthetic": True,
        "Description": MARK,
        "GeneratedBy": makers,
        "ResearchUseOnly": True,
        "Case": case.number,
        "Asked": dict(case.asked),
        "Modality": case.image.modality,
        "Units": case.image.units,
        "Shape": list(case.image.shape),
        "AffineRAS": case.image.geometry.affine.tolist(),
        "LabelNames": [] if case.labels is None else list(case.label_names),
        "Provenance": dataclasses.asdict(case.provenance),
    }
    values: dict[str, Any] = json.loads(json.dumps(fields, allow_nan=False))
    return values


def case_of(record: Mapping[str, Any], image: Volume, labels: Volume | None) -> Case:
    """The case that a record and its files tell of.

    Args:
        record: what `record_of` gave.
        image: as read from its file, whose grid may have lost digits to float32.
        labels: likewise.

    Raises:
        InputError: ``E-DATASET``, they do not fit together.
    """
    try:
        grid = Geometry(image.shape, np.array(record["AffineRAS"], dtype=np.float64))
        if tuple(record["Shape"]) != image.shape or grid.distance_mm(image.geometry) > 1e-3:
            raise ValueError
        exact = Volume(image.data, grid, record["Modality"], record["Units"])
        mask = None if labels is None else Volume(labels.data, grid, record["Modality"])
        provenance = Provenance.from_json(json.dumps(record["Provenance"]))
        names = tuple(record["LabelNames"]) if mask is not None else ("background",)
        return Case(int(record["Case"]), exact, provenance, mask, names, record["Asked"])
    except (KeyError, TypeError, ValueError, MedidiffError) as error:
        mend = "Export the data set again."
        raise InputError("E-DATASET", "a case that does not fit its record", mend=mend) from error


def row_of(record: Mapping[str, Any]) -> dict[str, str]:
    """What was asked for, and the mark, as they stand in a table; ``n/a`` for what was left open.

    Example:
        >>> row_of({"Asked": {"age": 34.0, "sex": "F"}})
        {'age': '34', 'sex': 'F', 'contrast': 'n/a', 'synthetic': 'true'}
    """
    asked = record["Asked"]
    told = {name: _cell(asked.get(name)) for name in ("age", "sex", "contrast")}
    return told | {"synthetic": "true"}


def _cell(value: object) -> str:
    if value is None:
        return "n/a"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return " ".join(text.split())


def write_table(path: Path, table: Iterator[Mapping[str, str]], *, separator: str = "\t") -> None:
    """Write a table row by row; the names of its columns are those of the first row."""

    def write(name: Path) -> None:
        with name.open("w", encoding="utf-8", newline="\n") as stream:
            lines = csv.writer(stream, delimiter=separator, lineterminator="\n")
            for number, row in enumerate(table):
                if number == 0:
                    lines.writerow(row)
                lines.writerow(row.values())

    make_folder(path.parent)
    write_file(path, write)


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a JSON file, keys in the order given; whole or absent."""
    write_text(path, json.dumps(fields, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, and make its folder; whole or absent."""
    make_folder(path.parent)
    write_file(path, lambda name: name.write_bytes(text.encode()))


def read_json(path: Path) -> dict[str, Any]:
    """The fields of a JSON file of a data set.

    Raises:
        InputError: ``E-DATASET``, it is missing, too large or no JSON object.
    """
    try:
        if path.stat().st_size > _LIMIT:
            raise ValueError
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("E-DATASET", "a JSON file that is missing or damaged", file=path.name) from error
    if not isinstance(fields, dict):
        raise InputError("E-DATASET", "JSON that is no object", file=path.name)
    return fields
