"""``medidiff batch denoise``, ``superresolve`` and ``joint``: many scans, each done once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from medidiff.batch.cases import Case
from medidiff.batch.engines import Resources, Running
from medidiff.batch.inputs import Inputs
from medidiff.batch.job import FOLDER, Batch, Job, Listing
from medidiff.batch.journal import Tail
from medidiff.batch.metrics import Cohort, Waiting, cohort, put
from medidiff.batch.quarantine import QUARANTINE
from medidiff.batch.sources import cases_of, is_manifest
from medidiff.batch.status import Pace, Status, status_of, write_report
from medidiff.batch.worker import Worker
from medidiff.cli.batch_archive import series_cases, source_of, task_of
from medidiff.cli.batch_choice import Choice, chosen
from medidiff.cli.batch_status import show, sync
from medidiff.cli.batch_task import options_of
from medidiff.cli.batch_verbs import BatchDenoise, Batching, BatchSuperresolve
from medidiff.cli.restoring import settings_of
from medidiff.cli.screen import Report, Screen
from medidiff.cli.session import Session, read_options
from medidiff.errors import InputError, MedidiffError, OutputError, SettingsError
from medidiff.prior import Prior, bundled_for, prior_sha256

__all__ = ["run"]

_PARTIAL = 7
_POLL_SECONDS = 0.5
_MOST_RESTARTS = 100  # of workers that were killed, in one command
_REASONS = {5: "The disk may be full or closed", 4: "The inputs or the archive may be out of reach"}  # by exit code


def run(verb: Batching, session: Session) -> int:
    """Settle every case of the input: done, or refused with a reason.

    Returns:
        0, or 7 when some cases were refused.

    Raises:
        SettingsError: an option out of range.
        InputError: the input holds nothing to work on, is not there any more, or all of it is refused.
        OutputError: the output folder holds another batch or cannot be written, or workers could not go on.
        PriorError: the prior is missing or broken.
    """
    screen = Screen(verb.json)
    _check(verb)
    job = _job(verb)
    for name, digest in job.priors.items():
        session.prior(name, digest)
    if verb.dry_run:
        _show_plan(verb, job, screen)
        return 0
    again = Batch.is_there(verb.out)
    batch = Batch.begin(verb.out, job, _listing(verb), go_on=verb.go_on)
    if not verb.source.is_archive:
        Inputs(batch.manifest).refuse_gone()
    if again and _lists_others(verb, batch):
        screen.note(
            "The manifest has changed since the batch began, which keeps its cases: begin another for the new ones."
        )
    session.begin()
    batch.sweep()
    since = batch.now_ns()
    numbers = batch.part(verb.num_parts, verb.part_id)
    pace = Pace(len(numbers))
    with screen.progress(f"batch {job.task}") as report:
        choice = _work(verb, batch, since=since, numbers=numbers, pace=pace, report=report)
    return _end(verb, batch, session, screen, since=since, pace=pace, choice=choice)


def _listing(verb: Batching) -> Listing:
    """Where the cases come from; what is not there is refused before a folder is made."""
    if Batch.is_there(verb.out):
        return lambda: _cases(verb)
    if not verb.source.is_archive and verb.source.path.exists():
        return lambda: _cases(verb)
    found = _cases(verb)
    return lambda: found


def _cases(verb: Batching) -> list[Case]:
    if verb.source.is_archive:
        return series_cases(verb)
    found = cases_of(verb.source.path, read_options(verb), out=verb.out)
    Inputs(found).refuse_gone()
    return found


def _lists_others(verb: Batching, batch: Batch) -> bool:
    """Whether a manifest names other cases than when the batch began; folders are not listed again."""
    if verb.source.is_archive or not is_manifest(verb.source.path):
        return False
    try:
        return any(new != old for new, old in zip_longest(_cases(verb), batch.manifest))
    except InputError:
        return True


def _check(verb: Batching) -> None:
    """Refuse options out of range before anything is listed."""
    needed = verb.spread or verb.draw or verb.interval is not None
    settings_of(verb, draws=verb.wanted_draws, steps=verb.wanted_steps, needs_draws=needed, share=verb.interval)
    rules = (
        ("--workers", verb.workers, verb.workers is None or 1 <= verb.workers <= 10_000, "1 to 10,000"),
        ("--threads", verb.threads, verb.threads is None or 1 <= verb.threads <= 1024, "1 to 1,024"),
        ("-num_parts", verb.num_parts, 1 <= verb.num_parts <= 1_000_000, "1 to 1,000,000"),
        ("-part_id", verb.part_id, 0 <= verb.part_id < verb.num_parts, f"0 to {verb.num_parts - 1}"),
    )
    for name, value, good, wanted in rules:
        if not good:
            raise SettingsError("E-SETTING", f"{value}", wanted=wanted, attribute=name)
    verb.engine_with(Resources())
    if not verb.source.is_archive and _is_one(verb.source.path, verb.out):
        mend = "Choose another folder; one inside the input is fine."
        raise OutputError("E-OVERWRITE", "the output folder is the input", mend=mend, file=verb.out.name)
    if verb.out.exists() and not verb.out.is_dir():
        found = "a file stands where the folder would go"
        raise OutputError("E-OUT", found, file=verb.out.name, mend="Name a folder.")


def _is_one(source: Path, out: Path) -> bool:
    return source.exists() and out.exists() and source.samefile(out)


def _job(verb: Batching) -> Job:
    task = type(verb).task if isinstance(verb, BatchDenoise | BatchSuperresolve) else ""
    options = options_of(verb)
    named = verb.prior
    if named is not None and Path(named).suffix:
        options["prior"] = named = str(Path(named).absolute())
    sources = [named] if named is not None else _bundled()
    priors = {Prior.card_of(source).name: prior_sha256(source) for source in sources}
    source = source_of(verb.source) if verb.source.is_archive else str(verb.source.path.absolute())
    return Job(task, source, options, priors, verb.seed)


def _bundled() -> list[str]:
    """The priors that a scan may get by its modality."""
    names = []
    for modality in ("OT", "MR", "CT", "PT"):
        try:
            names.append(bundled_for(modality))
        except InputError:
            continue
    return list(dict.fromkeys(names))


def _work(verb: Batching, batch: Batch, *, since: int, numbers: range, pace: Pace, report: Report) -> Choice:
    """Have all cases settled, here or by workers; how it was done."""

    def told() -> None:
        speed = f"{pace.states['refused']} refused, {pace.per_hour:,.0f} an hour"
        report(pace.settled, pace.total, speed)

    command = [sys.executable, "-m", "medidiff", "batch", "work", str(batch.root.absolute()), "--since", str(since)]
    command += ["--device", verb.device, "-num_parts", str(verb.num_parts), "-part_id", str(verb.part_id)]
    command += ["--retry-failed"] if verb.retry_failed else []
    command += ["--config", str(verb.config.absolute())] if verb.config is not None else []
    tail = Tail(batch.folder / "journal", since)

    def watch(running: Running) -> None:
        running.wait(_POLL_SECONDS)
        pace.take(tail.new())
        told()

    choice = chosen(verb, len(numbers), command=command, logs=batch.folder / "logs", watch=watch, tail=tail, pace=pace)
    if verb.engine == "local" and choice.workers == 1 and choice.threads is None:

        def note(event: Any) -> None:
            pace.take([event])
            told()

        with task_of(batch, device=verb.device, config=verb.config) as task:
            Worker(batch, task, since_ns=since, retry_refused=verb.retry_failed, told=note).work(numbers)
        return choice
    resources = Resources(choice.threads or 1, choice.gpus, batch.folder / "logs")
    crew = _Crew(lambda count: verb.engine_with(resources).start(command, count), may_wait=verb.engine != "local")

    def is_over() -> bool:
        return all(batch.settled(batch.manifest[n].name, since) for n in numbers)

    crew.work(choice.workers, watch, is_over, seems_over=lambda: pace.settled >= pace.total)
    return choice


@dataclass(slots=True)
class _Crew:
    """Workers that are replaced when they are killed.

    Args:
        start: starts so many more.
        may_wait: whether workers may wait in a queue, or be lost to it, after the work is done.
    """

    start: Callable[[int], Running]
    may_wait: bool = False

    def work(
        self,
        workers: int,
        watch: Callable[[Running], None],
        is_over: Callable[[], bool],
        *,
        seems_over: Callable[[], bool],
    ) -> None:
        """Until every case is settled.

        Args:
            workers: how many to begin with.
            watch: waits a moment for workers, and shows how far they are.
            is_over: whether every case has its record; reads them all.
            seems_over: whether that is worth a look while workers are still there.

        Raises:
            OutputError: ``E-WORKERS``, the workers ended and cases are left.
        """
        restarts = 0
        running = [self.start(workers)]
        try:
            while True:
                watch(next((each for each in running if each.alive()), running[-1]))
                alive = sum(each.alive() for each in running)
                codes = [code for each in running for code in each.ended()]
                killed = sum(code < 0 for code in codes) - restarts
                if (alive == 0 or (self.may_wait and seems_over())) and is_over():
                    return
                if killed > 0 and restarts < _MOST_RESTARTS and not any(code > 0 for code in codes):
                    restarts += killed
                    running.append(self.start(killed))
                elif alive == 0:
                    raise _stopped(codes)
        finally:
            for each in running:
                each.stop()


def _stopped(codes: list[int]) -> OutputError:
    bad = sorted({code for code in codes if code})
    found = f"the workers ended before the work did (exit codes {', '.join(map(str, bad)) or 'unknown'})"
    reasons = [reason for code, reason in _REASONS.items() if code in bad]
    reason = f"{'; '.join(reasons)}: the logs in .medidiff/logs say it. " if reasons else ""
    return OutputError("E-WORKERS", found, mend=f"{reason}The same command goes on where they stopped.")


def _end(
    verb: Batching, batch: Batch, session: Session, screen: Screen, *, since: int, pace: Pace, choice: Choice
) -> int:
    numbers = batch.part(verb.num_parts, verb.part_id)
    status = status_of(batch, numbers)
    about = {"engine": verb.engine, "workers": choice.workers, "threads": choice.threads, "choice": choice.reason}
    session.account.decisions([choice.reason])
    found = cohort(batch)
    if verb.num_parts > 1:
        about |= {"part": f"{verb.part_id} of {verb.num_parts}, from 0", "cases of the part": status.cases}
    whole = status if verb.num_parts == 1 else status_of(batch)  # the other parts have no other report
    report = write_report(batch, whole, pace, about=about, out_of_scope=found.out_of_scope) | status.record()
    put(batch, since, _figures(batch, status, pace, found))
    if verb.tracking is not None:
        try:
            sync(batch, verb.tracking)
        except MedidiffError as error:
            screen.note(f"{error} The figures are kept; 'medidiff batch sync' hands them over later.")
    if status.done == 0 and status.cases:
        codes = ", ".join(f"{code} {count}" for code, count in status.refused.items())
        mend = f"Read {Path(batch.root.name, '.medidiff', 'report.txt')}."
        raise InputError("E-NOTHING", f"all {status.cases} cases are refused ({codes})", mend=mend)
    show(report, screen)
    if not status.refused:
        return 0
    place = Path(batch.root.name, FOLDER, QUARANTINE)
    screen.note(f"'medidiff batch status {batch.root.name} --refused' lists the refused; {place} says where they lie.")
    return _PARTIAL


def _figures(batch: Batch, status: Status, pace: Pace, found: Cohort) -> Waiting:
    job = batch.job
    options = {name: value for name, value in job.options.items() if name != "prior" and value is not None}
    params = {"task": job.task, "seed": job.seed, "priors": dict(job.priors), "options": options}
    counts = {"cases": status.cases, "done": status.done, "refused": sum(status.refused.values()), "left": status.left}
    numbers = {name: value for name, value in pace.record().items() if value is not None}
    codes = {f"refused_{code.lower()}": count for code, count in status.refused.items() if code != "?"}
    return Waiting(f"batch-{job.task}", params, counts | numbers | codes | dict(found.means))


def _show_plan(verb: Batching, job: Job, screen: Screen) -> None:
    cases = _cases(verb)
    first = [case.result("{kind}", "") for case in cases[:3]]
    document = {
        "task": job.task,
        "dry_run": True,
        "cases": len(cases),
        "of this part": len(range(verb.part_id, len(cases), verb.num_parts)),
        "priors": dict(job.priors),
        "options": job.options,
        "first outputs": first,
    }
    if screen.json:
        screen.document(document)
        return
    names: dict[str, object] = {"plan": f"batch {job.task} (nothing is written)", "cases": len(cases)}
    screen.lines(names | {"priors": ", ".join(job.priors), "first outputs": ", ".join(first)})
