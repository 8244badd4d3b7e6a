"""Folders that stay small: what belongs to a case lies in one of 256 sub-folders, by a hash of the case's name."""

from __future__ import annotations

import hashlib

__all__ = ["shard"]


def shard(case: str) -> str:
    """Name of the sub-folder of a case.

    Example:
        >>> shard("case-1")
        'ba'
    """
    return hashlib.sha256(case.encode()).hexdigest()[:2]
