"""What activation checkpointing saves and costs: `python validation/activations.py RECIPE [--batch N] [--steps N]`.

Steps of training are made in a fresh process with it and in one without, on noise in patches of the recipe's size.
Said are what the network keeps for the way back, the memory that the process takes more at its peak, convolutions' own
workspace included, and the time of a step. On a CPU; a GPU keeps the same tensors.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import resource
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor, nn

from medidiff.diffusion.backbone import Backbone, BackboneShape
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.training.recipe import Recipe, read_recipe


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one step: MiB that are kept for the way back, MiB that the process takes more at its peak, and seconds."""

    kept: float
    peak: float
    seconds: float


def built(shape: BackboneShape, side: int, batch: int, *, recompute: bool) -> tuple[Backbone, Tensor, Tensor]:
    """A network, a batch of patches of a side, and their diffusion levels."""
    network = Backbone(Preconditioned.channels, shape)
    network.recompute = recompute
    return network, torch.randn(batch, Preconditioned.channels, side, side, side), torch.zeros(batch)


def kept(network: Backbone, x: Tensor, level: Tensor) -> int:
    """Bytes of all tensors but weights that a forward pass keeps for the way back."""
    own = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    held: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            held.setdefault(place, tensor)  # held, so that no other tensor takes its place
        return tensor

    def enters(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for each in inputs:
            note(each)

    blocks = [block for part in (network.down, network.middle, network.up) for block in part]
    hooks = [block.register_forward_pre_hook(enters) for block in blocks] if network.recompute else []
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        network(x, level)
    for hook in hooks:
        hook.remove()
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


def cost(shape: BackboneShape, side: int, batch: int, *, recompute: bool, steps: int = 1) -> Cost:
    """Of a step in a process of its own."""
    ours, theirs = multiprocessing.get_context("fork").Pipe(duplex=False)
    words = (theirs, shape, side, batch, recompute, steps)
    child = multiprocessing.get_context("fork").Process(target=_measure, args=words)
    child.start()
    theirs.close()
    found: Cost = ours.recv()
    child.join()
    return found


def _measure(told: Connection, shape: BackboneShape, side: int, batch: int, recompute: bool, steps: int) -> None:
    torch.set_num_threads(1)  # a pool of threads does not live on in a forked process
    network, x, level = built(shape, side, batch, recompute=recompute)
    before, seconds = _peak(), []
    for _ in range(steps):
        begun = time.perf_counter()
        network(x, level).square().mean().backward()
        seconds.append(time.perf_counter() - begun)
    peak = (_peak() - before) / 2**10
    told.send(Cost(kept(network, x, level) / 2**20, peak, statistics.median(seconds)))


def _peak() -> int:
    """KiB that the process has taken at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path, help="of a fine prior")
    parser.add_argument("--batch", type=int, help="patches a step, instead of the recipe's")
    parser.add_argument("--steps", type=int, default=3, help="of which the median time is told")
    options = parser.parse_args()
    recipe: Recipe = read_recipe(options.recipe)
    shape, side = BackboneShape(recipe.model.channels, recipe.model.blocks), recipe.fit.patch
    batch = options.batch or recipe.fit.batch
    plain, saving = (cost(shape, side, batch, recompute=on, steps=options.steps) for on in (False, True))
    print(f"{recipe.name}: {batch} patches of {side} voxels, one thread, median of {options.steps} steps")
    for name, each in (("as usual", plain), ("activation_checkpointing", saving)):
        print(f"{name:>26}: kept {each.kept:6.0f} MiB, peak {each.peak:6.0f} MiB, {each.seconds:6.2f} s a step")
    ratios = [getattr(saving, each.name) / getattr(plain, each.name) for each in dataclasses.fields(Cost)]
    print(f"{'ratio':>26}: kept {ratios[0]:6.2f}    , peak {ratios[1]:6.2f}    , {ratios[2]:6.2f}")


if __name__ == "__main__":
    main()
