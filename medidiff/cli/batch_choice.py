"""How many workers of how many threads: what the user says, one for each GPU, or what a short measurement finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medidiff.batch.engines import LocalEngine, Resources, Running, processors
from medidiff.batch.journal import Event, Tail
from medidiff.batch.status import Pace
from medidiff.cli.batch_verbs import Batching

__all__ = ["Choice", "chosen"]

_WORTH_MEASURING = 8  # cases for each processor; the measurement takes about two of them
_BYTES_A_WORKER = 4 * 2**30  # a tile of 320 voxels a side takes about 3 GB


@dataclass(frozen=True, slots=True)
class Choice:
    """How the work is shared out on this machine.

    Args:
        workers: processes; a single one without a number of threads is this process itself.
        threads: of each; as the system has it when None.
        gpus: that the workers take in turn.
        reason: as a sentence.
    """

    workers: int
    threads: int | None
    gpus: int
    reason: str


def chosen(
    verb: Batching,
    cases: int,
    *,
    command: Sequence[str],
    logs: Path,
    watch: Callable[[Running], None],
    tail: Tail,
    pace: Pace,
) -> Choice:
    """How to share the cases out; a measurement settles some of them on the way.

    Args:
        verb: what was typed.
        cases: how many there are.
        command: of a worker.
        logs: folder for what workers say.
        watch: waits a moment for workers, and shows how far they are.
        tail: of the journal.
        pace: of the run.

    Raises:
        OutputError: no worker can be started.
    """
    if verb.workers is not None or verb.threads is not None or verb.engine != "local":
        workers = verb.workers or (1 if verb.threads else processors())
        threads = verb.threads or (None if workers == 1 and verb.engine == "local" else 1)
        return Choice(workers, threads, _gpus(verb), f"{workers} worker{'s' * (workers != 1)}, as asked for")
    gpus = _gpus(verb)
    if gpus:
        return Choice(min(gpus, cases), None if gpus == 1 else 1, gpus, f"one worker for each of {gpus} GPUs")
    most = max(1, min(processors(), cases, _memory() // _BYTES_A_WORKER))
    if most == 1:
        return Choice(1, None, 0, "one worker: there is one case, one processor, or memory for one")
    if cases < _WORTH_MEASURING * processors():
        return Choice(most, 1, 0, f"{most} workers of one thread: too few cases for a measurement")
    together = _seconds(
        LocalEngine(Resources(processors(), 0, logs)).start([*command, "--most", "1"], 1), watch, tail, pace
    )
    apart = _seconds(LocalEngine(Resources(1, 0, logs)).start([*command, "--most", "1"], most), watch, tail, pace)
    if not together or not apart:
        return Choice(most, 1, 0, f"{most} workers of one thread: nothing was computed that could be measured")
    one, several = max(together), max(apart) / len(apart)
    told = f"{one:.3g} s a case in one process of {processors()} threads, {several:.3g} s in {most} of one thread"
    if one < several:
        return Choice(1, processors(), 0, f"one worker: {told}")
    return Choice(most, 1, 0, f"{most} workers: {told}")


def _seconds(running: Running, watch: Callable[[Running], None], tail: Tail, pace: Pace) -> list[float]:
    """What the cases took that some workers computed."""
    before = len(pace.seconds)
    try:
        while running.alive():
            watch(running)
    finally:
        running.stop()
    events: list[Event] = list(tail.new())
    pace.take(events)
    return pace.seconds[before:]


def _gpus(verb: Batching) -> int:
    if verb.device == "cpu":
        return 0
    import torch

    return torch.cuda.device_count()


def _memory() -> int:
    """Bytes of memory that are free; as if there were plenty where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return 2**62
