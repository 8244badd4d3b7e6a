"""Adapting a prior to noisy scans: what is minimised has its least at the truth, and nothing is made worse."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

import medidiff as md
from medidiff import restore as restoration
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.errors import InputError, PriorError, SettingsError
from medidiff.physics import Noise
from medidiff.prior import Prior
from medidiff.training import adapt as module
from medidiff.training.adapt import AdaptSettings, adapt
from medidiff.training.heldback import Comparison, Judge, noisy_scan
from medidiff.training.recorrupt import recorrupt
from medidiff.volume import Geometry, Volume
from tests.small_prior import CARD, small_prior

LEVEL = 60.0  # of the noise of the scans below, in their stored units
TISSUE, TEXTURE = 700.0, 80.0  # mean and standard deviation of their tissue


# What the residual is worth


def risk(offset, *, signal, kind, taken_as, voxels=400_000):
    """Mean squared residual of an answer that is off by `offset`, at level 1; of noise taken for another kind, too."""
    generator = torch.Generator().manual_seed(3)
    x = torch.full((1, 1, voxels, 1, 1), signal)
    made = recorrupt(Noise(kind, 1.0).apply(x, generator), 1.0, share=0.7, kind=taken_as, generator=generator)
    return float(made.residual(x + offset).square().mean()), made


@pytest.mark.parametrize("offset", [-0.4, 0.0, 0.3])
def test_the_squared_residual_is_the_squared_error_and_a_constant(offset):
    found, made = risk(offset, signal=5.0, kind="gaussian", taken_as="gaussian")
    assert found - made.strong == pytest.approx(offset**2, abs=0.02)


def best_answer(signal, taken_as):
    """Where the risk on Rician noise is least, relative to the truth."""
    offsets = np.linspace(-0.5, 0.5, 11)
    risks = [risk(o, signal=signal, kind="rician", taken_as=taken_as, voxels=200_000)[0] for o in offsets]
    return offsets[np.argmin(risks)]


@pytest.mark.parametrize("signal", [1.5, 2.0, 3.0, 8.0])
def test_the_least_risk_is_at_the_truth_for_magnitudes_also(signal):
    assert abs(best_answer(signal, "rician")) < 0.06


def test_taken_for_gaussian_the_risk_of_a_weak_signal_is_least_at_its_biased_mean():
    assert best_answer(1.5, "gaussian") > 0.15


@pytest.mark.parametrize("signal", [0.0, 0.7, 1.5, 3.0, 8.0])
def test_what_is_left_of_the_risk_at_the_truth_is_the_noises_own(signal):
    found, made = risk(0.0, signal=signal, kind="rician", taken_as="rician")
    floor = float(made.floor(torch.full_like(made.scan, signal)).mean())
    assert found == pytest.approx(floor, rel=0.02)
    assert (abs(found / made.strong - 1) > 0.1) == (signal < 3)  # the Gaussian's would be wrong where it matters


@pytest.mark.parametrize("kind", ["rician", "gaussian"])
def test_the_noisier_scan_is_a_scan_of_the_level_that_is_told(kind):
    _, made = risk(0.0, signal=2.0, kind=kind, taken_as=kind)
    direct = Noise(kind, made.told).apply(torch.full((400_000,), 2.0), torch.Generator().manual_seed(8))
    for share in (0.01, 0.1, 0.5, 0.9, 0.99):
        assert float(made.noisier.flatten().quantile(share)) == pytest.approx(float(direct.quantile(share)), abs=0.03)


# A world in which the best denoiser is known


class World(nn.Module):
    """The network of the exact posterior mean where tissue is N(mean, variance) in each voxel by itself."""

    halo = 1

    def __init__(self, mean: float, variance: float) -> None:
        super().__init__()
        self.mean, self.variance = nn.Parameter(torch.tensor(mean)), nn.Parameter(torch.tensor(variance))

    def forward(self, x, c_noise):
        y, noise = x[:, 1:2], torch.exp(1.5 * x[:, -1:] - 3.5)
        total = noise**-2 + 1.0
        answer = self.mean + (y - self.mean) * self.variance / (self.variance + noise**2)
        return (answer - y * noise**-2 / total) * total.sqrt()


def world_scan(seed=0, size=48):
    """A noisy cube of tissue in air, and the same without noise."""
    rng = np.random.default_rng(seed)
    x = np.zeros((size,) * 3, np.float32)
    inner = slice(4, size - 4)
    texture = ndimage.gaussian_filter(rng.standard_normal((size - 8,) * 3), 1.5)
    x[inner, inner, inner] = TISSUE + TEXTURE * texture / texture.std()
    y = np.hypot(x + LEVEL * rng.standard_normal(x.shape), LEVEL * rng.standard_normal(x.shape)).astype(np.float32)
    return Volume(y, Geometry.regular(x.shape), "MR"), x


def world_prior(*, texture):
    """The prior that is right if the tissue has this standard deviation."""
    gain = noisy_scan(world_scan()[0], kind="rician", level=LEVEL, seed=0).gain
    backbone = World(TISSUE / gain, (texture / gain) ** 2)
    return Prior(Preconditioned(backbone, sigma_data=1.0, sigma_detail=0.1).eval().requires_grad_(False), CARD)


def error_db(prior):
    """Of the prior's own mean against the truth of the world, inside the tissue: what adapting is judged by.

    This world's prior looks at single voxels, and is helped by its scan's averages more than by being right.
    """
    noisy, x = world_scan()
    inner = (slice(8, 40),) * 3
    with pytest.MonkeyPatch.context() as alone:
        alone.setattr(restoration, "averages_lost", lambda x, evidence: torch.zeros_like(x))
        answer = md.denoise(noisy, prior=prior, noise_level=LEVEL, device="cpu").mean.data[0]
    return 10 * math.log10(float(np.square(answer - x)[inner].mean()))


def test_a_prior_for_another_contrast_becomes_better_by_what_was_said():
    wrong = world_prior(texture=TEXTURE / 3)
    made = adapt(world_scan()[0], "new", prior=wrong, noise_level=LEVEL, device="cpu", patches=200)
    assert made.changed
    gain = error_db(wrong) - error_db(made.prior)
    assert gain > 0.5
    assert made.comparison.gain_db == pytest.approx(gain, rel=0.25)
    assert made.prior.card.images == CARD.images + made.patches


def test_a_prior_that_is_right_already_stays_and_stops_by_itself():
    right = world_prior(texture=TEXTURE)
    made = adapt(world_scan()[0], "new", prior=right, noise_level=LEVEL, device="cpu", patches=600)
    assert not made.changed
    assert made.patches <= 100
    assert any(sentence.startswith("stopped by itself") for sentence in made.decisions)
    assert made.prior.denoiser is right.denoiser


def test_worse_weights_are_refused(monkeypatch):
    """Weights that get worse on the parts that decide, whatever the parts that are watched seem to say."""

    def spoil(run):
        run.seen += 1
        with torch.no_grad():
            for weight in run.average.parameters():
                weight.mul_(0.9)

    monkeypatch.setattr(module._Run, "_step", spoil)
    prior = world_prior(texture=TEXTURE)
    made = adapt(world_scan()[0], "new", prior=prior, noise_level=LEVEL, device="cpu", patches=50)
    assert (made.changed, made.comparison) == (False, None)
    compare = Judge.compare

    def flattering(judge, denoiser):
        return next(verdicts) or compare(judge, denoiser)

    verdicts = iter([Comparison(-1.0, 0.01, 0.0, 2.0), Comparison(-0.9, 0.01, 0.0, 2.0), None])
    monkeypatch.setattr(Judge, "compare", flattering)
    made = adapt(world_scan()[0], "new", prior=prior, noise_level=LEVEL, device="cpu", patches=50)
    assert made.comparison.change > 0
    assert not made.changed
    assert made.prior.denoiser is prior.denoiser
    verdicts = iter([Comparison(-1.0, 0.01, 0.0, 2.0)] * 3)  # the negative: were all flattered, they would be taken
    assert adapt(world_scan()[0], "new", prior=prior, noise_level=LEVEL, device="cpu", patches=50).changed


# Held back


def test_no_training_patch_touches_what_is_held_back():
    scan = noisy_scan(world_scan()[0], kind="rician", level=LEVEL, seed=0)
    held = torch.zeros(scan.image.shape, dtype=torch.bool)
    for low, high in scan.cubes.tolist():
        assert not held[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].any()  # nor do cubes touch cubes
        held[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    assert len(scan.cubes) == 6
    assert 0.02 < float(held[scan.tissue].float().mean()) <= 0.35
    reach = ndimage.maximum_filter(held.numpy(), scan.patch, origin=[-(n // 2) for n in scan.patch])
    assert not reach[tuple(scan.starts.T)].any()
    assert reach.any()


def test_a_comparison_with_itself_finds_nothing_and_with_a_worse_one_what_it_costs():
    scan = noisy_scan(world_scan()[0], kind="rician", level=LEVEL, seed=0)
    right, wrong = world_prior(texture=TEXTURE).denoiser, world_prior(texture=TEXTURE / 3).denoiser
    judge = Judge([scan], right, share=0.6, kind="rician", part=1, seed=0)
    same, worse = judge.compare(right), judge.compare(wrong)
    assert (same.change, same.error, same.better) == (0.0, 0.0, False)
    assert worse.change > 3 * worse.error > 0
    noise2 = (scan.level * math.hypot(1, 0.6)) ** 2
    variance = (TEXTURE / scan.gain) ** 2
    exact = variance * noise2 / (variance + noise2) / scan.level**2
    assert same.before == pytest.approx(exact, rel=0.15)
    assert math.isnan(Comparison(-0.1, 0.01, 0.0, -1.0).gain_db)


# The whole


def small(prior=None, **settings):
    words = {"prior": prior or small_prior(), "noise_level": LEVEL, "device": "cpu", "patches": 12} | settings
    return adapt(world_scan(size=40)[0], "new", **words)


@pytest.fixture
def eager(monkeypatch):
    """Looks after every four patches, at a rate at which a small network learns."""
    monkeypatch.setattr(module, "_BETWEEN_LOOKS", 4)
    monkeypatch.setattr(module, "_RATE", 5e-3)


def test_the_same_seed_gives_the_same_prior_and_the_first_is_left_alone(eager, tmp_path):
    first = small_prior()
    before = {name: weight.clone() for name, weight in first.denoiser.state_dict().items()}
    made = [small(first), small(first), small(first, seed=1)]
    assert all(each.changed for each in made)
    files = [each.prior.save(tmp_path / str(n)).with_suffix(".safetensors") for n, each in enumerate(made)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].read_bytes() != files[2].read_bytes()
    assert all(torch.equal(weight, before[name]) for name, weight in first.denoiser.state_dict().items())


def test_what_is_judged_is_what_is_written(eager, tmp_path):
    made = small()
    again = Prior.load(made.prior.save(tmp_path))
    for name, weight in again.denoiser.state_dict().items():
        assert torch.equal(weight, made.prior.denoiser.state_dict()[name])


def test_the_prior_keeps_no_scan_and_its_card_says_where_it_comes_from(eager, tmp_path):
    first = small_prior()
    made = small(first)
    made.prior.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.json", "new.safetensors"]
    card = json.loads((tmp_path / "new.json").read_text())
    assert card["start"] == {"name": "tiny", "sha256": first.card.weights_sha256, "images": 0}
    assert "1 noisy scan without a reference" in card["summary"]
    assert card["sources"] == ["1 noisy scan without a reference, not named"]
    assert "may be worse" in card["limits"][-1]
    shapes = {name: weight.shape for name, weight in first.denoiser.state_dict().items()}
    assert {name: weight.shape for name, weight in made.prior.denoiser.state_dict().items()} == shapes


def test_a_scan_that_is_given_twice_counts_once(eager):
    scan = world_scan(size=40)[0]
    words = {"prior": small_prior(), "noise_level": LEVEL, "device": "cpu", "patches": 4}
    made = adapt([scan, scan], "new", **words)
    assert any("the same as an earlier one" in sentence for sentence in made.decisions)
    assert made.comparison == adapt(scan, "new", **words).comparison
    other = adapt([scan, world_scan(1, size=40)[0]], "new", **words)
    assert other.comparison != made.comparison


@pytest.mark.parametrize(
    ("scan", "level", "says"),
    [
        (world_scan()[0], 1e-3, "outside of what can be adapted to"),
        (world_scan()[0], 400.0, "outside of what can be adapted to"),
        (world_scan(size=20)[0], LEVEL, "too little tissue"),
    ],
    ids=["no noise", "too much", "small"],
)
def test_a_scan_that_cannot_teach_leaves_the_prior_as_it_is(scan, level, says):
    first = small_prior()
    made = adapt(scan, "new", prior=first, noise_level=level, device="cpu")
    assert (made.changed, made.patches) == (False, 0)
    assert any(says in sentence for sentence in made.decisions)
    assert made.prior.denoiser is first.denoiser
    assert made.prior.card.name == "new"


@pytest.mark.parametrize(("blur", "white"), [(0.0, True), (0.5, False), (0.6, False)])
def test_noise_that_neighbours_share_is_seen_and_left_alone(blur, white):
    scan, x = world_scan()
    noise = ndimage.gaussian_filter(scan.data[0] - x, blur)
    blurred = scan.with_data((x + noise * LEVEL / noise.std())[None].astype(np.float32))
    found = noisy_scan(blurred, kind="gaussian", level=None, seed=0)
    assert (max(found.colours) <= module._WHITE) == white
    made = adapt(blurred, "new", prior=small_prior(), noise="gaussian", device="cpu", patches=2)
    assert any("is not white" in sentence for sentence in made.decisions) != white
    assert (made.patches > 0) == white


@pytest.mark.parametrize("correlation", [0.0, 0.05, 0.1, 0.2])
def test_the_share_that_neighbours_tell_is_that_of_the_best_linear_guess(correlation):
    """Noise along one axis with spectrum 1 + 2 ρ cos ω, its own level estimated; the guess is solved for directly."""
    rng = np.random.default_rng(4)
    inner = np.sqrt((1 + math.sqrt(1 - 4 * correlation**2)) / 2)  # of the moving average (inner, ρ / inner)
    white = rng.standard_normal((97, 96, 96))
    noise = inner * white[1:] + correlation / inner * white[:-1]
    image = (TISSUE + LEVEL * noise).astype(np.float32)
    image[:4] = image[-4:] = 0
    found = noisy_scan(Volume(image, Geometry.regular(image.shape), "MR"), kind="gaussian", level=None, seed=0)
    neighbours = [d for d in range(-8, 9) if d]
    matrix = np.array([[{0: 1.0, 1: correlation}.get(abs(a - b), 0.0) for b in neighbours] for a in neighbours])
    beside = np.array([correlation if abs(d) == 1 else 0.0 for d in neighbours])
    exact = beside @ np.linalg.solve(matrix, beside)
    assert found.shared == pytest.approx(exact, abs=0.005)


def test_a_gain_that_shared_noise_could_feign_is_not_believed():
    assert Comparison(-0.05, 0.01, 0.0, 1.0).better
    assert not Comparison(-0.05, 0.01, 0.03, 1.0).better
    assert not Comparison(-0.05, 0.02, 0.0, 1.0).better


@pytest.mark.parametrize(("factor", "taken"), [(0.7, False), (1.0, True), (1.4, False)])
def test_a_level_that_the_scan_does_not_show_is_not_believed(factor, taken):
    made = adapt(world_scan()[0], "new", prior=small_prior(), noise_level=factor * LEVEL, device="cpu", patches=2)
    assert (made.patches > 0) == taken
    assert any("is far from the" in sentence for sentence in made.decisions) != taken


def test_time_ends_it_and_that_is_said(eager):
    made = small(minutes=1e-9)
    assert made.patches == 1
    assert any("by the limit of 1e-09 minutes" in sentence for sentence in made.decisions)


def test_an_estimated_level_is_said():
    scan, _ = world_scan(size=20)
    made = adapt(scan, "new", prior=small_prior(), device="cpu")
    assert made.decisions[0].startswith("noise level ")


def test_diverging_is_refused(eager, monkeypatch):
    monkeypatch.setattr(module, "_RATE", math.inf)
    with pytest.raises(PriorError, match="E-DIVERGED"):
        small()


@pytest.mark.parametrize(
    "broken",
    [
        {"noise": "poisson"},
        {"noise_level": 0.0},
        {"patches": 0},
        {"minutes": math.inf},
        {"seed": -1},
        {"device": "tpu"},
    ],
    ids=str,
)
def test_broken_settings_are_refused(broken):
    with pytest.raises(SettingsError, match="E-SETTING"):
        AdaptSettings(**broken)


def test_names_and_scans_that_make_no_prior_are_refused():
    scan = world_scan(size=20)[0]
    with pytest.raises(SettingsError, match=r"E-SETTING.*--name"):
        adapt(scan, "../elsewhere", prior=small_prior())
    with pytest.raises(SettingsError, match=r"E-SETTING.*no scans"):
        adapt([], "new", prior=small_prior())
    two = Volume(np.zeros((2, 8, 8, 8), np.float32), Geometry.regular((8, 8, 8)), "MR")
    with pytest.raises(InputError, match="E-4D"):
        adapt(two, "new", prior=small_prior())


def test_padding_is_no_tissue():
    scan, _ = world_scan()
    padding = np.zeros(scan.shape, bool)
    padding[:, :, 24:] = True
    padded = dataclasses.replace(scan, padding=padding)
    found = noisy_scan(padded, kind="rician", level=LEVEL, seed=0)
    assert found.tissue[..., :24].any()
    assert not found.tissue[..., 24:].any()
    bright = padded.with_data(np.where(padding, 9000, scan.data))
    assert noisy_scan(bright, kind="rician", level=LEVEL, seed=0).sha256 == found.sha256


def relabelled(modality, *, hounsfield=False):
    scan = world_scan(size=20)[0]
    return Volume(scan.data[0] - 1024 * hounsfield, scan.geometry, modality)


def not_adapted(scans, prior):
    """The refusal; no help that only restoring can make use of."""
    with pytest.raises(InputError) as caught:
        adapt(scans, "new", prior=prior, noise_level=LEVEL, device="cpu", patches=2)
    assert caught.value.code == "E-MODALITY"
    said = str(caught.value)
    assert "--modality" not in said
    assert "leave --prior out" not in said
    return said


@pytest.mark.parametrize("kind", ["MR", "CT"])
@pytest.mark.parametrize("modality", ["CT", "PT"])
def test_scans_that_are_not_mr_are_refused(modality, kind):
    """Not even with a prior of their own modality: their noise is not the one that is learnt from."""
    other = relabelled(modality, hounsfield=modality == "CT")
    said = not_adapted([relabelled("MR"), other], small_prior(kind))
    assert ("scan 2" in said and modality in said) == (kind == "MR")
    assert ("a prior for MR" in said) == (kind == "CT")


def test_a_prior_that_is_not_for_mr_is_refused():
    assert "a prior for MR" in not_adapted(relabelled("MR"), small_prior("CT"))


def test_a_scan_that_looks_like_a_ct_is_refused_and_another_is_said_to_be_taken_for_mr():
    said = not_adapted(relabelled("OT", hounsfield=True), small_prior())
    assert '"Modality": "MR"' in said
    words = {"prior": small_prior(), "noise_level": LEVEL, "device": "cpu"}
    made = adapt([relabelled("MR"), relabelled("OT")], "new", **words)
    assert [each for each in made.decisions if "does not say its modality" in each] == [made.decisions[0]]
    assert made.decisions[0].startswith("scan 2: ")
    assert not any("modality" in each for each in adapt(relabelled("MR"), "new", **words).decisions)
