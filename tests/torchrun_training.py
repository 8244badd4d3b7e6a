"""``medidiff train`` under ``torchrun``, with a process that is killed; started by ``test_training_scale.py``.

The first attempt makes unbroken runs in the same two processes, and is killed in the middle of the one that the command
line asks for; the second goes on with it, and once more from the same checkpoint without the optimiser's moments.

Usage: torchrun --nproc-per-node 2 --max-restarts 1 torchrun_training.py train RECIPE -o FOLDER/killed ...
with FOLDER/coarse.toml and FOLDER/heads.safetensors for a coarse prior.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import distributed

import medidiff.cli as cli
import medidiff.cli.train as command
from medidiff.training import cache as caching
from medidiff.training import loop
from medidiff.training.data import load_scan
from medidiff.training.muon import Muon
from medidiff.training.processes import start_processes
from medidiff.training.run import Started, Step, train

RANK, ATTEMPT = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
KILLED_AT = 8
FOLDER = Path(sys.argv[2]).parent


def told(events, folder):
    """A run's events; notes where it began, and ends the second process in the middle of the first attempt."""
    for event in events:
        if isinstance(event, Started):
            (folder / f"began-{ATTEMPT}-{RANK}.json").write_text(json.dumps(event.images), encoding="utf-8")
        if isinstance(event, Step) and event.images == KILLED_AT and ATTEMPT == 0 and RANK == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield event


def load(found, recipe):
    """Notes each scan that this process prepares for the cache."""
    with (FOLDER / f"prepared-{ATTEMPT}-{RANK}.txt").open("a", encoding="utf-8") as file:
        file.write(f"{found.path.name}\n")
    return load_scan(found, recipe)


def whole(recipe: Path, out: Path, data: Path | None = None) -> None:
    for _ in train(recipe, out, data=data):
        pass


def before(folder: Path, recipe: Path) -> None:
    """What the attempts do before the command."""
    if ATTEMPT == 0:
        whole(recipe, folder / "unbroken")
        whole(folder / "coarse.toml", folder / "coarse", folder / "heads.safetensors")
        return
    if RANK == 0:
        (folder / "forgetful").mkdir()
        shutil.copy(folder / "killed" / "checkpoint.pt", folder / "forgetful")
    distributed.barrier()


def main(words: list[str]) -> int:
    torch.set_num_threads(1)
    loop._SECONDS_BETWEEN_CHECKPOINTS = 0.0
    recipe = Path(words[1])
    caching.load_scan = load
    command.train = lambda *args, **options: told(train(*args, **options), FOLDER)
    with start_processes() as process:
        command.start_processes = lambda device: nullcontext(process)
        before(FOLDER, recipe)
        code = cli.main(words)
        if code == 0:
            Muon.load_state_dict = lambda self, state: None  # the negative
            whole(recipe, FOLDER / "forgetful")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
