"""Damage good scans and see what reading them does: `python validation/fuzz.py --help`.

Every mutant must give a volume or one of medidiff's own errors with a proper code and no patient data, within 10 s of
processor time (and a minute on the clock, however busy the machine is) and 1.5 GB. Mutants are read in a child
process with a limit on its address space, so that a crash of a decoder, a hang and a bomb are told apart and counted.
A volume that is given must be explained: finite, on a grid of its own shape, and, where one file of a series was
damaged, equal in all slices of the other files; a NIfTI volume has the shape that its header states. The same seed
and number always make the same mutant (`--only` reads one again).
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import re
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SECRETS = ("SECRET", "ID-4711", "19010203", "free text", "1.2.826", "ACC1", "medidiff-fuzz-")
LIMIT_S, WALL_S, START_S = 10.0, 60.0, 180.0  # processor time of a mutant; the clock's; the clock's at the start
LIMIT_BYTES = 3 * 2**29
FAULTS = ("crash", "hang", "other exception", "leak", "warning", "bad code", "wrong volume", "memory")


@dataclass(slots=True)
class Tally:
    """What became of the mutants.

    Args:
        outcomes: how often each was met: ``"volume"``, ``"refused"``, or one of `FAULTS`.
        codes: how often each error code was met.
        faults: number, seed and description of each mutant that broke the rule.
        peak: largest resident memory of a child, in bytes.
        slowest: longest processor time of a mutant, decoders included, in s.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[int, str, str]] = field(default_factory=list)
    peak: int = 0
    slowest: float = 0.0

    def add(self, number: int, name: str, outcome: str, note: str) -> None:
        """Count one mutant."""
        self.outcomes[outcome] += 1
        if outcome in FAULTS:
            self.faults.append((number, name, f"{outcome}: {note}"))
        elif outcome == "refused":
            self.codes[note] += 1

    def report(self) -> str:
        """A few lines for people."""
        lines = [", ".join(f"{n} {name}" for name, n in self.outcomes.most_common())]
        lines.append(", ".join(f"{code} {n}" for code, n in self.codes.most_common()))
        lines.append(
            f"slowest {self.slowest:.2f} s, peak memory {self.peak / 2**20:.0f} MiB, {len(self.faults)} faults"
        )
        return "\n".join([*lines, *(f"  {number} ({name}) {note[:400]}" for number, name, note in self.faults)])


def run(kind: str, *, seed: int, count: int, first: int = 0) -> Tally:
    """Read `count` mutants in child processes and judge each.

    Args:
        kind: ``"dicom"`` or ``"nifti"``.
        seed: of all randomness.
        count: number of mutants.
        first: number of the first.
    """
    tally, number, end = Tally(), first, first + count
    context = multiprocessing.get_context("spawn")
    while number < end:
        ours, theirs = context.Pipe()
        child = context.Process(target=_child, args=(theirs, kind, seed, number, end), daemon=True)
        child.start()
        theirs.close()
        number = _listen(ours, tally, number, overran=partial(_overran, child))
        if child.is_alive():
            child.join(5 if number >= end else 0)
        child.kill()
        child.join()
    return tally


def _overran(child: multiprocessing.process.BaseProcess) -> bool:
    """Whether a child that has ended was ended by the limit on its processor time."""
    child.join(5)
    return child.exitcode == -signal.SIGXCPU


def _listen(child: Connection, tally: Tally, number: int, *, overran: Callable[[], bool] = lambda: False) -> int:
    """Count what a child reports until it is done, dies or hangs; the number of the next mutant."""
    wait, name = START_S, "start"
    while True:
        if not child.poll(wait):
            tally.add(number, name, "hang", f"no answer in {wait:.0f} s")
            return number + 1
        try:
            message = child.recv()
        except EOFError:
            if overran():
                tally.add(number, name, "hang", f"more than {LIMIT_S:.0f} s of processor time")
            else:
                tally.add(number, name, "crash", "the process ended")
            return number + 1
        if message == "done":
            return number
        if isinstance(message, str):
            wait, name = WALL_S, message
            continue
        outcome, note, seconds, tally.peak = message[0], message[1], message[2], max(tally.peak, message[3])
        tally.slowest = max(tally.slowest, seconds)
        tally.add(number, name, outcome, note)
        number += 1


def _child(parent: Connection, kind: str, seed: int, first: int, end: int) -> None:
    """Make and read mutants, telling the parent the name of the seed before each and the outcome behind it."""
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path.insert(0, str(HERE))
    from mutants import SEEDS, scratch, write_seed

    with scratch() as folder, Path(folder, "printed").open("a+b") as printed:
        for stream in (1, 2):
            os.dup2(printed.fileno(), stream)
        seeds = SEEDS[kind]
        ready = [write_seed(s, Path(folder) / f"{n}") for n, s in enumerate(seeds)]
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + LIMIT_BYTES, size + LIMIT_BYTES))
        order = [n for n, s in enumerate(seeds) for _ in range(s.share)]
        for number in range(first, end):
            which = order[number % len(order)]
            parent.send(seeds[which].name)
            began = _spent()
            _, most = resource.getrlimit(resource.RLIMIT_CPU)
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(began + LIMIT_S) + 1, most))
            outcome, note = _judge(kind, (seed, number), seeds[which].slices, ready[which])
            said = os.pread(printed.fileno(), 2**20, 0)
            os.ftruncate(printed.fileno(), 0)
            if any(secret.encode() in said for secret in SECRETS):
                outcome, note = "leak", f"printed {said[:200]!r}"
            peak = _peak_bytes()
            if peak > LIMIT_BYTES:
                outcome, note = "memory", f"{peak} bytes, {outcome}"
            if _spent() - began > LIMIT_S:
                outcome, note = "hang", f"{_spent() - began:.0f} s of processor time, {outcome}"
            parent.send((outcome, note, _spent() - began, peak))
    parent.send("done")


def _peak_bytes() -> int:
    """Largest resident set of this process itself; getrusage begins with that of the one it was started from."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def _spent() -> float:
    """Processor time of this process and of those that it has waited for, in s."""
    own, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def _judge(kind: str, seed: tuple[int, int], slices: bool, ready: tuple) -> tuple[str, str]:
    from mutants import mutant

    path, files, good = ready
    chance = np.random.default_rng(seed)
    target = files[int(chance.integers(len(files)))]
    content = target.read_bytes()
    made = mutant(kind, chance, content)
    target.write_bytes(made)
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            outcome, note, volume = _outcome(path)
        if volume is not None and outcome == "volume":
            aside = volume.shape != getattr(good, "shape", ()) and _set_aside(note, made)
            fault = "" if aside else _unexplained(volume, good, slices, made)
            outcome, note = ("wrong volume", f"{fault}; {note}") if fault else (outcome, note)
        if heard and outcome in ("volume", "refused"):
            return "warning", "; ".join(str(w.message)[:200] for w in heard[:3])
        return outcome, note
    finally:
        target.write_bytes(content)


def _outcome(path: Path) -> tuple[str, str, object]:
    import medidiff.io as mio
    from medidiff.errors import MedidiffError

    try:
        listing = str(mio.inspect(path))
    except MedidiffError as refusal:
        listing = str(refusal)
    except BaseException as error:
        return "other exception", f"inspect: {type(error).__name__}: {error}"[:300], None
    try:
        reading = mio.read_scan(path)
    except MedidiffError as refusal:
        message = str(refusal)
        if any(secret in message + listing for secret in SECRETS):
            return "leak", message, None
        if not _known(refusal.code):
            return "bad code", message, None
        return "refused", refusal.code, None
    except BaseException as error:
        return "other exception", f"{type(error).__name__}: {error}"[:300], None
    if any(secret in listing for secret in SECRETS):
        return "leak", listing, None
    return "volume", "; ".join(f"{entry.file}: {entry.reason}" for entry in reading.skipped), reading.volume


def _known(code: str) -> bool:
    """Whether a code stands in the catalogue of errors."""
    from medidiff.catalogue import CATALOGUE

    return re.fullmatch(r"E-[A-Z0-9-]+", code) is not None and code in CATALOGUE


def _unexplained(volume: object, good: object, slices: bool, made: bytes) -> str:
    """What cannot be explained about a volume that was read from a mutant; empty when all can."""
    from medidiff.volume import Volume

    if not isinstance(volume, Volume):
        return "no volume"
    if not np.isfinite(volume.data).all() or not np.isfinite(volume.geometry.affine).all():
        return "values that are not finite"
    if slices and isinstance(good, Volume):
        if volume.shape != good.shape:
            return f"shape {volume.shape}, not {good.shape}"
        other = [k for k in range(good.shape[2]) if not np.array_equal(volume.data[..., k], good.data[..., k])]
        if len(other) > 1:
            return f"slices {other} differ and one file was damaged"
        if volume.geometry.distance_mm(good.geometry) > 0.05 * good.geometry.spacing_mm[2]:
            return f"a grid {volume.geometry.distance_mm(good.geometry):.3g} mm away"
    stated = _stated_shape(made)
    return f"shape {volume.shape}, and the header says {stated}" if stated and volume.shape != stated else ""


def _set_aside(note: str, made: bytes) -> bool:
    """Whether the damaged file was rightly skipped, on record: nothing tells a DICOM file, or it lies across."""
    traces = b"DICM" in made[:1024] or (b"\0" in made[:1024] and b"1.2.840.10008." in made[:1024])
    return "another orientation" in note or ("not a DICOM file" in note and not traces)


def _stated_shape(made: bytes) -> tuple[int, ...]:
    """Sizes that a plain NIfTI-1 header states; empty for anything else."""
    for order in ("<", ">"):
        if len(made) > 348 and made[344:347] == b"n+1" and np.frombuffer(made[:4], f"{order}i4")[0] == 348:
            sizes = np.frombuffer(made[40:56], f"{order}i2")
            return (
                tuple(int(n) for n in sizes[1:4])
                if 3 <= sizes[0] <= 7 and math.prod(sizes[4 : sizes[0] + 1]) == 1
                else ()
            )
    return ()


def _lines(options: argparse.Namespace) -> Iterator[str]:
    for kind in options.kinds:
        began = time.monotonic()
        first, count = (options.only, 1) if options.only >= 0 else (0, options.count)
        tally = run(kind, seed=options.seed, count=count, first=first)
        yield f"{kind}: {count} mutants of seed {options.seed} in {time.monotonic() - began:.0f} s"
        yield tally.report()
        options.broken |= bool(tally.faults)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when no mutant broke the rule."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kinds", nargs="*", choices=("dicom", "nifti"), default=["dicom", "nifti"], help="formats")
    parser.add_argument("--count", type=int, default=10_000, help="mutants of each format")
    parser.add_argument("--seed", type=int, default=0, help="of all randomness")
    parser.add_argument("--only", type=int, default=-1, help="read this mutant alone")
    options = parser.parse_args(arguments)
    options.broken = False
    for line in _lines(options):
        print(line, flush=True)
    return int(options.broken)


if __name__ == "__main__":
    raise SystemExit(main())
