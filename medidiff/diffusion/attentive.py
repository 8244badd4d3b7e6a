"""The coarse prior's network: MONAI's diffusion U-Net, with attention where the whole head is a few hundred voxels.

Attention and group normalisation look at the whole field of view, which is what a prior of whole heads needs and what
one that works tile by tile must not do: `backbone` is for those.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from torch import Tensor, nn

from medidiff.diffusion.backbone import STEPS_PER_NAT, fold, unfold

__all__ = ["Attentive", "AttentiveShape"]

_GROUPS = 16  # of the normalisation; divides every width


@dataclass(frozen=True, slots=True)
class AttentiveShape:
    """Size of an `Attentive`; stands in recipes and cards.

    Args:
        channels: features at half, quarter and eighth size, multiples of 16; attention is at the last.
        blocks: residual blocks at each size on the way down; one more on the way up.
        head: features of one attention head.
    """

    channels: tuple[int, int, int] = (32, 64, 128)
    blocks: int = 1
    head: int = 32


class Attentive(nn.Module):
    """A U-Net on half-size features of whole volumes.

    Args:
        maps: channels of the volumes that are read.
        told: numbers that hold for the whole volume.
        outputs: channels of the answer.
        shape: width and depth.
    """

    multiple = 8  # sizes must be divisible by it

    def __init__(self, maps: int, told: int, outputs: int, shape: AttentiveShape) -> None:
        super().__init__()
        self.unet = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=8 * maps + told,
            out_channels=8 * outputs,
            channels=shape.channels,
            attention_levels=(False, False, True),
            norm_num_groups=_GROUPS,
            num_res_blocks=shape.blocks,
            num_head_channels=shape.head,
        )
        for weight in self.parameters():
            if weight.ndim == 5:  # as the features are, see `fold`
                weight.data = weight.data.contiguous(memory_format=torch.channels_last_3d)

    def forward(self, maps: Tensor, told: Tensor, c_noise: Tensor) -> Tensor:
        """(B, maps, I, J, K), (B, told) and (B,) level, ln σ-like -> (B, outputs, I, J, K)."""
        halves = fold(maps)
        planes = told[:, :, None, None, None].expand(-1, -1, *halves.shape[-3:])
        answer: Tensor = self.unet(torch.cat([halves, planes], dim=1), -STEPS_PER_NAT * c_noise)
        return unfold(answer)
