import dataclasses
import errno
import io
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from training_cases import PREPARE, phantom, script, to_toml, write_case

from medidiff.diffusion import Condition, observe
from medidiff.errors import OutputError, PriorError, SettingsError
from medidiff.io import write
from medidiff.physics import Separable
from medidiff.prepare import fit_intensity
from medidiff.prior import Prior
from medidiff.training import degrade, loop, run
from medidiff.training import patches as making
from medidiff.training.chance import Chance
from medidiff.training.data import find_scans, load_scan
from medidiff.training.degrade import cut_side, draw_measurement, draw_view, look, measure
from medidiff.training.fit import FitState, fit, learning_rate
from medidiff.training.pack import is_pack, read_pack, write_pack
from medidiff.training.patches import Patches
from medidiff.training.processes import start_processes
from medidiff.training.recipe import DegradationRanges, read_recipe
from medidiff.training.run import Finished, Started, Step, Validated, train

KINDS = ("denoise", "thick", "coarse", "nothing")
QUIET = DegradationRanges(noise=(1e-6, 1e-6), thick_noise=(1e-6, 1e-6), rician=0.0, varying=0.0, told_error=0.0)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Path of the tiny recipe, with its scans beside it."""
    return write_case(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def recipe(case):
    return read_recipe(case)


@pytest.fixture(scope="module")
def scans(case, recipe):
    return [load_scan(each, recipe) for each in find_scans(recipe.data, folder=case.parent, root=None, part="train")]


@pytest.fixture(scope="module")
def patches(scans, recipe):
    return Patches(scans, (0.7, 0.3), recipe)


@pytest.fixture(scope="module")
def whole(case, tmp_path_factory):
    """Events and folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole")
    return list(train(case, out)), out


def flat(network):
    """All weights as one vector, a copy."""
    return torch.cat([weights.detach().flatten() for weights in network.parameters()])


def curve(events):
    return [(e.images, e.loss, e.rate, e.gradient) for e in events if isinstance(e, Step)]


def run_until(case, out, images):
    """Events of a run that is killed after so many images; a generator that is closed does nothing more."""
    events = []
    generator = train(case, out)
    for event in generator:
        events.append(event)
        if isinstance(event, Step) and event.images == images:
            break
    generator.close()
    return events


@pytest.fixture
def often(monkeypatch):
    """A checkpoint after every step instead of every two minutes."""
    monkeypatch.setattr(loop, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)


# The run as a whole


def test_a_run_says_what_it_does(whole, recipe):
    events, out = whole
    assert isinstance(events[0], Started)
    assert (events[0].images, events[0].scans) == (0, 2)
    assert isinstance(events[-1], Finished)
    assert [event.images for event in events if isinstance(event, Step)] == list(range(2, 17, 2))
    assert [event.images for event in events if isinstance(event, Validated)] == [6, 12, 16]
    assert events[-1].card == out / "tiny.json"
    card = Prior.load(events[-1].card).card
    assert (card.images, card.data_fingerprint) == (16, events[0].data_fingerprint)
    assert dict(card.metrics) == [event for event in events if isinstance(event, Validated)][-1].scores


def test_validation_names_its_scores_and_shows_pictures(whole):
    looked = next(event for event in whole[0] if isinstance(event, Validated))
    assert set(looked.scores) == {f"{name}_noise_{level}" for name in ("psnr_db", "ssim") for level in (3, 10)}
    assert {name: tuple(picture.shape) for name, picture in looked.pictures.items()} == dict.fromkeys(
        ("noisy", "denoised", "clean"), (16, 16, 16)
    )


def test_a_killed_and_resumed_run_has_the_same_loss_curve(case, whole, tmp_path, often):
    killed = run_until(case, tmp_path, 10)
    resumed = list(train(case, tmp_path))
    assert resumed[0].images == 8  # the step that was under way when the run was killed is made again
    assert curve(killed) + curve(resumed)[1:] == curve(whole[0])
    assert curve(resumed)[0] == curve(killed)[-1]
    scores = [event.scores for event in whole[0] if isinstance(event, Validated)]
    assert [event.scores for event in resumed if isinstance(event, Validated)] == scores[1:]
    assert (tmp_path / "tiny.safetensors").read_bytes() == (whole[1] / "tiny.safetensors").read_bytes()


@pytest.mark.parametrize("forgotten", ["optimizer", "average"])
def test_a_run_that_forgets_its_state_is_another_run(forgotten, case, whole, tmp_path, often, monkeypatch):
    def forgetful(self, state):
        restore(self, {**state, forgotten: getattr(self, forgotten).state_dict()})

    restore = FitState.load_state_dict
    monkeypatch.setattr(FitState, "load_state_dict", forgetful)
    run_until(case, tmp_path, 10)
    resumed = list(train(case, tmp_path))
    assert (tmp_path / "tiny.safetensors").read_bytes() != (whole[1] / "tiny.safetensors").read_bytes()
    assert (curve(resumed) == curve(whole[0])[4:]) == (forgotten == "average")


def test_a_finished_run_has_nothing_left_to_do(case, whole):
    again = list(train(case, whole[1]))
    assert [type(event) for event in again] == [Started, Finished]


def test_a_folder_with_the_run_of_another_recipe_is_refused(whole, case, tmp_path):
    other = write_case(tmp_path, seed=8)
    with pytest.raises(SettingsError, match=r"E-RUN.*another recipe"):
        next(train(other, whole[1]))


def test_a_folder_with_a_run_on_other_scans_is_refused(whole, case, tmp_path):
    write_case(tmp_path / "elsewhere")
    write(phantom(9), tmp_path / "elsewhere" / "scans" / "second.nii.gz")
    with pytest.raises(SettingsError, match=r"E-RUN.*other scans"):
        next(train(case, whole[1], data=tmp_path / "elsewhere" / "scans"))


def test_a_run_killed_between_prior_and_checkpoint_is_mended(case, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_save", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        list(train(case, tmp_path))
    monkeypatch.undo()
    list(train(case, tmp_path))
    assert (tmp_path / "tiny.safetensors").read_bytes() == (whole[1] / "tiny.safetensors").read_bytes()


def test_the_card_names_no_folder(whole, tmp_path_factory):
    card = (whole[1] / "tiny.json").read_text(encoding="utf-8")
    assert str(tmp_path_factory.getbasetemp()) not in card
    assert json.loads(card)["recipe"]["data"]["root"] == ""


def test_missing_scans_are_named_without_their_folder(tmp_path):
    path = write_case(tmp_path)
    (tmp_path / "scans" / "second.nii.gz").unlink()
    with pytest.raises(SettingsError, match=r"E-DATA.*second\.nii\.gz") as caught:
        next(train(path, tmp_path / "out"))
    assert str(tmp_path) not in str(caught.value)


def test_a_split_that_is_not_there_is_refused(tmp_path):
    path = write_case(tmp_path, data__split="split.toml")
    with pytest.raises(SettingsError, match="E-SPLIT"):
        next(train(path, tmp_path / "out"))


def test_the_parts_of_a_split_do_not_mix(tmp_path):
    split = {"heads": {"train": ["second"], "validation": ["first"], "test": []}}
    (tmp_path / "split.toml").write_text(to_toml(split), encoding="utf-8")
    source = {"pattern": "{subject}.nii.gz", "licence": "none", "split": "heads"}
    values = read_recipe(write_case(tmp_path, data__split="split.toml", data__sources=[source]))
    found = {
        part: [each.path.name for each in find_scans(values.data, folder=tmp_path, root=None, part=part)]
        for part in ("train", "validation", "test")
    }
    assert found == {"train": ["second.nii.gz"], "validation": ["first.nii.gz"], "test": []}


# Checkpoints


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_a_cut_checkpoint_is_refused(kept, case, whole, tmp_path):
    whole_bytes = (whole[1] / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(whole_bytes[: int(kept * len(whole_bytes))])
    with pytest.raises(PriorError, match="E-CHECKPOINT"):
        next(train(case, tmp_path))


class Bomb:
    """An object whose unpickling writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("form", ["pickle", "torch", "nested"])
def test_a_checkpoint_never_runs_code(form, case, whole, tmp_path):
    bomb, path = Bomb(tmp_path / "exploded"), tmp_path / "checkpoint.pt"
    if form == "pickle":
        path.write_bytes(pickle.dumps(bomb, protocol=2))
    elif form == "torch":
        torch.save(bomb, path)
    else:
        saved = torch.load(whole[1] / "checkpoint.pt", weights_only=True)
        torch.save(saved | {"recipe": bomb}, path)
    with pytest.raises(PriorError, match="E-CHECKPOINT"):
        next(train(case, tmp_path))
    assert not (tmp_path / "exploded").exists()


def test_the_bomb_is_a_bomb(tmp_path):
    """The negative: with a loader that trusts, the code does run."""
    buffer = io.BytesIO()
    torch.save(Bomb(tmp_path / "exploded"), buffer)
    buffer.seek(0)
    torch.load(buffer, weights_only=False)
    assert (tmp_path / "exploded").exists()


@pytest.mark.parametrize("part", ["network", "optimizer", "images"])
def test_a_checkpoint_without_a_part_is_refused(part, case, whole, tmp_path):
    saved = torch.load(whole[1] / "checkpoint.pt", weights_only=True)
    del saved["state"][part]
    torch.save(saved, tmp_path / "checkpoint.pt")
    with pytest.raises(PriorError, match="E-CHECKPOINT"):
        next(train(case, tmp_path))


# Two processes are one


@pytest.fixture(scope="module")
def two_processes(case, tmp_path_factory):
    """Folder of the same run in two processes: as it is (``whole``), and without summing gradients (``unsummed``)."""
    folder = tmp_path_factory.mktemp("two")
    script = Path(__file__).with_name("two_processes.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(case), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def gap_to_one_process(folder, whole):
    """Largest difference to the run of one process, of a loss and of a weight."""
    report = json.loads((folder / "process-0.json").read_text(encoding="utf-8"))
    losses = [abs(loss - wanted) for loss, (_, wanted, *_) in zip(report["losses"], curve(whole[0]), strict=True)]
    states = [torch.load(out / "checkpoint.pt", weights_only=True)["state"]["network"] for out in (whole[1], folder)]
    return max(losses), max(float((states[0][name] - states[1][name]).abs().max()) for name in states[0])


def test_two_processes_give_the_run_of_one(two_processes, whole):
    assert max(gap_to_one_process(two_processes / "whole", whole)) < 1e-5


def test_two_processes_that_do_not_sum_their_gradients_do_not(two_processes, whole):
    assert min(gap_to_one_process(two_processes / "unsummed", whole)) > 1e-5


def test_only_the_first_process_validates_writes_and_reports(two_processes, whole):
    reports = [json.loads((two_processes / "whole" / f"process-{rank}.json").read_text()) for rank in (0, 1)]
    assert reports[0]["events"] == [type(event).__name__ for event in whole[0] if not isinstance(event, Step)]
    assert reports[1]["events"] == ["Started"]
    assert [report["first"] for report in reports] == [True, False]
    assert reports[0]["losses"] == reports[1]["losses"]


def test_a_process_of_its_own_joins_nobody():
    with start_processes("cpu") as process:
        assert (process.rank, process.world, process.device, process.is_first) == (0, 1, "cpu", True)
        assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(("name", "value"), [("RANK", "2"), ("WORLD_SIZE", "many"), ("RANK", "-1")])
def test_broken_variables_of_torchrun_are_refused(name, value, monkeypatch):
    for key, text in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(key, text)
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="E-PROCESSES"), start_processes():
        pass


def test_processes_without_an_address_are_refused(monkeypatch):
    for key, text in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(key, text)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(SettingsError, match="E-PROCESSES"), start_processes():
        pass


# The loop


class Changed(Patches):
    """Patches whose batches pass through a function of their numbers."""

    def __init__(self, patches, batch):
        vars(self).update(vars(patches))
        self.batch = batch


def repeated(patches):
    """The first batch again and again."""
    return Changed(patches, lambda images: patches.batch(range(len(images))))


def test_training_learns(recipe, patches):
    """On one batch that is shown again and again, the loss falls by far more than it wavers."""
    longer = dataclasses.replace(recipe.fit, images=120, batch=2, rate=5e-3, warmup=4, cooldown=0.1)
    losses = [step.loss for step in fit(FitState(recipe), repeated(patches), longer)]
    assert losses[-1] < losses[0] - 0.25


def test_nothing_is_learnt_without_steps(recipe, patches):
    """The negative: at a rate of nearly nothing the loss on one batch stays."""
    idle = dataclasses.replace(recipe.fit, images=8, rate=1e-12)
    losses = [step.loss for step in fit(FitState(recipe), repeated(patches), idle)]
    assert max(losses) - min(losses) < 1e-5


def test_a_diverged_run_is_stopped_before_the_weights_are_spoilt(recipe, patches):
    def broken(images):
        batch = patches.batch(images)
        return dataclasses.replace(batch, x=batch.x * float("nan")) if images[0] >= 4 else batch

    state = FitState(recipe)
    steps = fit(state, Changed(patches, broken), recipe.fit)
    next(steps), next(steps)
    with pytest.raises(PriorError, match=r"E-DIVERGED.*after 4 images"):
        next(steps)
    assert all(bool(torch.isfinite(weights).all()) for weights in state.denoiser.parameters())


@pytest.mark.parametrize("batch", [1, 4])
def test_the_running_mean_forgets_half_in_its_half_life(batch, recipe, patches):
    """Whatever the batch size, since a half-life is counted in images."""
    state = FitState(recipe)
    state.images = 1000
    still = dataclasses.replace(recipe.fit, batch=batch, rate=1e-30, ema=16.0, images=1016)
    with torch.no_grad():
        for weights in state.average.parameters():
            weights += 1.0
    for _ in fit(state, patches, still):
        pass
    away = flat(state.average) - flat(state.denoiser)
    assert away.numpy() == pytest.approx(0.5, abs=1e-5)


def test_the_running_mean_soon_forgets_the_random_start(recipe, patches):
    """With a half-life far beyond the run, the mean still is of what the run has been through, not of how it began."""
    state = FitState(recipe)
    start = flat(state.denoiser)
    for _ in fit(state, patches, dataclasses.replace(recipe.fit, ema=1e9)):
        pass
    moved, behind = flat(state.denoiser) - start, flat(state.denoiser) - flat(state.average)
    assert 0 < float(behind.norm()) < float(moved.norm()) / 2


def test_the_learning_rate_warms_up_stays_and_cools_down(recipe):
    plan = dataclasses.replace(recipe.fit, images=1000, batch=1, rate=2.0, warmup=100, cooldown=0.3)
    rates = [learning_rate(plan, images) for images in range(1000)]
    steps = [after - before for before, after in itertools.pairwise(rates)]
    assert rates[99:700] == [2.0] * 601
    assert steps[:99] == pytest.approx([2.0 / 100] * 99)
    assert steps[700:] == pytest.approx([-2.0 / 300] * 299)
    assert 0 < rates[-1] < 0.01
    assert learning_rate(plan, 1000) == 0.0


# Patches and degradations


def same_patch_in_any_batch(patches):
    """The law: what a patch is depends on its number alone."""
    together, alone = patches.batch([3, 8]), patches.batch([8])
    return all(
        torch.equal(pair[0][1:], pair[1])
        for pair in (
            (together.x, alone.x),
            (together.condition.image, alone.condition.image),
            (together.condition.noise, alone.condition.noise),
            (together.sigma, alone.sigma),
            (together.state, alone.state),
        )
    )


def test_a_patch_depends_on_seed_and_number_only(patches, scans, recipe):
    assert same_patch_in_any_batch(patches)
    torch.manual_seed(1)
    first = patches.batch([5]).state
    torch.manual_seed(2)
    assert torch.equal(patches.batch([5]).state, first)
    assert not torch.equal(patches.batch([6]).x, patches.batch([5]).x)
    other = Patches(scans, (0.7, 0.3), dataclasses.replace(recipe, seed=recipe.seed + 1))
    assert not torch.equal(other.batch([5]).x, patches.batch([5]).x)


def test_patches_from_one_running_stream_break_the_law(patches, monkeypatch):
    stream = Chance(0, 0)
    monkeypatch.setattr(making, "Chance", lambda seed, image: stream)
    assert not same_patch_in_any_batch(patches)


def test_scans_are_drawn_by_weight(scans, recipe):
    marked = [dataclasses.replace(scan, image=torch.full_like(scan.image, value)) for value, scan in enumerate(scans)]
    plain = dataclasses.replace(recipe, degradation=dataclasses.replace(QUIET, remap=0.0, gain=(1.0, 1.0)))
    drawn = Patches(marked, (0.7, 0.3), plain).batch(range(300)).x.amax((1, 2, 3, 4))
    assert float(drawn.mean()) == pytest.approx(0.3, abs=4 * (0.21 / 300) ** 0.5)


def test_patches_reach_over_the_border_into_air(scans, recipe):
    scan = dataclasses.replace(scans[0], centres=torch.zeros((1, 3), dtype=torch.int16))
    ones = dataclasses.replace(scan, image=torch.ones_like(scan.image))
    plain = dataclasses.replace(recipe, degradation=dataclasses.replace(QUIET, remap=0.0, gain=(1.0, 1.0)))
    x = Patches([ones], (1.0,), plain).batch([0]).x
    assert float(x.sum()) == (recipe.fit.patch // 2) ** 3  # one corner in the scan, the rest air


def viewed(cube, ranges, chance):
    """A cube, large enough to cut a view from, as a random view shows it."""
    side = 8 if ranges.zoomed else cube.shape[0]
    view = draw_view(side, ranges, chance)
    cut = cube.permute(*view.order.tolist())[None]
    return look(cut, type(view)(*(part[None] for part in view)))[0, 0]


def test_views_are_the_48_of_a_cube_and_as_bright_as_told():
    cube = torch.arange(27.0).reshape(3, 3, 3)
    plain = DegradationRanges(remap=0.0, gain=(1.0, 1.0))
    seen = {tuple(viewed(cube, plain, Chance(0, image)).flatten().tolist()) for image in range(600)}
    assert len(seen) == 48
    assert all(sorted(view) == sorted(cube.flatten().tolist()) for view in seen)
    bright = DegradationRanges(remap=0.0, gain=(0.5, 2.0))
    gains = [float(viewed(cube, bright, Chance(0, image)).max()) / 26 for image in range(100)]
    assert 0.5 <= min(gains) < 0.6
    assert 1.8 < max(gains) < 2.0


def test_a_random_contrast_keeps_air_black_and_voxels_of_one_value_alike():
    x = torch.tensor([0.0, 0.2, 0.2, 0.9] * 16).reshape(4, 4, 4)
    other = DegradationRanges(remap=1.0, gain=(1.0, 1.0))
    for image in range(20):
        values = viewed(x, other, Chance(1, image))
        assert len(values.unique()) == 3
        assert float(values.min()) == 0
        assert float(values.max()) <= 1


def test_a_zoomed_view_shows_a_ramp_shallower_and_flat_tissue_flat():
    ranges = DegradationRanges(remap=0.0, gain=(1.0, 1.0), zoomed=1.0, zoom=(1.2, 1.5))
    cut = cut_side(8, ranges)
    assert cut == 14
    ramp = torch.arange(float(cut))[:, None, None].expand(cut, cut, cut)
    for image in range(20):
        view = viewed(ramp, ranges, Chance(2, image))
        steps = [view.diff(dim=axis).abs()[2:5, 2:5, 2:5].mean() for axis in range(3)]
        assert 1.2 <= float(max(steps)) <= 1.5 + 1e-5  # voxels larger by the zoom
        assert sorted(steps)[1] < 1e-5
        assert torch.allclose(viewed(torch.ones((cut,) * 3), ranges, Chance(2, image)), torch.ones(8, 8, 8), atol=1e-5)


def only(kind, ranges=QUIET):
    return dataclasses.replace(ranges, **{name: float(name == kind) for name in KINDS})


def measured(x, ranges, chance):
    """The random scanner, and what it tells of a patch (1, 1, P, P, P)."""
    scanner = draw_measurement(x.shape[-1], ranges, chance)
    noise = torch.randn((1, 2, *x.shape[-3:]), generator=chance.generator)
    return scanner, measure(x, type(scanner)(*(part[None] for part in scanner)), noise)


def operator_of(scanner):
    """A, without the rows that only pad it."""
    rows = [matrix[matrix.abs().sum(1) > 0].double() for matrix in scanner.sees]
    same = torch.eye(scanner.sees.shape[-1], dtype=torch.float64)
    i, j, k = (None if torch.equal(matrix, same) else matrix for matrix in rows)
    return Separable((i, j, k))


def kind_of(condition):
    """Which measurement it was, from where its certainty varies."""
    certainty = condition.certainty[0, 0]
    if not bool(certainty.any()):
        return "nothing"
    varies = [axis for axis in range(3) if float((certainty - certainty.narrow(axis, 0, 1)).abs().max()) > 1e-4]
    return "denoise" if float((certainty - 1).abs().max()) < 1e-6 else "thick" if len(varies) == 1 else "coarse"


def test_every_kind_of_measurement_occurs_as_often_as_its_weight():
    x = torch.ones((1, 1, 12, 12, 12))
    ranges = dataclasses.replace(QUIET, denoise=0.4, thick=0.3, coarse=0.2, nothing=0.1)
    kinds = [kind_of(measured(x, ranges, Chance(3, image))[1]) for image in range(400)]
    for kind in KINDS:
        share = getattr(ranges, kind)
        assert kinds.count(kind) / 400 == pytest.approx(share, abs=4 * (share * (1 - share) / 400) ** 0.5)


def training_tells_what_restoration_tells(kind, ranges=QUIET):
    """The law: a network meets the same maps of a measurement in training and in use."""
    x = torch.rand((1, 1, 12, 12, 12), generator=torch.Generator().manual_seed(0))
    for image in range(12):
        scanner, condition = measured(x, only(kind, ranges), Chance(4, image))
        operator = operator_of(scanner)
        wanted = observe(operator(x), operator, 1e-6)
        stairs = wanted.image if wanted.stairs is None else wanted.stairs
        for told, want in ((condition.image, wanted.image), (condition.certainty, wanted.certainty),
                           (condition.stairs, stairs)):  # fmt: skip
            if float((told - want).abs().max()) > 1e-4:
                return False
    return True


@pytest.mark.parametrize("ranges", [QUIET, dataclasses.replace(QUIET, gaussian=1.0, overlap=(0.4, 0.6), uneven=1.0)])
@pytest.mark.parametrize("kind", ["denoise", "thick", "coarse"])
def test_training_tells_the_network_what_restoration_tells_it(kind, ranges):
    assert training_tells_what_restoration_tells(kind, ranges)


def test_a_certainty_of_one_everywhere_breaks_the_law(monkeypatch):
    padded = degrade._padded

    def sure(axis, side, *, blank):
        *matrices, certainty = padded(axis, side, blank=blank)
        return (*matrices, torch.ones_like(certainty))

    monkeypatch.setattr(degrade, "_padded", sure)
    assert not training_tells_what_restoration_tells("thick")


def test_nothing_measured_is_the_null_condition():
    x = torch.ones((1, 1, 12, 12, 12))
    _, condition = measured(x, only("nothing"), Chance(4, 0))
    null = Condition.null(x)
    assert torch.equal(condition.image, null.image)
    assert torch.equal(condition.certainty, null.certainty)
    assert torch.equal(condition.noise, null.noise)


def test_cubic_voxels_are_as_long_along_all_axes_and_others_longest_along_the_last():
    for share in (0.0, 1.0):
        ranges = dataclasses.replace(only("coarse"), cubic=share)
        for image in range(12):
            scanner = draw_measurement(24, ranges, Chance(9, image))
            i, j, k = (float(matrix.sum(1).gt(0).sum()) for matrix in scanner.sees)
            assert abs(i - k) <= 1 if share else i >= j - 1 >= k - 2


def log_ratios(ranges, count):
    """ln(noise that was told / noise that is there) of `count` noisy patches."""
    x = torch.full((1, 1, 16, 16, 16), 0.5)
    told = [measured(x, only("denoise", ranges), Chance(6, image))[1] for image in range(count)]
    return torch.stack([-((each.image - x) / each.noise).square().mean().sqrt().log() for each in told])


@pytest.mark.parametrize("varying", [0.0, 1.0])
def test_the_noise_that_is_told_is_the_noise_that_is_there(varying):
    ranges = dataclasses.replace(QUIET, noise=(0.004, 0.25), varying=varying)
    assert float(log_ratios(ranges, 20).abs().max()) < 0.05  # 4096 voxels know a level to about 1 %


def test_a_varying_noise_varies_and_a_level_one_does_not():
    x = torch.full((1, 1, 16, 16, 16), 0.5)
    for varying in (0.0, 1.0):
        noise = measured(x, only("denoise", dataclasses.replace(QUIET, varying=varying)), Chance(6, 0))[1].noise
        assert (float(noise.max() / noise.min()) > 1.1) == bool(varying)


def test_the_error_of_the_told_noise_is_as_large_as_asked():
    ratios = log_ratios(dataclasses.replace(QUIET, noise=(0.01, 0.1), told_error=0.2), 150)
    assert float(ratios.std()) == pytest.approx(0.2, rel=0.25)
    assert abs(float(ratios.mean())) < 0.08


def test_a_noise_that_is_told_wrong_breaks_the_law(monkeypatch):
    draw = draw_measurement

    def wrong(side, ranges, chance):
        scanner = draw(side, ranges, chance)
        return scanner._replace(told=1.2 * scanner.told)

    monkeypatch.setitem(globals(), "draw_measurement", wrong)
    assert float(log_ratios(dataclasses.replace(QUIET, noise=(0.01, 0.1)), 5).abs().min()) > 0.1


def test_rician_noise_lifts_air_and_gaussian_does_not():
    air = torch.zeros((1, 1, 16, 16, 16))
    for share, mean in ((1.0, (torch.pi / 2) ** 0.5), (0.0, 0.0)):
        ranges = dataclasses.replace(QUIET, noise=(0.1, 0.1), rician=share)
        y = measured(air, only("denoise", ranges), Chance(8, 0))[1].image
        assert float(y.mean()) / 0.1 == pytest.approx(mean, abs=0.05)


def test_what_was_never_measured_is_never_asked_for_its_mean(scans, recipe):
    """σ = ∞ with nothing measured has one answer, the mean of all heads; the network should not spend itself on it."""
    blind = dataclasses.replace(recipe, degradation=only("nothing"))
    assert bool(torch.isfinite(Patches(scans, (1, 1), blind).batch(range(20)).sigma).all())
    seeing = dataclasses.replace(recipe, degradation=only("denoise"))
    assert bool(torch.isinf(Patches(scans, (1, 1), seeing).batch(range(20)).sigma).any())


def test_scans_come_to_network_scale(scans):
    volume = phantom(0)
    assert torch.equal(scans[0].image, torch.from_numpy(fit_intensity(volume).apply(volume.data[0])))
    assert 0.5 < float(scans[0].image.quantile(0.99)) < 1.5
    assert scans[0].sha256 != scans[1].sha256


# --- plans drawn ahead, and scans that come in a pack ---------------------------------------------------------------


def test_plans_drawn_ahead_by_other_processes_are_the_same(scans, recipe, patches):
    shares = [range(0, 2), range(0), range(2, 4)]
    ahead = list(Patches(scans, (0.7, 0.3), recipe, workers=2).batches(shares))
    at_once = list(patches.batches(shares))
    assert ahead[1] is at_once[1] is None
    for one, other in ((ahead[0], at_once[0]), (ahead[2], at_once[2])):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.state, other.state)
        assert torch.equal(one.condition.image, other.condition.image)
    assert not torch.equal(ahead[0].x, at_once[2].x)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_numbers_of_a_run_are_taken_as_they_are_needed(scans, recipe, workers):
    taken = []

    def numbers():
        for first in range(0, 2000, 2):
            taken.append(first)
            yield range(first, first + 2)

    batches = Patches(scans, (0.7, 0.3), recipe, workers=workers).batches(numbers())
    assert next(batches).x.shape == next(batches).x.shape == (2, 1, 12, 12, 12)
    batches.close()
    assert 2 <= len(taken) <= 2 + 8 * workers


def test_a_long_run_takes_no_memory_for_its_steps(recipe, patches):
    """200,000 steps as a list would be 9 MB; the weights are not in what is counted."""
    state, longer = FitState(recipe), dataclasses.replace(recipe.fit, images=400_000)
    tracemalloc.start()
    next(fit(state, patches, longer))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6


@pytest.fixture
def packed(case, recipe, tmp_path):
    path = tmp_path / "scans.safetensors"
    parts = {
        part: [
            (*each, n) for n, each in enumerate(zip(*run.load_scans(recipe, case.parent, None, part=part), strict=True))
        ]
        for part in ("train", "validation")
    }
    write_pack(path, parts)
    return path


def test_a_pack_holds_the_scans_in_half_precision_and_no_names(packed, scans):
    read, weights = read_pack(packed, part="train")
    assert weights == [0.7, 0.3]
    for scan, other in zip(read, scans, strict=True):
        assert torch.equal(scan.image, other.image.half())
        assert torch.equal(scan.centres, other.centres)
        assert scan.sha256 == other.sha256
    assert b"first" not in packed.read_bytes()
    assert len(read_pack(packed, part="validation")[0]) == 2


def test_one_source_of_a_pack_is_that_of_the_recipe(case, recipe, packed):
    for part in ("train", "validation"):
        for source in (0, 1):
            (one,), weights = run.load_scans(recipe, case.parent, packed, part=part, source=source)
            (other,), wanted = run.load_scans(recipe, case.parent, None, part=part, source=source)
            assert (one.sha256, weights) == (other.sha256, wanted)
    with pytest.raises(SettingsError, match="E-PACK"):
        read_pack(packed, part="train", source=2)


def test_training_from_a_pack_is_training_from_the_scans(case, packed, whole, tmp_path):
    events = list(train(case, tmp_path / "out", data=packed))
    assert curve(events) == curve(whole[0])
    assert events[0].data_fingerprint == whole[0][0].data_fingerprint


def test_the_command_packs_what_a_recipe_names(case, packed, empty_store, tmp_path, capsys):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    assert script(PREPARE, case, tmp_path / "pack.safetensors") == 0
    assert "2 for train, 2 for validation" in capsys.readouterr().out
    assert (tmp_path / "pack.safetensors").read_bytes() == packed.read_bytes()
    assert script(PREPARE, case, tmp_path / "x.safetensors", "--data", tmp_path) == 2
    assert "E-DATA" in capsys.readouterr().err
    folder = tmp_path / "none"
    assert script(PREPARE, case, folder) == 2
    assert capsys.readouterr().err.startswith("E-OUTFORMAT")
    assert not folder.exists()


def test_a_pack_without_scans_of_a_part_is_refused(case, scans, tmp_path):
    path = tmp_path / "scans.safetensors"
    for part, other in (("train", "validation"), ("validation", "train")):
        write_pack(path, {other: [(scans[0], 1.0, 0)]})
        with pytest.raises(SettingsError, match=f"E-PACK.*{part}"):
            list(train(case, tmp_path / "out", data=path))
        assert len(read_pack(path, part=other)[0]) == 1


def test_a_split_without_scans_of_a_part_is_refused(tmp_path):
    sources = [{"pattern": "{subject}.nii.gz", "licence": "none", "split": "set"}]
    case = write_case(tmp_path, data={"root": "scans", "split": "split.toml", "sources": sources})
    for part, other in (("train", "validation"), ("validation", "train")):
        (tmp_path / "split.toml").write_text(f'[set]\n{part} = []\n{other} = ["first"]\n')
        with pytest.raises(SettingsError, match=f"E-DATA.*{part}"):
            list(train(case, tmp_path / "out"))


def test_simulated_noise_is_not_dropped_from_a_pack_in_silence(scans, tmp_path):
    noisy = dataclasses.replace(scans[1], noise=torch.zeros((1, *scans[1].image.shape)), levels=(0.1,))
    with pytest.raises(SettingsError, match=r"E-PACK.*noise"):
        write_pack(tmp_path / "scans.safetensors", {"train": [(scans[0], 1.0, 0), (noisy, 1.0, 0)]})
    assert list(tmp_path.iterdir()) == []


def test_a_pack_that_cannot_be_written_leaves_nothing_behind(scans, tmp_path, monkeypatch):
    parts = {"train": [(scans[0], 1.0, 0)]}
    with pytest.raises(OutputError, match="E-OUT"):
        write_pack(tmp_path / "missing" / "scans.safetensors", parts)

    def full(path, content):
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="E-DISK"):
        write_pack(tmp_path / "scans.safetensors", parts)
    assert list(tmp_path.iterdir()) == []


def broken_packs():
    about = {"part": "train", "source": 0, "weight": 1.0, "sha256": "0" * 64}
    good = {"0000.image": torch.ones((2, 2, 2), dtype=torch.float16), "0000.mask": torch.ones((2, 2, 2), dtype=bool)}
    return {
        "no list": (good, None),
        "a list of something else": (good, [{"part": "train"}]),
        "no source": (good, [{key: about[key] for key in ("part", "weight", "sha256")}]),
        "another part": (good, [about | {"part": "test"}]),
        "a tensor missing": ({"0000.image": good["0000.image"]}, [about]),
        "no tissue": (good | {"0000.mask": torch.zeros((2, 2, 2), dtype=bool)}, [about]),
        "not finite": (good | {"0000.image": torch.full((2, 2, 2), torch.inf).half()}, [about]),
        "two shapes": (good | {"0000.mask": torch.ones((2, 2, 3), dtype=bool)}, [about]),
    }


@pytest.mark.parametrize("fault", broken_packs())
def test_broken_packs_are_refused(fault, tmp_path):
    tensors, about = broken_packs()[fault]
    path = tmp_path / "pack.safetensors"
    save_file(tensors, path, metadata=None if about is None else {"scans": json.dumps(about)})
    with pytest.raises(SettingsError, match="E-PACK"):
        read_pack(path, part="train")


def test_what_is_no_safetensors_file_is_no_pack(tmp_path):
    path = tmp_path / "pack.safetensors"
    path.write_bytes(b"x" * 100)
    with pytest.raises(SettingsError, match="E-PACK"):
        read_pack(path, part="train")
    assert is_pack(path)
    assert not is_pack(tmp_path)
    assert not is_pack(None)


# --- a run that begins with another prior ----------------------------------------------------------------------------


def answers(denoiser, patches):
    batch = patches.batch([0, 1])
    with torch.no_grad():
        return denoiser(batch.state, batch.sigma, batch.condition)


@pytest.fixture(scope="module")
def deeper(whole, tmp_path_factory):
    """A recipe with more blocks that begins with the prior of the whole run."""
    folder = tmp_path_factory.mktemp("deeper")
    for ending in ("json", "safetensors"):
        shutil.copy(whole[1] / f"tiny.{ending}", folder)
    return write_case(folder, model__blocks=[1, 3, 1], start="tiny.json", fit__images=4, seed=8)


def test_new_blocks_begin_as_the_identity(deeper, whole, recipe, patches):
    prior = Prior.load(whole[1] / "tiny.json")
    state = FitState(read_recipe(deeper))
    state.begin_with(prior.denoiser.backbone.state_dict())
    wanted = answers(prior.denoiser, patches)
    assert torch.allclose(answers(state.denoiser, patches), wanted, atol=1e-6)
    assert torch.equal(answers(state.average, patches), answers(state.denoiser, patches))


def test_a_new_block_that_is_not_silent_changes_the_answer(deeper, whole, patches):
    prior = Prior.load(whole[1] / "tiny.json")
    state = FitState(read_recipe(deeper))
    state.begin_with(prior.denoiser.backbone.state_dict())
    torch.nn.init.ones_(state.denoiser.backbone.middle[2].second.conv.weight)
    assert not torch.allclose(answers(state.denoiser, patches), answers(prior.denoiser, patches), atol=1e-3)


def test_the_card_names_what_the_run_began_with(deeper, whole, tmp_path):
    list(train(deeper, tmp_path))
    card, first = Prior.load(tmp_path / "tiny.json").card, Prior.load(whole[1] / "tiny.json").card
    assert card.start == {"name": "tiny", "sha256": first.weights_sha256, "images": first.images}
    assert card.images == first.images + 4


@pytest.mark.parametrize("other", [{"model__channels": [4, 16]}, {"model__blocks": [1, 2, 1]}])
def test_a_start_that_is_wider_or_deeper_is_refused(other, recipe, tmp_path):
    start = FitState(read_recipe(write_case(tmp_path, **other)))
    with pytest.raises(PriorError, match="E-START"):
        FitState(recipe).begin_with(start.denoiser.backbone.state_dict())
