"""The optimiser: Muon for weights that are matrices, Adam for the rest.

A convolution's gradient is nearly of low rank: a few directions carry most of it, and Adam follows those. Muon (Jordan
et al. 2024, github.com/KellerJordan/Muon) replaces the averaged gradient by the nearest orthogonal matrix, so that
every direction moves alike. The step is scaled as Adam's is (Liu et al. 2025, arXiv 2502.16982, eq. 4), so one learning
rate serves both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["MOMENTS", "Muon", "orthogonal"]

MOMENTS = frozenset({"momentum", "first", "second", "steps"})  # what is kept for a parameter
_MOMENTUM = 0.95
_BETAS = (0.9, 0.99)
_EPSILON = 1e-8
_ADAM_RMS = 0.2  # size of Adam's usual update, which Muon's is brought to
_SMALLEST_SIDE = 8  # a matrix with a shorter side has too few directions to be worth it


def orthogonal(matrix: Tensor) -> Tensor:
    """Nearly ``U Vᵀ`` of ``matrix = U S Vᵀ``: singular values between about 0.7 and 1.2.

    Five steps of the quintic Newton-Schulz iteration with the coefficients of Jordan et al. 2024.

    Args:
        matrix: (..., m, n), of any size; zero stays zero.
    """
    tall = matrix.shape[-2] > matrix.shape[-1]
    tiny = torch.finfo(matrix.dtype).tiny
    largest = matrix.abs().amax((-2, -1), keepdim=True).clamp_min(tiny)  # the squares of small numbers vanish
    x = (matrix.mT if tall else matrix) / largest
    x = x / x.square().sum((-2, -1), keepdim=True).sqrt().clamp_min(tiny)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    answer: Tensor = x.mT if tall else x
    return answer


class Muon(Optimizer):
    """Muon for every parameter that is a matrix once its kernel is flattened, Adam for biases and thin matrices.

    Args:
        parameters: what is trained.
        lr: learning rate of both.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient; `closure` is there for the interface and must be None."""
        if closure is not None:
            raise NotImplementedError("Muon takes no closure")
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if _is_matrix(parameter):
                    alike[parameter.shape].append(parameter)
                else:
                    parameter.sub_(group["lr"] * _adam(parameter.grad, self.state[parameter]))
            for parameters in alike.values():
                updates = _muon([(p.grad, self.state[p]) for p in parameters if p.grad is not None])
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.sub_(group["lr"] * update)


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim > 1 and min(parameter.shape[0], parameter[0].numel()) >= _SMALLEST_SIDE


def _muon(alike: Sequence[tuple[Tensor, dict[str, Any]]]) -> list[Tensor]:
    """Updates of parameters of one shape, all at once: many small products in a row would leave a GPU idle."""
    gradients = [gradient for gradient, _ in alike]
    momenta = [state.setdefault("momentum", torch.zeros_like(gradient)) for gradient, state in alike]
    torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
    ahead = torch.stack([g.lerp(m, _MOMENTUM).flatten(1) for g, m in zip(gradients, momenta, strict=True)])  # Nesterov
    direction = orthogonal(ahead)
    update = _ADAM_RMS * max(direction.shape[1:]) ** 0.5 * direction
    return [each.reshape(gradient.shape) for each, gradient in zip(update, gradients, strict=True)]


def _adam(gradient: Tensor, state: dict[str, Any]) -> Tensor:
    """Kingma & Ba 2015, algorithm 1."""
    first: Tensor = state.setdefault("first", torch.zeros_like(gradient))
    second: Tensor = state.setdefault("second", torch.zeros_like(gradient))
    state["steps"] = state.get("steps", 0) + 1
    first.lerp_(gradient, 1 - _BETAS[0])
    second.lerp_(gradient.square(), 1 - _BETAS[1])
    mean, variance = (m / (1 - b ** state["steps"]) for m, b in zip((first, second), _BETAS, strict=True))
    update: Tensor = mean / (variance.sqrt() + _EPSILON)
    return update
