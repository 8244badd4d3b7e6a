"""The diffusion core: noise levels, denoisers, samplers and the wrappers round a denoiser.

A denoiser answers ``D(x, σ, condition) = E[x₀ | x_σ, y]``. A *sigma grid* says which levels to visit, a *start* gives
the state at the first, a *sampler* walks down. Guidance, consistency, tiling and turning are denoiser in, denoiser out,
so no sampler knows of them::

    denoiser = Consistent(Tiled(ClassifierFree(network, scale), tile, halo), y, operator, sigma_y, spread)
    sigmas = karras(8, 0.01, 1.0)
    draws = heun(denoiser, bridge(condition, sigmas[0], generators), sigmas, condition=condition)

Needs torch only. The network itself is in `medidiff.diffusion.backbone`.
"""

from medidiff.diffusion.condition import Condition, observe, observe_contrast
from medidiff.diffusion.consistency import Consistent, project
from medidiff.diffusion.counting import Counted
from medidiff.diffusion.denoiser import Denoiser, Preconditioned, diffuse, expand_sigma, restoration_loss
from medidiff.diffusion.draws import generators_for, noise_like
from medidiff.diffusion.forward import ddim, ddpm_alpha_bar, ddpm_ancestral, ddpm_betas, q_sample
from medidiff.diffusion.guidance import ClassifierFree
from medidiff.diffusion.plan import STARTS, Plan
from medidiff.diffusion.samplers import SAMPLERS, Sampler, ancestral, dpmpp_2m, euler, heun
from medidiff.diffusion.sigma import GRIDS, cosine, from_alpha_bar, karras, log_linear
from medidiff.diffusion.sparing import Sparing, is_out_of_memory
from medidiff.diffusion.start import bridge, from_noise, informed
from medidiff.diffusion.tiling import Tiled, cheapest_tile
from medidiff.diffusion.turning import Turned, worst_last

__all__ = [
    "GRIDS",
    "SAMPLERS",
    "STARTS",
    "ClassifierFree",
    "Condition",
    "Consistent",
    "Counted",
    "Denoiser",
    "Plan",
    "Preconditioned",
    "Sampler",
    "Sparing",
    "Tiled",
    "Turned",
    "ancestral",
    "bridge",
    "cheapest_tile",
    "cosine",
    "ddim",
    "ddpm_alpha_bar",
    "ddpm_ancestral",
    "ddpm_betas",
    "diffuse",
    "dpmpp_2m",
    "euler",
    "expand_sigma",
    "from_alpha_bar",
    "from_noise",
    "generators_for",
    "heun",
    "informed",
    "is_out_of_memory",
    "karras",
    "log_linear",
    "noise_like",
    "observe",
    "observe_contrast",
    "project",
    "q_sample",
    "restoration_loss",
    "worst_last",
]
