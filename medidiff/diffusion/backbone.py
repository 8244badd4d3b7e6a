"""The fine prior's network: a fully convolutional 3D U-Net behind a lossless stem, from MONAI's blocks.

Nothing in it normalises over the field of view, so what it answers at a voxel depends on the voxels within `halo` of
it and on nothing else: a tile with that much surround gives what the whole volume gives. The stem (pixel-unshuffle: 1
channel at full size ↔ 8 at half size) puts no convolution at full size, where it would cost eight times as much.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from monai.networks.blocks.convolutions import Convolution
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from monai.networks.utils import pixelshuffle, pixelunshuffle
from torch import Tensor, nn
from torch.nn import functional as nnf

__all__ = ["Backbone", "BackboneShape"]

_MAPS = 2  # trailing input channels that also modulate: certainty and noise level
_TOLD = 32  # features that modulate the blocks
_EMBEDDING = 64  # sinusoids that encode the diffusion level
_STEPS_PER_NAT = 200.0  # MONAI's embedding resolves whole time steps; one e-fold of σ becomes this many


@dataclass(frozen=True, slots=True)
class BackboneShape:
    """Size of a `Backbone`; stands in recipes and cards.

    Args:
        channels: features at half and at quarter size.
        blocks: residual blocks at half size on the way down, at quarter size, and at half size on the way up.
    """

    channels: tuple[int, int] = (48, 96)
    blocks: tuple[int, int, int] = (2, 4, 2)


def _conv(inputs: int, outputs: int, size: int = 3) -> Convolution:
    return Convolution(3, inputs, outputs, kernel_size=size, conv_only=True)


def _silent(conv: Convolution) -> Convolution:
    """Start a convolution at zero, so that its branch is absent at first."""
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


class _Block(nn.Module):
    """Residual unit: SiLU, convolution, scale and shift by what is told at each voxel, SiLU, convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = _conv(channels, channels), _silent(_conv(channels, channels))
        self.modulate = _silent(_conv(_TOLD, 2 * channels, size=1))

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.modulate(told).chunk(2, dim=1)
        inner = torch.addcmul(shift, self.first(nnf.silu(x)), 1.0 + scale)
        answer: Tensor = x + self.second(nnf.silu(inner))
        return answer


class _Told(nn.Module):
    """What modulates the blocks: certainty and noise level of each voxel, and the diffusion level of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.maps, self.mix = _conv(_MAPS, _TOLD, size=1), _conv(_TOLD, _TOLD, size=1)
        self.level = nn.Linear(_EMBEDDING, _TOLD)

    def forward(self, maps: Tensor, c_noise: Tensor) -> Tensor:
        level = self.level(get_timestep_embedding(-_STEPS_PER_NAT * c_noise, _EMBEDDING))
        answer: Tensor = nnf.silu(self.mix(nnf.silu(self.maps(maps))) + level[..., None, None, None])
        return answer


class Backbone(nn.Module):
    """U-Net on half-size features, with one level below.

    The last two input channels say how sure the measurement is of each voxel and how noisy. Every block is scaled and
    shifted by them, because what is noise and what is detail differs by a constant *factor* between noise levels, and
    convolutions alone cannot multiply.

    Args:
        inputs: channels of the input at full size.
        shape: width and depth.
    """

    multiple = 4  # sizes are padded to this; tiles must start on it

    def __init__(self, inputs: int, shape: BackboneShape) -> None:
        super().__init__()
        half, quarter = shape.channels
        down, middle, up = shape.blocks
        self.halo = 1 + 2 * (2 + 2 * down + 2 * up) + 4 * (1 + 2 * middle)  # voxels a convolution chain can see
        self.told = nn.ModuleList((_Told(), _Told()))
        self.stem = _conv(8 * inputs, half)
        self.down = nn.ModuleList(_Block(half) for _ in range(down))
        self.shrink = _conv(8 * half, quarter, size=1)
        self.middle = nn.ModuleList(_Block(quarter) for _ in range(middle))
        self.grow = _conv(quarter, 8 * half, size=1)
        self.up = nn.ModuleList(_Block(half) for _ in range(up))
        self.head = _silent(_conv(half, 8))
        for weight in self.parameters():
            if weight.ndim == 5:  # as the features are, see `_fold`
                weight.data = weight.data.contiguous(memory_format=torch.channels_last_3d)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """(B, inputs, I, J, K) and (B,) level, ln σ-like -> (B, 1, I, J, K)."""
        size = x.shape[-3:]
        x = nnf.pad(x, [p for n in reversed(size) for p in (0, -n % self.multiple)])
        halves = nnf.avg_pool3d(x[:, -_MAPS:], 2).contiguous(memory_format=torch.channels_last_3d)
        at_half, at_quarter = self.told[0](halves, c_noise), self.told[1](nnf.avg_pool3d(halves, 2), c_noise)
        fine = self.stem(_fold(x))
        for block in self.down:
            fine = block(fine, at_half)
        coarse = self.shrink(_fold(fine))
        for block in self.middle:
            coarse = block(coarse, at_quarter)
        fine = fine + _unfold(self.grow(coarse))
        for block in self.up:
            fine = block(fine, at_half)
        return pixelshuffle(self.head(fine), 3, 2)[..., : size[0], : size[1], : size[2]]


def _fold(x: Tensor) -> Tensor:
    """Pixel-unshuffle; channels-last, which 3D convolutions on a CPU run 1.5-2 times faster in."""
    return pixelunshuffle(x, 3, 2).contiguous(memory_format=torch.channels_last_3d)


def _unfold(x: Tensor) -> Tensor:
    return pixelshuffle(x, 3, 2).contiguous(memory_format=torch.channels_last_3d)
