"""Another contrast of a scan, drawn: `p(x | y)` where `A` measures another contrast.

What comes out is invented. It lies on the scan's own grid and follows its anatomy, but what the scan's contrast does
not show, a lesion above all, is drawn by chance or left out; it is marked as synthetic, is for research, and is never
evidence of a finding or of its absence.
"""

from __future__ import annotations

from pathlib import Path

import torch

from medidiff.applying import environment, on_device, tiled, voxels_sha256
from medidiff.diffusion import Plan, generators_for, observe_contrast
from medidiff.errors import InputError, PriorError
from medidiff.prepare import fit_intensity, put_back, with_filler_marked, without_padding
from medidiff.prior import Prior
from medidiff.prior.fitting import contrast_prior
from medidiff.restore import Posterior
from medidiff.settings import Progress, Settings
from medidiff.version import __version__
from medidiff.volume import Provenance, Volume

__all__ = ["translate"]

_STEPS = 8


def translate(
    volume: Volume,
    *,
    to: str,
    prior: str | Path | Prior,
    draws: int = 0,
    steps: int = _STEPS,
    seed: int = 0,
    device: str = "auto",
    tile: int = 320,
    progress: Progress | None = None,
) -> Posterior:
    """Draw another contrast of a scan, on its own grid, in shares of the tissue maximum of that contrast.

    The mean is smooth where the scan leaves the contrast open; a draw is one of many answers, and fills it with chance.

    Args:
        volume: (1, I, J, K) scan in the contrast that the prior is shown, in voxels of the size it was trained in.
        to: the contrast that is wanted, e.g. ``"FLAIR"``.
        prior: path of a prior's card, or a loaded one; none is bundled.
        draws: single plausible answers; 0, or at least 2.
        steps: network evaluations for each draw.
        seed: what the draws' randomness comes from.
        device: as for `Settings`, like all that follow.
        tile: see there.
        progress: see there.

    Returns:
        Mean, spread and draws; the provenance says that they are synthetic.

    Raises:
        InputError: more than one channel, no tissue, voxels that are not finite, or a modality the prior is not for.
        PriorError: no such prior; ``E-CONTRAST``, it does not draw this contrast; or an answer that is not finite.
        SettingsError: a setting out of range; ``E-ASKED``, voxels of another size than the prior was trained in.
    """
    settings = Settings(draws=draws, steps=steps, seed=seed, device=device, tile=tile, progress=progress)
    settings = settings.for_scan(volume)
    volume = with_filler_marked(volume)
    if volume.data.shape[0] != 1:
        mend = "Translate them one by one."
        raise InputError("E-4D", f"{volume.data.shape[0]} channels", wanted="one", mend=mend)
    chosen, measures, decisions = contrast_prior(volume, prior, to=to)
    scale, place = fit_intensity(volume), settings.place()
    y = torch.from_numpy(scale.apply(without_padding(volume)))[None].to(place)
    condition = observe_contrast(y, measures.curve)
    denoiser = tiled(on_device(chosen, place), volume.shape, settings)
    plan = Plan(steps=steps)
    with torch.no_grad():
        mean = denoiser(torch.zeros_like(y), torch.tensor(torch.inf), condition)
        each = [generators_for(seed, [number]) for number in range(draws)]
        drawn = [plan.draw(denoiser, mean, condition=condition, generators=chance) for chance in each]
    decisions += denoiser.decisions
    answers = [answer[0].cpu() for answer in (mean, *drawn)]
    if not all(bool(torch.isfinite(answer).all()) for answer in answers):
        raise PriorError("E-MODEL-NONFINITE", "the network answered with numbers that are not finite")
    spread = torch.stack(answers[1:]).std(dim=0) if draws else None
    mean_of, *draws_of = (_invented(answer, volume) for answer in answers)
    std = None if spread is None else _invented(spread, volume)
    decisions.append(f"{to} was drawn from the scan, which was taken for {measures.contrast}: it was never measured")
    record = Provenance(
        task="translate",
        version=__version__,
        inputs=(voxels_sha256(volume.data),),
        settings={"from": measures.contrast, "to": to, "draws": draws, "steps": steps, "tile": tile},
        prior={"name": chosen.card.name, "sha256": chosen.card.weights_sha256},
        seed=seed,
        environment=environment(settings),
        decisions=tuple(decisions),
        synthetic=True,
    )
    return Posterior(mean_of, std, tuple(draws_of), record)


def _invented(answer: torch.Tensor, source: Volume) -> Volume:
    """An answer on its source's grid, 0 where the source has padding."""
    drawn = Volume(answer.numpy(), source.geometry, source.modality, thickness_mm=source.thickness_mm)
    return put_back(drawn, source, values=False)
