"""A prior's card as people read it: a Hugging Face model card, and the sections that any reader of it needs."""

from __future__ import annotations

import json
from collections.abc import Mapping

from medidiff.errors import printable
from medidiff.prior import Card
from medidiff.prior.coarse import CoarseCard
from medidiff.prior.sources import shown_sources
from medidiff.trust.reference import reference_for
from medidiff.version import __version__

__all__ = ["NEVER_CALIBRATED", "model_card", "scope_usage", "sections"]

NEVER_CALIBRATED = "never measured: do not take the spread of its draws, or an interval made of it, for coverage"
_KNOWN = (
    "apache-2.0",
    "mit",
    "cc0-1.0",
    "cc-by-4.0",
    "bsd-3-clause",
)  # licences that Hugging Face knows by these names


def sections(card: Card | CoarseCard) -> dict[str, dict[str, object]]:
    """What a card says, section by section: the same for the terminal and for the page."""
    facts: dict[str, object] = {
        "what it is": card.summary,
        "modality": card.modality,
        "training images seen": card.images,
        "features at half and quarter size": ", ".join(map(str, card.channels)),
        "weights, SHA-256": card.weights_sha256,
        "training scans, SHA-256": card.data_fingerprint,
    }
    if isinstance(card, CoarseCard):
        asked = card.vocabulary
        low, high = asked.ages
        facts["may be asked"] = f"{', '.join(asked.contrasts)}, {low:g} to {high:g} years, {' or '.join(asked.sexes)}"
    else:
        share = "2048 HU" if card.modality == "CT" else "the tissue maximum"
        facts["contrasts"] = ", ".join(card.contrasts)
        facts["noise it practised on"] = f"{100 * card.noise[0]:g} to {100 * card.noise[1]:g} % of {share}"
        facts["training began with"] = card.start.get("name", "") or "chance"
    return {
        "Facts": facts,
        "Intended use": {"use": card.intended_use},
        "Limits": _numbered("limit", card.limits),
        "Training data": _numbered("source", shown_sources(card.sources)),
        "Licence": {"weights": card.licence, "code": "Apache-2.0"},
        "Metrics": dict(card.metrics) or {"metrics": "none was measured"},
        "Calibration": dict(card.calibration) or {"calibration": NEVER_CALIBRATED},
    }


def model_card(card: Card, *, usage: str) -> str:
    """The card as Markdown with YAML front matter.

    Args:
        card: of the prior.
        usage: Markdown that shows how what lies beside the text is used.
    """
    body = "".join(f"## {title}\n\n{_table(lines)}\n\n" for title, lines in sections(card).items())
    written = f"Written by medidiff {__version__}. Research use only, not for diagnosis."
    return f"{_front(card)}\n# {card.name}\n\n{written}\n\n{body}## How to use it\n\n{usage.strip()}\n"


def scope_usage(card: Card) -> str:
    """What becomes of a scan that is not of the kind that a prior is for, in one paragraph."""
    if reference_for(card) is None:
        return "Nothing comes with this prior that says which scans it is for: the verdict is always `unjudged`."
    told = "The answer says under `scope` whether the scan is of the kind that the prior is for"
    return f"{told}: `inside` or `outside`, with reasons. With `strict` a scan that is outside is refused (`E-SCOPE`)."


def _numbered(name: str, lines: tuple[str, ...]) -> dict[str, object]:
    return {f"{name} {number}": line for number, line in enumerate(lines, 1)} or {name: "none is stated"}


def _front(card: Card) -> str:
    """YAML that Hugging Face reads; JSON's texts and lists are YAML's."""
    known = card.licence.lower() in _KNOWN
    entries = {"license": card.licence.lower() if known else "other"}
    told = [f"{key}: {value}" for key, value in entries.items()]
    told += [] if known else [f"license_name: {json.dumps(_plain(card.licence))}"]
    told += ["library_name: monai", "pipeline_tag: image-to-image"]
    told += [f"tags: {json.dumps(['medical', 'diffusion', 'denoising', card.modality, 'research-only'])}"]
    return "---\n" + "\n".join(told) + "\n---\n"


def _plain(text: str) -> str:
    """One line that cannot begin another table cell or tag."""
    return printable(text).replace("|", "/").replace("<", "&lt;")


def _table(entries: Mapping[str, object]) -> str:
    rows = (
        f"| {_plain(name)} | {f'{value:.6g}' if isinstance(value, float) else _plain(str(value))} |"
        for name, value in entries.items()
    )
    return "\n".join(["| | |", "|---|---|", *rows])
