"""A fixed small 3D segmenter of tissue at 2 mm: how it is trained and scored, whatever it is trained on."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from medidiff.metrics.tissues import dice

__all__ = ["CLASSES", "Pair", "Score", "network", "score", "seconds_a_step", "surface_distance_mm", "train"]

CLASSES = 4  # air, CSF, grey matter, white matter
SPACING_MM = 2.0
_PATCH, _BATCH, _RATE = 48, 2, 4e-3
_TURN, _ZOOM, _GAMMA, _GAIN, _NOISE = 10.0, 0.1, 0.25, 0.1, 0.03  # of classical augmentation: degrees and shares

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A scan at 2 mm, tissue maximum 1, and its tissue, both (I, J, K) with sides of at least 48 that 4 divides."""

    image: Array
    labels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Score:
    """How one test subject was segmented: Dice and mean surface distance of each tissue."""

    dice: tuple[float, ...]
    surface_mm: tuple[float, ...]


def network(seed: int) -> torch.nn.Module:
    """The segmenter: MONAI's residual U-Net of three levels, 16 to 64 channels."""
    torch.manual_seed(seed)
    return UNet(3, 1, CLASSES, channels=(16, 32, 64), strides=(2, 2), num_res_units=1)


def train(sets: Sequence[Sequence[Pair]], *, steps: int, seed: int, augment: bool = False) -> torch.nn.Module:
    """A network trained on patches; each set gives as many as every other, whatever its size.

    Args:
        sets: of pairs, none empty.
        steps: of two patches of 48³ voxels; the only measure of length, so that all arms compute alike.
        seed: of weights and patches.
        augment: whether patches are turned, zoomed, mirrored, and changed in contrast, brightness and noise.
    """
    model, rng = network(seed), np.random.default_rng(seed)
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)
    optimiser = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=1e-4)
    model.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = _RATE * min((step + 1) / 10, 0.5 * (1 + math.cos(math.pi * step / steps)))
        image, labels = _batch(sets, rng, augment)
        optimiser.zero_grad()
        loss_of(model(image), labels).backward()
        optimiser.step()
    return model.eval()


def seconds_a_step(pairs: Sequence[Pair], steps: int = 4) -> float:
    """How long a step takes here and now, augmentation included."""
    train([pairs], steps=1, seed=0, augment=True)
    start = time.perf_counter()
    train([pairs], steps=steps, seed=0, augment=True)
    return (time.perf_counter() - start) / steps


def _batch(sets: Sequence[Sequence[Pair]], rng: np.random.Generator, augment: bool) -> tuple[Tensor, Tensor]:
    images, labels = [], []
    for _ in range(_BATCH):
        pairs = sets[rng.integers(len(sets))]
        pair = pairs[rng.integers(len(pairs))]
        box = tuple(slice(a, a + _PATCH) for a in (rng.integers(n - _PATCH + 1) for n in pair.image.shape))
        image = torch.tensor(pair.image[box])[None, None]
        table = torch.tensor(pair.labels[box], dtype=torch.float32)[None, None]
        if augment:
            image, table = _augmented(image, table, rng)
        images.append(image)
        labels.append(table)
    return torch.cat(images), torch.cat(labels)


def _augmented(image: Tensor, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A patch turned, zoomed and perhaps mirrored, with another gamma, gain and noise."""
    matrix = np.eye(3)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        angle = np.deg2rad(rng.uniform(-_TURN, _TURN))
        turn = np.eye(3)
        turn[[one, other], [one, other]] = np.cos(angle)
        turn[one, other], turn[other, one] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    matrix = matrix * rng.uniform(1 - _ZOOM, 1 + _ZOOM)
    if rng.random() < 0.5:
        matrix[:, 2] *= -1  # of grid_sample's axes the last is the first of the array: left and right
    theta = torch.tensor(np.column_stack((matrix, np.zeros(3))), dtype=torch.float32)[None]
    grid = functional.affine_grid(theta, list(image.shape), align_corners=False)
    moved = functional.grid_sample(image, grid, align_corners=False, padding_mode="border")
    table = functional.grid_sample(labels, grid, mode="nearest", align_corners=False, padding_mode="border")
    moved = moved.clamp_min(0) ** float(np.exp(rng.uniform(-_GAMMA, _GAMMA))) * rng.uniform(1 - _GAIN, 1 + _GAIN)
    noise = torch.tensor(rng.normal(0, rng.uniform(0, _NOISE), moved.shape), dtype=torch.float32)
    return moved + noise, table


def score(model: torch.nn.Module, pair: Pair) -> Score:
    """Dice and mean surface distance of each tissue on one whole scan."""
    with torch.inference_mode():
        found = model(torch.tensor(pair.image)[None, None]).argmax(dim=1)[0].numpy().astype(np.uint8)
    overlaps = dice(found, pair.labels, count=CLASSES - 1)
    apart = [surface_distance_mm(found == label, pair.labels == label) for label in range(1, CLASSES)]
    return Score(tuple(map(float, overlaps)), tuple(apart))


def surface_distance_mm(first: NDArray[np.bool_], second: NDArray[np.bool_], spacing_mm: float = SPACING_MM) -> float:
    """Mean distance between the surfaces of two regions, both ways; the array's diagonal where one is empty."""
    if not (first.any() and second.any()):
        return float(np.linalg.norm(first.shape) * spacing_mm)
    rims = [region & ~ndimage.binary_erosion(region) for region in (first, second)]
    far = [ndimage.distance_transform_edt(~rim, sampling=spacing_mm) for rim in rims]
    both = np.concatenate((far[1][rims[0]], far[0][rims[1]]))
    return float(both.mean())
