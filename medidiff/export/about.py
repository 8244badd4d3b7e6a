"""What is said of a data set as a whole, before its first case is drawn."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medidiff.case import Case
from medidiff.errors import InputError, SettingsError
from medidiff.version import __version__

__all__ = ["About"]

_NAME = re.compile(r"[A-Za-z0-9]{1,32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """A synthetic data set.

    Args:
        title: a few words, also the name of the data set in every format.
        count: how many cases were asked for.
        seed: what the cases are drawn from, each by its number.
        licence: SPDX name of the terms of the data set, e.g. ``"CC-BY-4.0"``.
        method: how it was made, in one paragraph.
        priors: name, SHA-256 and licence of each prior, in the order of use.
        asked: what was asked of all cases, JSON values.
        contrast: of all scans; the suffix of BIDS, the channel of nnU-Net.
        anatomy: what is in view.
        label_names: what each number of the label maps means, from 0; empty for scans without.
        limits: what is known not to hold, as sentences.
        version: of medidiff.

    Raises:
        SettingsError: ``E-EXPORT``, an empty title or licence, a count or contrast that cannot be, or values that JSON
            does not hold.
    """

    title: str
    count: int
    seed: int
    licence: str
    method: str
    priors: tuple[Mapping[str, str], ...] = ()
    asked: Mapping[str, Any] = field(default_factory=dict)
    contrast: str = "T1w"
    anatomy: str = "brain"
    label_names: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    version: str = __version__

    def __post_init__(self) -> None:
        rules = (
            ("title", self.title.strip() != "" and self.title.isprintable(), "a few words on one line"),
            ("count", self.count >= 1, "at least 1"),
            ("licence", self.licence.strip() != "" and self.licence.isprintable(), "an SPDX name"),
            ("contrast", _NAME.fullmatch(self.contrast) is not None, "letters and digits, such as T1w"),
            ("anatomy", _NAME.fullmatch(self.anatomy) is not None, "one word"),
            ("label_names", len(self.label_names) != 1 and len(self.label_names) <= 256, "none, or 2 to 256"),
            ("label_names", all(map(_is_plain, self.label_names)), "names of printable characters without tabs"),
        )
        for name, good, wanted in rules:
            if not good:
                raise SettingsError("E-EXPORT", f"{getattr(self, name)!r}", wanted=wanted, attribute=name)
        try:
            json.dumps([dict(self.asked), [dict(each) for each in self.priors]], allow_nan=False)
        except (TypeError, ValueError) as error:
            raise SettingsError("E-EXPORT", str(error)[:200], wanted="JSON values", attribute="asked") from error

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values

    @classmethod
    def from_json(cls, values: Any) -> About:
        """What `to_json` gave.

        Raises:
            InputError: ``E-DATASET``, something else.
        """
        try:
            fields = dict(values)
            for name in ("priors", "label_names", "limits"):
                fields[name] = tuple(fields[name])
            return cls(**fields)
        except (TypeError, KeyError, ValueError, AttributeError, SettingsError) as error:
            found = "a manifest that does not say what the data set is"
            raise InputError("E-DATASET", found, mend="Export it again.") from error

    def refuse_other(self, case: Case) -> None:
        """Refuse a case that is none of this data set.

        Raises:
            InputError: ``E-CASE``, by modality, channels, contrast or labels.
        """
        asked = case.asked.get("contrast", self.contrast)
        names = () if case.labels is None else case.label_names
        rules = (
            (case.image.modality, "MR"),
            (f"{case.image.data.shape[0]} channels", "1 channels"),
            (f"contrast {asked}", f"contrast {self.contrast}"),
            (f"labels {', '.join(names) or 'none'}", f"labels {', '.join(self.label_names) or 'none'}"),
        )
        for found, wanted in rules:
            if found != wanted:
                raise InputError("E-CASE", f"case {case.number} with {found}", wanted=wanted)


def _is_plain(name: str) -> bool:
    return bool(name) and name.isprintable()
