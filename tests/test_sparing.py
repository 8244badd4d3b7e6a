"""Memory that runs out at any call of the network costs time, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medidiff.diffusion import Sparing, is_out_of_memory
from medidiff.errors import InputError
from medidiff.restore import denoise
from medidiff.volume import Geometry, Volume
from tests.small_prior import small_prior

SHAPE = (132, 8, 8)  # long enough to be cut with the halo of the small prior


class Failing:
    """A denoiser for which the memory runs out at some of its calls, or whenever it is shown too much."""

    def __init__(self, denoiser, *, calls=(), most=None, error=None):
        self.denoiser, self.calls, self.most, self.count = denoiser, calls, most, 0
        self.error = error or torch.OutOfMemoryError("CUDA out of memory")
        self.shown = []

    def __call__(self, x, sigma, condition=None):
        self.count += 1
        self.shown.append(x[0, 0].numel())
        if self.count in self.calls or (self.most is not None and self.shown[-1] > self.most):
            raise self.error
        return self.denoiser(x, sigma, condition)


def blur(x, sigma, condition=None):
    """A denoiser that sees two neighbours on each side."""
    return torch.nn.functional.avg_pool3d(x, (5, 1, 1), stride=1, padding=(2, 0, 0), count_include_pad=False)


def image() -> torch.Tensor:
    return torch.randn(1, 1, 64, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_smaller_tiles_give_the_same_answer(error):
    whole = blur(image(), torch.ones(1))
    failing = Failing(blur, most=2000, error=error)
    sparing = Sparing(failing, (64, 8, 8), voxels=10**6, halo=2)
    torch.testing.assert_close(sparing(image(), torch.ones(1)), whole, rtol=0, atol=1e-6)
    assert failing.shown[0] == 64 * 64
    assert max(failing.shown[-2:]) <= 2000
    assert sparing.decisions
    sparing(image(), torch.ones(1))
    assert max(failing.shown[-2:]) <= 2000  # what was learnt is not forgotten


def test_too_small_a_halo_would_give_another_answer():
    whole = blur(image(), torch.ones(1))
    sparing = Sparing(Failing(blur, most=2000), (64, 8, 8), voxels=10**6, halo=0)
    assert (sparing(image(), torch.ones(1)) - whole).abs().max() > 1e-2


def test_where_no_tile_is_small_enough_the_scan_is_refused():
    failing = Failing(blur, most=1)
    with pytest.raises(InputError, match="E-MEMORY"):
        Sparing(failing, (64, 8, 8), voxels=10**6, halo=2)(image(), torch.ones(1))
    assert failing.shown[-1] == failing.shown[-2] == min(failing.shown)  # tried twice


def test_another_error_is_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="shapes"):
        Sparing(Failing(blur, calls=[1], error=RuntimeError("shapes differ")), (64, 8, 8), voxels=10**6, halo=2)(
            image(), torch.ones(1)
        )
    assert not is_out_of_memory(ValueError("out of memory"))


def test_memory_that_runs_out_at_any_of_the_first_twenty_calls_changes_nothing_of_a_result():
    prior = small_prior()
    data = np.random.default_rng(0).random(SHAPE, np.float32) * 100 + 500
    scan = Volume(data, Geometry.regular(SHAPE), "MR")
    how = {"noise_level": 20.0, "draws": 5, "steps": 4, "seed": 1}
    plain = denoise(scan, prior=prior, **how)
    for call in range(1, 21):
        prior = small_prior()
        network = prior.denoiser.forward
        calls = [0]

        def forward(*args, network=network, calls=calls, call=call, **more):
            calls[0] += 1
            if calls[0] == call:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return network(*args, **more)

        prior.denoiser.forward = forward
        spared = denoise(scan, prior=prior, **how)
        assert calls[0] > 21, "the memory never ran out"
        assert any("the memory ran out" in sentence for sentence in spared.provenance.decisions)
        scale = float(np.abs(plain.mean.data).max())
        assert np.abs(spared.mean.data - plain.mean.data).max() <= 1e-5 * scale
        assert np.abs(spared.std.data - plain.std.data).max() <= 1e-5 * scale
