"""Training at scale: parts of a batch, memory for time, several processes, one of which is killed."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import distributed
from training_cases import changed, to_toml, write_case
from whole_cases import COARSE_TINY, ball, plain_atlas

from medidiff.diffusion.backbone import Backbone, BackboneShape
from medidiff.diffusion.denoiser import Preconditioned, restoration_loss
from medidiff.errors import SettingsError
from medidiff.prior import Prior
from medidiff.training import fit as fitting
from medidiff.training import loop
from medidiff.training.coarse_recipe import read_any
from medidiff.training.fit import FitState, fit
from medidiff.training.heads import write_heads
from medidiff.training.patches import Patches
from medidiff.training.processes import name_of_start
from medidiff.training.recipe import FitRecipe, read_recipe
from medidiff.training.run import Step, load_scans, train

ROOT = Path(__file__).parents[1]
PINNED = "22b6a7dbd03bf247081d35509eff0df0afa886df5215bffc1cd2c99cf3ca825d"  # made before there were these entries
PINNED_COARSE = "0da5b5800dd8145b5643cfe0f10d5a3a5a78f3086667e0edf9f519ee49980a05"
PINNED_PLAIN = "cecf13b9de9fa05032618be412b25e29c2ce3e685b12e6f27f1c50b52f98365b"


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """The tiny recipe with four patches a step."""
    return write_case(tmp_path_factory.mktemp("case"), fit__batch=4)


@pytest.fixture(scope="module")
def recipe(case):
    return read_recipe(case)


@pytest.fixture(scope="module")
def patches(case, recipe):
    return Patches(*load_scans(recipe, case.parent, None, part="train"), recipe)


# What a run is, and how it is computed


def identity_of(folder, values):
    path = folder / "recipe.toml"
    path.write_text(to_toml(values), encoding="utf-8")
    return loop._identity(read_any(path))


def test_checkpoints_of_before_are_known_again(tmp_path):
    assert identity_of(tmp_path, changed()) == PINNED
    assert identity_of(tmp_path, COARSE_TINY) == PINNED_COARSE
    plain = json.dumps(read_any(tmp_path / "recipe.toml").to_dict(), sort_keys=True)
    assert hashlib.sha256(plain.encode()).hexdigest() == PINNED_PLAIN  # by which MLflow runs are known


def test_how_a_run_is_computed_is_no_part_of_what_it_is(tmp_path):
    assert identity_of(tmp_path, changed(fit__accumulate=2, fit__activation_checkpointing=True)) == PINNED
    assert identity_of(tmp_path, changed(fit__rate=1e-3)) != PINNED


def test_a_new_entry_that_is_part_of_the_text_would_break_every_run(recipe):
    """The negative: `repr` tells of an entry unless it is left out on purpose."""
    louder = dataclasses.make_dataclass("FitRecipe", [("extra", int, 0)], bases=(FitRecipe,), frozen=True)
    entries = {each.name: getattr(recipe.fit, each.name) for each in dataclasses.fields(recipe.fit)}
    assert loop._identity(dataclasses.replace(recipe, fit=louder(**entries))) != loop._identity(recipe)


def test_what_is_not_usual_is_told(recipe, tmp_path):
    odd = dataclasses.replace(recipe, fit=dataclasses.replace(recipe.fit, accumulate=2, activation_checkpointing=True))
    path = tmp_path / "odd.toml"
    path.write_text(to_toml(odd.to_dict()), encoding="utf-8")
    assert read_recipe(path) == odd
    assert "accumulate" not in recipe.to_dict()["fit"]


def test_more_parts_than_images_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="E-RECIPE"):
        identity_of(tmp_path, changed(fit__accumulate=3))


# Gradient accumulation


def in_parts(recipe, patches, parts):
    """Weights and steps of a run that goes through each batch in so many parts."""
    state = FitState(recipe)
    steps = list(fit(state, patches, dataclasses.replace(recipe.fit, accumulate=parts)))
    return torch.cat([weight.detach().flatten() for weight in state.denoiser.parameters()]), steps


@pytest.fixture(scope="module")
def at_once(recipe, patches):
    return in_parts(recipe, patches, 1)


def gaps(found, wanted):
    """Largest difference of a weight, and largest relative ones of a loss and of the norm of a gradient."""
    pairs = list(zip(found[1], wanted[1], strict=True))
    return (
        float((found[0] - wanted[0]).abs().max()),
        max(abs(one.loss - other.loss) for one, other in pairs),
        max(abs(one.gradient / other.gradient - 1) for one, other in pairs),
    )


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_parts_of_a_batch_make_the_step_of_the_whole(parts, recipe, patches, at_once):
    assert max(gaps(in_parts(recipe, patches, parts), at_once)) < 1e-4


def test_the_parts_are_smaller_than_the_batch(recipe, patches):
    seen = []

    class Counted(Patches):
        def batch(self, images):
            seen.append(len(images))
            return super().batch(images)

    counted = Counted.__new__(Counted)
    vars(counted).update(vars(patches))
    in_parts(recipe, counted, 2)
    assert set(seen) == {2}
    assert sum(seen) == recipe.fit.images


def test_parts_whose_gradients_are_not_summed_make_another_step(recipe, patches, at_once, monkeypatch):
    """The negative: only the last part of each batch counts."""
    backward = fitting._backward

    def forgetful(denoiser, *words):
        denoiser.zero_grad()
        return backward(denoiser, *words)

    monkeypatch.setattr(fitting, "_backward", forgetful)
    assert min(gaps(in_parts(recipe, patches, 2), at_once)[::2]) > 1e-3


def test_parts_that_are_averaged_one_by_one_are_noticed(recipe, patches, at_once, monkeypatch):
    """The negative: each part divided by its own size, which the optimiser does not mind and the norm does."""
    backward = fitting._backward

    def own_mean(denoiser, batch, told, loss):
        return backward(denoiser, batch, dataclasses.replace(told, batch=2, accumulate=1), loss)

    monkeypatch.setattr(fitting, "_backward", own_mean)
    assert gaps(in_parts(recipe, patches, 2), at_once)[2] > 0.5


def test_a_run_may_go_on_in_other_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    path = write_case(tmp_path)
    begun = train(path, tmp_path / "out")
    for event in begun:
        if isinstance(event, Step) and event.images == 8:
            break
    begun.close()
    write_case(tmp_path, fit__accumulate=2, fit__activation_checkpointing=True)
    assert next(train(path, tmp_path / "out")).images == 6
    write_case(tmp_path, fit__rate=1e-3)
    with pytest.raises(SettingsError, match="E-RUN"):
        next(train(path, tmp_path / "out"))


# Activation checkpointing


def gradients(backbone, *, recompute, seed=0):
    backbone.requires_grad_(True).recompute = recompute
    backbone.zero_grad()
    chance = torch.Generator().manual_seed(seed)
    x = torch.randn((2, Preconditioned.channels, 12, 12, 12), generator=chance)
    backbone(x, torch.tensor([0.0, -1.0])).square().mean().backward()
    return [torch.zeros_like(w) if w.grad is None else w.grad.clone() for w in backbone.parameters()]


def test_computing_blocks_again_changes_no_gradient(random_backbone):
    backbone = random_backbone((2, 2, 1))
    for one, other in zip(*(gradients(backbone, recompute=on) for on in (False, True)), strict=True):
        assert torch.equal(one, other)


def test_blocks_that_gradients_do_not_pass_are_noticed(random_backbone, monkeypatch):
    """The negative."""
    backbone = random_backbone((2, 2, 1))
    wanted = gradients(backbone, recompute=False)
    monkeypatch.setattr(Backbone, "_through", lambda self, block, x, told: x + (block(x, told) - x).detach())
    found = gradients(backbone, recompute=True)
    assert not all(torch.equal(one, other) for one, other in zip(wanted, found, strict=True))


def test_both_kinds_of_priors_are_trained_so_when_the_recipe_says(recipe):
    asked = dataclasses.replace(recipe, fit=dataclasses.replace(recipe.fit, activation_checkpointing=True))
    assert FitState(asked).denoiser.backbone.recompute
    assert not FitState(recipe).denoiser.backbone.recompute


def script(name):
    """A script outside of the package, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "validation" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def kept(activations, recompute):
    return activations.kept(*activations.built(BackboneShape((16, 16), (3, 2, 3)), 16, 1, recompute=recompute))


def test_computing_blocks_again_takes_less_memory(monkeypatch):
    activations = script("activations")
    plain = kept(activations, False)
    assert kept(activations, True) < 0.5 * plain
    assert activations.cost(BackboneShape((8, 8), (1, 1, 1)), 8, 1, recompute=True).seconds > 0
    monkeypatch.setattr(Backbone, "_through", lambda self, block, x, told: block(x, told))
    assert kept(activations, True) >= plain  # the negative


# Waiting for data


class Clock:
    """A clock that stands until it is told to go on."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


class Slow:
    """The same batch again and again, after some seconds each."""

    def __init__(self, patches, clock, seconds):
        self.device, self.clock, self.seconds, self.one = patches.device, clock, seconds, patches.batch([0, 1, 2, 3])

    def batches(self, numbers):
        for _ in numbers:
            self.clock.now += self.seconds
            yield self.one


@pytest.fixture
def waits(recipe, patches, monkeypatch):
    """The share of waiting in each step of a run, with so many seconds of waiting, of work, and between two steps."""
    clock = Clock()
    monkeypatch.setattr(fitting, "time", clock)

    def working(*words, seconds, **told):
        clock.now += seconds
        return restoration_loss(*words, **told)

    def run(waiting, work, between=0.0):
        loss, shares = functools.partial(working, seconds=work), []
        for step in fit(FitState(recipe), Slow(patches, clock, waiting), recipe.fit, loss=loss):
            clock.now += between
            shares.append(step.waiting)
        return shares

    return run


def test_a_step_says_how_long_it_waited_for_its_images(waits):
    assert waits(3.0, 1.0) == pytest.approx([0.75] * 4)
    assert waits(0.0, 1.0) == [0.0] * 4


def test_what_is_done_with_a_step_is_not_its_time(waits, monkeypatch):
    assert waits(3.0, 1.0, between=100.0) == pytest.approx([0.75] * 4)
    begin = fitting._Timed.begin
    monkeypatch.setattr(fitting._Timed, "begin", lambda self: None if hasattr(self, "since") else begin(self))
    assert waits(3.0, 1.0, between=100.0) != pytest.approx([0.75] * 4)  # the negative


def test_the_share_is_measured_for_both_kinds_of_priors(case, pack, tmp_path, monkeypatch, capsys):
    loading, coarse = script("loading"), tmp_path / "coarse.toml"
    coarse.write_text(to_toml(COARSE_TINY), encoding="utf-8")
    monkeypatch.setattr(loading, "HEAD", (20, 24, 22))
    told = {}
    for name, words in {
        "noise": [case],
        "scans": [case, "--data", case.parent / "scans"],
        "cache": [case, "--cache", tmp_path / "cache"],
        "heads": [coarse, "--data", pack],
    }.items():
        monkeypatch.setattr(sys, "argv", ["loading.py", *map(str, words), "--warm", "1", "--looks", "2"])
        loading.main()
        told[name] = json.loads(capsys.readouterr().out)
        assert 0 < told[name]["waiting_median"] <= told[name]["waiting_largest"] < 1
        assert told[name]["images_per_second"] > 0
    assert told["heads"]["recipe"] == "tiny-coarse"
    assert [each["cache"] for each in told.values()] == [False, False, True, False]


# Several processes


SHIMS = {
    "scontrol": "echo 127.0.0.1",
    # Here, and with the script of these tests in the place of `-m medidiff`.
    "srun": """words=()
for word in "${@:2}"; do
    case $word in -m) ;; medidiff) words+=("$SCRIPT") ;; *) words+=("$word") ;; esac
done
exec "${words[0]}" --local-addr 127.0.0.1 "${words[@]:1}"
""",
}
TEMPLATE = ROOT / "pipelines" / "slurm" / "train.sbatch"


def is_free(port):
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) != 0


def slurm(folder, **variables):
    """An environment like that of a Slurm job on this machine, with stand-ins for the commands of Slurm."""
    for name, text in SHIMS.items():
        path = folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        path.chmod(0o755)
    job = next(job for job in range(os.getpid() % 20_000, 20_000) if is_free(20_000 + job))
    here = {"SLURM_JOB_NODELIST": "here", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_ID": str(job)}
    paths = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    modules = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    script = Path(__file__).with_name("torchrun_training.py")
    return os.environ | here | {"PATH": paths, "PYTHONPATH": modules, "SCRIPT": str(script)} | variables


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    path = tmp_path_factory.mktemp("torchrun") / "heads.safetensors"
    write_heads(path, {"train": [ball(0), ball(1), ball(2)], "validation": [ball(3)]}, plain_atlas())
    return path


@pytest.fixture(scope="module")
def under_torchrun(pack):
    """What `torchrun_training.py` leaves, started by the template for Slurm, and what torchrun said."""
    folder = pack.parent
    case = write_case(folder)
    (folder / "coarse.toml").write_text(to_toml(COARSE_TINY), encoding="utf-8")
    words = [case, folder / "killed", "--cache", folder / "cache", "--device", "cpu"]
    environment = slurm(folder, PROCESSES="2", SLURM_CPUS_PER_TASK="2", RESTARTS="1")
    command = ["bash", str(TEMPLATE), *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, done.stderr


@pytest.mark.parametrize("template", sorted(TEMPLATE.parent.glob("*.sbatch")), ids=lambda path: path.name)
def test_templates_for_slurm_are_bash(template, tmp_path):
    subprocess.run(["bash", "-n", str(template)], check=True)
    broken = tmp_path / "broken.sbatch"  # the negative
    broken.write_text(template.read_text(encoding="utf-8").replace("\nfi\n", "\n"), encoding="utf-8")
    assert subprocess.run(["bash", "-n", str(broken)], capture_output=True, check=False).returncode != 0


def test_a_template_without_its_words_says_how_it_is_used(tmp_path):
    done = subprocess.run(
        ["bash", str(TEMPLATE), "recipe.toml"], env=slurm(tmp_path), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr[:6]) == (2, "usage:")


def test_a_killed_rank_goes_on_from_its_checkpoint(under_torchrun):
    folder, said = under_torchrun
    assert f"exitcode: -{signal.SIGKILL.value}" in said or "Signal 9" in said
    began = {path.name: json.loads(path.read_text()) for path in folder.glob("began-*.json")}
    assert began["began-0-0.json"] == began["began-0-1.json"] == 0
    assert began["began-1-0.json"] == began["began-1-1.json"]
    assert began["began-1-0.json"] in (6, 8)  # the step under way when the process was killed may be made again
    unbroken, killed = ((folder / name / "tiny.safetensors").read_bytes() for name in ("unbroken", "killed"))
    assert killed == unbroken
    one, other = (
        torch.load(folder / name / "checkpoint.pt", weights_only=True)["state"]["network"]
        for name in ("unbroken", "killed")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert Prior.load(folder / "killed" / "tiny.json").card.images == 16


def test_a_rank_that_goes_on_without_its_moments_is_noticed(under_torchrun):
    """The negative."""
    unbroken, other = (
        (under_torchrun[0] / name / "tiny.safetensors").read_bytes() for name in ("unbroken", "forgetful")
    )
    assert len(unbroken) == len(other)
    assert unbroken != other


def test_two_processes_prepare_each_scan_once(under_torchrun):
    """The broken run read from a cache, the unbroken one from memory; neither left anything half."""
    prepared = {path.name: path.read_text().split() for path in under_torchrun[0].glob("prepared-*.txt")}
    assert prepared == {"prepared-0-0.txt": ["first.nii.gz"], "prepared-0-1.txt": ["second.nii.gz"]}
    assert [path.suffix for path in (under_torchrun[0] / "cache").iterdir()] == [".safetensors"] * 2


def test_two_processes_train_a_coarse_prior_as_one_does(under_torchrun, pack, tmp_path):
    case = under_torchrun[0] / "coarse.toml"
    losses = [event.loss for event in train(case, tmp_path, data=pack) if isinstance(event, Step)]
    assert all(one != other for one, other in pairwise(losses))
    ours, theirs = (
        torch.load(folder / "checkpoint.pt", weights_only=True)["state"]["network"]
        for folder in (tmp_path, under_torchrun[0] / "coarse")
    )
    untrained = FitState(read_any(case), denoiser=_untrained_like(case, pack)).denoiser.state_dict()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-5
    assert max(float((untrained[name] - theirs[name]).abs().max()) for name in ours) > 1e-3  # they were trained at all


def _untrained_like(case, pack):
    from medidiff.training.coarse import _untrained
    from medidiff.training.heads import about, read_atlas, read_heads

    return _untrained(read_any(case), about(read_heads(pack, part="train"))[0], read_atlas(pack), None)


def starts(count, agree, *, world=3):
    """The names that processes find which meet in one store again and again, a set for each time."""
    store, found = distributed.HashStore(), []
    for _ in range(count):
        with ThreadPoolExecutor(world) as pool:
            found.append(set(pool.map(lambda rank: agree(store, rank, world), reversed(range(world)))))
    return found


def test_processes_that_start_again_meet_nobody_of_the_time_before():
    found = starts(3, name_of_start)
    assert [len(names) for names in found] == [1, 1, 1]
    assert len(set.union(*found)) == 3


def test_processes_that_believe_what_stands_in_the_store_meet_those_of_before():
    """The negative: the first one writes a name, the others read it."""

    def naive(store, rank, world):
        if rank == 0:
            store.set("name", secrets.token_hex(16))
        return store.get("name").decode()

    store = distributed.HashStore()
    naive(store, 0, 3)
    assert len({naive(store, rank, 3) for rank in (2, 1, 0)}) == 2


def test_a_process_that_is_left_alone_says_so(recipe, patches, monkeypatch):
    def fail(tensor):
        raise RuntimeError("Connection closed by peer [10.0.0.1]")

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", fail)
    with pytest.raises(SettingsError, match="E-PROCESSES") as caught:
        next(fit(FitState(recipe), patches, recipe.fit))
    assert "10.0.0.1" not in str(caught.value)
    assert "\n" not in str(caught.value)
