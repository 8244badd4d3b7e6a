"""What the tests of batches share: a task that costs nothing, processes that may be killed, and what must be equal."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from medidiff.batch.cases import Case, case_name
from medidiff.batch.job import Batch, Job
from medidiff.batch.journal import Event
from medidiff.batch.worker import Outcome, Worker
from medidiff.errors import InputError
from medidiff.io.files.atomic import make_folder, write_file

JOB = Job("denoise", "/in", {"strength": 1}, {"tiny": "1" * 64}, seed=3)
CHANGING = ("journal", "logs", "metrics")  # what a batch keeps that tells of times
SIZE = 3000


class Copying:
    """Each case becomes two files made of its input, its seed and nothing else; broken inputs are refused."""

    def __init__(self, root: Path, log: Path | None = None) -> None:
        self.root, self.log = root, log

    def fingerprint(self, case: Case) -> str:
        path = Path(case.input)
        return hashlib.sha256(path.read_bytes() if path.is_file() else b"").hexdigest()

    def run(self, case: Case) -> Outcome:
        if self.log is not None:
            with self.log.open("a") as stream:
                stream.write(f"{case.name}\n")
        content = Path(case.input).read_bytes()
        if content.startswith(b"broken"):
            raise InputError("E-FORMAT", "broken content", file=Path(case.input).name)
        files = [self.root / case.result("copied", ending) for ending in (".bin", ".txt")]
        made = content + str(case.seed(JOB.seed)).encode()
        for number, file in enumerate(files):
            make_folder(file.parent)
            text = (made * SIZE)[: SIZE // (1 + number)]
            write_file(file, lambda name, text=text: name.write_bytes(text))
        digest = hashlib.sha256(content).hexdigest()
        return Outcome(digest, "tiny", {"mean": files[0]}, files, {"size": float(len(content))}, ("copied",))


def make_inputs(folder: Path, count: int, broken: Iterable[int] = ()) -> list[Case]:
    """Files, every one of them a case; some are broken."""
    folder.mkdir(exist_ok=True)
    cases = []
    for number in range(count):
        path = folder / f"scan-{number:04d}.raw"
        path.write_bytes(b"broken" if number in set(broken) else f"content {number}".encode())
        cases.append(Case(case_name((path.name,), 0), str(path), 0, f"sub-{number % 3}/scan-{number:04d}_{{kind}}"))
    return cases


def begin(root: Path, cases: list[Case], job: Job = JOB, **how) -> Batch:
    return Batch.begin(root, job, lambda: cases, **how)


def work(batch: Batch, log: Path | None = None, numbers: Iterable[int] | None = None, **how) -> list[tuple[str, str]]:
    """Settle cases; what became of each, as state and code."""
    events = []
    task = Copying(batch.root, log)
    worker = Worker(batch, task, since_ns=how.pop("since_ns", batch.now_ns()), told=events.append, **how)
    worker.work(range(len(batch.manifest)) if numbers is None else numbers)
    return [(event.state, event.code) for event in events]


def events(batch: Batch) -> list[Event]:
    """What was settled for the first time, in all runs and by all workers."""
    files = (batch.folder / "journal").glob("*.jsonl")
    told = [Event(**json.loads(line)) for file in files for line in file.read_text().splitlines()]
    return [event for event in told if event.state != "kept"]


def tree(root: Path) -> dict[str, bytes]:
    """Every file of a batch but those that tell of times, and none that is unfinished or held."""
    hidden = root / ".medidiff"
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and not any((hidden / name) in path.parents for name in CHANGING):
            found[str(path.relative_to(root))] = path.read_bytes()
    return found


def forked(action: Callable[[], object]) -> int:
    """Run something in a copy of this process; its number. It ends with 0, or with 1 and a traceback."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads; the copy uses none of them
        process = os.fork()
    if process:
        return process
    code = 1
    try:
        action()
        code = 0
    except BaseException:
        traceback.print_exc(file=sys.stderr)
    finally:
        os._exit(code)


def ended(process: int) -> int:
    """Wait for a process; its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    assert ended(process) == -signal.SIGKILL
