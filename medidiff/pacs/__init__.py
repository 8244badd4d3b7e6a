"""Scans from an archive (PACS) and results back to it, by DIMSE or DICOMweb.

=============  ================================================================================
`nodes`        who may be talked to: a TOML file, or an address that the user typed
`wanted`       what is asked for
`archive`      one archive, whichever way it speaks: ask, fetch, store
`pull`         studies into ``OUT/<study UID>/<series UID>/<SOP instance UID>.dcm``, each series whole or absent
`push`         a folder of DICOM files to an archive, each instance once
`watch`        new studies as they come, each pulled once and handed on
=============  ================================================================================

Nothing is sent to, or accepted from, anybody but the node that the user names; nothing that comes is believed before
it was compared with what was asked for. pynetdicom and dicomweb-client are imported when a node is opened
(``pip install medidiff[pacs]``).
"""

from __future__ import annotations

from medidiff.pacs.archive import Archive, open_archive
from medidiff.pacs.nodes import DimseNode, Node, WebNode, find_node, read_nodes
from medidiff.pacs.pull import Pulled, pull_series, pull_study
from medidiff.pacs.push import Pushed, push_folder
from medidiff.pacs.wanted import Wanted
from medidiff.pacs.watch import Handing, Rules, Watch

__all__ = [
    "Archive",
    "DimseNode",
    "Handing",
    "Node",
    "Pulled",
    "Pushed",
    "Rules",
    "Wanted",
    "Watch",
    "WebNode",
    "find_node",
    "open_archive",
    "pull_series",
    "pull_study",
    "push_folder",
    "read_nodes",
]
