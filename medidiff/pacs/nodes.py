"""Whom to talk to: nodes of a TOML file, or an address that was typed. Nobody else is ever talked to.

::

    [nodes.archive]                      # DIMSE
    host = "10.0.0.5"
    port = 104
    ae_title = "ARCHIVE"                 # the archive's
    calling_ae_title = "MEDIDIFF"        # ours
    retrieve = "get"                     # or "move", which needs:
    receiver = { host = "10.0.0.9", port = 11112 }
    tls = { ca = "ca.pem", certificate = "me.pem", key = "me.key" }

    [nodes.web]                          # DICOMweb
    url = "https://pacs.example/dicom-web"
    tls = { ca = "ca.pem" }
    auth = { kind = "bearer", variable = "PACS_TOKEN" }      # or kind = "basic", user = "me", file = "password"

Paths are relative to the TOML file. A secret never stands in it: it names an environment variable or a file.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from medidiff.errors import SettingsError
from medidiff.pacs.patience import Patience
from medidiff.pacs.secrets import secret_of

__all__ = ["Auth", "DimseNode", "Limits", "Node", "Receiver", "Tls", "WebNode", "find_node", "read_nodes"]

_MOST_BYTES = 2**20
_TYPED = re.compile(r"(?P<ae>[^@:/]{1,16})@(?P<host>\[[0-9A-Fa-f:]+\]|[^@:/\s]+):(?P<port>\d{1,5})")


def _ae_title(text: str) -> str:
    if not (text.isascii() and text.isprintable() and text.strip() == text and "\\" not in text):
        raise ValueError("an AE title is 1 to 16 ASCII characters without a backslash or spaces at its ends")
    return text


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("the address of a DICOMweb service begins with http:// or https:// and ends with its path")
    if parts.username is not None or parts.password is not None:
        raise ValueError("no user or password stands in an address: name them with auth")
    return text.rstrip("/")


AeTitle = Annotated[str, Field(min_length=1, max_length=16), AfterValidator(_ae_title)]
Host = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9_.:-]+$")]
Port = Annotated[int, Field(ge=1, le=65535, strict=True)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class Tls:
    """How the other side proves who it is, and how we do.

    Args:
        ca: certificates that the other side's must descend from (PEM); those of the system when None.
        certificate: our own (PEM), for a side that asks for one, and for a receiver.
        key: its private key (PEM).
        server_name: name in the other side's certificate, where it is not the host.
    """

    __pydantic_config__ = STRICT
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: Annotated[str, Field(max_length=253)] = ""

    def context(self, *, receives: bool = False) -> ssl.SSLContext:
        """TLS 1.2 or newer, certificates always checked.

        Args:
            receives: for a listener, which then asks the other side for a certificate where `ca` is given.

        Raises:
            SettingsError: ``E-PACS-NODE``, a file is missing or is no certificate.
        """
        try:
            purpose = ssl.Purpose.CLIENT_AUTH if receives else ssl.Purpose.SERVER_AUTH
            context = ssl.create_default_context(purpose, cafile=None if self.ca is None else str(self.ca))
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if receives and self.ca is not None:
                context.verify_mode = ssl.CERT_REQUIRED
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            found = "a certificate or key that is not there or cannot be used"
            raise SettingsError("E-PACS-NODE", found, mend="Check the PEM files.", attribute="tls") from error
        return context


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where an archive may deliver what a C-MOVE asks for; open only while one runs.

    Args:
        host: our own address to listen on; loopback unless the user names another.
        port: the port that the archive knows for our AE title.
    """

    __pydantic_config__ = STRICT
    host: Host = "127.0.0.1"
    port: Port = 11112


@dataclass(frozen=True, slots=True)
class Auth:
    """Who we are to a DICOMweb service.

    Args:
        kind: ``"basic"`` (user and password) or ``"bearer"`` (a token).
        user: for basic.
        variable: environment variable that holds the password or token.
        file: file that holds it instead; only its owner may read it.
    """

    __pydantic_config__ = STRICT
    kind: Literal["basic", "bearer"]
    user: Annotated[str, Field(max_length=256)] = ""
    variable: Annotated[str, Field(max_length=256)] = ""
    file: Path | None = None

    def __post_init__(self) -> None:
        if bool(self.variable) == (self.file is not None):
            raise ValueError("the secret stands either in a variable or in a file")
        if (self.kind == "basic") != bool(self.user) or ":" in self.user:
            raise ValueError("basic needs a user without a colon, bearer none")

    def secret(self) -> str:
        """The password or token.

        Raises:
            SettingsError: ``E-PACS-SECRET``.
        """
        return secret_of(self.variable, self.file)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait, how often to try again, and how much to accept.

    Args:
        timeout_seconds: longest silence of the other side.
        attempts: tries in a row without progress.
        first_pause_seconds: first pause between tries; each further one is twice as long, with jitter.
        longest_pause_seconds: longest pause.
        largest_mib: most that one instance may hold, in MiB.
    """

    __pydantic_config__ = STRICT
    timeout_seconds: Seconds = 60.0
    attempts: Annotated[int, Field(ge=1, le=1000, strict=True)] = 6
    first_pause_seconds: Seconds = 1.0
    longest_pause_seconds: Seconds = 60.0
    largest_mib: Annotated[int, Field(ge=1, le=65_536, strict=True)] = 2048

    @property
    def patience(self) -> Patience:
        """How to try again."""
        return Patience(self.attempts, self.first_pause_seconds, self.longest_pause_seconds)


@dataclass(frozen=True, slots=True)
class DimseNode:
    """An archive that speaks DIMSE.

    Args:
        host: its address.
        port: its port.
        ae_title: its AE title.
        calling_ae_title: ours.
        retrieve: ``"get"`` (it answers on our connection) or ``"move"`` (it connects to `receiver`).
        receiver: where it delivers.
        tls: None for a plain connection.
        limits: patience.
    """

    __pydantic_config__ = STRICT
    host: Host
    port: Port
    ae_title: AeTitle
    calling_ae_title: AeTitle = "MEDIDIFF"
    retrieve: Literal["get", "move"] = "get"
    receiver: Receiver = field(default_factory=Receiver)
    tls: Tls | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.retrieve == "move" and self.tls is not None and self.tls.certificate is None:
            raise ValueError("a receiver with TLS needs a certificate and key of its own")


@dataclass(frozen=True, slots=True)
class WebNode:
    """An archive that speaks DICOMweb.

    Args:
        url: address of the service; studies lie below ``url/studies``.
        tls: how an https service is checked; by the system's certificates when None.
        auth: None for none.
        limits: patience.
    """

    __pydantic_config__ = STRICT
    url: Annotated[str, Field(max_length=2000), AfterValidator(_url)]
    tls: Tls | None = None
    auth: Auth | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme == "http" and (self.auth or self.tls) and not _is_loopback(parts.hostname or ""):
            raise ValueError("a password, token or certificate goes to an https address only")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


Node = DimseNode | WebNode


def find_node(text: str, config: Path | None) -> Node:
    """The node that a user names.

    Args:
        text: a name in the TOML file, ``AETITLE@host:port``, or the http(s) address of a DICOMweb service.
        config: the TOML file.

    Raises:
        SettingsError: ``E-PACS-NODE``, there is no such node, or the file is broken.
    """
    nodes = {} if config is None else read_nodes(config)
    if text in nodes:
        return nodes[text]
    if text.startswith(("http://", "https://")):
        return _checked({"url": text}, where="NODE", file="")
    if match := _TYPED.fullmatch(text):
        host, port = match["host"].strip("[]"), int(match["port"])
        return _checked({"host": host, "port": port, "ae_title": match["ae"]}, where="NODE", file="")
    known = ", ".join(nodes) or "none, as no --config is given"
    mend = "Name a node of --config, AETITLE@host:port, or the address of a DICOMweb service."
    raise SettingsError("E-PACS-NODE", "no node of this name", wanted=f"one of: {known}", mend=mend, attribute="NODE")


def read_nodes(path: Path) -> dict[str, Node]:
    """The nodes of a TOML file, by name.

    Raises:
        SettingsError: ``E-PACS-NODE``, it is missing, no TOML, or an entry is unknown or wrong; no value is shown.
    """
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            raise _broken("no such file, or no file of a configuration's size", path.name)
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _broken("a file that cannot be read as TOML", path.name) from error
    nodes = tables.get("nodes")
    if set(tables) != {"nodes"} or not isinstance(nodes, dict) or not nodes:
        raise _broken("tables other than [nodes.NAME], or none", path.name)
    return {name: _checked(_placed(table, path.parent), where=name, file=path.name) for name, table in nodes.items()}


def _placed(table: Any, home: Path) -> Any:
    """A node's table with its paths made relative to the file's folder."""
    if not isinstance(table, dict):
        return table
    placed = dict(table)
    for part, names in (("tls", ("ca", "certificate", "key")), ("auth", ("file",))):
        if isinstance(placed.get(part), dict):
            paths = {name: str(home / value) for name, value in placed[part].items() if _is_path(name, value, names)}
            placed[part] = placed[part] | paths
    return placed


def _is_path(name: str, value: Any, names: tuple[str, ...]) -> bool:
    return name in names and isinstance(value, str)


def _checked(table: Mapping[str, Any], *, where: str, file: str) -> Node:
    kind: Any = WebNode if isinstance(table, dict) and "url" in table else DimseNode
    try:
        node: Node = TypeAdapter(kind).validate_python(table)
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False, include_context=False)
        first = min(faults, key=lambda fault: fault["type"] != "unexpected_keyword_argument")  # a misspelt name first
        place = ".".join((where, *(str(part) for part in first["loc"])))[:120]
        found = "an entry that is not known" if first["type"] == "unexpected_keyword_argument" else first["msg"][:200]
        mend = "docs/pacs.md has a file that works; secrets are named by variable or file."
        raise SettingsError("E-PACS-NODE", found, mend=mend, file=file, attribute=place) from None
    return node


def _broken(found: str, name: str) -> SettingsError:
    mend = "Write it as docs/pacs.md shows."
    return SettingsError("E-PACS-NODE", found, wanted="a TOML file of nodes", mend=mend, file=name)
