"""Training heads: whole brains in one frame, with the shares of their tissue, each seen in a new variation.

With each goes its shape in the atlas of all of them, and the atlas is bent to every variation.

A pack holds them in a finer frame than the prior's, where a head is bent before the coarse voxels see it: so a bent
head is as sharp as one that was scanned. Every head is a function of the seed and of its number alone.
"""

from __future__ import annotations

import copy
import dataclasses
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

from medidiff.diffusion.atlas import Atlas, Expected
from medidiff.diffusion.denoiser import with_noise
from medidiff.diffusion.whole import Asked
from medidiff.errors import SettingsError
from medidiff.io.files.atomic import write_file
from medidiff.physics.bending import coefficients, knot_counts, places, seen_from, seen_sharply, spline
from medidiff.prior.asking import Sex, Vocabulary
from medidiff.training.chance import Chance
from medidiff.training.coarse_recipe import AskedRecipe, CoarseRecipe, Variation
from medidiff.training.patches import Batch

__all__ = [
    "LABELS",
    "Head",
    "Heads",
    "about",
    "coarse_state",
    "read_atlas",
    "read_heads",
    "vary",
    "worn",
    "write_heads",
]

LABELS = ("CSF", "gray matter", "white matter")
"""Names of the tissue channels, after the image."""
_SHARE_STEPS = 255  # a share of tissue is kept in one byte
_PACKED = ("image", "shares", "knots")
_ATLAS = "atlas."  # what the names of its tensors begin with
_INVERSIONS, _DAMPING = 12, 0.8  # steps of `worn`, and how far each goes
_BROKEN = (OSError, SafetensorError, ValidationError, ValueError)


@dataclass(frozen=True, slots=True)
class Head:
    """A whole brain in the finer frame.

    Args:
        image: (I, J, K) half precision, white matter about 1, air 0.
        shares: (3, I, J, K) bytes, the share of each of `LABELS` in every voxel, of 255.
        knots: (3, *knots) of its shape in the atlas, in coarse voxels.
        contrast: e.g. ``"T1w"``.
        age: in years.
        sex: of the subject.
        sha256: of the scan's voxels as read, and their affine.
    """

    image: Tensor
    shares: Tensor
    knots: Tensor
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


def write_heads(path: Path, parts: Mapping[Literal["train", "validation"], Sequence[Head]], atlas: Atlas) -> None:
    """Pack heads by the part of the split that they are of, and their atlas; no name of a file or subject goes in.

    Raises:
        OutputError: the system refuses to write; nothing half is left.
    """
    tensors = {f"{_ATLAS}{name}": tensor.contiguous() for name, tensor in atlas.state_dict().items()}
    listed: list[dict[str, object]] = []
    for part, heads in parts.items():
        for head in heads:
            number = f"{len(listed):04d}"
            tensors |= {f"{number}.{name}": getattr(head, name).contiguous() for name in _PACKED}
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
                image, shares, knots = (file.get_tensor(f"{number:04d}.{name}") for name in _PACKED)
                if shares.dtype != torch.uint8 or shares.shape != (len(LABELS), *image.shape):
                    raise ValueError
                if not (image.isfinite().all() and knots.isfinite().all()) or knots.ndim != 4 or len(knots) != 3:
                    raise ValueError
                heads.append(Head(image, shares, knots, each.contrast, each.age, each.sex, each.sha256))
    except _BROKEN as error:
        raise _no_pack(path) from error
    if not heads:
        raise SettingsError("E-PACK", f"no head of the part '{part}' in the pack", file=path.name)
    return heads


def read_atlas(path: Path) -> Atlas:
    """The atlas of a pack.

    Raises:
        SettingsError: ``E-PACK``, it is no pack of heads, or a broken one.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys() if name.startswith(_ATLAS)}  # noqa: SIM118
        state = {name.removeprefix(_ATLAS): tensor for name, tensor in found.items()}
        modes, people = state["leaning"].shape
        mean, knots = state["mean"], state["centre"].shape[1:]
        atlas = Atlas(mean.shape[1:], knots, channels=len(mean), modes=modes, about=people)
        atlas.load_state_dict(state)
    except (*_BROKEN, LookupError, RuntimeError) as error:
        raise _no_pack(path) from error
    return atlas


def _no_pack(path: Path) -> SettingsError:
    mend = "Make it with pipelines/prepare.py, from the recipe of a coarse prior."
    return SettingsError("E-PACK", "no pack of heads, or a broken one", mend=mend, file=path.name)


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
        atlas: in which their shapes are known.
        recipe: how, and the seed.
        vocabulary: what is told of them.
        device: where they are made; the heads are kept there.
    """

    def __init__(
        self,
        heads: Sequence[Head],
        atlas: Atlas,
        recipe: CoarseRecipe,
        vocabulary: Vocabulary,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        finer = tuple(n * recipe.data.finer for n in recipe.data.shape)
        knots = atlas.centre.shape
        other = any(tuple(head.image.shape) != finer or head.knots.shape != knots for head in heads)
        if other or atlas.shape != tuple(recipe.data.shape):
            mend = "Make the pack again from this recipe, with pipelines/prepare.py."
            raise SettingsError("E-PACK", "heads in another frame than the recipe's", mend=mend)
        self.recipe, self.vocabulary, self.device = recipe, vocabulary, torch.device(device)
        self.heads = [head_on(head, self.device) for head in heads]
        self.atlas = copy.deepcopy(atlas).to(self.device)

    def state(self, number: int) -> tuple[Tensor, Expected]:
        """(C, I, J, K) head of this number, varied, in the coarse frame, and what the atlas expects of it."""
        chance = Chance(self.recipe.seed, number)
        return self._varied(self.heads[chance.below(len(self.heads))], chance)

    def _varied(self, head: Head, chance: Chance) -> tuple[Tensor, Expected]:
        finer, variation = self.recipe.data.finer, self.recipe.variation
        knots, place = self._shape(head, chance), None
        if knots is not head.knots:
            place = worn(finer * head.knots, finer * knots, head.image.shape)
        spacing = self.recipe.data.spacing_mm / finer
        seen, place = vary(_fine(head), variation, spacing_mm=spacing, chance=chance, through=place)
        place = nnf.avg_pool3d(place[None], finer)[0] / finer
        return nnf.avg_pool3d(seen[None], finer)[0], self.atlas.expected(knots, place)

    def _shape(self, head: Head, chance: Chance) -> Tensor:
        """(3, *knots) of the head's own shape, or of one on the way to another head's."""
        reshaped = self.recipe.variation.reshaped
        if not (reshaped and chance.happens(reshaped)):
            return head.knots
        other = self.heads[chance.below(len(self.heads))]
        return torch.lerp(head.knots, other.knots, chance.uniform(0.0, 1.0))

    def batch(self, numbers: Sequence[int]) -> Batch:
        """The heads with these numbers, what is asked of each, and their diffused states."""
        states, expected, tolds, shares, sigmas, noises = [], [], [], [], [], []
        for number in numbers:
            chance = Chance(self.recipe.seed, number)
            head = self.heads[chance.below(len(self.heads))]
            state, expects = self._varied(head, chance)
            states.append(state)
            expected.append(expects)
            tolds.append(torch.tensor(self._told(head, self.recipe.asked, chance)))
            shares.append(_given(self.recipe.asked, chance))
            sigmas.append(chance.log_uniform(*self.recipe.fit.sigma))
            generator = torch.Generator(self.device).manual_seed(chance.below(2**62))
            noises.append(torch.randn(states[-1].shape, generator=generator, device=self.device))
        x, sigma = torch.stack(states), torch.tensor(sigmas, device=self.device)
        certainty = torch.tensor(shares, device=self.device)[:, :, None, None, None].expand_as(x)
        asked = Asked(torch.stack(tolds).to(self.device), x, certainty, Expected.of(expected))
        return Batch(x, asked, sigma, with_noise(x, sigma, torch.stack(noises)))

    def batches(self, numbers: Iterable[Sequence[int]]) -> Iterator[Batch | None]:
        """A batch for each list of numbers; None for an empty one."""
        yield from (self.batch(each) if len(each) else None for each in numbers)

    def _told(self, head: Head, asked: AskedRecipe, chance: Chance) -> list[float]:
        untold = chance.happens(asked.untold)
        left_out = [untold or chance.happens(asked.untold) for _ in range(3)]
        told = (head.contrast, head.age, head.sex)
        return self.vocabulary.tell(*(None if out else each for each, out in zip(told, left_out, strict=True)))  # type: ignore[arg-type]


def head_on(head: Head, device: torch.device) -> Head:
    """A head with its tensors on a device."""
    moved = {name: getattr(head, name).to(device) for name in _PACKED}
    return dataclasses.replace(head, **moved)


def coarse_state(head: Head, finer: int) -> Tensor:
    """(C, I, J, K) head as it is, in the coarse frame."""
    return nnf.avg_pool3d(_fine(head)[None], finer)[0]


def _fine(head: Head) -> Tensor:
    return torch.cat([head.image.float()[None], head.shares.float() / _SHARE_STEPS])


def worn(own: Tensor, other: Tensor, shape: Sequence[int]) -> Tensor:
    """Where a head shows what a head of another shape shows at each voxel: z, with z + f(z) = x + g(x).

    Both fields lead to the atlas, f from the head and g from the other shape; so what lies at one place of the atlas
    moves from the one shape to the other. Found by repeated substitution (Chen et al. 2008, doi 10.1118/1.2816107).

    Args:
        own: (3, *knots) of f, in voxels.
        other: (3, *knots) of g.
        shape: (I, J, K) of the grid.

    Returns:
        (3, I, J, K) places in voxels from the middle.
    """
    field, at = spline(own, shape), places(shape, own)
    aim = at + spline(other, shape)
    z = aim - field
    for _ in range(_INVERSIONS):
        z = torch.lerp(z, aim - seen_from(field, z), _DAMPING)
    return z


def _given(asked: AskedRecipe, chance: Chance) -> list[float]:
    """The certainty of each channel: nothing, the tissue or the image is given."""
    at = chance.uniform(0.0, 1.0)
    image = float(at < asked.image)
    tissue = float(asked.image <= at < asked.image + asked.tissue)
    return [image] + [tissue] * len(LABELS)


def vary(
    fine: Tensor, variation: Variation, *, spacing_mm: float, chance: Chance, through: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A head turned, stretched, bent, brighter or darker; the shares of tissue move with it.

    Args:
        fine: (C, I, J, K) image and shares.
        variation: how far to go.
        spacing_mm: side of the voxels.
        chance: where the choices come from.
        through: (3, I, J, K) place in `fine` at which each voxel of the head lies that is varied, for one that is
            `worn`; None for its own.

    Returns:
        (C, I, J, K) the varied head, and (3, I, J, K) the place in the head that each of its voxels shows, in voxels
        from the middle.
    """
    shape = fine.shape[-3:]
    turn = _rotation([math.radians(variation.turn_deg) * float(chance.normal()) for _ in range(3)])
    sizes = [math.exp(variation.stretch * float(chance.normal())) for _ in range(3)]
    shift = torch.tensor([variation.shift_mm / spacing_mm * float(chance.normal()) for _ in range(3)]).to(fine)
    mirror = -1.0 if chance.happens(variation.mirrored) else 1.0
    knots = knot_counts(shape, spacing_mm=spacing_mm, knots_mm=variation.knots_mm)
    bend = chance.normal((3, *knots)) * (variation.bend_mm / spacing_mm)
    gain = math.exp(variation.gain * float(chance.normal()))
    gamma = math.exp(variation.gamma * float(chance.normal()))
    bias = chance.normal((1, 5, 5, 5)) * variation.bias
    linear = turn @ torch.diag(torch.tensor([mirror * sizes[0], sizes[1], sizes[2]]))
    own = places(shape, fine)
    place = torch.einsum("ab,bijk->aijk", linear.to(fine), own)
    place = place + shift[:, None, None, None] + spline(bend.to(fine), shape)
    looked = place if through is None else place + seen_from(through - own, place)
    field = spline(bias.to(fine), shape).exp() * gain
    image = seen_sharply(coefficients(fine[:1]), looked).clamp_min(0).pow(gamma) * field
    return torch.cat([image, seen_from(fine[1:], looked)]), place


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
