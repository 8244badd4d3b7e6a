"""``medidiff batch work``: one worker of a batch."""

from __future__ import annotations

import secrets
from itertools import chain

from medidiff.batch.job import Batch
from medidiff.batch.worker import Worker
from medidiff.cli.batch_archive import task_of
from medidiff.cli.batch_verbs import BatchWork
from medidiff.cli.session import Session
from medidiff.errors import SettingsError

__all__ = ["run"]


def run(verb: BatchWork, session: Session) -> None:
    """Take cases until none is left that nobody works on.

    Raises:
        SettingsError: an option out of range, or the batch's archive is not known here.
        InputError: the folder holds no batch, or a damaged one.
        OutputError: results cannot be written.
        PriorError: the prior is missing, or not the one that the batch began with.
    """
    if not 0 <= verb.part_id < verb.num_parts:
        raise SettingsError("E-SETTING", f"{verb.part_id}", wanted="a part below -num_parts", attribute="-part_id")
    batch = Batch(verb.batch)
    numbers = batch.part(verb.num_parts, verb.part_id)
    start = secrets.randbelow(max(len(numbers), 1))  # so that workers meet seldom; the order has no effect
    since = batch.now_ns() if verb.since is None else verb.since
    with task_of(batch, device=verb.device, config=verb.config) as task:
        worker = Worker(batch, task, since_ns=since, retry_refused=verb.retry_failed)
        worker.work(chain(numbers[start:], numbers[:start]), most=verb.most)
