"""Headless Chromium, driven through a pipe (DevTools protocol): pages are opened, used, watched and photographed.

Nothing listens: the browser is a child that is talked to through two file descriptors, and it is given no network
(every host name resolves to nothing). All that a page complains about or asks for is kept.

    python validation/browser.py page.html picture.jpg --width 1400 --height 1640 --scale 0.75
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",  # CI runs as root in a container
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)
_LOCAL = ("file:", "data:", "about:")


def program() -> str | None:
    """The browser of this machine; None when there is none."""
    return next((path for path in map(shutil.which, PROGRAMS) if path), None)


@dataclass
class Page:
    """One open page.

    Args:
        browser: the pipe.
        session: its session.
        complaints: what it wrote to the console, exceptions and breaches of its policy.
        requests: addresses that it asked for, itself left out.
    """

    browser: Pipe
    session: str
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One call of the DevTools protocol on this page."""
        return self.browser.call(method, session=self.session, **parameters)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 60.0) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.run(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"waited {seconds:g} s for {condition}; {self.complaints}")
            time.sleep(0.05)

    def size(self, width: int, height: int) -> None:
        """Set the window's size in pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def point(self, x: float, y: float) -> None:
        """Move the pointer."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def key(self, letter: str) -> None:
        """Press and release a letter."""
        for kind in ("keyDown", "keyUp"):
            words = {"text": letter} if kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=letter, **words)

    def photograph(self, *, height: float = float("inf"), scale: float = 1.0, **form: Any) -> bytes:
        """A picture of the page, PNG unless the form says otherwise.

        Args:
            height: pixels from the top; all of the page when left out.
            scale: of the picture.
            form: ``format`` and ``quality`` of the DevTools protocol.
        """
        words: dict[str, Any] = {"format": "png", "captureBeyondViewport": True} | form
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        words["clip"] = {"x": 0, "y": 0, "width": size["width"], "height": min(height, size["height"]), "scale": scale}
        return base64.b64decode(self.call("Page.captureScreenshot", **words)["data"])


class Pipe:
    """A browser at the other end of two pipes; messages end with a zero byte."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._number = write, read, 0
        self._buffer = b""
        self.pages: dict[str, Page] = {}

    def open(self, place: Path | str, *, width: int = 1400, height: int = 900, seconds: float = 60.0) -> Page:
        """Open a local file, or an address on loopback, in a page of its own, and wait until all of it is loaded."""
        address = place if isinstance(place, str) else place.resolve().as_uri()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self.pages[session] = Page(self, session)
        page.size(width, height)
        for domain in ("Runtime", "Log", "Network", "Audits", "Page"):
            page.call(f"{domain}.enable")
        page.call("Page.navigate", url=address)
        page.wait("document.readyState === 'complete' && location.protocol !== 'about:'", seconds)
        page.requests[:] = [url for url in page.requests if url != address]
        return page

    def call(self, method: str, *, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events on the way are kept."""
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        content = json.dumps(message).encode() + b"\0"
        while content:
            content = content[os.write(self._write, content) :]
        while True:
            answer = self._next(600.0)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])
            self._note(answer)

    def _next(self, seconds: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], seconds)[0]:
                raise TimeoutError("the browser is silent")
            part = os.read(self._read, 2**20)
            if not part:
                raise ConnectionError("the browser is gone")
            self._buffer += part
        first, self._buffer = self._buffer.split(b"\0", 1)
        return dict(json.loads(first))

    def _note(self, event: dict[str, Any]) -> None:
        page, method, told = self.pages.get(event.get("sessionId", "")), event.get("method"), event.get("params", {})
        if page is None:
            return
        if method == "Runtime.exceptionThrown":
            page.complaints.append(f"exception: {told['exceptionDetails'].get('text', '')}")
        elif method == "Runtime.consoleAPICalled":
            page.complaints.append(f"console: {[argument.get('value') for argument in told['args']]}")
        elif method == "Log.entryAdded":
            page.complaints.append(f"{told['entry']['source']}: {told['entry']['text']}")
        elif method == "Audits.issueAdded":
            page.complaints.append(f"issue: {told['issue']['code']}")
        elif method == "Page.javascriptDialogOpening":
            page.complaints.append(f"dialog: {told['message']}")
        elif method == "Network.requestWillBeSent":
            page.requests.append(told["request"]["url"].split(",")[0][:200])  # of a data URI only its kind


@contextmanager
def running(*, loopback: bool = False) -> Iterator[Pipe]:
    """A browser of our own, ended with the block.

    Args:
        loopback: whether it may talk to servers on 127.0.0.1.

    Raises:
        FileNotFoundError: there is none on this machine.
    """
    found = program()
    if found is None:
        raise FileNotFoundError(f"no browser on this machine: {', '.join(PROGRAMS)} (Debian: chromium-headless-shell)")
    to_child, ours_out = os.pipe()
    ours_in, from_child = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (to_child, from_child)]
    os.close(to_child)
    os.close(from_child)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        actions = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
        actions += [(os.POSIX_SPAWN_DUP2, end, number) for end, number in zip(high, (3, 4), strict=True)]
        rules = "--host-resolver-rules=MAP * ~NOTFOUND" + (", EXCLUDE 127.0.0.1" if loopback else "")
        command = [found, *_FLAGS, rules, f"--user-data-dir={home}", "about:blank"]
        child = os.posix_spawn(found, command, os.environ, file_actions=actions)
        for end in high:
            os.close(end)
        try:
            yield Pipe(ours_out, ours_in)
        finally:
            os.close(ours_out)  # which ends it
            os.close(ours_in)
            _ended(child)


def _ended(child: int, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not os.waitpid(child, os.WNOHANG)[0]:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return
        time.sleep(0.05)


def outside(requests: list[str]) -> list[str]:
    """The requests that would have left the machine."""
    return [url for url in requests if not url.startswith(_LOCAL)]


def photographed(page: Path, picture: Path, *, width: int, height: float, scale: float) -> None:
    """Write a picture of a page, as JPEG or PNG by its name."""
    form = {"format": "jpeg", "quality": 82} if picture.suffix.lower() in (".jpg", ".jpeg") else {}
    with running() as browser:
        shown = browser.open(page, width=width)
        shown.wait("document.documentElement.dataset.ready === 'yes'")
        picture.write_bytes(shown.photograph(height=height, scale=scale, **form))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1400)
    parser.add_argument("--height", type=float, default=float("inf"))
    parser.add_argument("--scale", type=float, default=1.0)
    told = parser.parse_args()
    photographed(told.page, told.picture, width=told.width, height=told.height, scale=told.scale)
