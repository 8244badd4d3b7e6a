"""``medidiff synthesize``: draw, compare with the training scans, and write what may leave."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from medidiff.cli.drawing import Drawer, Draws, draws
from medidiff.cli.screen import Screen
from medidiff.cli.session import Session
from medidiff.cli.verbs import Synthesize
from medidiff.export import About, DataSetWriter, open_data_set
from medidiff.gates import CopyGate, GateReport, Index, Verdict, require_index
from medidiff.io import read
from medidiff.io.files.atomic import output_errors, sync
from medidiff.prior.coarse import coarse_card_path
from medidiff.settings import require
from medidiff.synthesis import Cascade, Request

__all__ = ["run"]

_METHOD = (
    "A diffusion model drew each whole head in coarse voxels, with the shares of its tissue; finer diffusion models "
    "drew what finer voxels show, taking the coarser volume for a measurement. The label map is the most likely tissue "
    "of each voxel, given the drawn shares and the voxel's brightness. No scan of a person went into a sample."
)
_SPARE = 0.25  # share of further scans that are drawn in the place of those that the gate drops


def run(verb: Synthesize, session: Session) -> None:
    """Draw until as many scans as asked for have passed the gate, or too many have not.

    Raises:
        SettingsError: an option out of range, or ``E-ASKED``, beyond what the prior was trained on.
        InputError: the label map cannot be read or has other labels.
        OutputError: ``E-NOINDEX``, no index of the training scans; ``E-COPIES``, too many scans are like them; or the
            data set cannot be written.
        PriorError: a prior or the index is missing or broken.
    """
    screen = Screen(verb.json)
    numbers = {"--count": verb.count, "--workers": verb.workers, "--threads": verb.threads}
    require((name, value, value >= 1, "at least 1") for name, value in numbers.items())
    index = _index(verb)
    require_index(index, override=verb.without_gate)
    cascade = Cascade(verb.prior, device=verb.device)
    alone = verb.workers == 1 or cascade.device.type == "cpu"
    require([("--workers", verb.workers, alone, "1 on a GPU, or --device cpu")])
    request = _request(verb, cascade, session)
    cascade.check(request)
    about = _about(verb, cascade, request)
    for prior in about.priors:
        session.prior(prior["name"], prior["sha256"])
    if verb.dry_run:
        _show_plan(verb, about, index, screen)
        return
    gate = None if index is None else CopyGate(index, [read(scan) for scan in verb.training_scans] or None)
    writer = open_data_set(verb.out, verb.format, about)
    session.begin()
    ledger = _Ledger.of(verb, about, index)
    started = time.monotonic()
    with screen.progress("synthesize") as progress:
        drawer = Drawer(cascade, request, gate, verb.seed)
        with draws(drawer, workers=verb.workers, threads=verb.threads) as drawn:
            _Job(drawn, writer, ledger).run(verb.count, lambda done, text: progress(done, verb.count, text))
    report = _report(gate, ledger, verb)
    report.require()
    writer.close(report.to_mapping())
    ledger.remove()
    session.outputs([verb.out / "SHA256SUMS"])
    _show_result(verb, writer, report, screen, seconds=time.monotonic() - started)


@dataclass(frozen=True, slots=True)
class _Job:
    """Puts cases down in the order of their numbers, until enough have passed."""

    draws: Draws
    writer: DataSetWriter
    ledger: _Ledger

    def run(self, count: int, told: Any) -> None:
        """Case after case: drawn, judged, put down, written. What an earlier run did is not done again."""
        last, number = count + max(math.ceil(_SPARE * count), 1), 0
        while (passed := self._passed(number)) < count and number < last and not self.writer.is_whole:
            if not self._is_done(number):
                ahead = (each for each in range(number, last) if not self._is_done(each))
                self.draws.foresee(islice(ahead, count - passed))
                drawn = self.draws.take(number)
                if drawn.case is not None:
                    self.writer.add(drawn.case)
                self.ledger.put(number, drawn.verdict)
            number += 1
            told(self._passed(number), f"{number} drawn")

    def _is_done(self, number: int) -> bool:
        """Whether a number was judged, and written if it passed; a run may be killed between the two."""
        if number not in self.ledger.verdicts:
            return False
        verdict = self.ledger.verdicts[number]
        return self.writer.has(number) or (verdict is not None and not verdict.passed)

    def _passed(self, below: int) -> int:
        return sum(self.writer.has(number) for number in range(below))


class _Ledger:
    """What the gate said of each number, beside the data set, so that a killed run is not judged again.

    Args:
        path: JSON lines; one that is cut off counts as not written.
        key: hash of the request and the index; lines of another request are not believed.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self.verdicts: dict[int, Verdict | None] = {}
        lines = path.read_text("utf-8").splitlines() if path.is_file() else []
        for line in lines:
            try:
                told = json.loads(line)
                if told["key"] == key:
                    verdict = told["verdict"]
                    self.verdicts[int(told["number"])] = None if verdict is None else Verdict.from_mapping(verdict)
            except (ValueError, KeyError, TypeError):
                continue

    @classmethod
    def of(cls, verb: Synthesize, about: About, index: Index | None) -> _Ledger:
        """The ledger of a command line."""
        told = json.dumps([about.to_json(), verb.format, index and index.sha256, bool(verb.training_scans)])
        path = verb.out.with_name(f"{verb.out.name}.verdicts.jsonl")
        return cls(path, hashlib.sha256(told.encode()).hexdigest())

    def put(self, number: int, verdict: Verdict | None) -> None:
        """Put down a verdict, on the disk before the next scan is drawn."""
        self.verdicts[number] = verdict
        line = {"key": self._key, "number": number, "verdict": None if verdict is None else verdict.to_mapping()}
        with output_errors(self._path.name, self._path.parent), self._path.open("a", encoding="utf-8") as file:
            file.write(f"\n{json.dumps(line)}")  # a line that was cut off by a crash ends here
        sync(self._path)

    def remove(self) -> None:
        """Remove it, once the report stands in the data set."""
        self._path.unlink(missing_ok=True)


def _index(verb: Synthesize) -> Index | None:
    if verb.index is not None:
        return Index.load(verb.index)
    beside = coarse_card_path(verb.prior).with_suffix(".index.safetensors")
    return Index.load(beside) if beside.is_file() else None


def _request(verb: Synthesize, cascade: Cascade, session: Session) -> Request:
    contrasts = cascade.coarse.card.vocabulary.contrasts
    tissue = None if verb.tissue is None else session.read(verb.tissue).volume
    return Request(
        contrast=verb.contrast or contrasts[0],
        age=verb.age,
        sex=verb.sex,
        tissue=tissue,
        spacing_mm=verb.spacing,
        field_mm=verb.field,
        guidance=verb.guidance,
    )


def _about(verb: Synthesize, cascade: Cascade, request: Request) -> About:
    card = cascade.coarse.card
    cards: list[Any] = [card, *(prior.card for prior in cascade.finer)]
    tissue = None if request.tissue is None else hashlib.sha256(request.tissue.data.tobytes()).hexdigest()
    asked = request.asked | {"guidance": request.guidance, "spacing_mm": request.spacing_mm}
    asked |= {} if request.field_mm is None else {"field_mm": list(request.field_mm)}  # type: ignore[dict-item]
    return About(
        title=f"Synthetic {request.contrast} brains",
        count=verb.count,
        seed=verb.seed,
        licence=verb.licence,
        method=_METHOD,
        priors=tuple({"name": c.name, "sha256": c.weights_sha256, "licence": c.licence} for c in cards),
        asked=asked | ({} if tissue is None else {"tissue_sha256": tissue}),
        contrast=str(request.contrast),
        label_names=("background", *card.labels),
        limits=card.limits,
    )


def _report(gate: CopyGate | None, ledger: _Ledger, verb: Synthesize) -> GateReport:
    if gate is None:
        return GateReport.without_index(len(ledger.verdicts), override=verb.without_gate)
    told = [ledger.verdicts[number] for number in sorted(ledger.verdicts)]
    return GateReport.of(gate, [each for each in told if each is not None], override=verb.without_gate)


def _show_plan(verb: Synthesize, about: About, index: Index | None, screen: Screen) -> None:
    plan: Mapping[str, Any] = {
        "scans": verb.count,
        "asked": dict(about.asked),
        "priors": [prior["name"] for prior in about.priors],
        "gate": "none" if index is None else f"{len(index.hashes)} training scans",
        "format": verb.format,
        "out": verb.out,
    }
    if verb.json:
        screen.document({"task": "synthesize", "dry_run": True} | dict(plan))
        return
    screen.lines({"plan": "synthesize (nothing is written)"} | dict(plan))


def _show_result(
    verb: Synthesize, writer: DataSetWriter, report: GateReport, screen: Screen, *, seconds: float
) -> None:
    told = {"cases": len(writer.numbers()), "judged": report.checked, "like a training scan": report.flagged}
    told |= {"not to be judged": report.unjudged}
    if verb.json:
        result = {name.replace(" ", "_"): value for name, value in told.items()}
        screen.document({"task": "synthesize", "folder": verb.out, "format": verb.format, "seconds": seconds} | result)
        return
    screen.lines({"wrote": verb.out, "format": verb.format} | told | {"seconds": f"{seconds:.0f}"})
    if report.override:
        screen.note("the gate was overridden; the data set says so")
