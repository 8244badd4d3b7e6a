"""The physics of a scan: operators A, noise N, and the measurement `y = N(A x)`."""

from medidiff.physics.agreement import damped_agreement, least_agreement
from medidiff.physics.degradation import Degradation
from medidiff.physics.noise import Noise, NoiseKind, rician_correction
from medidiff.physics.profile import ProfileName, Slices
from medidiff.physics.separable import (
    Axis,
    Separable,
    box_profile,
    boxes,
    gaussian_profile,
    identity,
    nothing,
    resample,
    sampling,
    slices,
)

__all__ = [
    "Axis",
    "Degradation",
    "Noise",
    "NoiseKind",
    "ProfileName",
    "Separable",
    "Slices",
    "box_profile",
    "boxes",
    "damped_agreement",
    "gaussian_profile",
    "identity",
    "least_agreement",
    "nothing",
    "resample",
    "rician_correction",
    "sampling",
    "slices",
]
