"""Train and score two rivals of the fine prior's size: `python validation/rivals.py train --help`, `score --help`.

*regression* is the prior's own network, optimiser and patches, trained by the squared error to answer one question
only: what lies under the cubic B-spline through slices three times as thick, with 1 % of noise. *ddpm* is MONAI as its
tutorials use it: `DiffusionModelUNet` shown what was measured beside the state, Adam on the squared error of the
predicted noise over 1,000 DDPM steps, answers by DDIM in 50. Its one question is a scan with 9 % of noise. `--task`
gives either rival the other question.

Training needs torch, MONAI, NumPy, SciPy, scikit-image, safetensors and pydantic only, so that it runs where no scan
can be read. Where the weights file is there already, training goes on with it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from scoring import ended
from torch import Generator, Tensor, nn
from torch.nn import functional as nnf
from torch.optim import Adam, Optimizer

from medidiff.diffusion.backbone import Backbone, BackboneShape
from medidiff.errors import PriorError, SettingsError
from medidiff.metrics.peers import cubic_spline
from medidiff.physics import Noise, sampling
from medidiff.training.muon import Muon
from medidiff.training.patches import Patches
from medidiff.training.recipe import Recipe, read_recipe
from medidiff.training.run import load_scans

KINDS = ("regression", "ddpm")
TASKS = ("slices", "noise")
_RATES = {"regression": 2e-3, "ddpm": 5e-4}  # the tutorials' 5e-5 is for days of training
_RECIPE = Path(__file__).resolve().parent.parent / "pipelines" / "recipes" / "fine-t1.toml"
FACTOR, THICK_LEVEL, LEVEL = 3, 0.01, 0.09  # slices x3 with 1 % of noise; a scan with 9 %
_TIMES, _BETAS = 1000, {"beta_start": 0.0005, "beta_end": 0.0195}  # as in MONAI's 3D DDPM tutorial
_CLIP = {"clip_sample_min": 0.0, "clip_sample_max": 1.6}  # the tutorials clip to the range of their images too
_CHANNELS = (40, 64, 96)  # of the stock network: 4.84 M weights
_COOLDOWN = 0.3  # share of the time, at its end, over which the rate falls to 0
_WARMUP = 0.02


@dataclass(frozen=True, slots=True)
class About:
    """What a weights file says of itself.

    Args:
        kind: of `KINDS`.
        task: of `TASKS`.
        channels: of the prior's network, for a regression.
        blocks: of the same.
        patches: seen in training.
        seconds: of training.
        device: that it was trained on.
    """

    kind: str
    task: str
    channels: tuple[int, int]
    blocks: tuple[int, int, int]
    patches: int = 0
    seconds: float = 0.0
    device: str = ""


class Regression(nn.Module):
    """The prior's network as a plain regression: what to add to the image that is given.

    Args:
        shape: of the network.
    """

    def __init__(self, shape: BackboneShape) -> None:
        super().__init__()
        self.net = Backbone(3, shape)

    def forward(self, given: Tensor) -> Tensor:
        """(B, 1, I, J, K) image -> (B, 1, I, J, K) answer; certainty and noise level are always the same."""
        told = torch.cat([given, torch.ones_like(given), torch.zeros_like(given)], dim=1)
        answer: Tensor = given + self.net(told, given.new_zeros(len(given))).float()
        return answer

    def loss(self, x: Tensor, given: Tensor, covered: slice, generator: Generator) -> Tensor:
        """Mean squared error over the planes that slices cover."""
        return nnf.mse_loss(self(given)[..., covered], x[..., covered])

    def answer(self, given: Tensor, generator: Generator, steps: int) -> Tensor:
        """The one answer there is."""
        answer: Tensor = self(given)
        return answer


class Ddpm(nn.Module):
    """MONAI's diffusion model, shown what was measured as a second channel."""

    def __init__(self) -> None:
        super().__init__()
        self.net = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=2,
            out_channels=1,
            channels=_CHANNELS,
            attention_levels=(False,) * 3,
            num_res_blocks=1,
            norm_num_groups=8,
            num_head_channels=_CHANNELS[-1],  # one head, which asks least memory
        )

    def loss(self, x: Tensor, given: Tensor, covered: slice, generator: Generator) -> Tensor:
        """Mean squared error of the noise that is predicted at a random time."""
        noise = torch.randn(x.shape, device=x.device, generator=generator)
        times = torch.randint(_TIMES, (len(x),), device=x.device, generator=generator)
        state = DDPMScheduler(_TIMES, "scaled_linear_beta", **_BETAS).add_noise(x, noise, times)
        found = self.net(torch.cat([state, given], dim=1), timesteps=times).float()
        return nnf.mse_loss(found[..., covered], noise[..., covered])

    def answer(self, given: Tensor, generator: Generator, steps: int) -> Tensor:
        """One draw by DDIM from pure noise, (1, 1, I, J, K)."""
        size = given.shape[-3:]
        given = nnf.pad(given, [p for n in reversed(size) for p in (0, -n % 4)])
        scheduler = DDIMScheduler(_TIMES, "scaled_linear_beta", **_BETAS, **_CLIP)
        scheduler.set_timesteps(steps)
        x = torch.randn(given.shape, generator=generator).to(given)
        for t in scheduler.timesteps:
            times = torch.full((len(x),), int(t), device=x.device)
            x, _ = scheduler.step(self.net(torch.cat([x, given], dim=1), timesteps=times).float(), int(t), x)
        return x[..., : size[0], : size[1], : size[2]]


Rival = Regression | Ddpm


def build(about: About) -> Rival:
    """The network that a weights file is for, freshly initialised."""
    if about.kind == "ddpm":
        return Ddpm()
    return Regression(BackboneShape(about.channels, about.blocks))


@cache
def spline(size: int, shift: int) -> tuple[Tensor, Tensor, slice]:
    """Slices along an axis, and the cubic B-spline through them.

    Args:
        size: voxels of the axis.
        shift: voxels before the first slice, below the factor.

    Returns:
        (m, size) what each slice sees; (size, m) the spline back at every voxel; which voxels slices cover.
    """
    count = (size - shift) // FACTOR
    first = shift + (FACTOR - 1) / 2
    seen = sampling(size, factor=float(FACTOR), offset=first, count=count)
    if seen is None:
        raise ValueError("slices as thin as voxels")
    index = np.diag([1.0, 1.0, 1 / FACTOR, 1.0])
    index[2, 3] = -first / FACTOR
    unit = np.eye(count, dtype=np.float32).reshape(count, 1, count)
    back = cubic_spline(unit, index, shape=(count, 1, size))[:, 0].T
    return seen.float(), torch.from_numpy(back.copy()), slice(shift, shift + count * FACTOR)


def measure(x: Tensor, task: str, generator: Generator, *, shift: int = 0) -> tuple[Tensor, slice]:
    """What the rival is given of clean images (B, 1, I, J, K), on their grid, and the planes that it is judged on."""
    if task == "noise":
        return Noise("rician", LEVEL).apply(x, generator), slice(None)
    seen, back, covered = spline(x.shape[-1], shift)
    y = Noise("rician", THICK_LEVEL).apply(x @ seen.to(x).mT, generator)
    return y @ back.to(x).mT, covered


def rate(base: float, share: float) -> float:
    """The learning rate when this share of the time is over: up in a line, level, down in a line to 0."""
    return base * max(min(1.0, (share + 1e-3) / _WARMUP, (1.0 - share) / _COOLDOWN), 0.0)


def train_rival(
    about: About, patches: Patches, weights: Path, *, seconds: float, device: torch.device, batch: int, base: float
) -> About:
    """Train for so many seconds, from the weights in the file if it is there, and write the running mean to the file.

    Args:
        about: which rival, for which question.
        patches: clean patches; what they were measured with is left aside.
        weights: file to write.
        seconds: of wall time.
        device: to train on; a CUDA device computes in bfloat16.
        batch: patches a step.
        base: learning rate.

    Returns:
        What the file says of itself.

    Raises:
        PriorError: the file holds another rival, or the loss or a weight is no longer finite.
    """
    about, rival = _begun(about, weights, patches.recipe.seed)
    rival.to(device).train()
    average = build(about).to(device)
    average.load_state_dict(rival.state_dict())
    optimizer: Optimizer = (
        Adam(rival.parameters(), lr=base) if about.kind == "ddpm" else Muon(rival.parameters(), lr=base)
    )
    feed = patches.batches(range(first, first + batch) for first in itertools.count(about.patches, batch))
    began, done, step = time.monotonic(), 0, 0
    while (elapsed := time.monotonic() - began) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = rate(base, elapsed / seconds)
        loss = _loss(rival, about.task, next(feed).x, about.patches + done, device)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(rival.parameters(), patches.recipe.fit.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done, step = done + batch, step + 1
        _follow(average, rival, step)
        if step % 50 == 1:
            found = f"{about.kind}: {about.patches + done} patches, {elapsed:.0f} s, loss {float(loss.detach()):.3e}"
            if not math.isfinite(float(norm)):
                raise PriorError("E-DIVERGED", found, mend="Lower --rate.")
            print(found, file=sys.stderr)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    spent = about.seconds + time.monotonic() - began
    told = replace(about, patches=about.patches + done, seconds=round(spent, 1), device=name)
    save_rival(average, told, weights)
    return told


def _begun(about: About, weights: Path, seed: int) -> tuple[About, Rival]:
    """A fresh rival, or the one in the file."""
    if not weights.is_file():
        torch.manual_seed(seed)
        return about, build(about)
    found, rival = load_rival(weights)
    if replace(about, patches=found.patches, seconds=found.seconds, device=found.device) != found:
        was = f"a {found.kind} for {found.task} of {found.channels} channels, {found.blocks} blocks"
        raise PriorError("E-START", was, mend="Train into another folder.", file=weights.name)
    return found, rival


def _loss(rival: Rival, task: str, x: Tensor, first: int, device: torch.device) -> Tensor:
    generator = Generator(device).manual_seed(first)
    given, covered = measure(x, task, generator, shift=first // len(x) % FACTOR)
    with torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext():
        return rival.loss(x, given, covered, generator)


@torch.no_grad()
def _follow(average: nn.Module, now: nn.Module, step: int) -> None:
    """Move the running mean of the weights; its half-life is a tenth of the steps that were made."""
    keep = 0.5 ** (1.0 / (0.1 * step))
    torch._foreach_lerp_(list(average.parameters()), list(now.parameters()), 1.0 - keep)


def save_rival(rival: nn.Module, about: About, path: Path) -> None:
    """Write weights and what they are, by a temporary name.

    Raises:
        PriorError: a weight is no longer finite, as happens after the last look at the loss; nothing is written.
    """
    tensors = {name: tensor.half().cpu().contiguous() for name, tensor in rival.state_dict().items()}
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        found = f"{about.kind}: weights that are not finite after {about.patches} patches"
        raise PriorError("E-DIVERGED", found, mend="Lower --rate.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    save_file(tensors, temporary, metadata={"about": json.dumps(asdict(about))})
    temporary.replace(path)


def load_rival(path: Path) -> tuple[About, Rival]:
    """The rival in a weights file.

    Raises:
        PriorError: it is no weights file of a rival.
    """
    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads((file.metadata() or {})["about"])
        about = About(**said | {"channels": tuple(said["channels"]), "blocks": tuple(said["blocks"])})
        rival = build(about)
        rival.load_state_dict(load_file(path))
    except (OSError, SafetensorError, LookupError, ValueError, TypeError, RuntimeError) as error:
        raise PriorError("E-WEIGHTS", "not the weights of a rival", mend="Train it again.", file=path.name) from error
    return about, rival


def training_parser() -> argparse.ArgumentParser:
    """The options of `train`."""
    out = argparse.ArgumentParser(
        prog="rivals.py train",
        description="Train one rival; with its weights already in the folder, go on with them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    out.add_argument("--kind", choices=KINDS, required=True, help="which rival")
    out.add_argument("--task", choices=TASKS, help="its question; if none, slices for a regression and noise for ddpm")
    out.add_argument("--recipe", type=Path, default=_RECIPE, help="network, patches and seed")
    out.add_argument("--data", type=Path, required=True, help="folder of the shared data, or a pack")
    out.add_argument("--workers", type=int, default=0, help="processes that draw patches ahead")
    out.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="to train on")
    out.add_argument("--minutes", type=float, default=1.0, help="of wall time")
    out.add_argument("--batch", type=int, default=16, help="patches a step")
    out.add_argument("--rate", type=float, default=0.0, help="learning rate; 0 for the rival's own")
    out.add_argument("--out", type=Path, required=True, help="folder for KIND-TASK.safetensors")
    return out


def train(options: argparse.Namespace) -> str:
    """Train one rival; returns what its file says of itself."""
    if not (0 < options.minutes < math.inf and options.batch > 0 and 0 <= options.rate < math.inf):
        found = "minutes, batch or rate out of range"
        raise SettingsError("E-SETTING", found, wanted="above 0", attribute="--minutes")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("E-DEVICE", "no CUDA device", attribute="--device", mend="Use --device cpu.")
    recipe = read_recipe(options.recipe)
    task = options.task or ("noise" if options.kind == "ddpm" else "slices")
    about = About(options.kind, task, recipe.model.channels, recipe.model.blocks)
    told = train_rival(
        about,
        patches_of(recipe, options),
        options.out / f"{about.kind}-{about.task}.safetensors",
        seconds=60 * options.minutes,
        device=torch.device(options.device),
        batch=options.batch,
        base=options.rate or _RATES[about.kind],
    )
    return json.dumps(asdict(told))


def patches_of(recipe: Recipe, options: argparse.Namespace) -> Patches:
    """Clean patches in the contrasts of the scans; what they are measured with is the rival's own affair."""
    plain = replace(recipe.degradation, denoise=1.0, thick=0.0, coarse=0.0, nothing=0.0, remap=0.0)
    scans, weights = load_scans(recipe, options.recipe.parent, options.data, part="train")
    recipe = replace(recipe, degradation=plain)
    return Patches(scans, weights, recipe, device=options.device, workers=options.workers)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands; 0, or the exit code of the refusal."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    verbs = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs.add_argument("verb", choices=("train", "score"), help="what to do; its options: rivals.py train --help")
    verb = verbs.parse_args(given[:1]).verb
    if verb == "train":
        return ended(train, training_parser(), given[1:])
    import rival_scores  # reads scans, which training can do without

    return ended(rival_scores.score, rival_scores.parser(), given[1:])


if __name__ == "__main__":
    raise SystemExit(main())
