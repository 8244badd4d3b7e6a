"""The cascade: a coarse prior draws a whole head, and finer priors see it as a measurement of a finer one.

Every stage asks ``p(x | y)``. The coarse one has measured nothing; for each of the others y is the drawn volume, whose
voxels are boxes on the finer grid, ``A = (box, box, box)``, as in super-resolution. Case n of a seed is drawn from
numbers of its own, so it is the same whatever is drawn beside it, before or after.

A drawn volume is no scan, and a prior that takes it for one refines its faults. Small structures are the coarse prior's
weakness, and the finer prior's strength: what it expects, ``E[x | y]``, is seen by the coarser voxels, ``A E[x | y]``,
a better denoiser of little noise than the coarse prior is itself. So the last part of the coarse stage's reverse
process is gone through once more with it (`Mending`): large structures stay, folds are drawn anew. And the finer prior
is shown what came of it with a little noise, of which it is told (conditioning augmentation: Ho et al. 2022, arXiv
2106.15282).
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as nnf

from medidiff.case import Case
from medidiff.diffusion import (
    ClassifierFree,
    Condition,
    Tiled,
    cheapest_tile,
    generators_for,
    informed,
    karras,
    observe,
)
from medidiff.diffusion.whole import Asked
from medidiff.errors import PriorError
from medidiff.physics import boxes
from medidiff.prior import Prior
from medidiff.prior.coarse import DEFAULT_COARSE, CoarsePrior
from medidiff.settings import Progress, compute_device
from medidiff.synthesis.effort import Effort
from medidiff.synthesis.request import Request, check_field, check_spacing, finer_shares, tissue_given
from medidiff.synthesis.tissue import labelled
from medidiff.version import __version__
from medidiff.volume import Geometry, Provenance, Volume

__all__ = ["Cascade"]

_TILE = 320**3  # voxels that a prior is shown at once


class Cascade:
    """A coarse prior and the finer ones that its card names.

    Args:
        coarse: its name, the path of its card, or a loaded one.
        finer: the finer priors; None for those that the card names, bundled or beside it.
        effort: steps of each stage.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Raises:
        PriorError: one is missing, broken, or for another modality.
    """

    def __init__(
        self,
        coarse: str | Path | CoarsePrior = DEFAULT_COARSE,
        *,
        finer: Sequence[Prior] | None = None,
        effort: Effort | None = None,
        device: str = "auto",
    ) -> None:
        self.device = compute_device(device)
        self.effort = effort or Effort()
        self.coarse = coarse if isinstance(coarse, CoarsePrior) else CoarsePrior.load(coarse, device=self.device)
        self.coarse.denoiser.to(self.device)
        folder = Path(coarse).parent if isinstance(coarse, str | Path) else Path()
        names = self.coarse.card.finer
        self.finer = tuple(finer) if finer is not None else tuple(_finer(name, folder) for name in names)
        if len(self.finer) != len(names):
            raise PriorError("E-PRIOR", f"{len(self.finer)} finer priors", wanted=f"{len(names)}: {', '.join(names)}")
        for prior in self.finer:
            prior.denoiser.to(self.device).autocast = torch.bfloat16 if self.device.type == "cuda" else None

    def check(self, request: Request) -> None:
        """Refuse what the priors were not trained on.

        Raises:
            SettingsError: ``E-ASKED``, with the nearest request that can be had.
            InputError: ``E-LABELS``, a map with other labels.
        """
        card = self.coarse.card
        card.vocabulary.tell(request.contrast, request.age, request.sex)
        check_field(request.field_mm, card)
        check_spacing(request.spacing_mm, card)
        if request.tissue is not None:
            tissue_given(request.tissue, card, self._grid(request))

    def draw(self, request: Request, number: int, *, seed: int, progress: Progress | None = None) -> Case:
        """Case `number` of a seed.

        Args:
            request: what it is to be like.
            number: of the case, from 0.
            seed: of the data set.
            progress: called with the number of stages done and to do.

        Returns:
            The scan at network scale (air 0, white matter about 1) with the label map of its tissue.

        Raises:
            SettingsError: ``E-ASKED``, see `check`.
            PriorError: ``E-MODEL-NONFINITE``, the answer is not finite.
        """
        self.check(request)
        stages = check_spacing(request.spacing_mm, self.coarse.card)
        told = progress or (lambda done, total: None)
        generators, grid = generators_for(seed, [number]), self._grid(request)
        with torch.no_grad():
            state, given = self._coarse(request, generators, grid)
            image, shares = state[:, :1], state[0, 1:].clamp(0, 1)
            told(1, stages + 1)
            for stage in range(stages):
                target = grid.shape if stage == stages - 1 else tuple(2 * n for n in image.shape[-3:])
                image = self._finer(image, target, stage, generators, mend=given is None)
                told(stage + 2, stages + 1)
        image, shares = image[0, 0].cpu(), shares.cpu()
        if not bool(torch.isfinite(image).all()):
            raise PriorError("E-MODEL-NONFINITE", "the network answered with numbers that are not finite")
        wandered = given is None and any(self.effort.of(stage).mending is not None for stage in range(stages))
        fine = finer_shares(_softened(shares) if wandered else shares, grid)
        image = _brain(image, fine)
        labels = labelled(image, fine) if given is None else _most(given)
        return self._case(request, number, seed, image=image, labels=labels, grid=grid)

    def refined(self, image: Tensor, shape: tuple[int, int, int], *, stage: int, number: int, seed: int) -> Tensor:
        """What one finer stage makes of a volume that was measured, not drawn.

        Args:
            image: (1, 1, I, J, K) at network scale, in voxels that are boxes of the finer ones.
            shape: of the finer volume over the same box.
            stage: of the finer priors, from 0.
            number: of the draw, from 0.
            seed: of the draws.

        Returns:
            (1, 1, *shape) draw.
        """
        with torch.no_grad():
            return self._finer(image, shape, stage, generators_for(seed, [number]), mend=False)

    def _grid(self, request: Request) -> Geometry:
        """The whole frame in the voxels that are asked for."""
        return self.coarse.card.frame.with_spacing([request.spacing_mm] * 3)

    def _coarse(
        self, request: Request, generators: Sequence[Generator], grid: Geometry
    ) -> tuple[Tensor, Tensor | None]:
        """(1, C, I, J, K) drawn head, and the shares that were given, on the grid of the scan."""
        denoiser, card, atlas = self.coarse.denoiser, self.coarse.card, self.coarse.denoiser.atlas
        told = torch.tensor([card.vocabulary.tell(request.contrast, request.age, request.sex)], device=self.device)
        given, fine = torch.zeros_like(atlas.mean)[None], None
        certainty = torch.zeros_like(given)
        if request.tissue is None:
            knots = atlas.drawn(card.vocabulary.person(request.age, request.sex), generators[0])
        else:
            shares, fine = tissue_given(request.tissue, card, grid)
            given[0, 1:], certainty[:, 1:] = shares.to(self.device), 1.0
            knots = atlas.fitted(given[0], certainty[0, :, 0, 0, 0], spacing_mm=card.spacing_mm)
        expected = atlas.expected(knots)
        guided = ClassifierFree(denoiser, request.guidance)
        low, high = card.sigma
        start = informed(expected.mean, high, generators)
        sample = self.effort.sampler(0)
        sigmas = karras(self.effort.coarse, low, high)
        asked = Asked(told, given, certainty, expected)
        state = sample(guided, start, sigmas, condition=asked, generators=generators)  # type: ignore[arg-type]
        return state, fine

    def _finer(
        self, image: Tensor, shape: Sequence[int], stage: int, generators: Sequence[Generator], *, mend: bool
    ) -> Tensor:
        """A draw of the finer volume that `image` is a noisy measurement of; mended first, if it may be."""
        prior, sample, how = self.finer[stage], self.effort.sampler(stage + 1), self.effort.of(stage)
        sees = boxes(image.shape[-3:], shape)
        denoiser = Tiled(prior.denoiser, cheapest_tile(shape, voxels=_TILE, halo=prior.halo), prior.halo)

        def expected(seen: Tensor, noise: float) -> tuple[Tensor, Condition]:
            condition = observe(seen, sees, noise)
            return denoiser(torch.zeros_like(condition.image), torch.tensor(torch.inf), condition), condition

        if mend and how.mending is not None:
            told, noise = how.mending.told, how.mending.noise
            sigmas = karras(how.mending.steps, how.mending.last, noise)
            state = informed(image, noise, generators)
            image = sample(lambda x, sigma, _=None: sees(expected(x, told * float(sigma))[0]), state, sigmas)
        mean, condition = expected(informed(image, how.noise, generators), how.noise)
        sigmas = karras(how.steps, how.last, how.start)
        return sample(
            denoiser, informed(mean, how.start, generators), sigmas, condition=condition, generators=generators
        )

    def _case(self, request: Request, number: int, seed: int, *, image: Tensor, labels: Tensor, grid: Geometry) -> Case:
        scan = Volume(image.numpy(), grid, self.coarse.card.modality)
        names = ("background", *self.coarse.card.labels)
        record = self._provenance(request, number, seed)
        scan, tissue = _cut(scan, request.field_mm), _cut(scan.with_data(labels.numpy()), request.field_mm)
        return Case(number, scan, record, tissue, names, request.asked)

    def _provenance(self, request: Request, number: int, seed: int) -> Provenance:
        priors = {self.coarse.card.name: self.coarse.card.weights_sha256}
        priors |= {prior.card.name: prior.card.weights_sha256 for prior in self.finer}
        asked = request.asked | {"guidance": request.guidance, "tissue": "given" if request.tissue else "drawn"}
        return Provenance(
            task="synthesize",
            version=__version__,
            settings={"number": number, "asked": asked, "effort": asdict(self.effort)}
            | {"spacing_mm": request.spacing_mm, "field_mm": request.field_mm and list(request.field_mm)},
            prior=priors,
            seed=seed,
            environment={
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
                "device": self.device.type,
            },
            synthetic=True,
        )


def _finer(name: str, folder: Path) -> Prior:
    """A finer prior: the one beside the coarse prior's card, or the bundled one."""
    beside = folder / f"{name}.json"
    return Prior.load(beside if beside.is_file() else name)


def _brain(image: Tensor, shares: Tensor) -> Tensor:
    """The scan with air where no tissue was drawn, as the training scans have it."""
    near = nnf.max_pool3d(shares.sum(0)[None, None], 3, stride=1, padding=1)[0, 0]
    return torch.where(near > 0.1, image.clamp_min(0), 0.0)


def _softened(shares: Tensor) -> Tensor:
    """Shares of tissue of a head whose folds were drawn anew: means over 3 x 3 x 3 voxels."""
    return nnf.avg_pool3d(shares[None], 3, stride=1, padding=1)[0]


def _most(shares: Tensor) -> Tensor:
    """The label with the largest share, background included."""
    return torch.cat([1 - shares.sum(0, keepdim=True), shares]).argmax(0).to(torch.uint8)


def _cut(volume: Volume, field_mm: tuple[float, float, float] | None) -> Volume:
    """The middle of a volume, at least as wide as asked for."""
    if field_mm is None:
        return volume
    grid = volume.geometry
    counts = [
        min(n, int(np.ceil(side / step - 1e-6)))
        for n, side, step in zip(grid.shape, field_mm, grid.spacing_mm, strict=True)
    ]
    first = [(n - count) // 2 for n, count in zip(grid.shape, counts, strict=True)]
    inside = tuple(slice(a, a + count) for a, count in zip(first, counts, strict=True))
    affine = grid.affine.copy()
    affine[:3, 3] = grid.world(np.asarray(first))
    shape = (counts[0], counts[1], counts[2])
    return Volume(volume.data[(slice(None), *inside)], Geometry(shape, affine), volume.modality, volume.units)
