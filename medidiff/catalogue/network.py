"""Codes of what goes wrong between medidiff and an archive (PACS)."""

from __future__ import annotations

__all__ = ["NETWORK", "NETWORK_SETTINGS"]

Rows = dict[str, tuple[str, str]]

NETWORK: Rows = {
    "E-PACS-ABORT": (
        "The connection to the archive was cut before the work was done.",
        "Run the same command again; what is done is kept.",
    ),
    "E-PACS-AETITLE": (
        "The archive does not know our AE title, its own as we call it, or the destination of a C-MOVE.",
        "Correct ae_title and calling_ae_title of the node, or have the archive learn ours.",
    ),
    "E-PACS-ANSWER": (
        "An answer of the archive cannot be believed: broken UIDs, no DICOM, too many or too large.",
        "Report it to whoever runs the archive; nothing of it was kept.",
    ),
    "E-PACS-BUSY": ("The archive takes no more work now, after several tries.", "Try again later."),
    "E-PACS-COMMAND": (
        "The command that a watch hands studies to failed or could not be started.",
        "Look at what it printed; the study is handed on again at the next round.",
    ),
    "E-PACS-FULL": ("The archive is full.", "Have space made there and push again; nothing is stored twice."),
    "E-PACS-HTTP": (
        "A DICOMweb service refuses a request, or sends it on to another address.",
        "Check the url of the node; only addresses that you name are followed.",
    ),
    "E-PACS-LOGIN": (
        "The archive does not let us in, or not do this.",
        "Check user, password or token, and whether they allow it.",
    ),
    "E-PACS-NONE": (
        "The archive has nothing that fits the question.",
        "Check the numbers and dates; a value must be given in full, without wildcards.",
    ),
    "E-PACS-PARTIAL": (
        "Fewer instances of a series came than the archive says it has, after several tries; none were kept.",
        "Run the same command again, and look into the archive's log.",
    ),
    "E-PACS-REACH": ("No connection to the archive.", "Check host and port of the node, and that the archive runs."),
    "E-PACS-REJECTED": (
        "The archive turned down the association for good.",
        "Ask whoever runs the archive to let our AE title in.",
    ),
    "E-PACS-SERVER": ("The archive reports a fault of its own.", "Try again later; its log says more."),
    "E-PACS-STORE": (
        "The archive did not take some of the instances.",
        "Ask whoever runs the archive whether it takes this kind of object.",
    ),
    "E-PACS-TIMEOUT": (
        "The archive did not answer in time, after several tries.",
        "Try again later, or raise limits.timeout_seconds of the node.",
    ),
    "E-PACS-TLS": (
        "No TLS connection: a certificate is missing, has expired, or is not trusted by the other side.",
        "Check ca, certificate, key and server_name of the node's tls.",
    ),
    "E-PACS-UNCONFIRMED": (
        "Instances were sent and accepted, but the archive does not tell of them.",
        "Look there in a while, or push again: nothing is stored twice.",
    ),
    "E-PACS-UNSUPPORTED": (
        "The archive lacks a service, kind of object or transfer syntax that is needed.",
        "Ask whoever runs the archive, or use its other interface (DIMSE or DICOMweb).",
    ),
    "E-PACS-WARNING": (
        "The archive says that it failed to send some instances of a series, which was then not kept.",
        "Run the same command again, and look into the archive's log.",
    ),
}

NETWORK_SETTINGS: Rows = {
    "E-PACS-EXTRA": ("A library for archives is not installed.", "Install it with: pip install 'medidiff[pacs]'."),
    "E-PACS-NODE": (
        "No such node, or the file of nodes has an entry that is unknown or wrong.",
        "Correct the entry that the message names; docs/pacs.md has a file that works.",
    ),
    "E-PACS-PORT": (
        "The address for what the archive delivers cannot be listened on.",
        "Choose another receiver that the archive knows, or retrieve = 'get'.",
    ),
    "E-PACS-QUERY": (
        "A question to an archive that is empty, has wildcards, or cannot be.",
        "Name a UID, an accession number, a patient's number, days or a modality, each in full.",
    ),
    "E-PACS-SECRET": (
        "A password or token is not where the node says, is empty, or may be read by others.",
        "Set the variable, or keep the file readable by its owner only.",
    ),
}
