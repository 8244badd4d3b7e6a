"""Laws of the network's way through a large volume: slab by slab it answers as in one go, in less memory."""

from __future__ import annotations

import pytest
import torch
from monai.networks.utils import pixelshuffle, pixelunshuffle
from torch import nn

from medidiff.diffusion import Preconditioned
from medidiff.diffusion import backbone as module
from medidiff.diffusion.backbone import _Conv, fold, unfold

LEVEL = torch.tensor([0.3])


@pytest.fixture
def thin(monkeypatch):
    """Slabs as thin as they may be, so that small volumes have many."""
    monkeypatch.setattr(module, "_SLAB_BYTES", 1)
    monkeypatch.setattr(module, "_SLAB_PLANES", 2)


def volume(generator, *size, batch=1):
    return torch.randn((batch, Preconditioned.channels, *size), generator=generator)


def slab_by_slab_is_in_one_go(network, x, level=LEVEL):
    whole = network(x, level)
    with torch.no_grad():
        torch.testing.assert_close(network(x, level), whole, rtol=1e-5, atol=1e-5)


SIZES = [(48, 8, 12), (37, 53, 11), (50, 6, 7), (12, 30, 9), (4, 4, 4), (1, 2, 3)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("blocks", [(0, 0, 0), (1, 1, 1), (2, 3, 1)])
def test_slab_by_slab_is_in_one_go(random_backbone, generator, thin, size, blocks):
    slab_by_slab_is_in_one_go(random_backbone(blocks), volume(generator, *size))


@pytest.mark.parametrize("size", SIZES)
def test_one_slab_is_in_one_go(random_backbone, generator, size):
    slab_by_slab_is_in_one_go(random_backbone(), volume(generator, *size))


def test_each_image_of_a_batch_has_its_own_level(random_backbone, generator, thin):
    x, levels = volume(generator, 24, 8, 6, batch=3), torch.tensor([-2.0, -0.1, 0.0])
    slab_by_slab_is_in_one_go(random_backbone(), x, levels)


@pytest.mark.parametrize("axes", [(2, 3, 4), (3, 4), (2,), ()])
def test_maps_that_stand_still_along_some_axes_are_told_alike(random_backbone, generator, thin, axes):
    x = volume(generator, 29, 10, 14)
    for axis in axes:
        x[:, 3:] = x[:, 3:].narrow(axis, 0, 1)
    slab_by_slab_is_in_one_go(random_backbone(), x)


def a_broken_slab_is_noticed(network, x, **broken):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in broken.items():
            patch.setattr(module, name, value)
        with pytest.raises(AssertionError, match="not close"):
            slab_by_slab_is_in_one_go(network, x)


def test_a_slab_without_its_neighbours_is_noticed(random_backbone, generator, thin):
    """Planes beyond a slab taken for zero, as they are beyond the volume."""
    network, x, planes = random_backbone(), volume(generator, 40, 8, 8), module._planes

    def alone(x, low, high, **sides):
        part = planes(x, low, high, **sides).clone()
        part[:, :, :1] = 0
        return part

    a_broken_slab_is_noticed(network, x, _planes=alone)
    slab_by_slab_is_in_one_go(network, x)


def test_maps_told_from_one_voxel_where_they_change_are_noticed(random_backbone, generator, thin):
    class First(module._Slabs):
        def __call__(self, low, high):
            return self.told(self.maps[:, :, low : low + 1], self.c_noise)

    a_broken_slab_is_noticed(random_backbone(), volume(generator, 40, 8, 8), _Slabs=First)


def test_an_overwritten_block_that_looks_back_is_noticed(random_backbone, generator, thin):
    """The two planes that are carried must not be computed from x where its answer already stands."""
    network, x = random_backbone(), volume(generator, 40, 8, 8)
    between = module._between

    def forgetful(inner, before, behind):
        inner = inner.clone()
        inner[:, :, 0] = 0
        return between(inner, before, behind)

    a_broken_slab_is_noticed(network, x, _between=forgetful)


def test_gradients_take_the_other_way(random_backbone, generator):
    network = random_backbone().requires_grad_(True)
    network(volume(generator, 8, 8, 8), LEVEL).sum().backward()
    assert all(weight.grad is not None for weight in network.parameters())


def largest_tensor(network, x, *, grad):
    """Bytes of the largest tensor that any layer gives or is given."""
    sizes = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            answer = function(*args, **(kwargs or {}))
            if isinstance(answer, torch.Tensor) and function is not torch.Tensor.movedim:
                sizes.append(answer.untyped_storage().nbytes() if answer._base is None else 0)
            return answer

    with torch.set_grad_enabled(grad), Watch():
        network(x, LEVEL)
    return sorted(sizes, reverse=True)


def test_only_one_set_of_features_is_whole(random_backbone, generator, thin):
    """Beside the features and the answer, nothing is larger than some planes."""
    network, x = random_backbone(channels=(32, 32)), volume(generator, 128, 16, 16)
    features = 4 * 32 * x[0, 0].numel() // 8
    slabs, whole = (largest_tensor(network, x, grad=grad) for grad in (False, True))
    assert slabs[0] == features
    assert slabs[1] == 4 * x[0, 0].numel() < features  # the answer
    assert sum(size == features for size in whole) > 4


# What is done another way than MONAI does it


def test_folding_is_monais(generator):
    x = torch.randn((2, 8, 6, 4, 8), generator=generator)
    assert torch.equal(fold(x), pixelunshuffle(x, 3, 2))
    assert torch.equal(unfold(x), pixelshuffle(x, 3, 2))
    with pytest.raises(AssertionError):
        assert torch.equal(fold(x), pixelunshuffle(x.flip(2), 3, 2))


def test_the_shortcuts_of_the_slabs_are_the_layers(generator):
    conv, x = _Conv(8, 4, 1).requires_grad_(False), torch.randn((2, 8, 5, 6, 7), generator=generator)
    torch.testing.assert_close(conv.pointwise(x), conv(x))
    wide, cells = _Conv(64, 4, 1).requires_grad_(False), x[..., :4, :6, :6]
    torch.testing.assert_close(wide.of_folded(cells), wide(fold(cells)))
    three = _Conv(8, 4).requires_grad_(False)
    torch.testing.assert_close(three.inside(x), three(x)[:, :, 1:-1])
    with pytest.raises(AssertionError):
        torch.testing.assert_close(three.inside(x), three(x)[:, :, :-2])
    assert isinstance(three.conv, nn.Conv3d)
