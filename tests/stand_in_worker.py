"""A worker without a batch: python stand_in_worker.py FOLDER CASES SECONDS [SECONDS_AGAIN].

Takes cases by leases that are folders, renewed by nobody, good for five seconds and given back on SIGTERM; ends when
every case has its result. A job that Slurm started again takes SECONDS_AGAIN for a case. What it did stands in
FOLDER/log, a line each.
"""

import os
import signal
import sys
import time
from pathlib import Path

folder, cases = Path(sys.argv[1]), int(sys.argv[2])
again = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
seconds = float(sys.argv[-1] if again else sys.argv[3])
held = []


def say(*words):
    with (folder / "log").open("a") as log:
        log.write(" ".join(map(str, words)) + "\n")


def give_back(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a process of several threads sends it more than once as it dies
    for lease in held:
        lease.rmdir()
    say("returned", *(lease.name for lease in held))
    sys.exit(143)


def take(lease):
    try:
        lease.mkdir()
    except FileExistsError:
        try:
            if time.time() - lease.stat().st_mtime < max(5, 2 * seconds):
                return False
            os.utime(lease)
        except FileNotFoundError:
            return False
    held.append(lease)
    return True


signal.signal(signal.SIGTERM, give_back)
say("began", os.getpid(), os.environ.get("SLURM_RESTART_COUNT", "0"), os.environ.get("OMP_NUM_THREADS"))
while left := [n for n in range(cases) if not (folder / f"result-{n}").exists()]:
    for number in left:
        lease = folder / f"lease-{number}"
        if (folder / f"result-{number}").exists() or not take(lease):
            continue
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.05)
        partial = folder / f"partial-{number}-{os.getpid()}"
        partial.write_text(f"case {number}\n")
        partial.rename(folder / f"result-{number}")
        held.remove(lease)
        lease.rmdir()
    time.sleep(0.1)
say("ended", os.getpid())
