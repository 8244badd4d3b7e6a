"""What a prior was trained on, as a page shows it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medidiff.io.files.names import safe_label

__all__ = ["shown_sources"]

_PUBLIC = {safe_label(name): name for name in ("ms-open", "mni")}  # folders of public data, see validation/DATA.md
_HASHED = re.compile(r"\bfile-[0-9a-f]{8}\b")


def shown_sources(sources: Sequence[str]) -> tuple[str, ...]:
    """The sources of a card with the names of public data for their hashes; all other folders stay hashed.

    A card holds no name of a folder that could be a patient's (`medidiff.io.files.names.safe_label`), and so hides some
    that everybody may know.

    Example:
        >>> shown_sources(["file-fef3c7a2/{subject}/T1.nii.gz (CC-BY)", "file-00000000/{subject}.nii.gz (own)"])
        ('ms-open/{subject}/T1.nii.gz (CC-BY)', 'file-00000000/{subject}.nii.gz (own)')
    """
    return tuple(_HASHED.sub(lambda found: _PUBLIC.get(found[0], found[0]), each) for each in sources)
