"""The templates in `pipelines/`: a Kubernetes job and a Snakefile, run as far as they can be without a cluster."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from medidiff.cli.options import parse
from medidiff.cli.verbs import VERBS

PIPELINES = Path(__file__).parents[1] / "pipelines"
RECORDER = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["RECORD"], "a") as record:
    record.write(json.dumps({{"words": sys.argv[1:], "threads": os.environ.get("OMP_NUM_THREADS")}}) + "\\n")
if "--json" in sys.argv:
    print("{{}}")
sys.exit(int(os.environ.get("CODE", "0")))
"""


@pytest.fixture
def called(tmp_path, monkeypatch):
    """Puts a `medidiff` that only notes its calls on the path; gives the calls."""
    tool = tmp_path / "bin" / "medidiff"
    tool.parent.mkdir()
    tool.write_text(RECORDER)
    tool.chmod(0o755)
    record = tmp_path / "calls.jsonl"
    record.touch()
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("RECORD", str(record))
    return lambda: [json.loads(line) for line in record.read_text().splitlines()]


def asked(words: list[str]) -> object:
    """What the command line makes of a call; a call that it would not take is refused here."""
    return parse(words, VERBS, version="", epilog="")


def job() -> dict:
    return yaml.safe_load((PIPELINES / "batch-job.yaml").read_text())


def container() -> dict:
    (only,) = job()["spec"]["template"]["spec"]["containers"]
    return only


def run_pod(index: int) -> None:
    about = {entry["name"]: entry["value"] for entry in container()["env"] if entry["name"] != "HOME"}
    command = container()["command"]
    subprocess.run(command, env=os.environ | about | {"JOB_COMPLETION_INDEX": str(index)}, check=True)


def test_each_pod_takes_its_part(called):
    for index in (0, 15):
        run_pod(index)
    calls = called()
    verbs = [asked(call["words"]) for call in calls]
    assert [(verb.num_parts, verb.part_id) for verb in verbs] == [(16, 0), (16, 15)]
    assert {str(verb.out) for verb in verbs} == {"/scans/out"}
    assert {call["threads"] for call in calls} == {container()["resources"]["limits"]["cpu"]}


def test_the_job_is_one_that_kubernetes_knows():
    spec = job()["spec"]
    assert (job()["apiVersion"], job()["kind"], spec["completionMode"]) == ("batch/v1", "Job", "Indexed")
    parts = next(entry["value"] for entry in container()["env"] if entry["name"] == "PARTS")
    assert spec["completions"] == spec["parallelism"] == int(parts)
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # backoffLimitPerIndex wants it
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container()["volumeMounts"]} == volumes
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container()["name"]
    assert all(isinstance(entry["value"], str) for entry in container()["env"])  # numbers are refused


def run_job(**array: int) -> int:
    about = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in array.items()}
    command = ["bash", str(PIPELINES / "batch.sbatch"), "denoise", "in", "out"]
    return subprocess.run(command, env=os.environ | about, check=False, capture_output=True).returncode


@pytest.mark.parametrize(("first", "last"), [(0, 2), (1, 3)])
def test_an_array_of_slurm_jobs_takes_every_part_wherever_it_begins(first, last, called):
    for number in range(first, last + 1):
        assert run_job(MIN=first, MAX=last, COUNT=3, ID=number) == 0
    verbs = [asked(call["words"]) for call in called()]
    assert [(verb.num_parts, verb.part_id) for verb in verbs] == [(3, 0), (3, 1), (3, 2)]
    assert run_job() == 0
    assert (asked(called()[-1]["words"]).num_parts, asked(called()[-1]["words"]).part_id) == (1, 0)


def test_an_array_of_slurm_jobs_with_gaps_is_refused(called):
    assert run_job(MIN=3, MAX=5, COUNT=2, ID=5) == 2
    assert called() == []


def snakemake() -> str:
    found = os.environ.get("MEDIDIFF_SNAKEMAKE") or shutil.which("snakemake")
    if not found:
        pytest.skip("no snakemake: 30 packages, and older ones of two that medidiff needs; set MEDIDIFF_SNAKEMAKE")
    return found


def test_snakemake_runs_every_part_once(called, tmp_path):
    config = ["--config", f"input={tmp_path}/in", f"output={tmp_path}/out", "parts=3", "options=--seed 7"]
    command = [snakemake(), "-s", str(PIPELINES / "Snakefile"), "-d", str(tmp_path), "--cores", "2", *config]
    subprocess.run(command, check=True, capture_output=True)
    verbs = [asked(call["words"]) for call in called()]
    assert sorted(verb.part_id for verb in verbs[:-1]) == [0, 1, 2]
    assert {(verb.num_parts, verb.seed) for verb in verbs[:-1]} == {(3, 7)}
    assert json.loads((tmp_path / "out" / "batch.json").read_text()) == {}
    subprocess.run(command, check=True, capture_output=True)
    assert len(called()) == 4
    for other, count in (("parts=2", 7), ("options=--seed 8", 11)):  # nothing is left to parts that were others
        subprocess.run([*command, other], check=True, capture_output=True)
        assert len(called()) == count


@pytest.mark.parametrize(("code", "fine"), [("7", True), ("8", True), ("5", False)])
def test_a_part_with_refused_scans_is_done_for_snakemake_and_a_broken_one_is_not(
    called, tmp_path, monkeypatch, code, fine
):
    monkeypatch.setenv("CODE", code)
    (words,) = [line for line in (PIPELINES / "Snakefile").read_text().splitlines() if "-part_id" in line]
    words = words.split('"')[1].replace("{PARTS}", "3").replace("{wildcards.part}", "1")
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", f"medidiff batch denoise in out {words}"], check=False)
    assert (done.returncode == 0) == fine
    assert asked(called()[0]["words"]).part_id == 1


def test_the_commands_of_the_snakefile_are_taken_by_the_command_line():
    text = (PIPELINES / "Snakefile").read_text()
    blocks = re.findall(r'shell:\n((?: +".*"\n)+)', text)
    shells = ["".join(line.strip()[1:-1] for line in block.splitlines()) for block in blocks]
    known = {
        "TASK": "denoise",
        "INPUT:q": "in",
        "OUTPUT:q": "out",
        "OPTIONS": "--seed 1",
        "PARTS": "3",
        "output:q": "x",
    }
    known |= {"wildcards.part": "2", "threads": "1"}
    for name, value in known.items():
        shells = [shell.replace("{" + name + "}", value) for shell in shells]
    assert len(shells) == 2
    shells = [shell.replace(" || [[ $? == [78] ]]", "") for shell in shells]
    part, status = ([word for word in shell.split() if "=" not in word][1:] for shell in shells)
    assert (asked(part).num_parts, asked(part).part_id, asked(part).seed) == (3, 2, 1)
    assert asked(status[: status.index(">")]).json
