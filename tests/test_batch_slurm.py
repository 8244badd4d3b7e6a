"""Workers in a real Slurm on loopback: arrays, kills, the end of a job's time, preemption, refusals."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from servers import serving
from torch.distributed.run import get_args_parser

import medidiff.cli as cli
from medidiff.batch import slurm
from medidiff.batch.dask import DaskEngine
from medidiff.batch.engines import Resources
from medidiff.batch.slurm import Allocation, SlurmEngine, SlurmRunning
from medidiff.cli.options import parse
from medidiff.cli.verbs import VERBS
from medidiff.errors import SettingsError
from medidiff.io import write
from tests.cli_cases import ball

WORKER = Path(__file__).with_name("stand_in_worker.py")
PATIENCE = 300.0  # seconds; on a busy machine everything takes its time
RECORDER = """#!/bin/bash
[ "${{SLURM_RESTART_COUNT:-0}}" = 0 ] || {{ echo "again $SLURM_ARRAY_TASK_ID" >>{log}; exit 0; }}
trap 'echo returned >>{log}; exit 143' TERM
echo "began $OMP_NUM_THREADS ${{*// /_}}" >>{log}
while :; do sleep 0.1; done
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with serving("slurm", tmp_path_factory.mktemp("slurm")) as about, pytest.MonkeyPatch.context() as patch:
        for name, value in about.items():
            patch.setenv(name, value)
        patch.setattr(slurm, "_POLL_SECONDS", 0.5)
        yield


@pytest.fixture(scope="module")
def long_job(cluster, tmp_path_factory):
    """A worker whose work is longer than its job may last; it runs beside the other tests."""
    return started(tmp_path_factory.mktemp("long"), cases=1, seconds=1e9, minutes=2)


def started(
    folder: Path, *, cases: int, seconds: float, again: float | None = None, workers: int = 1, **asked
) -> tuple[Path, SlurmRunning]:
    engine = SlurmEngine(Resources(threads=1, logs=folder / "logs"), Allocation(**asked))
    times = [str(each) for each in (seconds, again) if each is not None]
    running = engine.start([sys.executable, str(WORKER), str(folder), str(cases), *times], workers)
    running.poll_seconds = 0.5
    return folder, running


def log_of(folder: Path) -> str:
    return (folder / "log").read_text() if (folder / "log").exists() else ""


def until(true, what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.2)


def told(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def test_an_array_of_workers_does_every_case(long_job, tmp_path):
    folder, running = started(tmp_path, cases=6, seconds=0.3, workers=2)
    assert len(running.jobs) == 2
    assert running.alive() == 2
    running.wait(PATIENCE)
    assert running.alive() == 0
    assert running.ended() == (0, 0)
    assert len(list(folder.glob("result-*"))) == 6
    assert {line.split()[3] for line in log_of(folder).splitlines() if line.startswith("began")} == {"1"}
    running.stop()


def test_what_a_killed_job_held_is_done_by_the_other(cluster, tmp_path):
    folder, running = started(tmp_path, cases=4, seconds=2, workers=2)
    until(lambda: log_of(folder).count("began") == 2, "two workers")
    told("scancel", "--signal=KILL", running.jobs[0])
    running.wait(PATIENCE)
    assert len(list(folder.glob("result-*"))) == 4
    assert log_of(folder).count("ended") == 1
    assert sum(code != 0 for code in running.ended()) == 1


def test_a_preempted_job_queues_again_and_goes_on(cluster, tmp_path):
    folder, running = started(tmp_path, cases=2, seconds=1e9, again=0.2)
    until(lambda: "began" in log_of(folder), "a worker")
    told("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    until(lambda: "returned lease-" in log_of(folder), "the case is given back")
    running.wait(PATIENCE)
    assert len(list(folder.glob("result-*"))) == 2
    assert "began" in log_of(folder).partition("returned")[2]


def test_stopping_cancels_and_gives_the_cases_back(cluster, tmp_path):
    folder, running = started(tmp_path, cases=1, seconds=1e9)
    until(lambda: list(folder.glob("lease-*")), "a lease")
    running.stop()
    assert running.alive() == 0
    assert "returned lease-0" in log_of(folder)
    assert not list(folder.glob("lease-*"))
    running.stop()


def test_a_job_whose_time_is_up_queues_again(long_job):
    folder, running = long_job
    until(lambda: log_of(folder).count("began") > 1, "a second start")
    assert "returned lease-0" in log_of(folder)
    assert int([line for line in log_of(folder).splitlines() if line.startswith("began")][1].split()[2]) >= 1
    assert running.alive() == 1
    running.stop()


def test_the_template_of_an_array_does_its_parts_and_queues_again(cluster, tmp_path, monkeypatch):
    tool = tmp_path / "bin" / "medidiff"
    tool.parent.mkdir()
    tool.write_text(RECORDER.format(log=tmp_path / "log"))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    template = Path(__file__).parents[1] / "pipelines" / "batch.sbatch"
    options = ("--array=0-1", "--mem=0", "--job-name=template", f"--output={tmp_path}/job-%a")
    told("sbatch", *options, str(template), "denoise", "a folder", "out", "--seed", "7")
    until(lambda: log_of(tmp_path).count("began") == 2, "two jobs")
    told("scancel", "--batch", "--signal=USR1", "--name=template", "--state=RUNNING")
    until(lambda: log_of(tmp_path).count("again") == 2, "two second starts")
    words = "batch denoise a_folder out --seed 7 --workers 1 -num_parts 2 -part_id"
    lines = sorted(log_of(tmp_path).splitlines())
    assert [line for line in lines if line.startswith("began")] == [f"began 1 {words} {part}" for part in (0, 1)]
    assert lines.count("returned") == 2


STAND_IN = """#!/bin/bash
[ "${{SLURM_RESTART_COUNT:-0}}" = 0 ] && scontrol requeue "$SLURM_JOB_ID" && sleep 600
echo "$SLURM_PROCID $SLURM_CPUS_PER_TASK $OMP_NUM_THREADS $*" >>{log}
"""


def test_the_template_for_training_starts_torchrun_and_queues_again(cluster, tmp_path, monkeypatch):
    """A stand-in for torchrun has its job queued again, as a machine that is lost does, and notes the second start."""
    tool = tmp_path / "bin" / "torchrun"
    tool.parent.mkdir()
    tool.write_text(STAND_IN.format(log=tmp_path / "log"))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PROCESSES", "2")
    template = Path(__file__).parents[1] / "pipelines" / "slurm" / "train.sbatch"
    options = ("--cpus-per-task=4", "--mem=0", f"--output={tmp_path}/job")
    asked = ("tiny.toml", "a folder", "--data", "scans", "--cache", "cache")
    job = subprocess.run(["sbatch", "--parsable", *options, str(template), *asked], check=True, capture_output=True)
    number = job.stdout.decode().strip()
    until(lambda: _is_queued_again(number), "the job queues again")
    told("scontrol", "update", f"JobId={number}", "StartTime=now")  # Slurm has a job wait two minutes after a requeue
    until(lambda: log_of(tmp_path), "a second start")
    (line,) = log_of(tmp_path).splitlines()
    rank, processors, threads, *words = line.split()
    assert (rank, processors, threads) == ("0", "4", "2")
    typed = get_args_parser().parse_args(" ".join(words).replace("a folder", "a_folder").split())
    assert (typed.nnodes, typed.nproc_per_node, typed.max_restarts) == ("1", "2", 3)
    assert (typed.rdzv_backend, typed.rdzv_id, typed.module) == ("c10d", number, True)
    host, _, port = typed.rdzv_endpoint.partition(":")
    assert (host, 20_000 <= int(port) < 40_000) == (socket.gethostname().split(".")[0], True)
    verb = parse(typed.training_script_args, VERBS, version="", epilog="")
    assert (typed.training_script, verb.recipe, verb.out, verb.data, verb.cache) == (
        "medidiff",
        Path("tiny.toml"),
        Path("a_folder"),
        Path("scans"),
        Path("cache"),
    )


def _is_queued_again(job: str) -> bool:
    said = subprocess.run(["squeue", "-h", "-j", job, "-o", "%T"], capture_output=True, text=True, check=False).stdout
    return "PENDING" in said


def test_dask_runs_its_tasks_in_jobs_of_slurm(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("DASK_JOBQUEUE__SLURM__INTERFACE", "lo")
    asked = Allocation(partition="main", minutes=5, memory_gb=1)
    engine = DaskEngine(Resources(logs=tmp_path / "logs"), asked, jobqueue="slurm")
    running = engine.start([sys.executable, str(WORKER), str(tmp_path), "2", "0.2"], 1)
    running.wait(PATIENCE)
    assert running.ended() == (0,)
    assert len(list(tmp_path.glob("result-*"))) == 2
    running.stop()
    assert "Registered to" in next((tmp_path / "logs").glob("*.err")).read_text()


def test_a_batch_in_slurm_has_the_results_of_one_here(cluster, tmp_path, card, capsys):
    for number in range(2):
        write(ball((10, 9, 8), seed=number), tmp_path / "in" / f"scan-{number}.nii.gz")
    where = {
        "here": ("--workers", "1"),
        "there": ("--workers", "1", "--engine", "slurm", "--threads", "1", "--time", "30"),
    }
    for out, words in where.items():
        asked = ["batch", "denoise", str(tmp_path / "in"), str(tmp_path / out), "--prior", card, "--device", "cpu"]
        assert cli.main([*asked, *words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["done"] == 2
    results = [{path.name: path.read_bytes() for path in (tmp_path / out).glob("scan-*")} for out in where]
    assert len(results[0]) == 4
    assert results[0] == results[1]
    assert list((tmp_path / "there" / ".medidiff" / "logs").glob("*_submission.sh"))


def test_what_slurm_refuses_is_told_in_its_words(cluster, tmp_path):
    with pytest.raises(SettingsError, match="E-ENGINE") as refusal:
        started(tmp_path, cases=1, seconds=1, partition="nowhere")
    assert "partition" in str(refusal.value)


# --- without a cluster ------------------------------------------------------------------------------------------------


def engine(tmp_path, **asked) -> SlurmEngine:
    return SlurmEngine(Resources(logs=tmp_path), Allocation(**asked))


def test_without_slurm_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match=r"E-ENGINE.*srun"):
        engine(tmp_path).start(["true"], 1)


def test_without_submitit_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(SettingsError, match=r"E-ENGINE.*medidiff\[slurm\]"):
        engine(tmp_path).start(["true"], 1)


def test_without_a_folder_it_is_refused():
    with pytest.raises(SettingsError, match=r"E-ENGINE.*folder"):
        SlurmEngine(Resources(), Allocation()).start(["true"], 1)


@pytest.mark.parametrize("asked", [{"minutes": 1}, {"memory_gb": 0.0}, {"gpus": -1}])
def test_an_allocation_is_checked(asked):
    with pytest.raises(SettingsError, match="E-SETTING"):
        Allocation(**asked)


def test_what_is_asked_for_reaches_sbatch(tmp_path):
    asked = engine(tmp_path, partition="gpu", account="lab", minutes=30, memory_gb=8.0, gpus=1)._parameters(3)
    assert asked["slurm_partition"] == "gpu"
    assert asked["slurm_account"] == "lab"
    assert (asked["timeout_min"], asked["mem_gb"], asked["gpus_per_node"], asked["cpus_per_task"]) == (30, 8.0, 1, 1)
    assert asked["slurm_array_parallelism"] == 3
    assert "gpus_per_node" not in engine(tmp_path)._parameters(1)


STATES = {
    "7_0 RUNNING 0\n7_1 PENDING 0\n7_2 REQUEUE_HOLD 0": (3, ()),
    "7_0 COMPLETED 0\n7_1 FAILED 768\n7_2 OUT_OF_MEMORY 9": (0, (0, 3, -9)),
    "7_0 FAILED 35072\n7_1 NODE_FAIL 0\n7_2 CANCELLED 0": (
        0,
        (-9, -9, 0),
    ),  # a job that somebody cancels is not replaced
    "7_0 COMPLETED 0:0\n7_1 FAILED 3:0\n7_2 CANCELLED 0:15": (0, (0, 3, -15)),
    "7_1 COMPLETING 0": (1, ()),  # the controller forgets what ended minutes ago
    "": (0, ()),
}


@pytest.mark.parametrize(("said", "known"), STATES.items())
def test_what_squeue_says_is_understood(said, known, monkeypatch):
    monkeypatch.setattr(slurm, "_asked", lambda *_: said)
    running = SlurmRunning(["7_0", "7_1", "7_2"])
    assert (running.alive(), running.ended()) == known


def test_a_controller_that_does_not_answer_ends_nothing(monkeypatch):
    answers = [None, "7 RUNNING 0", None, "7 FAILED 256"]
    monkeypatch.setattr(slurm, "_asked", lambda *_: answers.pop(0))
    running = SlurmRunning(["7"], poll_seconds=0.0)
    assert [running.alive() for _ in range(4)] == [1, 1, 1, 0]


def test_the_controller_is_not_asked_all_the_time(monkeypatch):
    asked = []
    monkeypatch.setattr(slurm, "_asked", lambda *words: asked.append(words) or "7 RUNNING 0")
    running = SlurmRunning(["7"], poll_seconds=60.0)
    assert [running.alive() for _ in range(9)] == [1] * 9
    assert len(asked) == 1
