"""The alternatives to the coarse prior: that they learn, resume and draw; that the comparison sees what is wrong."""

import dataclasses
import importlib
import json
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_prior import small_prior
from training_cases import to_toml
from whole_cases import COARSE_TINY, ball, plain_atlas

from medidiff.errors import PriorError, SettingsError
from medidiff.prior import Prior
from medidiff.training.coarse_recipe import read_any
from medidiff.training.heads import Heads, about, write_heads

FOLDER = Path(__file__).resolve().parent.parent / "validation"
SHAPE = (16, 16, 16)
TINY = {
    "vae": (4, 4, 8, 8),
    "gan": (4, 4, 8, 8, 4, 4, 8, 8),
    "ddpm": (4, 4, 8, 8),
    "ldm": (4, 4, 8, 8, 8),
}
KINDS = sorted(TINY)


@pytest.fixture
def models(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("alternative_models")
    monkeypatch.setattr(module, "_WIDTHS", TINY)
    monkeypatch.setattr(module, "_STEPS", 2)
    return module


@pytest.fixture
def training(models):
    return importlib.import_module("alternative_training")


@pytest.fixture
def sets(models, monkeypatch):
    module = importlib.import_module("coarse_sets")
    monkeypatch.setattr(module, "label", lambda head: np.digitize(head, (0.05, 0.45, 0.75)).astype(np.uint8))
    return module


@pytest.fixture
def command(sets):
    return importlib.import_module("alternatives")


@pytest.fixture
def case(tmp_path):
    """A recipe and its pack of three round heads."""
    (tmp_path / "coarse.toml").write_text(to_toml(COARSE_TINY))
    parts = {"train": [ball(n) for n in range(3)], "validation": [ball(3)]}
    write_heads(tmp_path / "heads.safetensors", parts, plain_atlas())
    return tmp_path


@pytest.fixture
def heads(case):
    found = [ball(n) for n in range(3)]
    return Heads(found, plain_atlas(), read_any(case / "coarse.toml"), about(found)[0])


def weights(path):
    return path.with_suffix(".safetensors").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_killed_is_the_unbroken_one_bit_for_bit(training, heads, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(training, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(training, "_POINT", 3)
    monkeypatch.setattr(importlib.import_module("alternative_models").Vae, "batch", 4)
    plan = training.Plan(kind, SHAPE, seed=3, images=16)
    whole = list(training.train_alternative(plan, heads, tmp_path / "whole", fingerprint="a"))[-1]
    list(islice(training.train_alternative(plan, heads, tmp_path / "killed", fingerprint="a"), 4))
    going_on = list(training.train_alternative(plan, heads, tmp_path / "killed", fingerprint="a"))
    assert 0 < going_on[0].images < 16
    one, other = (training.load_alternative(e.card.with_suffix(".safetensors")) for e in (whole, going_on[-1]))
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for _, m in (one, other)), strict=True))
    assert [p[::2] + p[3:] for p in one[0].curve] == [p[::2] + p[3:] for p in other[0].curve]  # all but the clock
    changed = training.Plan(kind, SHAPE, seed=4, images=16)
    third = list(training.train_alternative(changed, heads, tmp_path / "third", fingerprint="a"))[-1]
    assert weights(third.card) != weights(whole.card)
    for broken, data in ((changed, "a"), (plan, "b")):
        with pytest.raises(SettingsError, match="E-RUN"):
            next(training.train_alternative(broken, heads, tmp_path / "whole", fingerprint=data))


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_depends_on_its_seed_and_number_alone(models, training, kind):
    with training.seeded(0, 0):
        model = models.build(kind, SHAPE).eval()
    before = torch.get_rng_state()
    found = []
    for seed, number in ((5, 1), (5, 2), (5, 1), (6, 1)):
        with training.seeded(seed, number):
            found.append(model.draw())
    assert torch.equal(torch.get_rng_state(), before)
    assert found[0].shape == SHAPE
    assert all(bool(draw.isfinite().all()) and float(draw.min()) >= 0 for draw in found)
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[3])


def test_an_autoencoder_learns_and_does_not_at_a_rate_of_nothing(training, heads):
    x, loss = torch.stack([heads.state(n)[0][:1] for n in range(4)]), {}
    for rate in (2e-3, 0.0):
        fit = training.Fit(training.Plan("vae", SHAPE, images=1000))
        fit.model.rates = {"net": rate}
        loss[rate] = [fit.step(x, 0.3)[0] for _ in range(40)]
    assert loss[2e-3][-1] < loss[2e-3][0] - 0.5
    assert abs(loss[0.0][-1] - loss[0.0][0]) < 0.1


def test_the_critic_is_bounded_by_its_spectral_norms(models):
    torch.manual_seed(0)
    critic = models.Critic(SHAPE, (4, 4, 8, 8)).train()
    for _ in range(100):
        critic(torch.randn(2, 1, *SHAPE))
    layers = [m for m in critic.modules() if isinstance(m, torch.nn.Conv3d | torch.nn.Linear)]
    assert len(layers) == 5
    for layer in layers:
        assert float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) == pytest.approx(1, abs=0.02)
    plain = models.Generator(SHAPE, (4, 4, 8, 8)).first.weight.detach()  # the negative: a layer without
    assert float(torch.linalg.matrix_norm(plain, 2)) != pytest.approx(1, abs=0.02)


def test_the_generator_follows_the_critic_and_moves_it_not(training, heads):
    fit = training.Fit(training.Plan("gan", SHAPE, images=1000))
    moved = list(fit.model.losses(torch.stack([heads.state(0)[0][:1], heads.state(1)[0][:1]]), 0.5))
    assert [move.part for move in moved] == ["critic", "generator"]
    fit.model.zero_grad()
    moved[1].loss.backward()
    assert all(p.grad is None for p in fit.model.critic.parameters())
    assert all(p.requires_grad for p in fit.model.critic.parameters())
    assert any(bool(p.grad.abs().max() > 0) for p in fit.model.generator.parameters())


def test_latents_come_after_their_autoencoder_and_have_unit_size(training, heads):
    fit = training.Fit(training.Plan("ldm", SHAPE, images=1000))
    x = torch.stack([heads.state(n)[0][:1] for n in range(2)])
    for share, part, other in ((0.2, "autoencoder", "net"), (0.7, "net", "autoencoder")):
        before = {name: [p.clone() for p in fit.model.part(name).parameters()] for name in (part, other)}
        fit.step(x, share)
        now = {name: list(fit.model.part(name).parameters()) for name in before}
        assert any(not torch.equal(a, b) for a, b in zip(before[part], now[part], strict=True))
        assert all(torch.equal(a, b) for a, b in zip(before[other], now[other], strict=True))
    latents = fit.model.autoencoder.encode_stage_2_inputs(2 * x - 1) * fit.model.scale
    assert float(latents.detach().std()) == pytest.approx(1, rel=0.1)
    assert float(fit.average.scale) == float(fit.model.scale)


def test_a_known_head_has_no_loss_and_is_drawn(models, monkeypatch):
    """A network that knows the head finds all of its noise, and DDIM ends there."""
    monkeypatch.setattr(models, "_STEPS", 10)
    model = models.build("ddpm", SHAPE)
    head = torch.rand((1, 1, *SHAPE), generator=torch.Generator().manual_seed(0))
    kept = models._training_schedule().alphas_cumprod

    class Exact(torch.nn.Module):
        def forward(self, x, timesteps, context=None):
            share = kept[timesteps.long()].reshape(-1, 1, 1, 1, 1)
            return (x - share.sqrt() * (2 * head - 1)) / (1 - share).sqrt()

    model.net = Exact()
    torch.manual_seed(1)
    assert float(next(model.losses(head, 0.5)).loss) < 1e-4
    assert float(next(model.losses(head + 1, 0.5)).loss) > 1e-3
    torch.testing.assert_close(model.draw(), head[0, 0], atol=1e-2, rtol=0)


def test_a_loss_that_is_no_number_ends_the_run(training, heads, tmp_path):
    broken = SimpleNamespace(heads=[], state=lambda n: (heads.state(n)[0] * (float("nan") if n > 12 else 1), None))
    plan = training.Plan("vae", SHAPE, images=32)
    with pytest.raises(PriorError, match="E-DIVERGED"):
        list(training.train_alternative(plan, broken, tmp_path / "out", fingerprint="a"))
    weights_file = tmp_path / "out" / "vae.safetensors"
    assert not weights_file.exists()
    weights_file.write_bytes(b"nothing")
    with pytest.raises(PriorError, match="E-WEIGHTS"):
        training.load_alternative(weights_file)


def test_a_run_without_a_bound_is_refused(training):
    with pytest.raises(SettingsError, match="E-SETTING"):
        training.Plan("vae", SHAPE)
    with pytest.raises(SettingsError, match="E-SETTING"):
        training.Plan("vae", SHAPE, seconds=0)
    assert training.Plan("vae", SHAPE, seconds=8, images=4).share(2, 3) == 0.75


def test_a_slice_stands_upright_with_the_front_above(sets):
    head = np.zeros((10, 12, 8), np.float32)
    head[:, 9:, 7] = 1  # in front, on top
    page = sets.picture(head)
    assert page.shape == (12, 22)
    assert page[:3, :10].sum() == 30
    assert page[:, 12:].sum() == 0
    head[2, 6, 6] = 1  # left of the middle, in the coronal slice, one below the top
    assert sets.picture(head)[3, 14] == 1


def test_a_head_without_three_tissues_is_counted(sets, heads, monkeypatch):
    states = [heads.state(n)[0][0].numpy() for n in range(3)]
    found, failed = sets.described_all([*states, np.where(states[0] > 0.05, 0.9, 0)])
    assert (len(found), failed) == (3, 1)
    assert found[0].coarse.shape == (48, 48, 48)
    assert found[0].volumes.sum() == pytest.approx((states[0] > 0.05).sum() * 0.064)


def test_the_own_prior_is_trained_for_its_time_and_goes_on_after_a_kill(command, case, monkeypatch):
    own = importlib.import_module("own_coarse")
    finer = ("tiny-middle", "tiny")
    (case / "coarse.toml").write_text(to_toml(COARSE_TINY | {"finer": finer}))
    for name in finer:
        prior = small_prior()
        Prior(prior.denoiser, dataclasses.replace(prior.card, name=name)).save(case / "own")
    monkeypatch.setattr("medidiff.training.loop._SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(own, "_PROBE", {"cpu": 3})
    monkeypatch.setattr(own, "_POINT", 2)
    recipe, pack, out = case / "coarse.toml", case / "heads.safetensors", case / "own"

    def run(seconds=4.0):
        return own.train_own(recipe, pack, out, seconds=seconds, start=True)

    for event in run():
        if isinstance(event, own.Step) and event.images > 10:
            break
    with pytest.raises(SettingsError, match="E-RUN"):
        next(run(5.0))
    list(run())
    told = own._read(out / "progress.json")
    assert told.images > 6
    assert told.card == "tiny-coarse.json"
    assert json.loads((out / told.card).read_text())["images"] == told.images
    assert [point[0] for point in told.curve] == sorted(point[0] for point in told.curve)
    assert list(run()) == []  # it is whole
    draw = own.drawer(out / told.card, seed=1)
    assert draw(0).shape == SHAPE
    assert np.array_equal(draw(0), draw(0))
    assert not np.array_equal(draw(0), draw(1))


def ask(command, case, *words):
    options = ["--pack", str(case / "heads.safetensors"), "--recipe", str(case / "coarse.toml")]
    options += ["--out", str(case / "out"), "--mlflow", "none", "--resamples", "10", "--halvings", "10"]
    return command.main([*words, *options])


def person(seed):
    """Three nested ellipsoids of a size, a shape and a brightness of their own."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 32)] * 3, indexing="ij"))
    radius = np.sqrt(((grid / rng.uniform(0.7, 1.1, (3, 1, 1, 1))) ** 2).sum(0))
    inner, outer = rng.uniform(0.35, 0.5), rng.uniform(0.6, 0.75)
    bright = np.select([radius < inner, radius < outer, radius < 0.85], rng.normal((0.95, 0.6, 0.3), 0.03), 0)
    fine = torch.from_numpy(bright + rng.normal(0, 0.02, bright.shape) * (bright > 0)).float()
    return torch.nn.functional.avg_pool3d(fine[None], 2)[0].clamp_min(0)


def test_every_set_is_compared_and_a_collapsed_one_is_seen(command, case, monkeypatch, capsys):
    counts = {"train": range(16), "validation": range(16, 18), "test": range(18, 22)}
    real = {part: [person(n).numpy() for n in numbers] for part, numbers in counts.items()}
    monkeypatch.setattr(command, "real_heads", lambda data, split, folder, *, part, cache: real[part])
    for kind in ("gan", "vae"):
        assert ask(command, case, "train", kind, "--seconds", "0.3") == 0
        assert ask(command, case, "draw", kind, "--count", "10") == 0
    folder = case / "out" / "draws" / "vae"
    for number in range(10):  # a generator that has learnt everything
        command.save_file({"head": person(100 + number)}, folder / f"{number:04d}.safetensors", {"seconds": "1"})
    capsys.readouterr()
    assert ask(command, case, "compare", "all", "--count", "10") == 0
    table = capsys.readouterr().out
    assert "loss of the critic: first, middle, last" in table
    record = json.loads((case / "out" / "alternatives.json").read_text())
    assert record["heads"] == {"real, unseen": 6, "training, varied": 10, "one head": 10, "vae": 10, "gan": 10}
    found = record["figures"]
    assert found["one head"]["MS-SSIM in the set"]["value"] == pytest.approx(1, abs=1e-4)
    assert found["one head"]["coverage"]["value"] < 0.5 * found["vae"]["coverage"]["value"]
    assert found["vae"]["MS-SSIM in the set"]["value"] < 0.99
    assert record["costs"]["vae"]["draw_seconds"] == 1
    assert record["not_describable"]["vae"] == 0
    assert (case / "out" / "alternatives.png").stat().st_size > 5000
    assert record["finding"]["params"]["command"].startswith("python validation/alternatives.py compare all --count 10")
    kept = record["finding"]["figures"]
    assert kept["value/one head/coverage"] == [[1, found["one head"]["coverage"]["value"]]]
    assert kept["draw_seconds/vae"] == [[1, 1.0]]
    assert "draw_seconds/one head" not in kept
    curve = [point for point in record["costs"]["gan"]["curve"] if point[2] == "critic"]
    assert kept["loss/gan/critic"] == [[images, loss] for images, _, _, loss in curve]


def test_a_comparison_finds_the_card_of_each_kind_and_refuses_two(command, tmp_path):
    options = command.parser().parse_args(["compare", "all", "--pack", "x", "--out", str(tmp_path)])
    (tmp_path / "own").mkdir()
    with pytest.raises(command.PriorError, match="0 priors of kind 'own'"):
        command._card_of(options, "own")
    for count, name in enumerate(("a", "b"), start=1):
        (tmp_path / "own" / f"{name}.json").write_text("{}")
        (tmp_path / "own" / f"{name}.safetensors").write_bytes(b"")
        if count == 1:
            assert command._card_of(options, "own") == tmp_path / "own" / "a.json"
    with pytest.raises(command.PriorError, match="2 priors"):
        command._card_of(options, "own")


def test_a_comparison_of_nothing_and_broken_settings_are_refused(command, case, monkeypatch, capsys):
    monkeypatch.setattr(command, "real_heads", lambda *args, **named: [np.zeros(SHAPE)])
    for words in (
        ["compare", "all"],
        ["compare", "vae"],
        ["train", "all"],
        ["train", "vae", "--seconds", "-1"],
        ["draw", "vae", "--count", "1"],
        ["draw", "own"],
        ["draw", "vae"],
    ):
        assert ask(command, case, *words) != 0
        assert capsys.readouterr().err.count("\n") == 1
