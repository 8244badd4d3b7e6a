"""Laws of the network: what it answers at a voxel depends on the voxels within its halo, and on nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medidiff.diffusion import Condition, Preconditioned
from medidiff.diffusion.backbone import fold, unfold

LEVEL = torch.tensor([0.3])


@pytest.fixture(scope="module")
def network(random_backbone):
    return random_backbone()


@pytest.fixture(scope="module")
def normalised(random_backbone):
    """The same, with a normalisation over the field of view."""
    broken = random_backbone()
    broken.stem = nn.Sequential(broken.stem, nn.GroupNorm(1, 8))
    return broken


def volume(generator, *size):
    return torch.randn((1, Preconditioned.channels, *size), generator=generator)


def a_tile_with_its_halo_is_the_whole(network, x, *, halo, core=(40, 52)):
    """The core of what a tile gives is what the whole volume gives there; cut along I, at multiples of 4."""
    low, high = core[0] - halo // -4 * -4, core[1] - halo // -4 * 4
    assert low > 0, "the tile must not be the volume"
    assert high < x.shape[-3], "the tile must not be the volume"
    whole = network(x, LEVEL)[..., core[0] : core[1], :, :]
    tile = network(x[..., low:high, :, :], LEVEL)[..., core[0] - low : core[1] - low, :, :]
    torch.testing.assert_close(tile, whole, rtol=0, atol=1e-4)


def test_a_tile_with_its_halo_is_the_whole(network, generator):
    a_tile_with_its_halo_is_the_whole(network, volume(generator, 96, 9, 6), halo=network.halo)


def test_half_a_halo_is_not_enough(network, generator):
    with pytest.raises(AssertionError, match="not close"):
        a_tile_with_its_halo_is_the_whole(network, volume(generator, 96, 9, 6), halo=network.halo // 2)


def test_a_tile_off_the_stride_is_not_the_whole(network, generator):
    with pytest.raises(AssertionError, match="not close"):
        a_tile_with_its_halo_is_the_whole(network, volume(generator, 98, 9, 6), halo=network.halo, core=(41, 53))


def test_normalising_over_the_field_of_view_breaks_the_law(normalised, generator):
    with pytest.raises(AssertionError, match="not close"):
        a_tile_with_its_halo_is_the_whole(normalised, volume(generator, 96, 9, 6), halo=28)


def one_voxel_changes_nothing_beyond(halo, network, generator, axis):
    size = [8, 8, 8]
    size[axis] = 72
    x = volume(generator, *size)
    for place in (33, 34, 35, 36):  # every position within the stride
        other = x.clone()
        other.select(2 + axis, place).add_(10.0)
        changed = (network(other, LEVEL) != network(x, LEVEL)).movedim(2 + axis, 0).flatten(1).any(1)
        distance = (torch.arange(72) - place).abs()
        assert changed[place]
        assert not changed[distance > halo].any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_voxel_changes_nothing_beyond_the_halo(network, generator, axis):
    one_voxel_changes_nothing_beyond(network.halo, network, generator, axis)


def test_a_halo_that_is_too_small_or_a_normalisation_would_be_noticed(network, normalised, generator):
    with pytest.raises(AssertionError):
        one_voxel_changes_nothing_beyond(network.halo - 4, network, generator, 0)
    with pytest.raises(AssertionError):
        one_voxel_changes_nothing_beyond(network.halo, normalised, generator, 0)


@pytest.mark.parametrize("blocks", [(0, 0, 0), (2, 1, 0), (1, 3, 2)])
def test_the_halo_holds_for_other_depths(random_backbone, generator, blocks):
    network = random_backbone(blocks)
    x = volume(generator, 120, 4, 4)
    other = x.clone()
    other[:, :, 61] += 10.0
    reach = ((network(other, LEVEL) != network(x, LEVEL)).nonzero()[:, 2] - 61).abs().max()
    assert network.halo - 4 < reach <= network.halo


@pytest.mark.parametrize("size", [(37, 53, 11), (4, 4, 4), (1, 2, 3)])
def test_any_size_goes_in_and_comes_out(network, generator, size):
    answer = network(volume(generator, *size), LEVEL)
    assert answer.shape == (1, 1, *size)
    assert bool(answer.isfinite().all())


def test_sizes_are_padded_with_zeros_behind(network, generator):
    x = volume(generator, 37, 6, 11)
    padded = nn.functional.pad(x, (0, 1, 0, 2, 0, 3))
    torch.testing.assert_close(network(x, LEVEL), network(padded, LEVEL)[..., :37, :6, :11])


def test_folding_loses_nothing(generator):
    x = volume(generator, 8, 12, 4)
    assert torch.equal(unfold(fold(x)), x)
    assert fold(x).shape == (1, 8 * Preconditioned.channels, 4, 6, 2)
    with pytest.raises(AssertionError):
        assert torch.equal(unfold(fold(x).flip(1)), x)


def test_convolutions_are_handed_channels_last(generator):
    for change in (fold, unfold):
        x = torch.randn((2, 16, 8, 8, 8), generator=generator)
        assert change(x).is_contiguous(memory_format=torch.channels_last_3d)
        assert not change(x).contiguous().is_contiguous(memory_format=torch.channels_last_3d)


def test_the_level_reaches_the_answer(network, generator):
    x = volume(generator, 8, 8, 8)
    assert not torch.allclose(network(x, torch.tensor([0.3])), network(x, torch.tensor([0.31])))


def test_each_image_of_a_batch_is_answered_by_itself(network, generator):
    x, levels = torch.randn((3, Preconditioned.channels, 8, 8, 8), generator=generator), torch.tensor([-2.0, -0.1, 0.0])
    together = network(x, levels)
    for image in range(3):
        alone = network(x[image : image + 1], levels[image : image + 1])
        torch.testing.assert_close(alone[0], together[image], rtol=1e-5, atol=1e-5)
    swapped = network(x, levels.flip(0))
    assert not torch.allclose(swapped[0], together[0])


def half_precision_is_close(network, generator, autocast):
    seen = Condition(torch.rand((1, 1, 16, 12, 8), generator=generator), torch.tensor(1.0), torch.tensor(0.1))
    x, sigma = torch.randn(seen.image.shape, generator=generator), torch.tensor(0.4)
    full, half = (
        Preconditioned(network, sigma_data=0.5, sigma_detail=0.1, autocast=kind)(x, sigma, seen)
        for kind in (None, autocast)
    )
    assert half.dtype == torch.float32
    assert (half - full).square().mean().sqrt() < 0.01 * full.std()
    assert not torch.equal(half, full)


def test_bfloat16_is_close_to_float32(network, generator):
    half_precision_is_close(network, generator, torch.bfloat16)
    with pytest.raises(AssertionError):
        half_precision_is_close(network, generator, None)


def test_a_fresh_network_is_silent(generator):
    from medidiff.diffusion.backbone import Backbone, BackboneShape

    fresh = Backbone(Preconditioned.channels, BackboneShape((8, 12), (1, 1, 1)))
    assert fresh(volume(generator, 8, 8, 8), LEVEL).abs().max() == 0
