"""Laws of the optimiser: directions move alike, and what is no matrix moves as Adam moves it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medidiff.training.muon import Muon, orthogonal


def normal(generator, *size):
    return torch.randn(size, generator=generator)


def is_nearly_orthogonal(matrix):
    singular = torch.linalg.svdvals(matrix)
    assert singular.min() > 0.6
    assert singular.max() < 1.25


@pytest.mark.parametrize("size", [(8, 8), (12, 40), (40, 12), (48, 1296)])
def test_singular_values_become_about_one_and_directions_stay(generator, size):
    matrix = normal(generator, *size)
    answer = orthogonal(matrix)
    is_nearly_orthogonal(answer)
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    turned = u.mT @ answer @ vt.mT
    assert (turned - turned.diagonal().diag()).abs().max() < 1e-3


def test_a_scaled_matrix_is_not_orthogonal(generator):
    with pytest.raises(AssertionError):
        is_nearly_orthogonal(normal(generator, 12, 40))


@pytest.mark.parametrize("size", [1e-30, 1e-4, 1e30])
def test_the_size_of_a_gradient_does_not_matter(size, generator):
    matrix = normal(generator, 12, 40)
    torch.testing.assert_close(orthogonal(matrix), orthogonal(size * matrix), rtol=1e-3, atol=1e-3)


def test_a_gradient_of_zero_moves_nothing():
    weight = nn.Parameter(torch.ones(8, 8))
    weight.grad = torch.zeros(8, 8)
    Muon([weight], lr=0.1).step()
    assert torch.equal(weight.detach(), torch.ones(8, 8))


def moved(kind, start, gradients, **options):
    weight = nn.Parameter(start.clone())
    optimizer = kind([weight], lr=0.01, **options)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach()


def test_biases_move_as_adam_moves_them(generator):
    start, gradients = normal(generator, 6), [normal(generator, 6) for _ in range(5)]
    torch.testing.assert_close(
        moved(Muon, start, gradients), moved(torch.optim.Adam, start, gradients, betas=(0.9, 0.99))
    )


def test_kernels_do_not_move_as_adam_moves_them(generator):
    start, gradients = normal(generator, 8, 8, 3, 3, 3), [normal(generator, 8, 8, 3, 3, 3) for _ in range(5)]
    ours, adam = moved(Muon, start, gradients), moved(torch.optim.Adam, start, gradients, betas=(0.9, 0.99))
    assert not torch.allclose(ours, adam, atol=1e-3)


def test_steps_are_of_adams_usual_size(generator):
    start, gradient = torch.zeros(48, 48, 3, 3, 3), normal(generator, 48, 48, 3, 3, 3)
    rms = moved(Muon, start, [gradient]).square().mean().sqrt()
    assert 0.1 < rms / 0.01 < 0.3


def test_a_saved_state_goes_on_alike(generator, tmp_path):
    start, gradients = normal(generator, 8, 9), [normal(generator, 8, 9) for _ in range(4)]
    weight = nn.Parameter(start.clone())
    optimizer = Muon([weight], lr=0.01)
    for gradient in gradients[:2]:
        weight.grad = gradient
        optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    again = Muon([weight], lr=0.01)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for gradient in gradients[2:]:
        weight.grad = gradient
        again.step()
    torch.testing.assert_close(weight.detach(), moved(Muon, start, gradients))
