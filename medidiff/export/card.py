"""The card of a data set: what it is, how it was made, what it is not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medidiff.case import MARK
from medidiff.export.layout import Layout

__all__ = ["card"]

_MOST_FIGURES = 60
_LIMITS = (
    "Nothing in these scans was measured: each is a guess of a trained network at what a scan could look like.",
    "They show no disease on purpose, and whatever the training scans lacked they lack too.",
    "What was asked for (age, sex) is what the network was told, not what an invented brain has.",
    "The label maps are drawn with the scans; they are as good as the automatic labels of the training scans.",
)
_NOTE = (
    "`SHA256SUMS` says that nothing was changed by accident (`sha256sum -c SHA256SUMS`); it is not signed.",
    "`medidiff verify` also checks that every file is marked as synthetic, and that none is missing or unknown.",
)


def card(layout: Layout, numbers: Sequence[int], gates: Mapping[str, Any]) -> str:
    """The card as Markdown; with the head that Hugging Face reads, in its format."""
    about = layout.about
    told = ", ".join(f"{key} {value}" for key, value in about.asked.items()) or "nothing beyond the contrast"
    labels = ", ".join(f"{index} {name}" for index, name in enumerate(about.label_names)) or "none"
    priors = [f"- {each.get('name', '?')}, SHA-256 `{each.get('sha256', '?')}`{_terms(each)}" for each in about.priors]
    parts = [
        _head(layout) if layout.name == "huggingface" else "",
        f"# {about.title}",
        f"**{MARK}.**",
        about.method,
        "## What it is",
        f"- {len(numbers)} invented scans ({about.count} were asked for), {about.anatomy}, {about.contrast}\n"
        f"- asked for: {told}; of each case in `{layout.table}`\n"
        f"- labels: {labels}\n"
        f"- seed {about.seed}; medidiff {about.version}\n"
        f"- licence: {about.licence}",
        "## Priors",
        "\n".join(priors) or "None is named.",
        "## Gates",
        "\n".join(_verdict(gates)),
        "## Files",
        layout.notes(),
        "\n".join(f"- `{each.pattern}`: {each.text}" for each in layout.groups()),
        "- `gates.json`: the report of the gates in full\n- `croissant.json`: the same description for machines\n"
        "- `medidiff.json`: what was asked for, and which cases there are",
        " ".join(_NOTE),
        "## Limits",
        "\n".join(f"- {each}" for each in (*_limits(layout), *about.limits)),
        "## Use",
        "Research and the development of software; not for diagnosis. How anything does here says little of patients.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _terms(prior: Mapping[str, str]) -> str:
    return f", {prior['licence']}" if prior.get("licence") else ""


def _limits(layout: Layout) -> tuple[str, ...]:
    return _LIMITS if layout.about.label_names else _LIMITS[:-1]


def _verdict(gates: Mapping[str, Any]) -> Iterator[str]:
    if gates["Holds"]:
        yield "The gates hold."
    else:
        met = "do not hold" if "Report" in gates else "were not run"
        yield f"**The gates {met}.** Why the data set left all the same: {gates['Override']}"
    figures = list(_figures(gates.get("Report", {})))
    if figures:
        yield "\n| figure | value |\n|---|---|"
        yield from (f"| {name} | {value} |" for name, value in figures[:_MOST_FIGURES])


def _figures(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Single values of a nested report, by their names joined with dots."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _figures(value, f"{before}{key}.")
        elif isinstance(value, str | int | float | bool):
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            if text := " ".join(text.replace("|", "/").split()):
                yield f"{before}{key}".replace("|", "/"), text


def _head(layout: Layout) -> str:
    about = layout.about
    lines = (
        "---",
        f"license: {json.dumps(about.licence.lower())}",
        f"pretty_name: {json.dumps(about.title)}",
        "tags: [synthetic, medical, " + about.anatomy + "]",
        "configs:",
        "  - config_name: default",
        "    data_files:",
        "      - split: train",
        '        path: "data/**"',
        "---",
    )
    return "\n".join(lines)
