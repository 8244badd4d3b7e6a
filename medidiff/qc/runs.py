"""A cohort from the records that runs leave beside their results: `cases_of`."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medidiff.errors import InputError
from medidiff.io.files.names import safe_label
from medidiff.io.record import Run, read_record
from medidiff.qc.cohort import Case, State

__all__ = ["cases_of"]

_ENDING = ".record.jsonl"
_FOLDER_RECORD = "medidiff.record.jsonl"
_LARGEST_REFUSAL = 8  # exit codes above it are signals
_NO_CASES = ("qc", "train", "adapt", "synthesize", "export", "verify")  # runs that are about no single scan


def cases_of(folder: Path, *, seen_from: Path) -> list[Case]:
    """A case for each record below a folder: how its last run ended, in the order of the records' paths.

    Nothing names a patient: a case is called by the labels of its path, and its page is linked only where the path is
    made of neutral words.

    Args:
        folder: that runs have written into.
        seen_from: the folder that the cohort's page will lie in, from which links lead.

    Raises:
        InputError: ``E-MISSING``, no run has left a record there.
    """
    records = [path for path in sorted(folder.rglob(f"*{_ENDING}")) if not _is_hidden(path, folder)]
    pages: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*.html")):
        pages[safe_label(path.name)].append(path)
    cases = []
    for record in records:
        run = read_record(record)[-1]
        task = str((run.of("start") or ({},))[0].get("verb", ""))
        if task not in _NO_CASES:
            cases.append(_case(record, run, task, folder=folder, pages=pages, seen_from=seen_from))
    if not cases:
        mend = "Give the folder that medidiff denoise, superresolve or convert wrote into."
        raise InputError("E-MISSING", "no record of a run", wanted=f"files *{_ENDING}", mend=mend, file=folder.name)
    return cases


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _case(record: Path, run: Run, task: str, *, folder: Path, pages: Mapping[str, list[Path]], seen_from: Path) -> Case:
    refusal = (run.of("refusal") or ({},))[-1]
    code = str(refusal.get("code", ""))
    quality = (run.of("quality") or ({},))[-1]
    flags = quality.get("flags")
    return Case(
        name=_name(record, folder),
        state=_state(run),
        task=task,
        flags=tuple(map(str, flags)) if isinstance(flags, list) else None,
        level=_number(quality.get("noise_before")),
        seconds=_number(run.lines[-1].get("seconds")) if run.exit_code is not None else None,
        code=code,
        mend=str(refusal.get("message", "")).removeprefix(f"{code}: "),
        page=_link(pages.get(str(quality.get("page")), []), record.parent, folder, seen_from),
    )


def _state(run: Run) -> State:
    if run.exit_code is None:
        return "unfinished"
    ends: dict[int, State] = {0: "done", 1: "failed", 7: "partial"}
    return ends.get(run.exit_code, "interrupted" if run.exit_code > _LARGEST_REFUSAL else "refused")


def _name(record: Path, folder: Path) -> str:
    whole = record.name == _FOLDER_RECORD
    parts = list(record.relative_to(folder).parts[:-1])
    parts += [] if whole and parts else [record.name.removesuffix(_ENDING)]
    return "/".join(safe_label(part) for part in parts)


def _link(found: list[Path], home: Path, folder: Path, seen_from: Path) -> str:
    """The way to a case's page: that beside its record, or the only one of its name."""
    near = [path for path in found if path.parent == home] or found
    if len(near) != 1 or any(safe_label(part) != part for part in near[0].relative_to(folder).parts):
        return ""
    return Path(os.path.relpath(near[0], seen_from)).as_posix()


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
