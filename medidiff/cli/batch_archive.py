"""Studies of an archive as the input of a batch: each series that the archive names is a case.

The question is put once, when the batch begins; the manifest then holds the series, and no restart asks again. A worker
fetches a series under the lease of its case, whole or not at all, into ``.medidiff/pulled/STUDY/SERIES`` of the output
folder, and what lies there is not fetched again. A series that cannot be had is refused like any other case; an archive
that cannot be asked ends the run, and the same command goes on later.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from medidiff.batch.cases import Case
from medidiff.batch.job import Batch, alone, pulled
from medidiff.batch.sources import case_at
from medidiff.batch.worker import Outcome, Task
from medidiff.cli.batch_input import Input
from medidiff.cli.batch_task import RestoreTask
from medidiff.errors import InputError, SettingsError
from medidiff.io.files.atomic import output_errors
from medidiff.pacs import Archive, DimseNode, Node, Wanted, find_node, open_archive, pull_series

if TYPE_CHECKING:
    from medidiff.cli.batch_verbs import Batching

__all__ = ["FetchingTask", "asked", "series_cases", "source_of", "task_of"]

_CONDITIONS = ("study", "series", "accession", "patient", "dates", "modality")
_NO_SCANS = frozenset(
    (
        *("AU", "DOC", "ECG", "FID", "HD", "KO", "M3D", "PLAN", "PR", "REG", "RTDOSE", "RTPLAN", "RTRECORD"),
        *("RTSTRUCT", "RWV", "SEG", "SR", "STAIN", "TEXTUREMAP"),
    )
)
"""Modalities of series that hold no scan (PS3.3, C.7.3.1.1.1)."""


def asked(source: Input) -> Wanted:
    """The question that was typed: ``accession=A1234&modality=MR,CT``, values percent-encoded where they need it.

    Raises:
        SettingsError: ``E-PACS-QUERY``, a condition is unknown, is named twice or cannot be, or there is none.
    """
    found: dict[str, str] = {}
    for part in source.conditions.split("&") if source.conditions else ():
        name, _, value = part.partition("=")
        if name not in _CONDITIONS or name in found or not value:
            wanted = f"once each: {', '.join(f'{each}=VALUE' for each in _CONDITIONS)}"
            mend = "Put INPUT into quotes; the shell reads & otherwise."
            raise SettingsError("E-PACS-QUERY", "a condition that is none", wanted=wanted, mend=mend, attribute="INPUT")
        found[name] = unquote(value)
    modalities = found.pop("modality", "").upper()
    return Wanted(**found, modalities=tuple(code for code in modalities.split(",") if code))


def source_of(source: Input) -> str:
    """The input as the settings of a batch keep it: the node, and a hash of the question, which may name a patient."""
    question = json.dumps([source.node, asdict(asked(source))], sort_keys=True)
    return f"pacs:{source.node}?{hashlib.sha256(question.encode()).hexdigest()[:16]}"


def series_cases(verb: Batching) -> list[Case]:
    """Each series that fits the question, could hold a scan and is no result of ours, in the order of the UIDs.

    Raises:
        SettingsError: the node, its secrets or the question are wrong.
        InputError: ``E-PACS-NONE``, nothing fits; or the archive cannot be asked.
    """
    wanted, node = asked(verb.source), _node(verb.source, verb.config)
    home = pulled(verb.out.absolute())
    with open_archive(node) as archive:
        places = sorted(_fitting(archive, wanted, node))
    if not places:
        mend = "Check the numbers and dates; a value must be given in full."
        raise InputError("E-PACS-NONE", "no series of an image on the archive fits", mend=mend)
    return [case_at(home.joinpath(*place), place, verb.scan, single=True) for place in places]


def _fitting(archive: Archive, wanted: Wanted, node: Node) -> Iterator[tuple[str, str]]:
    persist = node.limits.patience.persist
    for study in persist(lambda: archive.studies(wanted)):
        for series in persist(lambda uid=study.uid: archive.series(uid)):  # type: ignore[misc]
            if not wanted.fits_series(series.uid, series.modality) or series.modality in _NO_SCANS:
                continue
            if wanted.series or not series.is_ours:  # what an earlier batch has pushed is no scan; by its UID it is one
                yield study.uid, series.uid


def _node(source: Input, config: Path | None) -> Node:
    return find_node(source.node, config)


@contextmanager
def task_of(batch: Batch, *, device: str, config: Path | None) -> Iterator[Task]:
    """What is done with each case of a batch: restored, and fetched before that if an archive has it.

    Args:
        batch: what there is to do.
        device: as ``--device``.
        config: TOML file of nodes.

    Raises:
        SettingsError: ``E-PACS-NODE``, the batch's node is not known here.
    """
    task = RestoreTask(batch.job, batch.root, device=device)
    source = Input(batch.job.source)
    if not source.is_archive:
        yield task
        return
    node = _node(source, config)
    with ExitStack() as stack:
        yield FetchingTask(task, pulled(batch.root.absolute()), node, stack)


class FetchingTask:
    """Fetches the series of a case, unless it is there, and hands the case on.

    Args:
        task: what is done with a case that is there.
        home: folder of what was fetched.
        node: who has the series; no connection is opened before the first one is missing.
        stack: closes the connections in the end.
    """

    def __init__(self, task: Task, home: Path, node: Node, stack: ExitStack) -> None:
        self.task, self.home, self.node, self._stack = task, home, node, stack
        self._archive: Archive | None = None

    def fingerprint(self, case: Case) -> str:
        """As of the case; of one that was not fetched, that of nothing."""
        return self.task.fingerprint(case)

    def run(self, case: Case) -> Outcome:
        """Fetch the series, and go on.

        Raises:
            MedidiffError: the case is refused, or the archive cannot be asked, or nothing can be written.
        """
        folder = Path(case.input)
        if not folder.is_dir():  # a series appears whole
            if self._archive is None:
                self._archive = self._stack.enter_context(open_archive(self.node))
            study, series = folder.parts[-2:]
            with output_errors(self.home.name):
                self.home.mkdir(exist_ok=True)
            with alone(self.home) if self._delivers else nullcontext():
                pull_series(self._archive, study, series, self.home, patience=self.node.limits.patience)
        return self.task.run(case)

    @property
    def _delivers(self) -> bool:
        """Whether series come to a port of ours, which one worker at a time can listen on."""
        return isinstance(self.node, DimseNode) and self.node.retrieve == "move"
