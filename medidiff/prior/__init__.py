"""Priors: what a training run leaves behind, and what every task starts from."""

from medidiff.prior.card import Card
from medidiff.prior.fitting import bundled_for, fitting_prior
from medidiff.prior.listing import Listed, list_priors
from medidiff.prior.prior import BUNDLED, DEFAULT_PRIOR, Prior, build_denoiser, prior_sha256

__all__ = [
    "BUNDLED",
    "DEFAULT_PRIOR",
    "Card",
    "Listed",
    "Prior",
    "build_denoiser",
    "bundled_for",
    "fitting_prior",
    "list_priors",
    "prior_sha256",
]
