"""Opens a node: the one place that knows both ways to speak to an archive."""

from __future__ import annotations

from importlib.util import find_spec

from medidiff.errors import SettingsError
from medidiff.pacs.answers import Archive
from medidiff.pacs.nodes import Node, WebNode

__all__ = ["Archive", "open_archive"]


def open_archive(node: Node) -> Archive:
    """An archive to ask, fetch from and store to; nothing is sent yet.

    Raises:
        SettingsError: ``E-PACS-EXTRA``, the library is not installed; ``E-PACS-NODE`` and ``E-PACS-SECRET``, the
            node's certificates or secret cannot be used.
    """
    if isinstance(node, WebNode):
        _refuse_missing("dicomweb_client")
        from medidiff.pacs.web import WebArchive

        return WebArchive(node)
    _refuse_missing("pynetdicom")
    from medidiff.pacs.dimse import DimseArchive

    return DimseArchive(node)


def _refuse_missing(module: str) -> None:
    if find_spec(module) is None:
        mend = "Install it with: pip install 'medidiff[pacs]'."
        raise SettingsError("E-PACS-EXTRA", f"{module} is not installed", mend=mend)
