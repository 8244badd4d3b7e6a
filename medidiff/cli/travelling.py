"""``medidiff prior export`` and ``medidiff prior show``: a prior for those who have no medidiff, and what it is."""

from __future__ import annotations

import dataclasses

from medidiff.cli.intervals import bundled_for
from medidiff.cli.screen import Screen
from medidiff.cli.session import Session
from medidiff.cli.travel_verbs import PriorExport, PriorShow
from medidiff.errors import OutputError, PriorError, SettingsError
from medidiff.prior import Card, Prior
from medidiff.prior.coarse import CoarseCard, is_coarse, read_coarse_card

__all__ = ["run"]


def run(verb: PriorExport | PriorShow, session: Session) -> None:
    """Export a prior, or show its card.

    Raises:
        PriorError: no such prior, a broken one, or one that cannot travel.
        SettingsError: ``--tracking`` without pyfunc, or a store that cannot be used.
        OutputError: something is there already, or the system refuses.
    """
    if isinstance(verb, PriorShow):
        _show(verb)
    else:
        _export(verb, session)


def _export(verb: PriorExport, session: Session) -> None:
    if verb.tracking is not None and verb.format != "pyfunc":
        mend = "Leave it out, or export with --format pyfunc."
        raise SettingsError("E-SETTING", "a registry for another format", attribute="--tracking", mend=mend)
    if is_coarse(verb.prior):
        mend = "Export the priors that restore scans; 'medidiff priors' lists them."
        raise PriorError("E-TRAVEL", "a coarse prior, which draws scans and restores none", mend=mend)
    if verb.tracking is not None:
        from medidiff.store import refuse_store

        refuse_store(verb.tracking, made=verb.out)
    prior = Prior.load(verb.prior)
    session.prior(prior.card.name, prior.card.weights_sha256)
    told = {"task": "prior export", "prior": prior.card.name, "format": verb.format, "out": verb.out}
    told |= _written(verb, prior, session)
    screen = Screen(verb.json)
    if verb.json:
        screen.document(told)
        return
    screen.lines({"wrote": verb.out, **{key: value for key, value in told.items() if key not in ("task", "out")}})


def _written(verb: PriorExport, prior: Prior, session: Session) -> dict[str, object]:
    """Write it, and say what there is to say of the format."""
    if verb.format == "torch":
        from medidiff.travel.archive import write_archive

        if verb.out.suffix != ".pt2":
            raise SettingsError("E-SETTING", f"{verb.out.suffix or 'no ending'}", wanted=".pt2", attribute="OUT")
        if verb.out.exists():
            raise OutputError("E-EXISTS", "a file is there already", mend="Choose a new name.", file=verb.out.name)
        worst = write_archive(prior, verb.out)
        session.outputs([verb.out])
        return {"largest difference": worst}
    if verb.format == "bundle":
        from medidiff.travel.bundle import write_bundle

        write_bundle(prior, verb.out)
        registered = None
    else:
        from medidiff.travel.pyfunc import write_pyfunc

        registered = write_pyfunc(prior, verb.out, register=verb.tracking)
    session.outputs(sorted(path for path in verb.out.rglob("*") if path.is_file()))
    return {} if registered is None else {"registered": registered}


def _show(verb: PriorShow) -> None:
    card: Card | CoarseCard = read_coarse_card(verb.prior) if is_coarse(verb.prior) else Prior.card_of(verb.prior)
    screen = Screen(verb.json)
    if verb.json:
        screen.document(dataclasses.asdict(card))
        return
    from medidiff.travel.readme import sections

    for title, lines in (sections(card) | _bundled(card)).items():
        print(title)
        screen.lines({f"  {name}": value for name, value in lines.items()})


def _bundled(card: Card | CoarseCard) -> dict[str, dict[str, object]]:
    """The section on calibration of a prior for which medidiff brings calibrations; nothing for another."""
    found = bundled_for(card.weights_sha256)
    if not found:
        return {}
    own: dict[str, object] = dict(card.calibration) or {
        "spread of the draws": "never measured by itself: take the intervals for coverage"
    }
    told: dict[str, object] = {
        f"intervals, {each.made.task}": f"--intervals bundled: {100 * each.share:g} % of a patient's tissue inside, on "
        f"average over patients like the {each.patients} that it was made on"
        for each in found
    }
    return {"Calibration": own | told}
