"""A real Orthanc on loopback for a test: own configuration and storage, free ports, ended by its own process id."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
PLUGINS = [Path("/usr/share/orthanc/plugins") / f"lib{name}.so" for name in ("OrthancDicomWeb", "OrthancGdcm")]
_PATIENCE_SECONDS = 90.0  # a busy machine takes its time


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


class Orthanc:
    """One server.

    Args:
        folder: for its configuration, storage and log.
        settings: entries of its configuration that differ.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.dicom_port, self.http_port, self.our_port = free_ports(3)
        known = ["MEDIDIFF", "127.0.0.1", self.our_port]
        self.settings = {
            "Name": "test",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "Plugins": [str(path) for path in PLUGINS],
            "DicomAet": "ORTHANC",
            "DicomPort": self.dicom_port,
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomCheckCalledAet": True,
            "DicomModalities": {"medidiff": known},
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            "OverwriteInstances": False,
            "StorageAccessOnFind": "Always",
            "SynchronousCMove": True,
            "DicomAssociationCloseDelay": 0,
        } | settings
        (folder / "storage").mkdir(parents=True, exist_ok=True)
        self._config = folder / "orthanc.json"
        self._config.write_text(json.dumps(self.settings), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def web(self) -> str:
        """Address of its DICOMweb service."""
        scheme = "https" if self.settings.get("SslEnabled") else "http"
        return f"{scheme}://127.0.0.1:{self.http_port}/dicom-web"

    def start(self) -> None:
        """Start it, and wait until both ports answer."""
        log = (self.folder / "orthanc.log").open("ab")
        with log:
            self._process = subprocess.Popen([str(PROGRAM), str(self._config)], stdout=log, stderr=log)
        end = time.monotonic() + _PATIENCE_SECONDS
        for port in (self.dicom_port, self.http_port):
            while True:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                if self._process.poll() is not None or time.monotonic() > end:
                    text = (self.folder / "orthanc.log").read_text("utf-8", "replace")[-2000:]
                    raise AssertionError(f"Orthanc did not start:\n{text}")
                time.sleep(0.05)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(30)
            self._process = None


@contextmanager
def running(folder: Path, **settings: Any) -> Iterator[Orthanc]:
    """A server for the time of the block."""
    server = Orthanc(folder, **settings)
    try:
        server.start()
        yield server
    finally:
        server.stop()
