"""TOML written: the other direction of `tomllib`, for nested settings."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["to_toml"]


def to_toml(values: Mapping[str, Any], *, table: str = "") -> str:
    """The TOML text of nested settings without what is None.

    Args:
        values: names to numbers, texts, lists of these, tables, and lists of tables.
        table: name of the table that they stand in; empty at the top.
    """
    values = {key: value for key, value in values.items() if value is not None}
    inner = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    lists = {key: v for key, v in values.items() if isinstance(v, list | tuple) and v and isinstance(v[0], Mapping)}
    plain = {key: value for key, value in values.items() if key not in inner and key not in lists}
    text = "".join(f"{key} = {_value(value)}\n" for key, value in plain.items())
    for key, value in inner.items():
        name = f"{table}.{key}".lstrip(".")
        text += f"\n[{name}]\n{to_toml(value, table=name)}"
    for key, tables in lists.items():
        name = f"{table}.{key}".lstrip(".")
        text += "".join(f"\n[[{name}]]\n{to_toml(each, table=name)}" for each in tables)
    return text


def _value(value: object) -> str:
    """A number, a text or a list of them; JSON's are TOML's, but for what is not finite."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value, ensure_ascii=False)
