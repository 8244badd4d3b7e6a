"""Compare the fine prior's network with MONAI's stock `DiffusionModelUNet`: `python validation/backbones.py --help`.

Both have about the same number of weights and stand in the same preconditioned denoiser, with the same recipe, patches
and optimiser; each trains for the same processor time on one thread. Then each is measured: PSNR on validation scans,
seconds and peak memory of one call, and how far a tile with a halo is from the whole volume. The stock network
normalises over its field of view and attends over all of it, so its answer depends on the tile.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn
from torch.nn import functional as nnf

from medidiff.diffusion import Tiled, observe
from medidiff.diffusion.backbone import Backbone, BackboneShape
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.errors import MedidiffError
from medidiff.physics import Noise, identity
from medidiff.training.checks import central_crop, denoise_scores
from medidiff.training.data import find_scans, load_scan
from medidiff.training.fit import FitState, fit
from medidiff.training.patches import Patches, Scan
from medidiff.training.recipe import Recipe, read_recipe

_HERE = Path(__file__).resolve().parent
_STEPS_PER_NAT = 200.0  # as in the fine prior: MONAI's embedding resolves whole time steps
_TRIAL_STEPS = 10  # to learn how long one takes


class Stock(nn.Module):
    """MONAI's diffusion U-Net behind the interface of `Backbone`.

    Args:
        inputs: channels of the input.
        channels: features of the three levels.
    """

    multiple, halo = 4, 32

    def __init__(self, inputs: int, channels: tuple[int, int, int]) -> None:
        super().__init__()
        self.net = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=inputs,
            out_channels=1,
            channels=channels,
            attention_levels=(False,) * 3,
            num_res_blocks=1,
            norm_num_groups=8,
            num_head_channels=channels[-1],  # one head, which asks least memory
        )

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """(B, inputs, I, J, K) and (B,) level -> (B, 1, I, J, K)."""
        size = x.shape[-3:]
        x = nnf.pad(x, [p for n in reversed(size) for p in (0, -n % self.multiple)])
        answer: Tensor = self.net(x, timesteps=-_STEPS_PER_NAT * c_noise)
        return answer[..., : size[0], : size[1], : size[2]]


@dataclass(frozen=True, slots=True)
class Result:
    """What one network did.

    Args:
        network: its name.
        parameters: number of weights.
        images: patches that it trained on in the time given.
        psnr_db: by noise level, mean over the validation scans.
        seconds: of one call on a cube, by its side in voxels.
        peak_gib: memory of the whole process in one call, by side.
        tile_error: largest difference between tiled and whole, relative to the largest answer.
    """

    network: str
    parameters: int
    images: int
    psnr_db: dict[str, float]
    seconds: dict[str, float]
    peak_gib: dict[str, float]
    tile_error: float


def build(network: str, recipe: Recipe) -> nn.Module:
    """One of the two networks, freshly initialised."""
    torch.manual_seed(recipe.seed)
    if network == "stock":
        return Stock(Preconditioned.channels, (24, 40, 56))
    return Backbone(Preconditioned.channels, BackboneShape(recipe.model.channels, recipe.model.blocks))


def train(network: str, recipe: Recipe, patches: Patches, minutes: float) -> FitState:
    """Train for about so many minutes of processor time, at the recipe's own course of the learning rate."""
    trial = FitState(recipe, backbone=build(network, recipe))
    steps = fit(trial, patches, replace(recipe.fit, images=10**6))
    next(steps)
    began = time.process_time()
    for _ in range(_TRIAL_STEPS):
        next(steps)
    each = (time.process_time() - began) / (_TRIAL_STEPS * recipe.fit.batch)
    state = FitState(recipe, backbone=build(network, recipe))
    for step in fit(state, patches, replace(recipe.fit, images=int(60 * minutes / each))):
        if step.images % 200 < recipe.fit.batch:
            print(f"{network}: {step.images} images, loss {step.loss:.3f}", file=sys.stderr)
    return state


def tile_error(denoiser: Preconditioned, scan: Scan) -> float:
    """Largest difference between tiles of 80 voxels and a cube of 96 at once, relative to the largest answer."""
    y = Noise("rician", 0.05).apply(central_crop(scan.image, 96), torch.Generator().manual_seed(0))[None, None]
    arguments = torch.zeros_like(y), torch.tensor(torch.inf), observe(y, identity(), 0.05)
    halo = int(getattr(denoiser.backbone, "halo")) + 1  # noqa: B009
    with torch.no_grad():
        whole, tiled = denoiser(*arguments), Tiled(denoiser, (80,) * 3, halo)(*arguments)
    return float((whole - tiled).abs().max() / whole.abs().max())


def one_call(network: str, recipe: Recipe, side: int, answers: Any) -> None:
    """In a process of its own: seconds and peak memory of one call on a cube."""
    torch.set_num_threads(1)
    model = recipe.model
    denoiser = Preconditioned(
        build(network, recipe), sigma_data=model.sigma_data, sigma_detail=model.sigma_detail
    ).eval()
    x = torch.ones((1, 1, side, side, side))
    began = time.process_time()
    with torch.no_grad():
        denoiser(torch.zeros_like(x), torch.tensor(torch.inf), observe(x, identity(), 0.1))
    answers.put((time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))


def cost(network: str, recipe: Recipe, side: int) -> tuple[float, float]:
    """Seconds of processor time and peak GiB of one call; NaN when the process did not survive."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=one_call, args=(network, recipe, side, answers))
    process.start()
    process.join()
    if process.exitcode != 0:
        return math.nan, math.nan
    seconds, peak = answers.get()
    return float(seconds), float(peak)


def load(recipe: Recipe, options: argparse.Namespace) -> tuple[Patches, list[Scan]]:
    """What to train on, and the validation scans."""
    scans = {}
    for part in ("train", "validation"):
        found = find_scans(recipe.data, folder=options.recipe.parent, root=options.data, part=part)
        found = found if part == "train" else found[: recipe.validation.scans]
        scans[part] = [(load_scan(each, recipe), each.weight) for each in found]
    images, weights = zip(*scans["train"], strict=True)
    return Patches(images, weights, recipe), [scan for scan, _ in scans["validation"]]


def compare(
    network: str, recipe: Recipe, patches: Patches, watched: Sequence[Scan], options: argparse.Namespace
) -> Result:
    """Train and measure one network."""
    costs = {side: cost(network, recipe, side) for side in options.sides}
    state = train(network, recipe, patches, options.minutes)
    scores, _ = denoise_scores(state.average, watched, recipe)
    return Result(
        network=network,
        parameters=sum(p.numel() for p in state.denoiser.parameters()),
        images=state.images,
        psnr_db={name: value for name, value in scores.items() if name.startswith("psnr")},
        seconds={str(side): seconds for side, (seconds, _) in costs.items()},
        peak_gib={str(side): peak for side, (_, peak) in costs.items()},
        tile_error=tile_error(state.average, watched[0]),
    )


def markdown(results: Sequence[Result]) -> str:
    """The table, a column per network."""
    rows = [
        ("weights", [f"{r.parameters / 1e6:.2f} M" for r in results]),
        ("patches seen", [f"{r.images}" for r in results]),
        *((f"{name} (dB)", [f"{r.psnr_db[name]:.2f}" for r in results]) for name in results[0].psnr_db),
        *((f"one call, {side}³ (CPU-s)", [f"{r.seconds[side]:.1f}" for r in results]) for side in results[0].seconds),
        *((f"peak, {side}³ (GiB)", [f"{r.peak_gib[side]:.2f}" for r in results]) for side in results[0].seconds),
        ("tile against whole", [f"{r.tile_error:.1e}" for r in results]),
    ]
    head = ["| |" + "|".join(r.network for r in results) + "|", "|---|" + "--:|" * len(results)]
    return "\n".join([*head, *(f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = os.environ.get("MEDIDIFF_DATA") or _HERE.parent.parent / "shared" / "data"
    parser.add_argument("--recipe", type=Path, default=_HERE.parent / "pipelines" / "recipes" / "fine-t1.toml")
    parser.add_argument("--data", type=Path, default=Path(shared), help="folder of the shared data")
    parser.add_argument("--minutes", type=float, default=10.0, help="processor time of each training")
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 96], help="cubes for time and memory, in voxels")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        recipe = read_recipe(options.recipe)
        patches, watched = load(recipe, options)
        networks = ("medidiff", "stock")
        print(markdown([compare(network, recipe, patches, watched, options) for network in networks]))
    except MedidiffError as refusal:
        print(refusal, file=sys.stderr)
        return refusal.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
