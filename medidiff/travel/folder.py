"""A folder that appears whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medidiff.errors import OutputError
from medidiff.io.files.atomic import make_folder, output_errors

__all__ = ["new_folder"]


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that gets its name once everything is in it.

    Raises:
        OutputError: ``E-EXISTS``, something is there; or the system refuses.
    """
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        mend = "Choose a new name."
        raise OutputError("E-EXISTS", "something is there already", mend=mend, file=out.name)
    make_folder(out.absolute().parent)
    with output_errors(out.name):
        temporary = Path(tempfile.mkdtemp(prefix=".medidiff-travel-", dir=out.absolute().parent))
        try:
            temporary.chmod(0o755)
            yield temporary
            temporary.replace(out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
