"""The fine prior's network: a fully convolutional 3D U-Net behind a lossless stem, from MONAI's layers.

Nothing in it normalises over the field of view, so what it answers at a voxel depends on the voxels within `halo` of
it and on nothing else: a tile with that much surround gives what the whole volume gives. The stem (pixel-unshuffle: 1
channel at full size ↔ 8 at half size) puts no convolution at full size, where it would cost eight times as much.

There are two ways through it. With gradients, or on a GPU, each layer sees the whole volume. On a CPU without
gradients it goes slab by slab along I: a block writes its answer over its input, so that one set of features is held
instead of four, and what lies between its two convolutions stays in the processor's cache. The answers are equal up to
rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from monai.networks.blocks.convolutions import Convolution
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.utils.checkpoint import checkpoint

__all__ = ["MAPS", "STEPS_PER_NAT", "Backbone", "BackboneShape", "fold", "unfold"]

MAPS = 2  # trailing input channels that also modulate: certainty and noise level
_TOLD = 32  # features that modulate the blocks
_EMBEDDING = 64  # sinusoids that encode the diffusion level
STEPS_PER_NAT = 200.0  # MONAI's embedding resolves whole time steps; one e-fold of σ becomes this many
_SLAB_BYTES = 2**23  # of the features of a slab: several of them fit into a processor's last cache
_SLAB_PLANES = 8  # at least: PyTorch convolves thin ones (channels x planes x rows up to 20,480) five times slower


@dataclass(frozen=True, slots=True)
class BackboneShape:
    """Size of a `Backbone`; stands in recipes and cards.

    Args:
        channels: features at half and at quarter size.
        blocks: residual blocks at half size on the way down, at quarter size, and at half size on the way up.
    """

    channels: tuple[int, int] = (48, 96)
    blocks: tuple[int, int, int] = (2, 4, 2)


class _Conv(Convolution):
    """MONAI's convolution that keeps the size, zero beyond the volume's faces, and three other ways to apply it."""

    conv: nn.Conv3d

    def __init__(self, inputs: int, outputs: int, size: int = 3) -> None:
        super().__init__(3, inputs, outputs, kernel_size=size, conv_only=True)

    def inside(self, x: Tensor) -> Tensor:
        """The convolution with one plane less on either side along I."""
        return nnf.conv3d(x, self.conv.weight, self.conv.bias, padding=(0, 1, 1))

    def pointwise(self, x: Tensor) -> Tensor:
        """A convolution of size 1, as one matrix product over channels-last features."""
        weight = self.conv.weight
        return nnf.linear(x.movedim(1, -1), weight.flatten(1), self.conv.bias).movedim(-1, 1)

    def of_folded(self, x: Tensor) -> Tensor:
        """A convolution of size 1 of `fold` of x, as one of stride 2 of x itself."""
        cells = self.conv.weight.reshape(-1, x.shape[1], 2, 2, 2).contiguous(memory_format=torch.channels_last_3d)
        return nnf.conv3d(x, cells, self.conv.bias, stride=2)


def _silent(conv: _Conv) -> _Conv:
    """Start a convolution at zero, so that its branch is absent at first."""
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


class _Block(nn.Module):
    """Residual unit: SiLU, convolution, scale and shift by what is told at each voxel, SiLU, convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = _Conv(channels, channels), _silent(_Conv(channels, channels))
        self.modulate = _silent(_Conv(_TOLD, 2 * channels, size=1))

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.modulate(told).chunk(2, dim=1)
        inner = torch.addcmul(shift, self.first(nnf.silu(x)), 1.0 + scale)
        answer: Tensor = x + self.second(nnf.silu(inner))
        return answer

    def overwrite(self, x: Tensor, told: _Slabs) -> None:
        """`forward`, with the answer in place of x.

        Plane p of the answer needs the planes p - 1 to p + 1 of what is between the convolutions, and those need x up
        to p + 2. The last two planes between are carried to the next slab, so nothing is computed twice, and x behind
        a slab is not looked at again.
        """
        depth, carried = x.shape[2], x[:, :, :0]
        for low, high in _slabs(x):
            start, stop = low + 1 if low else 0, min(high + 1, depth)
            inner = self.first.inside(nnf.silu(_planes(x, start - 1, stop + 1)))
            scale, shift = self.modulate.pointwise(told(start, stop)).chunk(2, dim=1)
            nnf.silu(torch.addcmul(shift, inner, 1.0 + scale, out=inner), inplace=True)
            inner = torch.cat([carried, inner], dim=2)
            carried = inner[:, :, -2:]
            x[:, :, low:high] += self.second.inside(_between(inner, int(low == 0), int(high == depth)))


class _Told(nn.Module):
    """What modulates the blocks: certainty and noise level of each voxel, and the diffusion level of the image."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.maps, self.mix = _Conv(maps, _TOLD, size=1), _Conv(_TOLD, _TOLD, size=1)
        self.level = nn.Linear(_EMBEDDING, _TOLD)

    def forward(self, maps: Tensor, c_noise: Tensor) -> Tensor:
        level = self.level(get_timestep_embedding(-STEPS_PER_NAT * c_noise, _EMBEDDING))
        mixed = self.mix.pointwise(nnf.silu(self.maps.pointwise(maps)))
        return nnf.silu(mixed + level[..., None, None, None])


@dataclass(frozen=True, slots=True)
class _Slabs:
    """What is told about some planes; one voxel stands for all along an axis along which the maps do not change."""

    told: _Told
    maps: Tensor
    c_noise: Tensor

    def __call__(self, low: int, high: int) -> Tensor:
        maps = self.maps[:, :, low:high]
        for axis in (2, 3, 4):
            first = maps.narrow(axis, 0, 1)
            if bool((maps == first).all()):
                maps = first
        answer: Tensor = self.told(maps, self.c_noise)
        return answer


class Backbone(nn.Module):
    """U-Net on half-size features, with one level below.

    The last two input channels say how sure the measurement is of each voxel and how noisy. Every block is scaled and
    shifted by them, because what is noise and what is detail differs by a constant *factor* between noise levels, and
    convolutions alone cannot multiply.

    Args:
        inputs: channels of the input at full size.
        shape: width and depth.
        outputs: channels of the answer.
        maps: trailing channels of the input that also modulate.

    With `recompute`, what a block computes on the way is not kept for the gradients but computed again, from what
    entered it (activation checkpointing): the gradients are the same, for less memory and about a third more time.
    """

    recompute = False
    multiple = 4  # sizes are padded to this; tiles must start on it

    def __init__(self, inputs: int, shape: BackboneShape, *, outputs: int = 1, maps: int = MAPS) -> None:
        super().__init__()
        self.outputs, self.maps = outputs, maps
        half, quarter = shape.channels
        down, middle, up = shape.blocks
        self.halo = 1 + 2 * (2 + 2 * down + 2 * up) + 4 * (1 + 2 * middle)  # voxels a convolution chain can see
        self.told = nn.ModuleList((_Told(maps), _Told(maps)))
        self.stem = _Conv(8 * inputs, half)
        self.down = nn.ModuleList(_Block(half) for _ in range(down))
        self.shrink = _Conv(8 * half, quarter, size=1)
        self.middle = nn.ModuleList(_Block(quarter) for _ in range(middle))
        self.grow = _Conv(quarter, 8 * half, size=1)
        self.up = nn.ModuleList(_Block(half) for _ in range(up))
        self.head = _silent(_Conv(half, 8 * outputs))
        for weight in self.parameters():
            if weight.ndim == 5:  # as the features are, see `fold`
                weight.data = weight.data.contiguous(memory_format=torch.channels_last_3d)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """(B, inputs, I, J, K) and (B,) level, ln σ-like -> (B, outputs, I, J, K)."""
        if x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu"):
            return self._by_slabs(x, c_noise)
        size = x.shape[-3:]
        x = nnf.pad(x, [p for n in reversed(size) for p in (0, -n % self.multiple)])
        halves = nnf.avg_pool3d(x[:, -self.maps :], 2).contiguous(memory_format=torch.channels_last_3d)
        at_half, at_quarter = self.told[0](halves, c_noise), self.told[1](nnf.avg_pool3d(halves, 2), c_noise)
        fine = self.stem(fold(x))
        for block in self.down:
            fine = self._through(block, fine, at_half)
        coarse = self.shrink(fold(fine))
        for block in self.middle:
            coarse = self._through(block, coarse, at_quarter)
        fine = fine + unfold(self.grow(coarse))
        for block in self.up:
            fine = self._through(block, fine, at_half)
        return unfold(self.head(fine))[..., : size[0], : size[1], : size[2]]

    def _through(self, block: nn.Module, x: Tensor, told: Tensor) -> Tensor:
        if not (self.recompute and torch.is_grad_enabled()):
            return block(x, told)  # type: ignore[no-any-return]
        return checkpoint(block, x, told, use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-any-return]

    def _by_slabs(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """The same for large volumes: the features are held once, and all else for a slab at a time."""
        size = x.shape[-3:]
        halved = [-(-n // self.multiple) * self.multiple // 2 for n in size]
        halves, fine = (_features(x, channels, halved) for channels in (self.maps, self.stem.conv.out_channels))
        for low, high in _slabs(fine):
            seen = _planes(x, 2 * low - 2, 2 * high + 2, sides=(2 * halved[1], 2 * halved[2]))
            fine[:, :, low:high] = self.stem.inside(fold(seen))
            halves[:, :, low:high] = nnf.avg_pool3d(seen[:, -self.maps :, 2:-2], 2)
        at_half = _Slabs(self.told[0], halves, c_noise)  # type: ignore[arg-type] # a ModuleList forgets its types
        at_quarter = _Slabs(self.told[1], nnf.avg_pool3d(halves, 2), c_noise)  # type: ignore[arg-type]
        for block in self.down:
            block.overwrite(fine, at_half)  # type: ignore[operator]
        coarse = _features(x, self.shrink.conv.out_channels, [n // 2 for n in halved])
        for low, high in _slabs(coarse):
            coarse[:, :, low:high] = self.shrink.of_folded(fine[:, :, 2 * low : 2 * high])
        for block in self.middle:
            block.overwrite(coarse, at_quarter)  # type: ignore[operator]
        for low, high in _slabs(coarse):
            fine[:, :, 2 * low : 2 * high] += unfold(self.grow.pointwise(coarse[:, :, low:high]))
        for block in self.up:
            block.overwrite(fine, at_half)  # type: ignore[operator]
        answer = x.new_empty((x.shape[0], self.outputs, *size))
        for low, high in _slabs(fine):
            planes = unfold(self.head.inside(_planes(fine, low - 1, high + 1)))
            stop = min(2 * high, size[0])
            answer[:, :, 2 * low : stop] = planes[:, :, : stop - 2 * low, : size[1], : size[2]]
        return answer


def fold(x: Tensor) -> Tensor:
    """MONAI's ``pixelunshuffle`` by 2; channels-last, which 3D convolutions on a CPU run 1.5-2 times faster in."""
    batch, channels, i, j, k = x.shape
    cells = x.reshape(batch, channels, i // 2, 2, j // 2, 2, k // 2, 2).permute(0, 2, 4, 6, 1, 3, 5, 7)
    return cells.reshape(batch, i // 2, j // 2, k // 2, 8 * channels).movedim(-1, 1)


def unfold(x: Tensor) -> Tensor:
    """MONAI's ``pixelshuffle`` by 2, the inverse of `fold`; channels-last too."""
    batch, channels, i, j, k = x.shape
    cells = x.movedim(1, -1).reshape(batch, i, j, k, channels // 8, 2, 2, 2).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return cells.reshape(batch, 2 * i, 2 * j, 2 * k, channels // 8).movedim(-1, 1)


def _features(like: Tensor, channels: int, size: list[int]) -> Tensor:
    """Memory for features, channels-last."""
    return like.new_empty((like.shape[0], *size, channels)).movedim(-1, 1)


def _slabs(x: Tensor) -> Iterator[tuple[int, int]]:
    """Where the slabs of some features begin and end along I; all about alike, so that none is thin."""
    depth = x.shape[2]
    count = max(x.numel() * x.element_size() // _SLAB_BYTES, 1)
    count = min(count, max(depth // _SLAB_PLANES, 1))
    for number in range(count):
        yield depth * number // count, depth * (number + 1) // count


def _planes(x: Tensor, low: int, high: int, *, sides: tuple[int, int] | None = None) -> Tensor:
    """The planes `low` to `high` along I, zero beyond the volume, which is continued by zeros to `sides` voxels."""
    depth, j, k = x.shape[-3:]
    wide, long = sides or (j, k)
    inside = x[:, :, max(low, 0) : min(high, depth)]
    lack = [0, long - k, 0, wide - j, max(-low, 0), max(high - depth, 0)]
    return nnf.pad(inside, lack) if any(lack) else inside


def _between(x: Tensor, before: int, behind: int) -> Tensor:
    """Features with planes of zeros at either end along I."""
    return nnf.pad(x, (0, 0, 0, 0, before, behind)) if before or behind else x
