"""Training of one alternative for so many CPU-seconds: resumable, its loss curve kept, its weights written at the end.

What happens in a step depends on the seed, on the number of heads seen and on the share of the time that is over; with
a budget of heads instead of seconds it does not depend on the clock, and a resumed run is the unbroken one bit for bit.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from alternative_models import Alternative, Move, build
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medidiff.errors import PriorError, SettingsError
from medidiff.io.files.atomic import make_folder, write_file
from medidiff.training.chance import Chance
from medidiff.training.checkpoint import read_checkpoint
from medidiff.training.run import Finished, Step, Validated

__all__ = ["About", "Fit", "Plan", "Started", "clock", "load_alternative", "seeded", "train_alternative"]

_SECONDS_BETWEEN_CHECKPOINTS = 120.0
_SEEN_SEED = 10**9  # added to the seed of heads for the choices of a step, and twice that for those of draws
_WARMUP = 0.02  # share of a part's time over which its rate rises
_COOLDOWN = 0.4  # share of it, at its end, over which the rate falls to 0
_POINT = 10  # steps of a point of the loss curve


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is.

    Args:
        name: kind of `alternative_models.KINDS`.
        shape: of a head.
        seed: of first weights and all choices.
        widths: of the networks; empty for the usual.
        seconds: CPU time to train for, heads included.
        images: heads to train on at most.
    """

    name: str
    shape: tuple[int, ...]
    seed: int = 0
    widths: tuple[int, ...] = ()
    seconds: float = math.inf
    images: float = math.inf

    def __post_init__(self) -> None:
        if not (min(self.seconds, self.images) > 0 and min(self.seconds, self.images) < math.inf):
            found = f"{self.seconds} seconds and {self.images} heads"
            raise SettingsError("E-SETTING", found, wanted="one of them above 0", attribute="--seconds")

    def to_dict(self) -> dict[str, Any]:
        """As parameters of an MLflow run; a bound that is not there is left out."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value not in ((), math.inf)}

    def share(self, seconds: float, images: int) -> float:
        """How much of the run is over; at least 1 when all is."""
        return max(seconds / self.seconds, images / self.images)


@dataclass(frozen=True, slots=True)
class About:
    """What the weights of an alternative say of themselves.

    Args:
        kind: of `alternative_models.KINDS`.
        shape: of a head.
        widths: of the networks; empty for the usual.
        weights: trained.
        drawing: of these, how many a draw needs.
        images: heads seen.
        seconds: of CPU time.
        curve: points of the loss curve: heads seen, seconds, part, mean loss.
    """

    kind: str
    shape: tuple[int, ...]
    widths: tuple[int, ...]
    weights: int
    drawing: int
    images: int
    seconds: float
    curve: tuple[tuple[int, float, str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """The run is ready to go, from `images` seen so far."""

    recipe: Plan
    images: int
    scans: int
    data_fingerprint: str


class Source(Protocol):
    """Where heads come from: `medidiff.training.heads.Heads`."""

    heads: Sequence[object]

    def state(self, number: int) -> tuple[Tensor, object]:
        """(C, I, J, K) head of this number, the image first, and what an atlas expects of it."""
        ...


@dataclass
class Fit:
    """All that a run carries from step to step.

    Args:
        plan: of the run.
        device: where to compute.
    """

    plan: Plan
    device: str = "cpu"
    images: int = 0
    seconds: float = 0.0
    curve: list[list[Any]] = field(default_factory=list)
    window: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with seeded(self.plan.seed, 0, self.device):
            self.model: Alternative = build(self.plan.name, self.plan.shape, self.plan.widths)
        if self.plan.name != "vae":  # whose code is a view of its features, which has to be in the plain order
            self.model = self.model.to(memory_format=torch.channels_last_3d)
        self.average: Alternative = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.optimizers = {
            part: torch.optim.Adam(self.model.part(part).parameters(), lr=rate, betas=self.model.betas)
            for part, rate in self.model.rates.items()
        }

    def step(self, x: Tensor, share: float) -> tuple[float, float, float]:
        """Move each part once; the last loss, the largest norm of a gradient, and the last rate.

        Raises:
            PriorError: ``E-DIVERGED``, a loss or a gradient is not finite.
        """
        self.model.train()
        loss, largest, rate = 0.0, 0.0, 0.0
        with seeded(self.plan.seed + _SEEN_SEED, self.images, self.device):
            for move in self.model.losses(x, share):
                loss, norm, rate = self._moved(move)
                largest = max(largest, norm)
        return loss, largest, rate

    def _moved(self, move: Move) -> tuple[float, float, float]:
        optimizer, part = self.optimizers[move.part], self.model.part(move.part)
        optimizer.zero_grad(set_to_none=True)
        move.loss.backward()  # type: ignore[no-untyped-call]
        norm = float(nn.utils.clip_grad_norm_(part.parameters(), self.model.clip))
        loss = float(move.loss.detach())
        if not math.isfinite(loss + norm):
            found = f"{self.plan.name}: loss {loss:g} of the {move.part} after {self.images} heads"
            raise PriorError("E-DIVERGED", found, mend="Report it as the outcome, or try another seed.")
        rate = self.model.rates[move.part] * _ramp(move.share, cooled=self.model.cooled)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        self._follow(move.part)
        self.window.setdefault(move.part, []).append(loss)
        return loss, norm, rate

    @torch.no_grad()
    def _follow(self, name: str) -> None:
        """Move the running mean of a part's weights; its half-life is a tenth of the steps that the part made."""
        now, average = self.model.part(name), self.average.part(name)
        steps = max(float(state["step"]) for state in self.optimizers[name].state.values())
        torch._foreach_lerp_(list(average.parameters()), list(now.parameters()), 1 - 0.5 ** (1 / (0.1 * steps)))
        for kept, buffer in zip(self.average.buffers(), self.model.buffers(), strict=True):
            kept.copy_(buffer)

    def point(self) -> dict[str, float]:
        """End a point of the loss curve: the mean loss of each part since the last one."""
        means = {part: sum(losses) / len(losses) for part, losses in self.window.items()}
        self.curve += [[self.images, round(self.seconds, 2), part, mean] for part, mean in means.items()]
        self.window.clear()
        return means

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, as `read_checkpoint` wants them."""
        moments = {
            f"{part}.{number}": state
            for part, optimizer in self.optimizers.items()
            for number, state in optimizer.state_dict()["state"].items()
        }
        return {
            "network": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": {"state": moments},
            "images": self.images,
            "seconds": self.seconds,
            "curve": self.curve,
            "window": self.window,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`.

        Raises:
            PriorError: ``E-CHECKPOINT``, it is of another network.
        """
        try:
            self.model.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            for part, optimizer in self.optimizers.items():
                named = {key.rpartition("."): each for key, each in state["optimizer"]["state"].items()}
                moments = {int(number): each for (owner, _, number), each in named.items() if owner == part}
                optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
            self.images, self.seconds = int(state["images"]), float(state["seconds"])
            self.curve, self.window = list(state["curve"]), dict(state["window"])
        except (LookupError, RuntimeError, ValueError, TypeError) as error:
            mend = "Train into another folder."
            raise PriorError("E-CHECKPOINT", "a checkpoint of another network", mend=mend) from error

    def about(self) -> About:
        """What there is to say of the weights."""
        numbers = [sum(p.numel() for m in of for p in m.parameters()) for of in ([self.model], self.model.drawing())]
        curve = tuple((int(a), float(b), str(c), float(d)) for a, b, c, d in self.curve)
        plan = self.plan
        return About(plan.name, plan.shape, plan.widths, *numbers, self.images, round(self.seconds, 1), curve)


def _ramp(share: float, *, cooled: bool) -> float:
    """Share of the learning rate: up in a line, level, and, where wanted, down in a line to 0."""
    return max(min(1.0, (share + 1e-3) / _WARMUP, (1.0 - share) / _COOLDOWN if cooled else 1.0), 0.0)


@contextmanager
def seeded(seed: int, number: int, device: str = "cpu") -> Iterator[None]:
    """Torch's own random numbers from a seed and a number, on a device; outside, they are as they were."""
    first = Chance(seed, number).below(2**62)
    with torch.random.fork_rng(devices=[] if device == "cpu" else [0]), torch.device(device):
        torch.manual_seed(first)
        yield


def clock(device: str) -> Callable[[], float]:
    """Seconds of this processor, or, where a GPU computes, of the clock on the wall."""
    return time.process_time if device == "cpu" else time.monotonic


def train_alternative(
    plan: Plan, heads: Source, out: Path, *, fingerprint: str, device: str = "cpu"
) -> Iterator[Started | Step | Validated | Finished]:
    """Train, or go on with what the folder holds; weights and their description are written at the end.

    Args:
        plan: of the run.
        heads: varied heads by number.
        out: folder for checkpoint, weights and their JSON.
        fingerprint: of the heads.
        device: where to compute; on a GPU the time is counted by the clock, since its work is not the processor's.

    Yields:
        What `medidiff.tracking.track` takes: `Started`, a `Step` each, `Validated` with the losses of all parts at each
        point of the curve, and `Finished`.

    Raises:
        SettingsError: ``E-RUN``, the folder holds another run.
        PriorError: ``E-CHECKPOINT`` or ``E-DIVERGED``.
    """
    fit, path = Fit(plan, device), out / f"{plan.name}.checkpoint.pt"
    identity = hashlib.sha256(repr((plan.name, plan.shape, plan.seed, plan.widths)).encode()).hexdigest()
    if path.is_file():
        saved = read_checkpoint(path)
        if (saved["recipe"], saved["data"]) != (identity, fingerprint):
            raise SettingsError("E-RUN", "the folder holds another run, or one on other heads", mend="Name another.")
        fit.load_state_dict(saved["state"])
    make_folder(out)

    def keep() -> None:
        whole = {"recipe": identity, "data": fingerprint, "state": fit.state_dict()}
        write_file(path, lambda partial: torch.save(whole, partial))

    yield Started(plan, fit.images, len(heads.heads), fingerprint)
    saved_at = time.monotonic()
    while (share := plan.share(fit.seconds, fit.images)) < 1:
        began = clock(device)()
        numbers = range(fit.images, fit.images + fit.model.batch)
        x = torch.stack([heads.state(number)[0][:1] for number in numbers])
        loss, norm, rate = fit.step(x, share)
        fit.images += fit.model.batch
        fit.seconds += clock(device)() - began
        last = plan.share(fit.seconds, fit.images) >= 1
        means = fit.point() if last or fit.images // fit.model.batch % _POINT == 0 else {}
        if last or time.monotonic() - saved_at > _SECONDS_BETWEEN_CHECKPOINTS:
            keep()
            saved_at = time.monotonic()
        yield Step(images=fit.images, loss=loss, rate=rate, gradient=norm)
        if means:
            yield Validated(fit.images, {f"loss_{part}": mean for part, mean in means.items()}, {})
    yield Finished(fit.images, save_alternative(fit.average, fit.about(), out))


def save_alternative(average: Alternative, about: About, out: Path) -> Path:
    """Write ``KIND.safetensors`` and ``KIND.json``; returns the path of the latter."""
    tensors = {name: tensor.contiguous() for name, tensor in average.state_dict().items()}
    told, card = json.dumps(dataclasses.asdict(about)), out / f"{about.kind}.json"
    write_file(card.with_suffix(".safetensors"), lambda partial: save_file(tensors, partial, {"about": told}))
    write_file(card, lambda partial: partial.write_text(told + "\n", encoding="utf-8"))
    return card


def load_alternative(path: Path) -> tuple[About, Alternative]:
    """The generator in a weights file.

    Raises:
        PriorError: ``E-WEIGHTS``, it is none.
    """
    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {})["about"])
        about = About(**told | {name: tuple(told[name]) for name in ("shape", "widths", "curve")})
        model = build(about.kind, about.shape, about.widths)
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, LookupError, ValueError, TypeError, RuntimeError) as error:
        raise PriorError(
            "E-WEIGHTS", "not the weights of an alternative", mend="Train it again.", file=path.name
        ) from error
    return about, model.requires_grad_(False).eval()
