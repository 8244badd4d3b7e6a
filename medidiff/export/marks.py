"""The synthetic mark, told from what a file holds, whatever it is called and wherever it lies."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from medidiff.case import MARK
from medidiff.errors import InputError
from medidiff.export.shards import members

__all__ = ["is_marked"]

_MOST = 2**24  # bytes of a text file that are looked at
_HEAD = 4096  # bytes that hold the header of a NIfTI file with its extensions


def is_marked(path: Path) -> bool:
    """Whether a file of a data set says that it is synthetic, in the way of its kind.

    ============  ==================================================================
    kind          the mark
    ============  ==================================================================
    NIfTI         description of the header, and a comment extension
    JSON          ``"Synthetic": true`` at the top; a provenance must say so as well
    TSV, CSV      a column ``synthetic`` that is ``true`` in each row
    tar           a comment for all members, and the mark of each member
    DICOM         SyntheticData (0008,001C) is YES
    all else      the sentence `medidiff.case.MARK` as text
    ============  ==================================================================
    """
    try:
        with path.open("rb") as stream:
            if path.suffix == ".tar":
                return _in_tar(path)
            return _in_stream(path.name, stream)
    except (OSError, EOFError, ValueError, RecursionError, csv.Error, InputError):
        return False


def _in_stream(name: str, stream: BinaryIO | io.BufferedReader) -> bool:
    if name.endswith((".nii", ".nii.gz")):
        return _in_nifti(name, stream)
    if name.endswith(".dcm"):
        from medidiff.io.dicom.synthetic import is_marked_dicom

        return is_marked_dicom(stream)
    text = stream.read(_MOST).decode("utf-8")
    if name.endswith(".json"):
        return _in_fields(json.loads(text))
    if name.endswith((".tsv", ".csv")):
        rows = list(csv.DictReader(io.StringIO(text), delimiter="\t" if name.endswith(".tsv") else ","))
        return bool(rows) and all(row.get("synthetic") == "true" for row in rows)
    return MARK in text


def _in_nifti(name: str, stream: Any) -> bool:
    from medidiff.io.nifti.synthetic import is_marked_nifti

    head = (gzip.GzipFile(fileobj=stream) if name.endswith(".gz") else stream).read(_HEAD)
    return is_marked_nifti(io.BytesIO(head))


def _in_fields(fields: Any) -> bool:
    if not isinstance(fields, Mapping) or fields.get("Synthetic") is not True:
        return False
    made = fields.get("Provenance")
    return made is None or (isinstance(made, Mapping) and made.get("synthetic") is True)


def _in_tar(path: Path) -> bool:
    with tarfile.open(path, "r|") as tar:
        if tar.next() is None or tar.pax_headers.get("comment") != MARK:
            return False
    return all(_in_stream(name, content) for name, content in members(path))
