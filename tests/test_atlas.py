"""Bending, and the atlas: shapes are found, carried back, and drawn from the Gaussian that was told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as nnf
from whole_cases import KNOTS, SHAPE, ball, plain_atlas

from medidiff.diffusion.atlas import Atlas, bent, stiffness
from medidiff.diffusion.draws import generators_for
from medidiff.physics.bending import coefficients, knot_counts, knots_like, places, seen_from, seen_sharply, spline
from medidiff.training.coarse_recipe import AtlasRecipe
from medidiff.training.groupwise import carried_back, channel_weights, groupwise
from medidiff.training.heads import coarse_state


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- bending --------------------------------------------------------------------------------------------------------


def test_even_knots_are_an_even_field_and_a_line_stays_a_line():
    assert torch.allclose(spline(torch.full((2, 5, 6, 7), 1.5), (9, 10, 11)), torch.tensor(1.5), atol=1e-5)
    line = spline(torch.arange(7.0).reshape(1, 7, 1, 1).expand(1, 7, 4, 4), (20, 3, 3))[0, :, 0, 0]
    assert torch.allclose(line.diff(), line.diff()[0], atol=1e-5)


def test_knots_come_back_from_their_field_and_a_rough_field_has_none():
    knots = random(3, 5, 6, 5)
    assert torch.allclose(knots_like(spline(knots, (20, 24, 20)), (5, 6, 5)), knots, atol=1e-4)
    rough = random(1, 20, 24, 20)
    assert not torch.allclose(spline(knots_like(rough, (5, 6, 5)), (20, 24, 20)), rough, atol=0.5)


def test_knots_are_counted_in_millimetres():
    assert knot_counts((40, 48, 40), spacing_mm=4.0, knots_mm=16.0) == (13, 15, 13)
    assert knot_counts((80, 96, 80), spacing_mm=2.0, knots_mm=16.0) == (13, 15, 13)
    assert knot_counts((8, 8, 8), spacing_mm=1.0, knots_mm=100.0) == (4, 4, 4)


def test_a_voxel_sees_its_own_place_or_the_next():
    volume = random(2, 6, 7, 8)
    own = places((6, 7, 8), volume)
    assert torch.allclose(seen_from(volume, own), volume, atol=1e-6)
    beside = seen_from(volume, own + torch.tensor([1.0, 0, 0])[:, None, None, None])
    assert torch.allclose(beside[:, :-1], volume[:, 1:], atol=1e-5)
    assert float(beside[:, -1].abs().max()) < 1e-5


def test_only_what_is_affine_is_not_stiff():
    affine = torch.einsum("ab,bijk->aijk", random(3, 3), places((5, 6, 7), torch.zeros(()))) + 0.7
    assert float(stiffness(affine)) == pytest.approx(0.0, abs=1e-9)
    assert float(stiffness(affine + 0.1 * random(3, 5, 6, 7))) > 1e-3


def waves(per_voxel: float, at: torch.Tensor) -> torch.Tensor:
    """A wave along each axis, (1, *at.shape[1:])."""
    return torch.cos(2 * torch.pi * per_voxel * at).sum(0, keepdim=True)


def test_a_spline_is_sharp_between_voxels_where_trilinear_reading_is_not():
    """Waves of four voxels, the finest that voxels twice as large can show, half a voxel off."""
    at = places((24, 24, 24), torch.zeros(1))
    moved = at + torch.tensor([0.5, 0.5, 0.5])[:, None, None, None]
    volume, true = waves(0.25, at), waves(0.25, moved)
    inside = (slice(None), *(slice(6, -6),) * 3)

    def kept(found: torch.Tensor) -> float:
        return float((found * true)[inside].sum() / true.square()[inside].sum())

    assert kept(seen_sharply(coefficients(volume), moved)) == pytest.approx(1.0, abs=0.03)
    assert kept(seen_from(volume, moved)) < 0.75


def test_a_spline_goes_through_its_voxels():
    volume = random(2, 9, 12, 7)
    found = seen_sharply(coefficients(volume), places(volume.shape[1:], volume))
    assert torch.allclose(found, volume, atol=1e-5)
    assert not torch.allclose(seen_sharply(volume, places(volume.shape[1:], volume)), volume, atol=1e-2)


def test_a_spline_is_scipys():
    volume, place = random(1, 16, 16, 16).double(), random(3, 5, 5, 5, seed=1).double()
    wide = nnf.pad(volume, (8,) * 6)  # so that scipy, too, has zeros beyond the faces
    want = ndimage.map_coordinates(wide[0].numpy(), place.numpy() + 15.5, order=3)
    assert np.abs(seen_sharply(coefficients(volume), place)[0].numpy() - want).max() < 3e-4
    assert np.abs(seen_from(volume, place)[0].numpy() - want).max() > 0.1


def test_carrying_back_is_the_adjoint_of_bending():
    knots, volume, seen = 0.8 * random(3, *KNOTS), random(2, *SHAPE, seed=1), random(2, *SHAPE, seed=2)
    back = carried_back(seen, knots)
    assert float((bent(volume, knots) * seen).sum()) == pytest.approx(float((volume * back).sum()), rel=1e-4)
    assert float((bent(volume, -knots) * seen).sum()) != pytest.approx(float((volume * back).sum()), rel=1e-2)


# --- the atlas of heads ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted() -> tuple[torch.Tensor, torch.Tensor]:
    """Six heads that are one head, bent, and the field of each in voxels."""
    head = coarse_state(ball(0), 2)
    knots = torch.stack([0.9 * random(3, *KNOTS, seed=seed) for seed in range(6)])
    return torch.stack([bent(head, each) for each in knots]), knots


@pytest.fixture(scope="module")
def found(planted) -> tuple[Atlas, torch.Tensor]:
    recipe = AtlasRecipe(knots_mm=(64.0, 32.0), steps=30)
    people = [[-1.0 + 0.4 * number, (-1.0) ** number] for number in range(6)]
    return groupwise(planted[0], people, recipe, spacing_mm=4.0)


def test_heads_that_differ_in_shape_alone_are_explained_by_their_shapes(planted, found):
    states, (atlas, knots) = planted[0], found
    left = torch.cat([atlas.expected(each).mean for each in knots]) - states
    plain = states - states.mean(0)
    assert float(left[:, 0].square().mean()) < 0.15 * float(plain[:, 0].square().mean())
    assert float(atlas.deviation[0].mean()) < 0.7 * float(plain[:, 0].square().mean(0).sqrt().mean())


def test_no_head_is_the_reference(planted, found):
    atlas, knots = found
    again, others = groupwise(planted[0].flip(0), [[0.0]] * 6, AtlasRecipe((64.0, 32.0), 30), spacing_mm=4.0)
    assert torch.allclose(again.mean, atlas.mean, atol=1e-3)
    assert torch.allclose(others.flip(0), knots, atol=1e-2)


def test_the_shape_of_a_new_head_is_found_from_its_tissue_alone(found):
    atlas = found[0]
    truth = atlas.centre + torch.tensordot(torch.tensor([1.0, -1.0, 0.5, 0.0, 0.0]), atlas.modes, dims=1)
    head = atlas.expected(truth).mean[0]
    tissue = torch.tensor([0.0, 1.0, 1.0, 1.0])
    shaped = atlas.expected(atlas.fitted(head, tissue, spacing_mm=4.0)).mean[0]
    unshaped = atlas.expected(atlas.centre).mean[0]
    assert float((shaped - head)[0].square().mean()) < 0.2 * float((unshaped - head)[0].square().mean())
    blind = atlas.expected(atlas.fitted(head, 0 * tissue, spacing_mm=4.0)).mean[0]
    assert float((blind - head)[0].square().mean()) > 0.5 * float((unshaped - head)[0].square().mean())


def test_drawn_shapes_have_the_mean_and_the_spread_of_the_heads(found):
    atlas, knots = found
    drawn = torch.stack([atlas.drawn((None, None), each) for each in generators_for(1, range(400))])
    assert float((drawn.mean(0) - atlas.centre).abs().mean()) < 0.15 * float(knots.std(0).mean())
    assert float(drawn.std(0).square().mean()) == pytest.approx(
        float(knots.std(0).square().mean() + atlas.wander.square()), rel=0.15
    )


def test_shapes_follow_what_is_told_and_only_that(found):
    """The Gaussian given a number: its mean by regression, its spread less what the number explains."""
    atlas = plain_atlas(heads=3)
    atlas.leaning.copy_(torch.tensor([[0.9, 0.0], [0.0, 0.0]]))
    first = atlas.modes[0] / atlas.modes[0].square().sum()

    def scores(person) -> np.ndarray:
        drawn = [atlas.drawn(person, each) - atlas.centre for each in generators_for(2, range(600))]
        other = atlas.modes[1] - (atlas.modes[1] * first).sum() * atlas.modes[0]
        second = torch.stack([(each * other).sum() / other.square().sum() for each in drawn]).numpy()
        along = torch.stack([(each * first).sum() for each in drawn]).numpy()
        return along - second * float((atlas.modes[1] * first).sum())

    for person, mean, spread in (((1.0, None), 0.9, 0.436), ((None, 1.0), 0.0, 1.0), ((None, None), 0.0, 1.0)):
        found_scores = scores(person)
        assert found_scores.mean() == pytest.approx(mean, abs=0.12)
        assert found_scores.std() == pytest.approx(spread, abs=0.08)


def test_a_voxel_is_never_quite_sure():
    atlas = plain_atlas()
    atlas.deviation.zero_()
    assert float(atlas.expected(atlas.centre).deviation.min()) > 0.01


def test_tissue_counts_half_of_the_image():
    assert channel_weights(4).tolist() == [1.0, 0.5, 0.5, 0.5]
