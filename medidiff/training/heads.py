"""Training heads: whole brains in one frame, with the shares of their tissue, each seen in a new variation.

A pack holds them in a finer frame than the prior's, where a head is bent before the coarse voxels see it: so a bent
head is as sharp as one that was scanned. Every head is a function of the seed and of its number alone.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as nnf

from medidiff.diffusion.denoiser import with_noise
from medidiff.diffusion.whole import Asked
from medidiff.errors import SettingsError
from medidiff.io.files.atomic import write_file
from medidiff.prior.asking import Sex, Vocabulary
from medidiff.training.chance import Chance
from medidiff.training.coarse_recipe import AskedRecipe, CoarseRecipe, Variation
from medidiff.training.patches import Batch

__all__ = ["LABELS", "Head", "Heads", "about", "read_heads", "vary", "write_heads"]

LABELS = ("CSF", "gray matter", "white matter")
"""Names of the tissue channels, after the image."""
_SHARE_STEPS = 255  # a share of tissue is kept in one byte


@dataclass(frozen=True, slots=True)
class Head:
    """A whole brain in the finer frame.

    Args:
        image: (I, J, K) half precision, white matter about 1, air 0.
        shares: (3, I, J, K) bytes, the share of each of `LABELS` in every voxel, of 255.
        contrast: e.g. ``"T1w"``.
        age: in years.
        sex: of the subject.
        sha256: of the scan's float32 image and its label map in the finer frame.
    """

    image: Tensor
    shares: Tensor
    contrast: str
    age: float
    sex: Sex
    sha256: str


class _About(BaseModel):
    model_config = ConfigDict(extra="forbid")
    part: Literal["train", "validation"]
    contrast: Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,16}$")]
    age: Annotated[float, Field(ge=0, le=130, allow_inf_nan=False)]
    sex: Sex
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def write_heads(path: Path, parts: Mapping[Literal["train", "validation"], Sequence[Head]]) -> None:
    """Pack heads by the part of the split that they are of; no name of a file, subject or folder goes in.

    Raises:
        OutputError: the system refuses to write; nothing half is left.
    """
    tensors: dict[str, Tensor] = {}
    listed: list[dict[str, object]] = []
    for part, heads in parts.items():
        for head in heads:
            number = f"{len(listed):04d}"
            tensors |= {f"{number}.image": head.image.contiguous(), f"{number}.shares": head.shares.contiguous()}
            about = _About(part=part, contrast=head.contrast, age=head.age, sex=head.sex, sha256=head.sha256)
            listed.append(about.model_dump())
    write_file(path, lambda partial: partial.write_bytes(save(tensors, {"heads": json.dumps(listed)})))


def read_heads(path: Path, *, part: str) -> list[Head]:
    """The heads of one part of a pack.

    Raises:
        SettingsError: ``E-PACK``, it is no pack of heads, a broken one, or holds none of this part.
    """
    heads = []
    try:
        with safe_open(path, framework="pt") as file:
            listed = TypeAdapter(list[_About]).validate_json((file.metadata() or {}).get("heads", ""))
            for number, each in enumerate(listed):
                if each.part != part:
                    continue
                image, shares = (file.get_tensor(f"{number:04d}.{name}") for name in ("image", "shares"))
                if shares.dtype != torch.uint8 or shares.shape != (len(LABELS), *image.shape):
                    raise ValueError
                if not image.isfinite().all():
                    raise ValueError
                heads.append(Head(image, shares, each.contrast, each.age, each.sex, each.sha256))
    except (OSError, SafetensorError, ValidationError, ValueError) as error:
        mend = "Make it with pipelines/prepare.py, from the recipe of a coarse prior."
        raise SettingsError("E-PACK", "no pack of heads, or a broken one", mend=mend, file=path.name) from error
    if not heads:
        raise SettingsError("E-PACK", f"no head of the part '{part}' in the pack", file=path.name)
    return heads


def about(heads: Sequence[Head]) -> tuple[Vocabulary, str]:
    """What may be asked of a prior that was trained on some heads, and their fingerprint."""
    contrasts = tuple(sorted({head.contrast for head in heads}))
    ages = [head.age for head in heads]
    sexes: tuple[Sex, ...] = tuple(sorted({head.sex for head in heads}))
    fingerprint = hashlib.sha256("".join(sorted(head.sha256 for head in heads)).encode()).hexdigest()
    return Vocabulary(contrasts, (min(ages), max(ages)), sexes), fingerprint


class Heads:
    """Batches of varied heads.

    Args:
        heads: to vary, all in one finer frame.
        recipe: how, and the seed.
        vocabulary: what is told of them.
        device: where they are made; the heads are kept there.
    """

    def __init__(
        self,
        heads: Sequence[Head],
        recipe: CoarseRecipe,
        vocabulary: Vocabulary,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        finer = tuple(n * recipe.data.finer for n in recipe.data.shape)
        if any(tuple(head.image.shape) != finer for head in heads):
            mend = "Make the pack again from this recipe, with pipelines/prepare.py."
            raise SettingsError("E-PACK", "heads in another frame than the recipe's", mend=mend)
        self.recipe, self.vocabulary, self.device = recipe, vocabulary, torch.device(device)
        self.heads = [head_on(head, self.device) for head in heads]

    def state(self, number: int) -> Tensor:
        """(C, I, J, K) head of this number, varied, in the coarse frame."""
        chance = Chance(self.recipe.seed, number)
        return self._varied(self.heads[chance.below(len(self.heads))], chance)

    def _varied(self, head: Head, chance: Chance) -> Tensor:
        fine = torch.cat([head.image.float()[None], head.shares.float() / _SHARE_STEPS])
        spacing = self.recipe.data.spacing_mm / self.recipe.data.finer
        seen = vary(fine, self.recipe.variation, spacing_mm=spacing, chance=chance)
        return nnf.avg_pool3d(seen[None], self.recipe.data.finer)[0]

    def batch(self, numbers: Sequence[int]) -> Batch:
        """The heads with these numbers, what is asked of each, and their diffused states."""
        states, tolds, shares, sigmas, noises = [], [], [], [], []
        for number in numbers:
            chance = Chance(self.recipe.seed, number)
            head = self.heads[chance.below(len(self.heads))]
            states.append(self._varied(head, chance))
            tolds.append(torch.tensor(self._told(head, self.recipe.asked, chance)))
            shares.append(_given(self.recipe.asked, chance))
            sigmas.append(chance.log_uniform(*self.recipe.fit.sigma))
            generator = torch.Generator(self.device).manual_seed(chance.below(2**62))
            noises.append(torch.randn(states[-1].shape, generator=generator, device=self.device))
        x, sigma = torch.stack(states), torch.tensor(sigmas, device=self.device)
        certainty = torch.tensor(shares, device=self.device)[:, :, None, None, None].expand_as(x)
        asked = Asked(torch.stack(tolds).to(self.device), x, certainty)
        return Batch(x, asked, sigma, with_noise(x, sigma, torch.stack(noises)))

    def batches(self, numbers: Iterable[Sequence[int]]) -> Iterator[Batch | None]:
        """A batch for each list of numbers; None for an empty one."""
        yield from (self.batch(each) if len(each) else None for each in numbers)

    def _told(self, head: Head, asked: AskedRecipe, chance: Chance) -> list[float]:
        untold = chance.happens(asked.untold)
        left_out = [untold or chance.happens(asked.untold) for _ in range(3)]
        told = (head.contrast, head.age, head.sex)
        return self.vocabulary.tell(*(None if out else each for each, out in zip(told, left_out, strict=True)))  # type: ignore[arg-type]

    def statistics(self, count: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each voxel over `count` varied heads, (C, I, J, K) each."""
        total = squares = torch.zeros((), dtype=torch.float64, device=self.device)
        for number in range(count):
            state = self.state(-1 - number).double()
            total, squares = total + state, squares + state.square()
        mean = total / count
        variance = squares / count - mean.square()
        return mean.float(), variance.clamp_min(0).sqrt().clamp_min(_LEAST_DEVIATION).float()


_LEAST_DEVIATION = 0.02  # of a voxel over the heads: no voxel is ever quite the same


def head_on(head: Head, device: torch.device) -> Head:
    """A head with its tensors on a device."""
    return Head(head.image.to(device), head.shares.to(device), head.contrast, head.age, head.sex, head.sha256)


def _given(asked: AskedRecipe, chance: Chance) -> list[float]:
    """The certainty of each channel: nothing, the tissue or the image is given."""
    at = chance.uniform(0.0, 1.0)
    image = float(at < asked.image)
    tissue = float(asked.image <= at < asked.image + asked.tissue)
    return [image] + [tissue] * len(LABELS)


def vary(fine: Tensor, variation: Variation, *, spacing_mm: float, chance: Chance) -> Tensor:
    """A head turned, stretched, bent, brighter or darker; the shares of tissue move with it.

    Args:
        fine: (C, I, J, K) image and shares.
        variation: how far to go.
        spacing_mm: side of the voxels.
        chance: where the choices come from.
    """
    shape = fine.shape[-3:]
    turn = _rotation([math.radians(variation.turn_deg) * float(chance.normal()) for _ in range(3)])
    sizes = [math.exp(variation.stretch * float(chance.normal())) for _ in range(3)]
    shift = [variation.shift_mm / spacing_mm * float(chance.normal()) for _ in range(3)]
    mirror = -1.0 if chance.happens(variation.mirrored) else 1.0
    knots = [max(round(n * spacing_mm / variation.knots_mm), 1) + 3 for n in shape]
    bend = chance.normal((3, *knots)) * (variation.bend_mm / spacing_mm)
    gain = math.exp(variation.gain * float(chance.normal()))
    gamma = math.exp(variation.gamma * float(chance.normal()))
    bias = chance.normal((1, 5, 5, 5)) * variation.bias
    if not any((variation.turn_deg, variation.stretch, variation.shift_mm, variation.bend_mm)) and mirror == 1.0:
        seen = fine
    else:
        linear = turn @ torch.diag(torch.tensor([mirror * sizes[0], sizes[1], sizes[2]]))
        seen = _moved(fine, linear.to(fine), torch.tensor(shift).to(fine), _smooth(bend.to(fine), shape))
    field = _smooth(bias.to(fine), shape).exp() * gain
    image = seen[:1].clamp_min(0).pow(gamma) * field
    return torch.cat([image, seen[1:]])


def _moved(fine: Tensor, linear: Tensor, shift: Tensor, bend: Tensor) -> Tensor:
    """Where a voxel looks: at its own place about the middle, turned and stretched, shifted and bent, in voxels."""
    shape = fine.shape[-3:]
    axes = [torch.arange(n, dtype=fine.dtype, device=fine.device) - (n - 1) / 2 for n in shape]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    place = torch.einsum("ab,bijk->aijk", linear, place) + shift[:, None, None, None] + bend
    half = torch.tensor([n / 2 for n in shape]).to(fine)[:, None, None, None]
    grid = (place / half).flip(0).movedim(0, -1)  # PyTorch names the last axis first
    return nnf.grid_sample(fine[None], grid[None], align_corners=False)[0]


def _smooth(knots: Tensor, shape: Sequence[int]) -> Tensor:
    """The cubic B-spline over evenly spaced knots, (C, *knots) -> (C, *shape); the outer knots lie beyond the ends."""
    for axis, size in enumerate(shape, start=1):
        at = torch.linspace(1, knots.shape[axis] - 2, size, dtype=knots.dtype, device=knots.device)
        distance = (at[:, None] - torch.arange(knots.shape[axis], dtype=knots.dtype, device=knots.device)).abs()
        near = 2 / 3 - distance.square() + distance.pow(3) / 2
        far = (2 - distance).clamp_min(0).pow(3) / 6
        weights = torch.where(distance < 1, near, far)
        knots = torch.tensordot(knots, weights, dims=([axis], [1])).movedim(-1, axis)
    return knots


def _rotation(angles: Sequence[float]) -> Tensor:
    """Turns about the first, then the second, then the third axis."""
    turn = torch.eye(3)
    for axis, angle in enumerate(angles):
        one = torch.eye(3)
        a, b = (other for other in range(3) if other != axis)
        one[a, a] = one[b, b] = math.cos(angle)
        one[a, b], one[b, a] = -math.sin(angle), math.sin(angle)
        turn = one @ turn
    return turn
