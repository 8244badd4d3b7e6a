"""Four usual generators of whole heads, made of MONAI's parts; each says what it minimises and how it draws.

* ``vae``: `VarAutoEncoder` with the optimal σ of Rybkin et al. 2021 (arXiv:2006.13202): one variance for the error of
  all voxels, which is then its mean square. Draws are decoded normal numbers with the mean and spread of the codes of
  training heads (Ghosh et al. 2020, arXiv:1903.12436): after minutes of training these are far from N(0, 1).
* ``gan``: generator and critic of `Convolution` and `UpSample`, hinge loss, spectral norm in every layer of the critic
  (Miyato et al. 2018, arXiv:1802.05957), which also sees the deviation within the batch (Karras et al. 2018).
* ``ddpm``: `DiffusionModelUNet`, `DDPMScheduler` and `DiffusionInferer` on voxels as in MONAI's 3D tutorial, drawn by
  DDIM.
* ``ldm``: `AutoencoderKL` in the first half of the time, with the tutorial's L1 and KL but without its losses of a
  pretrained and of a second network; then `DiffusionModelUNet` on its latents through `LatentDiffusionInferer`.

Each has 5.7 to 5.8 million weights, few of them at full size, where a convolution costs most.
Networks see ``2 x - 1`` of a head at network scale, so air is -1 and white matter about 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from monai.inferers import DiffusionInferer, LatentDiffusionInferer
from monai.networks.blocks import Convolution, UpSample
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet, VarAutoEncoder
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.nn.utils.parametrizations import spectral_norm

__all__ = ["KINDS", "Alternative", "Move", "build"]

KINDS = ("vae", "gan", "ddpm", "ldm")
_WIDTHS: Mapping[str, tuple[int, ...]] = {
    "vae": (16, 32, 64, 176),
    "gan": (16, 64, 128, 320, 32, 64, 128, 256),
    "ddpm": (8, 24, 64, 112),
    "ldm": (8, 24, 64, 64, 104),
}
_CODE = 64  # numbers that a VAE or GAN draws a head from
_FORGET = 0.05  # share of a step in the running mean and square of the codes
_LATENTS = 4  # channels of the latent head, which has a quarter of the voxels along each axis
_TIMES, _BETAS = 1000, {"beta_start": 0.0005, "beta_end": 0.0195}  # as in MONAI's 3D tutorials
_STEPS = 50  # of DDIM
_RANGE = {"clip_sample_min": -1.0, "clip_sample_max": 1.6}  # the tutorials clip to the range of their images too
_KL = 1e-6  # weight beside L1 in the tutorial's autoencoder
_GROUPS = 4
_DOWN = 3  # halvings of a head in VAE, GAN
_HALF = 0.5  # share of the time that the autoencoder of latents gets


@dataclass(frozen=True, slots=True)
class Move:
    """One loss to go down: of which part, and how much of that part's time is over."""

    part: str
    loss: Tensor
    share: float


class Alternative(nn.Module):
    """A generator of heads.

    Args:
        shape: (I, J, K) of a head, multiples of 8.

    Attributes:
        batch: heads of a step.
        rates: learning rate of each part.
        betas: of Adam.
        cooled: whether the rates fall to 0 at the end.
        clip: largest norm of a gradient.
    """

    batch = 4
    rates: ClassVar[Mapping[str, float]]
    betas = (0.9, 0.999)
    cooled = True
    clip = 1.0

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def part(self, name: str) -> nn.Module:
        """The networks that a loss moves."""
        found: nn.Module = getattr(self, name)
        return found

    def losses(self, x: Tensor, share: float) -> Iterator[Move]:
        """What to move, one after the other, each with gradients through the weights as they then are.

        Args:
            x: (B, 1, I, J, K) heads at network scale.
            share: of the time that is over, in [0, 1).
        """
        raise NotImplementedError

    def drawing(self) -> list[nn.Module]:
        """The networks that a draw needs."""
        raise NotImplementedError

    def decoded(self) -> Tensor:
        """(1, 1, I, J, K) head as the networks see it, from torch's own random numbers."""
        raise NotImplementedError

    @torch.no_grad()
    def draw(self) -> Tensor:
        """(I, J, K) head at network scale, air 0, from torch's own random numbers."""
        return ((self.decoded()[0, 0] + 1) / 2).clamp_min(0)


def _seen(x: Tensor) -> Tensor:
    return 2 * x - 1


class Vae(Alternative):
    """A variational autoencoder with one code for a head."""

    rates: ClassVar = {"net": 1e-3}
    centre: Tensor
    square: Tensor

    def __init__(self, shape: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__(shape)
        self.net = VarAutoEncoder(
            spatial_dims=3,
            in_shape=(1, *shape),
            out_channels=1,
            latent_size=_CODE,
            channels=widths,
            strides=(1, *(2,) * _DOWN),
            act="LEAKYRELU",
            norm=("GROUP", {"num_groups": _GROUPS}),
            use_sigmoid=False,
        )
        self.register_buffer("centre", torch.zeros(_CODE))
        self.register_buffer("square", torch.ones(_CODE))

    def losses(self, x: Tensor, share: float) -> Iterator[Move]:
        """Negative evidence bound in nats a voxel, but for a constant."""
        found, mean, log_variance, code = self.net(_seen(x))
        with torch.no_grad():
            self.centre.lerp_(code.mean(0), _FORGET)
            self.square.lerp_(code.square().mean(0), _FORGET)
        error = nnf.mse_loss(found, _seen(x))
        apart = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        yield Move("net", 0.5 * error.log() + apart / x[0].numel(), share)

    def drawing(self) -> list[nn.Module]:
        """The decoder."""
        return [self.net.decodeL, self.net.decode]

    def decoded(self) -> Tensor:
        """The mean head of a code."""
        spread = (self.square - self.centre.square()).clamp_min(0).sqrt()
        code = self.centre + spread * torch.randn(1, _CODE)
        found: Tensor = self.net.decode_forward(code, use_sigmoid=False)
        return found


def _layer(into: int, out: int, *, stride: int = 1) -> Convolution:
    """Convolution and leaky rectifier, no norm."""
    return Convolution(3, into, out, strides=stride, act=("LEAKYRELU", {"negative_slope": 0.2}), norm=None)


class Critic(nn.Module):
    """How real a head looks: a score for each, with spectral norm in every layer."""

    def __init__(self, shape: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        channels = [1, *widths]
        self.layers = nn.Sequential(*(_layer(a, b, stride=2) for a, b in pairwise(channels[:-1])))
        self.last = _layer(channels[-2] + 1, channels[-1])
        cells = shape[0] * shape[1] * shape[2] // 8**_DOWN
        self.score = nn.Linear(cells * channels[-1], 1)
        for module in [m for m in self.modules() if isinstance(m, nn.Conv3d | nn.Linear)]:
            spectral_norm(module)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, I, J, K) -> (B, 1)."""
        found = self.layers(x)
        spread = (found.var(0, unbiased=False) + 1e-8).sqrt().mean().expand_as(found[:, :1])
        answer: Tensor = self.score(self.last(torch.cat([found, spread], dim=1)).flatten(1))
        return answer


class Generator(nn.Module):
    """A code to a head: a linear layer, then convolutions after each doubling."""

    def __init__(self, shape: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        self.start = tuple(n // 2**_DOWN for n in shape)
        channels = list(reversed(widths))
        self.first = nn.Linear(_CODE, channels[0] * self.start[0] * self.start[1] * self.start[2])
        layers: list[nn.Module] = []
        for into, out in pairwise(channels):
            larger = UpSample(3, into, scale_factor=2, mode="nontrainable", interp_mode="nearest", align_corners=None)
            layers += [larger, _layer(into, out), nn.GroupNorm(_GROUPS, out)]
        self.layers = nn.Sequential(*layers, Convolution(3, channels[-1], 1, conv_only=True))

    def forward(self, code: Tensor) -> Tensor:
        """(B, code) -> (B, 1, I, J, K)."""
        found: Tensor = self.layers(nnf.leaky_relu(self.first(code), 0.2).unflatten(1, (-1, *self.start)))
        return found


class Gan(Alternative):
    """Generator against critic."""

    batch = 2
    rates: ClassVar = {"generator": 5e-4, "critic": 5e-4}
    betas = (0.0, 0.9)
    cooled = False
    clip = float("inf")

    def __init__(self, shape: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__(shape)
        half = len(widths) // 2
        self.generator, self.critic = Generator(shape, widths[:half]), Critic(shape, widths[half:])

    def losses(self, x: Tensor, share: float) -> Iterator[Move]:
        """The critic's hinge loss, then the generator's."""
        invented = self.generator(torch.randn(len(x), _CODE))
        real, false = self.critic(_seen(x)), self.critic(invented.detach())
        yield Move("critic", nnf.relu(1 - real).mean() + nnf.relu(1 + false).mean(), share)
        self.critic.requires_grad_(False)
        yield Move("generator", -self.critic(invented).mean(), share)
        self.critic.requires_grad_(True)

    def drawing(self) -> list[nn.Module]:
        """The generator."""
        return [self.generator]

    def decoded(self) -> Tensor:
        """The head of a code."""
        found: Tensor = self.generator(torch.randn(1, _CODE))
        return found


def _training_schedule() -> DDPMScheduler:
    return DDPMScheduler(_TIMES, "scaled_linear_beta", clip_sample=False, **_BETAS)


def _drawing_schedule(**clip: float) -> DDIMScheduler:
    schedule = DDIMScheduler(_TIMES, "scaled_linear_beta", clip_sample=bool(clip), **_BETAS, **clip)
    schedule.set_timesteps(_STEPS)
    return schedule


class Ddpm(Alternative):
    """Diffusion on voxels."""

    batch = 2
    rates: ClassVar = {"net": 5e-4}

    def __init__(self, shape: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__(shape)
        self.net = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=1,
            out_channels=1,
            channels=widths,
            attention_levels=(*(False,) * (len(widths) - 1), True),
            num_res_blocks=1,
            norm_num_groups=_GROUPS,
            num_head_channels=widths[-1] // 2,
        )

    def losses(self, x: Tensor, share: float) -> Iterator[Move]:
        """Squared error of the noise at a random time."""
        noise, times = torch.randn_like(x), torch.randint(_TIMES, (len(x),))
        found = DiffusionInferer(_training_schedule())(_seen(x), self.net, noise, times)
        yield Move("net", nnf.mse_loss(found, noise), share)

    def drawing(self) -> list[nn.Module]:
        """The network."""
        return [self.net]

    def decoded(self) -> Tensor:
        """A draw by DDIM."""
        schedule = _drawing_schedule(**_RANGE)
        noise = torch.randn(1, 1, *self.shape)
        found: Tensor = DiffusionInferer(schedule).sample(noise, self.net, schedule, verbose=False)
        return found


class Ldm(Alternative):
    """Diffusion on the latents of an autoencoder."""

    rates: ClassVar = {"autoencoder": 1e-3, "net": 1e-3}
    scale: Tensor

    def __init__(self, shape: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__(shape)
        self.autoencoder = AutoencoderKL(
            spatial_dims=3,
            channels=widths[:3],
            latent_channels=_LATENTS,
            num_res_blocks=1,
            attention_levels=(False,) * 3,
            norm_num_groups=_GROUPS,
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
        )
        self.net = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=_LATENTS,
            out_channels=_LATENTS,
            channels=widths[3:],
            attention_levels=(False, True),
            num_res_blocks=1,
            norm_num_groups=_GROUPS,
            num_head_channels=widths[-1] // 2,
        )
        self.register_buffer("scale", torch.zeros(()))

    def losses(self, x: Tensor, share: float) -> Iterator[Move]:
        """The autoencoder's loss in the first half, that of the noise in its latents in the second."""
        if share < _HALF:
            found, mean, deviation = self.autoencoder(_seen(x))
            apart = 0.5 * (mean.square() + deviation.square() - deviation.square().log() - 1).flatten(1).sum(1).mean()
            yield Move("autoencoder", nnf.l1_loss(found, _seen(x)) + _KL * apart, share / _HALF)
            return
        if self.scale == 0:
            with torch.no_grad():
                self.scale.copy_(1 / self.autoencoder.encode_stage_2_inputs(_seen(x)).std())
        noise, times = torch.randn(len(x), *self._latent()), torch.randint(_TIMES, (len(x),))
        inferer = LatentDiffusionInferer(_training_schedule(), scale_factor=float(self.scale))
        found = inferer(_seen(x), self.autoencoder, self.net, noise, times)
        yield Move("net", nnf.mse_loss(found, noise), (share - _HALF) / (1 - _HALF))

    def drawing(self) -> list[nn.Module]:
        """The latent network and the decoder."""
        return [self.net, self.autoencoder.post_quant_conv, self.autoencoder.decoder]

    def decoded(self) -> Tensor:
        """A draw of latents by DDIM, decoded."""
        schedule = _drawing_schedule()
        inferer = LatentDiffusionInferer(schedule, scale_factor=float(self.scale) or 1.0)
        noise = torch.randn(1, *self._latent())
        found: Tensor = inferer.sample(noise, self.autoencoder, self.net, schedule, verbose=False)
        return found

    def _latent(self) -> tuple[int, ...]:
        return (_LATENTS, *(n // 4 for n in self.shape))


def build(kind: str, shape: Sequence[int], widths: Sequence[int] = ()) -> Alternative:
    """A generator with fresh weights, from torch's own random numbers.

    Args:
        kind: of `KINDS`.
        shape: of a head, multiples of 8.
        widths: features of its networks from fine to coarse; those of about 5.7 million weights when empty. Of
            ``gan``, the second half is the critic's; of ``ldm``, the last two are the latent network's.
    """
    makers: Mapping[str, type[Vae | Gan | Ddpm | Ldm]] = {"vae": Vae, "gan": Gan, "ddpm": Ddpm, "ldm": Ldm}
    return makers[kind](shape, widths or _WIDTHS[kind])
