"""Train in two processes as ``torchrun`` starts them; run as a script by ``test_training.py``.

The processes are forked after the imports, which take longer than all the rest, and find each other on the loopback.

Usage: python two_processes.py RECIPE FOLDER
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path

import torch
import torch._dynamo

from medidiff.training import fit
from medidiff.training.processes import start_processes
from medidiff.training.run import Step, train


def process(rank: int, port: int, recipe: Path, out: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    if out.name == "unsummed":  # a broken instance: each process follows its own share of the batch
        fit._sum_over_processes = lambda parameters, loss, world: loss
    with start_processes() as here:
        events = list(train(recipe, out))
        names = [type(event).__name__ for event in events if not isinstance(event, Step)]
        losses = [event.loss for event in events if isinstance(event, Step)]
        report = {"first": here.is_first, "events": names, "losses": losses}
    out.mkdir(exist_ok=True)
    (out / f"process-{rank}.json").write_text(json.dumps(report), encoding="utf-8")


def in_two(recipe: Path, out: Path) -> bool:
    """Whether both processes ended well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=process, args=(rank, port, recipe, out)) for rank in (0, 1)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    return all(each.exitcode == 0 for each in both)


if __name__ == "__main__":
    sys.exit(0 if all(in_two(Path(sys.argv[1]), Path(sys.argv[2]) / kind) for kind in ("whole", "unsummed")) else 1)
