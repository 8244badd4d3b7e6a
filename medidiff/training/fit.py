"""The training loop: a generator that yields what happened after every step, and knows nothing of files or trackers."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor, distributed, nn

from medidiff.diffusion.backbone import Backbone, BackboneShape
from medidiff.diffusion.denoiser import Preconditioned, restoration_loss
from medidiff.errors import PriorError
from medidiff.training.coarse_recipe import CoarseRecipe
from medidiff.training.muon import MOMENTS, Muon
from medidiff.training.patches import Batch
from medidiff.training.processes import sum_over_processes
from medidiff.training.recipe import FitRecipe, Recipe

__all__ = ["Batches", "FitState", "Loss", "Step", "fit", "learning_rate"]


_STEPS_ON_GPU = 20  # steps between two looks at the loss on a GPU, which must not wait for each


@dataclass(frozen=True, slots=True)
class Step:
    """What the steps since the last look did; on a CPU that is one step.

    Args:
        images: patches seen so far, over all processes.
        loss: mean over the patches of these steps.
        rate: learning rate of the last step.
        gradient: largest norm of a gradient before clipping.
        waiting: share of the time of these steps that went by before their images were there; no part of what a run
            is, so that two equal steps may differ in it.
    """

    images: int
    loss: float
    rate: float
    gradient: float
    waiting: float = field(default=0.0, compare=False)


class FitState:
    """All that a run carries from step to step; saving and loading it resumes the run exactly.

    Args:
        recipe: of the run.
        device: where to compute.
        autocast: type that the network computes in; None for float32.
        backbone: network to train instead of the recipe's own, for comparisons.
        denoiser: what to train instead of a preconditioned network; with a network in its ``backbone``.
    """

    def __init__(
        self,
        recipe: Recipe | CoarseRecipe,
        *,
        device: torch.device | str = "cpu",
        autocast: torch.dtype | None = None,
        backbone: nn.Module | None = None,
        denoiser: nn.Module | None = None,
    ) -> None:
        if denoiser is None:
            assert isinstance(recipe, Recipe)
            denoiser = _preconditioned(recipe, backbone, autocast)
        self.denoiser: Any = denoiser.to(device)
        cast(Any, self.denoiser).backbone.recompute = recipe.fit.activation_checkpointing
        self.average: Any = copy.deepcopy(self.denoiser).requires_grad_(False)
        self.optimizer = Muon(self.denoiser.parameters(), lr=recipe.fit.rate)
        self.images = 0

    def begin_with(self, weights: Mapping[str, Tensor]) -> None:
        """Take over the backbone's weights of another run, before the first step.

        Blocks that `weights` lacks stay as they are, the identity; the answer is then the other run's.

        Args:
            weights: of a backbone as wide as this one and with at most as many blocks.

        Raises:
            PriorError: ``E-START``, the weights are those of another kind of network.
        """
        own = self.denoiser.backbone.state_dict()
        odd = [name for name, weight in weights.items() if name not in own or own[name].shape != weight.shape]
        missing = [name for name in own if name not in weights and not _is_block(name)]
        if odd or missing:
            found = f"{len(odd + missing)} tensors unlike the recipe's network, first {(odd + missing)[0]}"
            raise PriorError("E-START", found, wanted="the same channels and at most as many blocks", attribute="start")
        self.denoiser.backbone.load_state_dict(dict(weights), strict=False)
        self.average.load_state_dict(self.denoiser.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, loadable with ``weights_only=True``."""
        return {
            "images": self.images,
            "network": self.denoiser.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        try:
            self.denoiser.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.images = int(state["images"])
            self._check()
        except (LookupError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise PriorError(
                "E-CHECKPOINT", "a checkpoint of another network", mend="Train into another folder."
            ) from error

    def _check(self) -> None:
        """Refuse what no run of ours would have left: moments of another shape, a negative number of images."""
        for parameter, moments in self.optimizer.state.items():
            for name, value in moments.items():
                if (isinstance(value, Tensor) and value.shape != parameter.shape) or name not in MOMENTS:
                    raise ValueError
        if self.images < 0 or any(group.keys() != {"params", "lr"} for group in self.optimizer.param_groups):
            raise ValueError


def _preconditioned(recipe: Recipe, backbone: nn.Module | None, autocast: torch.dtype | None) -> Preconditioned:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        backbone = backbone or Backbone(
            Preconditioned.channels, BackboneShape(recipe.model.channels, recipe.model.blocks)
        )
    model = recipe.model
    return Preconditioned(backbone, sigma_data=model.sigma_data, sigma_detail=model.sigma_detail, autocast=autocast)


def _is_block(name: str) -> bool:
    return name.startswith(("down.", "middle.", "up."))


def learning_rate(recipe: FitRecipe, images: int) -> float:
    """Warm up in a line, stay, and cool down in a line to zero at the end of the run."""
    left = (recipe.images - images) / max(recipe.cooldown * recipe.images, 1.0)
    return recipe.rate * max(min(1.0, (images + recipe.batch) / recipe.warmup, left), 0.0)


class Batches(Protocol):
    """Where batches come from."""

    device: torch.device

    def batches(self, numbers: Iterable[Sequence[int]]) -> Iterator[Batch | None]:
        """A batch for each list of numbers; None for an empty one."""
        ...


class Loss(Protocol):
    """The loss of each image of a batch, (B,); see `restoration_loss`."""

    def __call__(self, denoiser: Any, x: Tensor, condition: Any, *, sigma: Tensor, state: Tensor) -> Tensor:
        """(B,) losses of x₀ (B, C, I, J, K), told a condition, from the state at levels σ (B,)."""
        ...


def fit(state: FitState, patches: Batches, recipe: FitRecipe, *, loss: Loss = restoration_loss) -> Iterator[Step]:
    """Train until the recipe's number of images is reached; `state` is advanced in place, between two yields.

    In several processes (torch.distributed is initialised) each takes its share of every batch and gradients are
    averaged over all, so the run is the same whatever the number of processes. A share is gone through in as many
    parts as the recipe says, whose gradients are summed before the step: that too leaves the run the same.

    Args:
        state: where to start from.
        patches: what to train on, on the device of `state`.
        recipe: how.
        loss: what is made small.

    Raises:
        PriorError: the loss or its gradient is no longer finite.
        SettingsError: ``E-PROCESSES``, another process of the run has ended.
    """
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)
    parameters = [p for p in state.denoiser.parameters() if p.requires_grad]
    every = _STEPS_ON_GPU if patches.device.type == "cuda" else 1
    starts = range(state.images, recipe.images, recipe.batch)
    shares = (range(start + rank, start + recipe.batch, world) for start in starts)
    parts = (share[part :: recipe.accumulate] for share in shares for part in range(recipe.accumulate))
    timed = _Timed(patches.batches(parts))
    losses: list[Tensor] = []
    norms: list[Tensor] = []
    for number in range(1, len(starts) + 1):
        share_losses = [_backward(state.denoiser, next(timed), recipe, loss) for _ in range(recipe.accumulate)]
        losses.append(_sum_over_processes(parameters, torch.stack(share_losses).sum(), world))
        norms.append(nn.utils.clip_grad_norm_(parameters, recipe.clip))
        look = number % every == 0 or number == len(starts)
        mean, norm = (_mean(losses), _largest(norms)) if look else (0.0, 0.0)
        if not norm < float("inf"):
            found = f"loss {mean:g} after {state.images} images"
            raise PriorError("E-DIVERGED", found, mend="Lower fit.rate.")
        rate = learning_rate(recipe, state.images)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.images += recipe.batch
        _follow(state, recipe)
        if look:
            yield Step(images=state.images, loss=mean, rate=rate, gradient=norm, waiting=timed.share())
            losses, norms = [], []
            timed.begin()


class _Timed:
    """Batches, and the share of the time in which the next one was waited for."""

    def __init__(self, batches: Iterator[Batch | None]) -> None:
        self.batches = batches
        self.begin()

    def begin(self) -> None:
        """Look from here on; what the consumer of a step did with it is not the loop's time."""
        self.waited, self.since = 0.0, time.monotonic()

    def __next__(self) -> Batch | None:
        begun = time.monotonic()
        batch = next(self.batches)
        self.waited += time.monotonic() - begun
        return batch

    def share(self) -> float:
        """Of the time since `begin`."""
        return self.waited / max(time.monotonic() - self.since, 1e-9)


def _mean(values: list[Tensor]) -> float:
    return float(torch.stack(values).mean())


def _largest(values: list[Tensor]) -> float:
    return float(torch.stack(values).max())


def _backward(denoiser: nn.Module, batch: Batch | None, recipe: FitRecipe, loss_of: Loss) -> Tensor:
    """This process' share of the batch's mean loss; gradients are left in the parameters."""
    if batch is None:
        return torch.zeros((), device=next(denoiser.parameters()).device)
    losses = loss_of(denoiser, batch.x, batch.condition, sigma=batch.sigma, state=batch.state)
    loss = losses.sum() / recipe.batch
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def _sum_over_processes(parameters: list[nn.Parameter], loss: Tensor, world: int) -> Tensor:
    if world == 1:
        return loss
    flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in parameters])
    sum_over_processes(flat, loss)
    for parameter, part in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)
    return loss


def _follow(state: FitState, recipe: FitRecipe) -> None:
    """Move the running mean of the weights; early on its half-life is a tenth of what was seen, to forget the start."""
    half_life = min(recipe.ema, 0.1 * state.images)
    keep = 0.5 ** (recipe.batch / half_life)
    with torch.no_grad():
        torch._foreach_lerp_(list(state.average.parameters()), list(state.denoiser.parameters()), 1.0 - keep)
