"""A small cascade with random weights, heads that need no scan, and the smallest recipe of a coarse prior."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import torch
from scipy import ndimage
from small_prior import CARD, small_prior

from medidiff.diffusion.atlas import Atlas
from medidiff.prior import Prior
from medidiff.prior.asking import Vocabulary
from medidiff.prior.coarse import CoarseCard, CoarsePrior, build_whole
from medidiff.synthesis import Cascade, Effort, Finer
from medidiff.training.heads import Head, coarse_state

SHAPE = (16, 16, 16)
KNOTS = (5, 5, 5)
COARSE = CoarseCard(
    kind="coarse",
    name="tiny-coarse",
    summary="",
    modality="MR",
    vocabulary=Vocabulary(("T1w",), (20.0, 60.0), ("F", "M")),
    labels=("CSF", "gray matter", "white matter"),
    shape=SHAPE,
    spacing_mm=4.0,
    channels=(8, 8),
    blocks=(1, 1, 1),
    sigma=(0.02, 2.0),
    finer=("tiny-middle", "tiny"),
    knots=KNOTS,
    heads=3,
    images=0,
    licence="Apache-2.0",
    sources=(),
    data_fingerprint="",
)
QUICK = Effort(2, (Finer(steps=1),))
COARSE_TINY = {
    "kind": "coarse",
    "name": "tiny-coarse",
    "summary": "A network of no use, for tests.",
    "seed": 7,
    "data": {
        "shape": [16, 16, 16],
        "spacing_mm": 4.0,
        "sources": [
            {"pattern": "{subject}.nii.gz", "licence": "none", "split": "s", "contrast": "T1w", "participants": "p.tsv"}
        ],
    },
    "model": {"channels": [8, 8], "blocks": [1, 1, 1]},
    "fit": {"images": 12, "batch": 2, "rate": 2e-3, "warmup": 4, "ema": 8.0, "sigma": [0.02, 2.0]},
    "watch": {"every": 6, "levels": [0.3], "steps": 2},
}


def ball(seed: int = 0, *, side: int = 32) -> Head:
    """A round head of 2 mm voxels: white matter inside gray matter inside fluid, a little out of round."""
    rng = np.random.default_rng(seed)
    where = np.stack(np.meshgrid(*[np.linspace(-1, 1, side)] * 3, indexing="ij"))
    radius = np.sqrt((where**2).sum(0)) + 0.15 * ndimage.gaussian_filter(rng.normal(size=(side,) * 3), 3) * side**0.5
    shares = np.stack([(radius < 0.8) & (radius >= 0.65), (radius < 0.65) & (radius >= 0.45), radius < 0.45])
    image = torch.from_numpy(0.3 * shares[0] + 0.6 * shares[1] + 0.95 * shares[2]).half()
    sha256 = hashlib.sha256(image.numpy().tobytes()).hexdigest()
    sex, packed = "F" if seed % 2 else "M", torch.from_numpy(255 * shares.astype(np.uint8))
    return Head(image, packed, torch.zeros(3, *KNOTS), "T1w", 20.0 + 10 * seed, sex, sha256)


def plain_atlas(heads: int = 3) -> Atlas:
    """A ball, bent a little at random, as the atlas of so many heads."""
    atlas = Atlas(SHAPE, KNOTS, channels=4, modes=heads - 1)
    generator = torch.Generator().manual_seed(4)
    atlas.mean.copy_(coarse_state(ball(), 2))
    atlas.deviation.fill_(0.1)
    atlas.modes.copy_(0.2 * torch.randn(atlas.modes.shape, generator=generator))
    return atlas


def small_coarse() -> CoarsePrior:
    """The same weights at every call; its atlas is a ball, so that what it draws has tissue."""
    denoiser = build_whole(COARSE)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    denoiser.atlas.load_state_dict(plain_atlas().state_dict())
    return CoarsePrior(denoiser.eval().requires_grad_(False), COARSE)


def small_cascade(effort: Effort | None = None) -> Cascade:
    """A cascade of one step a stage, or of another effort."""
    plain = small_prior()
    middle = Prior(plain.denoiser, dataclasses.replace(CARD, name="tiny-middle"))
    return Cascade(small_coarse(), finer=(middle, plain), effort=effort or QUICK, device="cpu")
