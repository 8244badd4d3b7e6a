"""``medidiff priors``: which priors there are, what each is for, and what it is known not to do."""

from __future__ import annotations

from typing import Any

from medidiff.cli.screen import Screen
from medidiff.cli.session import Session
from medidiff.cli.verbs import Priors
from medidiff.prior import Card, Listed, list_priors
from medidiff.prior.coarse import CoarseCard
from medidiff.prior.sources import shown_sources

__all__ = ["run"]

_COLUMNS = ("prior", "modality", "contrasts", "weights", "size", "noise (%)", "licence", "state")


def run(verb: Priors, session: Session) -> None:
    """Print every prior; one that cannot be used is listed with its problem.

    Raises:
        PriorError: the folder is none, or holds no prior.
    """
    screen = Screen(verb.json)
    priors = list_priors(verb.folder)
    if verb.json:
        screen.document({"priors": [_document(each) for each in priors]})
        return
    screen.columns(_COLUMNS, [_row(each) for each in priors])
    for each in priors:
        print()
        screen.lines({_name(each): "bundled" if each.bundled else each.file} | _facts(each))


def _name(prior: Listed) -> str:
    """What ``--prior`` takes for it, but for the folder."""
    return prior.file.stem if prior.bundled else prior.file.with_suffix(".json").name


def _row(prior: Listed) -> list[str]:
    card = prior.card
    use = "draws heads, restores nothing" if isinstance(card, CoarseCard) else "can be used"
    state = prior.problem.split(":")[0] or use
    size = f"{prior.size_bytes / 1e6:.1f} MB"
    if card is None:
        return [_name(prior), "-", "-", "-", size, "-", "-", state]
    weights = f"{prior.weights / 1e6:.2f} M" if prior.weights else "-"
    noise = "-" if isinstance(card, CoarseCard) else " to ".join(f"{100 * level:g}" for level in card.noise)
    contrasts = " ".join(_contrasts(card)) or "-"
    return [_name(prior), card.modality, contrasts, weights, size, noise, card.licence, state]


def _contrasts(card: Card | CoarseCard) -> tuple[str, ...]:
    return card.vocabulary.contrasts if isinstance(card, CoarseCard) else card.contrasts


def _scope(card: Card | CoarseCard) -> dict[str, object]:
    """What may be asked of a coarse prior, or which noise a fine one knows."""
    if not isinstance(card, CoarseCard):
        noise = f"{100 * card.noise[0]:g} to {100 * card.noise[1]:g} % of {_full_scale(card)}"
        return {"  noise": noise, "  trained on": f"{card.images} patches"}
    low, high = card.vocabulary.ages
    asked = f"{' '.join(card.vocabulary.contrasts)}, {low:g} to {high:g} years, {' or '.join(card.vocabulary.sexes)}"
    return {"  may be asked": asked, "  trained on": f"{card.images} views of {card.heads} heads"}


def _facts(prior: Listed) -> dict[str, object]:
    facts: dict[str, object] = {"  problem": prior.problem} if prior.problem else {}
    card = prior.card
    if card is None:
        return facts
    facts |= {
        "  what it is": card.summary,
        "  for": card.intended_use,
    } | _scope(card)
    facts |= {f"  source {number}": source for number, source in enumerate(shown_sources(card.sources), 1)}
    return facts | {f"  limit {number}": limit for number, limit in enumerate(card.limits, 1)}


def _full_scale(card: Card) -> str:
    """What noise is a share of: the brightness that the network knows as 1."""
    return "2048 HU" if card.modality == "CT" else "the tissue maximum"


def _document(prior: Listed) -> dict[str, Any]:
    document: dict[str, Any] = {
        "prior": _name(prior),
        "bundled": prior.bundled,
        "file": prior.file,
        "weights": prior.weights,
        "size_bytes": prior.size_bytes,
        "problem": prior.problem,
    }
    card = prior.card
    if card is None:
        return document
    scope: dict[str, Any]
    if isinstance(card, CoarseCard):
        scope = {"ages": card.vocabulary.ages, "sexes": card.vocabulary.sexes, "heads": card.heads}
    else:
        scope = {"noise": card.noise, "noise_is_a_share_of": _full_scale(card)}
    return (
        document
        | {
            "modality": card.modality,
            "contrasts": _contrasts(card),
            "summary": card.summary,
            "intended_use": card.intended_use,
            "limits": card.limits,
            "licence": card.licence,
            "sources": shown_sources(card.sources),
            "images": card.images,
            "metrics": card.metrics,
            "weights_sha256": card.weights_sha256,
        }
        | scope
    )
