"""A prior's denoiser as a `torch.export` archive (.pt2): one file that torch runs without any code of ours.

The graph is that of `Preconditioned`, preconditioning included, with the condition's maps as plain tensors. Sizes are
free: any number of images, and any multiples of 4 voxels along each axis, which is what the network folds.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from medidiff.diffusion import Condition, Preconditioned
from medidiff.errors import PriorError
from medidiff.io.files.atomic import make_folder, write_file
from medidiff.prior import Prior

__all__ = ["INPUTS", "SMALLEST", "DenoiserGraph", "deviation", "example", "export_denoiser", "write_archive"]

INPUTS = ("x", "sigma", "image", "certainty", "noise", "stairs")
"""Arguments of the exported denoiser, in order; all but `sigma` (B,) are (B, 1, I, J, K)."""

SMALLEST = 8
"""Voxels along an axis at least."""

_LARGEST = 2048
_PARITY = 1e-5  # relative to the largest answer
_CHECKED = ((1, (8, 12, 16)), (2, (20, 8, 12)), (3, (16, 16, 8)))  # images and sizes that are tried before writing


class DenoiserGraph(nn.Module):
    """``E[x₀ | x_σ, y]`` of plain tensors, with the parts of a `Condition` as arguments.

    Args:
        denoiser: in evaluation mode.
    """

    def __init__(self, denoiser: Preconditioned) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(
        self, x: Tensor, sigma: Tensor, image: Tensor, certainty: Tensor, noise: Tensor, stairs: Tensor
    ) -> Tensor:
        """(B, 1, I, J, K) from maps of that shape and σ (B,), infinity allowed; `stairs` is `image` for denoising."""
        answer: Tensor = self.denoiser(x, sigma, Condition(image, certainty, noise, stairs))
        return answer


def example(images: int, shape: Sequence[int], *, seed: int = 0) -> tuple[Tensor, ...]:
    """Arguments of an exported denoiser that no map of is constant; the first image at σ = ∞."""
    chance = torch.Generator().manual_seed(seed)
    x, image, stairs = (torch.rand((images, 1, *shape), generator=chance) for _ in range(3))
    certainty = 0.05 + 0.95 * torch.rand((images, 1, *shape), generator=chance)
    noise = 0.01 + 0.1 * torch.rand((images, 1, *shape), generator=chance)
    sigma = torch.cat([torch.tensor([torch.inf]), torch.linspace(0.1, 1.0, max(images - 1, 0))])
    return torch.where(torch.isinf(sigma).reshape(-1, 1, 1, 1, 1), 0.0, x), sigma, image, certainty, noise, stairs


def export_denoiser(prior: Prior) -> torch.export.ExportedProgram:
    """The graph of a prior's denoiser, for all sizes."""
    fold, batch = int(prior.denoiser.backbone.multiple), torch.export.Dim("B", min=1, max=4096)  # type: ignore[arg-type]
    sides = {
        axis: fold * torch.export.Dim(name, min=SMALLEST // fold, max=_LARGEST // fold)
        for axis, name in zip((2, 3, 4), ("I", "J", "K"), strict=True)
    }
    maps = {0: batch} | sides
    shapes = {name: {0: batch} if name == "sigma" else maps for name in INPUTS}
    graph = DenoiserGraph(prior.denoiser.float().cpu()).eval()
    with torch.enable_grad():  # without gradients a CPU goes slab by slab, which is no single graph
        program = torch.export.export(graph, example(2, (16, 20, 12)), dynamic_shapes=shapes)
    program.example_inputs = None  # they would be kept as a pickle
    return program


def deviation(run: nn.Module, prior: Prior, images: int, shape: Sequence[int]) -> float:
    """Largest difference between a loaded graph and the prior, as a share of the prior's largest answer."""
    told = example(images, shape, seed=images)
    with torch.no_grad():
        wanted = DenoiserGraph(prior.denoiser)(*told)
        found = run(*told)
    return float((found - wanted).abs().max() / wanted.abs().max())


def write_archive(prior: Prior, out: Path) -> float:
    """Write a fine prior's denoiser to a .pt2 file; returns how far it is from the prior, relative to its answers.

    Raises:
        PriorError: ``E-PARITY``, the archive does not answer as the prior does; nothing is written.
        OutputError: the system refuses.
    """
    program = export_denoiser(prior)
    stream = io.BytesIO()
    told = {"card.json": prior.card.to_json(), "inputs.json": json.dumps(INPUTS)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about channels-last weights: right on a CPU
        torch.export.save(program, stream, extra_files=told)
    stream.seek(0)
    loaded = torch.export.load(stream).module()
    worst = max(deviation(loaded, prior, images, shape) for images, shape in _CHECKED)
    if not worst <= _PARITY:
        raise PriorError("E-PARITY", f"answers that differ by {worst:.2g}", wanted=f"at most {_PARITY:g}")
    make_folder(out.absolute().parent)
    write_file(out, lambda path: path.write_bytes(stream.getvalue()))
    return worst
