"""``medidiff pacs pull|push|watch``: scans from an archive, and results back to it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

from medidiff.cli.pacs_verbs import PacsPull, PacsPush, PacsWatch
from medidiff.cli.screen import Screen
from medidiff.cli.session import Session
from medidiff.errors import InputError, MedidiffError, SettingsError
from medidiff.pacs import Archive, Handing, Node, Pulled, Rules, Wanted, Watch, find_node, open_archive, pull_study
from medidiff.pacs.patience import PASSING
from medidiff.pacs.push import push_folder
from medidiff.pacs.state import STATE_FILE, State

__all__ = ["run"]

_PARTIAL = 7


def run(verb: PacsPull | PacsPush | PacsWatch, session: Session) -> int:
    """Talk to the node that the user names, and to nobody else.

    Returns:
        0, or 7 when some of what was asked for did not come.

    Raises:
        SettingsError: the node, its secrets or the question are wrong.
        InputError: the archive cannot be asked, or nothing came.
        OutputError: the disk or the archive does not take what it is given.
    """
    node = find_node(verb.node, verb.config)
    screen = Screen(verb.json)
    with open_archive(node) as archive:
        if isinstance(verb, PacsPush):
            return _push(verb, session, screen, archive, node)
        wanted = _wanted(verb)
        if isinstance(verb, PacsPull):
            return _pull(verb, session, screen, archive, node, wanted)
        return _watch(verb, session, screen, archive, node, wanted)


def _wanted(verb: PacsPull | PacsWatch) -> Wanted:
    uids = {"study": verb.study or "", "series": verb.series or ""} if isinstance(verb, PacsPull) else {}
    return Wanted(
        accession=verb.accession or "",
        patient=verb.patient or "",
        dates=verb.dates or "",
        modalities=tuple(code.upper() for code in verb.modality),
        **uids,
    )


def _pull(verb: PacsPull, session: Session, screen: Screen, archive: Archive, node: Node, wanted: Wanted) -> int:
    patience = node.limits.patience
    studies = patience.persist(lambda: archive.studies(wanted))
    if not studies:
        mend = "Check the numbers and dates; a value must be given in full."
        raise InputError("E-PACS-NONE", "no study on the archive fits", mend=mend)
    if verb.dry_run:
        _planned(verb, screen, archive, wanted, [study.uid for study in studies])
        return 0
    session.begin()
    pulled: list[Pulled] = []
    refused: list[MedidiffError] = []
    with screen.progress("fetching") as report:
        for study in studies:
            try:
                each = pull_study(archive, study.uid, verb.out, wanted=wanted, patience=patience, report=report)
            except InputError as error:
                if error.code not in PASSING:
                    raise
                refused.append(error)
                continue
            pulled.append(each)
            refused += each.refused
            _note_down(session, [each])
    for refusal in refused:
        session.account.refusal(refusal)
        session.account.counts.series_seen += 1
        session.account.counts.series_refused += 1
    if not any(each.series for each in pulled):
        raise refused[0]
    told = {"studies": len(studies), "complete": sum(each.complete for each in pulled)} | _sums(pulled)
    if verb.json:
        folders = [{"study": each.folder, "complete": each.complete} for each in pulled]
        refusals = [{"code": error.code, "message": str(error)} for error in refused]
        screen.document({"task": "pull", **told, "folders": folders, "refused": refusals})
    else:
        screen.lines(
            {
                "studies": f"{told['complete']} of {told['studies']} complete, below {verb.out.name}",
                "series": told["series"],
                "instances": f"{told['instances']}, of which {told['fetched']} came now",
            }
        )
        for refusal in refused:
            screen.note(str(refusal))
    return _PARTIAL if refused else 0


def _planned(verb: PacsPull, screen: Screen, archive: Archive, wanted: Wanted, studies: Iterable[str]) -> None:
    """What would be fetched: counts, nothing of a patient."""
    listed = [(uid, each) for uid in studies for each in archive.series(uid)]
    series = [(uid, each) for uid, each in listed if wanted.fits_series(each.uid, each.modality)]
    count = sum(len(archive.instances(uid, each.uid)) for uid, each in series)
    kinds = Counter(each.modality or "unsaid" for _, each in series)
    told = {"studies": len({uid for uid, _ in series}), "series": len(series), "instances": count}
    if verb.json:
        screen.document({"task": "pull", "dry_run": True, **told, "modalities": dict(kinds)})
    else:
        screen.lines({**told, "modalities": ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items()))})


def _sums(pulled: Iterable[Pulled]) -> dict[str, int]:
    series = [each for study in pulled for each in study.series]
    fetched = sum(len(each.fetched) for each in series)
    return {"series": len(series), "instances": sum(each.instances for each in series), "fetched": fetched}


def _note_down(session: Session, pulled: Iterable[Pulled]) -> None:
    for each in (series for study in pulled for series in study.series):
        session.outputs(each.fetched)
        session.account.counts.series_seen += 1
        session.account.counts.series_done += 1


def _push(verb: PacsPush, session: Session, screen: Screen, archive: Archive, node: Node) -> int:
    session.begin()
    with screen.progress("sending") as report:
        done = push_folder(archive, verb.source, patience=node.limits.patience, synthetic=verb.synthetic, report=report)
    count = done.sent + done.present
    session.account.passed(verb.source, seen=None, done=count, skipped=done.skipped)
    if verb.json:
        left = [{"file": each.file, "reason": each.reason} for each in done.skipped]
        told = {"task": "push", "sent": done.sent, "present": done.present, "series": done.series}
        screen.document({**told, "skipped": left})
    else:
        screen.lines({"sent": f"{done.sent} of {count} instances, {done.present} were there", "series": done.series})
        for each in done.skipped:
            screen.note(f"left out {each.file}: {each.reason}")
    return 0


def _watch(verb: PacsWatch, session: Session, screen: Screen, archive: Archive, node: Node, wanted: Wanted) -> int:
    times = (("--every", verb.every), ("--settle", verb.settle), ("--run-limit", verb.run_limit))
    for name, value in (*times, ("--looks", verb.looks)):
        if not 0 <= value <= 86_400 * 366:
            raise SettingsError("E-SETTING", f"{value}", wanted="0 or more, at most a year", attribute=name)
    hand = None if verb.run is None else Handing.parse(verb.run, limit_seconds=verb.run_limit or None)
    session.begin()
    state = State(verb.out / STATE_FILE)
    handed: list[Pulled] = []
    failed: list[MedidiffError] = []
    looks = 0
    try:
        rules = Rules(node.limits.patience, hand, settle_seconds=verb.settle, most_failures=verb.failures)
        watch = Watch(archive, wanted, verb.out, state, rules)
        if verb.new_only and (count := watch.pass_over()):
            screen.note(f"{count} studies that are there already are left aside")
        while True:
            looks += 1
            try:
                polled = watch.poll()
            except InputError as error:
                if error.code not in PASSING or looks == verb.looks:
                    raise
                screen.note(f"{error} The next look is in {verb.every:g} s.")
            else:
                _note_down(session, polled.handed)
                for failure in polled.failed:
                    session.account.refusal(failure)
                    screen.note(str(failure))
                if polled.handed:
                    screen.note(f"{len(polled.handed)} studies done, {polled.waiting} still coming")
                handed, failed = handed + polled.handed, list(polled.failed)
            if looks == verb.looks:
                break
            time.sleep(verb.every)
    finally:
        state.close()
    told = {"looks": looks, "studies": len(handed), "waiting": polled.waiting, "left": polled.left}
    if verb.json:
        screen.document({"task": "watch", **told, "failed": [error.code for error in failed]})
    else:
        screen.lines(told)
    return _PARTIAL if failed or polled.left else 0
